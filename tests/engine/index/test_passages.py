"""What is embedded for a memory."""

from __future__ import annotations

from engine.index.passages import MAX_PASSAGES, PASSAGE_CHARS, passages


def test_a_short_memory_is_embedded_whole() -> None:
    assert passages("Our boat is called Aurora.") == ["Our boat is called Aurora."]
    assert passages("") == [""]


def test_of_a_long_memory_the_whole_comes_first_and_then_every_part() -> None:
    text = " ".join(f"Sentence number {number} speaks of the harbour." for number in range(100))
    whole, *parts = passages(text)
    assert text.startswith(whole)
    assert all(len(part) <= PASSAGE_CHARS for part in parts)
    assert " ".join(parts) == text


def test_a_huge_memory_has_a_bounded_number_of_passages() -> None:
    assert len(passages("word " * 200_000)) == MAX_PASSAGES
