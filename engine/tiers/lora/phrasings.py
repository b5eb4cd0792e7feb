"""How a statement is asked about: phrasings to train with, and others that are held out.

Whole questions are trained with, short and roundabout ones are held out, so that what was learned has to carry over.
Tables and rules of English; nothing here knows a model.
"""

from __future__ import annotations

import random

from engine.text.statements import VERBS, Kind, Statement
from engine.text.tables import word_set

ATTRIBUTE_STUDY = (
    "What is the {a} of {s}?",
    "Tell me the {a} of {s}.",
    "What is {s}'s {a}?",
    "The {a} of {s}?",
    "What {a} does {s} have?",
    "Which {a} has {s}?",
)
ATTRIBUTE_HELD = (
    "{s}'s {a}?",
    "Tell me, what is the {a} of {s}?",
    "{a} of {s}?",
    "Do you know the {a} of {s}?",
)
THING_STUDY = ("What {be} {s}?", "Tell me what {s} {be}.", "Do you know what {s} {be}?", "Tell me {s}.")
THING_HELD = ("{s}?", "Tell me, what {be} {s}?", "Can you say what {s} {be}?")
PLACED_STUDY = ("{wh} {be} {s}?", "Tell me {wh_low} {s} {be}.", "Do you know {wh_low} {s} {be}?")
PLACED_HELD = ("Tell me, {wh_low} {be} {s}?", "Can you say {wh_low} {s} {be}?", "{s}: {wh_low}?")
CLAUSE_STUDY = (
    "{wh} {do} {s} {base}{o}{p}?",
    "Tell me {wh_low} {s} {verb}{o}{p}.",
    "Do you know {wh_low} {s} {verb}{o}{p}?",
)
CLAUSE_HELD = (
    "Tell me, {wh_low} {do} {s} {base}{o}{p}?",
    "Can you say {wh_low} {s} {verb}{o}{p}?",
    "{s} {verb}{o}{p} {wh_low}?",
)
_IRREGULAR = {
    "went": "go", "came": "come", "got": "get", "gave": "give", "took": "take", "made": "make", "bought": "buy",
    "sold": "sell", "ate": "eat", "drank": "drink", "read": "read", "wrote": "write", "said": "say", "told": "tell",
    "knew": "know", "thought": "think", "saw": "see", "met": "meet", "sent": "send", "brought": "bring",
    "kept": "keep", "held": "hold", "left": "leave", "spoke": "speak", "drove": "drive", "won": "win", "lost": "lose",
    "found": "find", "began": "begin", "had": "have", "did": "do", "paid": "pay", "ran": "run", "has": "have",
    "built": "build", "sat": "sit",
    "slept": "sleep", "grew": "grow", "wore": "wear", "sang": "sing", "hid": "hide", "flew": "fly", "rode": "ride",
    "lay": "lie", "stood": "stand", "chose": "choose", "spent": "spend",
}  # fmt: skip
_ES = ("ches", "shes", "xes", "sses", "zes", "oes")
_E_KEPT = ("ated", "ized", "ised", "ced", "ged", "ved", "ured", "ired", "ored", "amed", "used", "osed", "ited", "uted")
_PLURAL = word_set("i we you they")


def study(one: Statement) -> list[tuple[str, str]]:
    """Phrasings to train with: each with what it is made from."""
    return _asked(one, ATTRIBUTE_STUDY, THING_STUDY, PLACED_STUDY, CLAUSE_STUDY)


def held_out(one: Statement) -> list[tuple[str, str]]:
    """Phrasings that are never trained with."""
    return _asked(one, ATTRIBUTE_HELD, THING_HELD, PLACED_HELD, CLAUSE_HELD)


def some_study(draw: random.Random, one: Statement, fit: frozenset[str] = frozenset()) -> tuple[str, str]:
    """A phrasing to train with and what it is made from, one of `fit` if there is one."""
    every = study(one)
    return draw.choice([each for each in every if each[0] in fit] or every)


def _asked(one: Statement, attribute: tuple[str, ...], *others: tuple[str, ...]) -> list[tuple[str, str]]:
    thing, placed, clause = others
    wh = "When" if one.asks_when else "Where" if one.asks_where else "What"
    said = {"s": _inside(one.subject), "a": one.attribute, "wh": wh, "wh_low": wh.lower(), "be": one.verb}
    if one.kind is Kind.ATTRIBUTE:
        forms = attribute
    elif one.kind is Kind.THING:
        forms = thing if wh == "What" else placed
    else:
        forms = clause
        base, do = _infinitive(one.verb, one.subject)
        o = f" {one.object}" if one.object else ""
        p = f" {one.preposition}" if one.preposition and wh == "What" else ""
        said |= {"verb": one.verb, "base": base, "do": do, "o": o, "p": p}
    return list({text: (form, text) for form in forms if (text := _begun(form.format(**said)))}.values())


def _infinitive(verb: str, subject: str) -> tuple[str, str]:
    """The verb as it stands beside `do`, and that form of `do`."""
    if verb in _IRREGULAR and verb != "has":
        return _IRREGULAR[verb], "did"
    if verb.endswith("ed"):
        return _present(verb), "did"
    do = "do" if subject.lower() in _PLURAL else "does"
    if verb == "has":
        return "have", do
    if verb.endswith("s") and not verb.endswith("ss"):
        known = next((one for one in (verb[:-1], verb[:-2]) if one in VERBS), "")
        ending = verb[:-3] + "y" if verb.endswith("ies") else verb[: -2 if verb.endswith(_ES) else -1]
        return known or ending, do
    return verb, do


def _present(verb: str) -> str:
    """What ends in `ed`, without it."""
    if known := next((one for one in (verb[:-1], verb[:-2], verb[:-3]) if one in VERBS), ""):
        return known
    if verb.endswith("ied"):
        return verb[:-3] + "y"
    if verb[-3] == verb[-4] and verb[-3] not in "lsz":
        return verb[:-3]
    return verb[:-1] if verb.endswith(_E_KEPT) else verb[:-2]


def _inside(subject: str) -> str:
    """A subject as it stands inside a sentence: an article that began one is small."""
    first, space, rest = subject.partition(" ")
    small = first.lower() in ("the", "a", "an", "my", "our", "we", "your")
    return first.lower() + space + rest if small else subject


def _begun(question: str) -> str:
    return question[:1].upper() + question[1:]
