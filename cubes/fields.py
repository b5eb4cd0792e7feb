"""Reading plain JSON strictly: each field is there, of its type and within its bounds, and no field is there besides.

Knows nothing of cubes: `records` and `manifest` say which fields there are. What comes from a file is hostile until it
has been through here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from cubes.canonical import json_bytes
from cubes.errors import CubeError, MalformedCube, TooLargeBundle
from cubes.limits import MAX_COUNT, MAX_ID_CHARS, MAX_JSON_TOKENS, MAX_METADATA_CHARS, MAX_METADATA_DEPTH

FIRST_YEAR, LAST_YEAR = 2, 9998  # a day beside the calendar's ends, so that no time zone falls off them

_SMALL_CHARS = 250_000  # JSON of this size stays under 10 MB whatever is in it
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", re.ASCII)
_ID = re.compile(rf"[!-~]{{1,{MAX_ID_CHARS}}}")
E_ = TypeVar("E_", bound=StrEnum)


def parse(raw: bytes, depth: int) -> object:
    """The value of JSON text: no key twice, no NaN, nested at most `depth` deep.

    Raises:
        MalformedCube: it is not such JSON.
        TooLargeBundle: it has too many parts.
    """
    try:
        text = raw.decode("utf-8")
        check_size(text, depth)
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except CubeError:
        raise
    except UnicodeDecodeError as error:
        raise MalformedCube(f"byte {error.start} is no UTF-8") from error
    except json.JSONDecodeError as error:
        raise MalformedCube(f"it is no JSON at character {error.pos}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedCube("it is no JSON that can be read") from error


def check_size(text: str, depth: int) -> None:
    """Refuse JSON text that is nested deeper, or would take far more memory as objects than as text.

    Raises:
        MalformedCube, TooLargeBundle: it is.
    """
    if len(text) <= _SMALL_CHARS and text.count("{") + text.count("[") <= depth:
        return
    deep = 0
    for number, token in enumerate(_TOKENS.finditer(text)):
        mark = token[0][0]
        if mark in "[{":
            deep += 1
            if deep > depth:
                raise MalformedCube(f"JSON is nested more than {depth} deep")
        elif mark in "]}":
            deep -= 1
        if number >= MAX_JSON_TOKENS:
            raise TooLargeBundle(f"JSON has more than {MAX_JSON_TOKENS} strings and brackets")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedCube("a key stands twice in one JSON object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise MalformedCube(f"{name} is no JSON number")


def mapping(value: object, what: str, names: AbstractSet[str]) -> Mapping[str, Any]:
    """`value` as an object that has the fields `names` and no others."""
    if not isinstance(value, dict):
        raise MalformedCube(f"{what} is no JSON object")
    if value.keys() != names:
        lacking = sorted(names - value.keys())
        if lacking:
            raise MalformedCube(f"{what} lacks the field {lacking[0]}")
        raise MalformedCube(f"{what} has a field that version 1 does not know: {_shown(min(value.keys() - names))}")
    return value


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 40 else f"{name[:40]}…")


def array(value: object, what: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedCube(f"{what} is no list")
    if len(value) > most:
        raise TooLargeBundle(f"{what} has {len(value)} items: at most {most} are allowed")
    return value


def text(value: object, what: str, most: int, *, empty: bool = False) -> str:
    """Text that a person can read: no control characters but tabs and line ends."""
    if not isinstance(value, str):
        raise MalformedCube(f"{what} is no text")
    if len(value) > most:
        raise TooLargeBundle(f"{what} has {len(value)} characters: at most {most} are allowed")
    if not empty and (not value or value.isspace()):
        raise MalformedCube(f"{what} is empty")
    found = _FORBIDDEN.search(value)
    if found:
        code = ord(found[0])
        named = "a lone surrogate" if code >= 0xD800 else "a control character"
        raise MalformedCube(f"{what} holds {named} (U+{code:04X}) at position {found.start()}")
    return value


def maybe_text(value: object, what: str, most: int) -> str | None:
    return None if value is None else text(value, what, most)


def identifier(value: object, what: str) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise MalformedCube(f"{what} is no id: 1 to {MAX_ID_CHARS} visible ASCII characters")
    return value


def whole(value: object, what: str, least: int = 0, most: int = MAX_COUNT) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise MalformedCube(f"{what} is no whole number from {least} to {most}")
    return value


def number(value: object, what: str, most: float) -> float:
    """A finite number above 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= most:
        raise MalformedCube(f"{what} is no number above 0 and up to {most:.0f}")
    if not math.isfinite(value):
        raise MalformedCube(f"{what} is not finite")
    return float(value)


def flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise MalformedCube(f"{what} is neither true nor false")
    return value


def choice(value: object, what: str, kinds: type[E_]) -> E_:
    if isinstance(value, str):
        for kind in kinds:
            if kind.value == value:
                return kind
    raise MalformedCube(f"{what} is none of {', '.join(kinds)}")


def instant(value: object, what: str) -> datetime:
    """ISO 8601 in UTC with microseconds: `2026-03-02T09:00:00.000000+00:00`."""
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        try:
            found = datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            found = None
        if found is not None and FIRST_YEAR <= found.year <= LAST_YEAR:
            return found
    raise MalformedCube(f"{what} is no instant such as 2026-03-02T09:00:00.000000+00:00")


def maybe_instant(value: object, what: str) -> datetime | None:
    return None if value is None else instant(value, what)


def metadata(value: object, what: str) -> str | None:
    """None, or text that is the canonical form of a JSON object."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise MalformedCube(f"{what} is no text")
    if len(value) > MAX_METADATA_CHARS:
        raise TooLargeBundle(f"{what} has {len(value)} characters: at most {MAX_METADATA_CHARS} are allowed")
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedCube(f"{what} holds a lone surrogate at position {error.start}") from error
    try:
        found = parse(raw, MAX_METADATA_DEPTH)
    except CubeError as error:
        raise type(error)(f"{what}: {error}") from error
    if not isinstance(found, dict) or json_bytes(found) != raw:
        raise MalformedCube(f"{what} is not the canonical form of a JSON object")
    return value
