"""Sentence bounds and pieces of long texts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.sentences import pieces, sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def cut(text: str, max_chars: int) -> list[str]:
    return [text[start:end] for start, end in pieces(text, max_chars)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met Mrs. Jones. They talked.", ["Dr. Smith met Mrs. Jones.", "They talked."]),
        ("It costs 3.50 euros. Cheap.", ["It costs 3.50 euros.", "Cheap."]),
        ("See https://example.com/a.b?c=d. Then go.", ["See https://example.com/a.b?c=d.", "Then go."]),
        ("Use tools, e.g. a hammer. Done.", ["Use tools, e.g. a hammer.", "Done."]),
        ("We met at 5 p.m. He left.", ["We met at 5 p.m.", "He left."]),
        ("We met at 5 p.m. on Friday.", ["We met at 5 p.m. on Friday."]),
        ("J. R. Tolkien wrote it. I read it.", ["J. R. Tolkien wrote it.", "I read it."]),
        ("Well... maybe. Yes... No.", ["Well... maybe.", "Yes...", "No."]),
        ("彼は来た。私は帰った。", ["彼は来た。", "私は帰った。"]),
        ("He said “stop.” Then he left.", ["He said “stop.”", "Then he left."]),
        (
            "Shopping:\n- eggs\n- milk and\n  honey\n\nThen home.",
            ["Shopping:", "- eggs", "- milk and\n  honey", "Then home."],
        ),
        ("1. Open it.\n2. Close it.", ["1. Open it.", "2. Close it."]),
        ("A line that was\nwrapped here. Next.", ["A line that was\nwrapped here.", "Next."]),
        ("Run:\n```\na. B. c.\n\nd\n```\nDone.", ["Run:", "```\na. B. c.\n\nd\n```", "Done."]),
        ("i went home. then i slept.", ["i went home.", "then i slept."]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_sentences_end_where_readers_end_them(text: str, expected: list[str]) -> None:
    assert split(text) == expected


ADVERSARIAL = [
    pytest.param("a" * 200_000, id="no space"),
    pytest.param("." * 200_000, id="only dots"),
    pytest.param("\n" * 200_000, id="only line ends"),
    pytest.param(" " * 200_000, id="only spaces"),
    pytest.param('."' * 100_000, id="dots and quotes"),
    pytest.param("```\n" * 50_000, id="only fences"),
    pytest.param("a. " * 66_000, id="initials"),
    pytest.param("\u0301" * 200_000, id="only combining characters"),
    pytest.param("\U0001f1e6" * 200_000, id="only flags"),
]


@pytest.mark.parametrize("text", ADVERSARIAL)
@pytest.mark.timeout(20)
def test_hostile_texts_are_cut_in_linear_time(text: str) -> None:
    parts = cut(text, 1_200)
    assert "".join(parts) == text
    assert all(0 < len(part) <= 1_200 for part in parts)
    assert len(parts) <= 4 * (len(text) // 1_200 + 1)
    assert sum(end - start for start, end in sentences(text)) <= len(text)


texts = st.text(
    alphabet=st.sampled_from([*"ab. !?\n\r\t-1#`", "é", "。", "\u0301", "\u200d", "👩", "\U0001f1e6"]), max_size=400
)


@given(texts, st.integers(1, 60))
def test_pieces_joined_are_the_text(text: str, max_chars: int) -> None:
    parts = cut(text, max_chars)
    assert "".join(parts) == text
    assert all(1 <= len(part) <= max_chars for part in parts)


@given(texts)
def test_sentences_leave_nothing_out_but_white_space(text: str) -> None:
    spans = sentences(text)
    assert all(start < end for start, end in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    assert "".join("".join(split(text)).split()) == "".join(text.split())


def test_pieces_end_with_a_paragraph_where_one_ends_late_enough() -> None:
    text = "First one. Still first.\n\nSecond one. More of it."
    assert cut(text, 30) == ["First one. Still first.\n\n", "Second one. More of it."]


def test_pieces_end_with_a_sentence_where_no_paragraph_ends() -> None:
    text = "The first sentence. The second sentence is here. The third."
    assert cut(text, 50) == ["The first sentence. The second sentence is here. ", "The third."]


def test_pieces_end_with_a_word_where_no_sentence_ends() -> None:
    assert cut("alpha beta gamma delta", 12) == ["alpha beta ", "gamma delta"]


def test_a_cut_does_not_part_what_is_read_as_one_character() -> None:
    family, flag, accented = "👨\u200d👩\u200d👧", "\U0001f1e9\U0001f1ea", "e\u0301"
    for cluster in (family, flag, accented):
        text = "x" * 9 + cluster + "yz"
        first = cut(text, 10)[0]
        assert cluster not in first
        assert first == "x" * 9


def test_a_piece_has_at_least_one_character() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pieces("text", 0)
