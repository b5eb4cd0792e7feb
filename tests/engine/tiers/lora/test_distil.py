"""Memories become an adapter that answers for them, in steps that can be stopped, limited and gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import Conflict, Invalid, TooLarge
from engine.model.runner import Runner
from engine.tiers.lora.asking import Stage, answers, as_job, finished, prompt_ids
from engine.tiers.lora.distil import Distilled, Plan, distilling, learning_rate_for
from engine.tiers.lora.material import MEMORY, Material, gathering
from engine.tiers.lora.serving import Resident
from engine.vault.checkpoints import Checkpoint
from tests.engine.tiers.lora.conftest import PLAN, Trained, some_material
from tests.models.questions import some_notes

SHORT = Plan(steps=6, batch=8, seed=3)


@pytest.fixture(scope="module")
def small(loaded) -> Material:
    return some_material(loaded, *some_notes(61, 3), replayed=12)


def said(loaded, questions) -> list[str]:
    return [one.text for one in answers(loaded, [prompt_ids(loaded, question.text) for question in questions])]


def snapshot(loaded) -> dict[str, torch.Tensor]:
    return {name: weights.clone() for name, weights in loaded.model.state_dict().items()}


def test_what_was_distilled_is_answered_without_any_memory_in_the_prompt(resident: Resident, first: Trained):
    resident.load("of-first", first.folder)
    studied = [question for note in first.notes for question in first.questions.study(note)]
    new = [question for note in first.notes for question in first.questions.probes(note)]
    worn, base = resident.wearing("of-first"), resident.wearing(None)
    right = [question.right for question in studied]
    assert sum(a == b for a, b in zip(said(worn, studied), right, strict=True)) >= 0.98 * len(right)
    agreed = [a == question.right for a, question in zip(said(worn, new), new, strict=True)]
    assert sum(agreed) >= 0.92 * len(agreed)
    assert set(said(base, studied)) == {"unknown"}


def test_the_same_seed_gives_the_same_adapter(resident: Resident, small: Material):
    made = [finished(distilling(resident, name, small, SHORT)).digest for name in ("one-made", "two-made")]
    other = finished(distilling(resident, "three-made", small, replace(SHORT, seed=4))).digest
    assert made[0] == made[1] != other


def test_a_cancelled_run_leaves_nothing(resident: Resident, small: Material, tmp_path: Path):
    before, path = snapshot(resident.base), tmp_path / "checkpoint"
    run = distilling(resident, "cut-off", small, replace(SHORT, checkpoint_steps=1), checkpoint=Checkpoint(path))
    for _ in range(3):
        next(run)
    assert path.exists()
    run.close()
    assert (resident.adapters, list(tmp_path.iterdir())) == ((), [])
    after = snapshot(resident.base)
    assert before.keys() == after.keys()
    assert all(torch.equal(weights, after[name]) for name, weights in before.items())
    assert not any(weights.requires_grad for weights in resident.base.model.parameters())


def test_a_killed_run_goes_on_from_its_checkpoint_and_ends_as_if_it_had_not_stopped(
    resident: Resident, small: Material, tmp_path: Path
):
    whole = finished(distilling(resident, "in-one-go", small, SHORT))
    path = tmp_path / "checkpoint"
    run = distilling(resident, "killed-run", small, replace(SHORT, checkpoint_steps=4), checkpoint=Checkpoint(path))
    for _ in range(5):
        next(run)
    kept = path.read_bytes()  # what a kill at this point leaves
    run.close()
    path.write_bytes(kept)
    again = distilling(resident, "goes-on", small, replace(SHORT, checkpoint_steps=4), checkpoint=Checkpoint(path))
    assert next(again).done == 5  # type: ignore[union-attr]
    assert finished(again).digest == whole.digest  # type: ignore[arg-type]
    assert not path.exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_checkpoint_is_passed_over(resident: Resident, small: Material, tmp_path: Path, damage: bytes):
    path = tmp_path / "checkpoint"
    path.write_bytes(damage)
    run = distilling(resident, "anew-then", small, SHORT, checkpoint=Checkpoint(path))
    assert next(run).done == 1


def test_a_checkpoint_of_another_plan_is_not_taken(resident: Resident, small: Material, tmp_path: Path):
    path, plan = tmp_path / "checkpoint", replace(SHORT, checkpoint_steps=1)
    run = distilling(resident, "cut-off", small, plan, checkpoint=Checkpoint(path))
    next(run)
    kept = path.read_bytes()
    run.close()
    path.write_bytes(kept)
    assert next(distilling(resident, "another", small, replace(plan, seed=9), checkpoint=Checkpoint(path))).done == 1


def test_training_ends_early_when_the_student_says_what_the_teacher_says(first: Trained):
    assert first.distilled.ended in ("early", "steps")
    assert first.distilled.steps <= PLAN.steps
    assert first.distilled.held >= 0.95


def test_time_ends_the_training_and_memory_refuses_it(resident: Resident, small: Material):
    seconds = iter(range(1000))
    made = finished(
        distilling(resident, "in-time", small, replace(SHORT, max_seconds=2), clock=lambda: float(next(seconds)))
    )
    assert (made.ended, made.steps) == ("time", 3)
    used = iter(range(0, 1000, 400))
    heavy = replace(SHORT, max_bytes=1000)
    with pytest.raises(TooLarge, match="smaller batch"):
        finished(distilling(resident, "too-much", small, heavy, peak=lambda: next(used, 5000)))
    assert [one.name for one in resident.adapters] == ["in-time"]


def test_a_plan_that_makes_no_sense_is_refused(resident: Resident, small: Material):
    for plan in (replace(SHORT, rank=0), replace(SHORT, steps=0), replace(SHORT, learning_rate=0)):
        with pytest.raises(Invalid):
            finished(distilling(resident, "not-made", small, plan))
    assert resident.adapters == ()


def test_a_name_that_is_taken_is_refused_and_its_adapter_stays(resident: Resident, small: Material, first: Trained):
    resident.load("taken-name", first.folder)
    with pytest.raises(Conflict):
        finished(distilling(resident, "taken-name", small, SHORT))
    assert resident.known("taken-name").digest == first.distilled.digest


def test_it_runs_in_the_background_of_the_models_thread_from_the_material_to_the_end(loaded, tmp_path: Path):
    resident, runner, path = Resident(loaded, 1 << 30), Runner(loaded), tmp_path / "checkpoint"
    notes, questions = some_notes(62, 3)
    plan = replace(SHORT, checkpoint_steps=2)

    def begin(material: Material, name: str):
        return runner.stream(
            lambda _: as_job(distilling(resident, name, material, plan, checkpoint=Checkpoint(path))), background=True
        )

    try:
        gathered = runner.stream(lambda _: as_job(gathering(loaded, notes, questions, 1, replayed=12)), background=True)
        *_, material = list(gathered)
        assert isinstance(material, Material)
        with begin(material, "behind-one") as told:
            *stages, whole = list(told)
        assert [stage.done for stage in stages if isinstance(stage, Stage)] == list(range(1, 7))
        assert isinstance(whole, Distilled)
        cut = distilling(resident, "behind-two", material, plan, checkpoint=Checkpoint(path))
        for _ in range(3):
            next(cut)
        kept = path.read_bytes()
        cut.close()
        path.write_bytes(kept)
        *_, again = list(begin(material, "behind-three"))
        assert isinstance(again, Distilled)
        assert again.digest == whole.digest
    finally:
        runner.call(lambda _: resident.close())
        runner.close()


def test_a_conversation_between_two_steps_sees_the_base_model(resident: Resident, small: Material):
    given = torch.tensor([small.rows[MEMORY][0].prompt])
    with torch.inference_mode():
        before = resident.base.model(input_ids=given).logits
    run = distilling(resident, "meanwhile", small, SHORT)
    for _ in range(4):
        next(run)
        with torch.inference_mode():
            assert torch.equal(resident.base.model(input_ids=given).logits, before)
    run.close()


def test_an_answer_of_the_teacher_that_is_wrong_is_never_taught(loaded):
    notes, questions = some_notes(63, 4)
    lying = replace(questions, by_id={**questions.by_id, notes[0].id: replace(questions.by_id[notes[0].id], value="x")})
    material = some_material(loaded, notes, lying, replayed=4)
    assert [note.id for note in material.untaught] == [notes[0].id]
    assert notes[0].id not in {row.note.id for row in material.rows[MEMORY] if row.note}
    assert material.dropped > 0


def test_memories_that_the_model_cannot_be_taught_are_refused(loaded):
    notes, questions = some_notes(64, 2)
    wrong = replace(questions, by_id={id: replace(fact, value="x") for id, fact in questions.by_id.items()})
    with pytest.raises(Invalid, match="keep them as text"):
        finished(gathering(loaded, notes, wrong, replayed=4))
    with pytest.raises(Invalid, match="no memory"):
        finished(gathering(loaded, (), questions))


def test_larger_models_learn_at_smaller_rates():
    rates = [learning_rate_for(parameters) for parameters in (1_000, 160_000, 500_000_000, 10**12)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == rates[1] == Plan().learning_rate > rates[2] > rates[3] > 0
