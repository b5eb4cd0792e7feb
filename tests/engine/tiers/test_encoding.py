"""Runs of tokens become keys and values, alone or behind others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.model.loading import Loaded
from engine.tiers.kv.encoding import encode, encoding, prefill
from engine.tiers.kv.tensors import Layers, WorkingCache, joined, sliced, tokens_of
from tests.engine.tiers.random_models import CONFIGS, distance, encoded_at, random_model, some_ids

EXACT = 1e-5


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return random_model(CONFIGS["plain"])


def test_alone_a_run_begins_at_position_zero(loaded: Loaded) -> None:
    ids = some_ids(20, 1)
    assert distance(encode(loaded, ids), encoded_at(loaded, ids, 0)) <= EXACT


def test_behind_others_a_run_sees_them_and_stands_behind_them(loaded: Loaded) -> None:
    ids = some_ids(50, 1)
    whole = encoded_at(loaded, ids, 0)
    behind = encode(loaded, ids[20:], encode(loaded, ids[:20]))
    assert tokens_of(behind) == 30
    assert distance(behind, sliced(whole, 20, 50)) <= EXACT
    assert distance(encode(loaded, ids[20:]), behind) > 0.1


def test_pieces_give_what_one_pass_gives_and_say_how_far_they_are(loaded: Loaded) -> None:
    ids = some_ids(50, 1)
    made = list[Layers]()

    def steps() -> Iterator[int]:
        made.append((yield from encoding(loaded, ids, piece_tokens=16)))

    assert list(steps()) == [16, 32, 48, 50]
    assert distance(made[0], encode(loaded, ids)) <= EXACT


def test_what_is_given_is_not_changed_and_what_is_made_is_no_larger_than_its_tokens(loaded: Loaded) -> None:
    before = encode(loaded, some_ids(20, 1))
    kept = joined([before])
    made = encode(loaded, some_ids(7, 2), before)
    assert distance(before, kept) == 0
    assert all(tensor.untyped_storage().nbytes() == 2 * 7 * 16 * 4 for layer in made for tensor in layer)


def test_prefill_reads_behind_what_is_there(loaded: Loaded) -> None:
    ids = some_ids(40, 1)
    cache = WorkingCache(loaded.model.config)
    prefill(loaded, ids[:13], cache)
    prefill(loaded, ids[13:], cache)
    assert distance(cache.taken(0, 40), encode(loaded, ids)) <= EXACT
