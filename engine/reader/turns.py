"""Turns as a reader model is given them: what it may see, in windows that fit, as data between its instructions.

Pure. Only what people and their assistants said is read: instructions to an assistant (system turns) and what tools
gave back are not statements of anybody in the conversation. Recalled memories and likely secrets are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import groupby

from cubes import Kind, Memory, Origin
from engine.reader.secrets import find_secrets

READ_ROLES = ("user", "assistant")
WINDOW_TURNS = 20
WINDOW_CHARS = 8_000
CONTEXT_TURNS = 3  # before a window, by which its first turns are understood
SHOWN_CHARS = 4_000  # of one turn: what is longer is mostly pasted


@dataclass(frozen=True)
class Said:
    """One turn. `at` is what its relative times count from; `dated`: the caller said when it was."""

    memory: Memory

    @property
    def id(self) -> str:
        return self.memory.id

    @property
    def speaker(self) -> str:
        about = self.memory.descriptive
        return about.actor or about.role or "user"

    @property
    def at(self) -> datetime:
        return self.memory.descriptive.occurred_at or self.memory.descriptive.created_at

    @property
    def dated(self) -> bool:
        return self.memory.descriptive.occurred_at is not None

    @cached_property
    def text(self) -> str:
        text = self.memory.content
        return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + " […]"


@dataclass(frozen=True, slots=True)
class Window:
    """Turns that are read together, numbered from 1, and those before them."""

    turns: tuple[Said, ...]
    before: tuple[Said, ...] = field(default=())

    def halves(self) -> tuple[Window, Window]:
        """Two windows of it. To be called for several turns."""
        middle = len(self.turns) // 2
        first, second = self.turns[:middle], self.turns[middle:]
        return Window(first, self.before), Window(second, (*self.before, *first)[-CONTEXT_TURNS:])


def is_read(memory: Memory) -> bool:
    """Whether statements are drawn from a memory: it is a turn of a person or an assistant."""
    about = memory.descriptive
    return memory.kind is Kind.MESSAGE and about.role in READ_ROLES and about.origin is not Origin.RETRIEVAL


def may_be_sent(memory: Memory) -> bool:
    """Whether a turn holds nothing that looks like a key or a password."""
    return next(find_secrets(memory.content), None) is None


def windows(memories: Sequence[Memory]) -> Iterator[Window]:
    """Turns in windows, conversation by conversation, in the order given."""
    for _, group in groupby(memories, key=lambda memory: memory.descriptive.session):
        turns = [Said(memory) for memory in group]
        start = 0
        while start < len(turns):
            end, chars = start, 0
            while end < len(turns) and end - start < WINDOW_TURNS:
                chars += len(turns[end].text)
                if chars > WINDOW_CHARS and end > start:
                    break
                end += 1
            yield Window(tuple(turns[start:end]), tuple(turns[max(0, start - CONTEXT_TURNS) : start]))
            start = end


def shown(window: Window) -> str:
    """The turns as lines of JSON: nothing that a turn says can look like the end of it, or like an instruction of ours.

    Those before have no number: nothing is to be drawn from them.
    """
    lines = [_line(said, None) for said in window.before]
    lines += [_line(said, number) for number, said in enumerate(window.turns, 1)]
    return "\n".join(lines)


def _line(said: Said, number: int | None) -> str:
    told = {"turn": number if number is not None else "before", "speaker": said.speaker, "at": f"{said.at:%A %Y-%m-%d}"}
    return json.dumps({**told, "says": said.text}, ensure_ascii=False)
