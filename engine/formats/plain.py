"""Our own plain forms: one JSON object a line (`jsonl`), and an array of such objects (`json`).

Objects are handed on as they are: what is wrong with one is said when it is taken in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from engine.errors import Invalid
from engine.formats.json_text import items, lines, shape
from engine.formats.records import Found, Report
from engine.formats.source import Source, only

ENDINGS = (".jsonl", ".ndjson")
PLACES = ("memories", "records", "items")  # where an object keeps its list


def is_jsonl(source: Source) -> bool:
    if len(source.members) != 1:
        return False
    member = source.members[0]
    found = shape(source.head(member))
    if found.begins != "{":
        return False
    return member.lower().endswith(ENDINGS) or found.is_lines or found.has("", "content")


def read_jsonl(source: Source, report: Report) -> Iterator[Found]:
    member = only(source)
    for number, value in lines(source, member):
        if not isinstance(value, dict):
            raise Invalid(f"line {number} of {source.called(member)} is not a JSON object")
        yield Found(f"line {number}", value)


def write_jsonl(records: Iterable[Mapping[str, Any]], report: Report) -> Iterator[str]:
    """The lines of a file that `read_jsonl` reads."""
    for record in records:
        yield json.dumps(record, ensure_ascii=False) + "\n"


def is_json(source: Source) -> bool:
    if len(source.members) != 1:
        return False
    found = shape(source.head(source.members[0]))
    return _place(found.begins, found.keys) is not None and not found.is_lines


def read_json(source: Source, report: Report) -> Iterator[Found]:
    member = only(source)
    found = shape(source.head(member))
    place = _place(found.begins, found.keys) or "item"
    if place == "item" and found.begins != "[":
        raise Invalid(f"{source.called(member)} holds no JSON array of objects that have a content")
    for number, value in enumerate(items(source, member, place), 1):
        if not isinstance(value, dict):
            raise Invalid(f"item {number} of {source.called(member)} is not a JSON object")
        yield Found(f"item {number}", value)
    if place != "item":
        for name in sorted(found.keys.get("", set()) - {place.partition(".")[0]}):
            report.leave(f"field '{name}'", "it stands beside the memories and belongs to none", source.called(member))


def _place(begins: str, keys: Mapping[str, set[str]]) -> str | None:
    places = ["item"] if begins == "[" else [f"{name}.item" for name in PLACES]
    return next((place for place in places if "content" in keys.get(place, ())), None)
