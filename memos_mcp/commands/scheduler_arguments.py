"""The words of `scheduler`. As `arguments`, which puts them together: none of the modules that do the work."""

from __future__ import annotations

import argparse

from memos_mcp.commands.command import Command


def _run(p: argparse.ArgumentParser) -> None:
    p.add_argument("--dry-run", action="store_true", help="say what would be moved, and why; nothing is changed")


def _log(p: argparse.ArgumentParser) -> None:
    p.add_argument("--limit", type=int, default=50, metavar="N", help="so many moves, the last ones (default 50)")


def _undo(p: argparse.ArgumentParser) -> None:
    p.add_argument("number", type=int, metavar="N", help="the number of the move, as scheduler log shows it")


SCHEDULER = Command(
    "scheduler",
    "see and steer what moves memories between tiers by itself",
    parts=(
        Command("show", "say which parts are on, what they may use, and what was done last", "scheduler:show"),
        Command("run", "plan now, and carry it out", "scheduler:run", _run),
        Command("log", "list what was moved, each with its reason", "scheduler:log", _log),
        Command("undo", "take back one move", "scheduler:undo", _undo),
    ),
)
