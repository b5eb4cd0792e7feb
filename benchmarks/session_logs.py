"""Logs of sessions, for the benchmark of the scheduler: from public conversations, and generated.

Of the public sets (see `benchmarks/recall_quality.py` for where they lie) a turn is a question, and what was used for
it is its evidence. RealMem says in which session each question was asked: that is its log. LoCoMo does not: its
questions are taken in the order of the file, eight to a session, an hour apart; and shuffled, as a control: then there
is nothing to predict but what is asked about most. Generated logs come from a person with
topics, of which sessions are made; what makes them predictable is named and can be taken away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.scheduler.scenes import Item, Shelf, Turn

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
BYTES_PER_TOKEN = 12_288  # KV of the 0.5B shape in bfloat16
CHARS_PER_TOKEN = 4
QUESTIONS_A_SESSION = 8
EMBEDDED_CHARS = 1_000
START = datetime(2026, 1, 5, 8, tzinfo=UTC)  # a Monday


@dataclass(frozen=True, slots=True)
class SessionLog:
    """One person's memories, and the turns of their sessions in order of time."""

    name: str
    shelf: Shelf
    turns: tuple[Turn, ...]

    @property
    def sessions(self) -> list[str]:
        return list(dict.fromkeys(turn.session for turn in self.turns))

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.shelf.items)


def tokens_of(text: str) -> int:
    return max(1, len(text) // CHARS_PER_TOKEN)


def answerable(store: dict[str, Any]) -> list[dict[str, Any]]:
    """The questions of a store that have evidence."""
    return [query for query in store["queries"] if query["gold"]]


def vectors_of(store: dict[str, Any], embed: Embed) -> tuple[Vectors, Vectors]:
    """Of its memories, and of its answerable questions."""
    return (
        embed([memory["content"][:EMBEDDED_CHARS] for memory in store["memories"]]),
        embed([query["text"][:EMBEDDED_CHARS] for query in answerable(store)]),
    )


def from_set(store: dict[str, Any], embedded: tuple[Vectors, Vectors], *, shuffled: bool = False) -> SessionLog:
    """The log of one store of a public set; `shuffled`: its questions in random order, as a control."""
    memories = store["memories"]
    vectors, asked_vectors = embedded
    asked = list(zip(answerable(store), asked_vectors, strict=True))
    if shuffled:
        asked = [asked[place] for place in np.random.default_rng(0).permutation(len(asked))]
    began = _began(memories)
    last = max(began.values()) + timedelta(hours=1)
    items, position = [], dict.fromkeys(began, 0)
    for number, memory in enumerate(memories):
        position[memory["session"]] += 1
        at = began[memory["session"]] + timedelta(minutes=5, milliseconds=position[memory["session"]])
        size = BYTES_PER_TOKEN * tokens_of(memory["content"])
        items.append(Item(memory["key"], size, at, memory["session"], number))
    turns = []
    for number, (query, vector) in enumerate(asked):
        session = query.get("as_of_session")
        if session:
            at = began.get(session, last) + timedelta(seconds=number % 200)
        else:
            session = f"asked {number // QUESTIONS_A_SESSION}"
            at = last + timedelta(hours=number // QUESTIONS_A_SESSION, minutes=number % QUESTIONS_A_SESSION)
        turns.append(Turn(session, at, tuple(query["gold"]), vector))
    turns.sort(key=lambda turn: turn.at)
    early = [item.created_at <= turns[len(turns) // 2].at for item in items]
    return SessionLog(str(store["id"]), Shelf(items, vectors, vectors[early].mean(axis=0)), tuple(turns))


def _began(memories: Sequence[dict[str, Any]]) -> dict[str, datetime]:
    """When each session began: on its day, and in the order of their numbers."""
    days = {}
    for memory in memories:
        days.setdefault(memory["session"], datetime.fromisoformat(memory["at"]).replace(tzinfo=UTC))
    began: dict[str, datetime] = {}
    earliest = datetime.min.replace(tzinfo=UTC)
    for session in sorted(days, key=_number):
        began[session] = max(days[session], earliest)
        earliest = began[session] + timedelta(minutes=10)
    return began


def _number(session: str) -> int:
    found = re.search(r"\d+", session)
    return int(found[0]) if found else 0


@dataclass(frozen=True, slots=True)
class Person:
    """What makes a generated log predictable: each a share of turns, the rest is drawn at random."""

    name: str
    habit: float = 0.0  # sessions whose topic follows from the hour of the day
    chain: float = 0.0  # turns that need what is always needed after the turn before
    topic: float = 0.0  # turns that stay in the session's topic
    again: float = 0.0  # turns that need what was needed lately


PEOPLE = (
    Person("habits", habit=0.8, topic=0.8),
    Person("procedures", chain=0.7, topic=0.2),
    Person("topics", topic=0.9),
    Person("the same again", again=0.8),
    Person("no pattern"),
)
TOPICS, MEMORIES_A_TOPIC, DIMENSION = 12, 30, 64
SESSIONS, TURNS_A_SESSION = 120, 6


def generated(person: Person, seed: int = 0, sessions: int = SESSIONS) -> SessionLog:
    """A person of 360 memories in 12 topics, and sessions of 6 turns, three a day."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(TOPICS, DIMENSION))
    topic_of = np.repeat(np.arange(TOPICS), MEMORIES_A_TOPIC)
    vectors = _unit(centres[topic_of] + random.normal(size=(len(topic_of), DIMENSION)))
    sizes = random.integers(20, 120, len(topic_of))
    made = START - timedelta(days=1)
    items = [
        Item(f"m{place}", int(size) * BYTES_PER_TOKEN, made, f"talk {topic}", place)
        for place, (size, topic) in enumerate(zip(sizes, topic_of, strict=True))
    ]
    follower = random.permutation(len(items))
    recent: list[int] = []
    turns = []
    for number in range(sessions):
        day, part = divmod(number, 3)
        at = START + timedelta(days=day, hours=5 * part)
        own = (at.weekday() // 2 * 3 + part) % TOPICS
        topic = own if random.random() < person.habit else int(random.integers(TOPICS))
        for turn in range(TURNS_A_SESSION):
            place = _next(person, random, recent, follower, np.flatnonzero(topic_of == topic), bool(turn))
            recent.append(place)
            question = _unit((vectors[place] + random.normal(size=DIMENSION) / 8)[None, :])[0]
            turns.append(Turn(f"s{number}", at + timedelta(minutes=turn), (items[place].id,), question))
    return SessionLog(person.name, Shelf(items, vectors), tuple(turns))


def _next(
    person: Person,
    random: np.random.Generator,
    recent: Sequence[int],
    follower: NDArray[np.intp],
    of_topic: NDArray[np.intp],
    within_session: bool,
) -> int:
    drawn = random.random()
    if drawn < person.chain and within_session:
        return int(follower[recent[-1]])
    if drawn < person.again and recent:
        return int(random.choice(recent[-10:]))
    if drawn >= 1 - person.topic:
        return int(random.choice(of_topic))
    return int(random.integers(len(follower)))


def _unit(vectors: NDArray[np.float64]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float32)
