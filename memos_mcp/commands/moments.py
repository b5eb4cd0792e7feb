"""`cube snapshot`, `snapshots`, `history`, `diff`, `rollback`: cubes in time.

`cube diff` compares two moments of one cube, which the daemon does, or two files, which needs neither daemon nor store.
What must stay true: a cube is rolled back only when a person has seen what that changes and said yes, or `--yes` was
given.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Failure, Session, Usage
from memos_mcp.terminal import interactive

NOW = "now"
MARK = "@"
BUNDLE = ".memcube"
SHOWN_CHARS = 60


def snapshot(session: Session, options: argparse.Namespace) -> int:
    arguments: dict[str, Any] = {"cube": options.cube, "name": options.name, **given(options, "reason")}
    if options.drop:
        arguments["drop"] = True
    result = session.tool("snapshot", arguments, "snapshot")
    if session.screen.as_json:
        session.screen.json(result)
    elif options.drop:
        session.screen.line(f"the name {options.name} is gone; the memories are as they were")
    else:
        session.screen.line(f"{options.cube} as it is now ({result['made']['at'][:19]}) is called {options.name}")
    return DONE


def snapshots(session: Session, options: argparse.Namespace) -> int:
    result = session.tool("snapshot", {"cube": options.cube}, "snapshots")
    if session.screen.as_json:
        session.screen.json({"cube": result["cube"], "snapshots": result["snapshots"]})
    else:
        rows = [(row["name"], row["at"][:19], row["author"], row["reason"]) for row in result["snapshots"]]
        session.screen.table(("snapshot", "at", "by", "reason"), rows)
    return DONE


def history(session: Session, options: argparse.Namespace) -> int:
    result = session.tool("history", {"cube": options.cube, "limit": 200}, "history")
    if session.screen.as_json:
        session.screen.json(result)
        return DONE
    rows = [
        (row["version"], row["at"][:19], row["change"], row["author"], row["reason"] or row["description"])
        for row in result["versions"]
    ]
    session.screen.table(("version", "at", "change", "by", "reason or description"), rows)
    if result["older"]:
        session.screen.remark(f"{result['older']:,} older versions are not shown")
    return DONE


# --- differences ----------------------------------------------------------------------------------------------------


def diff(session: Session, options: argparse.Namespace) -> int:
    files = [text.endswith(BUNDLE) for text in (options.before, options.after)]
    if all(files):
        from memos_mcp.commands.bundles import diff_of_files

        result = diff_of_files(session, options)
    elif any(files):
        raise Usage("cube diff takes two files, or two moments of one cube: `cube pack` makes a file of a moment")
    else:
        result = _diff_of_moments(session, options.before, options.after)
    if session.screen.as_json:
        session.screen.json(result)
    else:
        show_diff(session, result)
    return DONE


def _diff_of_moments(session: Session, before: str, after: str) -> dict[str, Any]:
    cube, then = _moment(before)
    other, now = _moment(after)
    if cube != other:
        raise Usage(f"cube diff compares two moments of one cube, not {cube!r} with {other!r}: pack both into files")
    return dict(session.call("diff", {"cube": cube, "before": then, "after": now}))


def _moment(text: str) -> tuple[str, str]:
    """The cube and the moment in `CUBE@MOMENT`; without a mark, the present."""
    cube, _, moment = text.partition(MARK)
    if not cube or (MARK in text and not moment):
        raise Usage(f"{text!r} is no moment of a cube: write CUBE, CUBE@SNAPSHOT or CUBE@2026-05-17T14:30")
    return cube, moment or NOW


def show_diff(session: Session, result: Mapping[str, Any]) -> None:
    """What differs, one line each."""
    rows = [("header", "", field["name"], _change(field)) for field in result["header"]]
    rows += [("added", id, "", "") for id in result["added"]]
    rows += [("removed", id, "", "") for id in result["removed"]]
    rows += [
        ("changed", row["id"], field["name"], _change(field)) for row in result["changed"] for field in row["fields"]
    ]
    if rows:
        session.screen.table(("", "memory", "field", "before → after"), rows)
    else:
        session.screen.line("no difference")


def _change(field: Mapping[str, Any]) -> str:
    return f"{_short(field['before'])} → {_short(field['after'])}"


def _short(value: object) -> str:
    text = "nothing" if value in (None, "", [], ()) else str(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


# --- rolling back ---------------------------------------------------------------------------------------------------

OUTCOMES = {
    "restored": "say again what they said then",
    "archived": "did not exist then: archived",
    "expired": "lived then, but their time has passed",
    "unfused": "in other cubes live again",
    "header": "fields of the cube itself are as they were then",
    "kept": "frozen: stay as they are",
    "gone": "erased since, or let go: do not come back",
}


def rollback(session: Session, options: argparse.Namespace) -> int:
    wanted = {"cube": options.cube, "to": options.to, **given(options, "reason")}
    preview = session.tool("restore", {**wanted, "dry_run": True} if options.dry_run else wanted, "compare")
    if preview["confirm"] is None:
        _show(session, preview["rollback"])
        return DONE
    if not options.yes:
        if not interactive():
            raise Failure(f"{_sum(preview['rollback'])}; nothing was changed: say --yes to do it")
        session.screen.remark(_sum(preview["rollback"]))
        if not session.screen.ask(f"Roll {options.cube!r} back to {preview['rollback']['to'][:19]}?"):
            raise Failure("nothing was changed")
    done = session.tool("restore", {**wanted, "confirm": preview["confirm"]}, "rollback")
    _show(session, done["rollback"])
    return DONE


def _sum(rollback: Mapping[str, Any]) -> str:
    counts = [f"{len(rollback[name]):,} {words}" for name, words in OUTCOMES.items() if rollback[name]]
    return "; ".join(counts) or "no memory differs, nor the description or licence; rules stay as they are now"


def _show(session: Session, rollback: Mapping[str, Any]) -> None:
    if session.screen.as_json:
        session.screen.json(rollback)
        return
    session.screen.line(_sum(rollback))
    if rollback["done"]:
        session.screen.line(f"to undo it: memos-mcp cube rollback {rollback['cube']} --to {rollback['before']}")
    else:
        session.screen.line("nothing was changed")
