"""Keys that are moved to another position equal those that the model would have computed there."""

from __future__ import annotations

import pytest
import torch

from engine.model.loading import Loaded
from engine.tiers.kv.encoding import encode
from engine.tiers.kv.rotation import Part, moved, place, rotated
from engine.tiers.kv.tensors import WorkingCache, bytes_of, joined, sliced
from tests.engine.tiers.random_models import CONFIGS, VOCABULARY, distance, encoded_at, filled, random_model, some_ids

POSITIONS = (1, 70, 1_000, 4_000)
EXACT = 1e-4


@pytest.fixture(scope="module", params=CONFIGS)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return random_model(CONFIGS[request.param])


@pytest.fixture(scope="module")
def plain() -> Loaded:
    return random_model(CONFIGS["plain"])


def test_a_chunk_that_is_moved_equals_the_chunk_encoded_there(loaded: Loaded) -> None:
    ids = some_ids(40, 1)
    alone = encode(loaded, ids)
    for position in POSITIONS:
        there = encoded_at(loaded, ids, position)
        assert distance(alone, there) > 0.1  # it does make a difference
        assert distance(rotated(alone, loaded.layout.rope, position), there) <= EXACT
        assert distance(rotated(there, loaded.layout.rope, -position, start=position), alone) <= EXACT


def test_in_bfloat16_a_moved_key_is_as_near_as_its_digits_allow() -> None:
    loaded, ids = random_model(CONFIGS["plain"], torch.bfloat16), some_ids(40, 1)
    alone, there = encode(loaded, ids), encoded_at(loaded, ids, 1_000)
    greatest = max(float(keys.abs().max()) for keys, _ in there)
    assert distance(rotated(alone, loaded.layout.rope, 1_000), there) <= 0.02 * greatest


def test_values_are_shared_and_what_is_given_is_not_changed(plain: Loaded) -> None:
    alone = encode(plain, some_ids(20, 1))
    before = joined([alone])
    after = rotated(alone, plain.layout.rope, 77)
    assert [values.data_ptr() for _, values in after] == [values.data_ptr() for _, values in alone]
    assert distance(alone, before) == 0


def test_a_shift_of_nothing_copies_nothing(plain: Loaded) -> None:
    alone = encode(plain, some_ids(20, 1))
    assert [keys.data_ptr() for keys, _ in rotated(alone, plain.layout.rope, 0)] == [
        keys.data_ptr() for keys, _ in alone
    ]


def test_chunks_in_any_order_equal_a_prompt_in_which_they_do_not_see_each_other(loaded: Loaded) -> None:
    """The reference is one pass over the whole prompt, with a mask that hides the chunks from one another."""
    runs = [some_ids(size, seed) for seed, size in enumerate((30, 11, 24))]
    asked, rope = some_ids(8, 9), loaded.layout.rope
    for order in ((0, 1, 2), (2, 0, 1)):
        cache = WorkingCache(loaded.model.config)
        place(cache, [Part(encode(loaded, runs[number])) for number in order], rope)
        ids = [token for number in order for token in runs[number]]
        with torch.no_grad():
            got = loaded.model(input_ids=torch.tensor([asked]), past_key_values=cache).logits[0]
            whole = torch.tensor([ids + asked])
            of = torch.tensor([place for number in order for place in [number] * len(runs[number])] + [9] * len(asked))
            seen = (of[:, None] == of[None]) | (of[:, None] == 9)
            mask = torch.zeros(1, 1, len(of), len(of)).masked_fill(~seen.tril(), torch.finfo(torch.float32).min)
            wanted = loaded.model(input_ids=whole, attention_mask=mask).logits[0, -len(asked) :]
        assert got.shape == (len(asked), VOCABULARY)
        assert float((got - wanted).abs().max()) <= EXACT


def test_placing_many_at_once_equals_moving_each(loaded: Loaded) -> None:
    """Some were encoded alone, some behind an anchor; what stands at its own position stays bit for bit."""
    rope = loaded.layout.rope
    anchor = encode(loaded, some_ids(5, 3))
    parts = [Part(encode(loaded, some_ids(12 + n, n), anchor if n % 2 else None), 5 * (n % 2)) for n in range(4)]
    cache = filled(loaded, anchor)
    place(cache, parts[1:2], rope)
    assert distance(cache.taken(5, 18), parts[1].layers) == 0
    place(cache, parts, rope)
    position, singly = 18, []
    for part in parts:
        singly.append(rotated(part.layers, rope, position - part.start, part.start))
        position += part.layers[0][0].shape[2]
    assert distance(cache.taken(18, position), joined(singly)) <= 1e-6
    assert cache.tokens == position


def test_placing_nothing_changes_nothing(plain: Loaded) -> None:
    cache = filled(plain, encode(plain, some_ids(6, 1)))
    place(cache, [], plain.layout.rope)
    assert cache.tokens == 6


def test_tokens_that_stood_apart_can_be_put_side_by_side(plain: Loaded) -> None:
    ids = some_ids(30, 1)
    alone = encode(plain, ids)
    places = torch.tensor([0, 3, 4, 17, 29])
    kept = tuple((keys[:, :, places], values[:, :, places]) for keys, values in alone)
    together = moved(kept, plain.layout.rope, places, torch.arange(5))
    for number, was in enumerate(places.tolist()):
        single = rotated(sliced(alone, was, was + 1), plain.layout.rope, number - was, was)
        assert distance(sliced(together, number, number + 1), single) <= 1e-6
    assert bytes_of(together) == bytes_of(alone) // 6
