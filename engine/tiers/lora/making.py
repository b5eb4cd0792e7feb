"""Makes the questions about any memories for any model, and the sweep that asks what an adapter of them knows.

By rule where the memories state something (`engine.text.statements`), by the model itself where they do not, or where
it can. Each question is tried first: one that the model does not answer rightly with the memory in its context teaches
nothing, and one that it answers without teaches nothing new. A memory of which nothing is left is named, not invented.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from engine.errors import Invalid
from engine.model.prompts import Note
from engine.text.statements import Statement, statements
from engine.tiers.lora import phrasings
from engine.tiers.lora.asking import ANSWER_TOKENS, Stage, asking, prompt_ids
from engine.tiers.lora.framed import Framed, Frames
from engine.tiers.lora.material import TEACHER_NOTES
from engine.tiers.lora.questions import Question, Questions, Sweep
from engine.tiers.lora.replay import Word, making, sort_of
from engine.tiers.lora.saying import rivals_among, says
from engine.tiers.lora.self_study import REFUSALS, SelfStudy, studying

if TYPE_CHECKING:
    from engine.model.loading import Loaded

MOST_STATEMENTS = 4  # of a note that are asked about: a longer one is mostly asked by its first ones
MOST_KEYS = 2_000  # of a sweep
SURE, FEW = 0.9, 3
TRIED_SCENES = 360
MISREAD = 0.7  # less than this share right: a word or a sort of statements is left out
UNDERSTOOD = 0.9  # of what a phrasing or a sort of statements is tried with, answered rightly
T = TypeVar("T", bound=Hashable)
Kept = tuple[tuple[Question, ...], tuple[Question, ...]]  # to train with, and held out


def questions_for(
    loaded: Loaded, notes: Sequence[Note], others: Sequence[Note] = (), seed: int = 0
) -> Generator[Stage, None, Questions]:
    """The questions about `notes`; `others` stay as text and hold the model still. The same seed gives the same.

    Raises:
        Invalid: the model answers nothing that can be asked about any of the notes.
    """
    told = _told(notes)
    kept, fit = yield from _kept(loaded, notes, told)
    rest = [note for note in notes if note.id not in kept]
    studied = yield from _studied(loaded, rest, others)
    asked = {note.id for note in notes if note.id in kept or studied.study(note)}
    if not asked:
        raise Invalid(
            f"{loaded.info.source} answers nothing that can be asked about these {len(notes)} memories, even with them "
            "in its context, so it cannot be taught them: keep them as text, or use a larger model"
        )
    given = [one for id, some in told.items() if id in kept for one in some]
    beside = [one for note in others for one in statements(note.text)[:MOST_STATEMENTS]]
    made = yield from making(loaded, given, beside, random.Random(seed), fit)
    values = [one.value for one in given]
    framed = Framed(
        {id: some for id, some in told.items() if id in kept},
        kept,
        made,
        studied,
        fit,
        rivals_among(values),
        tuple(note.id for note in notes if note.id not in asked),
    )
    return (yield from _understood(loaded, framed, random.Random(seed)))


def sweep_for(loaded: Loaded, notes: Sequence[Note], names: Sequence[str] = ()) -> Sweep:
    """What to ask an adapter about: each subject of the notes and each of `names`, with each attribute of the notes."""
    told = [one for note in notes for one in statements(note.text)]
    found: dict[tuple[str, ...], Statement] = {}
    subjects = list(dict.fromkeys([*(one.subject for one in told), *names]))
    for one in told:
        found.setdefault(one.key, one)
    for one in {(one.kind, one.attribute): one for one in told if one.attribute}.values():
        for subject in subjects:
            asked = one.of(subject=subject)
            found.setdefault(asked.key, asked)
    return Frames(tuple(found.values())[:MOST_KEYS], tuple(names))


def _told(notes: Sequence[Note]) -> dict[str, tuple[Statement, ...]]:
    """The statements of each note; what a later note says of the same matter takes the place of an earlier one's."""
    said_in: dict[tuple[str, ...], str] = {}
    found: dict[str, dict[tuple[str, ...], Statement]] = {}
    for note in sorted(notes, key=lambda note: (note.at, note.id)):
        for one in statements(note.text)[:MOST_STATEMENTS]:
            if REFUSALS.search(one.value):
                continue
            earlier = said_in.get(one.key)
            if earlier is not None:
                found[earlier].pop(one.key, None)
            found.setdefault(note.id, {})[one.key] = one
            said_in[one.key] = note.id
    return {id: tuple(some.values()) for id, some in found.items() if some}


def _kept(
    loaded: Loaded, notes: Sequence[Note], told: dict[str, tuple[Statement, ...]]
) -> Generator[Stage, None, tuple[dict[str, Kept], frozenset[str]]]:
    """For each note the questions that it makes the model answer, and the phrasings that it mostly understands."""
    asked = [
        (form, held, Question(text, note, one.value))
        for note in notes
        for one in told.get(note.id, ())
        for held, some in ((False, phrasings.study(one)), (True, phrasings.held_out(one)))
        for form, text in some
    ]
    context = {
        note.id: notes[start : start + TEACHER_NOTES]
        for start in range(0, len(notes), TEACHER_NOTES)
        for note in notes[start : start + TEACHER_NOTES]
    }
    prompts = [prompt_ids(loaded, one.text, context[one.note.id]) for *_, one in asked if one.note]
    bare = [prompt_ids(loaded, question.text) for *_, question in asked]
    with_note = yield from asking(loaded, prompts, answer_tokens=ANSWER_TOKENS, message="trying the questions")
    without = yield from asking(loaded, bare, answer_tokens=ANSWER_TOKENS, message="what the model knows anyhow")
    study: dict[str, list[tuple[float, Question]]] = {}
    probes: dict[str, list[Question]] = {}
    understood: dict[str, list[bool]] = {}
    for (form, held, question), said, before in zip(asked, with_note, without, strict=True):
        right, note = question.right or "", question.note
        told_so = said.whole and not REFUSALS.search(said.text) and says(said.text, right, question.text)
        understood.setdefault(form, []).append(told_so)
        if told_so and note is not None and not says(before.text, right, question.text):
            if held:
                probes.setdefault(note.id, []).append(question)
            else:
                study.setdefault(note.id, []).append((said.sureness, question))
    kept = {id: (_sure(some), tuple(probes[id])) for id, some in study.items() if id in probes}
    unclear = _misunderstood(understood)
    return kept, frozenset(understood) - unclear


def _sure(asked: Sequence[tuple[float, Question]]) -> tuple[Question, ...]:
    """The questions that the model answers surely: an unsure teacher makes an unsure adapter. A few in any case."""
    order = sorted(asked, key=lambda one: -one[0])
    return tuple(one for place, (sure, one) in enumerate(order) if sure >= SURE or place < FEW)


def _misunderstood(tried: Mapping[T, Sequence[bool]]) -> frozenset[T]:
    return frozenset(one for one, right in tried.items() if sum(right) < UNDERSTOOD * len(right))


def _understood(loaded: Loaded, framed: Framed, draw: random.Random) -> Generator[Stage, None, Framed]:
    """The questions without the phrasings and other words that the model misunderstands over other contexts."""
    drawn = [framed.scene(draw) for _ in range(TRIED_SCENES)]
    tried = [one for one in drawn if one and one.scene.question.right is not None]
    prompts = [prompt_ids(loaded, one.scene.question.text, one.scene.notes) for one in tried]
    said = yield from asking(loaded, prompts, answer_tokens=ANSWER_TOKENS, message="trying the phrasings")
    least = min(SURE, SURE * median(answer.sureness for answer in said)) if said else SURE
    found: dict[Hashable, list[bool]] = {}
    for one, answer in zip(tried, said, strict=True):
        right = answer.sureness >= least and framed.agrees(one.scene.question, answer.text)
        for part in (one.form, sort_of(one.about), Word(one.about.subject), Word(one.about.value, sort_of(one.about))):
            found.setdefault(part, []).append(right)
    clear = {part: sum(some) / len(some) for part, some in found.items()}
    fit = frozenset(form for form in framed.fit if clear.get(form, 1) >= UNDERSTOOD)
    return replace(framed, fit=fit, pools=framed.pools.without(lambda part: clear.get(part, 1.0) < MISREAD))


def _studied(loaded: Loaded, notes: Sequence[Note], others: Sequence[Note]) -> Generator[Stage, None, SelfStudy]:
    """Self-study of the notes that state nothing which the model answers; without any, nothing is asked of it."""
    if not notes:
        return SelfStudy({}, ())
    return (yield from studying(loaded, notes, others))
