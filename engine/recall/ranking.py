"""recall's ranking, from a request to candidates with scores and reasons. Reads top to bottom.

    understand the query → what its words are worth in all cubes together → a pool from each index → weigh →
    newest of rivals first → calibrate → say why

Pure apart from reading the indexes. Which memories the caller may see, and what is returned of them, is decided
elsewhere: this ranks whatever indexes it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from engine.index.cube_index import Facts, Filter, Question, Searched
from engine.index.lexical import Counts
from engine.index.rows import microseconds
from engine.index.vectors import Floats
from engine.lifecycle.states import LIVE
from engine.operations import Recall
from engine.recall.calibration import Evidence, nothing_relevant, scores
from engine.recall.fusion import Pool, Scores, weigh
from engine.recall.query import Query, understand
from engine.recall.rivals import Ranked, newest_first

MAX_STEMS = 64  # of a very long query the most telling words; the rest only costs time
SPARE = 16  # candidates beyond the limit: the vault may have let some go in the meantime
DIGITS = 6  # differences below are rounding, and must not decide an order
NEAR = 0.3  # a cosine worth mentioning


@dataclass(frozen=True, slots=True)
class Candidate:
    """`why` says in words what found it."""

    cube: str
    label: int
    id: str
    score: float
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Best first; a few more than the limit."""

    candidates: tuple[Candidate, ...]
    nothing_relevant: bool


def meaning(text: str, indexes: Mapping[str, Searched]) -> str:
    """What to embed for a query: its text without the names of speakers, which are no part of what is said."""
    return _understood(text, indexes, None).meaning


def rank(request: Recall, indexes: Mapping[str, Searched], query_vector: Floats | None, now: datetime) -> Ranking:
    """The memories in `indexes` (by cube) that answer the request best.

    `query_vector`, shape [dimension], is that of `meaning(request.query, indexes)`; None: by words alone.
    """
    if not indexes:
        return Ranking((), nothing_relevant=True)
    query = _understood(request.query, indexes, now)
    worth = _worth(query, indexes)
    question = Question(
        stems=worth.stems,
        idf=worth.idf,
        average_length=worth.average_length,
        vector=query_vector,
        filter=_filter(request, now),
        speakers=query.speakers,
        period=None if query.period is None else (microseconds(query.period[0]), microseconds(query.period[1])),
    )
    names = sorted(indexes)
    pool = weigh(query, [indexes[name].search(question) for name in names])
    ranked = newest_first(pool.hits, pool.total) if query.present else Ranked(pool.total)
    order = np.lexsort((pool.hits.label, pool.cube, -np.round(ranked.total, DIGITS)))[: request.limit + SPARE]
    evidence = _evidence(pool, worth, query_vector)
    answer = _Answer(query, worth.stems, pool, ranked)
    return Ranking(
        candidates=_candidates(names, indexes, answer, order.tolist(), scores(evidence, ranked.total)),
        nothing_relevant=not len(order) or nothing_relevant(evidence),
    )


@dataclass(frozen=True, slots=True)
class _Worth:
    """The query's stems, and what each is worth."""

    stems: tuple[str, ...]
    idf: Floats
    average_length: float


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the reasons are read from."""

    query: Query
    stems: tuple[str, ...]
    pool: Pool
    ranked: Ranked


def _understood(text: str, indexes: Mapping[str, Searched], now: datetime | None) -> Query:
    return understand(text, {name for index in indexes.values() for name in index.speakers()}, now)


def _worth(query: Query, indexes: Mapping[str, Searched]) -> _Worth:
    """idf and lengths over all cubes, so that scores of different cubes can be compared."""
    counts = Counts(0, 0, np.zeros(len(query.stems), np.int64))
    for index in indexes.values():
        counts = counts + index.counts(query.stems)
    idf = counts.idf()
    kept = np.sort(np.argsort(-idf, kind="stable")[:MAX_STEMS])
    return _Worth(tuple(query.stems[place] for place in kept), idf[kept], counts.average_length)


def _filter(request: Recall, now: datetime) -> Filter:
    return Filter(
        kinds=request.kinds,
        tags=request.tags,
        states=() if request.include_archived else tuple(sorted(LIVE)),
        now=None if request.include_archived else now,
        after=request.after,
        before=request.before,
    )


def _evidence(pool: Pool, worth: _Worth, vector: Floats | None) -> Evidence:
    # A stem that stands once in a memory of average length is worth its idf: that is "holding" it.
    weight = float(worth.idf.sum())
    best = float(pool.hits.words.max(initial=0.0))
    nearest = float(pool.hits.nearest.max(initial=0.0))
    return Evidence(
        nearness=None if vector is None or nearest == 0.0 else nearest,
        coverage=min(1.0, best / weight) if weight else 0.0,
    )


def _candidates(
    names: list[str], indexes: Mapping[str, Searched], answer: _Answer, order: list[int], score: Scores
) -> tuple[Candidate, ...]:
    """The candidates at these places, best first, with what their indexes say of them."""
    pool = answer.pool
    said: dict[int, Facts] = {}
    for number, name in enumerate(names):
        places = [place for place in {*order, *answer.ranked.overtaken.values()} if pool.cube[place] == number]
        labels = [int(pool.hits.label[place]) for place in places]
        found = zip(places, indexes[name].facts(labels, answer.stems), strict=True)
        said.update({place: facts for place, facts in found if facts is not None})
    return tuple(
        Candidate(
            cube=names[int(pool.cube[place])],
            label=int(pool.hits.label[place]),
            id=said[place].id,
            score=round(float(score[place]), 4),
            why=_why(answer, said, place),
        )
        for place in order
        if place in said  # else it was removed since the search
    )


def _why(answer: _Answer, said: Mapping[int, Facts], place: int) -> tuple[str, ...]:
    hits, query = answer.pool.hits, answer.query
    reasons = []
    if said[place].held:
        told_by = dict(query.told_by)
        reasons.append("words: " + ", ".join(told_by[stem] for stem in said[place].held))
    elif hits.words[place] > 0 and said[place].beside:
        reasons.append("neighbour of " + " and ".join(said[place].beside))
    if hits.nearest[place] >= NEAR:
        reasons.append(f"meaning {hits.nearest[place]:.2f}")
    if hits.spoken[place]:
        reasons.append("spoken by " + ", ".join(query.speakers))
    if hits.in_period[place]:
        reasons.append("of the time asked about")
    older = answer.ranked.overtaken.get(place)
    if older is not None and older in said:
        reasons.append(f"newer than {said[older].id}")
    return tuple(reasons)
