"""What an adapter is trained on: rows of a prompt, an answer, and how the teacher would have said it.

The teacher is the same model with the memories in its context (context distillation, Snell et al. 2022; self-study,
Eyuboglu et al. 2025): it answers the questions about them, and the student, who has none of them in its prompt, learns
its distribution over each token of the answer. At most `TEACHER_NOTES` notes stand in a teacher's context, for small
models mix up more. An answer that is not right by the question, or is cut off, is dropped and counted: an adapter never
learns what the text does not say. Half of the rows hold the rest of the model still: questions that nothing answers,
and questions over other contexts, some of which contradict the memories; there the base model itself is the teacher.

Targets are kept as the `LIKELY` likeliest tokens of each position and the rest in one, which bounds memory. Questions
come from a `Questions`; nothing here knows what memories say.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import Invalid
from engine.model.prompts import Alike, Note
from engine.tiers.lora.asking import ANSWER_TOKENS, Said, Stage, Target, asking, prompt_ids
from engine.tiers.lora.questions import Question, Questions, Scene

if TYPE_CHECKING:
    from engine.model.loading import Loaded

TEACHER_NOTES = 8
BESIDE_NOTES = 4  # of others, at most, in a context in which a distilled memory is asked for without being there
LIKELY = 64  # tokens of each position whose probability is kept
REPLAYED = 48  # rows of each kind that hold the model still, for each memory …
LEAST_REPLAYED, MOST_REPLAYED = 2_048, 4_096  # … within these: few that are seen often are learned by heart instead
SCENES = 1.5  # times as many of those with a context, for most of the rows of a step are such
MEMORY, BESIDE, UNKNOWN, SCENE, CONFLICT = "memory", "beside", "unknown", "scene", "conflict"
KINDS = (MEMORY, BESIDE, UNKNOWN, SCENE, CONFLICT)


@dataclass(frozen=True, slots=True)
class Row:
    kind: str
    prompt: tuple[int, ...]  # the student's
    answer: tuple[int, ...]  # the teacher's
    target: Target
    note: Note | None = None


@dataclass(frozen=True, slots=True)
class Material:
    """Rows by kind, the memories they are about, and those for which no answer of the teacher was right."""

    rows: dict[str, tuple[Row, ...]]
    notes: tuple[Note, ...]
    dropped: int
    untaught: tuple[Note, ...]

    @property
    def bytes(self) -> int:
        return sum(
            row.target.ids.nbytes + row.target.log_probabilities.nbytes for rows in self.rows.values() for row in rows
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    kind: str
    question: Question
    student: tuple[int, ...]
    teacher: tuple[int, ...]


def gathering(
    loaded: Loaded,
    notes: Sequence[Note],
    questions: Questions,
    seed: int = 0,
    others: Sequence[Note] = (),
    replayed: int = 0,
    answer_tokens: int = ANSWER_TOKENS,
) -> Generator[Stage, None, Material]:
    """Make the material for `notes` with the model `loaded`, unworn. `others` are memories that stay as text;
    `replayed` is how many rows of each kind hold the model still, 0: as many as suit the memories.

    Raises:
        Invalid: there is nothing to distil, or the model answers none of the questions rightly.
    """
    if not notes:
        raise Invalid("there is no memory to train on: name at least one")
    draw = random.Random(seed)
    asked = list(_asked(loaded, tuple(notes), questions, draw, others, replayed))
    said = yield from asking(
        loaded,
        [one.teacher for one in asked],
        answer_tokens=answer_tokens,
        message="the teacher answers",
        likely=LIKELY,
    )
    rows: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for one, answer in zip(asked, said, strict=True):
        if answer.whole and answer.target is not None and _holds(questions, one, answer):
            rows[one.kind].append(Row(one.kind, one.student, answer.tokens, answer.target, one.question.note))
    kept = sum(map(len, rows.values()))
    taught = {row.note.id for row in rows[MEMORY] if row.note is not None}
    if not taught:
        raise Invalid(
            f"{loaded.info.source} answers none of the questions about these {len(notes)} memories rightly with them "
            "in its context, so it cannot teach them: keep them as text, or use a larger model"
        )
    untaught = tuple(note for note in notes if note.id not in taught)
    return Material({kind: tuple(rows[kind]) for kind in KINDS}, tuple(notes), len(asked) - kept, untaught)


def _asked(
    loaded: Loaded,
    notes: tuple[Note, ...],
    questions: Questions,
    draw: random.Random,
    others: Sequence[Note],
    replayed: int,
) -> Generator[_Asked, None, None]:
    alike = Alike()
    count = replayed or min(MOST_REPLAYED, max(LEAST_REPLAYED, REPLAYED * len(notes)))
    scenes = list(questions.scenes(draw, notes, replayed or round(SCENES * count)))
    beside = [scene.notes for scene in scenes if scene.notes] or [tuple(others)]
    for start in range(0, len(notes), TEACHER_NOTES):
        told = notes[start : start + TEACHER_NOTES]
        for note in told:
            for question in questions.study(note):
                teacher = prompt_ids(loaded, question.text, told, pinned=draw.random() < 0.5, alike=alike)
                yield _Asked(MEMORY, question, prompt_ids(loaded, question.text, alike=alike), teacher)
                near = draw.sample(list(others), min(BESIDE_NOTES, len(others))) if others else draw.choice(beside)
                about = tuple(near[:BESIDE_NOTES])
                if about:
                    pinned = draw.random() < 0.5
                    student = prompt_ids(loaded, question.text, about, pinned=pinned, alike=alike)
                    teacher = prompt_ids(loaded, question.text, (*about, note), alike=alike)
                    yield _Asked(BESIDE, question, student, teacher)
    for question in questions.unknown(draw, notes, count):
        ids = prompt_ids(loaded, question.text, alike=alike)
        yield _Asked(UNKNOWN, question, ids, ids)
    for kind, some in ((SCENE, scenes), (CONFLICT, questions.conflicts(draw, notes, max(count // 2, len(notes))))):
        for scene in some:
            yield _in_scene(loaded, kind, scene, alike, pinned=draw.random() < 0.5)


def _in_scene(loaded: Loaded, kind: str, scene: Scene, alike: Alike, *, pinned: bool) -> _Asked:
    ids = prompt_ids(loaded, scene.question.text, scene.notes, pinned=pinned, alike=alike)
    return _Asked(kind, scene.question, ids, ids)


def _holds(questions: Questions, asked: _Asked, said: Said) -> bool:
    """Whether an answer is taught: it must be right where that is known. A model is not held to its mistakes."""
    if asked.kind in (MEMORY, BESIDE):
        return not questions.refuses(said.text) and questions.agrees(asked.question, said.text)
    return asked.question.right is None or questions.agrees(asked.question, said.text)
