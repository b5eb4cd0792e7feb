"""The vectors of one cube: put, drop, and the nearest by cosine, exact or through a graph.

Vectors are kept as unit rows of one float32 matrix, in no order; a dropped row is filled with the last one, so nothing
rots. Every answer is scored against this matrix: the graph of a large cube only proposes candidates. Searching is
exact below `EXACT_LIMIT` vectors, on filtered subsets, wherever the graph falls short, and wherever hnswlib is not
installed. A filter is a set of keys or one function over all keys, never a callback for each candidate.

Measured at 384 dimensions on 2 cores, exact: 10k vectors 0.11 ms, 100k 3.2 ms, 200k 8 ms; the graph takes 0.2 to 0.3 ms
from 100k on and 22 CPU seconds for 100k to build, so it begins to pay there.

Building is the caller's to start, off its hot path: `tend` builds, rebuilds or discards the graph as needed while reads
and writes go on. Keys are unique numbers that the caller chooses; what they stand for is not known here. Any number of
threads may read, write and tend at the same time. A vector with NaN, without length or of another dimension is refused,
and nothing of that call is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import Invalid
from engine.index.graph import Graph, hnsw_version
from engine.index.readers_writer import ReadersWriter
from engine.index.snapshot import Member, Snapshot, SnapshotUnusable

Floats = NDArray[np.float32]
Keys = NDArray[np.int64]
Rows = NDArray[np.intp]
Scalar = TypeVar("Scalar", bound=np.generic)
Filter = ArrayLike | Callable[[Keys], NDArray[np.bool_]]
"""The keys that may be found, or a function from all keys [n] to a mask [n], which must not call back into here."""

EXACT_LIMIT = 100_000  # vectors; see above
SUBSET_EXACT_LIMIT = 20_000  # filtered to so few, exact search takes at most 1.5 ms
GATHER_SHARE = 0.2  # above this share of the rows, scoring all of them is faster than picking them out
OVERFETCH = 2  # candidates asked of the graph for each vector wanted
DEAD_SHARE = 0.25  # of the graph: beyond it, searches wade through dead labels, and it is rebuilt
BUILD_CHUNK = 1_000  # vectors copied at once while building beside writers
UNIT_TOLERANCE = 1e-3  # of a squared length: float32 rounding is far below, any mixed-up file far above
PROBES = 64  # vectors compared between a saved graph and the matrix: hnswlib accepts another dimension silently
SMALLEST_CAPACITY = 256
GROWTH = 1.5
MEMBER = "vectors.npy"  # three arrays, one after the other: keys, labels, unit rows


class Vectors:
    """Unit vectors by key. Every (key, vector) that was put has a label of its own, which the graph knows it by."""

    def __init__(self, dimension: int, exact_limit: int = EXACT_LIMIT) -> None:
        self.dimension = dimension
        self._exact_limit = exact_limit
        self._lock = ReadersWriter()
        self._tending = threading.Lock()
        self._row_of: dict[int, int] = {}
        self._count = 0
        self._keys: Keys = np.empty(0, np.int64)
        self._labels: Keys = np.empty(0, np.int64)  # by row
        self._matrix: Floats = np.empty((0, dimension), np.float32)
        self._row_of_label: Rows = np.empty(0, np.intp)  # -1: dead
        self._next_label = 0
        self._graph: Graph | None = None
        self._graph_holds_dropped = False

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: int) -> bool:
        return key in self._row_of

    def put(self, keys: ArrayLike, vectors: ArrayLike) -> None:
        """Store a vector [d] for each key, or vectors [n, d]; an old vector of the key is replaced.

        Raises:
            Invalid: NaN, no length, another dimension, or a key given twice. Nothing was stored.
        """
        wanted = np.atleast_1d(np.asarray(keys, np.int64))
        units = self._units(vectors)
        names = wanted.tolist()
        if wanted.ndim != 1 or len(wanted) != len(units):
            raise Invalid(f"{len(wanted)} keys were given with {len(units)} vectors")
        if len(set(names)) != len(names):
            raise Invalid("a key was given twice")
        with self._lock.write():
            self._reserve(len(names))
            rows = np.array([self._claim_row(key) for key in names], np.intp)
            labels = np.arange(self._next_label, self._next_label + len(names), dtype=np.int64)
            self._next_label += len(names)
            self._keys[rows] = wanted
            self._labels[rows] = labels
            self._matrix[rows] = units
            self._row_of_label[labels] = rows
            if self._graph is not None:
                self._graph.add(labels, units)

    def drop(self, keys: ArrayLike) -> None:
        """Forget the vectors of these keys; unknown keys are passed over."""
        with self._lock.write():
            for key in np.atleast_1d(np.asarray(keys, np.int64)).tolist():
                row = self._row_of.pop(key, None)
                if row is not None:
                    self._kill(row)
                    self._graph_holds_dropped = self._graph is not None
                    self._close_gap(row)

    def search(self, query: ArrayLike, k: int, allowed: Filter | None = None) -> tuple[Keys, Floats]:
        """The `k` nearest keys and their cosines, best first; fewer when fewer are there or allowed.

        Raises:
            Invalid: the query is no vector of this dimension.
        """
        unit = self._units(query)[0]
        with self._lock.read():
            rows = None if allowed is None else self._rows(allowed)
            count = min(k, self._count if rows is None else len(rows))
            found = self._propose(unit, count, rows)
            rows = rows if found is None else found
            cosines = self._score(unit, rows)
            best = _best(cosines, count)
            return self._keys[best if rows is None else rows[best]], cosines[best]

    def scores(self, query: ArrayLike, allowed: Filter | None = None) -> tuple[Keys, Floats]:
        """All keys (or those allowed), in no order, and their exact cosines.

        Raises:
            Invalid: the query is no vector of this dimension.
        """
        unit = self._units(query)[0]
        with self._lock.read():
            rows = None if allowed is None else self._rows(allowed)
            keys = self._keys[: self._count].copy() if rows is None else self._keys[rows]
            return keys, self._score(unit, rows)

    def cosines(self, query: ArrayLike, keys: ArrayLike) -> Floats:
        """The exact cosine of each key, in the order given; NaN for a key that has no vector.

        Raises:
            Invalid: the query is no vector of this dimension.
        """
        unit = self._units(query)[0]
        with self._lock.read():
            places = (self._row_of.get(key, -1) for key in np.asarray(keys, np.int64).tolist())
            rows = np.fromiter(places, np.intp)
            cosines = np.full(len(rows), np.nan, np.float32)
            cosines[rows >= 0] = self._score(unit, rows[rows >= 0])
            return cosines

    def tend(self) -> None:
        """Build, rebuild or discard the graph, if that is due; takes minutes for very many vectors.

        Reads and writes go on meanwhile. Call it from a background thread, now and then and after loading.
        """
        if hnsw_version() is None:
            return
        with self._tending:
            graph = self._graph
            if self._count <= self._exact_limit // 2:
                with self._lock.write():
                    self._adopt(None)
            elif self._count > self._exact_limit and (graph is None or graph.dead > DEAD_SHARE * len(graph)):
                self._build()

    def members(self) -> dict[str, Member]:
        """What to hand to `snapshot.write`. A graph that still holds dropped vectors is left out: it is rebuilt."""
        members: dict[str, Member] = {MEMBER: self._write_arrays}
        if self._graph is not None:
            members[_graph_member()] = self._write_graph
        return members

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot, dimension: int, exact_limit: int = EXACT_LIMIT) -> Vectors:
        """The vectors that were saved; a graph of another hnswlib is left out, for `tend` to make anew.

        Raises:
            SnapshotUnusable: the member is missing, or does not hold vectors of this dimension.
        """
        vectors = cls(dimension, exact_limit)
        vectors._read_arrays(snapshot.path(MEMBER))
        if hnsw_version() is not None and snapshot.sizes.get(_graph_member()) and len(vectors) > exact_limit:
            vectors._read_graph(snapshot.path(_graph_member()))
        else:
            vectors._renumber()
        return vectors

    # ---- under the lock ------------------------------------------------------------------------------------------

    def _claim_row(self, key: int) -> int:
        row = self._row_of.get(key)
        if row is None:
            row = self._row_of[key] = self._count
            self._count += 1
        else:
            self._kill(row)
        return row

    def _kill(self, row: int) -> None:
        """The label of this row is not to be found any more."""
        label = int(self._labels[row])
        self._row_of_label[label] = -1
        if self._graph is not None:
            self._graph.mark_dead(label)

    def _close_gap(self, row: int) -> None:
        last = self._count - 1
        if row != last:
            self._keys[row], self._labels[row] = self._keys[last], self._labels[last]
            self._matrix[row] = self._matrix[last]
            self._row_of[int(self._keys[row])] = row
            self._row_of_label[self._labels[row]] = row
        self._matrix[last] = 0
        self._count = last

    def _reserve(self, more: int) -> None:
        rows, labels = self._count + more, self._next_label + more
        if rows > len(self._keys):
            capacity = max(SMALLEST_CAPACITY, int(rows * GROWTH))
            self._keys = _grown(self._keys, capacity)
            self._labels = _grown(self._labels, capacity)
            self._matrix = _grown(self._matrix, capacity)
        if labels > len(self._row_of_label):
            self._row_of_label = _grown(self._row_of_label, max(SMALLEST_CAPACITY, int(labels * GROWTH)))

    def _rows(self, allowed: Filter) -> Rows:
        """The rows of the allowed keys, ascending."""
        keys = self._keys[: self._count]
        if callable(allowed):
            return np.flatnonzero(allowed(keys))
        return np.flatnonzero(np.isin(keys, np.asarray(allowed, np.int64)))

    def _score(self, unit: Floats, rows: Rows | None) -> Floats:
        """Cosines of these rows, or of all."""
        live = self._matrix[: self._count]
        if rows is None:
            cosines = live @ unit
        elif len(rows) > GATHER_SHARE * self._count:
            cosines = (live @ unit)[rows]
        else:
            cosines = live[rows] @ unit
        return np.clip(cosines, -1.0, 1.0, out=cosines)

    def _propose(self, unit: Floats, count: int, rows: Rows | None) -> Rows | None:
        """Candidate rows from the graph, at least `count` and among `rows`; None where exact search is due."""
        graph = self._graph
        if graph is None or count <= 0 or (rows is not None and len(rows) <= SUBSET_EXACT_LIMIT):
            return None
        share = 1.0 if rows is None else len(rows) / self._count
        asked = int(OVERFETCH * count / share)
        while asked < self._count // 10:
            labels = graph.nearest(unit, asked)
            if labels is None:
                return None
            found = self._row_of_label[labels]
            if rows is not None:
                found = found[np.isin(found, rows)]
            if len(found) >= count:
                return found
            asked *= 4
        return None

    def _adopt(self, graph: Graph | None) -> None:
        self._graph = graph
        self._graph_holds_dropped = graph is not None and graph.dead > 0

    # ---- the graph and the file ----------------------------------------------------------------------------------

    def _build(self) -> None:
        """Make a graph of what is live, then catch up with what was written meanwhile, then put it in place."""
        graph = Graph(self.dimension, int(self._count * GROWTH))
        added = np.zeros(0, np.bool_)  # by label
        full_chunk = True
        while full_chunk:
            with self._lock.read():
                labels, units, added = self._missing(added)
            graph.add(labels, units)
            full_chunk = len(labels) == BUILD_CHUNK
        with self._lock.write():
            labels, units, added = self._missing(added, all_of_them=True)
            graph.add(labels, units)
            for label in np.setdiff1d(graph.labels(), self._labels[: self._count]).tolist():
                graph.mark_dead(label)
            self._adopt(graph)

    def _missing(
        self, added: NDArray[np.bool_], *, all_of_them: bool = False
    ) -> tuple[Keys, Floats, NDArray[np.bool_]]:
        """Live labels that a graph under construction lacks, with copies of their vectors; `added` is brought up."""
        added = _grown(added, self._next_label)
        rows = np.flatnonzero(~added[self._labels[: self._count]])
        rows = rows if all_of_them else rows[:BUILD_CHUNK]
        added[self._labels[rows]] = True
        return self._labels[rows], self._matrix[rows], added

    def _write_arrays(self, path: Path) -> None:
        with self._lock.read(), path.open("wb") as file:
            for array in (self._keys, self._labels, self._matrix):
                np.save(file, array[: self._count], allow_pickle=False)

    def _write_graph(self, path: Path) -> None:
        """Nothing is written of a graph that still holds dropped vectors: what was erased must not come back."""
        with self._lock.read():
            if self._graph is None or self._graph_holds_dropped:
                path.write_bytes(b"")
            else:
                self._graph.save(path)

    def _read_arrays(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                keys, labels, matrix = (np.load(file, allow_pickle=False) for _ in range(3))
        except (OSError, ValueError, EOFError) as error:
            raise SnapshotUnusable(f"{MEMBER} cannot be read: {error}") from error
        whole = (
            (keys.dtype, labels.dtype, matrix.dtype) == (np.int64, np.int64, np.float32)
            and keys.shape == labels.shape == matrix.shape[:1]
            and matrix.shape[1:] == (self.dimension,)
            and len(np.unique(keys)) == len(np.unique(labels)) == len(keys)
            and labels.min(initial=0) >= 0
            and bool(np.all(np.abs(np.einsum("ij,ij->i", matrix, matrix) - 1) < UNIT_TOLERANCE))
        )
        if not whole:
            raise SnapshotUnusable(f"{MEMBER} does not hold unit vectors of dimension {self.dimension}")
        self._keys, self._labels, self._matrix, self._count = keys, labels, matrix, len(keys)
        self._row_of = dict(zip(keys.tolist(), range(len(keys)), strict=True))
        self._number_labels()

    def _renumber(self) -> None:
        self._labels = np.arange(self._count, dtype=np.int64)
        self._number_labels()

    def _number_labels(self) -> None:
        self._next_label = int(self._labels.max(initial=-1)) + 1
        self._row_of_label = np.full(self._next_label, -1, np.intp)
        self._row_of_label[self._labels] = np.arange(self._count)

    def _read_graph(self, path: Path) -> None:
        """Take the saved graph, brought in step with the arrays, which may have been written a moment earlier."""
        try:
            graph = Graph.load(path, self.dimension)
            known = graph.labels()
            both = np.intersect1d(self._labels, known)
            probe = both[:: max(1, len(both) // PROBES)]
            same = np.array_equal(graph.vectors(probe), self._matrix[self._row_of_label[probe]])
        except (ValueError, RuntimeError) as error:
            raise SnapshotUnusable(f"{path.name} is no graph of these vectors: {error}") from error
        if not same or len(both) < self._count // 2:
            raise SnapshotUnusable(f"{path.name} is no graph of these vectors")
        self._next_label = max(self._next_label, int(known.max(initial=-1)) + 1)
        self._row_of_label = np.full(self._next_label, -1, np.intp)
        self._row_of_label[self._labels] = np.arange(self._count)
        for label in np.setdiff1d(known, self._labels).tolist():
            graph.mark_dead(label)
        missing = np.setdiff1d(self._labels, known)
        graph.add(missing, self._matrix[self._row_of_label[missing]])
        self._adopt(graph)

    def _units(self, vectors: ArrayLike) -> Floats:
        """Rows [n, d] of length 1."""
        with np.errstate(over="ignore", invalid="ignore"):
            rows = np.atleast_2d(np.asarray(vectors, np.float32))
            if rows.ndim != 2 or rows.shape[1] != self.dimension:
                raise Invalid(f"a vector of shape {rows.shape[1:]} was given where the dimension is {self.dimension}")
            lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            if not (np.isfinite(lengths) & (lengths > 0)).all():
                raise Invalid("a vector has no length, or holds a value that is not a finite number")
            units: Floats = rows / lengths[:, None]
            return units


def _best(cosines: Floats, count: int) -> Rows:
    """The places of the `count` highest cosines, best first."""
    if count <= 0:
        return np.empty(0, np.intp)
    if count < len(cosines):
        places = np.argpartition(cosines, len(cosines) - count)[len(cosines) - count :]
    else:
        places = np.arange(len(cosines))
    return places[np.argsort(-cosines[places], kind="stable")]


def _grown(array: NDArray[Scalar], capacity: int) -> NDArray[Scalar]:
    """A copy with room for `capacity` rows; what is new is zero."""
    larger = np.zeros((capacity, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _graph_member() -> str:
    return f"graph.hnswlib-{hnsw_version()}"
