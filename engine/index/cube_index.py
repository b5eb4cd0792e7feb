"""The index of one cube: what it knows of each memory, its words and its vectors, searched together.

`search` answers with a pool: the best by words, the nearest in meaning, and the turns beside them, each with the raw
figures that ranking needs. Weighing them is `engine.recall`'s. The vault is the truth; this holds no content, and can
be built anew from the vault at any time with the same answers. Any number of threads may ask while one writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.index import snapshot
from engine.index.lexical import Counts, Lexical
from engine.index.passages import PASSAGES_VERSION
from engine.index.readers_writer import ReadersWriter
from engine.index.rows import Entry, Filter, Flags, Rows, Seen, Times
from engine.index.snapshot import Member, SnapshotUnusable
from engine.index.vectors import EXACT_LIMIT, Floats, Keys, Vectors
from engine.text.words import WORDS_VERSION, stems

__all__ = ["CubeIndex", "Entry", "Facts", "Filter", "Hits", "Question", "Searched"]

FORMAT = 2
PASSAGE_BITS = 8  # the key of a vector: row << 8 | number of the passage
POOL = 300  # candidates by words, and as many by meaning
NEIGHBOURS_OF = 20  # of so many best in meaning, the turns beside them are looked at too


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for. `idf` and `average_length` come from the counts of all cubes that are asked."""

    stems: tuple[str, ...]
    idf: Floats
    average_length: float
    vector: Floats | None  # [dimension], of length 1
    filter: Filter
    speakers: tuple[str, ...] = ()  # those whom the query names
    period: tuple[int, int] | None = None  # microseconds: a time that the query speaks of


@dataclass(frozen=True, slots=True)
class Hits:
    """A pool of candidates: parallel arrays, in the order of labels."""

    label: NDArray[np.int64]
    words: Floats  # BM25 with neighbours
    whole: Floats  # cosine of the whole memory, 0 where it has no vector
    nearest: Floats  # the best cosine among its passages
    event: Times
    session: NDArray[np.int64]  # when its session began, which also names the session
    spoken: Flags  # by one whom the query names
    assistant: Flags
    timed: Flags
    changes: NDArray[np.int8]
    in_period: Flags
    sessions: Times  # when each session of the cube's allowed memories began, ascending


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one memory: its id, the stems of the query that it holds itself, the ids of the turns beside it."""

    id: str
    held: tuple[str, ...]
    beside: tuple[str, ...]


class Searched(Protocol):
    """What ranking asks of a cube's index, or of the part of it that somebody sees."""

    def counts(self, query_stems: Sequence[str]) -> Counts: ...

    def speakers(self) -> tuple[str, ...]: ...

    def search(self, question: Question) -> Hits: ...

    def facts(self, labels: Sequence[int], query_stems: Sequence[str]) -> list[Facts | None]: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """The part of an index that somebody sees: it answers as an index that holds nothing else."""

    index: CubeIndex
    seen: Seen

    def counts(self, query_stems: Sequence[str]) -> Counts:
        return self.index.counts(query_stems, self.seen)

    def speakers(self) -> tuple[str, ...]:
        return self.index.speakers(self.seen)

    def search(self, question: Question) -> Hits:
        return self.index.search(question, self.seen)

    def facts(self, labels: Sequence[int], query_stems: Sequence[str]) -> list[Facts | None]:
        return self.index.facts(labels, query_stems, self.seen)


class CubeIndex:
    """One cube. `dimension` None: no vectors."""

    def __init__(self, dimension: int | None, exact_limit: int = EXACT_LIMIT) -> None:
        self.dimension = dimension
        self._exact_limit = exact_limit  # vectors: beyond it, only those of the pool are compared
        self._lock = ReadersWriter()
        self._rows = Rows()
        self._lexical = Lexical()
        self._vectors = None if dimension is None else Vectors(dimension, exact_limit)

    def __len__(self) -> int:
        return len(self._rows)

    # --- keeping -----------------------------------------------------------------------------------------------

    def apply(self, entry: Entry, vectors: Floats | None) -> None:
        """Add a memory or replace it, with all its vectors [passages, dimension]; None: it has none (yet)."""
        words = stems(entry.content)
        count = 0 if vectors is None or self._vectors is None else min(len(vectors), 1 << PASSAGE_BITS)
        with self._lock.write():
            self._drop(entry.label)
            row = self._rows.put(entry, count)
            self._lexical.put(row, words)
            if self._vectors is not None and vectors is not None and count:
                self._vectors.put(_keys(row, count), vectors[:count])

    def remove(self, label: int) -> None:
        """Forget a memory; nothing happens when it is not there."""
        with self._lock.write():
            self._drop(label)

    def _drop(self, label: int) -> None:
        row = self._rows.row_of.get(label)
        if row is None:
            return
        if self._vectors is not None:
            self._vectors.drop(_keys(row, int(self._rows["passages"][row])))
        self._lexical.drop(row)
        self._rows.drop(label)

    def tend(self) -> None:
        """Keep the vectors' graph in shape; for a background thread, now and then."""
        if self._vectors is not None:
            self._vectors.tend()

    # --- asking ------------------------------------------------------------------------------------------------

    def showing(self, seen: Seen) -> Shown:
        """What of this index exists for who sees memories that are so sensitive."""
        return Shown(self, seen)

    def counts(self, query_stems: Sequence[str], seen: Seen = None) -> Counts:
        """What the words of a query are worth in this cube."""
        with self._lock.read():
            return self._lexical.counts(query_stems, self._rows.hidden(seen))

    def speakers(self, seen: Seen = None) -> tuple[str, ...]:
        """The names of those who spoke in this cube's conversations."""
        with self._lock.read():
            return self._rows.speakers(self._rows.hidden(seen))

    def search(self, question: Question, seen: Seen = None) -> Hits:
        """The pool for a question."""
        with self._lock.read():
            rows = self._rows
            hidden = rows.hidden(seen)
            allowed = rows.allowed(question.filter, hidden)
            links = rows.links(hidden)
            words = self._lexical.scores(question.stems, question.idf, question.average_length, *links)
            words[~allowed] = 0
            whole, nearest, by_meaning = self._meaning(question.vector, allowed)
            by_words = _best(words, POOL)
            beside = [link[by_meaning[:NEIGHBOURS_OF]] for link in links]
            pool = np.unique(np.concatenate((by_words, by_meaning, *beside)))
            pool = pool[(pool >= 0) & allowed[pool]]
            if whole is None or nearest is None:
                whole, nearest = self._cosines(question.vector, pool)
            else:
                whole, nearest = whole[pool], nearest[pool]
            return self._hits(question, pool, words[pool], whole, nearest, allowed, rows.moments(hidden))

    def facts(self, labels: Sequence[int], query_stems: Sequence[str], seen: Seen = None) -> list[Facts | None]:
        """What there is to say about found memories; None for one that has left in the meantime."""
        with self._lock.read():
            hidden = self._rows.hidden(seen)
            links = self._rows.links(hidden)
            rows = (self._rows.row_of.get(label) for label in labels)
            return [
                None if row is None or (hidden is not None and hidden[row]) else self._facts_of(row, query_stems, links)
                for row in rows
            ]

    def _facts_of(
        self, row: int, query_stems: Sequence[str], links: tuple[NDArray[np.int32], NDArray[np.int32]]
    ) -> Facts:
        ids = self._rows.ids
        beside = [int(link[row]) for link in links]
        held = self._lexical.holds(row, query_stems)
        return Facts(ids[row] or "", held, tuple(ids[other] or "" for other in beside if other >= 0))

    def _meaning(self, vector: Floats | None, allowed: Flags) -> tuple[Floats | None, Floats | None, NDArray[np.int64]]:
        """Cosines of every row (None: too many rows to compute them all), and the nearest rows, best first."""
        vectors = self._vectors
        if vector is None or vectors is None or not len(vectors):
            zeros = np.zeros(len(allowed), np.float32)
            return zeros, zeros, np.zeros(0, np.int64)
        if len(vectors) > self._exact_limit:
            keys, cosines = vectors.search(vector, 2 * POOL, lambda keys: allowed[keys >> PASSAGE_BITS])
            rows = keys[cosines > 0] >> PASSAGE_BITS
            return None, None, rows[np.sort(np.unique(rows, return_index=True)[1])]
        keys, cosines = vectors.scores(vector)
        whole, nearest = _by_row(keys, cosines, len(allowed))
        return whole, nearest, _best(np.where(allowed, nearest, 0), POOL)

    def _cosines(self, vector: Floats | None, pool: NDArray[np.int64]) -> tuple[Floats, Floats]:
        assert vector is not None
        assert self._vectors is not None
        keys = np.concatenate([_keys(row, int(self._rows["passages"][row])) for row in pool.tolist()] or [_keys(0, 0)])
        whole, nearest = _by_row(keys, self._vectors.cosines(vector, keys), self._rows.size)
        return whole[pool], nearest[pool]

    def _hits(
        self,
        question: Question,
        pool: NDArray[np.int64],
        words: Floats,
        whole: Floats,
        nearest: Floats,
        allowed: Flags,
        moments: Times,
    ) -> Hits:
        rows = self._rows
        order = np.argsort(rows["label"][pool])
        pool, words, whole, nearest = pool[order], words[order], whole[order], nearest[order]
        actors = [code for name in question.speakers if (code := rows.actors.code(name)) is not None]
        spoken = np.isin(rows["actor"][pool], actors) if actors else np.zeros(len(pool), np.bool_)
        during = np.zeros(rows.size, np.bool_) if question.period is None else rows.during(*question.period)
        held = np.zeros(len(moments), np.bool_)
        held[rows["session"][allowed]] = True
        return Hits(
            label=rows["label"][pool],
            words=words,
            whole=whole,
            nearest=nearest,
            event=rows["event"][pool],
            session=moments[rows["session"][pool]],
            spoken=spoken,
            assistant=rows["assistant"][pool],
            timed=rows["timed"][pool],
            changes=rows["changes"][pool],
            in_period=during[pool],
            sessions=np.sort(moments[held]),
        )

    # --- on disk -----------------------------------------------------------------------------------------------

    def save(self, folder: Path, revision: int, facts: Mapping[str, Any]) -> None:
        """Write the snapshot. Nothing of memories that were removed is in it.

        Raises:
            OSError: the disk refused; the snapshot before still counts.
        """
        with self._lock.read():
            arrays, names = self._rows.save()
            members: dict[str, Member] = {"rows.npz": arrays, "names.json": names, "lexical.npz": self._lexical.save()}
            if self._vectors is not None:
                members.update(self._vectors.members())
            members["about.json"] = json.dumps({"dimension": self.dimension}).encode()
            snapshot.write(folder, revision, _with_rules(facts), members)

    @classmethod
    def load(cls, folder: Path, facts: Mapping[str, Any]) -> tuple[CubeIndex, int]:
        """The index in a snapshot and the revision of the vault that it reflects.

        Raises:
            SnapshotUnusable: there is none that is whole and was made under these facts.
        """
        found = snapshot.read(folder, _with_rules(facts))
        try:
            index = cls(json.loads(found.content("about.json"))["dimension"])
            index._rows = Rows.load(found.content("rows.npz"), found.content("names.json"))
            index._lexical = Lexical.load(found.content("lexical.npz"))
        except (ValueError, KeyError, TypeError) as error:
            raise SnapshotUnusable(f"it cannot be read: {error!r}") from error
        if len(index._lexical) != len(index._rows):
            raise SnapshotUnusable("its parts do not belong together")
        if index.dimension is not None:
            index._vectors = Vectors.from_snapshot(found, index.dimension)
        return index, found.revision


def _with_rules(facts: Mapping[str, Any]) -> dict[str, Any]:
    """With the rules by which the index was made: what other rules made is made anew."""
    return {**facts, "index": {"format": FORMAT, "words": WORDS_VERSION, "passages": PASSAGES_VERSION}}


def _keys(row: int, passages: int) -> Keys:
    return (row << PASSAGE_BITS) + np.arange(passages, dtype=np.int64)


def _by_row(keys: Keys, cosines: Floats, size: int) -> tuple[Floats, Floats]:
    """The cosine of the whole and the best cosine, of each row; 0 where it has no vector or is turned away."""
    whole, nearest = np.zeros(size, np.float32), np.zeros(size, np.float32)
    rows = keys >> PASSAGE_BITS
    first = keys & ((1 << PASSAGE_BITS) - 1) == 0
    whole[rows[first]] = np.maximum(cosines[first], 0)
    np.maximum.at(nearest, rows, cosines)
    return whole, nearest


def _best(scores: Floats, count: int) -> NDArray[np.int64]:
    """The places of the `count` highest scores above 0, best first."""
    places = np.flatnonzero(scores > 0)
    if len(places) > count:
        places = places[np.argpartition(scores[places], len(places) - count)[len(places) - count :]]
    return places[np.argsort(-scores[places], kind="stable")]
