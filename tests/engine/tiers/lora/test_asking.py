"""Many prompts are answered at once as each is alone, and what they begin with is read once."""

from __future__ import annotations

import pytest

from engine.tiers.lora import asking
from engine.tiers.lora.asking import answers, finished, prompt_ids
from tests.models.questions import some_notes


def test_prompts_that_begin_with_the_same_notes_are_answered_from_kv_as_from_text(
    loaded, monkeypatch: pytest.MonkeyPatch
):
    notes, questions = some_notes(71, 8)
    told = [(note, one) for note in notes for one in (*questions.study(note), *questions.probes(note))]
    prompts = [prompt_ids(loaded, one.text, notes, pinned=place % 2 == 0) for place, (_, one) in enumerate(told)]
    prompts += [prompt_ids(loaded, one.text) for _, one in told[:5]]  # these have nothing in common
    read: list[int] = []
    reading = asking._read
    monkeypatch.setattr(asking, "_read", lambda *given: read.append(reading(*given)[1]) or reading(*given))
    shared = answers(loaded, prompts)
    assert max(read) >= asking.SHARED_TOKENS
    assert min(read) == 0
    monkeypatch.setattr(asking, "SHARED_TOKENS", 1 << 30)
    alone = answers(loaded, prompts)
    assert [one.tokens for one in shared] == [one.tokens for one in alone]
    assert all(abs(a.log_probability - b.log_probability) < 1e-4 for a, b in zip(shared, alone, strict=True))
    assert [one.text for one in shared[: len(told)]] == [one.right for _, one in told]


def test_the_same_prompt_many_times_is_answered_the_same(loaded):
    notes, questions = some_notes(72, 3)
    question = questions.study(notes[0])[0]
    said = answers(loaded, [prompt_ids(loaded, question.text, notes)] * 9)
    assert {one.text for one in said} == {question.right}


def test_a_job_takes_a_step_for_each_batch_and_nothing_asked_is_nothing_said(loaded):
    prompts = [prompt_ids(loaded, f"what is the city of alice {'?' * (number % 5)}") for number in range(70)]
    steps = [stage.done for stage in asking.asking(loaded, prompts, answer_tokens=3)]
    assert len(steps) > 1
    assert steps == sorted(steps)
    assert steps[-1] == 70
    assert finished(asking.asking(loaded, [])) == []
