"""Whether turns bear out a statement that a model says they make, as far as words tell.

Rules that err towards no: what is left out still stands in the turns, word for word; what is let in wrongly is recalled
as a fact. A model may choose other verbs and another order, but things, names, numbers and denials are those of the
turns. Pure; nothing here knows how a model is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from cubes import Mention
from engine.reader.entities import entities
from engine.reader.turns import Said, Window
from engine.text import opposites
from engine.text.dates import Found, find
from engine.text.frames import without_negation
from engine.text.normal import canonical
from engine.text.words import STOP_WORDS, stems, words
from engine.text.words import stem as stem_of

BORNE_OUT = 0.75  # share of a statement's words, verbs aside, that must stand in its turns
CLOSE = 0.5  # share of these words in one clause: then it is that clause in other words

_FREE = frozenset(  # what a statement may say in other words
    stem
    for verbs in (*opposites.VALUE_VERBS.values(), *opposites.OTHER_VERBS, *opposites.NEGATORS)
    for stem in stems(
        f"{verbs} user assistant person speaker name named called because longer anymore prefer enjoy dislike "
        "favourite plan attend study finish"
    )
)
_CLAUSE_END = re.compile(r"(?<=[.!?;,:])\s+|\n+|\s(?:but|so|and|because|though|although)\s", re.IGNORECASE)
_NO_DENIAL = re.compile(
    r"can(?:['’]t|not) (?:get enough|wait|help)|no (?:doubt|problem|wonder)|not (?:only|just)", re.I
)
_DISLIKE = re.compile(r"\bcan(?:['’]t|not) (?:stand|bear)\b|\b(?:dislike|hate|detest|loathe)[sd]?\b", re.IGNORECASE)
_NO = re.compile(r"\W*(?:no|nope|nah|not)\b", re.IGNORECASE)
_OTHERS = re.compile(r"\b(?:he|him|his|she|hers?|they|them|theirs?|there)\b", re.IGNORECASE)
_YOU = re.compile(r"\b(?:you|yours?)\b", re.IGNORECASE)
EVERYBODY = ("user", "assistant")


def borne_out(text: str, turns: Sequence[Said], window: Window, times: Sequence[Found]) -> bool:
    """Whether `turns` of a window say it: its words, names and numbers, its times (`times`, in the text), its `not`."""
    near = [*turns, *_asked_before(turns, window, denying=_denies(text))]
    names = _stems(said.speaker for said in (*window.turns, *window.before))
    rest = _without(text, times)
    own = [stem for stem in stems(rest) if stem not in names]
    there, telling = _stems(said.text for said in near), [stem for stem in own if stem not in _FREE]
    if any(_OTHERS.search(said.text) for said in turns):  # who or what is meant was named elsewhere
        there |= _stems(name for said in (*window.before, *window.turns) for name in entities(said.text))
    if sum(stem in there for stem in telling) < BORNE_OUT * len(telling):
        return False
    if not telling and not any(stem in there for stem in own):  # it says nothing but verbs: one of them is theirs
        return False
    if not _times_stand(times, near) or not _numbers_stand(rest, near) or not _names_stand(rest, turns, near, window):
        return False
    return _denies_as_said(text, set(telling or own), turns)


def _without(text: str, times: Sequence[Found]) -> str:
    for found in reversed(times):
        text = f"{text[: found.start]} {text[found.end :]}"
    return text


def _stems(texts: Iterable[str]) -> set[str]:
    return {stem for text in texts for stem in stems(text)}


def _asked_before(turns: Sequence[Said], window: Window, *, denying: bool) -> list[Said]:
    """The questions just before the turns that are named, by which answers are understood.

    Who answers no says nothing of what was asked but that it is not so.
    """
    every = [*window.before, *window.turns]
    return [
        before
        for before, said in pairwise(every)
        if said in turns and "?" in before.text and (denying or not _NO.match(said.text))
    ]


def _names_stand(text: str, turns: Sequence[Said], near: Sequence[Said], window: Window) -> bool:
    """Whether each name stands in the turns, is who speaks there, or is one of those who may be meant by a pronoun."""
    every = (*window.before, *window.turns)
    said = " ".join(turn.text for turn in turns)
    told = [*(turn.text for turn in near), *EVERYBODY, *(turn.speaker for turn in turns)]
    if _OTHERS.search(said):
        told += [turn.text for turn in every]
    if _OTHERS.search(said) or _YOU.search(said):
        told += [turn.speaker for turn in every]
    known = {word for one in told for word in words(one)}
    speakers = {word for turn in every for word in words(turn.speaker)}
    named = {word for name in entities(text) for word in words(name)} | speakers.intersection(words(text))
    first = [word for word in words(text)[:1] if stem_of(word) not in _FREE and word not in STOP_WORDS]
    return named.union(first) <= known


def _denies_as_said(text: str, mine: set[str], turns: Sequence[Said]) -> bool:
    """Whether it denies exactly if the clause does that it puts in other words; where there is none, who knows."""
    said = [clause for turn in turns for clause in _CLAUSE_END.split(turn.text) if clause]
    close = max(said, key=lambda clause: len(mine.intersection(stems(clause))), default="")
    shared = mine.intersection(stems(close))
    return len(shared) < CLOSE * len(mine) or _denies(close) == _denies(text)


def _denies(text: str) -> bool:
    plain = _DISLIKE.sub(" not like ", _NO_DENIAL.sub(" ", text))
    return bool(without_negation(canonical(plain))[1])


def _times_stand(times: Sequence[Found], near: Sequence[Said]) -> bool:
    """Whether each time is named in the turns, in these words or in others."""
    said = " ".join(turn.text for turn in near).casefold()
    spoken = [item.mention for turn in near for item in find(turn.text, turn.at)]
    return all(
        item.mention.text.casefold() in said or any(_overlap(item.mention, other) for other in spoken) for item in times
    )


def _numbers_stand(text: str, near: Sequence[Said]) -> bool:
    there = {number for said in near for number in _numbers(said.text)}
    return all(number in there for number in _numbers(text))


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", " ".join(word.text for word in canonical(text)))


def _overlap(one: Mention, other: Mention) -> bool:
    return one.start < other.end and other.start < one.end
