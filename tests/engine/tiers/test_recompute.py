"""Computing some tokens of chunks anew, in place, brings back what they lost; all of them gives full prefill."""

from __future__ import annotations

import pytest
import torch

from engine.model.loading import Loaded
from engine.tiers.kv.encoding import encode
from engine.tiers.kv.recompute import choose, recompute, recomputing
from engine.tiers.kv.rotation import Part, place
from engine.tiers.kv.tensors import Layers, WorkingCache, sliced
from tests.engine.tiers.random_models import CONFIGS, WINDOWED, distance, filled, random_model, some_ids

EXACT = 1e-4
SIZES = (30, 11, 24)
TOKENS = sum(SIZES)
SPANS = ((0, 30), (30, 41), (41, 65))


def of_chunks(loaded: Loaded, ids: list[int]) -> WorkingCache:
    cache = WorkingCache(loaded.model.config)
    place(cache, [Part(encode(loaded, ids[start:end])) for start, end in SPANS], loaded.layout.rope)
    return cache


def all_of(cache: WorkingCache) -> Layers:
    return cache.taken(0, cache.tokens)


@pytest.fixture(scope="module")
def plain() -> Loaded:
    return random_model(CONFIGS["plain"])


@pytest.mark.parametrize("kind", [*CONFIGS, *WINDOWED])
def test_all_tokens_computed_anew_equal_full_prefill(kind: str) -> None:
    loaded, ids = random_model((CONFIGS | WINDOWED)[kind]), some_ids(TOKENS, 1)
    cache, full = of_chunks(loaded, ids), encode(loaded, ids)
    assert distance(all_of(cache), full) > 0.1
    recompute(loaded, cache, ids, torch.arange(TOKENS))
    assert distance(all_of(cache), full) <= EXACT


def test_what_is_not_chosen_stays_as_it_was(plain: Loaded) -> None:
    ids = some_ids(TOKENS, 1)
    cache = of_chunks(plain, ids)
    before, chosen = all_of(cache), choose(0.3, SPANS)
    recompute(plain, cache, ids, chosen)
    kept = [number for number in range(TOKENS) if number not in set(chosen.tolist())]
    after = all_of(cache)
    for number in kept:
        assert distance(sliced(after, number, number + 1), sliced(before, number, number + 1)) == 0
    assert distance(after, before) > 0.01
    assert cache.tokens == TOKENS


def test_pieces_give_what_one_pass_gives(plain: Loaded) -> None:
    ids, chosen = some_ids(TOKENS, 1), choose(0.5, SPANS)
    at_once, in_pieces = of_chunks(plain, ids), of_chunks(plain, ids)
    recompute(plain, at_once, ids, chosen)
    assert list(recomputing(plain, in_pieces, ids, chosen, piece_tokens=10)) == [10, 20, 30, 33]
    assert distance(all_of(at_once), all_of(in_pieces)) <= 1e-5


def test_what_stands_behind_a_chosen_token_does_not_matter_to_it(plain: Loaded) -> None:
    ids, chosen = some_ids(TOKENS, 1), choose(0.5, SPANS[:2])
    short, long = of_chunks(plain, ids), of_chunks(plain, ids)
    short.cut(41)
    recompute(plain, short, ids[:41], chosen)
    recompute(plain, long, ids, chosen)
    assert distance(all_of(short), long.taken(0, 41)) <= 1e-6


def test_the_cache_goes_on_as_one_that_was_filled_by_the_model(plain: Loaded) -> None:
    ids, asked = some_ids(TOKENS, 1), torch.tensor([some_ids(6, 2)])
    cache = of_chunks(plain, ids)
    recompute(plain, cache, ids, torch.arange(TOKENS))
    full = filled(plain, encode(plain, ids))
    with torch.no_grad():
        got, wanted = (plain.model(input_ids=asked, past_key_values=of).logits for of in (cache, full))
    assert float((got - wanted).abs().max()) <= EXACT
    assert cache.tokens == TOKENS + 6


def test_the_last_share_of_each_chunk_is_chosen() -> None:
    assert choose(0.5, ((41, 45), (0, 5))).tolist() == [2, 3, 4, 43, 44]
    assert choose(0.3, ((10, 20),)).tolist() == [17, 18, 19]
    assert choose(0.01, ((10, 20), (20, 21))).tolist() == [19, 20]
    assert choose(1.0, SPANS).tolist() == list(range(TOKENS))


def test_without_a_share_or_a_chunk_nothing_is_chosen_or_done(plain: Loaded) -> None:
    ids = some_ids(TOKENS, 1)
    cache = of_chunks(plain, ids)
    before = all_of(cache)
    for chosen in (choose(0.0, SPANS), choose(0.5, ())):
        assert chosen.tolist() == []
        recompute(plain, cache, ids, chosen)
    assert distance(all_of(cache), before) == 0
