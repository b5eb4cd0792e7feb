"""Tries what can be asked with the model that is to be taught: what it does not understand is left out.

A question is kept when the model answers it rightly with the memories in its context, and not without them. Phrasings,
words and sorts of statements are kept for replay when the model reads made statements rightly and surely.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from engine.model.prompts import Note
from engine.text.statements import Statement
from engine.tiers.lora import phrasings
from engine.tiers.lora.asking import Stage, asking, prompt_ids
from engine.tiers.lora.framed import Framed
from engine.tiers.lora.material import TEACHER_NOTES
from engine.tiers.lora.questions import Question
from engine.tiers.lora.replay import Word, sort_of
from engine.tiers.lora.saying import says
from engine.tiers.lora.self_study import REFUSALS

if TYPE_CHECKING:
    from engine.model.loading import Loaded

SURE, FEW = 0.9, 3  # how sure the teacher is to be; so many questions are kept of each statement in any case
TRIED_SCENES = 480
MISREAD = 0.8  # less than this share right: a word or a sort of statements is left out
CLEAR = 0.75  # of the scenes that a phrasing is tried with: too few phrasings carry nothing over to others
UNDERSTOOD = 0.9  # of the statements that a phrasing is tried with, answered rightly
Told = Mapping[str, Sequence[Statement]]
Kept = tuple[tuple[Question, ...], tuple[Question, ...]]  # to train with, and held out
Tried = dict[str, dict[Statement, Kept]]  # by note and statement


def trying(loaded: Loaded, notes: Sequence[Note], told: Told) -> Generator[Stage, None, tuple[Tried, frozenset[str]]]:
    """The questions that the notes make the model answer, and the phrasings that it mostly understands."""
    asked = [
        (one, form, held, Question(text, note, one.value))
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
    with_note = yield from asking(loaded, prompts, message="trying the questions")
    right, understood = [], dict[str, list[bool]]()
    for (one, form, held, question), said in zip(asked, with_note, strict=True):
        told_so = said.whole and not REFUSALS.search(said.text) and says(said.text, one.value, question.text)
        understood.setdefault(form, []).append(told_so)
        if told_so:
            right.append((one, held, question, said.sureness))
    bare = [prompt_ids(loaded, question.text) for _, _, question, _ in right]
    without = yield from asking(loaded, bare, message="what the model knows anyhow")
    found: dict[tuple[str, Statement], tuple[list[tuple[float, Question]], list[Question]]] = {}
    for (one, held, question, sureness), before in zip(right, without, strict=True):
        if question.note is not None and not says(before.text, one.value, question.text):
            study, probes = found.setdefault((question.note.id, one), ([], []))
            if held:
                probes.append(question)
            else:
                study.append((sureness, question))
    tried: Tried = {}
    for (id, one), (study, probes) in found.items():
        if study and probes:
            tried.setdefault(id, {})[one] = _sure(study), tuple(probes)
    return tried, frozenset(form for form, some in understood.items() if sum(some) >= UNDERSTOOD * len(some))


def understanding(loaded: Loaded, framed: Framed, draw: random.Random) -> Generator[Stage, None, Framed]:
    """The questions without the phrasings and near words that the model misunderstands over other contexts."""
    drawn = [framed.scene(draw) for _ in range(TRIED_SCENES)]
    tried = [one for one in drawn if one and one.scene.question.right is not None]
    prompts = [prompt_ids(loaded, one.scene.question.text, one.scene.notes) for one in tried]
    said = yield from asking(loaded, prompts, message="trying other contexts")
    least = min(SURE, SURE * median(answer.sureness for answer in said)) if said else SURE
    found: dict[Hashable, list[bool]] = {}
    for one, answer in zip(tried, said, strict=True):
        right = framed.agrees(one.scene.question, answer.text)
        found.setdefault(one.form, []).append(right)
        for part in (sort_of(one.about), Word(one.about.subject), Word(one.about.value, sort_of(one.about))):
            found.setdefault(part, []).append(right and answer.sureness >= least)
    clear = {part: sum(some) / len(some) for part, some in found.items()}
    fit = frozenset(form for form in framed.fit if clear.get(form, 1.0) >= CLEAR)
    pools = framed.pools.without(lambda part: clear.get(part, 1.0) < MISREAD)
    return replace(framed, fit=fit, pools=pools, kept=_understood(framed, fit))


def _understood(framed: Framed, fit: frozenset[str]) -> dict[str, Kept]:
    """The questions to train with in phrasings that are understood, where that leaves a few."""
    found: dict[str, Kept] = {}
    for id, (study, probes) in framed.kept.items():
        clear = {text for one in framed.told[id] for form, text in phrasings.study(one) if form in fit}
        some = tuple(one for one in study if one.text in clear)
        found[id] = (some if len(some) >= FEW * len(framed.told[id]) else study), probes
    return found


def _sure(asked: Sequence[tuple[float, Question]]) -> tuple[Question, ...]:
    """The questions that the model answers surely: an unsure teacher makes an unsure adapter. A few in any case."""
    order = sorted(asked, key=lambda one: -one[0])
    return tuple(one for place, (sure, one) in enumerate(order) if sure >= SURE or place < FEW)
