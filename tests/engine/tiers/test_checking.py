"""What came with a file is compared with what the model computes, and the cache is afterwards as it was before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.model.loading import Loaded, load
from engine.settings import Settings
from engine.tiers.kv.checking import BOUNDS, gap, is_right, spot_check
from engine.tiers.kv.encoding import encode
from engine.tiers.kv.entries import PREFIX, Entry, Scope
from engine.tiers.kv.prefixes import Span
from engine.tiers.kv.tensors import Layers, WorkingCache, joined, sliced
from tests.engine.tiers.caches import equal

TOKENS = 160
IDS = [20 + (number * 37) % 90 for number in range(TOKENS)]


@pytest.fixture(params=["float32", "bfloat16"])
def loaded(request: pytest.FixtureRequest, settings: Settings, latest_wins: Path) -> Loaded:
    return load(str(latest_wins), replace(settings, model_dtype=request.param), lambda text: None)


def looked_at(loaded: Loaded, layers: Layers) -> tuple[Entry | None, Entry, WorkingCache]:
    entry = Entry("a_1", Scope.cube("home"), PREFIX, "", 0, TOKENS, "none", (), datetime(2026, 1, 1, tzinfo=UTC))
    cache = WorkingCache(loaded.model.config, TOKENS)
    cache.append(layers)
    steps = spot_check(loaded, cache, IDS, [Span(entry, 0, TOKENS)])
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            return stopped.value, entry, cache


def test_what_is_right_passes_however_it_was_cut_and_the_cache_is_as_it_was(loaded: Loaded) -> None:
    first = encode(loaded, IDS[:37])
    layers = joined([first, encode(loaded, IDS[37:], first)])
    wrong, entry, cache = looked_at(loaded, layers)
    assert (wrong, entry.spotted) == (None, True)
    assert equal(cache.taken(0, TOKENS), layers)
    assert gap(layers, encode(loaded, IDS)) <= BOUNDS[loaded.info.dtype] / 2


def test_what_was_computed_from_other_tokens_is_wrong(loaded: Loaded) -> None:
    layers = encode(loaded, [id + 1 for id in IDS])
    wrong, entry, cache = looked_at(loaded, layers)
    assert (wrong, entry.spotted) == (entry, False)
    assert equal(cache.taken(0, TOKENS), layers)


def test_a_single_other_token_is_found_in_all_that_follows_it(loaded: Loaded) -> None:
    right, other = encode(loaded, IDS), encode(loaded, [*IDS[:80], IDS[80] + 1, *IDS[81:]])
    assert is_right(loaded, sliced(other, 0, 80), sliced(right, 0, 80))
    assert not is_right(loaded, sliced(other, 80, 81), sliced(right, 80, 81))
    assert not is_right(loaded, sliced(other, 81, 97), sliced(right, 81, 97))


def test_a_number_that_is_none_is_wrong(loaded: Loaded) -> None:
    right = encode(loaded, IDS)
    assert not is_right(loaded, tuple((keys * float("nan"), values) for keys, values in right), right)
