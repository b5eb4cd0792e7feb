"""Other statements like given ones: what holds a model still where nothing else is at hand, and what nobody said.

Made from the forms of the statements themselves: subjects, attributes and values are exchanged among them and with
words that stand near theirs in the model's vocabulary, digits are drawn anew. Nothing drawn here is about what the
given statements are about, but where it is asked to contradict one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from engine.model.prompts import Note
from engine.text.statements import Kind, Statement, folded
from engine.text.words import STOP_WORDS
from engine.tiers.lora import phrasings
from engine.tiers.lora.asking import Stage, asking, prompt_ids
from engine.tiers.lora.neighbours import neighbours
from engine.tiers.lora.saying import says

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
NEAR_SUBJECTS, NEAR_ATTRIBUTES, NEAR_VALUES = 64, 6, 24
FEW_STRANGERS = 8  # fewer than this many near words: those of `STRANGERS` too
NEAR_SHARE = 0.2  # of what is drawn: with attributes or values that nothing says
KNOWN_SHARE, STRANGER_SHARE = 0.45, 0.35  # of what nobody told, evenly over all that could be asked; the rest by chance
TRIES = 40
LEAST_SURENESS = 0.95  # of the model that reads a word: what it reads by luck holds nothing still
Sort = tuple[str, ...]


class Word(NamedTuple):
    """A word as a subject, or as a value of a sort of statements."""

    text: str
    sort: Sort = ()


@dataclass(frozen=True, slots=True)
class Pools:
    """What statements are made from. `taken` are the keys of the given ones, `models` and `values` what is
    said, by sort; what is near is not said."""

    models: dict[Sort, tuple[Statement, ...]]
    subjects: tuple[str, ...]
    strangers: tuple[str, ...]
    attributes: tuple[str, ...]
    near_attributes: tuple[str, ...]
    values: dict[Sort, tuple[str, ...]]
    taken: frozenset[tuple[str, ...]]
    near_values: dict[Sort, tuple[str, ...]]  # words that could stand there, which the model reads
    near_models: dict[Sort, tuple[Statement, ...]]  # of attributes of which nothing is said
    readable: tuple[str, ...]  # strangers of which the model reads statements
    _folded: dict[str, str] = field(default_factory=dict, compare=False, repr=False)  # what was folded before

    def strangers_of(self, draw: random.Random, count: int) -> list[Statement]:
        """Statements of what nobody told. What could be said of known subjects, where an adapter goes wrong most, all
        comes before any of it comes twice; so it is with strangers."""
        found = [
            *self._unsaid(draw, self.subjects, round(KNOWN_SHARE * count)),
            *self._unsaid(draw, self.strangers, round(STRANGER_SHARE * count)),
        ]
        found += [one for _ in range(count - len(found)) if (one := self.stranger(draw))]
        draw.shuffle(found)
        return found

    def _unsaid(self, draw: random.Random, subjects: Sequence[str], count: int) -> list[Statement]:
        found: list[Statement] = []
        sorts, every = list(self.models), len(subjects) * len(self.models)
        for _ in range(TRIES if every else 0):
            for place in draw.sample(range(every), min(every, count)):
                one = draw.choice(self.models[sorts[place % len(sorts)]]).of(subject=subjects[place // len(sorts)])
                if one.key not in self.taken and len(found) < count:
                    found.append(one)
            if len(found) == count:
                break
        return found

    def stranger(self, draw: random.Random) -> Statement | None:
        """A statement of what nobody told: of a known subject half of the time, of a stranger else."""
        for _ in range(TRIES if self.models else 0):
            found = self._model(draw)
            known = draw.random() < 0.5 or not self.strangers
            found = found.of(subject=draw.choice(self.subjects if known else self.strangers))
            if found.kind is Kind.ATTRIBUTE:
                near = self.near_attributes if draw.random() < NEAR_SHARE else ()
                found = found.of(attribute=draw.choice(near or self.attributes))
            if found.key not in self.taken:
                return found
        return None

    def other(self, draw: random.Random, sort: Sort | None = None, subjects: Sequence[str] = ()) -> Statement | None:
        """A statement of something else, perhaps of one sort, perhaps about some of `subjects`."""
        for _ in range(TRIES if self.models else 0):
            found = self._model(draw, sort)
            some = subjects or (self.subjects if draw.random() < 0.5 or not self.readable else self.readable)
            found = self._worded(draw, found.of(subject=draw.choice(some), value=self.another_value(draw, found)))
            if found.key not in self.taken:
                return found
        return None

    def several(self, draw: random.Random, count: int) -> list[Statement]:
        """Statements of different keys: half of the time all about one matter, often about few subjects."""
        kind, everyone = draw.random(), (*self.subjects, *self.readable)
        sort = sort_of(self._model(draw)) if kind < 0.5 and self.models else None
        few = draw.sample(everyone, min(len(everyone), max(2, (count + 2) // 3))) if kind >= 0.75 else []
        found: dict[tuple[str, ...], Statement] = {}
        for _ in range(2 * count):
            one = self.other(draw, sort, few)
            if one:
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
        sort, kinds = sort_of(one), [self.values, self.near_values]
        if draw.random() < NEAR_SHARE:
            kinds.reverse()
        for values in kinds:
            if others := [value for value in values.get(sort, ()) if self._fold(value) != self._fold(one.value)]:
                return draw.choice(others)
        return one.value

    def without(self, unclear: Callable[[Sort | Word], bool]) -> Pools:
        """Without the near words and attributes that are unclear to a model; what is said stays."""
        models = {sort: some for sort, some in self.near_models.items() if not unclear(sort)}
        attributes = {one.attribute for some in models.values() for one in some}
        return replace(
            self,
            readable=tuple(one for one in self.readable if not unclear(Word(one))),
            near_attributes=tuple(one for one in self.near_attributes if one in attributes),
            near_models=models,
            near_values={
                sort: tuple(value for value in some if not unclear(Word(value, sort)))
                for sort, some in self.near_values.items()
            },
        )

    def _model(self, draw: random.Random, sort: Sort | None = None) -> Statement:
        models = self.near_models if self.near_models and draw.random() < NEAR_SHARE else self.models
        if sort is not None:
            models = self.models if sort in self.models else self.near_models
        return draw.choice(models[sort or draw.choice(list(models))])

    def _worded(self, draw: random.Random, one: Statement) -> Statement:
        """In another form in which such a thing is said."""
        if one.kind is not Kind.ATTRIBUTE or one.preposition:
            return one
        return replace(one, form=self._model(draw, draw.choice(self._plain())).form)

    def _fold(self, text: str) -> str:
        if text not in self._folded:
            self._folded[text] = folded(text)
        return self._folded[text]

    def _plain(self) -> list[Sort]:
        return [sort for sort in self.models if sort[0] is Kind.ATTRIBUTE and not sort[3]]


def making(
    loaded: Loaded, given: Sequence[Statement], others: Sequence[Statement], draw: random.Random, fit: frozenset[str]
) -> Generator[Stage, None, Pools]:
    """What is made from the statements `given`, and from `others`, which are said too.

    Words that only stand near are taken where the model can read them: it is told a statement with them, and asked
    in one of the phrasings `fit`.
    """
    models = _by_sort((*given, *others))
    subjects = _unique(one.subject for some in models.values() for one in some)
    attributes = _unique(one.attribute for some in models.values() for one in some if one.attribute)
    strangers = _near(loaded, subjects, NEAR_SUBJECTS)
    if len(strangers) < FEW_STRANGERS:
        strangers = (*strangers, *STRANGERS)
    told = {sort: _unique(one.value for one in some) for sort, some in models.items()}
    near = {sort: _near(loaded, values, NEAR_VALUES) for sort, values in told.items() if not _has_digits(values)}
    plain = [one for sort, some in models.items() if sort[0] is Kind.ATTRIBUTE and not sort[3] for one in some]
    others_of = {
        one: draw.choice(plain).of(attribute=one) for one in _near(loaded, attributes, NEAR_ATTRIBUTES) if plain
    }
    tried = [(sort, draw.choice(models[sort]).of(value=value)) for sort, values in near.items() for value in values]
    every = _unique(value for sort in near if sort[0] is Kind.ATTRIBUTE for value in (*told[sort], *near[sort]))
    for one in others_of.values():
        tried += [(sort_of(one), one.of(value=value)) for value in every]
    read = yield from _read(loaded, [one.of(subject=draw.choice(strangers)) for _, one in tried], draw, fit)
    found: dict[Sort, list[str]] = {}
    for (sort, one), right in zip(tried, read, strict=True):
        if right:
            found.setdefault(sort, []).append(one.value)
    made = {
        sort_of(one): tuple(one.of(value=value) for value in found.get(sort_of(one), ())) for one in others_of.values()
    }
    return Pools(
        models,
        subjects,
        strangers,
        attributes,
        tuple(others_of),
        told,
        frozenset(one.key for one in given),
        {sort: tuple(some) for sort, some in found.items()},
        {sort: some for sort, some in made.items() if some},
        strangers,
    )


def _read(
    loaded: Loaded, told: Sequence[Statement], draw: random.Random, fit: frozenset[str]
) -> Generator[Stage, None, list[bool]]:
    """Whether the model reads each statement's value out of it."""
    asked = [(one, phrasings.some_study(draw, one, fit)[1]) for one in told]
    prompts = [prompt_ids(loaded, text, (Note("told", 1, one.text),)) for one, text in asked]
    said = yield from asking(loaded, prompts, message="trying other words")
    return [
        answer.sureness >= LEAST_SURENESS and says(answer.text, one.value, text)
        for (one, text), answer in zip(asked, said, strict=True)
    ]


def sort_of(one: Statement) -> Sort:
    """Statements of one sort have values that could stand for each other."""
    return one.kind, folded(one.attribute), one.verb, one.preposition, "when" if one.asks_when else ""


def redrawn(draw: random.Random, text: str) -> str:
    """The text with each digit drawn anew, at least one of them another."""
    while True:
        found = re.sub(r"\d", lambda _: str(draw.randint(0, 9)), text)
        if found != text or not _has_digits([text]):
            return found


def _by_sort(told: Sequence[Statement]) -> dict[Sort, tuple[Statement, ...]]:
    found: dict[Sort, list[Statement]] = {}
    for one in told:
        found.setdefault(sort_of(one), []).append(one)
    return {sort: tuple(some) for sort, some in found.items()}


def _near(loaded: Loaded, words: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(word for word in neighbours(loaded, words, count) if word.casefold() not in STOP_WORDS)


def _has_digits(texts: Iterable[str]) -> bool:
    return any(char.isdigit() for text in texts for char in text)


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple({folded(text): text for text in texts}.values())
