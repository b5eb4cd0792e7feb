"""recall, from request to memories with reasons.

    the cubes that the caller may read → their indexes → query vector → ranking → the vault's own rows → token budget →
    usage → reply, which says what it lacked

The index proposes and the vault disposes: what is returned was read from the vault after ranking, and what was
archived, erased or has expired in the meantime is left out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from cubes import Memory, Sensitivity
from engine.embeddings import CHANGING, SYSTEM
from engine.errors import Invalid
from engine.governance.access import clearance
from engine.index.cube_index import CubeIndex, Searched
from engine.lifecycle.states import LIVE, Step, is_expired, state_after
from engine.operations import (
    MAX_QUERY_CHARS,
    MAX_RECALL_TOKENS,
    MIN_RECALL_TOKENS,
    Caller,
    Recall,
    Recalled,
    Recollection,
)
from engine.parts import Parts, readable_cubes, shown
from engine.reader.checks import check_text
from engine.recall import Candidate, Ranking, fit, meaning, rank
from engine.scheduler.heat import Event
from engine.vault import Transaction, past, queries
from engine.vault.connection import Connection
from engine.vault.rows import Record

MAX_LIMIT = 100
PAST_INDEXES_KEPT = 4  # indexes of past moments, kept for the next question about the same one
USES_KEPT = 256  # uses written to the vault together
FEW_MATCHES = 5  # the ranking is asked for some more than wanted, in case the vault disagrees
Told = Callable[[Event, Sequence[str], Caller, NDArray[np.float32] | None], object]
"""Hears what was used, by whom, and the vector of what was asked."""


class Recalling:
    """Recall, with the two things that it keeps between calls: indexes of past moments, and uses not yet written."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._past: OrderedDict[tuple[str, datetime, int], CubeIndex] = OrderedDict()
        self._past_lock = threading.Lock()
        self._uses: dict[str, tuple[int, datetime]] = {}
        self._uses_lock = threading.Lock()
        self.when_used: Told = lambda event, ids, caller, vector: None

    def recall(self, request: Recall, caller: Caller, *, use: bool = True, event: Event = Event.FOUND) -> Recalled:
        """The memories that answer the query best; `event` is what happens to them by it.

        Raises:
            Invalid, TooLarge: a bound was passed.
            NotFound: a cube that was named does not exist for this caller.
        """
        check(request)
        parts = self._parts
        cubes = readable_cubes(parts, request.cubes, caller)
        now = request.as_of or parts.clock.now()
        indexes, lacking = self._indexes([cube.name for cube in cubes], request.as_of)
        seen = {cube.name: clearance(caller.principal, cube) for cube in cubes}
        # Ranked is what exists for the caller, as if there were nothing else: also what words are worth depends on it.
        searched: dict[str, Searched] = {name: index.showing(seen[name]) for name, (index, _) in indexes.items()}
        vector, lacks_vectors = self._vector(meaning(request.query, searched), indexes)
        ranking = rank(request, searched, vector, now)
        found = self._read(ranking, request, now, caller, seen)
        kept = fit(found, request.limit, request.max_tokens)
        if use and request.as_of is None:
            self._note([item.memory for item in kept.memories], now)
            self.when_used(event, [item.memory.id for item in kept.memories], caller, vector)
        reasons = [reason for reason in (lacks_vectors, *lacking) if reason]
        return Recalled(
            memories=kept.memories,
            omitted=kept.omitted,
            degraded="; ".join(reasons) or None,
            nothing_relevant=ranking.nothing_relevant or not found,
        )

    def _indexes(
        self, names: Sequence[str], as_of: datetime | None
    ) -> tuple[dict[str, tuple[CubeIndex, str]], list[str]]:
        found: dict[str, tuple[CubeIndex, str]] = {}
        lacking = []
        for name in names:
            if as_of is not None:
                found[name] = (self._past_index(name, as_of), self._parts.embeddings.active or "")
                lacking += self._let_go(name, as_of)
                continue
            ready = self._parts.indexes.ready(name)
            if ready is None:
                lacking.append(f"the index of cube {name!r} is still being built: ask again in a moment")
            else:
                found[name] = ready
        return found, lacking

    def _let_go(self, cube: str, as_of: datetime) -> list[str]:
        with self._parts.vault.reading() as connection:
            kept = past.horizon(connection, past.moment_at(connection, cube, as_of))
        if kept is None:
            return []
        return [f"versions before {kept.isoformat()} were let go by retention in cube {cube!r}: this may lack some"]

    def _past_index(self, cube: str, as_of: datetime) -> CubeIndex:
        key = (cube, as_of, self._parts.vault.revision)
        with self._past_lock:
            if key in self._past:
                self._past.move_to_end(key)
                return self._past[key]
        with self._parts.vault.reading() as connection:
            records = list(past.records_at(connection, past.moment_at(connection, cube, as_of)).values())
        index = self._parts.indexes.temporary(records)
        with self._past_lock:
            self._past[key] = index
            while len(self._past) > PAST_INDEXES_KEPT:
                self._past.popitem(last=False)
        return index

    def forget_past(self) -> None:
        """Drop the indexes of past moments: they may hold what was erased."""
        with self._past_lock:
            self._past.clear()

    def _vector(
        self, query: str, indexes: dict[str, tuple[CubeIndex, str]]
    ) -> tuple[NDArray[np.float32] | None, str | None]:
        found = self._parts.embeddings.query(query)
        degraded = self._parts.embeddings.degraded()
        if found is None:
            return None, degraded
        fingerprint, vector = found
        if any(embedder != fingerprint for _, embedder in indexes.values()):
            return None, CHANGING
        return vector, degraded

    def _read(
        self,
        ranking: Ranking,
        request: Recall,
        now: datetime,
        caller: Caller,
        seen: Mapping[str, frozenset[Sensitivity]],
    ) -> list[Recollection]:
        wanted = ranking.candidates[: request.limit + FEW_MATCHES]
        ids = [candidate.id for candidate in wanted]
        with self._parts.vault.reading() as connection:
            if request.as_of is not None:
                records = _as_of(connection, wanted, request.as_of)
            else:
                records = queries.records(connection, ids)
            present = queries.places_of(connection, ids) if request.as_of is not None else {}
            found = [records[id] for id in ids if id in records and _sees(seen, records[id], present.get(id))]
            if request.detailed:
                whole = shown(connection, _complete(connection, found, request.as_of), caller)
            else:
                whole = [record.memory for record in found]
        memories = {memory.id: memory for memory in whole}
        return [
            Recollection(memories[candidate.id], candidate.score, candidate.why)
            for candidate in wanted
            if candidate.id in memories and self._wanted(memories[candidate.id], candidate, request, now)
        ]

    def _wanted(self, memory: Memory, candidate: Candidate, request: Recall, now: datetime) -> bool:
        if memory.cube != candidate.cube:
            return False
        return request.include_archived or (memory.state in LIVE and not is_expired(memory, now))

    # --- usage -------------------------------------------------------------------------------------------------

    def _note(self, memories: Sequence[Memory], now: datetime) -> None:
        with self._uses_lock:
            for memory in memories:
                count, _ = self._uses.get(memory.id, (0, now))
                self._uses[memory.id] = (count + 1, now)

    @property
    def uses_due(self) -> bool:
        return len(self._uses) >= USES_KEPT

    def write_uses(self) -> None:
        """Write what was used to the vault; first use activates a memory."""
        with self._uses_lock:
            uses, self._uses = self._uses, {}
        if not uses:
            return

        def job(transaction: Transaction) -> None:
            records = transaction.records(uses)
            fresh = [record for record in records.values() if _activates(record.memory)]
            cubes = sorted({record.memory.cube for record in fresh})
            for cube in cubes:
                ids = [record.memory.id for record in fresh if record.memory.cube == cube]
                revision = transaction.audit("activate", cube, ids)
                transaction.activate([record for record in fresh if record.memory.cube == cube], revision)
            transaction.use({id: uses[id] for id in records})

        self._parts.vault.write(job, SYSTEM)


def _sees(seen: Mapping[str, frozenset[Sensitivity]], record: Record, present: tuple[str, Sensitivity] | None) -> bool:
    """Whether a version exists for the caller: as sensitive as it is, and as the memory is at present."""
    levels = {record.memory.governance.sensitivity, present[1] if present else record.memory.governance.sensitivity}
    return levels <= seen.get(record.memory.cube, frozenset())


def _as_of(connection: Connection, wanted: Sequence[Candidate], as_of: datetime) -> dict[str, Record]:
    """The versions of then, of what the cubes held then."""
    records: dict[str, Record] = {}
    for cube in dict.fromkeys(candidate.cube for candidate in wanted):
        ids = [candidate.id for candidate in wanted if candidate.cube == cube]
        records |= past.records_at(connection, past.moment_at(connection, cube, as_of), ids)
    return records


def _complete(connection: Connection, found: Sequence[Record], as_of: datetime | None) -> list[Memory]:
    memories = queries.complete(connection, found)
    if as_of is None:
        return memories
    moments = {memory.cube: past.moment_at(connection, memory.cube, as_of) for memory in memories}
    return [past.lineage_at(connection, [memory], moments[memory.cube])[0] for memory in memories]


def _activates(memory: Memory) -> bool:
    return not memory.governance.frozen and state_after(memory, Step.USE) is not memory.state


def check(request: Recall) -> None:
    """Raises `Invalid` or `TooLarge` for a recall outside the bounds."""
    if not request.query.strip():
        raise Invalid("the query is empty: say in a few words what to look for")
    check_text(request.query, "query", MAX_QUERY_CHARS)
    if not 1 <= request.limit <= MAX_LIMIT:
        raise Invalid(f"limit is {request.limit}: use 1 to {MAX_LIMIT}")
    if not MIN_RECALL_TOKENS <= request.max_tokens <= MAX_RECALL_TOKENS:
        raise Invalid(f"max_tokens is {request.max_tokens}: use {MIN_RECALL_TOKENS} to {MAX_RECALL_TOKENS}")
    if request.after is not None and request.before is not None and request.after >= request.before:
        raise Invalid("after is not earlier than before: no time lies between them")
