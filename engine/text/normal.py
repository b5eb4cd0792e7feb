"""Texts reduced to what two writings of the same statement have in common, in two steps.

`normal_form` folds white space, quotes' shapes, surrounding punctuation, and case where it tells nothing apart: at the
start of a word, and in a text that is all in capitals, but not inside a word (userName, CO). Equal normal forms are
exact duplicates. `canonical` folds further what cannot change a meaning: contractions, number words, clock times,
articles, a phrase moved to the front. Neither folds a sign, a currency, a unit, a dot inside a number or a question
mark; no Unicode compatibility folding (10² is not 102), no stemming.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from engine.text.opposites import AUXILIARIES, CASE_MATTERS, NEGATORS, NUMBER_WORDS, ORDINAL_WORDS, SCALES
from engine.text.tables import word_set


class Word(NamedTuple):
    """A word as it is looked up and aligned (`text`), as it was written (`shown`), whether it was capitalised inside a
    sentence, and how it is told from others where `text` has lost capitals that tell (`exact`, else empty)."""

    text: str
    shown: str
    named: bool = False
    exact: str = ""

    @property
    def said(self) -> str:
        """What must be equal where two words are one: `userName` is not `username`."""
        return self.exact or self.text


_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "«": '"', "»": '"', "\u2212": "-", "\u00a0": " "})
_OPENING = "\"'([{`¿¡"
_CLOSING = "\"')]}`.,;:!?…"
_UNIT_MARKS = ("'", '"')
_SENTENCE_END = frozenset(".?")
_FOLDED_AT_ENDS = frozenset(
    [".", ",", ";", ":", '"', "'", "(", ")", "[", "]", "{", "}", "`", "¿", "¡", "*", "•", "–", "—"]
)

_CONTRACTIONS = {
    "can't": "can not",
    "cannot": "can not",
    "won't": "will not",
    "shan't": "shall not",
    "ain't": "is not",
    "i'm": "i am",
    "let's": "let us",
}
_IS = word_set("it's he's she's that's what's there's here's who's where's how's")
_ENDINGS = (("n't", "not"), ("'re", "are"), ("'ve", "have"), ("'ll", "will"))
_ARTICLES = frozenset(("the", "a", "an"))
_AFTER_ARTICLE = frozenset(["few", "little", "lot", "bit", "couple"])  # "a few" is not "few"
_LEADING = word_set("""
    on in at since during by before after today yesterday tomorrow tonight last next this
""")
_TIME = re.compile(r"(\d{1,2})(?::(\d\d))?([ap])\.?m\.?\Z")
_THOUSANDS = re.compile(r"([^\w]?)(\d{1,3}(?:,\d{3})+)((?:\.\d+)?\D{0,4})\Z")
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.-]*)(==?|:=|:)([^=/].*)\Z")
_CASE_TELLS = re.compile(r"[\\/_=~]|\d[A-Za-z]|[A-Za-z]\d")
_HALF_DAYS = frozenset(("am", "pm", "a.m", "p.m"))
_EMPHASISED = (NEGATORS | AUXILIARIES | _ARTICLES | _HALF_DAYS) - CASE_MATTERS  # "do NOT" says no more than "do not"
MAX_LEADING_WORDS = 4
LONGEST_UNIT_CHARS = 3


def normal_form(text: str) -> str:
    """Equal for exact duplicates: case, white space and surrounding punctuation folded."""
    words = _trimmed(list(_surface(text)))
    return " ".join(word.said for word in words) or text.strip()


def canonical(text: str) -> list[Word]:
    """The words of `text` with everything folded that cannot change what it says."""
    words = _trimmed(list(_surface(text)))
    words = [part for word in words for part in _expanded(word)]
    words = _with_numbers(words)
    words = list(_without_articles(words))
    return _front_moved(list(_without_commas_before_and(words)))


def _surface(text: str) -> Iterator[Word]:
    starts_sentence = True
    after_number = False
    shouted = _is_shouted(text)
    quoted: set[str] = set()  # the quotes that stand open
    for chunk in text.translate(_QUOTES).split():
        core, closing = chunk, ""
        for char in core[:-1]:
            if char not in _OPENING:
                break
            yield Word(char, char)
            quoted.add(char)
        core = core[0:-1].lstrip(_OPENING) + core[-1]
        stripped = core.rstrip(_CLOSING)
        if stripped:
            core, closing = stripped, core[len(stripped) :]
        if core[-1:].isdigit() and closing[:1] in _UNIT_MARKS and closing[:1] not in quoted:
            core, closing = core + closing[0], closing[1:]  # feet and inches, minutes and seconds
        if core:
            named = not starts_sentence and core[0].isupper()
            folded = _case_folded(core, named=named, after_number=after_number)
            yield Word(folded, core, named, core if not shouted and _capitals_tell(core, folded) else "")
            after_number = core[-1].isdigit()
        starts_sentence = any(mark in closing for mark in ".!?…:")
        for mark in _marks(closing):
            quoted.discard(mark)
            yield Word(mark, mark)


def _case_folded(core: str, *, named: bool, after_number: bool) -> str:
    """`core` in small letters, but where a capital tells things apart: US, 5 Mb, a path, a key."""
    folded = core.lower()
    if (named and folded in CASE_MATTERS) or _CASE_TELLS.search(core):
        return folded if _TIME.match(folded) else core
    is_unit = after_number and len(core) <= LONGEST_UNIT_CHARS and folded not in _HALF_DAYS
    return core if is_unit else folded


def _is_shouted(text: str) -> bool:
    """Whether a text of several words is all in capitals, which then tell nothing."""
    return text == text.upper() and sum(any(map(str.isalpha, word)) for word in text.split()) > 1


def _capitals_tell(core: str, folded: str) -> bool:
    """Whether folding took a capital from inside a word, which is more than the capital of a name or a sentence."""
    if folded == core or folded in _EMPHASISED or _TIME.match(folded) or ("'" in core and core.isupper()):
        return False
    return any(before.isalpha() and char.isupper() for before, char in pairwise(core))


def _marks(closing: str) -> Iterator[str]:
    """The punctuation after a word: `!` and an ellipsis end a sentence as a full stop does, in whatever number."""
    last = ""
    for char in closing:
        mark = "." if char in "!…" else char
        if mark != last or mark not in _SENTENCE_END:
            yield mark
        last = mark


def _trimmed(words: list[Word]) -> list[Word]:
    start, end = 0, len(words)
    while start < end and words[start].text in _FOLDED_AT_ENDS:
        start += 1
    while end > start and words[end - 1].text in _FOLDED_AT_ENDS:
        end -= 1
    return words[start:end]


def _expanded(word: Word) -> list[Word]:
    text = word.text
    if text == "&":
        return [Word("and", word.shown)]
    if "'" in text:
        if text in _CONTRACTIONS:
            return [Word(part, part) for part in _CONTRACTIONS[text].split()]
        if text in _IS:
            return [Word(text[:-2], word.shown[:-2], word.named), Word("is", "is")]
        for ending, full in _ENDINGS:
            if text.endswith(ending) and len(text) > len(ending):
                short, shown, exact = (part[: -len(ending)] for part in (text, word.shown, word.exact))
                return [Word(short, shown, word.named, exact), Word(full, full)]
        return [word]
    if text == "cannot":
        return [Word("can", "can"), Word("not", "not")]
    assigned = _ASSIGNMENT.match(word.text)
    if assigned and not _TIME.match(text):
        name, sign, value = assigned.groups()
        told = _ASSIGNMENT.match(word.exact)
        exact_name, exact_value = (told[1], told[3]) if told else ("", "")
        return [
            Word(name, name, exact=exact_name),
            Word("=" if sign != ":" else ":", sign),
            Word(value, word.shown[-len(value) :], exact=exact_value),
        ]
    return [word]


def _with_numbers(words: list[Word]) -> list[Word]:
    """Number words as digits, thousands without separators, clock times in one writing."""
    result: list[Word] = []
    index = 0
    while index < len(words):
        word = words[index]
        value, length = _number(words, index)
        if length:
            shown = " ".join(part.shown for part in words[index : index + length])
            result.append(Word(str(value), shown))
            index += length
            continue
        following = words[index + 1].text if index + 1 < len(words) else ""
        if word.text.replace(":", "").isdecimal() and following in _HALF_DAYS:
            joined = _clock(word.text + following)
            if joined:
                result.append(Word(joined, f"{word.shown} {words[index + 1].shown}"))
                index += 2
                if "." in following and index < len(words) and words[index].text == ".":
                    index += 1  # the dot is the abbreviation's
                continue
        result.append(_written(word))
        index += 1
    return result


def _number(words: list[Word], index: int) -> tuple[int, int]:
    """The value of the number words at `index`, and how many words it takes (0: there is none)."""
    total, current, length, scale_before = 0, -1, 0, 10**12
    while index + length < len(words):
        text = words[index + length].text
        value = _small(text)
        if value is not None and (current < 0 or (current % 100 == 0 and current > 0)) and value < 100:
            current = max(current, 0) + value
        elif value is not None and current > 0 and current % 100 in range(20, 100, 10) and 0 < value < 10:
            current += value
        elif text == "hundred" and 0 < current < 20:
            current *= 100
        elif text in SCALES and text != "hundred" and current > 0 and SCALES[text] < scale_before:
            scale_before = SCALES[text]
            total, current = total + current * scale_before, 0
        else:
            break
        length += 1
    return (total + max(current, 0), length) if length else (0, 0)


def _small(text: str) -> int | None:
    if text in NUMBER_WORDS:
        return NUMBER_WORDS[text]
    tens, hyphen, units = text.partition("-")
    if hyphen and NUMBER_WORDS.get(tens, 0) >= 20 and 0 < NUMBER_WORDS.get(units, 0) < 10:
        return NUMBER_WORDS[tens] + NUMBER_WORDS[units]
    return None


def _written(word: Word) -> Word:
    text = word.text
    if text in ORDINAL_WORDS:
        return word._replace(text=ORDINAL_WORDS[text], exact="")
    if not text[:1].isalpha():
        clock = _clock(text)
        if clock:
            return word._replace(text=clock)
        thousands = _THOUSANDS.match(text)
        if thousands:
            return word._replace(text=thousands[1] + thousands[2].replace(",", "") + thousands[3])
    return word


def _clock(text: str) -> str | None:
    """`5pm`, `5:30p.m` as `17:00`, `17:30`."""
    match = _TIME.match(text)
    if not match or not 1 <= int(match[1]) <= 12:
        return None
    hour = int(match[1]) % 12 + (12 if match[3] == "p" else 0)
    return f"{hour:02}:{match[2] or '00'}"


def _without_articles(words: list[Word]) -> Iterator[Word]:
    for index, word in enumerate(words):
        if word.text in _ARTICLES and index + 1 < len(words):
            first = index == 0 or words[index - 1].text in _SENTENCE_END
            following = words[index + 1]
            if (
                (word.shown.islower() or first)
                and following.text not in _AFTER_ARTICLE
                and following.text[:1].isalnum()
            ):
                continue
        yield word


def _without_commas_before_and(words: list[Word]) -> Iterator[Word]:
    for index, word in enumerate(words):
        if word.text == "," and index + 1 < len(words) and words[index + 1].text in {"and", "or", "but"}:
            continue
        yield word


def _front_moved(words: list[Word]) -> list[Word]:
    """`On Monday, we meet` as `we meet on Monday`: one sentence with one comma, after a short phrase."""
    if not words or words[0].text not in _LEADING:
        return words
    marks = [index for index, word in enumerate(words) if not word.text[:1].isalnum() and len(word.text) == 1]
    if len(marks) != 1 or words[marks[0]].text != "," or marks[0] > MAX_LEADING_WORDS:
        return words
    return words[marks[0] + 1 :] + words[: marks[0]]
