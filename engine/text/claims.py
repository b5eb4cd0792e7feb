"""The duplicate and conflict rule: do two texts say the same, rival things, or different things?

A pure rule over words: it knows no vectors, no store and no time. What must stay true, because a duplicate is not
stored again and so whatever makes it differ would be lost:

- SAME only when nothing that can matter differs: all words equal in order, after folding what means nothing (white
  space, case but not inside a word, surrounding punctuation, contractions, number words, articles, a phrase of time or
  place that moved to the front). A difference in a number, date, name, unit, sign or negation is never folded.
- RIVAL only when the texts speak of the same thing and cannot both hold: one denies the other, or one value stands
  where another stood. Where the rules cannot tell, the texts are DIFFERENT, and both are simply kept.
- SAME is reflexive and symmetric, RIVAL is symmetric.

Candidates come from an index; time is linear for texts that are not nearly equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from functools import lru_cache

from engine.text import frames
from engine.text.normal import Word, canonical, normal_form

__all__ = ["Comparison", "Relation", "compare", "normal_form"]

MAX_SLOTS = 2  # more differing places than this: another statement, not a rival one
MAX_SLOT_WORDS = 5
MAX_MIDDLE_WORDS = 60  # what is aligned word by word, between the equal beginning and the equal end
MAX_ABOUT_CHARS = 80
TEXTS_KEPT = 256


class Relation(StrEnum):
    SAME = "same"
    RIVAL = "rival"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`about` says in the texts' own words what a rival disagrees about: `8080 / 9090`."""

    relation: Relation
    about: str = ""


SAME = Comparison(Relation.SAME)
DIFFERENT = Comparison(Relation.DIFFERENT)


@dataclass(frozen=True, slots=True)
class Slot:
    """A place where two aligned texts differ: the words of each, and where the place begins in the first."""

    old: tuple[Word, ...]
    new: tuple[Word, ...]
    start: int


def compare(old: str, new: str) -> Comparison:
    """Relation of the text `new` to the text `old`."""
    if old == new:
        return SAME
    (form_a, a), (form_b, b) = _read(old), _read(new)
    if form_a == form_b:
        return SAME
    if [word.said for word in a] == [word.said for word in b]:
        return SAME
    return _rival(_words(a), _words(b))


@lru_cache(maxsize=TEXTS_KEPT)  # a new text is compared with several old ones
def _read(text: str) -> tuple[str, tuple[Word, ...]]:
    return normal_form(text), tuple(canonical(text))


def _words(canon: Sequence[Word]) -> list[Word]:
    """What is aligned: without commas, brackets and quotes; sentence ends and question marks stay."""
    return [word for word in canon if word.text in ".?" or not frames.is_punctuation(word.text)]


def _rival(a: list[Word], b: list[Word]) -> Comparison:
    if not a or not b or _asks(a) or _asks(b):  # a question asserts nothing
        return DIFFERENT
    bare_a, denials_a = frames.without_negation(a)
    bare_b, denials_b = frames.without_negation(b)
    if bool(denials_a) != bool(denials_b):
        if frames.stems(bare_a) == frames.stems(bare_b) and len(bare_a) > 1:
            return _about(*_where_they_part(a, b))
        slots = _slots(a, b)
        return _about(slots[0].old, slots[0].new) if _opposed(slots, a) else DIFFERENT
    if frames.stems(denials_a) != frames.stems(denials_b):
        return DIFFERENT
    slots = _slots(a, b)
    if slots and all(_is_rival(slot, a, b, len(slots)) for slot in slots):
        return _about(
            [word for slot in slots for word in slot.old],
            [word for slot in slots for word in slot.new],
        )
    values = None if denials_a else frames.rival_values(a, b)
    return _about(*values) if values else DIFFERENT


def _asks(words: Sequence[Word]) -> bool:
    return bool(words) and words[-1].text == "?"


def _slots(a: list[Word], b: list[Word]) -> list[Slot]:
    """The places where `a` and `b` differ, each filled on both sides; empty when they are no such pair."""
    left, right = frames.stems(a), frames.stems(b)
    head = 0
    while head < min(len(left), len(right)) and left[head] == right[head]:
        head += 1
    tail = 0
    while tail < min(len(left), len(right)) - head and left[-1 - tail] == right[-1 - tail]:
        tail += 1
    middle_a, middle_b = left[head : len(left) - tail], right[head : len(right) - tail]
    if not middle_a or not middle_b or max(len(middle_a), len(middle_b)) > MAX_MIDDLE_WORDS:
        return []
    slots = []
    for operation, i, j, k, m in SequenceMatcher(None, middle_a, middle_b, autojunk=False).get_opcodes():
        if operation == "equal":
            continue
        slot = Slot(tuple(a[head + i : head + j]), tuple(b[head + k : head + m]), head + i)
        if operation != "replace" or max(len(slot.old), len(slot.new)) > MAX_SLOT_WORDS:
            return []
        slots.append(slot)
    return slots if len(slots) <= MAX_SLOTS else []


def _is_rival(slot: Slot, a: list[Word], b: list[Word], slots: int) -> bool:
    """Whether the two fillings of a place cannot both hold."""
    if not frames.shares_enough(a, slot.start, slot.old):
        return False
    place = frames.place(a, slot.start, slot.start + len(slot.old))
    if place is frames.Place.SUBJECT:
        return False
    if frames.opposite(slot.old, slot.new):
        return True
    kinds_old, kinds_new = frames.value_kinds(slot.old), frames.value_kinds(slot.new)
    if kinds_old & kinds_new - {frames.NAME}:
        if place is frames.Place.NO_VERB:
            return frames.names_attribute(a, slot.start)
        return slots == 1 or place is frames.Place.VALUE
    if place is not frames.Place.VALUE or slots > 1:
        return False
    return frames.one_value_only(a, slot.start, named=frames.NAME in kinds_old & kinds_new)


def _opposed(slots: Sequence[Slot], a: list[Word]) -> bool:
    """Whether all that differs is one word against another that excludes it: `always` and `never`."""
    return (
        len(slots) == 1
        and frames.opposite(slots[0].old, slots[0].new)
        and frames.shares_enough(a, slots[0].start, slots[0].old)
    )


def _where_they_part(a: list[Word], b: list[Word]) -> tuple[list[Word], list[Word]]:
    """The words that one text does not share with the other, with one more where a side would be empty."""
    head = 0
    while head < min(len(a), len(b)) and a[head].text == b[head].text:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail].text == b[-1 - tail].text:
        tail += 1
    if head + tail >= min(len(a), len(b)):
        tail, head = (tail - 1, head) if tail else (tail, head - 1)
    return a[head : len(a) - tail], b[head : len(b) - tail]


def _about(old: Sequence[Word], new: Sequence[Word]) -> Comparison:
    sides = [" ".join(word.shown for word in side)[:MAX_ABOUT_CHARS] for side in (old, new)]
    return Comparison(Relation.RIVAL, " / ".join(sides))
