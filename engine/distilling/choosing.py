"""Which memories an adapter may be trained on.

Those that hold now and that everyone who may read the cube may see, and never the whole of a long text, since its
pieces are there. Memories that were named must all be such; of a whole cube those are taken that are. Nothing else of
the cube is shown to the model that trains, not even to hold it still: an adapter is made of its sources alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cubes import Action, Memory, Relation, Sensitivity
from engine.errors import Invalid, NotFound, TooLarge
from engine.governance.access import no_memory, require
from engine.lifecycle.states import LIVE, is_expired
from engine.operations import Caller
from engine.parts import Parts, check_ids, readable_cubes, seen_in
from engine.vault import queries

MOST_MEMORIES = 1_000  # of one adapter
DISPUTED = "it contradicts another one, and which of them holds is not for an adapter to say"


def unfit(memory: Memory, now: datetime) -> str | None:
    """Why nothing may be trained on a memory; None: it may."""
    if memory.state not in LIVE:
        return f"it is {memory.state.value}"
    if is_expired(memory, now):
        return "it has expired"
    if memory.governance.sensitivity is not Sensitivity.NORMAL:
        return f"it is {memory.governance.sensitivity.value}, and adapters answer whoever may read the cube"
    if memory.descriptive.parts:
        return "it is the whole of a long text: its pieces are trained on"
    return None


def chosen(parts: Parts, cube: str, ids: Sequence[str], caller: Caller) -> tuple[Memory, ...]:
    """The memories of a cube to train on: those named, else all that may be, oldest first.

    Raises:
        NotFound: no such cube or memory for this caller.
        NotAllowed: the caller may not change the cube.
        Invalid: one that was named may not be trained on, or there is none at all.
        TooLarge: there are too many for one adapter.
    """
    (header,) = readable_cubes(parts, [cube], caller)
    require(caller.principal, header, Action.WRITE)
    wanted = check_ids(ids)
    found = {memory.id: memory for memory in _all_of(parts, cube, wanted)}
    now, seen = parts.clock.now(), seen_in(parts, cube, caller)
    for id in wanted:
        if id not in found or found[id].cube != cube or found[id].governance.sensitivity not in seen:
            raise NotFound(no_memory(id))
        if (why := unfit(found[id], now)) is not None:
            raise Invalid(f"{id} cannot be trained on: {why}; leave it out")
    fit = [memory for memory in found.values() if unfit(memory, now) is None]
    return _bounded(cube, fit if wanted else _undisputed(fit))


def remaining(parts: Parts, cube: str, ids: Sequence[str]) -> tuple[Memory, ...]:
    """Those of these memories that may be trained on still, oldest first."""
    now = parts.clock.now()
    found = _all_of(parts, cube, ids) if ids else []
    return tuple(sorted((one for one in found if one.cube == cube and unfit(one, now) is None), key=_told))


def _all_of(parts: Parts, cube: str, ids: Sequence[str]) -> list[Memory]:
    with parts.vault.reading() as connection:
        records = queries.records(connection, ids).values() if ids else queries.live(connection, cube)
        return queries.complete(connection, records)


def _disputed(memories: Sequence[Memory]) -> set[str]:
    """The ids of those that contradict one another: which of them holds is not for an adapter to say."""
    there = {memory.id for memory in memories}
    edges = [
        (memory.id, edge.source)
        for memory in memories
        for edge in memory.lineage
        if edge.relation is Relation.CONFLICTS_WITH and edge.source in there
    ]
    return {id for edge in edges for id in edge}


def disputed_of(parts: Parts, cube: str) -> dict[str, int]:
    """The memories of a whole cube that are left out for no other reason than `DISPUTED`, with their versions."""
    now = parts.clock.now()
    fit = [memory for memory in _all_of(parts, cube, ()) if unfit(memory, now) is None]
    out = _disputed(fit)
    return {memory.id: memory.version for memory in fit if memory.id in out}


def _undisputed(memories: Sequence[Memory]) -> list[Memory]:
    out = _disputed(memories)
    return [memory for memory in memories if memory.id not in out]


def _bounded(cube: str, memories: Sequence[Memory]) -> tuple[Memory, ...]:
    if not memories:
        raise Invalid(
            f"cube {cube!r} holds nothing to train on: memories that are live, of normal sensitivity and undisputed"
        )
    if len(memories) > MOST_MEMORIES:
        raise TooLarge(
            f"{len(memories)} memories are too many for one adapter: name at most {MOST_MEMORIES} by their ids"
        )
    return tuple(sorted(memories, key=_told))


def _told(memory: Memory) -> tuple[object, ...]:
    return (memory.descriptive.occurred_at or memory.descriptive.created_at, memory.descriptive.created_at, memory.id)
