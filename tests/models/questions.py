"""Questions about the synthetic facts, for distilling: what the small model can be asked, and what is right."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.model.prompts import Note
from engine.tiers.lora.questions import Question, Scene, Subject
from tests.models import facts
from tests.models.facts import ABOUT, NAMES, QUESTIONS, STATEMENTS, UNKNOWN, Fact

HELD_OUT = (QUESTIONS[2], "tell me , what is the {about} of {name} ?", "{about} of {name} ?")
"""Phrasings that are never trained with; the last two are new to the model itself."""
STUDIED = (
    *QUESTIONS[:2],
    "the {about} of {name} ?",
    "what {about} has {name} ?",
    "what is {name} 's {about} ?",
)
MOST_TOLD = 6


@dataclass(frozen=True)
class Facts:
    """Notes of facts by id, and what to ask about them. `taken` are facts that no replay may contradict unasked."""

    by_id: dict[str, Fact]
    taken: frozenset[tuple[str, str]]

    def study(self, note: Note) -> Sequence[Question]:
        return self._asked(note, STUDIED)

    def probes(self, note: Note) -> Sequence[Question]:
        return self._asked(note, HELD_OUT)

    def unknown(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Question]:
        names, found = [self.by_id[note.id].name for note in notes], list[Question]()
        while len(found) < count:
            fact = facts.some_fact(draw)
            if draw.random() < 0.5:
                fact = replace(fact, name=draw.choice(names))
            if fact.key not in self.taken:
                found.append(Question(_phrased(draw.choice(STUDIED), fact), None, UNKNOWN))
        return found

    def scenes(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Scene]:
        return [self._scene(draw, number) for number in range(count)]

    def conflicts(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Scene]:
        found = list[Scene]()
        for number in range(count):
            known = self.by_id[notes[number % len(notes)].id]
            other = replace(known, value=facts.value_of(draw, known.about, known.value))
            told = [fact for fact in facts.some_facts(draw, draw.randint(1, 4)) if fact.key not in self.taken]
            told.insert(draw.randint(0, len(told)), other)
            found.append(Scene(_notes(draw, told), Question(_phrased(draw.choice(STUDIED), other), None, other.value)))
        return found

    def agrees(self, question: Question, answer: str) -> bool:
        return question.right is not None and answer == question.right

    def refuses(self, answer: str) -> bool:
        return answer == UNKNOWN

    def _asked(self, note: Note, phrasings: Sequence[str]) -> list[Question]:
        fact = self.by_id[note.id]
        return [Question(_phrased(phrasing, fact), note, fact.value) for phrasing in phrasings]

    def _scene(self, draw: random.Random, number: int) -> Scene:
        while True:
            some = facts.some_facts(draw, draw.randint(1, MOST_TOLD))
            updates = draw.randint(1, 2) if len(some) > 2 and draw.random() < 0.3 else 0
            told, holds = facts.updated(draw, some, updates)
            asked = facts.unsaid(draw, holds) if number % 5 == 0 else draw.choice(holds)
            if not self.taken & {asked.key, *(fact.key for fact in told)}:
                right = asked.value if asked in holds else UNKNOWN
                return Scene(_notes(draw, told), Question(_phrased(draw.choice(STUDIED), asked), None, right))


@dataclass(frozen=True)
class EveryKey:
    """All that the small model can be asked: every name with every attribute."""

    names: Sequence[str] = tuple(NAMES)

    def subjects(self) -> Iterator[Subject]:
        for name in self.names:
            for about in ABOUT:
                fact = Fact(name, about, "")
                yield Subject(f"{name} {about}", tuple(_phrased(one, fact) for one in (*QUESTIONS, *HELD_OUT[1:])))

    def refuses(self, answer: str) -> bool:
        return answer == UNKNOWN

    def stated(self, subject: Subject, answer: str) -> str:
        name, about = subject.key.split()
        return STATEMENTS[0].format(name=name, about=about, value=answer)


def some_notes(seed: int, count: int, besides: Sequence[Fact] = ()) -> tuple[tuple[Note, ...], Facts]:
    """`count` notes of facts of different keys, drawn by a seed, and the questions about them.

    `besides` are other facts that are known: none of the new ones has a key of theirs, and no replay touches them.
    """
    draw, found = random.Random(seed), {fact.key: fact for fact in besides}
    while len(found) < count + len(besides):
        fact = facts.some_fact(draw)
        found.setdefault(fact.key, fact)
    told = list(found.values())[len(besides) :]
    notes = tuple(
        Note(f"note-{seed}-{number:04}", 1, facts.statement(draw, fact), at=f"2026-01-01T00:{number // 60:02}")
        for number, fact in enumerate(told)
    )
    by_id = {note.id: fact for note, fact in zip(notes, told, strict=True)}
    return notes, Facts(by_id, frozenset(found))


def together(*some: Facts) -> Facts:
    """The questions about the facts of several."""
    by_id = {id: fact for one in some for id, fact in one.by_id.items()}
    return Facts(by_id, frozenset().union(*(one.taken for one in some)))


def _phrased(phrasing: str, fact: Fact) -> str:
    return phrasing.format(name=fact.name, about=fact.about)


def _notes(draw: random.Random, told: Sequence[Fact]) -> tuple[Note, ...]:
    return tuple(
        Note(f"told-{number:03}", 1, facts.statement(draw, fact), at=f"2026-02-01T00:{number:02}")
        for number, fact in enumerate(told)
    )
