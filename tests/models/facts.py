"""Synthetic facts, the sentences that state them, and the questions about them: what the small model can talk about.

Everything is drawn from a `random.Random`, so that a seed names a set of cases. Nothing here knows of models, tensors
or stores. A case never depends on a fact of the world: who lives in which city is drawn anew each time, so that whoever
answers rightly has read the statements.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace


def words(text: str) -> list[str]:
    return text.split()


SYLLABLES = words("ka lo mi ra te su no vi da pe zo li ga fu be ro na ti shi mo")
STATEMENTS = (
    "the {about} of {name} is {value} .",
    "{name} has the {about} {value} .",
    "note : {about} of {name} = {value} .",
)
QUESTIONS = ("what is the {about} of {name} ?", "tell me the {about} of {name} .", "{name} 's {about} ?")
UNKNOWN = "unknown"
KINDS = ("known", "updated", "unknown", "without")


def _made_up(count: int, seed: int) -> list[str]:
    draw, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        found["".join(draw.choice(SYLLABLES) for _ in range(2))] = None
    return list(found)


NAMES = [*words("alice bob carol dave erin frank grace heidi ivan judy"), *(f"{word}n" for word in _made_up(90, 1))]
VALUES: dict[str, list[str]] = {
    "city": [*words("paris london tokyo berlin rome"), *(f"{word}ville" for word in _made_up(35, 2))],
    "color": words("red green blue black white pink gray brown orange violet gold silver"),
    "pet": words("cat dog horse parrot rabbit turtle hamster goat snake fish"),
    "food": words("pizza sushi pasta soup salad curry bread rice cheese tacos"),
    "job": words("baker doctor pilot teacher lawyer farmer singer writer nurse chef"),
    "code": [],  # four digits
}
ABOUT = list(VALUES)


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    about: str
    value: str

    @property
    def key(self) -> tuple[str, str]:
        """What it is about: a later statement with the same key takes its place."""
        return self.name, self.about


def value_of(draw: random.Random, about: str, other_than: str = "") -> str:
    while True:
        value = draw.choice(VALUES[about]) if VALUES[about] else "".join(draw.choice("0123456789") for _ in range(4))
        if value != other_than:
            return value


def some_fact(draw: random.Random) -> Fact:
    about = draw.choice(ABOUT)
    return Fact(draw.choice(NAMES), about, value_of(draw, about))


def some_facts(draw: random.Random, count: int) -> list[Fact]:
    """Facts of different keys: half the time all about one thing, often about few names, which is harder."""
    kind = draw.random()
    if kind < 0.5:
        about = draw.choice(ABOUT)
        return [Fact(name, about, value_of(draw, about)) for name in draw.sample(NAMES, count)]
    names = draw.sample(NAMES, max(2, (count + 2) // 3)) if kind < 0.75 else NAMES
    keys = draw.sample([(name, about) for name in names for about in ABOUT], count)
    return [Fact(name, about, value_of(draw, about)) for name, about in keys]


def updated(draw: random.Random, facts: Sequence[Fact], count: int) -> tuple[list[Fact], list[Fact]]:
    """The facts with `count` later ones that contradict earlier ones, and what holds in the end."""
    told = list(facts)
    changed = {
        fact.key: replace(fact, value=value_of(draw, fact.about, fact.value)) for fact in draw.sample(told, count)
    }
    for fact in changed.values():
        earlier = next(place for place, other in enumerate(told) if other.key == fact.key)
        told.insert(draw.randint(earlier + 1, len(told)), fact)
    return told, [changed.get(fact.key, fact) for fact in facts]


def unsaid(draw: random.Random, told: Sequence[Fact]) -> Fact:
    """A fact of which nothing is said; two times in five it shares its name or its matter with one that is."""
    known = {fact.key for fact in told}
    while True:
        fact = some_fact(draw)
        if told and draw.random() < 0.4:
            near = draw.choice(told)
            fact = replace(fact, name=near.name) if draw.random() < 0.5 else replace(fact, about=near.about)
        if fact.key not in known:
            return fact


def statement(draw: random.Random, fact: Fact, full_stop: bool = True) -> str:
    said = draw.choice(STATEMENTS).format(name=fact.name, about=fact.about, value=fact.value)
    return said if full_stop else said.removesuffix(" .")


def question(draw: random.Random, fact: Fact) -> str:
    return draw.choice(QUESTIONS).format(name=fact.name, about=fact.about)


@dataclass(frozen=True, slots=True)
class Case:
    """Statements, oldest first, a question, and the one right answer to it."""

    told: tuple[Fact, ...]
    statements: tuple[str, ...]
    asked: Fact
    question: str
    answer: str


def some_case(draw: random.Random, facts: int, updates: int = 0, kind: str = "known") -> Case:
    """A case of one of `KINDS`: asked for what was said, was updated, was not said, or where nothing was told."""
    told, holds = updated(draw, some_facts(draw, facts), updates)
    if kind == "updated":
        keys = [fact.key for fact in told]
        asked = draw.choice([fact for fact in holds if keys.count(fact.key) == 2])
    elif kind == "unknown":
        asked = unsaid(draw, holds)
    else:
        asked = draw.choice(holds)
    said = tuple(statement(draw, fact, draw.random() < 0.5) for fact in told) if kind != "without" else ()
    answer = asked.value if kind in ("known", "updated") else UNKNOWN
    return Case(tuple(told) if said else (), said, asked, question(draw, asked), answer)


def some_cases(seed: int, count: int, facts: int, updates: int = 0, kind: str = "known") -> list[Case]:
    draw = random.Random(seed)
    return [some_case(draw, facts, updates, kind) for _ in range(count)]
