"""What a format reads: plain records for `engine.transfer`, and the report of what could not be carried.

A record is an object as an import takes it in; `where` says in the words of the file where it stood. What a format
leaves out it counts here, by what it was and why, with the first places: nothing is dropped without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cubes import KINDS
from engine.operations import MAX_TAG_CHARS, MAX_TAGS
from engine.text.origins import ABOUT, FROM, ID

PLACES_SHOWN = 5  # of each sort of thing that could not be carried

Record = dict[str, Any]


class Found(NamedTuple):
    where: str
    record: Record


@dataclass(slots=True)
class Left:
    """One sort of thing that was not carried."""

    what: str
    why: str
    count: int = 0
    where: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """What could not be carried."""

    _left: dict[tuple[str, str], Left] = field(default_factory=dict)

    def leave(self, what: str, why: str, where: str, count: int = 1) -> None:
        entry = self._left.setdefault((what, why), Left(what, why))
        entry.count += count
        if len(entry.where) < PLACES_SHOWN:
            entry.where.append(where)

    @property
    def left(self) -> list[Left]:
        return list(self._left.values())


def origin(program: str, identity: object = None, about: str | None = None, **fields: Any) -> Record:
    """The metadata of a record: which thing of which program it is, and what that said besides."""
    kept = {name: value for name, value in fields.items() if value not in (None, "", [], {})}
    return {
        FROM: program,
        **({} if identity is None else {ID: str(identity)}),
        **({} if about is None else {ABOUT: about}),
        **({"fields": kept} if kept else {}),
    }


def rest(item: Mapping[str, Any], *known: str) -> Record:
    """The fields of `item` that are not among the known ones."""
    return {str(name): value for name, value in item.items() if name not in known}


def kind_or_none(value: object) -> str | None:
    """The kind that a foreign word names, if it is one of ours."""
    word = value.strip().lower() if isinstance(value, str) else None
    return word if word in KINDS else None


def said(value: object) -> str | None:
    """The text, if it is one with something in it."""
    return value if isinstance(value, str) and value.strip() else None


def objects(value: object) -> Iterator[Record]:
    """The objects of a list; nothing for what is no list."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def labels(value: object) -> list[str]:
    """Tags out of a list or a text with commas, each once."""
    if isinstance(value, str):
        value = re.split(r"[,;|]", value)
    if not isinstance(value, (list, tuple)):
        return []
    return list(dict.fromkeys(str(item).strip() for item in value if str(item).strip()))


def instant(value: object) -> str | None:
    """A time in the forms that programs write: seconds since 1970 (or milliseconds), or ISO 8601; None: it is none."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        seconds = value / 1000 if abs(value) > 1e11 else value
        try:
            return datetime.fromtimestamp(seconds, UTC).isoformat()
        except (ValueError, OverflowError, OSError):
            return None
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return moment.isoformat()
    return None


def record(content: str, metadata: Record | None = None, **fields: Any) -> Record:
    """A record; fields that are None or empty are left out, and tags that no memory may have go into the metadata."""
    kept = {name: value for name, value in fields.items() if value not in (None, "", [], (), {})}
    tags = kept.get("tags", [])
    fitting = [tag for tag in tags if len(tag) <= MAX_TAG_CHARS][:MAX_TAGS]
    if len(fitting) < len(tags):
        kept["tags"] = fitting
        more = {"tags": [tag for tag in tags if tag not in fitting]}
        metadata = {**(metadata or {}), "fields": {**(metadata or {}).get("fields", {}), **more}}
    return {"content": content, **kept, **({"metadata": metadata} if metadata else {})}
