"""Other statements like given ones: what holds a model still where nothing else is at hand, and what nobody said.

Made from the forms of the statements themselves: subjects, attributes and values are exchanged among them and with
words that stand near theirs in the model's vocabulary, digits are drawn anew. Nothing drawn here is about what the
given statements are about, but where it is asked to contradict one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.text.statements import ATTRIBUTE, SUBJECT, VALUE, Kind, Statement, folded
from engine.text.words import STOP_WORDS
from engine.tiers.lora.neighbours import neighbours

if TYPE_CHECKING:
    from engine.model.loading import Loaded

STRANGERS = (
    "Oskar Brandt",
    "Mireille Okafor",
    "the Halvorsen project",
    "Tamsin Yu",
    "the blue folder",
    "Ravi Lindqvist",
)
GENERAL_FORMS = (
    f"The {ATTRIBUTE} of {SUBJECT} is {VALUE}.",
    f"{SUBJECT} has the {ATTRIBUTE} {VALUE}.",
    f"{SUBJECT}'s {ATTRIBUTE} is {VALUE}",
    f"{ATTRIBUTE} of {SUBJECT} = {VALUE}",
)
NEAR_SUBJECTS, NEAR_ATTRIBUTES, NEAR_VALUES = 64, 8, 12
FEW_STRANGERS = 8  # fewer than this many near words: those of `STRANGERS` too
TRIES = 40
Sort = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pools:
    """What statements are made from. `taken` are the keys of the given ones; `values` are by sort of statement."""

    models: tuple[Statement, ...]
    subjects: tuple[str, ...]
    strangers: tuple[str, ...]
    attributes: tuple[str, ...]
    values: dict[Sort, tuple[str, ...]]
    taken: frozenset[tuple[str, ...]]

    def stranger(self, draw: random.Random) -> Statement | None:
        """A statement of what nobody told: of a known subject half of the time, of a stranger else."""
        for _ in range(TRIES):
            found = draw.choice(self.models)
            known = draw.random() < 0.5
            found = found.of(subject=draw.choice(self.subjects if known else self.strangers or self.subjects))
            if found.kind is Kind.ATTRIBUTE:
                found = found.of(attribute=draw.choice(self.attributes))
            if found.key not in self.taken:
                return found
        return None

    def other(self, draw: random.Random, like: Statement | None = None) -> Statement | None:
        """A statement of something else, perhaps about the same matter as `like`."""
        for _ in range(TRIES):
            found = like or draw.choice(self.models)
            subject = draw.choice(self.subjects if draw.random() < 0.5 else self.strangers or self.subjects)
            found = self._worded(draw, found.of(subject=subject, value=self.another_value(draw, found)))
            if found.key not in self.taken:
                return found
        return None

    def several(self, draw: random.Random, count: int) -> list[Statement]:
        """Statements of different keys: half of the time all about one matter, often about few subjects."""
        kind = draw.random()
        like = draw.choice(self.models) if kind < 0.5 else None
        few = (
            draw.sample(everyone, min(len(everyone), max(2, (count + 2) // 3)))
            if (kind >= 0.75 and (everyone := [*self.subjects, *self.strangers]))
            else []
        )
        found: dict[tuple[str, ...], Statement] = {}
        for _ in range(4 * count):
            one = self.other(draw, like)
            if one and few:
                one = one.of(subject=draw.choice(few))
            if one and one.key not in self.taken:
                found.setdefault(one.key, one)
            if len(found) == count:
                break
        return list(found.values())

    def against(self, draw: random.Random, one: Statement) -> Statement | None:
        """The statement with another value, if one is known."""
        value = self.another_value(draw, one)
        return self._worded(draw, one.of(value=value)) if folded(value) != folded(one.value) else None

    def another_value(self, draw: random.Random, one: Statement) -> str:
        """A value that could stand there; the same, where none is known."""
        if any(char.isdigit() for char in one.value):
            return redrawn(draw, one.value)
        others = [value for value in self.values.get(sort_of(one), ()) if folded(value) != folded(one.value)]
        return draw.choice(others) if others else one.value

    def _worded(self, draw: random.Random, one: Statement) -> Statement:
        """In another form in which such a thing is said."""
        if one.kind is not Kind.ATTRIBUTE or one.preposition:
            return one
        forms = [model.form for model in self.models if model.kind is Kind.ATTRIBUTE and not model.preposition]
        return replace(one, form=draw.choice(GENERAL_FORMS) if draw.random() < 0.2 else draw.choice(forms))


def pools(loaded: Loaded, given: Sequence[Statement], others: Sequence[Statement] = ()) -> Pools:
    """What is made from the statements `given`, and from `others`, which are known to be said too."""
    models = (*given, *others)
    subjects = _unique(one.subject for one in models)
    attributes = _unique(one.attribute for one in models if one.attribute)
    near = neighbours(loaded, subjects, NEAR_SUBJECTS)
    strangers = tuple(word for word in near if word.casefold() not in STOP_WORDS)
    if len(strangers) < FEW_STRANGERS:
        strangers = (*strangers, *STRANGERS)
    near = neighbours(loaded, attributes, NEAR_ATTRIBUTES)
    attributes = (*attributes, *(word for word in near if word.casefold() not in STOP_WORDS))
    values: dict[Sort, tuple[str, ...]] = {}
    for sort in dict.fromkeys(map(sort_of, models)):
        told = _unique(one.value for one in models if sort_of(one) == sort)
        near = neighbours(loaded, told, NEAR_VALUES)
        values[sort] = (*told, *(word for word in near if word.casefold() not in STOP_WORDS))
    return Pools(models, subjects, strangers, attributes, values, frozenset(one.key for one in given))


def sort_of(one: Statement) -> Sort:
    """Statements of one sort have values that could stand for each other."""
    return one.kind, folded(one.attribute), one.verb, one.preposition, "when" if one.asks_when else ""


def redrawn(draw: random.Random, text: str) -> str:
    """The text with each digit drawn anew, at least one of them another."""
    while True:
        found = re.sub(r"\d", lambda _: str(draw.randint(0, 9)), text)
        if found != text or not any(char.isdigit() for char in text):
            return found


def _unique(texts: object) -> tuple[str, ...]:
    return tuple({folded(text): text for text in texts}.values())  # type: ignore[attr-defined]
