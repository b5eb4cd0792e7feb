"""JSON in files of any size: one object after the other, each of bounded size, and what a file looks like at first.

A file that is no JSON gives one error that names it. Numbers stay numbers; a byte order mark is passed over.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, BinaryIO

import ijson

from engine.errors import Invalid, TooLarge
from engine.formats.source import Source

MAX_OBJECT_BYTES = 256 << 20  # one conversation with everything pasted into it; an export is an array of such
MAX_LINE_BYTES = 64 << 20
CHUNK_BYTES = 64 * 1024
MAX_DEPTH = 200  # conversations nest ten deep; the parser's own cost grows with the square of the depth
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
QUOTE = ord('"')
_TOKENS = re.compile(rb'[\[{]++|[\]}]++|"(?:[^"\\]|\\[\s\S])*+("?)(\\?)')
_REST_OF_STRING = re.compile(rb'(?:[^"\\]|\\[\s\S])*+')


@dataclass(slots=True)
class Shape:
    """What a file begins with: `[`, `{`, or something else; the keys of the objects at each place in it."""

    begins: str = ""
    values: int = 0  # whole values at the top, as far as was looked
    keys: dict[str, set[str]] = field(default_factory=dict)

    def has(self, place: str, *names: str) -> bool:
        return set(names) <= self.keys.get(place, set())

    @property
    def is_lines(self) -> bool:
        """Whether several objects follow one another, as in a file of one object a line."""
        return self.values > 1


def shape(head: bytes) -> Shape:
    """Look at the beginning of a file; it need not be JSON, and may end anywhere."""
    head = head.removeprefix(BYTE_ORDER_MARK)
    found = Shape(begins=head.lstrip()[:1].decode("ascii", "replace"))
    if found.begins not in ("{", "[") or _Nesting().is_too_deep(head):
        return found
    depth = 0
    try:
        for place, event, value in ijson.parse(io.BytesIO(head), multiple_values=True):
            if event == "map_key":
                found.keys.setdefault(place, set()).add(value)
            elif event in ("start_map", "start_array"):
                depth += 1
                found.values += depth == 1
            elif event in ("end_map", "end_array"):
                depth -= 1
    except (ijson.JSONError, ValueError):
        pass  # it ends where the head does, or it is no JSON: whoever reads it says so
    return found


@dataclass(slots=True)
class _Nesting:
    """How deep the brackets are, followed through the chunks of a text before a parser sees them."""

    depth: int = 0
    inside: bool = False  # of a string
    escaped: bool = False  # the last chunk ended with a backslash

    def is_too_deep(self, data: bytes) -> bool:
        at = self._end_of_string(data) if self.inside and data else 0
        for token in _TOKENS.finditer(data, at):
            first = data[token.start()]
            if first == QUOTE:
                self.inside, self.escaped = not token[1], bool(token[2])
            elif first in b"[{":
                self.depth += token.end() - token.start()
                if self.depth > MAX_DEPTH:
                    return True
            else:
                self.depth -= token.end() - token.start()
        return False

    def _end_of_string(self, data: bytes) -> int:
        found = _REST_OF_STRING.match(data, 1 if self.escaped else 0)
        assert found is not None
        at = found.end()
        self.inside = at == len(data) or data[at] != QUOTE
        self.escaped = self.inside and at < len(data)
        return len(data) if self.inside else at + 1


class _Rationed:
    """A stream that refuses to give more than one object may have, and what nests too deep."""

    def __init__(self, stream: BinaryIO, called: str) -> None:
        self._stream, self._called, self._left, self._begun = stream, called, MAX_OBJECT_BYTES, False
        self._nesting = _Nesting()

    def renew(self) -> None:
        self._left = MAX_OBJECT_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(CHUNK_BYTES if size < 0 else size)
        if not self._begun:
            self._begun, data = True, data.removeprefix(BYTE_ORDER_MARK)
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(f"{self._called} has an object of more than {MAX_OBJECT_BYTES >> 20} MiB")
        if self._nesting.is_too_deep(data):
            raise TooLarge(
                f"{self._called} is not such JSON as a program writes: it is nested more than {MAX_DEPTH} deep"
            )
        return data


def items(source: Source, member: str, place: str = "item") -> Iterator[Any]:
    """The values at `place` (as ijson names it), one after the other; the memory taken is that of one.

    Raises:
        Invalid: it is no JSON, or breaks off.
        TooLarge: one value is too large.
    """
    called = source.called(member)
    with source.open(member) as stream:
        rationed = _Rationed(stream, called)
        try:
            for value in ijson.items(rationed, place):
                yield _plain(value)
                rationed.renew()
        except (ijson.JSONError, ValueError, OverflowError) as error:
            raise Invalid(f"{called} is not JSON: {_line(error)}") from error


def whole(source: Source, member: str) -> Any:
    """The one value that a small file holds.

    Raises:
        Invalid, TooLarge: see `items`.
    """
    found = list(itertools.islice(items(source, member, ""), 1))
    if not found:
        raise Invalid(f"{source.called(member)} is empty")
    return found[0]


def lines(source: Source, member: str) -> Iterator[tuple[int, Any]]:
    """The values of a file of one a line, with their line numbers; blank lines are passed over.

    Raises:
        Invalid: a line that is no JSON, by its number.
        TooLarge: a line that is too long.
    """
    with source.open(member) as stream:
        for number in itertools.count(1):
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if len(line) > MAX_LINE_BYTES:
                raise TooLarge(f"line {number} of {source.called(member)} is longer than {MAX_LINE_BYTES >> 20} MiB")
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
                raise Invalid(f"line {number} of {source.called(member)} is not JSON: {why}") from error


def _plain(value: Any) -> Any:
    """With floats as JSON libraries give them: the parser takes whole numbers of any size only beside decimals."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _line(error: Exception) -> str:
    """The first line of what the parser says: the ones behind it quote the file."""
    text = error.args[0] if error.args else ""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return text.strip().partition("\n")[0] or "it breaks off"
