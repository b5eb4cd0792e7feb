"""Keys and values in fewer bits: how many bytes, how near, and what may not be lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.model.loading import Loaded
from engine.tiers.kv.compression import (
    GROUP_TOKENS,
    INT4,
    INT8,
    LEAST_SCALE,
    Packed,
    attention,
    compressed,
    keep_tokens,
    restored,
)
from engine.tiers.kv.encoding import encode
from engine.tiers.kv.tensors import Layers, joined, sliced
from tests.engine.tiers.random_models import CONFIGS, distance, filled, random_model, some_ids

BFLOAT16_BYTES = 2
LEAST_INT4_SCALE = 2.0**-18
LAYERS, HEADS = 3, 2


def some_layers(tokens: int, head_size: int, seed: int = 0, channel: float = 1.0) -> Layers:
    """Numbers of a normal distribution; of the keys, channel 3 is `channel` times as large."""
    drawn = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(LAYERS):
        keys, values = (torch.randn(1, HEADS, tokens, head_size, generator=drawn) for _ in range(2))
        keys[..., 3] *= channel
        made.append((keys, values))
    return tuple(made)


def ratio(packed: Packed, layers: Layers) -> float:
    """Of the bytes that bfloat16 takes."""
    return packed.bytes / sum(BFLOAT16_BYTES * tensor.numel() for layer in layers for tensor in layer)


@pytest.mark.parametrize(
    ("how", "head_size", "tokens", "most"),
    [
        (INT8, 64, 48, 0.52),
        (INT8, 64, 2_048, 0.51),
        (INT8, 128, 256, 0.51),
        (INT8, 16, 2_048, 0.54),
        (INT4, 64, 2_048, 0.30),
        (INT4, 64, 128, 0.30),
        (INT4, 64, 16, 0.36),
        (INT4, 128, 256, 0.29),
        (INT4, 16, 2_048, 0.33),
    ],
)
def test_bytes_with_all_scales_beside_bfloat16(how: str, head_size: int, tokens: int, most: float) -> None:
    layers = some_layers(tokens, head_size)
    assert ratio(compressed(layers, how), layers) <= most


@given(
    how=st.sampled_from((INT8, INT4)),
    tokens=st.integers(1, 2 * GROUP_TOKENS + 3),
    head_size=st.sampled_from((4, 16, 64)),
    seed=st.integers(0, 1_000),
    size=st.sampled_from((1e-6, 0.02, 1.0, 300.0)),
)
@settings(max_examples=40)
def test_no_number_is_off_by_more_than_half_a_step(
    how: str, tokens: int, head_size: int, seed: int, size: float
) -> None:
    layers = tuple((size * keys, size * values) for keys, values in some_layers(tokens, head_size, seed))
    again = restored(compressed(layers, how), torch.float32, "cpu")
    for pair, its_pair in zip(layers, again, strict=True):
        for was, got, along in zip(pair, its_pair, (2, 3), strict=True):
            assert got.shape == was.shape
            greatest = was.abs().amax(along, keepdim=True)
            if how == INT8:
                step = greatest / 127 * (1 + 2.0**-10) + LEAST_SCALE
            else:
                spread = was.amax(along, keepdim=True) - was.amin(along, keepdim=True)
                step = torch.maximum(spread / 15, greatest / 127) * 2 ** (1 / 10) + LEAST_INT4_SCALE
            allowed = step * 0.501
            assert bool(((got - was).abs() <= allowed).all())


@pytest.mark.parametrize("how", [INT8, INT4])
def test_a_channel_of_large_keys_takes_nothing_from_the_others(how: str) -> None:
    without, with_it = some_layers(100, 64), some_layers(100, 64, channel=300.0)
    plain, large = (restored(compressed(layers, how), torch.float32, "cpu") for layers in (without, with_it))
    for (keys, _), (others, _) in zip(plain, large, strict=True):
        assert torch.equal(keys[..., 4:], others[..., 4:])


@pytest.mark.parametrize("how", [INT8, INT4])
def test_numbers_without_any_spread_come_back(how: str) -> None:
    for number in (0.0, 1.5, -2.0):
        layers = tuple((torch.full_like(k, number), torch.full_like(v, number)) for k, v in some_layers(5, 16))
        assert distance(restored(compressed(layers, how), torch.float32, "cpu"), layers) <= abs(number) / 200


@pytest.mark.parametrize("how", [INT8, INT4])
def test_a_file_holds_it_and_gives_it_back(how: str, tmp_path: Path) -> None:
    layers = some_layers(70, 64)
    packed = compressed(layers, how)
    save_file(packed.tensors, tmp_path / "kv.safetensors")
    again = Packed(how, load_file(tmp_path / "kv.safetensors"))
    assert (again.tokens, again.bytes) == (70, packed.bytes)
    assert distance(restored(again, torch.float32, "cpu"), restored(packed, torch.float32, "cpu")) == 0


@pytest.mark.parametrize("how", [INT8, INT4])
def test_it_comes_back_in_the_dtype_that_is_asked_for_and_what_was_given_is_not_changed(how: str) -> None:
    layers = tuple((keys.bfloat16(), values.bfloat16()) for keys, values in some_layers(70, 64))
    before = joined([layers])
    again = restored(compressed(layers, how), torch.bfloat16, "cpu")
    assert {tensor.dtype for layer in again for tensor in layer} == {torch.bfloat16}
    assert distance(layers, before) == 0
    assert distance(again, layers) < (0.05 if how == INT8 else 0.5)


def test_eight_bits_are_nearer_than_four() -> None:
    layers = some_layers(200, 64)
    eight, four = (distance(restored(compressed(layers, how), torch.float32, "cpu"), layers) for how in (INT8, INT4))
    assert 0 < eight < four / 8


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return random_model(CONFIGS["plain"])


def test_attention_is_shared_out_among_the_tokens_and_leaves_model_and_cache_as_they_were(loaded: Loaded) -> None:
    cache = filled(loaded, encode(loaded, some_ids(30, 1)))
    before, way = cache.taken(0, 30), loaded.model.config._attn_implementation
    scores = attention(loaded, cache, [some_ids(5, 2), some_ids(2, 3)])
    assert scores.shape == (30,)
    most = (
        4 * 4 * 7
    )  # layers × heads × tokens of the probes, each of which gives 1 to all that it sees, itself included
    assert most / 2 < float(scores.sum()) < most
    assert cache.tokens == 30
    assert distance(cache.taken(0, 30), before) == 0
    assert loaded.model.config._attn_implementation == way


def test_the_tokens_that_are_attended_to_most_are_kept_in_order(loaded: Loaded) -> None:
    layers = encode(loaded, some_ids(10, 1))
    scores = torch.tensor([1.0, 9, 2, 8, 3, 7, 4, 6, 5, 0])
    kept, places = keep_tokens(layers, scores, 0.5)
    assert places.tolist() == [1, 3, 5, 7, 8]
    for number, place in enumerate(places.tolist()):
        assert distance(sliced(kept, number, number + 1), sliced(layers, place, place + 1)) == 0
    assert keep_tokens(layers, scores, 0.0)[1].tolist() == [1]
