"""What plain statements say: a subject, perhaps an attribute, and a value, each as the text has them.

A statement keeps its form, so that it can be said again of another subject or with another value. Rules over words, no
grammar: "the X of Y is Z", "Y's X is Z", "Y has the X Z", "X of Y = Z", "X is Z", and clauses with a known verb. What
no rule fits is no statement; a text may have several, one for each sentence. It asks nothing and knows no model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from engine.text import opposites
from engine.text.frames import value_kinds
from engine.text.normal import canonical
from engine.text.sentences import sentences
from engine.text.tables import word_set

MAX_STATEMENT_CHARS = 300
MAX_SUBJECT_WORDS = 8
MAX_VALUE_WORDS = 12
MAX_COMPLEMENTS = 3
SUBJECT, ATTRIBUTE, VALUE = "\ue000", "\ue001", "\ue002"  # where they stand in a form: nobody writes these characters

PLACE_PREPOSITIONS = word_set("in at near under behind inside from on to into")
PREPOSITIONS = PLACE_PREPOSITIONS | word_set("by for with until till since before after about as")
_DETERMINERS = opposites.POSSESSIVES | opposites.ATTRIBUTE_WORDS | word_set("the a an this that next last each every")
_PRONOUNS = word_set("it he she they this that these those there here what who which one everyone nobody someone")
_NOT_ATTRIBUTES = opposites.ATTRIBUTE_WORDS | word_set("""
    same best worst most least right wrong first last next old whole latest good bad big small great other another
    one two three all both some many few several any each none part rest half lot number-of kind sort
    red green blue black white pink gray grey brown orange violet gold silver yellow purple
""")
_NOT_VALUES = word_set("of that which who to in for with and or from on at by because not no never")
_BE = r"(?:is|are|was|were|am|will\ be|equals|remains)(?:\ (?:now|currently|set\ to))?"
_FORMS_OF_BE = word_set("is are was were am be been being")
_LINK = rf"(?:\ {_BE}\ |\ ?(?:=|:=|->|→)\ ?|\ ?:\ )"
_LABEL = re.compile(
    r"\A(?:[-*•]\ )?(?:(?:note|remember|reminder|fact|fyi|nb|update|info|important|memo)\ ?[:,-]\ ?|"
    r"(?:please )?(?:remember|note) that )",
    re.IGNORECASE,
)
_END = re.compile(r"\s*[.!;]*\s*\Z")
_WORDS = r"[^\W\d_][\w-]*(?:\ [\w-]+){0,3}?"
_OF = re.compile(rf"(?P<the>(?:the|our|my)\ )?(?P<a>{_WORDS})\ of\ (?P<s>[^:=]+?)(?P<link>{_LINK})(?P<v>.+)", re.I)
_POSSESSIVE = re.compile(rf"(?P<s>[^:=]+?)\ ?['’]\ ?s\ (?P<a>{_WORDS}){_LINK}(?P<v>.+)", re.I)
_HAS = re.compile(r"(?P<s>[^:=]+?)\ (?:has|have|had)\ (?P<the>the|an?)\ (?P<a>[^\W\d_][\w-]*)\ (?P<v>.+)", re.I)
_THING = re.compile(rf"(?P<s>[^:=]+?)(?P<link>{_LINK})(?P<v>.+)", re.I)
_ORDINAL = re.compile(r"\d{1,2}(?:st|nd|rd|th)")
_CLOCK = re.compile(r"\d{1,2}(?::\d\d\b|(?::\d\d)?\s?[ap]\.?m\b)|(?:noon|midnight)\b", re.I)


class Kind(StrEnum):
    ATTRIBUTE = "attribute"  # the city of Alice is Paris
    THING = "thing"  # the wifi password is hunter2
    CLAUSE = "clause"  # the deploy key lives in vault 7


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `form` is its sentence with private characters for subject, attribute and value; `preposition`
    stands before the value and is no part of it; `verb` is that of a clause, or the form of "be"; `object` is what else
    follows the verb."""

    kind: Kind
    form: str
    subject: str
    value: str
    attribute: str = ""
    preposition: str = ""
    verb: str = ""
    object: str = ""

    @property
    def text(self) -> str:
        told = {ord(SUBJECT): self.subject, ord(ATTRIBUTE): self.attribute, ord(VALUE): self.value}
        return self.form.translate(told)

    @property
    def key(self) -> tuple[str, ...]:
        """What it is about: another statement with the same key says the same again, or something else of it."""
        if self.kind is Kind.ATTRIBUTE:
            return folded(self.subject), folded(self.attribute)
        verb = self.verb if self.kind is Kind.CLAUSE else ""
        return tuple(folded(part) for part in (self.subject, "", verb, self.object, self.preposition))

    @property
    def asks_when(self) -> bool:
        return is_time(self.value)

    @property
    def asks_where(self) -> bool:
        return self.preposition.lower() in PLACE_PREPOSITIONS and not self.asks_when

    def of(self, subject: str = "", attribute: str = "", value: str = "") -> Statement:
        """The same, said of something else, or with another value."""
        return replace(
            self,
            subject=subject or self.subject,
            attribute=attribute or self.attribute,
            value=value or self.value,
        )


def statements(text: str) -> list[Statement]:
    """What the sentences of a text state, in their order."""
    return [one for start, end in sentences(text) for one in stated(text[start:end])]


def stated(sentence: str) -> list[Statement]:
    """What a sentence states, if a rule fits it; a clause states each of its complements."""
    text = " ".join(sentence.split())
    if (
        text.endswith("?")
        or len(text) > MAX_STATEMENT_CHARS
        or any(mark in text for mark in (SUBJECT, ATTRIBUTE, VALUE))
    ):
        return []
    label = _LABEL.match(text)
    head = label.group() if label else ""
    ending = _END.search(text)
    tail = ending.group() if ending else ""
    body = text[len(head) : len(text) - len(tail)]
    for rule in (_attribute_of, _possessive, _has, _thing, _clause):
        if (found := rule(body)) and all(_sound(one) for one in found):
            return [replace(one, form=head + one.form + tail) for one in found]
    return []


def is_time(value: str) -> bool:
    """Whether a value is a date, a day or a time of day."""
    counted = [word for word in canonical(value) if not _ORDINAL.fullmatch(word.text)]  # "the third door" is no date
    return "date" in value_kinds(counted) or bool(_CLOCK.match(value))


def folded(text: str) -> str:
    """Equal for two writings of a name: white space, case and a leading article folded."""
    return re.sub(r"\A(?:the|an?) ", "", " ".join(text.lower().split()))


def _sound(found: Statement) -> bool:
    subject = found.subject.lower().split()
    value = found.value.lower().split()
    return (
        bool(subject and value)
        and len(subject) <= MAX_SUBJECT_WORDS
        and len(value) <= MAX_VALUE_WORDS
        and not (subject[0] in _PRONOUNS and len(subject) == 1)
        and subject[0] not in ("if", "when", "because", "and", "but", "or", "there", "it")
        and value[0] not in ("not", "no", "never", "neither")
    )


def _with_parts(body: str, found: re.Match[str], kind: Kind, *, attribute: str | None = "a") -> Statement:
    """The statement of a match: its groups cut out of the body, from behind."""
    value = found["v"]
    preposition, bare = _preposition(value)
    start = found.end("v") - len(bare)
    spans = [(start, found.end("v"), VALUE), (*found.span("s"), SUBJECT)]
    if attribute:
        spans.append((*found.span(attribute), ATTRIBUTE))
    form = body
    for begin, end, mark in sorted(spans, reverse=True):
        form = form[:begin] + mark + form[end:]
    return Statement(kind, form, found["s"], bare, found[attribute] if attribute else "", preposition)


def _preposition(value: str) -> tuple[str, str]:
    first, _, rest = value.partition(" ")
    return (first, rest) if rest and first.lower() in PREPOSITIONS else ("", value)


def _attribute_of(body: str) -> list[Statement]:
    found = _OF.fullmatch(body)
    if not found or found["a"].split()[0].lower() in _NOT_ATTRIBUTES - opposites.ATTRIBUTE_WORDS:
        return []
    if not found["the"] and found["link"].strip() not in ("=", ":", ":=", "->", "→"):
        return []
    return [_with_parts(body, found, Kind.ATTRIBUTE)]


def _possessive(body: str) -> list[Statement]:
    found = _POSSESSIVE.fullmatch(body)
    if not found or found["s"].lower() in _PRONOUNS or _verbs(found["s"]):
        return []
    return [_with_parts(body, found, Kind.ATTRIBUTE)]


def _has(body: str) -> list[Statement]:
    found = _HAS.fullmatch(body)
    if not found or _verbs(found["s"]) or found["v"].split()[0].lower() in _NOT_VALUES:
        return []
    attribute = found["a"].lower()
    if attribute in _NOT_ATTRIBUTES or (found["the"].lower() != "the" and attribute not in opposites.ATTRIBUTES):
        return []
    return [_with_parts(body, found, Kind.ATTRIBUTE)]


def _thing(body: str) -> list[Statement]:
    found = _THING.fullmatch(body)
    if not found or _verbs(found["s"]):
        return []
    link = found["link"].split()[0] if found["link"].strip() else ""
    return [replace(_with_parts(body, found, Kind.THING, attribute=None), verb=link if link in _FORMS_OF_BE else "is")]


def _clause(body: str) -> list[Statement]:
    words = body.split(" ")
    place = next((number for number in range(len(words[:MAX_SUBJECT_WORDS])) if _is_verb(words, number)), None)
    if place is None or place + 1 >= len(words) or words[place] in _FORMS_OF_BE:
        return []
    parts = _complements(words[place + 1 :])
    subject, verb, found = " ".join(words[:place]), words[place], []
    for number, (preposition, value) in enumerate(parts[:MAX_COMPLEMENTS]):
        said = [" ".join(filter(None, part)) for part in parts]
        form = [*said[:number], " ".join(filter(None, (preposition, VALUE))), *said[number + 1 :]]
        rest = " ".join((*said[:number], *said[number + 1 :]))
        text = " ".join((SUBJECT, verb, *form))
        found.append(Statement(Kind.CLAUSE, text, subject, value, "", preposition, verb, rest))
    return found


def _complements(words: list[str]) -> list[tuple[str, str]]:
    """What follows a verb, parted where prepositions stand: each preposition, none for an object, and its words."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for word in words:
        if word.lower() in PREPOSITIONS and (found[-1][1] or not found[-1][0]):
            found.append((word, []))
        else:
            found[-1][1].append(word)
    return [(preposition, " ".join(some)) for preposition, some in found if some]


def _verbs(text: str) -> bool:
    words = text.split()
    return any(_is_verb(words, number) for number in range(len(words)))


def _is_verb(words: list[str], number: int) -> bool:
    """Whether a word is a verb that we know, and no noun behind an article: `the deploy key`."""
    word = words[number]
    if number == 0 or words[number - 1].lower() in _DETERMINERS:
        return False
    return word in VERBS or (word.endswith("ed") and len(word) > 4 and word.islower())


_MORE_VERBS = word_set("""
    watch watches teach teaches manage manages lead leads report reports follow follows host hosts handle handles
    build builds built check checks cover covers sit sits sat sleep sleeps slept stay stays belong belongs grow grows
    grew plan plans hope hopes help helps wear wears wore sing sings sang cook cooks learn learns train trains park
    parks hide hides hid fly flies flew ride rides rode lie lies lay stand stands stood clean cleans collect collects
    deliver delivers repair repairs fix fixes sends chose choose chooses spend spends spent put puts turn turns
""")
VERBS = (
    frozenset(word for words in opposites.VALUE_VERBS.values() for word in words.split() if word.isalpha())
    | opposites.OTHER_VERBS
    | _MORE_VERBS
)
"""Verbs that are known: in all forms in which they stand in statements."""
