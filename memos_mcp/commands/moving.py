"""`tier move` and `train`: memories from one tier to another; `tier work` and `cancel`: what goes on for them.

What must stay true: a training that a person stops with Ctrl-C leaves nothing; what goes on in the background is named
with what shows it and what ends it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from memos_mcp.commands.adapters import about, judged_in_words, refused
from memos_mcp.commands.chatting import model_source
from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, FAILED, Session, Usage
from memos_mcp.commands.tiers import memories_in_words

HEADINGS = ("id", "cube", "what", "state", "asked", "")
MINUTE_CHARS = len("2026-01-01T12:00")


def with_model(session: Session, options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """A request that may have a model loaded."""
    model = model_source(options.model or session.settings.model)
    return {**given(options, *names), "model": model, "offline": session.settings.offline}


def move(session: Session, options: argparse.Namespace) -> int:
    if bool(options.ids) == (options.cube is not None):
        raise Usage("tier move takes either ids of memories or --cube CUBE")
    request = with_model(session, options, "ids", "cube", "to", "dry_run", "background", "reason")
    with session.screen.bar("move") as bar:
        done = session.call("move", request, bar)
    if session.screen.as_json:
        session.screen.json(done)
        return DONE
    _tell_of_move(session, done, rehearsal=options.dry_run is True)
    return DONE


def _tell_of_move(session: Session, done: dict[str, Any], *, rehearsal: bool) -> None:
    screen, many = session.screen, memories_in_words(len(done["moved"]))
    if done["work"] is not None:
        _tell_of_work(session, done["work"])
    if rehearsal:
        screen.line(f"{many} would be moved to {done['to']}; nothing was changed")
    elif done["moved"]:
        be, alone = "is" if len(done["moved"]) == 1 else "are", " alone" if done["to"] == "plaintext" else ""
        screen.line(f"{many} {be} in {done['to']}{alone} now")
    elif done["work"] is None:
        screen.line(f"nothing was moved to {done['to']}")
    if done["adapter"] is not None:
        screen.line(about(done["adapter"]))
    if done["skipped"] and len({row["why"] for row in done["skipped"]}) == 1 and not done["moved"]:
        screen.remark(f"skipped {memories_in_words(len(done['skipped']))}: {done['skipped'][0]['why']}")
    elif done["skipped"]:
        screen.table(("skipped", "why"), [(row["id"], row["why"]) for row in done["skipped"]])
    for remark in done["remarks"]:
        screen.remark(remark)


def _tell_of_work(session: Session, id: str) -> None:
    session.screen.line(f"it goes on in the background as {id}")
    session.screen.remark(f"memos-mcp tier work shows how far it is; memos-mcp tier cancel {id} ends it")


def train(session: Session, options: argparse.Namespace) -> int:
    names = ("cube", "ids", "rank", "steps", "seed", "activate", "background", "reason")
    with session.screen.bar("train") as bar:
        done = session.call("train", with_model(session, options, *names), bar)
    if session.screen.as_json:
        session.screen.json(done)
    elif done["work"] is not None:
        _tell_of_work(session, done["work"]["id"])
    else:
        session.screen.line(about(done["adapter"]))
        for line in judged_in_words(done["adapter"]):
            session.screen.remark(line)
    return FAILED if done["adapter"] is not None and refused(done["adapter"]) else DONE


def work(session: Session, options: argparse.Namespace) -> int:
    rows = session.call("work", {})["work"]
    if session.screen.as_json:
        session.screen.json({"work": rows})
        return DONE
    if not rows:
        session.screen.remark("there is no work: trainings in the background stand here")
        return DONE
    session.screen.table(HEADINGS, [_row(row) for row in rows])
    return DONE


def _row(row: dict[str, Any]) -> Sequence[object]:
    asked = row["asked_at"][:MINUTE_CHARS].replace("T", " ")
    return row["id"], row["cube"], row["what"], row["state"], asked, work_in_words(row)


def work_in_words(row: dict[str, Any]) -> str:
    """How far it is, or what became of it."""
    if row["told"]:
        return str(row["told"])
    if row["message"] and row["total"]:
        return f"{row['done'] / row['total']:.0%}: {row['message']}"
    return str(row["message"] or row["reason"])


def cancel(session: Session, options: argparse.Namespace) -> int:
    row = session.call("cancel_work", {"id": options.id})
    if session.screen.as_json:
        session.screen.json(row)
    else:
        session.screen.line(f"{row['what']} of {row['cube']} is {row['state']}")
    return DONE
