"""Canonical bytes and digests: equal values have equal bytes, on every machine and in every release.

The form is JSON in the manner of RFC 8785 (JSON Canonicalization Scheme), but keys are sorted by code point and numbers
are written as Python writes them (they must be finite; headers hold whole numbers only). There is no insignificant
white space, text is UTF-8 in Unicode normal form as given (never renormalised: a memory is kept verbatim). Dates are
ISO 8601 in UTC with microseconds, so that equal instants are equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum

from cubes.errors import MalformedCube

DIGEST_PREFIX = "sha256:"


def plain(value: object) -> object:
    """Reduce dataclasses, enums, datetimes, mappings and sequences to what JSON holds.

    Raises:
        MalformedCube: a float that is not finite, a naive datetime, or a type that has no canonical form.
    """
    if value is None or (isinstance(value, (bool, int)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MalformedCube(f"{value} has no canonical form: numbers must be finite")
        return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise MalformedCube(f"{value.isoformat()} has no time zone: instants are kept in UTC")
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(plain(item)) for item in value)
    raise MalformedCube(f"a {type(value).__name__} has no canonical form")


def canonical_bytes(value: object) -> bytes:
    """The canonical UTF-8 JSON of `value`.

    Raises:
        MalformedCube: as `plain`, or text with a lone surrogate, which UTF-8 cannot hold.
    """
    return json_bytes(plain(value))


def json_bytes(value: object) -> bytes:
    """The canonical bytes of a value that is plain already.

    Raises:
        MalformedCube: a number that is not finite, or text with a lone surrogate, which UTF-8 cannot hold.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except ValueError as error:
        raise MalformedCube("a number has no canonical form: it must be finite, and of a sane length") from error
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedCube(f"text with a lone surrogate at position {error.start} cannot be kept") from error


def digest(value: object) -> str:
    """SHA-256 of the canonical bytes (of raw bytes, as they are), as `sha256:<hex>`."""
    raw = value if isinstance(value, bytes) else canonical_bytes(value)
    return DIGEST_PREFIX + hashlib.sha256(raw).hexdigest()
