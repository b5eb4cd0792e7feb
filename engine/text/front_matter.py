"""Front matter: the YAML between two lines `---` at the head of a note, apart from the note's own words.

It comes from files that anybody may have written: it is read as plain data (no tags that build objects), within bounds
of size, depth and number of values, and without aliases, which could make little text say very much. What cannot be
read so is no front matter: it stays part of the text. Nothing here knows what its fields mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import yaml

MAX_CHARS = 32_768
MAX_DEPTH = 16
MAX_VALUES = 2_000
MAX_DIGITS = 300  # a longer number is kept as text: other programs could not read it

# PyYAML lets errors of its own code through for tags that do not fit their values.
_UNREADABLE = (yaml.YAMLError, ValueError, OverflowError, TypeError, LookupError, AttributeError)
_BLOCK = re.compile(r"---[ \t]*\r?\n(?P<yaml>(?s:.*?))(?<=\n)(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")


@dataclass(frozen=True, slots=True)
class Parted:
    """A text, parted into its front matter and the rest; `broken` says why a block at its head was not read."""

    body: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    broken: str | None = None


def part(text: str) -> Parted:
    """The front matter of `text` as JSON values, and the text behind it, verbatim.

    Dates become ISO 8601 text. A block that holds no mapping is not front matter, but two lines of dashes.
    """
    found = _BLOCK.match(text[: MAX_CHARS + 16]) if text.startswith("---") else None
    if found is None:
        return Parted(text)
    try:
        fields = _read(found["yaml"])
    except _UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 2})" if mark is not None else ""
        return Parted(text, broken=f"its front matter cannot be read{where}")
    if fields is None:
        return Parted(text[found.end() :])
    return Parted(text[found.end() :], fields) if isinstance(fields, dict) else Parted(text)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # it comes without types
    """YAML's plain data, bounded."""

    depth = 0
    values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        self.depth += 1
        self.values += 1
        if self.depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise yaml.YAMLError("it is too deep or too large")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _read(text: str) -> Any:
    loader = _Loader(text)
    try:
        return _plain(loader.get_single_data())
    finally:
        loader.dispose()


def _plain(value: Any) -> Any:
    """What JSON holds. Raises ValueError for text that is none."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 10**MAX_DIGITS else str(value)
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, str):
        value.encode("utf-8")  # refuses lone surrogates
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {_plain(key) if isinstance(key, str) else str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set):
        return sorted(str(_plain(item)) for item in value)
    raise ValueError(f"a {type(value).__name__} is no text")
