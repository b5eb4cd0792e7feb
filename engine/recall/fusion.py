"""Weighing candidates: what each figure of the pool adds to a memory's place in the ranking.

The sum is linear, and both relevance parts are divided by the best of the pool (dense and lexical in 1 : 0.9), which
was measured to beat rank fusion. On top come gentle preferences that follow from the query: who spoke, the person
before the assistant, recent sessions for a query of a conversation that is going on, texts that name a time for a query
that asks when, sessions that hold several good candidates. Rules and their measured effect: docs/recall.md.

Several cubes are weighed together: the figures are comparable because idf, lengths and maxima are those of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.index.cube_index import Hits
from engine.recall.query import Live, Query

WHOLE_SHARE = 0.5  # of meaning: the whole memory; the rest is its best passage
WORDS = 0.9
SPEAKER = 0.2  # the query names who said it
ROLE = 0.45  # people's own words before an assistant's, which are long and near to everything
RECENCY = {Live.NO: 0.1, Live.PERHAPS: 0.3, Live.YES: 0.6}
RECENCY_SESSIONS = 10.0  # after so many newer sessions recency is worth 1/e
TIMED = 0.15
PERIOD = 0.2  # it happened in, or speaks of, the time that the query speaks of
SESSION = 0.1  # several good candidates in one session support one another
SESSION_TOP = 3

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pool:
    """The candidates of all cubes in one: `cube` is the number of the cube, `total` the weighed sum."""

    hits: Hits
    cube: NDArray[np.int64]
    meaning: Scores  # 0..1, the best of the pool is 1
    words: Scores
    total: Scores


def weigh(query: Query, found: Sequence[Hits]) -> Pool:
    """Join the pools of several cubes and weigh every candidate."""
    hits = join(found)
    cube = np.repeat(np.arange(len(found)), [len(part.label) for part in found])
    meaning = _to_best(WHOLE_SHARE * hits.whole + (1 - WHOLE_SHARE) * hits.nearest)
    words = _to_best(hits.words)
    person = hits.assistant if query.to_assistant else ~hits.assistant
    total = (
        meaning
        + WORDS * words
        + SPEAKER * hits.spoken
        + ROLE * person
        + RECENCY[query.live] * np.exp(-_age(hits) / RECENCY_SESSIONS)
        + PERIOD * hits.in_period
    )
    if query.asks_when:
        total += TIMED * hits.timed
    total += SESSION * _support(hits.session, cube, total)
    return Pool(hits, cube, meaning, words, total)


def join(found: Sequence[Hits]) -> Hits:
    """One after the other; sessions of all cubes in one order."""
    if len(found) == 1:
        return found[0]
    columns = {name: np.concatenate([getattr(part, name) for part in found]) for name in Hits.__slots__}
    columns["sessions"] = np.sort(columns["sessions"])
    return Hits(**columns)


def _to_best(scores: NDArray[np.float32]) -> Scores:
    best = float(scores.max(initial=0.0))
    return np.maximum(scores, 0).astype(np.float64) / best if best > 0 else np.zeros(len(scores))


def _age(hits: Hits) -> Scores:
    """How many sessions are newer than that of each candidate."""
    newer = len(hits.sessions) - np.searchsorted(hits.sessions, hits.session, side="right")
    return newer.astype(np.float64)


def _support(session: NDArray[np.int64], cube: NDArray[np.int64], total: Scores) -> Scores:
    """The mean of the best few totals in each candidate's session, over that of the best session."""
    if not len(total):
        return total
    order = np.lexsort((-total, session, cube))
    starts = np.flatnonzero(np.r_[True, (np.diff(session[order]) != 0) | (np.diff(cube[order]) != 0)])
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    means = np.add.reduceat(np.where(place < SESSION_TOP, total[order], 0.0), starts) / SESSION_TOP
    result = np.empty(len(order))
    result[order] = np.repeat(means / means.max(), np.diff(np.r_[starts, len(order)]))
    return result
