"""Several adapters in one model: each request sees its own, and nothing of the others."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import Busy, Conflict, Corrupt, Invalid, NotFound, TooLarge
from engine.model.generation import generate
from engine.model.runner import Runner
from engine.model_operations import Sampling
from engine.tiers.kv.tensors import WorkingCache
from engine.tiers.lora.asking import answers, asking, finished, prompt_ids
from engine.tiers.lora.distil import Plan, adapter_config
from engine.tiers.lora.files import read_adapter, write_adapter
from engine.tiers.lora.fitting import needed_bytes
from engine.tiers.lora.serving import BASE, Resident
from tests.engine.tiers.lora.conftest import Trained


def prompts_of(resident: Resident, made: Trained) -> list[tuple[int, ...]]:
    return [prompt_ids(resident.base, made.questions.study(note)[0].text) for note in made.notes]


def values_of(made: Trained) -> list[str]:
    return [made.questions.by_id[note.id].value for note in made.notes]


def logits(loaded, ids) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model(input_ids=torch.tensor([list(ids)])).logits


GREEDY = Sampling(max_tokens=8, temperature=0.0)


def generated(loaded, ids) -> str:
    return "".join(step.text for step in generate(loaded, ids, WorkingCache(loaded.model.config), GREEDY))


@pytest.fixture
def both(resident: Resident, first: Trained, second: Trained) -> Resident:
    resident.load("of-first", first.folder)
    resident.load("of-second", second.folder)
    return resident


def test_each_request_sees_its_own_adapter(both: Resident, first: Trained, second: Trained):
    for name, made in (("of-first", first), ("of-second", second)):
        said = [one.text for one in answers(both.wearing(name), prompts_of(both, made))]
        assert sum(a == b for a, b in zip(said, values_of(made), strict=True)) >= 7
    assert {one.text for one in answers(both.wearing(None), prompts_of(both, first))} == {"unknown"}
    other = [one.text for one in answers(both.wearing("of-second"), prompts_of(both, first))]
    assert sum(a == b for a, b in zip(other, values_of(first), strict=True)) <= 1


def test_a_batch_of_mixed_adapters_says_what_each_says_alone(both: Resident, first: Trained, second: Trained):
    prompts = [
        prompt for pair in zip(prompts_of(both, first), prompts_of(both, second), strict=True) for prompt in pair
    ]
    prompts += prompts_of(both, first)
    names = ["of-first", "of-second"] * 8 + [BASE] * 8
    together = finished(asking(both.mixing(), prompts, adapters=names))
    alone = [
        answers(both.wearing(None if name == BASE else name), [prompt])[0]
        for name, prompt in zip(names, prompts, strict=True)
    ]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert all(abs(a.log_probability - b.log_probability) < 1e-3 for a, b in zip(together, alone, strict=True))


def test_requests_that_take_turns_on_the_models_thread_do_not_mix(loaded, first: Trained, second: Trained):
    runner, resident = Runner(loaded), Resident(loaded, 1 << 30)
    try:
        runner.call(lambda _: (resident.load("of-first", first.folder), resident.load("of-second", second.folder)))
        asked = [("of-first", first), ("of-second", second), (None, first)]
        jobs = []
        for name, made in asked:
            worn = runner.call(lambda _, name=name: resident.wearing(name))
            ids = prompts_of(resident, made)[0]
            cache = WorkingCache(loaded.model.config)
            jobs.append(runner.stream(lambda _, worn=worn, ids=ids, cache=cache: generate(worn, ids, cache, GREEDY)))
        said = ["".join(step.text for step in job) for job in jobs]
        expected = runner.call(
            lambda _: [generated(resident.wearing(name), prompts_of(resident, made)[0]) for name, made in asked]
        )
        assert said == expected
        assert len(set(said)) == 3
    finally:
        runner.call(lambda _: resident.close())
        runner.close()


def test_switching_gives_what_pefts_own_switch_gives(both: Resident, first: Trained):
    ids = prompts_of(both, first)[0]
    ours = {name: logits(both.wearing(name), ids) for name in ("of-first", "of-second")}
    for name, expected in ours.items():
        both._peft.set_adapter(name)
        assert torch.equal(logits(both.base, ids), expected)
    both._settle()
    assert not torch.equal(ours["of-first"], ours["of-second"])


def test_the_base_stays_bit_for_bit_what_it_was(loaded, first: Trained, second: Trained):
    resident = Resident(loaded, 1 << 30)
    ids = prompts_of(resident, first)[0]
    before = logits(loaded, ids)
    resident.load("of-first", first.folder)
    assert torch.equal(logits(loaded, ids), before)
    assert torch.equal(logits(resident.wearing(None), ids), before)
    assert not torch.equal(logits(resident.wearing("of-first"), ids), before)
    assert torch.equal(logits(loaded, ids), before)
    resident.load("of-second", second.folder)
    resident.drop("of-first")
    assert torch.equal(logits(loaded, ids), before)
    resident.close()
    assert torch.equal(logits(loaded, ids), before)
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())


def test_nothing_but_an_adapter_in_the_making_requires_gradients(both: Resident):
    def learning() -> set[str]:
        return {name for name, weights in both.base.model.named_parameters() if weights.requires_grad}

    assert learning() == set()
    both.add("in-making", adapter_config(Plan()))
    assert learning()
    assert all(".in-making." in name for name in learning())
    both.combine("a-sum", ["of-first", "of-second"], [1.0, 1.0], "cat")
    both.drop("of-first")
    assert all(".in-making." in name or ".a-sum." in name for name in learning())
    both.drop("in-making")
    both.drop("a-sum")
    assert learning() == set()


def test_each_adapter_has_a_fingerprint_of_its_own_and_so_kv_of_its_own(both: Resident, first: Trained):
    base = both.base.info.fingerprint
    worn = {name: both.wearing(name).info.fingerprint for name in ("of-first", "of-second")}
    assert len({base, *worn.values()}) == 3
    assert both.wearing(None).info.fingerprint == base
    both.drop("of-first")
    both.load("another-name", first.folder)
    assert both.wearing("another-name").info.fingerprint == worn["of-first"]


def test_the_longest_unused_adapter_goes_when_the_budget_is_full(
    loaded, first: Trained, second: Trained, tmp_path: Path
):
    resident = Resident(loaded, 2 * first.distilled.bytes)
    resident.load("of-first", first.folder)
    resident.load("of-second", second.folder)
    resident.wearing("of-first")
    config, tensors = resident.config("of-first"), resident.tensors("of-first")
    card = resident.known("of-first").card
    assert card is not None
    write_adapter(tmp_path / "third", config, tensors, card)
    resident.load("of-third", tmp_path / "third")
    assert {one.name for one in resident.adapters} == {"of-first", "of-third"}
    assert resident.bytes <= 2 * first.distilled.bytes
    with pytest.raises(NotFound, match="of-second"):
        resident.wearing("of-second")
    resident.close()
    with pytest.raises(TooLarge, match="budget"):
        Resident(loaded, 10).load("of-first", first.folder)


def test_an_adapter_that_a_request_still_uses_is_not_evicted(loaded, first: Trained, second: Trained):
    resident = Resident(loaded, first.distilled.bytes)
    resident.load("of-first", first.folder)
    worn = resident.wearing("of-first")
    with pytest.raises(Busy, match="ask again"):
        resident.load("of-second", second.folder)
    assert [one.text for one in answers(worn, prompts_of(resident, first)[:1])] == values_of(first)[:1]
    del worn
    resident.load("of-second", second.folder)
    assert [one.name for one in resident.adapters] == ["of-second"]
    resident.close()


def test_a_request_whose_adapter_was_dropped_fails_instead_of_answering_as_the_base(both: Resident, first: Trained):
    worn = both.wearing("of-first")
    both.drop("of-first")
    with pytest.raises(NotFound, match="of-first"):
        answers(worn, prompts_of(both, first)[:1])


def test_names_that_peft_would_confuse_are_refused(both: Resident):
    for name in ("", "a.b", "of lora_A", "x_lora_y", "a", "lora", "ö"):
        with pytest.raises(Invalid):
            both.add(name, adapter_config(Plan()))
    with pytest.raises(Conflict):
        both.add("of-first", adapter_config(Plan()))
    with pytest.raises(Conflict):
        both.combine("of-first", ["of-first", "of-second"], [1, 1], "cat")
    assert {one.name for one in both.adapters} == {"of-first", "of-second"}


def test_dropping_and_loading_warn_about_nothing(both: Resident, first: Trained):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        both.drop("of-first")
        both.load("of-first", first.folder)
        both.close()


def test_the_same_name_with_other_weights_is_refused(both: Resident, second: Trained):
    with pytest.raises(Conflict, match="drop it first"):
        both.load("of-first", second.folder)
    assert both.load("of-second", second.folder).name == "of-second"


def test_switching_reloads_nothing(both: Resident, first: Trained):
    weights = {id(one) for one in both.base.model.parameters()}
    for name in ("of-first", "of-second", None) * 3:
        logits(both.wearing(name), prompts_of(both, first)[0])
    assert {id(one) for one in both.base.model.parameters()} == weights
    assert replace(both.wearing("of-first"), model=None).tokenizer is both.base.tokenizer


def test_what_was_killed_says_nothing_alone_or_in_a_batch_and_the_others_go_on(both: Resident, second: Trained):
    worn, prompts = both.wearing("of-first"), prompts_of(both, second)
    both.kill(["of-first"])
    with pytest.raises(Conflict, match="taken out of service"):
        answers(worn, prompts[:1])
    with pytest.raises(Conflict, match="taken out of service"):
        finished(asking(both.mixing(), prompts[:2], adapters=["of-second", "of-first"]))
    said = [one.text for one in answers(both.wearing("of-second"), prompts)]
    assert sum(a == b for a, b in zip(said, values_of(second), strict=True)) >= 7
    assert {one.text for one in answers(both.wearing(None), prompts)} == {"unknown"}
    both.bury()
    assert [one.name for one in both.adapters] == ["of-second"]


def test_eight_adapters_in_one_batch_say_what_each_says_alone(resident: Resident, first: Trained, second: Trained):
    for number in range(8):
        resident.load(f"adapter-{number}", (first, second)[number % 2].folder)
    names = [f"adapter-{number}" for number in range(8)]
    prompts = [prompts_of(resident, (first, second)[number % 2])[number] for number in range(8)]
    alone = [answers(resident.wearing(name), [prompt])[0].text for name, prompt in zip(names, prompts, strict=True)]
    together = finished(asking(resident.mixing(), prompts, adapters=names))
    assert [one.text for one in together] == alone
    assert sum(said != "unknown" for said in alone) >= 7


@pytest.mark.parametrize(
    "changed",
    [{"r": 256}, {"rank_pattern": {"q_proj": 256}}, {"target_modules": {"q_proj"}}, {"target_modules": {"x"}}],
)
def test_weights_of_another_rank_than_they_ask_for_make_nothing_in_the_model(
    loaded, first: Trained, changed: dict[str, object]
):
    config, tensors, card = read_adapter(first.folder, loaded.info.fingerprint)
    for name, value in changed.items():
        setattr(config, name, value)
    resident = Resident(loaded, 1 << 30)
    seen = sys.getprofile()
    called: list[str] = []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        with pytest.raises(Corrupt, match="does not fit"):
            resident.take("odd", config, tensors, card)
    finally:
        sys.setprofile(seen)
    assert "get_peft_model" not in called
    assert resident.adapters == ()


def test_room_is_asked_for_by_what_is_made_and_not_by_what_the_file_holds(loaded, first: Trained):
    config, tensors, card = read_adapter(first.folder, loaded.info.fingerprint)
    short = {name: tensor[:, :1] if ".lora_A" in name else tensor[:1] for name, tensor in tensors.items()}
    held = sum(tensor.nbytes for tensor in short.values())
    with pytest.raises(TooLarge, match="budget"):
        Resident(loaded, held * 2).take("odd", config, short, card)
    needed = needed_bytes(loaded.model, config, tensors, "whole")
    assert needed == sum(tensor.nbytes for tensor in tensors.values()) == first.distilled.bytes


@pytest.mark.parametrize("others", [False, True])
def test_too_little_memory_is_no_fault_of_the_adapter_and_leaves_nothing_of_it(
    resident: Resident, first: Trained, second: Trained, others: bool
):
    if others:
        resident.load("of-second", second.folder)
    before = {name: tensor.shape for name, tensor in resident.base.model.named_parameters()}
    config = adapter_config(Plan())
    config.rank_pattern = {"down_proj": 1 << 40}  # the attention before it gets its weights
    with pytest.raises(Busy, match="not enough memory"):
        resident.add("of-first", config)
    assert {name: tensor.shape for name, tensor in resident.base.model.named_parameters()} == before
    assert resident.load("of-first", first.folder).bytes == first.distilled.bytes
    said = [one.text for one in answers(resident.wearing("of-first"), prompts_of(resident, first))]
    assert sum(a == b for a, b in zip(said, values_of(first), strict=True)) >= 7
