"""How far a cache is from full prefill is measured in what the model would say next."""

from __future__ import annotations

import pytest
import torch

from engine.model.loading import Loaded
from engine.tiers.kv.divergence import divergence
from engine.tiers.kv.encoding import encode
from engine.tiers.kv.rotation import Part, place
from engine.tiers.kv.tensors import WorkingCache
from tests.engine.tiers.random_models import CONFIGS, distance, filled, random_model, some_ids

IDS = some_ids(40, 1)
PROBES = [some_ids(6, 2), some_ids(3, 3)]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return random_model(CONFIGS["plain"])


def of_chunks(loaded: Loaded) -> WorkingCache:
    cache = WorkingCache(loaded.model.config)
    place(cache, [Part(encode(loaded, IDS[:25])), Part(encode(loaded, IDS[25:]))], loaded.layout.rope)
    return cache


def next_token(loaded: Loaded, before: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.softmax(loaded.model(input_ids=torch.tensor([before])).logits[0, -1].double(), -1)


def test_a_cache_does_not_diverge_from_itself(loaded: Loaded) -> None:
    one, same = (filled(loaded, encode(loaded, IDS)) for _ in range(2))
    found = divergence(loaded, IDS, one, same, PROBES)
    assert (found.kl_mean, found.kl_max, found.top1_agreement) == (pytest.approx(0, abs=1e-9),) * 2 + (1.0,)
    assert found.positions == 8


def test_chunks_that_do_not_see_each_other_diverge(loaded: Loaded) -> None:
    found = divergence(loaded, IDS, filled(loaded, encode(loaded, IDS)), of_chunks(loaded), PROBES)
    assert 0.01 < found.kl_mean <= found.kl_max
    assert found.top1_agreement < 1


def test_it_is_the_relative_entropy_of_what_comes_next(loaded: Loaded) -> None:
    """Against one computed from two prompts as text: the other cache holds other tokens altogether."""
    others = some_ids(40, 7)
    found = divergence(
        loaded, IDS, filled(loaded, encode(loaded, IDS)), filled(loaded, encode(loaded, others)), PROBES[:1], 1
    )
    exact, other = next_token(loaded, IDS + PROBES[0]), next_token(loaded, others + PROBES[0])
    wanted = float((exact * (exact / other).log()).sum())
    assert found.kl_mean == found.kl_max == pytest.approx(wanted, rel=1e-4)
    assert found.top1_agreement == float(exact.argmax() == other.argmax())


def test_a_cache_of_no_numbers_diverges_without_bound(loaded: Loaded) -> None:
    broken = encode(loaded, IDS)
    broken[1][1][0, 0, 3, 0] = torch.nan
    found = divergence(loaded, IDS, filled(loaded, encode(loaded, IDS)), filled(loaded, broken), PROBES)
    assert found.kl_mean == found.kl_max == torch.inf


def test_an_answer_is_compared_no_further_than_where_it_ends(loaded: Loaded) -> None:
    one, same = (filled(loaded, encode(loaded, IDS)) for _ in range(2))
    first = int(next_token(loaded, IDS + PROBES[0]).argmax())
    before = loaded.model.generation_config.eos_token_id
    loaded.model.generation_config.eos_token_id = first
    try:
        assert divergence(loaded, IDS, one, same, PROBES[:1]).positions == 1
    finally:
        loaded.model.generation_config.eos_token_id = before


def test_caches_are_left_as_they_were_and_what_they_lack_is_read_first(loaded: Loaded) -> None:
    part, none = filled(loaded, encode(loaded, IDS[:10])), WorkingCache(loaded.model.config)
    before = part.taken(0, 10)
    found = divergence(loaded, IDS, none, part, PROBES)
    assert found.kl_max == pytest.approx(0, abs=1e-9)
    assert found.top1_agreement == 1
    assert (none.tokens, part.tokens) == (0, 10)
    assert distance(part.taken(0, 10), before) == 0
