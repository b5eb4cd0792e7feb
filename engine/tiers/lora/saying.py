"""Whether an answer gives a value, whatever else it says: the words of the value decide, not the phrasing."""

from __future__ import annotations

from collections.abc import Iterable

from engine.text.words import STOP_WORDS, words


def says(answer: str, right: str, asked: str = "", rivals: frozenset[str] = frozenset()) -> bool:
    """Whether an answer gives a value: all its words are there, no other number, and no rival value."""
    wanted, said = _meant(right), words(answer)
    there = set(said)
    if not wanted or not wanted <= there:
        return False
    allowed = wanted | set(words(asked))
    if any(word[0].isdigit() and word not in allowed for word in there):
        return False
    spoken = f" {' '.join(said)} "
    return not any(f" {rival} " in spoken and not set(rival.split()) <= allowed for rival in rivals)


def rivals_among(values: Iterable[str]) -> frozenset[str]:
    """Values that tell a wrong answer: words, for numbers tell by themselves."""
    plain = (" ".join(words(value)) for value in values if not any(char.isdigit() for char in value))
    return frozenset(value for value in plain if value and value not in STOP_WORDS)


def _meant(value: str) -> set[str]:
    every = words(value)
    return {word for word in every if word not in STOP_WORDS} or set(every)
