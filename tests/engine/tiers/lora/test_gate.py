"""An adapter is let into service when it knows what it was made from, and nothing else became worse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.errors import NotFound
from engine.tiers.lora.asking import finished
from engine.tiers.lora.distil import Plan, adapter_config, distilling
from engine.tiers.lora.gate import Limits, Verdict, differences, judging
from engine.tiers.lora.material import BESIDE, MEMORY, Material
from engine.tiers.lora.questions import Question
from engine.tiers.lora.serving import Resident
from tests.engine.tiers.lora.conftest import PLAN, Trained, some_material
from tests.models.questions import Facts, some_notes

CASES = 40


def judged(resident: Resident, name: str, made: Trained, limits: Limits | None = None) -> Verdict:
    return finished(
        judging(
            resident, name, made.notes, made.questions, limits or Limits(), unrelated=["hello", "thanks"], cases=CASES
        )
    )


def test_a_good_adapter_passes_and_the_verdict_says_what_it_knows(resident: Resident, first: Trained):
    resident.load("of-first", first.folder)
    verdict = judged(resident, "of-first", first)
    assert verdict.passed, verdict.why
    assert (verdict.right_before, verdict.learned, verdict.missed) == (0.0, 1.0, ())
    assert [(one.id, one.version) for one in verdict.memories] == [(note.id, note.version) for note in first.notes]
    assert all(source.known for source in verdict.sources)
    assert min(verdict.unknown_before, verdict.scenes_before, verdict.conflicts_before) >= 0.95


def test_an_adapter_that_learned_nothing_is_refused_and_names_each_memory(resident: Resident, first: Trained):
    resident.add("fresh-one", adapter_config(Plan()))
    verdict = judged(resident, "fresh-one", first)
    assert not verdict.passed
    assert verdict.missed == tuple(note.id for note in first.notes)
    assert not any(source.known for source in verdict.sources)
    assert (verdict.kept, verdict.kl) == (1.0, pytest.approx(0.0, abs=1e-9))
    assert any("does not know 8 of 8" in why for why in verdict.why)


def test_an_adapter_that_lost_the_rest_of_the_model_is_refused(resident: Resident, loaded):
    """Trained without anything that holds the rest still."""
    notes, questions = some_notes(71, 8)
    whole = some_material(loaded, notes, questions, replayed=4)
    bare = Material({MEMORY: whole.rows[MEMORY], BESIDE: ()}, whole.notes, 0, ())
    finished(distilling(resident, "bare-one", bare, replace(PLAN, steps=60)))
    verdict = finished(judging(resident, "bare-one", notes, questions, cases=CASES))
    assert verdict.learned == 1.0
    assert not verdict.passed
    assert verdict.unknown < 0.5
    assert any("nothing answers" in why for why in verdict.why)


class HalfKnown(Facts):
    """Every other scene asks for a distilled fact, beside notes of something else: what is right nobody says."""

    def scenes(self, draw, notes, count):
        known = super().scenes(draw, notes, count)
        asked = [Question(self.study(draw.choice(notes))[0].text) for _ in known]
        return [
            scene if number % 2 == 0 else replace(scene, question=question)
            for number, (scene, question) in enumerate(zip(known, asked, strict=True))
        ]


def test_what_nobody_knows_the_answer_of_is_to_stay_as_it_was_case_by_case(resident: Resident, first: Trained):
    resident.load("of-first", first.folder)
    questions = HalfKnown(first.questions.by_id, first.questions.taken)
    verdict = finished(judging(resident, "of-first", first.notes, questions, cases=CASES))
    assert verdict.scenes_before >= 0.95
    assert verdict.scenes <= 0.6  # it answers what the base refuses
    assert any("other contexts" in why for why in verdict.why)


def test_each_limit_is_named_when_it_is_broken(resident: Resident, first: Trained):
    resident.load("of-first", first.folder)
    strict = Limits(memories=1.1, lost=-1.0, unknown=1.1, conflicts=1.1, kept=1.1, kl=-1.0)
    assert len(judged(resident, "of-first", first, strict).why) == 6


def test_judging_an_adapter_that_is_not_there_is_refused(resident: Resident, first: Trained):
    with pytest.raises(NotFound, match="no-such"):
        judged(resident, "no-such", first)


def test_two_versions_are_compared_memory_by_memory(resident: Resident, first: Trained):
    resident.load("of-first", first.folder)
    resident.add("fresh-one", adapter_config(Plan()))
    old, new = judged(resident, "fresh-one", first), judged(resident, "of-first", first)
    changed = differences(old, new)
    assert {id for id, _, _ in changed} == {note.id for note in first.notes}
    assert all(then < now for _, then, now in changed)
    assert differences(new, new) == ()
    assert new.standing > old.standing
