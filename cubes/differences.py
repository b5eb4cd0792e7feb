"""What differs between two bundles: their headers, and memory by memory the fields of the present versions.

Usage, history and vectors are left out: they are not what a memory says. Both files are read from front to back, with
some 24 bytes in memory for each memory of the first; of the values that differ only so many are kept, the rest by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cubes.bundle import Bundle
from cubes.canonical import json_bytes, plain
from cubes.headers import cube_to_plain
from cubes.packing import Progress, silent
from cubes.records import PackedMemory, to_plain
from cubes.seen import Hasher

MAX_VALUE_BYTES = 32 << 20  # of values that are kept, both sides together
_LEFT_OUT = ("usage", "history")
_OPEN_SHARDS = 2  # of the first bundle, when memories that changed are looked up: the order is mostly the same


@dataclass(frozen=True, slots=True)
class Omitted:
    """Stands for a value that there was no room for."""


OMITTED = Omitted()


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that differs, with both values as plain JSON, or `OMITTED`."""

    name: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """A memory that both have, and what differs in it."""

    id: str
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class BundleDiff:
    """From one bundle to another. Ids stand in the order of the bundle in which they are."""

    header: tuple[FieldChange, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[MemoryChange, ...]


def diff(
    before: Bundle, after: Bundle, progress: Progress = silent, *, max_value_bytes: int = MAX_VALUE_BYTES
) -> BundleDiff:
    """What differs. `progress` counts memories; `max_value_bytes` of values that differ are kept.

    Raises:
        DamagedBundle, MalformedCube, TooLargeBundle: one of them is not whole; the message names it.
    """
    budget = _Budget(max_value_bytes)
    header = _changes(_header(before), _header(after), budget)
    total = before.manifest.counts.memories + after.manifest.counts.memories
    index = _Index(before, lambda done: progress(done, total, "comparing"))
    added: list[str] = []
    changed: list[MemoryChange] = []
    done = before.manifest.counts.memories
    for number, memory in enumerate(after.memories(vectors=False), 1):
        row = index.find(memory)
        if row is None:
            added.append(memory.id)
        elif not index.same(row, memory):
            fields = _changes(_said(index.memory(row)), _said(memory), budget)
            changed.append(MemoryChange(memory.id, fields))
        if number % 1_024 == 0:
            progress(done + number, total, "comparing")
    return BundleDiff(header, tuple(added), tuple(index.unfound()), tuple(changed))


class _Index:
    """The memories of a bundle by hashed id: digest of what each says, and where it stands."""

    def __init__(self, bundle: Bundle, report: Callable[[int], None]) -> None:
        self._bundle, self._hash = bundle, Hasher()
        self._open: dict[int, list[PackedMemory]] = {}
        parts: list[npt.NDArray[np.uint64]] = []
        done = 0
        for number in range(bundle.manifest.shards):
            rows = [
                (self._id(memory), self._digest(memory), number << 32 | line)
                for line, memory in enumerate(bundle.shard(number, vectors=False))
            ]
            parts.append(np.array(rows, dtype=np.uint64).reshape(-1, 3))
            done += len(rows)
            report(done)
        table = np.concatenate(parts) if parts else np.zeros((0, 3), dtype=np.uint64)
        table = table[np.argsort(table[:, 0], kind="stable")]
        self._ids, self._digests, self._places = (np.ascontiguousarray(table[:, column]) for column in range(3))
        self._found = np.zeros(len(table), dtype=bool)

    def find(self, memory: PackedMemory) -> int | None:
        """The row of the memory with that id, which is then counted as found."""
        wanted = np.uint64(self._id(memory))
        row = int(np.searchsorted(self._ids, wanted))
        if row == len(self._ids) or self._ids[row] != wanted:
            return None
        self._found[row] = True
        return row

    def same(self, row: int, memory: PackedMemory) -> bool:
        return int(self._digests[row]) == self._digest(memory)

    def memory(self, row: int) -> PackedMemory:
        place = int(self._places[row])
        return self._shard(place >> 32)[place & 0xFFFFFFFF]

    def unfound(self) -> Iterator[str]:
        for place in np.sort(self._places[~self._found]):
            yield self._shard(int(place) >> 32)[int(place) & 0xFFFFFFFF].id

    def _shard(self, number: int) -> list[PackedMemory]:
        if number not in self._open:
            if len(self._open) == _OPEN_SHARDS:
                del self._open[next(iter(self._open))]
            self._open[number] = self._bundle.shard(number, vectors=False)
        return self._open[number]

    def _id(self, memory: PackedMemory) -> int:
        return self._hash(memory.id.encode())

    def _digest(self, memory: PackedMemory) -> int:
        return self._hash(json_bytes(_said(memory)))


def _said(memory: PackedMemory) -> dict[str, Any]:
    """What is compared of a memory."""
    record = to_plain(memory)
    for name in _LEFT_OUT:
        del record[name]
    return record


def _header(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        **cube_to_plain(manifest.cube),
        "embedder": plain(manifest.embedder),
        "redacted": plain(manifest.redacted),
        "snapshots": plain(manifest.snapshots),
        "artifacts": {artifact.id: artifact.digest for artifact in manifest.artifacts},
    }


@dataclass(slots=True)
class _Budget:
    left: int

    def take(self, before: object, after: object) -> bool:
        self.left -= len(json_bytes([before, after]))
        return self.left >= 0


def _changes(before: dict[str, Any], after: dict[str, Any], budget: _Budget) -> tuple[FieldChange, ...]:
    found: list[FieldChange] = []
    for name, value in before.items():
        if value != after[name]:
            kept = budget.take(value, after[name])
            found.append(FieldChange(name, value, after[name]) if kept else FieldChange(name, OMITTED, OMITTED))
    return tuple(found)
