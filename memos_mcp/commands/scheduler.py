"""`scheduler show`, `run`, `log`, `undo`: what moves memories between tiers by itself, seen and steered by a person.

What must stay true: every move is shown with its reason, and one that can be taken back with the command that does it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from memos_mcp.commands.session import DONE, Session

HEADINGS = ("number", "when", "part", "to", "memories", "outcome", "why")
MINUTE_CHARS = len("2026-01-01T12:00")
SHOWN = 3  # ids of one move


def show(session: Session, options: argparse.Namespace) -> int:
    state = session.call("scheduler", {})
    if session.screen.as_json:
        session.screen.json(state)
        return DONE
    screen = session.screen
    facts = [
        *((f"part {name}", value) for name, value in state["parts"].items()),
        *((name, f"{budget['used']:,.1f} of {budget['of']:,.1f}") for name, budget in state["budgets"].items()),
        *((f"memories: {name}", f"{count:,}") for name, count in state["levels"].items()),
        ("expected next", f"{state['predicted']:,} memories"),
        ("quiet hours", "now" if state["quiet"] else "not now"),
        ("last run", state["last_run"] or "not since the daemon started"),
    ]
    screen.table(("", ""), facts)
    for remark in state["remarks"]:
        screen.remark(remark)
    if state["recent"]:
        screen.line("")
        screen.table(HEADINGS, [_row(move) for move in state["recent"]])
    return DONE


def run(session: Session, options: argparse.Namespace) -> int:
    with session.screen.bar("scheduler") as bar:
        done = session.call("run_scheduler", {"dry_run": options.dry_run}, bar)
    if session.screen.as_json:
        session.screen.json(done)
    elif not done["moves"]:
        session.screen.line("nothing is to be moved" if options.dry_run else "nothing was to be moved")
    else:
        session.screen.table(HEADINGS, [_row(move) for move in done["moves"]])
        if options.dry_run:
            session.screen.remark("nothing was changed")
    return DONE


def log(session: Session, options: argparse.Namespace) -> int:
    found = session.call("scheduler_log", {"limit": options.limit})
    if session.screen.as_json:
        session.screen.json(found)
    elif not found["moves"]:
        session.screen.remark("nothing was moved yet: memos-mcp scheduler run --dry-run says what would be")
    else:
        session.screen.table(HEADINGS, [_row(move) for move in found["moves"]])
    return DONE


def undo(session: Session, options: argparse.Namespace) -> int:
    done = session.call("undo_move", {"number": options.number})
    if session.screen.as_json:
        session.screen.json(done)
    else:
        session.screen.line(f"{done['outcome']}: {_ids(done['ids'])} in {done['to']}")
    return DONE


def _row(move: dict[str, Any]) -> Sequence[object]:
    at = move["at"][:MINUTE_CHARS] if move["at"] else ""
    where = f"{_ids(move['ids'])} of {move['cube']}" if move["cube"] else _ids(move["ids"])
    return (move["number"] or "", at, move["part"], move["to"], where, move["outcome"], move["reason"])


def _ids(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
