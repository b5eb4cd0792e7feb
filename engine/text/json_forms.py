"""Which JSON a model is to write, said once: as a schema for a server, as what is checked, as what is written by hand.

A form is a small closed shape: objects whose fields all stand there in order, lists and texts with a bound, one of some
words, a whole number of a range. `parse` reads a reply strictly: what is not of the form is refused, never mended, but
for what models put around it (a thought, a fence, a sentence). Nothing here knows what the values mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

THOUGHT_END = "</think>"
MAX_REPLY_CHARS = 400_000  # what is longer is no answer


@dataclass(frozen=True, slots=True)
class Text:
    """One line or more, of at most so many characters; `least` 1: not empty."""

    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Word:
    """One of some words."""

    among: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number, both ends included; neither is negative."""

    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class List:
    item: Form
    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Object:
    fields: tuple[tuple[str, Form], ...]


Form = Text | Word | Number | List | Object


class NotOfForm(Exception):
    """A reply that is not of the form. The message says where, and quotes nothing."""


def schema(form: Form) -> dict[str, Any]:
    """The JSON schema of a form, in the words that servers with strict schemas take."""
    match form:
        case Text():
            return {"type": "string"}
        case Word(among):
            return {"type": "string", "enum": list(among)}
        case Number():
            return {"type": "integer"}
        case List(item):
            return {"type": "array", "items": schema(item)}
        case Object(fields):
            return {
                "type": "object",
                "properties": {name: schema(each) for name, each in fields},
                "required": [name for name, _ in fields],
                "additionalProperties": False,
            }


def parse(form: Form, reply: str) -> Any:
    """The value that a reply holds.

    Raises:
        NotOfForm: it holds none, or one that is not of the form.
    """
    if len(reply) > MAX_REPLY_CHARS:
        raise NotOfForm(f"it has more than {MAX_REPLY_CHARS} characters")
    for text in (reply, reply.rpartition(THOUGHT_END)[2]):
        start, end = text.find("{"), text.rfind("}")
        try:
            value = json.loads(text[start : end + 1])
        except (ValueError, RecursionError):
            continue
        check(form, value, "it")
        return value
    raise NotOfForm("there is no JSON object in it")


def check(form: Form, value: Any, where: str) -> None:
    """Refuse a value that is not of the form. Raises `NotOfForm`."""
    match form:
        case Text(most, least):
            if not isinstance(value, str) or not least <= len(value.strip()) or len(value) > most:
                raise NotOfForm(f"{where} is no text of {least} to {most} characters")
        case Word(among):
            if value not in among or not isinstance(value, str):
                raise NotOfForm(f"{where} is none of {', '.join(among)}")
        case Number(lowest, highest):
            if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
                raise NotOfForm(f"{where} is no whole number from {lowest} to {highest}")
        case List(item, most, least):
            if not isinstance(value, list) or not least <= len(value) <= most:
                raise NotOfForm(f"{where} is no list of {least} to {most} items")
            for number, each in enumerate(value):
                check(item, each, f"{where}[{number}]")
        case Object(fields):
            if not isinstance(value, dict) or set(value) != {name for name, _ in fields}:
                raise NotOfForm(f"{where} is no object with {', '.join(name for name, _ in fields)}")
            for name, each in fields:
                check(each, value[name], name)
