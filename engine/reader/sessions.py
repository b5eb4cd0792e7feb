"""Which session each turn of a conversation belongs to, and where in it.

A conversation sent again must come out the same, so nothing here is random: a session is named by the source that the
caller gave, else by what its first turns say.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cubes import digest
from engine.operations import Turn

SILENCE = timedelta(hours=6)  # a longer one begins another session
STEP_BACK = timedelta(days=1)  # clocks disagree by minutes; turns of an earlier day are another conversation
NAMING_TURNS = 2  # enough to tell conversations apart that begin with the same greeting
DIGEST_CHARS = 16


def sessions(turns: Sequence[Turn], source: str | None) -> list[tuple[str, int]]:
    """For each turn the id of its session and its position there, from 0."""
    result: list[tuple[str, int]] = []
    starts = _starts(turns)
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(turns)
        name = _name(turns[start:end], source, first=number == 0)
        result += [(name, position) for position in range(end - start)]
    return result


def _starts(turns: Sequence[Turn]) -> list[int]:
    starts = [0]
    last: datetime | None = None
    for number, turn in enumerate(turns):
        if turn.at is None:
            continue
        if last is not None and not -STEP_BACK < turn.at - last <= SILENCE:
            starts.append(number)
        last = turn.at
    return starts


def _name(turns: Sequence[Turn], source: str | None, *, first: bool) -> str:
    if source is None:
        told = [[turn.role, turn.name, turn.content, turn.at] for turn in turns[:NAMING_TURNS]]
        return "s_" + digest(told).partition(":")[2][:DIGEST_CHARS]
    began = turns[0].at
    return source if first or began is None else f"{source}#{began:%Y-%m-%dT%H:%M}"
