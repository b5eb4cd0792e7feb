"""What a query asks for, read off its words by rules: no model, no index, no state.

- what to look up: its stems, without the names of speakers (who speaks is in the header, not in what is said)
- what to embed: the query without those names
- whom it names, and whether it asks for the assistant's own words ("what did you recommend")
- how much it belongs to a conversation that is going on: statements, and words such as "next", "let's", "still"
- whether it asks how something stands now ("what is my quota"), where the newest of rivals is right, or about the past
- which time it speaks of, and whether it asks for one ("when …")

Rules are English. In other languages nothing matches, and the query is looked up by its words and its meaning alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import lru_cache

from engine.text.dates import mentions
from engine.text.words import STOP_WORDS, stem, words

MIN_NAME_CHARS = 2


class Live(IntEnum):
    """How much a query belongs to a conversation that is going on."""

    NO = 0
    PERHAPS = 1
    YES = 2


@dataclass(frozen=True, slots=True)
class Query:
    text: str
    stems: tuple[str, ...]  # each once, in order
    told_by: tuple[tuple[str, str], ...]  # stem -> the word of the query that it came from
    speakers: tuple[str, ...]  # names of speakers that it names
    meaning: str  # what to embed
    to_assistant: bool
    live: Live
    present: bool  # it asks how something stands now
    asks_when: bool
    period: tuple[datetime, datetime] | None


_TO_ASSISTANT = re.compile(
    r"\b(?:did|have|had) you\b"
    r"|\byou(?:'ve| have)? (?:recommended|suggested|told|explained|advised|gave|given|proposed|described|said|mentioned"
    r"|wrote|showed|provided)\b"
    r"|\byour (?:advice|suggestions?|recommendations?|answers?|explanations?|repl(?:y|ies))\b"
    r"|\bremind me (?:what|which|how|of)\b(?! I\b)"
    r"|\b(?:our|your) (?:previous|last|earlier) (?:chat|conversation|answer|reply|session|discussion)",
    re.IGNORECASE,
)
_GOING_ON = re.compile(
    r"\b(?:let'?s|let us|next|ready|now|continue|go ahead|mov(?:e|ing) on|proceed|today|tonight|tomorrow"
    r"|this (?:morning|afternoon|evening|week|weekend)|status|already|again|still|ok|okay|alright|all right|thanks"
    r"|thank you|got it|sounds good|latest|currently|so far|at the moment|finally|immediately)\b",
    re.IGNORECASE,
)
_SPEAKS = re.compile(r"\b(?:i|i'm|i've|me|my|we|us|our|you|your|let'?s|it|it's|this|that|these|those)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_NOW = re.compile(
    r"\b(?:current\w*|now|latest|newest|most recent\w*|today|up to date|these days|still|any ?more|so far)\b",
    re.IGNORECASE,
)
_HISTORY = re.compile(
    # "the first sprint" is a name, "which came first" asks about the past
    r"\bfirst\b(?! (?:sprint|draft|semester|quarter|phase|week|day|name|aid|time)\b)"
    r"|\b(?:originally|initial(?:ly)?|at first|before|earlier|previous(?:ly)?|used to|ago|history|order|over time"
    r"|evol\w*|progress\w*|chang\w*|differ\w*|compar\w*|between|summar\w*|timeline|sequence|since|passed|increase|decrease|old"
    r"|former)\b",
    re.IGNORECASE,
)
_PAST = re.compile(r"\b(?:did|was|were|had)\b", re.IGNORECASE)
_PRESENT = re.compile(
    r"\bwhat(?:'s| is| are| do| does)\b"
    r"|\b(?:what|which) (?:\w+ ){0,2}?(?:time|date|day|deadline|number|amount|percentage|quota|rate|target|goal|budget"
    r"|price|cost|version|address|phone|email|name|status|limit|score|age|size|length|total|count|title|plan|schedule)s?\b"
    r"|\bhow (?:many|much|long|often|old|far)\b"
    r"|\bwhen(?:'s| is| are| do| does| should| will| can)\b"
    r"|\bwhere(?:'s| is| are| do| does| should)\b"
    r"|\bwho(?:'s| is| are)\b",
    re.IGNORECASE,
)
_WHEN = re.compile(r"\bwhen\b|\bwhat (?:time|date|day|month|year)\b|\bdeadline\b|\bhow long\b|\bschedul", re.IGNORECASE)


def understand(text: str, speakers: Iterable[str], now: datetime | None) -> Query:
    """Read a query. `speakers` are the names of those who spoke in what is searched; without `now` no time is read."""
    named = _named(text, speakers)
    meaning = _without(text, [word for _, found in named for word in found])
    told_by: dict[str, str] = {}
    silent = {part for _, found in named for name in found for part in words(name)}
    for word in words(text):
        if word not in STOP_WORDS and word not in silent:
            told_by.setdefault(stem(word), word)
    times = mentions(text, now) if now is not None else ()
    return Query(
        text=text,
        stems=tuple(told_by),
        told_by=tuple(told_by.items()),
        speakers=tuple(speaker for speaker, _ in named),
        meaning=meaning,
        to_assistant=bool(_TO_ASSISTANT.search(text)),
        live=_live(text),
        present=_asks_present(text),
        asks_when=bool(_WHEN.search(text)),
        period=(min(time.start for time in times), max(time.end for time in times)) if times else None,
    )


def _named(text: str, speakers: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Speakers that the text names, each with the words that name them: the whole name or a part of it."""
    said = frozenset(words(text))
    result = []
    for speaker in sorted(speakers):
        found = [part for part, needed in _parts(speaker) if needed <= said and _names(part, text)]
        if found:
            result.append((speaker, found))
    return result


@lru_cache(maxsize=4_096)
def _parts(speaker: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """A name and each part of it, longest first, with the words that must be there for it to be named."""
    parts = sorted({speaker, *speaker.split()}, key=lambda part: (-len(part), part))
    named = ((part, frozenset(words(part))) for part in parts if len(part) >= MIN_NAME_CHARS)
    return tuple((part, needed) for part, needed in named if needed)


def _names(name: str, text: str) -> bool:
    return _pattern(name).search(text) is not None


def _pattern(name: str) -> re.Pattern[str]:
    """A name that is also a common word ("Will") must be written as a name."""
    flags = re.NOFLAG if name.casefold() in STOP_WORDS else re.IGNORECASE
    return re.compile(rf"(?<!\w){re.escape(name)}(?:['’]?s)?(?!\w)", flags)


def _without(text: str, names: list[str]) -> str:
    """The text without these names, unless nothing is left then."""
    if not names:
        return text
    rest = text
    for name in sorted(names, key=len, reverse=True):
        rest = _pattern(name).sub(" ", rest)
    rest = " ".join(rest.split())
    return rest if any(word not in STOP_WORDS for word in words(rest)) else text


def _live(text: str) -> Live:
    sentences = [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]
    states = any(not sentence.rstrip().endswith("?") for sentence in sentences)
    if len(sentences) == 1 and not _SPEAKS.search(text):
        states = False  # keywords ("dentist phone number") are no statement
    return Live(int(states) + int(_GOING_ON.search(text) is not None))


def _asks_present(text: str) -> bool:
    if _NOW.search(text):
        return True
    if _HISTORY.search(text) or _PAST.search(text):
        return False
    return _PRESENT.search(text) is not None
