"""Which kind of memory a text is, by rules that can be read: the first that matches names the kind.

A caller that knows better gives the kind. No model; a fact is what no rule claims.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cubes import Kind, Mention

LOOKED_AT_CHARS = 2_000  # what a text is, it says at its beginning


class Rule(NamedTuple):
    name: str
    kind: Kind
    pattern: re.Pattern[str]
    with_time: bool = False  # only where the text also speaks of a time


def _rule(name: str, kind: Kind, pattern: str, *, with_time: bool = False) -> Rule:
    return Rule(name, kind, re.compile(pattern, re.IGNORECASE | re.MULTILINE), with_time)


_IMPERATIVES = (
    r"add|apply|build|call|check|choose|click|clone|close|commit|configure|connect|copy|create|delete|deploy|download|"
    r"edit|enable|disable|enter|execute|export|fill|go to|import|insert|install|launch|log in|make sure|merge|mix|move|"
    r"open|paste|place|press|pull|push|put|remove|rename|replace|restart|run|save|select|set|start|stir|stop|switch|"
    r"test|turn|type|update|upload|use|verify|wait|write"
)

RULES = (
    _rule(
        "how-to",
        Kind.PROCEDURE,
        r"^\W*how to\b|\bhow (?:to|you|we|i) (?:can )?(?:build|deploy|install|make|run|set up)\b",
    ),
    _rule(
        "steps",
        Kind.PROCEDURE,
        r"\b(?:follow(?:ing)? (?:these )?steps|step 1\b|steps? to\b|steps?:\s*$)"
        rf"|^\W*first,? (?:{_IMPERATIVES})\b.{{1,120}}\bthen\b",
    ),
    _rule("numbered imperatives", Kind.PROCEDURE, rf"^\s*1[.)]\s+(?:{_IMPERATIVES})\b[\s\S]{{1,600}}?^\s*2[.)]\s"),
    _rule(
        "to do it, run it",
        Kind.PROCEDURE,
        rf"^\W*to [a-z]+\b.{{0,160}}?[,:]\s*(?:please |just |first )?(?:{_IMPERATIVES})\b",
    ),
    _rule(
        "run it to do it",
        Kind.PROCEDURE,
        r"^\W*(?:run|use|execute|call|type) [`'\"].{1,160}[`'\"] (?:to|before|after|for)\b",
    ),
    _rule(
        "favourite",
        Kind.PREFERENCE,
        r"\bfavou?rites?\b|\bpreference(?:s)?\b|\b(?:my|his|her|their|user'?s?|\w+['’]s) (?:go-to|preferred)\b",
    ),
    _rule(
        "prefers",
        Kind.PREFERENCE,
        r"\b(?:prefers?|preferred|(?:would|['’]d) rather|can(?:no|['’])t stand|is (?:a fan of|fond of|allergic to)|"
        r"(?:am|['’]m) (?:a fan of|fond of|not into|into)|(?:loves?|hates?|enjoys?|dislikes?|detests?|adores?|loathes?)"
        r"(?! that\b))\b",
    ),
    _rule(
        "likes",
        Kind.PREFERENCE,
        r"^\W*(?:(?:i|we|you|they|he|she|the user|user|[A-Z]\w+)(?: and \w+)?) (?:really |also |always |never |still |"
        r"do(?:es)?(?: not|n['’]t) (?:really )?)*likes?\b",
    ),
    _rule(
        "wants always",
        Kind.PREFERENCE,
        r"\b(?:always|never) (?:wants?|use|uses|reply|answer|respond|write|call me|address)\b|"
        r"^\W*please (?:always|never|don['’]t)\b|\b(?:i|user|we) (?:always|never) wants?\b",
    ),
    _rule(
        "appointment",
        Kind.EVENT,
        r"\b(?:appointment|meeting|meetup|conference|wedding|party|birthday party|interview|flight|trip|concert|"
        r"ceremony|exam|dentist|deadline|launch|release party|webinar|reunion|funeral|graduation)\b",
        with_time=True,
    ),
    _rule(
        "happened then",
        Kind.EVENT,
        r"\b(?:went|met|saw|came|got|took|made|said|told|bought|ate|left|found|gave|flew|drove|won|lost|sent|wrote|spoke|"
        r"began|ran|broke|fell|held|paid|sold|slept|spent|taught|caught|heard|built|became|brought|had|did|"
        r"(?!need|feed|speed|based|located|named|called|used|supposed|required|allowed|interested|married)[a-z]{2,}ed)\b",
        with_time=True,
    ),
    _rule(
        "will happen then",
        Kind.EVENT,
        r"(?:\b(?:will|going to|am|is|are|plans? to|scheduled|meet|meeting|visiting|leaving|arriving|flying)|['’]ll)\b"
        r".{0,80}\b(?:tomorrow|tonight|next|in (?:a|an|one|two|three|\d+) (?:days?|weeks?|months?)|today|this)\b",
        with_time=True,
    ),
)


def classify(text: str, mentions: tuple[Mention, ...]) -> Kind:
    """The kind of a short text; `mentions` are the times that it speaks of."""
    beginning = text[:LOOKED_AT_CHARS]
    for rule in RULES:
        if rule.with_time and not mentions:
            continue
        if rule.pattern.search(beginning):
            return rule.kind
    return Kind.FACT
