"""Word lists written as running text, as the rule modules keep them."""

from __future__ import annotations


def word_list(text: str) -> tuple[str, ...]:
    """The words of `text`, parted by white space."""
    return tuple(text.split())


def word_set(text: str) -> frozenset[str]:
    """The words of `text`, parted by white space."""
    return frozenset(text.split())
