"""How memory changes state: the whole rule, as a table.

States and their order are those of the MemOS papers: a memory is generated, activated by use, and ends up merged into
another one, archived, or expired. `frozen` is not a state: it holds any state against change. Erasing is possible from
every state and leaves none.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from cubes import Memory, State
from engine.errors import Conflict, Frozen


class Step(StrEnum):
    """What can happen to a memory."""

    USE = "use"
    ARCHIVE = "archive"
    SUPERSEDE = "supersede"
    MERGE = "merge"
    EXPIRE = "expire"
    RESTORE = "restore"
    ERASE = "erase"


G, A, M, R, E = State.GENERATED, State.ACTIVATED, State.MERGED, State.ARCHIVED, State.EXPIRED

TABLE: dict[tuple[State, Step], State | None] = {
    (G, Step.USE): A,
    (G, Step.ARCHIVE): R,
    (G, Step.SUPERSEDE): R,
    (G, Step.MERGE): M,
    (G, Step.EXPIRE): E,
    (G, Step.RESTORE): G,
    (G, Step.ERASE): None,
    (A, Step.USE): A,
    (A, Step.ARCHIVE): R,
    (A, Step.SUPERSEDE): R,
    (A, Step.MERGE): M,
    (A, Step.EXPIRE): E,
    (A, Step.RESTORE): A,
    (A, Step.ERASE): None,
    (M, Step.USE): M,
    (M, Step.EXPIRE): E,
    (M, Step.RESTORE): A,
    (M, Step.ERASE): None,
    (R, Step.USE): R,
    (R, Step.ARCHIVE): R,
    (R, Step.SUPERSEDE): R,
    (R, Step.EXPIRE): E,
    (R, Step.RESTORE): A,
    (R, Step.ERASE): None,
    (E, Step.USE): E,
    (E, Step.RESTORE): A,
    (E, Step.ERASE): None,
}
"""(state, step) -> the new state; None: gone. What is not in the table is not allowed."""

LIVE = frozenset({State.GENERATED, State.ACTIVATED})
"""The states in which a memory is recalled unless more is asked for."""

_HELD_BY_FREEZING = frozenset(Step) - {Step.USE}

_REMEDIES = {
    State.MERGED: "it was fused into another memory; restore it first (`memos-mcp restore`), which undoes the fusion",
    State.ARCHIVED: "it is archived; restore it first (`memos-mcp restore`)",
    State.EXPIRED: "it has expired; restore it first (`memos-mcp restore`)",
}


def after(memory: Memory, step: Step) -> State | None:
    """The state of `memory` after `step`; None: it is gone.

    Raises:
        Frozen: the memory is held against change.
        Conflict: the table has no such move; the message says what would make it possible.
    """
    if memory.governance.frozen and step in _HELD_BY_FREEZING:
        raise Frozen(f"{memory.id} is frozen: nothing changes it until it is no longer frozen")
    try:
        return TABLE[(memory.state, step)]
    except KeyError:
        remedy = _REMEDIES.get(memory.state, "its state does not allow that")
        raise Conflict(f"{memory.id} cannot {step.value}: {remedy}") from None


def state_after(memory: Memory, step: Step) -> State:
    """As `after`, for steps that leave a memory."""
    state = after(memory, step)
    assert state is not None, f"{step} leaves no memory"
    return state


def is_expired(memory: Memory, now: datetime) -> bool:
    """Whether its time has passed, whether or not a sweep has noticed it yet."""
    expires_at = memory.governance.expires_at
    return expires_at is not None and expires_at <= now
