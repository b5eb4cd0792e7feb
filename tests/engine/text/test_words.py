"""Words and stems: equal for equal texts, whatever the script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.words import MAX_WORD_CHARS, STOP_WORDS, stems, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Melanie's café", ["melanie", "cafe"]),
        ("It cost 1,200.50 or 2.5", ["it", "cost", "1200.50", "or", "2.5"]),
        ("port=8080, not 8081!", ["port", "8080", "not", "8081"]),
        ("ÜBER straße ﬁne", ["uber", "strasse", "fine"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("a_b __c__", ["a", "b", "c"]),
        ("…", []),
    ],
)
def test_words_are_folded_and_numbers_stay_whole(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_stems_leave_out_stop_words_and_endings() -> None:
    assert stems("The pharmacies were running out of it") == ["pharmaci", "run"]


def test_long_runs_are_nobodys_words() -> None:
    assert words("x" * (MAX_WORD_CHARS + 1)) == []


@given(st.text(max_size=200))
def test_any_text_has_words_that_are_their_own_words(text: str) -> None:
    found = words(text)
    assert found == words(text)
    assert all(word and len(word) <= MAX_WORD_CHARS for word in found)
    assert STOP_WORDS.isdisjoint(word for word in words(text) if word not in STOP_WORDS)
    assert len(stems(text)) <= len(found)
