"""What is known of a session so far, as numbers for each memory: where the next scene may lead.

A *scene* is a session up to now: what was asked, and which memories were used for it. `Habits` follows the log of uses
and keeps what it tells: how often and when each memory was used, what was used together and what after it. `features`
then gives one row of numbers for each memory.

Knows no model, no store and no clock: instants come with what happened. What must stay true: features are made of what
happened before the moment that is asked about, and of nothing else; the same log gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.scheduler.heat import FAST_HALF_LIFE_S

Vectors = NDArray[np.float32]
Numbers = NDArray[np.float64]
Places = NDArray[np.intp]

SCENE_FADES = 0.6  # what was asked one turn earlier counts this much of what was asked last
NEIGHBOURS_KEPT = 64  # memories whose use together with one memory is counted: bounds the size of the counts
NEAR_TURNS = 3.0  # memories so far apart in a conversation are near each other by half
HOUR_S = 3_600.0
TINY = 1e-9  # a norm that is no direction
NEVER_H = 24.0 * 365  # of what was never used: as if that long ago
DAYS_FADE = 0.9  # what a session was about counts this much of what the next one is, in what these days are about
LOOKED_AHEAD = 48  # a memory is said again by one of so many that came next

FEATURES = (
    "used lately",
    "used often",
    "heat",
    "new",
    "among the newest",
    "among the latest stored or used",
    "how its conversation ended",
    "said again since",
    "used in this session",
    "used last",
    "used in the session before",
    "used together",
    "used after",
    "from the same conversation",
    "near in the conversation",
    "like what was asked last",
    "like what the session is about",
    "like where the session is heading",
    "like what was used last",
    "like what the session before was about",
    "like what these days are about",
    "its hour of the day",
    "its day of the week",
)


@dataclass(frozen=True, slots=True)
class Item:
    """A memory that may be needed. `position` is where it stands among all memories of its cube, in time."""

    id: str
    bytes: int  # of the form that would be preloaded
    created_at: datetime
    session: str = ""  # the conversation that it comes from
    position: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """Something was asked, and memories were used for it. `vector` is the embedding of what was asked, norm 1."""

    session: str
    at: datetime
    used: tuple[str, ...]
    vector: Vectors | None = None


@dataclass(slots=True)
class Shelf:
    """The memories that may be needed, and their vectors [memories, dimension], norm 1 (None: no embedder).

    `middle` is what all memories have in common, which tells nothing apart (None: their mean).
    """

    items: Sequence[Item]
    vectors: Vectors | None = None
    middle: Vectors | None = None
    place: Mapping[str, int] = field(init=False)
    created: Numbers = field(init=False)
    sessions: NDArray[np.int64] = field(init=False)
    positions: Numbers = field(init=False)
    again: Vectors | None = field(init=False)  # [memories, LOOKED_AHEAD]: cosines to those that came next

    def __post_init__(self) -> None:
        self.place = {item.id: number for number, item in enumerate(self.items)}
        self.created = np.array([item.created_at.timestamp() for item in self.items], dtype=np.float64)
        names: dict[str, int] = {}
        self.sessions = np.array(
            [names.setdefault(item.session, len(names)) if item.session else -1 for item in self.items], dtype=np.int64
        )
        self.positions = np.array([item.position for item in self.items], dtype=np.float64)
        if self.vectors is not None and len(self.vectors):
            if self.middle is None:
                self.middle = np.asarray(self.vectors.mean(axis=0), dtype=np.float32)
            self.vectors = _unit(self.vectors - self.middle)
        self.again = self._again()

    def _again(self) -> Vectors | None:
        if self.vectors is None:
            return None
        found = np.zeros((len(self.items), LOOKED_AHEAD), dtype=np.float32)
        for ahead in range(1, min(LOOKED_AHEAD, len(self.items) - 1) + 1):
            found[:-ahead, ahead - 1] = (self.vectors[:-ahead] * self.vectors[ahead:]).sum(axis=1)
        return found

    def alike(self, vector: Vectors | None) -> Numbers:
        """Cosines of all memories to a direction, both without what all memories have in common."""
        if self.vectors is None or vector is None:
            return np.zeros(len(self.items))
        return np.asarray(self.vectors @ vector, dtype=np.float64)

    def direction(self, vector: Vectors | None) -> Vectors | None:
        """The embedding of a question, without what all memories have in common."""
        if self.middle is None or vector is None:
            return None
        return _unit(np.asarray(vector, dtype=np.float32) - self.middle)


def _unit(vectors: NDArray[Any]) -> Vectors:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, TINY), dtype=np.float32)


@dataclass(slots=True)
class _Scene:
    """A session up to now."""

    name: str = ""
    used: list[tuple[int, ...]] = field(default_factory=list)  # of each turn
    asked: list[Vectors] = field(default_factory=list)

    def about(self) -> Vectors | None:
        """Where the session stands: what was asked, the last the most."""
        if not self.asked:
            return None
        weights = np.array([SCENE_FADES**back for back in range(len(self.asked))][::-1], dtype=np.float32)
        return _unit((weights[:, None] * np.stack(self.asked)).sum(axis=0))

    def heading(self) -> Vectors | None:
        """Where the session drifts to: the last question, moved on as it moved from the one before."""
        if len(self.asked) < 2:
            return self.asked[-1] if self.asked else None
        return _unit(2 * self.asked[-1] - self.asked[-2])

    def all_used(self) -> list[int]:
        return [place for turn in self.used for place in turn]


class Habits:
    """What the log of uses tells, turn by turn. One person's log; never leaves the machine."""

    def __init__(self, shelf: Shelf) -> None:
        count = len(shelf.items)
        self.shelf = shelf
        self.uses = np.zeros(count)
        self.last = np.full(count, -np.inf)
        self._heat = np.zeros(count)
        self._hours = np.zeros((count, 24))
        self._days = np.zeros((count, 7))
        self._together: dict[int, dict[int, float]] = {}
        self._after: dict[int, dict[int, float]] = {}
        self._scene = _Scene()
        self._before = _Scene()
        self._days_about: Vectors | None = None
        self._stored: tuple[int, tuple[Numbers, Numbers]] | None = None

    def begin(self, session: str) -> None:
        """A session begins: what is known of it is that it is new."""
        if self._scene.name != session:
            if self._scene.used:
                self._before = self._scene
                self._follow_days(self._scene.about())
            self._scene = _Scene(session)

    def learn(self, turn: Turn) -> None:
        """Something was asked and used. Turns come in order of time; ids that are on no shelf are passed over."""
        self.begin(turn.session)
        used = tuple(dict.fromkeys(self.shelf.place[id] for id in turn.used if id in self.shelf.place))
        at = turn.at.timestamp()
        earlier = set(self._scene.all_used())
        for place in used:
            since = max(0.0, at - self.last[place])
            self._heat[place] = self._heat[place] * 0.5 ** (since / FAST_HALF_LIFE_S) + 1
            self.last[place] = at
            self.uses[place] += 1
            self._hours[place, turn.at.hour] += 1
            self._days[place, turn.at.weekday()] += 1
            for other in used:
                if other != place:
                    _count(self._together, place, other)
            for other in earlier - {place}:
                _count(self._together, place, other)
                _count(self._together, other, place)
        if self._scene.used:
            for before in self._scene.used[-1]:
                for place in used:
                    _count(self._after, before, place)
        self._scene.used.append(used)
        asked = self.shelf.direction(turn.vector)
        if asked is not None:
            self._scene.asked.append(asked)

    def features(self, now: datetime, candidates: Places) -> Numbers:
        """[candidates, FEATURES]: what speaks for each being needed next, each column from about 0 to about 1."""
        shelf, scene, before = self.shelf, self._scene, self._before
        stamp = now.timestamp()
        heat = self._heat * 0.5 ** (np.maximum(0.0, stamp - np.maximum(self.last, 0.0)) / FAST_HALF_LIFE_S)
        last_used = list(scene.used[-1]) if scene.used else []
        in_session = scene.all_used()
        columns = [
            _lateness(stamp - self.last),
            np.log1p(self.uses) / 3,
            np.log1p(heat),
            _lateness(stamp - shelf.created),
            1 / np.sqrt(1 + self._behind(shelf.created, stamp) / 8),
            1 / np.sqrt(1 + self._behind(np.maximum(shelf.created, self.last), stamp) / 8),
            *self._still(stamp),
            self._marked(in_session),
            self._marked(last_used),
            self._marked(before.all_used()),
            self._linked(self._together, in_session[-NEIGHBOURS_KEPT:]),
            self._linked(self._after, last_used),
            self._same_conversation(scene.used),
            self._near(last_used),
            shelf.alike(scene.asked[-1] if scene.asked else None),
            shelf.alike(scene.about()),
            shelf.alike(scene.heading()),
            shelf.alike(self._mean(last_used)),
            shelf.alike(before.about()),
            shelf.alike(self._days_about),
            (self._hours[:, now.hour] + 0.1) / (self.uses + 2.4),
            (self._days[:, now.weekday()] + 0.1) / (self.uses + 0.7),
        ]
        return np.stack([column[candidates] for column in columns], axis=1)

    def present(self, now: datetime) -> Places:
        """The places of the memories that are there by `now`."""
        return np.flatnonzero(self.shelf.created <= now.timestamp())

    def _behind(self, instants: Numbers, stamp: float) -> Numbers:
        """How many memories are later than each one, of those that are there by now."""
        there = np.sort(instants[self.shelf.created <= stamp])
        return np.asarray(len(there) - np.searchsorted(there, instants, side="right"), np.float64).clip(0)

    def _still(self, stamp: float) -> tuple[Numbers, Numbers]:
        """What changes only when a memory is stored."""
        there = int((self.shelf.created <= stamp).sum())
        if self._stored is None or self._stored[0] != there:
            self._stored = there, (self._ending(stamp), self._said_again(stamp))
        return self._stored[1]

    def _ending(self, stamp: float) -> Numbers:
        """1 for the last memory of each conversation so far, half for the one before it, and so on."""
        sessions = self.shelf.sessions
        found = np.zeros(len(sessions))
        there = np.flatnonzero((self.shelf.created <= stamp) & (sessions >= 0))
        order = there[np.lexsort((-self.shelf.positions[there], sessions[there]))]
        if len(order):
            first = np.flatnonzero(np.diff(sessions[order], prepend=-1))
            rank = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
            found[order] = 1 / (1.0 + rank)
        return found

    def _said_again(self, stamp: float) -> Numbers:
        """The cosine to the nearest of the memories that came next, up to now."""
        again = self.shelf.again
        count = len(self.shelf.items)
        if again is None or not count:
            return np.zeros(count)
        later = np.minimum(np.arange(count)[:, None] + np.arange(1, LOOKED_AHEAD + 1), count - 1)
        nearest = np.where(self.shelf.created[later] <= stamp, again, 0).max(axis=1)
        return np.asarray(nearest.clip(0), dtype=np.float64)

    def _follow_days(self, about: Vectors | None) -> None:
        if about is not None:
            known = self._days_about
            moved = about if known is None else DAYS_FADE * known + (1 - DAYS_FADE) * about
            self._days_about = _unit(moved)

    def _marked(self, places: Sequence[int]) -> Numbers:
        marks = np.zeros(len(self.shelf.items))
        marks[list(places)] = 1
        return marks

    def _linked(self, links: Mapping[int, Mapping[int, float]], places: Sequence[int]) -> Numbers:
        """How strongly each memory hangs together with some: counts by how often those were used."""
        found = np.zeros(len(self.shelf.items))
        for place in places:
            for other, count in links.get(place, {}).items():
                found[other] += count / (1 + self.uses[place])
        return np.log1p(found)

    def _same_conversation(self, turns: Sequence[tuple[int, ...]]) -> Numbers:
        found = np.zeros(len(self.shelf.items))
        for back, turn in enumerate(reversed(turns)):
            for session in {int(self.shelf.sessions[place]) for place in turn} - {-1}:
                found[self.shelf.sessions == session] += SCENE_FADES**back
        return np.minimum(found, 2) / 2

    def _near(self, places: Sequence[int]) -> Numbers:
        found = np.zeros(len(self.shelf.items))
        for place in places:
            apart = np.abs(self.shelf.positions - self.shelf.positions[place])
            np.maximum(found, 0.5 ** (apart / NEAR_TURNS), out=found)
        return found

    def _mean(self, places: Sequence[int]) -> Vectors | None:
        if self.shelf.vectors is None or not places:
            return None
        return _unit(self.shelf.vectors[list(places)].mean(axis=0))


def _lateness(seconds: Numbers) -> Numbers:
    """1 for now, 0 for never; each factor of time counts the same."""
    hours = np.minimum(np.maximum(seconds, 0.0) / HOUR_S, NEVER_H)
    return np.asarray(1 - np.log1p(hours) / math.log1p(NEVER_H))


def _count(links: dict[int, dict[int, float]], place: int, other: int) -> None:
    counts = links.setdefault(place, {})
    counts[other] = counts.get(other, 0.0) + 1
    if len(counts) > 2 * NEIGHBOURS_KEPT:
        kept = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:NEIGHBOURS_KEPT]
        links[place] = dict(kept)
