"""Prompts are recognised by chained hashes of blocks, and long chains of segments are made short."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as some

from engine.tiers.kv.prefixes import (
    BLOCK_TOKENS,
    MAX_SEGMENTS,
    Hashes,
    Span,
    chain_before,
    chain_of,
    longest,
    matching,
    merged_from,
    root_hash,
)

ROOT = root_hash("sha256:one", "cube")


@dataclass(frozen=True)
class Run:
    start: int
    parent: bytes
    blocks: Hashes


def run(ids: list[int], start: int, end: int, root: bytes = ROOT) -> Run:
    chain = chain_of(root, ids)
    first, last = start // BLOCK_TOKENS, end // BLOCK_TOKENS
    return Run(start, chain[first], chain[first + 1 : last + 1])


def found(runs: list[Run], ids: list[int], root: bytes = ROOT) -> list[tuple[int, int]]:
    spans = matching(chain_of(root, ids), lambda parent: [item for item in runs if item.parent == parent])
    return [(span.start, span.end) for span in longest(spans)]


def ids_of(count: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(1 << 20) for _ in range(count)]


def test_only_whole_blocks_have_a_hash_and_each_covers_all_before_it() -> None:
    ids = ids_of(50)
    chain = chain_of(ROOT, ids)
    assert len(chain) == 1 + 3
    changed = chain_of(ROOT, [1, *ids[1:]])
    assert all(one != other for one, other in zip(chain[1:], changed[1:], strict=True))
    assert chain_of(ROOT, ids[:16])[1] == chain[1]


@pytest.mark.parametrize(("fingerprint", "salt"), [("sha256:two", "cube"), ("sha256:one", "talk:ben")])
def test_another_model_or_another_scope_shares_no_hash(fingerprint: str, salt: str) -> None:
    ids = ids_of(64)
    assert set(chain_of(ROOT, ids)).isdisjoint(chain_of(root_hash(fingerprint, salt), ids))
    assert found([run(ids, 0, 64)], ids, root_hash(fingerprint, salt)) == []


def test_a_root_cannot_be_made_of_the_parts_of_another() -> None:
    assert root_hash("ab", "c") != root_hash("a", "bc")


def test_the_longest_beginning_is_put_together_from_segments() -> None:
    ids, other = ids_of(160), ids_of(160, 1)
    runs = [run(ids, 0, 64), run(ids, 64, 96), run(ids, 48, 144), run(other, 0, 160)]
    assert found(runs, ids) == [(0, 64), (64, 144)]
    assert found(runs, [*ids[:100], *other[:60]]) == [(0, 64), (64, 96)]
    assert found(runs[1:], ids) == []  # nothing stands at the beginning


def test_a_segment_is_used_as_far_as_it_is_the_same() -> None:
    ids = ids_of(160)
    assert found([run(ids, 0, 160)], [*ids[:70], *ids_of(90, 2)]) == [(0, 64)]
    assert found([run(ids, 0, 160)], [*ids[:15], 7, *ids[16:]]) == []


@given(some.lists(some.tuples(some.integers(0, 9), some.integers(1, 10)), max_size=12), some.integers(0, 10))
def test_what_is_found_covers_as_much_as_any_choice_of_segments(pairs: list[tuple[int, int]], same: int) -> None:
    """Against a plain search: block by block, is there any segment that holds it?"""
    ids = ids_of(160)
    asked = [*ids[: same * BLOCK_TOKENS], *ids_of(160 - same * BLOCK_TOKENS, 3)]
    runs = [run(ids, start * BLOCK_TOKENS, end * BLOCK_TOKENS) for start, end in pairs if start < end]
    reached = 0
    while any(start <= reached < min(end, same) for start, end in pairs):
        reached += 1
    spans = found(runs, asked)
    assert (spans[-1][1] if spans else 0) == reached * BLOCK_TOKENS
    assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))


def test_the_chain_before_a_segment_has_as_few_segments_as_can_be() -> None:
    ids = ids_of(160)
    runs = [run(ids, 0, 64), run(ids, 64, 96), run(ids, 48, 128)]
    spans = matching(chain_of(ROOT, ids), lambda parent: [item for item in runs if item.parent == parent])
    chain = chain_before(spans, Span(run(ids, 128, 160), 128, 160))
    assert [(span.start, span.end) for span in chain] == [(0, 48), (48, 128), (128, 160)]


def test_a_chain_is_merged_so_that_it_stays_short_and_each_token_is_seldom_rewritten() -> None:
    chain, written = list[int](), 0
    for _ in range(1_000):
        chain.append(BLOCK_TOKENS)
        while (number := merged_from(chain)) is not None:
            chain[number:] = [sum(chain[number:])]
            written += chain[-1]
        assert len(chain) <= MAX_SEGMENTS
    assert sum(chain) == 1_000 * BLOCK_TOKENS
    assert written < 10 * sum(chain)


def test_a_long_beginning_is_not_rewritten_for_short_turns() -> None:
    chain = [10_000, *[16] * MAX_SEGMENTS]
    assert merged_from(chain) == 1
    assert merged_from([4096 >> number for number in range(9)]) == 7
