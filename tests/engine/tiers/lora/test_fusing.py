"""Two adapters become one that knows what both knew, or the reply says that it was trained anew."""

from __future__ import annotations

import time

import pytest
import torch

from engine.errors import Conflict, Invalid, NotFound
from engine.tiers.lora.asking import finished
from engine.tiers.lora.distil import Plan
from engine.tiers.lora.factors import DOWN, UP, scaling_of, svd_sum
from engine.tiers.lora.fusing import CAT, COMBINATIONS, HEALED, LINEAR, RETRAINED, SVD, combined, fusing
from engine.tiers.lora.gate import Limits
from engine.tiers.lora.serving import Resident
from tests.engine.tiers.lora.conftest import Trained
from tests.models.questions import together

HEALING = Plan(learning_rate=3e-3, steps=80, batch=32, warm_up=5)
LIMITS = Limits(lost=0.06, unknown=0.9)  # the parts were trained in haste
RANDOM = torch.Generator().manual_seed(5)


def factors(rank: int, out: int = 20, wide: int = 30) -> dict[str, torch.Tensor]:
    return {
        f"x.{DOWN}": torch.randn(rank, wide, generator=RANDOM),
        f"x.{UP}": torch.randn(out, rank, generator=RANDOM),
    }


def product(part: dict[str, torch.Tensor]) -> torch.Tensor:
    return part[f"x.{UP}"] @ part[f"x.{DOWN}"]


def test_the_sum_of_adapters_is_exact_at_the_rank_of_both():
    one, other = factors(3), factors(4)
    made = svd_sum([(one, 2.0), (other, 0.5)], [1.0, 3.0], 7)
    torch.testing.assert_close(product(made), 2.0 * product(one) + 1.5 * product(other), rtol=1e-4, atol=1e-4)


def test_of_a_smaller_rank_it_is_the_nearest_there_is():
    one, other = factors(6), factors(6)
    whole = product(one) + product(other)
    made = svd_sum([(one, 1.0), (other, 1.0)], [1.0, 1.0], 4)
    tail = torch.linalg.svdvals(whole)[4:].norm()
    torch.testing.assert_close((whole - product(made)).norm(), tail, rtol=1e-3, atol=1e-3)
    assert made[f"x.{DOWN}"].shape == (4, 30)


def test_a_rank_beyond_what_there_is_is_filled_with_nothing():
    one = factors(2)
    made = svd_sum([(one, 1.0)], [1.0], 9)
    assert made[f"x.{UP}"].shape == (20, 9)
    torch.testing.assert_close(product(made), product(one), rtol=1e-4, atol=1e-4)


def test_a_matrix_that_only_one_adapter_changes_is_kept():
    one = {f"y.{name.removeprefix('x.')}": tensor for name, tensor in factors(2).items()}
    made = svd_sum([(one, 1.0), (factors(2), 1.0)], [1.0, 1.0], 4)
    assert set(made) == {f"{place}.{part}" for place in "xy" for part in (DOWN, UP)}


def test_rank_stabilised_adapters_are_scaled_by_the_root():
    assert (scaling_of(16, 4), scaling_of(16, 4, rank_stabilised=True)) == (4, 8)


def test_the_factors_of_a_half_billion_model_take_well_under_a_second():
    shapes = [(896, 896), (128, 896), (128, 896), (896, 896), (4864, 896), (4864, 896), (896, 4864)] * 2
    parts = [
        {
            name: tensor
            for place, (out, wide) in enumerate(shapes)
            for name, tensor in ((f"{place}.{DOWN}", torch.randn(8, wide)), (f"{place}.{UP}", torch.randn(out, 8)))
        }
        for _ in range(2)
    ]
    begun = time.process_time()
    svd_sum([(part, 1.0) for part in parts], [1.0, 1.0], 16)
    assert time.process_time() - begun < 5  # by the products it takes a minute


@pytest.fixture
def both(resident: Resident, first: Trained, second: Trained) -> Resident:
    resident.load("of-first", first.folder)
    resident.load("of-second", second.folder)
    return resident


def test_the_chosen_adapter_knows_what_both_knew(both: Resident, first: Trained, second: Trained):
    notes, questions = (*first.notes, *second.notes), together(first.questions, second.questions)
    parts = {name: both.tensors(name) for name in ("of-first", "of-second")}
    kept = {name: {key: one.clone() for key, one in told.items()} for name, told in parts.items()}
    steps = fusing(
        both, "of-both", ["of-first", "of-second"], notes, questions, hows=(SVD, HEALED), healing=HEALING, limits=LIMITS
    )
    made = finished(steps)
    assert made.verdict.passed, made.verdict.why
    assert made.how == HEALED
    assert made.verdict.right >= 0.9
    assert made.how == made.tried[-1].how
    assert all(not one.verdict.passed for one in made.tried[:-1])
    assert {one.name for one in both.adapters} == {"of-first", "of-second", "of-both"}
    for name, told in kept.items():
        assert all(torch.equal(one, both.tensors(name)[key]) for key, one in told.items())
    card = both.known("of-both").card
    assert card is not None
    assert (card.made, set(card.parents)) == (made.how, {first.distilled.digest, second.distilled.digest})
    assert {source.id for source in card.sources if source.known} >= {note.id for note in notes} - set(
        made.verdict.missed
    )


@pytest.mark.parametrize("how", COMBINATIONS)
def test_every_combination_makes_an_adapter(both: Resident, how: str):
    combined(both, "a-sum", ["of-first", "of-second"], [1.0, 1.0], how, 16)
    assert all(bool(one.isfinite().all()) for one in both.tensors("a-sum").values())
    assert any(bool(one.any()) for one in both.tensors("a-sum").values())


def test_svd_at_full_rank_is_the_sum_that_cat_is(both: Resident, first: Trained):
    for how in (SVD, CAT):
        combined(both, f"by-{how}", ["of-first", "of-second"], [1.0, 1.0], how, 16)
    ids = torch.tensor([[5, 9, 20, 31]])
    with torch.inference_mode():
        one, other = (both.wearing(f"by-{how}").model(input_ids=ids).logits for how in (SVD, CAT))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_a_fusion_that_is_stopped_leaves_the_parts_alone(both: Resident, first: Trained, second: Trained):
    notes, questions = (*first.notes, *second.notes), together(first.questions, second.questions)
    steps = fusing(both, "of-both", ["of-first", "of-second"], notes, questions, hows=(HEALED, RETRAINED))
    for _ in range(400):
        if "training" in next(steps).message:
            break
    steps.close()
    assert {one.name for one in both.adapters} == {"of-first", "of-second"}


def test_when_nothing_passes_the_best_is_taken_and_the_verdict_says_so(both: Resident, first: Trained, second: Trained):
    notes, questions = (*first.notes, *second.notes), together(first.questions, second.questions)
    never = Limits(memories=1.1)
    made = finished(
        fusing(both, "of-both", ["of-first", "of-second"], notes, questions, hows=(LINEAR, CAT), limits=never)
    )
    assert ([one.how for one in made.tried], made.verdict.passed) == ([LINEAR, CAT], False)
    assert made.verdict.standing == max(one.verdict.standing for one in made.tried)
    assert {one.name for one in both.adapters} == {"of-first", "of-second", "of-both"}


def test_an_adapter_that_has_the_name_of_a_candidate_is_left_alone(both: Resident, first: Trained):
    both.load("of-both-0", first.folder)
    with pytest.raises(Conflict):
        finished(fusing(both, "of-both", ["of-first", "of-second"], first.notes, first.questions))
    assert {one.name for one in both.adapters} == {"of-first", "of-second", "of-both-0"}


def test_one_adapter_or_an_unknown_way_is_refused(both: Resident, first: Trained):
    for parts, hows in ((["of-first"], (SVD,)), (["of-first", "of-second"], ("mix",)), (["of-first", "of-second"], ())):
        with pytest.raises(Invalid):
            finished(fusing(both, "of-both", parts, first.notes, first.questions, hows=hows))
    with pytest.raises(NotFound):
        finished(fusing(both, "of-both", ["of-first", "no-such"], first.notes, first.questions))
