"""Questions about what memories state, asked by rule: the right answer is the value that stands in the text.

It needs no model that could write a question, so a small one can be taught by it too. Notes that state nothing which a
rule can ask about are asked by self-study. A phrasing that `study` gives is never among the `probes`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engine.model.prompts import Note
from engine.text.statements import Statement
from engine.tiers.lora import phrasings
from engine.tiers.lora.questions import Question, Scene, Subject
from engine.tiers.lora.replay import Pools, sort_of
from engine.tiers.lora.saying import says
from engine.tiers.lora.self_study import REFUSALS, SelfStudy

MOST_TOLD = 6  # statements of a scene
BESIDES = 3  # at most, beside one that contradicts a memory
UNSAID_SHARE = 0.3  # of the questions over a scene: nothing in it answers them
UPDATED_SHARE = 0.3  # of the scenes: something in it is said twice, and the later one holds …
ASKED_SHARE = 0.5  # … and is asked about in so many of them: to read what holds is lost before all else
STUDIED_SHARE = 0.3  # of the scenes, where both sorts are at hand: those of self-study


@dataclass(frozen=True, slots=True)
class Drawn:
    """A scene, what its question is made from, and the statement that answers it, if one does."""

    scene: Scene
    form: str
    about: Statement


@dataclass(frozen=True, slots=True)
class Framed:
    """`told` are the statements of each note that are asked about, `studied` asks about what states nothing."""

    told: dict[str, tuple[Statement, ...]]
    kept: dict[str, tuple[tuple[Question, ...], tuple[Question, ...]]]  # to train with, and held out
    pools: Pools
    studied: SelfStudy
    fit: frozenset[str]  # phrasings that the model understands
    rivals: frozenset[str] = field(default=frozenset())
    unasked: tuple[str, ...] = ()  # notes of which nothing can be asked
    replaced: tuple[str, ...] = ()  # of these, such as a later note contradicts

    def study(self, note: Note) -> Sequence[Question]:
        return (*self.kept.get(note.id, ((), ()))[0], *self.studied.study(note))

    def probes(self, note: Note) -> Sequence[Question]:
        return (*self.kept.get(note.id, ((), ()))[1], *self.studied.probes(note))

    def unknown(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Question]:
        found = [Question(phrasings.some_study(draw, one)[1]) for one in self.pools.strangers_of(draw, count)]
        missing = count - len(found)
        return [*found, *(self.studied.unknown(draw, notes, missing) if missing else ())]

    def scenes(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Scene]:
        from_study = self.studied.scenes(draw, notes, round(count * STUDIED_SHARE) if self.pools.models else count)
        found = [self.scene(draw) for _ in range(count - len(from_study))] if self.pools.models else []
        both = [*from_study, *(one.scene for one in found if one)]
        draw.shuffle(both)
        return both

    def conflicts(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Scene]:
        framed = [note for note in notes if self.told.get(note.id)]
        rest = [note for note in notes if note.id not in self.told]
        found: list[Scene] = []
        for number in range(round(count * len(framed) / max(1, len(notes)))):
            known = draw.choice(self.told[framed[number % len(framed)].id])
            other = self.pools.against(draw, known)
            if other:
                beside = self.pools.several(draw, draw.randint(0, BESIDES))
                beside.insert(draw.randint(0, len(beside)), other)
                found.append(
                    Scene(_notes(beside), Question(phrasings.some_study(draw, other, self.fit)[1], None, other.value))
                )
        return [*found, *self.studied.conflicts(draw, rest, count - len(found) if rest else 0)]

    def agrees(self, question: Question, answer: str) -> bool:
        """Whether the answer has all words of the right value, no other number, and no other value that is known."""
        if question.right is None or question in self._of_study(question):
            return self.studied.agrees(question, answer)
        return says(answer, question.right, question.text, self.rivals)

    def refuses(self, answer: str) -> bool:
        return not answer.strip() or bool(REFUSALS.search(answer))

    def _of_study(self, question: Question) -> Sequence[Question]:
        note = question.note
        return (*self.studied.study(note), *self.studied.probes(note)) if note is not None else ()

    def scene(self, draw: random.Random) -> Drawn | None:
        """A question over other statements."""
        told = self.pools.several(draw, draw.randint(1, MOST_TOLD))
        if not told:
            return None
        holds = {one.key: one for one in told}
        later: Statement | None = None
        if len(told) > 2 and draw.random() < UPDATED_SHARE:
            changed = draw.choice(told)
            later = self.pools.against(draw, changed)
            if later:
                told.insert(draw.randint(told.index(changed) + 1, len(told)), later)
                holds[later.key] = later
        asked = later if later and draw.random() < ASKED_SHARE else draw.choice(list(holds.values()))
        if draw.random() < UNSAID_SHARE:
            sort = sort_of(draw.choice(told)) if draw.random() < 0.5 else None
            asked = self.pools.other(draw, sort) or asked
        said = holds.get(asked.key)
        form, text = phrasings.some_study(draw, asked, self.fit)
        return Drawn(Scene(_notes(told), Question(text, None, said.value if said else None)), form, said or asked)


@dataclass(frozen=True, slots=True)
class Frames:
    """A sweep: every subject with every attribute, and every other statement, that notes have."""

    asked: tuple[Statement, ...]
    names: tuple[str, ...] = ()

    def subjects(self) -> Iterator[Subject]:
        for one in self.asked:
            yield Subject(
                " ".join(filter(None, one.key)),
                tuple(text for _, text in (*phrasings.study(one)[:4], *phrasings.held_out(one))),
            )

    def refuses(self, answer: str) -> bool:
        return not answer.strip() or bool(REFUSALS.search(answer))

    def stated(self, subject: Subject, answer: str) -> str:
        one = next((one for one in self.asked if " ".join(filter(None, one.key)) == subject.key), None)
        return one.of(value=answer.rstrip(". ")).text if one else f"{subject.key}: {answer}"


def _notes(told: Sequence[Statement]) -> tuple[Note, ...]:
    return tuple(
        Note(f"told-{number:03}", 1, one.text, at=f"2026-02-01T00:{number:02}") for number, one in enumerate(told)
    )
