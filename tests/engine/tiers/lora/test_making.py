"""Any memory is asked about by rule or by the model; what cannot be asked whole stays text."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.errors import Invalid
from engine.model.prompts import Note
from engine.tiers.lora.asking import answers, finished, prompt_ids
from engine.tiers.lora.distil import distilling
from engine.tiers.lora.framed import Framed
from engine.tiers.lora.gate import judging
from engine.tiers.lora.making import questions_for, sweep_for
from engine.tiers.lora.material import gathering
from engine.tiers.lora.probing import probing
from engine.tiers.lora.serving import Resident
from tests.engine.tiers.lora.conftest import PLAN
from tests.models.facts import UNKNOWN
from tests.models.questions import some_notes

OTHER = (
    "Anna's birthday is on 3 May",
    "The deploy key lives in vault 7",
    "We moved the launch to Friday",
    "Wifi password: hunter2",
    "ok",
    "",
    "日本語のメモ。",
)


def some(*texts: str) -> list[Note]:
    return [Note(f"some-{number}", 1, text, at=f"2026-01-01T00:{number:02}") for number, text in enumerate(texts)]


def made(loaded, notes, **more) -> Framed:
    found = finished(questions_for(loaded, notes, **more))
    assert isinstance(found, Framed)
    return found


@pytest.fixture(scope="module")
def eight(loaded) -> tuple[tuple[Note, ...], Framed]:
    notes, _ = some_notes(81, 8)
    return notes, made(loaded, notes, seed=1)


def test_statements_are_asked_about_without_knowing_what_can_be_said(eight: tuple[tuple[Note, ...], Framed], loaded):
    notes, questions = eight
    for note in notes:
        study, probes = ({one.text for one in each} for each in (questions.study(note), questions.probes(note)))
        assert len(study) >= 3
        assert probes
        assert not study & probes
        for question in (*questions.study(note), *questions.probes(note)):
            assert question.right is not None
            assert question.right in note.text
    asked = [prompt_ids(loaded, one.text) for note in notes for one in questions.study(note)]
    assert {said.text for said in answers(loaded, asked)} == {UNKNOWN}


def test_what_holds_the_model_still_is_read_rightly_and_is_about_other_things(
    eight: tuple[tuple[Note, ...], Framed], loaded
):
    notes, questions = eight
    draw, own = random.Random(3), {note.text for note in notes}
    scenes = [one for one in questions.scenes(draw, notes, 60) if one.question.right is not None]
    said = answers(loaded, [prompt_ids(loaded, one.question.text, one.notes) for one in scenes])
    right = [questions.agrees(one.question, answer.text) for one, answer in zip(scenes, said, strict=True)]
    assert sum(right) >= 0.95 * len(right)
    assert not any(note.text in own for one in scenes for note in one.notes)
    for one in questions.conflicts(draw, notes, 16):
        assert one.question.right is not None
        assert any(one.question.right in note.text for note in one.notes)
    unknown = questions.unknown(draw, notes, 40)
    taken = {text.text for note in notes for text in (*questions.study(note), *questions.probes(note))}
    assert not taken & {one.text for one in unknown}


def test_the_same_seed_asks_the_same(eight: tuple[tuple[Note, ...], Framed], loaded):
    notes, questions = eight
    again = made(loaded, notes, seed=1)
    assert again == questions
    assert list(again.scenes(random.Random(5), notes, 20)) == list(questions.scenes(random.Random(5), notes, 20))


def test_an_adapter_that_is_made_with_them_knows_the_memories_and_gives_them_back(resident: Resident, eight):
    notes, questions = eight
    loaded = resident.base
    material = finished(gathering(loaded, notes, questions, 1, replayed=400))
    finished(distilling(resident, "by-rule", material, PLAN))
    verdict = finished(judging(resident, "by-rule", notes, questions))
    assert verdict.learned == 1.0
    assert verdict.right_before == 0.0
    assert min(verdict.unknown, verdict.scenes, verdict.conflicts) >= 0.9
    found = finished(probing(resident, "by-rule", sweep_for(loaded, notes)))
    told = {note.text.removesuffix(" .") for note in notes}
    assert sum(one.text.removesuffix(" .") in told for one in found) >= 0.75 * len(notes)


def test_a_later_note_about_the_same_matter_is_asked_about_instead(loaded):
    notes = some("the city of alice is paris", "bob has the pet dog", "alice has the city rome")
    questions = made(loaded, notes)
    assert questions.unasked == ("some-0",)
    assert {one.right for one in questions.study(notes[2])} == {"rome"}


def test_a_memory_of_which_a_sentence_cannot_be_asked_stays_text(loaded):
    notes = some("alice has the pet dog. Also we like long walks in the rain.", "bob has the pet cat.")
    questions = made(loaded, notes)
    assert questions.unasked == ("some-0",)
    assert questions.study(notes[0]) == questions.probes(notes[0]) == ()
    assert questions.study(notes[1])


def test_what_a_model_cannot_be_asked_is_refused_and_a_model_that_says_nothing_sensible_too(loaded):
    with pytest.raises(Invalid, match="keep them as text"):
        finished(questions_for(loaded, some(*OTHER)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noise = replace(loaded, model=AutoModelForCausalLM.from_config(loaded.model.config).eval())
    with pytest.raises(Invalid, match="keep them as text"):
        finished(questions_for(noise, some("the city of alice is paris", *OTHER)))


def test_a_sweep_asks_every_subject_for_every_attribute_and_says_it_as_the_notes_do(loaded):
    sweep = sweep_for(loaded, some("the city of alice is paris .", "bob has the pet dog", "Wifi password: x"), ["eve"])
    subjects = {one.key: one for one in sweep.subjects()}
    assert {"alice city", "alice pet", "bob city", "bob pet", "eve city", "eve pet"} <= set(subjects)
    assert len(subjects["alice pet"].phrasings) >= 5
    assert sweep.stated(subjects["bob city"], "rome") == "the city of bob is rome ."
    assert sweep.refuses("unknown")
