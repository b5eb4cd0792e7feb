"""What the command line asks for about the scheduler: how it stands, a run, its log, taking a move back.

Synchronous functions from an asked request to a JSON value, as those of `control`, which runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from engine.operations import Caller
from memos_mcp import render_scheduler
from memos_mcp.wire import Arguments, Whole, parse

if TYPE_CHECKING:
    from engine.memos import MemOS

MOST_LOGGED = 1_000
MOST_ROWS = 2**53


class Asked(Protocol):
    """One request while it runs."""

    params: Mapping[str, Any]
    caller: Caller

    def progress(self, done: float, total: float | None, message: str) -> None: ...


class RunArguments(Arguments):
    dry_run: bool = False


class LogArguments(Arguments):
    limit: Annotated[Whole, Field(ge=1, le=MOST_LOGGED)] = 50


class UndoArguments(Arguments):
    number: Annotated[Whole, Field(ge=1, le=MOST_ROWS)]


def show(memos: MemOS, asked: Asked) -> object:
    return render_scheduler.standing(memos.scheduler(asked.caller))


def run(memos: MemOS, asked: Asked) -> object:
    wanted = parse(RunArguments, asked.params)
    done = memos.run_scheduler(asked.caller, wanted.dry_run, asked.progress)
    return {"moves": [render_scheduler.move(made) for made in done]}


def log(memos: MemOS, asked: Asked) -> object:
    rows = memos.scheduler_log(asked.caller, parse(LogArguments, asked.params).limit)
    return {"moves": [render_scheduler.move(made) for made in rows]}


def undo(memos: MemOS, asked: Asked) -> object:
    return render_scheduler.move(memos.undo_move(parse(UndoArguments, asked.params).number, asked.caller))


METHODS: dict[str, Callable[[MemOS, Asked], object]] = {
    "scheduler": show,
    "run_scheduler": run,
    "scheduler_log": log,
    "undo_move": undo,
}
