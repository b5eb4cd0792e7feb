"""Questions for any memories and any model: the model itself, with a note in its context, writes them.

Self-study (Eyuboglu et al. 2025): asked with each note in its context, the model writes questions that the note
answers, answers them with it, and again without it. A question is kept when the answer takes its words from the note
and is another one without it: so the note, and not what the model knows anyhow, answers. The last kept questions of a
note are held out: never trained with, they are its probes. Where the model writes too few, templates ask instead.

What holds the rest of the model still comes from what is at hand: `others`, notes that stay text (or `GENERAL`, when
there are none), asked about in the same way, questions that nothing answers by telling names apart, and contexts in
which two notes change their numbers. Nothing is right by rule but what the text says; the gate has the last word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.model.prompts import Note
from engine.tiers.lora.asking import ANSWER_TOKENS, Said, Stage, asking, prompt_ids
from engine.tiers.lora.questions import Question, Scene, Subject

if TYPE_CHECKING:
    from engine.model.loading import Loaded

REQUESTS = (
    "Write one short question that the note answers. Reply with the question only.",
    "Ask about the most important detail of the note in one question. Reply with the question only.",
    "Write one question, in other words than those of the note, that it answers. Reply with the question only.",
    "Write a question about who, what, when or where, that the note answers. Reply with the question only.",
)
TEMPLATES = (
    "What do you know about {subject}?",
    "Tell me about {subject}.",
    "What has been said about {subject}?",
    "What is noted about {subject}?",
)
GENERAL = (
    "The library opens at nine and closes at six.",
    "Water boils at a lower temperature on high mountains.",
    "The bus to the station leaves every twenty minutes.",
    "Bread is baked from flour, water, salt and yeast.",
    "The river Rhine flows through Basel and Cologne.",
    "A year has twelve months and fifty-two weeks.",
)
STRANGERS = (
    "Oskar Brandt",
    "Mireille Okafor",
    "the Halvorsen project",
    "Tamsin Yu",
    "the blue folder",
    "Ravi Lindqvist",
)
REFUSALS = re.compile(
    r"\b(unknown|(do not|don't|cannot|can't|did not|didn't) (know|have|find|say|tell|mention)|"
    r"no (information|mention|idea)|not (mentioned|known|specified|provided|sure))\b",
    re.IGNORECASE,
)
WORD = re.compile(r"\w+")
MAX_QUESTION_CHARS = 300
LEAST_SHARED = 0.5  # of the words of an answer that carry meaning, in the note
HELD_OUT_SHARE = 3  # one in so many kept questions of a note is a probe
STOP_WORDS = frozenset(
    WORD.findall(
        "a an and are as at be but by do for from has have he her his i in is it its my no not of on or our she so "
        "that the their they this to was we were what when where which who will with you your yes"
    )
)


@dataclass(frozen=True, slots=True)
class _Asks:
    study: tuple[Question, ...]
    probes: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class SelfStudy:
    """Questions about the notes that `studying` found, with answers that their texts support."""

    _asks: dict[str, _Asks]
    _others: tuple[tuple[Note, Question], ...]
    unasked: tuple[str, ...] = field(default=())  # notes of which the model can be asked nothing that it answers

    def study(self, note: Note) -> Sequence[Question]:
        return self._asks[note.id].study if note.id in self._asks else ()

    def probes(self, note: Note) -> Sequence[Question]:
        return self._asks[note.id].probes if note.id in self._asks else ()

    def only(self, ids: Collection[str]) -> SelfStudy:
        """The questions about these notes alone, and about the others that hold the model still."""
        asks = {id: some for id, some in self._asks.items() if id in ids}
        return SelfStudy(asks, self._others, tuple(id for id in self.unasked if id in ids))

    def unknown(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Question]:
        known = [question for note in notes for question in self.study(note)]
        found = []
        for number in range(count):
            stranger = draw.choice(STRANGERS)
            near = draw.choice(known).text if known and number % 2 else draw.choice(TEMPLATES).format(subject=stranger)
            found.append(Question(_with_stranger(near, stranger)))
        return found

    def scenes(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Scene]:
        if not self._others:
            return []
        found = []
        for _ in range(count):
            note, question = draw.choice(self._others)
            rest = [other for other, _ in draw.sample(self._others, min(4, len(self._others))) if other.id != note.id]
            found.append(Scene((note, *rest), replace(question, right=None)))
        return found

    def conflicts(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Scene]:
        found = []
        for number in range(count if notes else 0):
            note = notes[number % len(notes)]
            asked = self.study(note)
            other = replace(note, id=note.id + "-other", text=_otherwise(draw, note.text))
            if asked and other.text != note.text:
                found.append(Scene((other,), Question(draw.choice(asked).text)))
        return found

    def agrees(self, question: Question, answer: str) -> bool:
        """By the words that carry meaning: those of the right answer, or, where none is known, some of the note's."""
        if question.right is not None:
            right, said = _meant(question.right), _meant(answer)
            return bool(right) and len(right & said) >= LEAST_SHARED * len(right) and _numbers(right) <= said
        return question.note is None or supported(answer, question.note.text)

    def refuses(self, answer: str) -> bool:
        return not answer.strip() or bool(REFUSALS.search(answer))


@dataclass(frozen=True, slots=True)
class Named:
    """A sweep over subjects that someone names, such as the entities of a cube."""

    names: tuple[str, ...]

    def subjects(self) -> Sequence[Subject]:
        return [Subject(name, tuple(one.format(subject=name) for one in TEMPLATES[:3])) for name in self.names]

    def refuses(self, answer: str) -> bool:
        return not answer.strip() or bool(REFUSALS.search(answer))

    def stated(self, subject: Subject, answer: str) -> str:
        return answer if subject.key.lower() in answer.lower() else f"{subject.key}: {answer}"


def studying(
    loaded: Loaded, notes: Sequence[Note], others: Sequence[Note] = (), *, answer_tokens: int = ANSWER_TOKENS
) -> Generator[Stage, None, SelfStudy]:
    """Let the model ask about the notes, and about others, which hold it still."""
    rest = tuple(others) or tuple(Note(f"general-{number}", 1, text) for number, text in enumerate(GENERAL))
    asks = yield from _kept(loaded, notes, answer_tokens)
    held = yield from _kept(loaded, rest, answer_tokens)
    found = {id: _shared_out(questions) for id, questions in asks.items()}
    about = tuple((note, question) for note in rest for question in held.get(note.id, ()))
    return SelfStudy(found, about, tuple(note.id for note in notes if note.id not in found))


def supported(answer: str, text: str) -> bool:
    """Whether a text supports an answer: it has half of its words that carry meaning, and all its numbers."""
    said, there = _meant(answer), _meant(text)
    return bool(said) and len(said & there) >= LEAST_SHARED * len(said) and _numbers(said) <= there


def _kept(
    loaded: Loaded, notes: Sequence[Note], answer_tokens: int
) -> Generator[Stage, None, dict[str, list[Question]]]:
    """Questions by note that the model answers with the note in its context, and not the same without."""
    requests = [(note, request) for note in notes for request in REQUESTS]
    prompts = [prompt_ids(loaded, request, (note,)) for note, request in requests]
    written = yield from asking(loaded, prompts, answer_tokens=answer_tokens, message="the model writes questions")
    texts: dict[str, dict[str, Note]] = {note.id: {} for note in notes}
    for (note, _), said in zip(requests, written, strict=True):
        if question := _question_in(said):
            texts[note.id][question] = note
    for note in notes:
        for template in TEMPLATES:
            texts[note.id].setdefault(template.format(subject=_subject(note.text)), note)
    candidates = [(note, text) for some in texts.values() for text, note in some.items()]
    with_note = yield from asking(
        loaded,
        [prompt_ids(loaded, text, (note,)) for note, text in candidates],
        answer_tokens=answer_tokens,
        message="the model answers its questions",
    )
    told = [
        (note, text, said.text)
        for (note, text), said in zip(candidates, with_note, strict=True)
        if said.whole and not REFUSALS.search(said.text) and supported(said.text, note.text)
    ]
    without = yield from asking(
        loaded,
        [prompt_ids(loaded, text) for _, text, _ in told],
        answer_tokens=answer_tokens,
        message="the model answers without the note",
    )
    kept: dict[str, list[Question]] = {}
    for (note, text, answer), bare in zip(told, without, strict=True):
        if answer != bare.text:
            kept.setdefault(note.id, []).append(Question(text, note, answer))
    return kept


def _question_in(said: Said) -> str | None:
    """The question that a reply consists of, if it does."""
    lines = [line.strip(" \"'*-") for line in said.text.splitlines() if line.strip()]
    if not said.whole or len(lines) != 1 or not lines[0].endswith("?") or len(lines[0]) > MAX_QUESTION_CHARS:
        return None
    return lines[0]


def _shared_out(questions: Sequence[Question]) -> _Asks:
    """Some to train with, and one in `HELD_OUT_SHARE`, at least one, held out; a single one has to do for both."""
    if len(questions) == 1:
        return _Asks(tuple(questions), tuple(questions))
    held = max(1, len(questions) // HELD_OUT_SHARE)
    return _Asks(tuple(questions[held:]), tuple(questions[:held]))


def _subject(text: str) -> str:
    """What a note seems to be about: its first name (words in capitals), else its first words."""
    named = re.search(r"\b[A-Z]\w+(?: [A-Z]\w+)*", text[1:])
    return named.group() if named else " ".join(WORD.findall(text)[:4])


def _with_stranger(question: str, stranger: str) -> str:
    """The question, about a stranger where it names somebody."""
    changed = re.sub(r"(?<=\s)[A-Z]\w+(?: [A-Z]\w+)*", stranger, question)
    return changed if changed != question or stranger in question else f"{question.rstrip('?. ')} of {stranger}?"


def _otherwise(draw: random.Random, text: str) -> str:
    """The text with other numbers in it; without any, unchanged."""
    return re.sub(r"\d", lambda found: str((int(found.group()) + draw.randint(1, 9)) % 10), text)


def _meant(text: str) -> frozenset[str]:
    return frozenset(word.lower() for word in WORD.findall(text)) - STOP_WORDS


def _numbers(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words if word[0].isdigit())
