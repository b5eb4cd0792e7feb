"""The table of families whose KV cache is kept says what is true of their models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.model.caches import OwnCache, continuation_fault
from engine.model.layouts import FAMILIES, Layout, layout_of, steady_tokens
from engine.model.loading import Loaded
from engine.model_operations import ModelInfo
from engine.tiers.kv.recompute import recompute
from engine.tiers.kv.rotation import rotated
from engine.tiers.kv.tensors import WorkingCache, bytes_of
from tests.engine.model.families import (
    CONTINUED_WRONGLY,
    DYNAMIC,
    KEPT,
    REFUSED,
    TWO_LENGTHS,
    WINDOW,
    config_of,
    kept_config,
    random_model,
)
from tests.engine.tiers.random_models import distance, encoded_at

torch.set_num_threads(1)
CASES = ("gemma3", *KEPT)
TOKENS, KEPT_TOKENS, FAR = 70, 50, 300
EXACT = 1e-4
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "models.md"


def family_of(name: str) -> str:
    return KEPT[name][0] if name in KEPT else name


def ids_of(count: int = TOKENS) -> list[int]:
    drawn = torch.randint(3, 490, (count,), generator=torch.Generator().manual_seed(1))
    return [int(id) for id in drawn]


def answers(model: Any, ids: list[int], cache: Any = None) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=cache is not None).logits[0]


def layout(name: str) -> Layout:
    model = random_model(name)
    return layout_of(model.config, model)


def loaded(name: str) -> Loaded:
    model = random_model(name)
    info = ModelInfo(name, "", "", "cpu", "float32", 1, 2_048)
    return Loaded(model, None, info, layout(name), None)


@pytest.mark.parametrize("name", CASES)
def test_a_kept_prefix_gives_what_full_prefill_gives(name: str) -> None:
    model, ids = random_model(name), ids_of()
    assert layout(name).refusal is None
    full, cache = answers(model, ids), WorkingCache(model.config)
    for start, end in ((0, 20), (20, 21), (21, KEPT_TOKENS)):  # in pieces, the last behind a window's reach
        assert (answers(model, ids[start:end], cache) - full[start:end]).abs().max() <= EXACT
    again = WorkingCache(model.config)
    again.append(cache.taken(0, KEPT_TOKENS))
    assert (answers(model, ids[KEPT_TOKENS:], again) - full[KEPT_TOKENS:]).abs().max() <= EXACT


@pytest.mark.parametrize("name", [name for name in CASES if FAMILIES[family_of(name)].chunk_refusal is None])
def test_a_chunk_is_moved_and_recomputed_by_what_the_layout_says(name: str) -> None:
    one, ids = loaded(name), ids_of()
    rope = one.layout.rope
    alone, there = encoded_at(one, ids[:30], 0), encoded_at(one, ids[:30], FAR)
    assert distance(alone, there) > 0.1  # not moved, it would be wrong
    assert distance(rotated(alone, rope, FAR), there) <= EXACT
    cache = WorkingCache(one.model.config)
    cache.append(alone)
    cache.append(rotated(encoded_at(one, ids[30:KEPT_TOKENS], 0), rope, 30))
    recompute(one, cache, ids, torch.arange(KEPT_TOKENS))
    full = WorkingCache(one.model.config)
    answers(one.model, ids[:KEPT_TOKENS], full)
    assert distance(cache.taken(0, KEPT_TOKENS), full.taken(0, KEPT_TOKENS)) <= EXACT


@pytest.mark.parametrize("name", CASES)
def test_the_size_of_a_cache_is_what_the_layout_says(name: str) -> None:
    model, said = random_model(name), layout(name)
    cache = WorkingCache(model.config)
    answers(model, ids_of(5), cache)
    layers = cache.taken(0, 5)
    assert bytes_of(layers) == 5 * said.bytes_per_token(4)
    assert {keys.shape for keys, _ in layers} == {(1, said.kv_heads, 5, said.head_dim)}
    assert len(layers) == said.layers == len(said.windows)


def test_every_family_of_the_table_is_tested_and_no_other() -> None:
    assert {kept_config(name).model_type for name in CASES} == set(FAMILIES)


def test_layers_without_positions_are_not_turned_and_parts_of_keys_are() -> None:
    assert [one is None for one in layout("smollm3").rope.inv_freq] == [False, False, True]
    assert [one is None for one in layout("cohere2").rope.inv_freq] == [w is None for w in layout("cohere2").windows]
    assert [one is None for one in layout("exaone4 without windows").rope.inv_freq] == [False] * 3
    assert layout("phi3 that turns a part").rope.rotary_dim == 8
    assert layout("gemma3_text").rope.inv_freq[0] is not layout("gemma3_text").rope.inv_freq[2]
    assert layout("gemma3_text").windows == (WINDOW, WINDOW, None)


def test_positions_that_are_added_leave_the_prefix_form_alone() -> None:
    said = layout("gpt2")
    assert said.refusal is None
    assert said.rope is None
    assert "only prefixes are kept" in said.chunk_refusal


@pytest.mark.parametrize("name", REFUSED)
def test_other_caches_are_refused_by_name_and_still_continue_right(name: str) -> None:
    family, more, word = REFUSED[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, more)).eval()
    said = layout_of(model.config, model)
    assert said.refusal == said.chunk_refusal
    assert family in said.refusal
    assert word in said.refusal
    assert said.bytes_per_token(4) == 0
    assert continuation_fault(model) is None
    ids, cache = ids_of(), OwnCache(model.config)
    full = answers(model, ids)
    assert (answers(model, ids[:40], cache) - full[:40]).abs().max() <= EXACT
    assert (answers(model, ids[40:41], cache) - full[40:41]).abs().max() <= EXACT
    assert cache.tokens == 41


def test_a_model_that_the_library_continues_wrongly_is_found_out() -> None:
    torch.manual_seed(0)
    wrong = AutoModelForCausalLM.from_config(config_of(*CONTINUED_WRONGLY)).eval()
    assert "wrongly" in continuation_fault(wrong)
    other = AutoModelForCausalLM.from_config(config_of("mamba", {"state_size": 16})).eval()
    assert "another kind" in continuation_fault(other)


def test_encoders_with_decoders_and_latent_attention_are_refused() -> None:
    assert "encoder" in layout_of(config_of("t5", {}), None).refusal
    assert "latent" in layout_of(config_of("deepseek_v3", {"kv_lora_rank": 16}), None).refusal


def test_frequencies_that_change_with_the_length_bound_the_context() -> None:
    assert steady_tokens(config_of("phi3", TWO_LENGTHS)) == 512
    assert steady_tokens(config_of("llama", {"rope_parameters": DYNAMIC})) == 2_048
    assert steady_tokens(kept_config("qwen2 with yarn frequencies")) is None
    assert steady_tokens(kept_config("gemma3")) is None


def test_the_documentation_names_the_families_of_the_table() -> None:
    text = DOCUMENT.read_text("utf-8")
    rows = re.findall(r"^\| (`[a-z].*?) \| (yes|no)", text, re.MULTILINE)
    named = {family: chunks for cell, chunks in rows for family in re.findall(r"`([a-z0-9_]+)`", cell)}
    assert named == {name: "no" if family.chunk_refusal else "yes" for name, family in FAMILIES.items()}
