"""Which memories a model is given: the pinned ones of the cubes, and those that answer the last turn.

All come oldest first, so that what was said later stands later, and the same memories always give the same text.
Nothing here knows tokens or tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cubes import MemCube, Memory, Relation, Sensitivity
from engine.governance.access import clearance
from engine.lifecycle.states import LIVE, is_expired
from engine.model_operations import Chat, MemoryUse
from engine.operations import MAX_QUERY_CHARS, MAX_RECALL_TOKENS, MIN_RECALL_TOKENS, Caller, Recall
from engine.parts import Parts, readable_cubes
from engine.recalling import Recalling
from engine.scheduler.heat import Event
from engine.vault import queries

MAX_PINNED = 200  # of one cube
RIVAL = (Relation.SUPERSEDES, Relation.CONFLICTS_WITH)


@dataclass(frozen=True, slots=True)
class Gathered:
    """`recalled` with their scores. `cube`: the one that holds all pinned memories, if one does."""

    pinned: tuple[Memory, ...] = ()
    recalled: tuple[tuple[Memory, float], ...] = ()
    remarks: tuple[str, ...] = ()
    cube: str | None = None


class Gathering:
    """Keeps, for each cube, which memories are pinned, until the cube changes."""

    def __init__(self, parts: Parts, recalling: Recalling) -> None:
        self._parts, self._recalling = parts, recalling
        self._pinned: dict[str, tuple[int, tuple[Memory, ...]]] = {}
        self._lock = threading.Lock()

    def gather(self, request: Chat, caller: Caller, max_tokens: int, *, private: bool = False) -> Gathered:
        """The memories for the last turn of a chat, of at most `max_tokens` words-as-tokens. `private`: no secrets.

        Raises:
            NotFound: a cube that was named does not exist for this caller.
        """
        use = request.memory
        if use is None:
            return Gathered()
        cubes = readable_cubes(self._parts, use.cubes, caller)
        pinned = [memory for cube in cubes for memory in self.pinned(cube, caller)]
        found = self._recalling.recall(self._query(request, use, max_tokens), caller, event=Event.GIVEN)
        known = {memory.id for memory in pinned}
        recalled = [(item.memory, item.score) for item in found.memories if item.memory.id not in known]
        remarks = [found.degraded] if found.degraded else []
        if private:
            held = sum(_is_secret(memory) for memory in (*pinned, *(memory for memory, _ in recalled)))
            pinned = [memory for memory in pinned if not _is_secret(memory)]
            recalled = [(memory, score) for memory, score in recalled if not _is_secret(memory)]
            if held:
                remarks.append(f"{held} secret memories were not sent to another machine")
        recalled.sort(key=lambda item: _told(item[0]))
        owners = {memory.cube for memory in pinned}
        return Gathered(
            tuple(sorted(pinned, key=_told)),
            tuple(self._complete(recalled)),
            tuple(remarks),
            next(iter(owners)) if len(owners) == 1 else None,
        )

    def still(self, gathered: Gathered, caller: Caller) -> Gathered:
        """What of it still holds and is still the caller's to see: time may pass before a reply has its turn."""
        memories = [*gathered.pinned, *(memory for memory, _ in gathered.recalled)]
        cubes = {cube.name: clearance(caller.principal, cube) for cube in readable_cubes(self._parts, None, caller)}
        now = self._parts.clock.now()
        with self._parts.vault.reading() as connection:
            records = queries.records(connection, [memory.id for memory in memories])

        def holds(memory: Memory) -> bool:
            record = records.get(memory.id)
            if record is None or record.memory.version != memory.version or record.memory.cube != memory.cube:
                return False
            present = record.memory
            seen = cubes.get(present.cube, frozenset())
            return present.state in LIVE and not is_expired(present, now) and present.governance.sensitivity in seen

        pinned = tuple(memory for memory in gathered.pinned if holds(memory))
        recalled = tuple(item for item in gathered.recalled if holds(item[0]))
        gone = len(memories) - len(pinned) - len(recalled)
        if not gone:
            return gathered
        remark = f"{gone} memories changed before the reply began and were left out"
        return replace(gathered, pinned=pinned, recalled=recalled, remarks=(*gathered.remarks, remark))

    def _query(self, request: Chat, use: MemoryUse, max_tokens: int) -> Recall:
        bound = min(max(max_tokens, MIN_RECALL_TOKENS), MAX_RECALL_TOKENS)
        said = request.turns[-1].content[-MAX_QUERY_CHARS:]
        return Recall(query=said, cubes=use.cubes, limit=use.limit, max_tokens=bound)

    def _complete(self, recalled: Sequence[tuple[Memory, float]]) -> list[tuple[Memory, float]]:
        """The recalled memories with their lineage, by which rivals are known."""
        with self._parts.vault.reading() as connection:
            records = queries.records(connection, [memory.id for memory, _ in recalled])
            whole = {memory.id: memory for memory in queries.complete(connection, records.values())}
        return [(whole[memory.id], score) for memory, score in recalled if memory.id in whole]

    def pinned(self, cube: MemCube, caller: Caller) -> tuple[Memory, ...]:
        """The pinned memories of a cube that the caller may see, oldest first."""
        seen = clearance(caller.principal, cube)
        now = self._parts.clock.now()
        return tuple(
            memory
            for memory in self._all_pinned(cube.name)
            if memory.governance.sensitivity in seen and not is_expired(memory, now)
        )

    def _all_pinned(self, cube: str) -> tuple[Memory, ...]:
        with self._parts.vault.reading() as connection:
            revision = queries.cube_revision(connection, cube)
            with self._lock:
                known = self._pinned.get(cube)
            if known is not None and known[0] == revision:
                return known[1]
            found = [record.memory for record in queries.live(connection, cube) if record.memory.governance.pinned]
        pinned = tuple(sorted(found, key=_told)[-MAX_PINNED:])
        with self._lock:
            self._pinned[cube] = (revision, pinned)
        return pinned

    def committed(self, cubes: Iterable[str]) -> None:
        """Let go of what was kept of these cubes: they changed, and it may hold what was erased."""
        with self._lock:
            for cube in cubes:
                self._pinned.pop(cube, None)


def rivals(memory: Memory) -> frozenset[str]:
    """The memories that this one supersedes or contradicts."""
    return frozenset(edge.source for edge in memory.lineage if edge.relation in RIVAL)


def _told(memory: Memory) -> tuple[object, ...]:
    return (memory.descriptive.occurred_at or memory.descriptive.created_at, memory.descriptive.created_at, memory.id)


def _is_secret(memory: Memory) -> bool:
    return memory.governance.sensitivity is Sensitivity.SECRET
