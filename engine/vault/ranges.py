"""Reading a whole cube a range at a time: its memories with all that belongs to them, in bounded memory.

Ranges are of labels, cut by how much their contents and histories take, so that a scan of sizes is all that is done for
the whole cube at once: nothing is sorted or skipped over again. All is read in one transaction of the caller's, so a
cube that is written to meanwhile is read as it was when the reading began.

Decides nothing about who may see what: it is told how sensitive the memories may be that are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubes import Behavioural, Lineage, Sensitivity
from engine.vault import past
from engine.vault.connection import Connection
from engine.vault.past import Moment
from engine.vault.rows import Record, lineage_of, record_of, usage_of
from engine.vault.schema import MEMORY_COLUMNS

RANGE_BYTES = 4 << 20  # of contents and headers as they are stored
RANGE_MEMORIES = 1_000  # bounds what stands beside them: vectors, lineage
COLUMNS = ", ".join(MEMORY_COLUMNS)


@dataclass(frozen=True, slots=True)
class FullRecord:
    """A memory with all that belongs to it: the present version, the earlier ones, and what stands beside them."""

    record: Record
    earlier: tuple[Record, ...] = ()
    lineage: tuple[Lineage, ...] = ()
    usage: Behavioural = field(default_factory=Behavioural)
    vectors: NDArray[np.float32] | None = None  # [passages, dimension]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of a cube.

    `allowed`: how sensitive a version may be. `moment`: as the cube was then. `embedder`: whose vectors, if any.
    """

    cube: str
    allowed: frozenset[Sensitivity] = frozenset(Sensitivity)
    history: bool = True
    moment: Moment | None = None
    embedder: str = ""
    dimension: int = 0

    @property
    def everything(self) -> bool:
        return len(self.allowed) == len(Sensitivity)


def ranges(connection: Connection, cube: str) -> Iterator[tuple[int, int]]:
    """(first, last) label of each range of a cube, in order."""
    sizes = connection.execute(
        "SELECT label, sum(bytes)::BIGINT AS bytes FROM ("
        " SELECT label, strlen(content) + strlen(header) AS bytes FROM memories WHERE cube = ? UNION ALL"
        " SELECT label, strlen(content) + strlen(header) AS bytes FROM versions WHERE cube = ?)"
        " GROUP BY label ORDER BY label",
        [cube, cube],
    ).fetchnumpy()
    yield from _cut_at(sizes["label"], sizes["bytes"])


def _cut_at(labels: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    taken, start = np.cumsum(sizes), 0
    while start < len(labels):
        before = int(taken[start - 1]) if start else 0
        fits = int(np.searchsorted(taken, before + RANGE_BYTES, side="right"))
        end = max(start + 1, min(fits, start + RANGE_MEMORIES))
        yield int(labels[start]), int(labels[end - 1])
        start = end


def changed_since(
    connection: Connection, cube: str, revision: int, embedder: str, dimension: int
) -> Iterator[tuple[list[int], list[Record], dict[str, NDArray[np.float32]]]]:
    """What an index of a cube has to follow since a revision, a range at a time: (labels of the wholes of long texts,
    which are in no index, and whose contents are not read; the other memories; their vectors, by id).
    """
    where = "FROM memories WHERE cube = ? AND revision > ?"
    wholes = connection.execute(f"SELECT label {where} AND parts > 0 ORDER BY label", [cube, revision]).fetchall()
    if wholes:
        yield [row[0] for row in wholes], [], {}
    sizes = connection.execute(
        f"SELECT label, strlen(content) + strlen(header) AS bytes {where} AND parts = 0 ORDER BY label",
        [cube, revision],
    ).fetchnumpy()
    if not len(sizes["label"]):
        return
    vectors = VectorRows(connection, Reading(cube, embedder=embedder, dimension=dimension)) if embedder else None
    for first, last in _cut_at(sizes["label"], sizes["bytes"]):
        rows = connection.execute(
            f"SELECT {COLUMNS} {where} AND parts = 0 AND label BETWEEN ? AND ? ORDER BY label",
            [cube, revision, first, last],
        ).fetchall()
        known = vectors.read(first, last) if vectors is not None else {}
        yield [], [record_of(row, connection.sealer) for row in rows], known


def left_out(connection: Connection, reading: Reading) -> frozenset[str]:
    """Ids of the cube's memories that are more sensitive than allowed; a long text goes with any of its pieces."""
    if reading.everything:
        return frozenset()
    # Of a past moment it is not asked which version was the present one: what was ever too sensitive is left out.
    also = " UNION SELECT id FROM versions WHERE cube = $cube AND sensitivity NOT IN (SELECT unnest($allowed))"
    rows = connection.raw.execute(
        "WITH sensitive AS (SELECT id FROM memories WHERE cube = $cube AND sensitivity NOT IN"
        f" (SELECT unnest($allowed)){also if reading.moment is not None else ''}),"
        " wholes AS (SELECT id FROM sensitive UNION SELECT source FROM lineage WHERE relation = 'part_of'"
        " AND derived IN (SELECT id FROM sensitive))"
        " SELECT id FROM wholes UNION SELECT derived FROM lineage WHERE relation = 'part_of'"
        " AND source IN (SELECT id FROM wholes)",
        {"cube": reading.cube, "allowed": [level.value for level in sorted(reading.allowed)]},
    ).fetchall()
    return frozenset(row[0] for row in rows)


class VectorRows:
    """Where the vectors of a cube's memories stand, so that a range of them is read without a search."""

    def __init__(self, connection: Connection, reading: Reading) -> None:
        self._connection, self._reading = connection, reading
        found = connection.execute(
            "SELECT m.label AS label, e.rowid AS place FROM embeddings AS e JOIN memories AS m USING (id)"
            " WHERE m.cube = ? AND e.embedder = ? AND e.passages > 0",
            [reading.cube, reading.embedder],
        ).fetchnumpy()
        order = np.argsort(found["label"], kind="stable")
        self._labels, self._places = found["label"][order], found["place"][order]

    def read(self, first: int, last: int) -> dict[str, NDArray[np.float32]]:
        """The vectors of the memories with these labels, by id."""
        start, end = np.searchsorted(self._labels, first), np.searchsorted(self._labels, last, side="right")
        if start == end:
            return {}
        rows = self._connection.execute(
            "SELECT id, vectors FROM embeddings WHERE rowid IN (SELECT unnest(?::BIGINT[]))",
            [self._places[start:end].tolist()],
        ).fetchall()
        opened, embedder, dimension = (
            self._connection.sealer.read_blob,
            self._reading.embedder,
            self._reading.dimension,
        )
        return {
            id: np.frombuffer(opened(stored, f"{id}:{embedder}"), dtype="<f4").reshape(-1, dimension)
            for id, stored in rows
        }


def read_cube(connection: Connection, reading: Reading, without: frozenset[str]) -> Iterator[list[FullRecord]]:
    """The memories of a cube but for `without`, in the order of labels, a range at a time."""
    vectors = VectorRows(connection, reading) if reading.embedder else None
    for first, last in ranges(connection, reading.cube):
        found = _read_range(connection, reading, first, last)
        found = [item for item in found if item.record.memory.id not in without]
        known = vectors.read(first, last) if vectors is not None else {}
        yield list(_completed(connection, reading, found, known))


def _read_range(connection: Connection, reading: Reading, first: int, last: int) -> list[FullRecord]:
    """Present and earlier versions, without what stands beside them."""
    place = [reading.cube, first, last]
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE cube = ? AND label BETWEEN ? AND ? ORDER BY label", place
    ).fetchall()
    records = [record_of(row, connection.sealer) for row in rows]
    if not reading.history and reading.moment is None:
        return [FullRecord(record) for record in records]
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM versions WHERE cube = ? AND label BETWEEN ? AND ? ORDER BY label, version", place
    ).fetchall()
    earlier: dict[str, list[Record]] = {}
    for row in rows:
        earlier.setdefault(row[0], []).append(record_of(row, connection.sealer))
    found = [FullRecord(record, tuple(earlier.get(record.memory.id, ()))) for record in records]
    if reading.moment is not None:
        found = _as_they_were(connection, reading.moment, found)
    return [_cut(item, reading) for item in found]


def _as_they_were(connection: Connection, moment: Moment, found: Sequence[FullRecord]) -> list[FullRecord]:
    """Those that were there at the moment, with the version that was the present one then, and no later ones."""
    versions = past.versions_at(connection, moment, [item.record.memory.id for item in found])
    then = []
    for item in found:
        number = versions.get(item.record.memory.id)
        every = (*item.earlier, item.record)
        if number is not None and any(record.memory.version == number for record in every):
            kept = [record for record in every if record.memory.version <= number]
            then.append(FullRecord(kept[-1], tuple(kept[:-1])))
    return then


def _cut(item: FullRecord, reading: Reading) -> FullRecord:
    """Without the history that is not wanted, or that is as far back as something too sensitive, or as a gap."""
    kept: list[Record] = []
    expected = item.record.memory.version - 1
    for record in reversed(item.earlier if reading.history else ()):
        memory = record.memory
        if memory.version != expected or memory.governance.sensitivity not in reading.allowed:
            break
        kept.append(record)
        expected -= 1
    return replace(item, earlier=tuple(reversed(kept)))


def _completed(
    connection: Connection,
    reading: Reading,
    found: Sequence[FullRecord],
    vectors: dict[str, NDArray[np.float32]],
) -> Iterator[FullRecord]:
    """The same with lineage, usage and vectors. Of a past moment there is no usage: it is not known what it was."""
    ids = [item.record.memory.id for item in found]
    edges: dict[str, list[tuple[Any, ...]]] = {}
    among = "IN (SELECT unnest(?::VARCHAR[]))"
    for derived, *edge in connection.execute(
        f"SELECT derived, relation, source, source_version FROM lineage WHERE derived {among}"
        " ORDER BY derived, relation, source",
        [ids],
    ).fetchall():
        edges.setdefault(derived, []).append(tuple(edge))
    usage = {
        row[0]: usage_of(row[1:])
        for row in connection.execute(
            f"SELECT id, access_count, last_access FROM usage WHERE id {among}", [ids]
        ).fetchall()
    }
    lineage = {id: lineage_of(edges.get(id, ())) for id in ids}
    stale: set[str] = set()
    if reading.moment is not None:
        lineage = _lineage_then(connection, reading.moment, found, lineage)
        usage = {}
        stale = _reworded(connection, found)
    for item in found:
        id = item.record.memory.id
        yield replace(
            item,
            lineage=lineage[id],
            usage=usage.get(id, item.usage),
            vectors=None if id in stale else vectors.get(id),
        )


def _lineage_then(
    connection: Connection, moment: Moment, found: Sequence[FullRecord], lineage: dict[str, tuple[Lineage, ...]]
) -> dict[str, tuple[Lineage, ...]]:
    memories = [replace(item.record.memory, lineage=lineage[item.record.memory.id]) for item in found]
    there = past.versions_at(connection, moment, {edge.source for edges in lineage.values() for edge in edges})
    present = _places(connection, (edge.source for edges in lineage.values() for edge in edges))
    return {
        memory.id: tuple(
            edge
            for edge in memory.lineage
            # What came into this cube later is not there yet; what is elsewhere, or only claimed, stays.
            if edge.source in there or present.get(edge.source) != moment.cube
        )
        for memory in past.lineage_at(connection, memories, moment)
    }


def _places(connection: Connection, ids: Iterator[str]) -> dict[str, str]:
    rows = connection.execute(
        "SELECT id, cube FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(dict.fromkeys(ids))]
    ).fetchall()
    return dict(rows)


def _reworded(connection: Connection, found: Sequence[FullRecord]) -> set[str]:
    """Those that say something else now: the stored vectors are of their present words."""
    versions = {item.record.memory.id: item.record.memory.version for item in found}
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(versions)]
    ).fetchall()
    contents = {item.record.memory.id: item.record.memory.content for item in found}
    return {
        row[0]
        for row in rows
        if row[3] != versions[row[0]] and record_of(row, connection.sealer).memory.content != contents[row[0]]
    }
