"""An approximate nearest-neighbour graph (HNSW, Malkov and Yashunin 2018) on the optional package hnswlib.

The graph only proposes labels: whoever asks scores them against the true vectors. What hnswlib does badly is kept from
it: a label is used once and never again (`replace_deleted` and revived labels make duplicates), the graph grows before
it is full, a query that finds too few is no answer rather than an error, and a file is only read after its digest was
checked (hnswlib crashes on flipped bits, and accepts another dimension silently: `load` compares).

Not thread-safe: searches may overlap each other, but nothing else; the owner's lock sees to that.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

LINKS = 16  # M: 2 x 16 links on the lowest level
BUILD_EFFORT = 100  # ef_construction; 100k x 384 take 22 CPU seconds
SEARCH_EFFORT = 100  # ef, or as many as are asked for if that is more: recall@10 above .95 at 100k
GROWTH = 1.5
SMALLEST_CAPACITY = 1024


def hnsw_version() -> str | None:
    """The version of hnswlib, or None where it is not installed."""
    if importlib.util.find_spec("hnswlib") is None:
        return None
    return importlib.metadata.version("hnswlib")


class Graph:
    """Labels and their unit vectors [dimension], linked by nearness. Needs hnswlib."""

    def __init__(self, dimension: int, capacity: int) -> None:
        self._index = _new_index(dimension)
        self._index.init_index(max(SMALLEST_CAPACITY, capacity), M=LINKS, ef_construction=BUILD_EFFORT)
        self._index.set_ef(SEARCH_EFFORT)
        self.dead = 0

    @classmethod
    def load(cls, path: Path, dimension: int) -> Graph:
        """The graph in a file that `save` wrote.

        Raises:
            ValueError: it is not such a file.
        """
        graph = cls.__new__(cls)
        graph._index = _new_index(dimension)
        try:
            graph._index.load_index(str(path))
        except (RuntimeError, MemoryError) as error:
            raise ValueError(f"hnswlib cannot read it: {error}") from error
        graph._index.set_ef(SEARCH_EFFORT)
        graph.dead = 0
        return graph

    def __len__(self) -> int:
        """Labels ever added, the dead ones too."""
        return int(self._index.element_count)

    def labels(self) -> Labels:
        return np.asarray(self._index.get_ids_list(), np.int64)

    def vectors(self, labels: Labels) -> Floats:
        """The vectors [len(labels), dimension] of live labels."""
        return np.asarray(self._index.get_items(labels, return_type="numpy"), np.float32)

    def add(self, labels: Labels, vectors: Floats) -> None:
        """Add labels that were never added before."""
        if not len(labels):
            return  # hnswlib takes no empty batch
        needed = len(self) + len(labels)
        if needed > self._index.max_elements:
            self._index.resize_index(int(needed * GROWTH))
        self._index.add_items(vectors, labels, num_threads=1)

    def mark_dead(self, label: int) -> None:
        """The label will not be found again; its vector stays in the graph until that is rebuilt."""
        with contextlib.suppress(RuntimeError):  # it was dead in the file that this graph was loaded from
            self._index.mark_deleted(label)
        self.dead += 1

    def nearest(self, query: Floats, count: int) -> Labels | None:
        """About the `count` nearest live labels, or None when the graph cannot reach that many."""
        try:
            labels, _ = self._index.knn_query(query, k=count, num_threads=1)
        except RuntimeError:
            return None
        return np.asarray(labels[0], np.int64)

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))


def _new_index(dimension: int) -> Any:
    import hnswlib

    index = hnswlib.Index("ip", dimension)
    index.set_num_threads(1)
    return index
