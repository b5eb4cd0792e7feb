"""What a statement is about and what it says of it, as far as plain word rules can tell.

`engine.text.claims` aligns two statements; here stands what single words and places mean: denials, opposites, sorts
of values, whether a place belongs to the subject. No grammar: a lexicon of verbs marks where a subject ends. Every
rule errs towards "cannot tell".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from engine.text import opposites
from engine.text.normal import Word
from engine.text.tables import word_set
from engine.text.words import stem as english_stem

MAX_VALUE_WORDS = 6
MAX_SUBJECT_WORDS = 8

NAME = "name"
_VALUE_KINDS = (
    ("url", re.compile(r"[a-z][a-z0-9+.-]*://\S+|www\.\S+", re.IGNORECASE)),
    ("email", re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")),
    ("path", re.compile(r"(?:~|\.{1,2})?/\S+|[a-z]:\\\S*|[\w.-]+\.[a-z][a-z0-9]{1,4}", re.IGNORECASE)),
    ("version", re.compile(r"v?\d+\.\d+\.\d\S*|v\d\S*", re.IGNORECASE)),
    ("date", re.compile(r"\d{4}-\d\d(?:-\d\d)?\S*|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}|\d{1,2}(?:st|nd|rd|th)")),
    ("number", re.compile(r"[^\w\s]{0,2}\d\S*|[a-z]*-?\d[\w.,:%-]*", re.IGNORECASE)),
)
_PLACE_PREPOSITIONS = word_set("in at to near for on from as")
_NOT_A_VALUE = frozenset(["with", "and", "or", "by", "because"])
_ROLE_PREPOSITIONS = frozenset(("as",))


class Place(Enum):
    """Where in its sentence a differing place stands."""

    SUBJECT = "before the verb: it says what the statement is about"
    VALUE = "after a verb whose subject has one value at a time"
    OTHER = "after another verb"
    NO_VERB = "in a phrase without a verb that we know"


def stem(word: str) -> str:
    """The stem of a plain word, in small letters; what holds digits or signs stays as it is."""
    folded = word.lower()
    return english_stem(folded) if word.isalpha() and word.isascii() else folded


def stems(words: Sequence[Word]) -> list[str]:
    return [stem(word.text) for word in words]


def is_punctuation(text: str) -> bool:
    return text in set(",;:\"'()[]{}`¿¡")


def _sides() -> dict[str, list[tuple[int, int]]]:
    table: dict[str, list[tuple[int, int]]] = {}
    for number, line in enumerate(opposites.OPPOSITES):
        for side, words in enumerate(line):
            for word in words.split():
                table.setdefault(word, []).append((number, side))
                if stem(word) != word:
                    table.setdefault(stem(word), []).append((number, side))
    return table


_SIDES = _sides()
_GROUP = {word: group for group, words in opposites.VALUE_VERBS.items() for word in words.split()}
_VERBS = frozenset(_GROUP) | opposites.OTHER_VERBS


def without_negation(words: Sequence[Word]) -> tuple[list[Word], list[Word]]:
    """`words` without what denies (and the auxiliary beside it), and what denies."""
    bare: list[Word] = []
    denials: list[Word] = []
    for index, word in enumerate(words):
        before = words[index - 1].text if index else ""
        after = words[index + 1].text if index + 1 < len(words) else ""
        if word.text in opposites.NEGATORS and not (word.text == "no" and after == "."):
            denials.append(word)
        elif (
            (word.text in opposites.AUXILIARIES and after == "not")
            or (word.text == "longer" and before == "no")
            or word.text in {"any", "ever"}
        ):
            continue
        else:
            bare.append(word)
    return bare, denials


def opposite(old: Sequence[Word], new: Sequence[Word]) -> bool:
    """Whether two fillings of one place differ in just one word, and that word excludes its counterpart."""
    if len(old) != len(new):
        return False
    pairs = [(a.text, b.text) for a, b in zip(old, new, strict=True) if stem(a.text) != stem(b.text)]
    return len(pairs) == 1 and _exclude(*pairs[0])


def _exclude(a: str, b: str) -> bool:
    for number, side in _SIDES.get(a, _SIDES.get(stem(a), [])):
        for other_number, other_side in _SIDES.get(b, _SIDES.get(stem(b), [])):
            if number == other_number and side != other_side:
                return True
    return _denies(a, b) or _denies(b, a)


def _denies(a: str, b: str) -> bool:
    """Whether `a` is `b` with a prefix of denial."""
    return a not in opposites.PREFIX_LOOKALIKES and any(
        a.startswith(prefix) and len(b) >= 3 and stem(a[len(prefix) :]) == stem(b)
        for prefix in opposites.PREFIXES_OF_DENIAL
    )


def value_kinds(words: Sequence[Word]) -> set[str]:
    """The sorts of values that a filling holds: number, date, version, url, email, path, name."""
    found = set()
    for word in words:
        kind = next((name for name, pattern in _VALUE_KINDS if pattern.fullmatch(word.text)), None)
        if kind is None and word.text.lower() in opposites.DATE_WORDS:
            kind = "date"
        if kind is None and word.named:
            kind = NAME
        if kind:
            found.add(kind)
    return found


def _sentence_start(words: Sequence[Word], index: int) -> int:
    while index > 0 and words[index - 1].text not in ".?":
        index -= 1
    return index


def _sentence_end(words: Sequence[Word], index: int) -> int:
    while index < len(words) and words[index].text not in ".?":
        index += 1
    return index


def place(words: Sequence[Word], start: int, end: int) -> Place:
    """What the place `[start, end)` of `words` is in its sentence."""
    first, last = _sentence_start(words, start), _sentence_end(words, end)
    before = [word.text for word in words[first:start] if _is_verb(word)]
    if before:
        return Place.VALUE if before[-1] in _GROUP else Place.OTHER
    if any(_is_verb(word) for word in words[start:end]):
        return Place.OTHER if start > first else Place.SUBJECT
    if start == first or any(_is_verb(word) for word in words[end:last]):
        return Place.SUBJECT
    return Place.NO_VERB


def _is_verb(word: Word) -> bool:
    return word.text in _VERBS or (word.text.endswith("ed") and len(word.text) > 4 and not word.named)


def names_attribute(words: Sequence[Word], start: int) -> bool:
    """Whether a note without a verb names what the value at `start` is of: `budget 500 euros`."""
    return any(word.text in opposites.ATTRIBUTES for word in words[_sentence_start(words, start) : start])


def shares_enough(words: Sequence[Word], start: int, slot: Sequence[Word]) -> bool:
    """Whether the sentence around a place says something by itself: what the place is about."""
    first, last = _sentence_start(words, start), _sentence_end(words, start + len(slot))
    rest = [*words[first:start], *words[start + len(slot) : last]]
    return any(word.text[:1].isalnum() and word.text not in _PLACE_PREPOSITIONS for word in rest)


def one_value_only(words: Sequence[Word], start: int, *, named: bool) -> bool:
    """Whether the thing before the place can have one such value at a time: a favourite, a capital, a residence."""
    first = _sentence_start(words, start)
    verb = next((index for index in range(start - 1, first - 1, -1) if words[index].text in _VERBS), None)
    if verb is None:
        return False
    between = {word.text for word in words[verb + 1 : start]}
    if between & _NOT_A_VALUE:
        return False
    group = _GROUP[words[verb].text]
    subject = [word.text for word in words[first:verb]]
    if not subject:
        return False
    if group == "name":
        return True
    if group in {"be", "set", "switch", "run"}:
        return (
            _is_attribute(subject) or bool(between & opposites.ATTRIBUTE_WORDS) or bool(between & opposites.ATTRIBUTES)
        )
    if group == "prefer":
        return len(words[start:]) > 1
    return named


def _is_attribute(subject: Sequence[str]) -> bool:
    """A noun of which a thing has one: `capital of France`, `my editor`, `Alice's favourite tea`."""
    return bool(
        opposites.ATTRIBUTES & set(subject)
        or opposites.ATTRIBUTE_WORDS & set(subject)
        or (len(subject) == 2 and subject[0] in opposites.POSSESSIVES and subject[1] in opposites.ATTRIBUTES)
    )


def rival_values(a: Sequence[Word], b: Sequence[Word]) -> tuple[list[Word], list[Word]] | None:
    """The two values where both texts give the same subject another value: `lives in Berlin`, `moved to Munich`."""
    old, new = _frame(a), _frame(b)
    if old is None or new is None or old[:2] != new[:2] or old[1] not in {"residence", "work", "schedule"}:
        return None
    values_old, values_new = old[2], new[2]
    texts_old, texts_new = {word.text for word in values_old}, {word.text for word in values_new}
    if texts_old <= texts_new or texts_new <= texts_old:
        return None
    kinds = value_kinds(values_old) & value_kinds(values_new)
    if NAME not in kinds and "date" not in kinds:
        return None
    return values_old, values_new


def _frame(words: Sequence[Word]) -> tuple[tuple[str, ...], str, list[Word]] | None:
    """Subject stems, attribute and value of a text of one short sentence, if it gives something a value."""
    verb = next((index for index, word in enumerate(words) if word.text in _VERBS), None)
    if verb is None or not 0 < verb <= MAX_SUBJECT_WORDS or any(word.text in ".?" for word in words):
        return None
    subject = tuple(stem(word.text) for word in words[:verb])
    while words[verb].text in {"has", "have", "is", "are", "was", "were", "will"} and (
        verb + 1 < len(words) and words[verb + 1].text in {*_GROUP, "been", "now", "currently"}
    ):
        verb += 1
    group = _GROUP.get(words[verb].text)
    rest = list(words[verb + 1 :])
    if group is None or not rest or len(rest) > MAX_VALUE_WORDS:
        return None
    if rest[0].text in _NOT_A_VALUE | _ROLE_PREPOSITIONS:
        return None
    value = [word for word in rest if word.text not in _PLACE_PREPOSITIONS]
    return (subject, group, value) if value else None
