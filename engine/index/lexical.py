"""Words of one cube, and how well each memory matches the words of a query: BM25 over a turn and its neighbours.

Postings hold a memory's own stems only. The words of the turn before it and after it count too, at query time, through
the links that the caller passes: so neighbours may come, change and go without a posting being touched. Each part is
normalised by its own length before the sum is saturated (BM25F, Robertson, Zaragoza and Taylor 2004), so that a short
answer profits from its question and a long message does not drown in the one beside it.

Rows are small numbers that the caller gives out and takes back. This module knows no ids, no time and no filters. After
any sequence of `put` and `drop` the statistics equal those of a fresh build, and a stem that no memory holds any more
is nowhere in memory nor in what `save` returns. Not thread-safe: the owner's lock sees to that.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.3  # memories are short: length says little about them
PREVIOUS_WEIGHT = 0.7  # the turn before: the question that this one answers
NEXT_WEIGHT = 0.2
SMALLEST = 4  # room of a new posting

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Counts:
    """What idf and length normalisation need; those of several cubes add up."""

    documents: int
    length: int  # stems in all of them together
    frequencies: NDArray[np.int64]  # [stems of the query] documents that hold each

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.documents + other.documents, self.length + other.length, self.frequencies + other.frequencies
        )

    def idf(self) -> Floats:
        """How telling each stem is (the form of BM25 that is never negative)."""
        rest = self.documents - self.frequencies
        return np.log1p((rest + 0.5) / (self.frequencies + 0.5)).astype(np.float32)

    @property
    def average_length(self) -> float:
        return max(1.0, self.length / self.documents) if self.documents else 1.0


class _Posting:
    """The rows that hold one stem, and how often; the first `count` places are in use."""

    __slots__ = ("count", "rows", "times")

    def __init__(self, rows: Rows, times: Floats, count: int) -> None:
        self.rows, self.times, self.count = rows, times, count

    def add(self, row: int, times: int) -> None:
        if self.count == len(self.rows):
            room = max(SMALLEST, 2 * self.count)
            self.rows, self.times = _grown(self.rows, room), _grown(self.times, room)
        self.rows[self.count] = row
        self.times[self.count] = times
        self.count += 1

    def remove(self, row: int) -> None:
        """The last place moves into the gap."""
        place = int(np.flatnonzero(self.rows[: self.count] == row)[0])
        self.count -= 1
        self.rows[place] = self.rows[self.count]
        self.times[place] = self.times[self.count]


class Lexical:
    """One cube's stems."""

    def __init__(self) -> None:
        self._terms: dict[str, int] = {}
        self._names: list[str | None] = []
        self._postings: list[_Posting | None] = []
        self._free: list[int] = []
        self._forward: dict[int, NDArray[np.int32]] = {}  # row -> its terms
        self._lengths = np.zeros(SMALLEST, np.float32)
        self._total = 0

    def __len__(self) -> int:
        return len(self._forward)

    @property
    def vocabulary(self) -> frozenset[str]:
        return frozenset(self._terms)

    # --- keeping -----------------------------------------------------------------------------------------------

    def put(self, row: int, stems: Sequence[str]) -> None:
        """Add or replace the stems of a row."""
        self.drop(row)
        if row >= len(self._lengths):
            self._lengths = _grown(self._lengths, max(row + 1, 2 * len(self._lengths)))
        counted = Counter(stems)
        terms = np.empty(len(counted), np.int32)
        for place, (stem, times) in enumerate(counted.items()):
            term = self._terms.get(stem)
            if term is None:
                term = self._new_term(stem)
            terms[place] = term
            posting = self._postings[term]
            assert posting is not None
            posting.add(row, times)
        self._forward[row] = terms
        self._lengths[row] = len(stems)
        self._total += len(stems)

    def drop(self, row: int) -> None:
        """Forget a row; nothing happens when it is not there."""
        terms = self._forward.pop(row, None)
        if terms is None:
            return
        self._total -= int(self._lengths[row])
        self._lengths[row] = 0
        for term in terms.tolist():
            posting = self._postings[term]
            assert posting is not None
            posting.remove(row)
            if posting.count == 0:
                name = self._names[term]
                assert name is not None
                del self._terms[name]
                self._names[term] = self._postings[term] = None
                self._free.append(term)

    def _new_term(self, stem: str) -> int:
        posting = _Posting(np.empty(SMALLEST, np.int32), np.empty(SMALLEST, np.float32), 0)
        if self._free:
            term = self._free.pop()
            self._names[term], self._postings[term] = stem, posting
        else:
            term = len(self._names)
            self._names.append(stem)
            self._postings.append(posting)
        self._terms[stem] = term
        return term

    # --- asking ------------------------------------------------------------------------------------------------

    def counts(self, stems: Sequence[str], hidden: NDArray[np.bool_] | None = None) -> Counts:
        """As if the rows that are `hidden` were not there."""
        found = [self._posting(stem) for stem in stems]
        frequencies = np.array([0 if posting is None else posting.count for posting in found], np.int64)
        if hidden is None:
            return Counts(len(self._forward), self._total, frequencies)
        rows = np.flatnonzero(hidden)
        held = [0 if posting is None else int(hidden[posting.rows[: posting.count]].sum()) for posting in found]
        length = int(self._lengths[rows].sum(dtype=np.float64))
        gone = sum(row in self._forward for row in rows.tolist())
        return Counts(len(self._forward) - gone, self._total - length, frequencies - np.array(held, np.int64))

    def scores(
        self,
        stems: Sequence[str],
        idf: Floats,
        average_length: float,
        previous: NDArray[np.int32],
        following: NDArray[np.int32],
    ) -> Floats:
        """BM25 of every row, shape [len(previous)]. Links are rows, or -1 where there is no neighbour."""
        size = len(previous)
        total = np.zeros(size + 1, np.float32)  # the last place takes what goes to neighbours that are not there
        times = np.zeros(size + 1, np.float32)
        normal = 1 - B + B * self._lengths[:size] / np.float32(average_length)
        for stem, weight in zip(stems, idf.tolist(), strict=True):
            posting = self._posting(stem)
            if posting is None:
                continue
            rows = posting.rows[: posting.count]
            own = posting.times[: posting.count] / normal[rows]
            after, before = following[rows], previous[rows]
            times[rows] += own
            times[after] += np.float32(PREVIOUS_WEIGHT) * own  # one row is the next of at most one: no sums get lost
            times[before] += np.float32(NEXT_WEIGHT) * own
            touched = np.concatenate((rows, after, before))
            found = times[touched]
            # A row that is touched twice is written twice with the same value.
            total[touched] = total[touched] + np.float32(weight * (K1 + 1)) * found / (found + np.float32(K1))
            times[touched] = 0
        return total[:size]

    def holds(self, row: int, stems: Sequence[str]) -> tuple[str, ...]:
        """Those of the stems that the row itself holds."""
        own = self._forward.get(row)
        if own is None:
            return ()
        terms = set(own.tolist())
        return tuple(stem for stem in stems if self._terms.get(stem) in terms)

    def _posting(self, stem: str) -> _Posting | None:
        term = self._terms.get(stem)
        return None if term is None else self._postings[term]

    # --- on disk -----------------------------------------------------------------------------------------------

    def save(self) -> bytes:
        """Everything, as one file of arrays: the stems in alphabetical order, and nothing of memories dropped."""
        names = sorted(self._terms)
        postings = [self._postings[self._terms[name]] for name in names]
        kept = [posting for posting in postings if posting is not None]
        text = "\n".join(names).encode()
        buffer = io.BytesIO()
        np.savez(
            buffer,
            names=np.frombuffer(text, np.uint8),
            counts=np.array([posting.count for posting in kept], np.int64),
            rows=_joined([posting.rows[: posting.count] for posting in kept], np.int32),
            times=_joined([posting.times[: posting.count] for posting in kept], np.float32),
            present=np.array(sorted(self._forward), np.int32),  # also rows without a single stem
            lengths=self._lengths,
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, content: bytes) -> Lexical:
        """What `save` returned.

        Raises:
            ValueError, KeyError: it is no such file.
        """
        lexical = cls()
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            text, counts, rows, times = (arrays[name] for name in ("names", "counts", "rows", "times"))
            present, lexical._lengths = arrays["present"], arrays["lengths"]
        names = text.tobytes().decode().split("\n") if len(text) else []
        if len(names) != len(counts) or int(counts.sum()) != len(rows) or len(rows) != len(times):
            raise ValueError("the lexical arrays do not belong together")
        ends = np.cumsum(counts)
        for count, end in zip(counts.tolist(), ends.tolist(), strict=True):
            lexical._postings.append(_Posting(rows[end - count : end], times[end - count : end], count))
        lexical._names = list(names)
        lexical._terms = {name: term for term, name in enumerate(names)}
        lexical._forward = _forward(present, rows, np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        lexical._total = int(lexical._lengths[present].sum(dtype=np.float64))
        return lexical


def _forward(present: Rows, rows: Rows, terms: NDArray[np.int32]) -> dict[int, NDArray[np.int32]]:
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], present, side="left"), np.searchsorted(rows[order], present, side="right")
    by_row = terms[order]
    places = zip(present.tolist(), bounds[0].tolist(), bounds[1].tolist(), strict=True)
    return {row: by_row[start:end] for row, start, end in places}


def _joined(parts: list[NDArray[np.int32]] | list[Floats], dtype: type[np.int32] | type[np.float32]) -> NDArray:  # type: ignore[type-arg]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _grown(array: NDArray, room: int) -> NDArray:  # type: ignore[type-arg]
    grown = np.zeros(room, array.dtype)
    grown[: len(array)] = array
    return grown
