"""Through which adapter a reply goes, and which memories the model need not be told since the adapter knows them.

An adapter was made from all of its memories, so it serves only a caller who may see every one of them, and only while
none of them has expired. Nothing here knows tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cubes import Memory, Sensitivity
from engine.governance.access import clearance
from engine.model_operations import MemoryUse, Tier
from engine.operations import Caller
from engine.parts import Parts, readable_cubes
from engine.tiers.lora.headers import known_pairs, source_pairs
from engine.tiers.lora.store import AdapterStore
from engine.vault import queries
from engine.vault.adapters import AdapterRow

if TYPE_CHECKING:
    from engine.model.loading import Loaded


@dataclass(frozen=True, slots=True)
class _MadeFrom:
    """The memories of an adapter: whether all are there, how sensitive those of each cube are, the first to expire."""

    whole: bool
    cubes: tuple[tuple[str, frozenset[Sensitivity]], ...]
    expires_at: datetime | None


class Wearing:
    """The adapters of one store, as callers may use them."""

    def __init__(self, parts: Parts, adapters: AdapterStore) -> None:
        self._parts, self._adapters = parts, adapters
        self._known: dict[str, tuple[str, int, _MadeFrom]] = {}  # by cube: (artifact, revision, …)
        self._lock = threading.Lock()

    def serving(self, use: MemoryUse | None, caller: Caller) -> list[AdapterRow]:
        """The adapters that serve the cubes of a request, in its order, of those that the caller may use."""
        if use is None or Tier.LORA not in use.tiers or not self._parts.vault.settings.lora:
            return []
        cubes = readable_cubes(self._parts, use.cubes, caller)
        rows = [row for cube in cubes if (row := self._adapters.serving(cube.name)) is not None]
        return [row for row in rows if self._may_use(row, caller)]

    def worn(self, loaded: Loaded, use: MemoryUse | None, caller: Caller) -> tuple[Loaded, AdapterRow | None]:
        """The model as this request sees it, and the adapter that it sees it through. On the model's thread."""
        for row in self.serving(use, caller):
            if (worn := self._adapters.worn(loaded, row)) is not None:
                self._adapters.use(row)
                return worn, row
        return loaded, None

    def _may_use(self, row: AdapterRow, caller: Caller) -> bool:
        made = self._made_from(row)
        if not made.whole or (made.expires_at is not None and made.expires_at <= self._parts.clock.now()):
            return False
        cubes = {cube.name: cube for cube in readable_cubes(self._parts, None, caller)}
        return all(name in cubes and needed <= clearance(caller.principal, cubes[name]) for name, needed in made.cubes)

    def _made_from(self, row: AdapterRow) -> _MadeFrom:
        """What its memories are now; looked up once for each state of the vault."""
        revision = self._parts.vault.revision
        with self._lock:
            known = self._known.get(row.cube)
        if known is not None and known[:2] == (row.artifact, revision):
            return known[2]
        ids = [id for id, _ in source_pairs(row)]
        with self._parts.vault.reading() as connection:
            places = queries.places_of(connection, ids)
            expires_at = queries.first_expiry(connection, ids)
        needed: dict[str, frozenset[Sensitivity]] = {}
        for cube, sensitivity in set(places.values()):
            needed[cube] = needed.get(cube, frozenset()) | {sensitivity}
        made = _MadeFrom(bool(ids) and len(places) == len(set(ids)), tuple(needed.items()), expires_at)
        with self._lock:
            self._known[row.cube] = (row.artifact, revision, made)
        return made


def known_of(row: AdapterRow | None, memories: Sequence[Memory]) -> Collection[str]:
    """The ids of those memories that an adapter is proven to know, in the version that they have."""
    known = frozenset(known_pairs(row)) if row is not None else frozenset()
    return frozenset(memory.id for memory in memories if (memory.id, memory.version) in known)
