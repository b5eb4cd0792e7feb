"""What can be asked about memories: the part of distilling that depends on what memories say, not on the model.

A maker of questions (`Questions`) knows how to ask about a note, in phrasings to train with and in others that are
never trained with, what nobody was told, and other contexts to which an adapter must leave the model as it is.
`engine.tiers.lora.self_study` has the general one, in which the model itself asks. Nothing here knows a tensor.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.model.prompts import Note


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the memory that answers it, and the right answer where it is known without asking a model."""

    text: str
    note: Note | None = None
    right: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A question with other notes in the context, which alone decide the answer."""

    notes: tuple[Note, ...]
    question: Question


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that an adapter may know, in several phrasings. `key` names it; it is the same in every sweep."""

    key: str
    phrasings: tuple[str, ...]


class Questions(Protocol):
    def study(self, note: Note) -> Sequence[Question]:
        """Questions that the note answers, to train with."""
        ...

    def probes(self, note: Note) -> Sequence[Question]:
        """Questions that the note answers, in phrasings that `study` never gives."""
        ...

    def unknown(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Question]:
        """Questions that none of the notes answers; about half are near to one (the same name, another matter)."""
        ...

    def scenes(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Scene]:
        """Questions over notes that have nothing to do with these."""
        ...

    def conflicts(self, draw: random.Random, notes: Sequence[Note], count: int) -> Sequence[Scene]:
        """Questions of `study` over notes that say something else than these do; the context is to win."""
        ...

    def agrees(self, question: Question, answer: str) -> bool:
        """Whether the answer is right by `question.right`, or may be right where that is not known."""
        ...

    def refuses(self, answer: str) -> bool:
        """Whether the answer says that nothing is known."""
        ...


class Sweep(Protocol):
    """What an adapter is asked to find out what it knows."""

    def subjects(self) -> Iterable[Subject]: ...

    def refuses(self, answer: str) -> bool: ...

    def stated(self, subject: Subject, answer: str) -> str:
        """The text of a memory that says so."""
        ...
