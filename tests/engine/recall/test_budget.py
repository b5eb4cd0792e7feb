"""The token budget returns whole memories, the best that fit."""

from __future__ import annotations

from datetime import UTC, datetime

from cubes import Descriptive, Kind, Memory, State
from engine.operations import Recollection
from engine.recall import fit
from engine.recall.budget import HEADER_TOKENS, tokens

AT = datetime(2025, 1, 1, tzinfo=UTC)


def item(content: str) -> Recollection:
    about = Descriptive(id="m", kind=Kind.FACT, created_at=AT, updated_at=AT)
    return Recollection(Memory("c", content, 1, State.ACTIVATED, about), 0.5)


def test_what_fits_is_returned_in_order() -> None:
    found = [item("a" * 40), item("b" * 40)]
    kept = fit(found, 8, 100)
    assert (kept.memories, kept.omitted) == (tuple(found), 0)


def test_one_that_is_too_large_is_passed_over_and_counted() -> None:
    small, large, last = item("a" * 40), item("b" * 4_000), item("c" * 40)
    kept = fit([large, small, last], 8, 100)
    assert (kept.memories, kept.omitted) == ((small, last), 1)


def test_nothing_is_ever_cut() -> None:
    kept = fit([item("x" * 4_000)], 8, 50)
    assert (kept.memories, kept.omitted) == ((), 1)


def test_what_lies_behind_the_limit_is_not_counted_as_omitted() -> None:
    kept = fit([item("a")] * 5, 3, 1_000)
    assert (len(kept.memories), kept.omitted) == (3, 0)


def test_tokens_are_estimated_for_several_scripts() -> None:
    assert tokens("four") == HEADER_TOKENS + 1
    assert tokens("東京") == HEADER_TOKENS + 2
    assert tokens("") == HEADER_TOKENS
