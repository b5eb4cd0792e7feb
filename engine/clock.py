"""Time and ids, injected: everything that reads a clock or draws a random id gets it from here."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Protocol

# Crockford's base 32: no I, L, O, U, so that an id survives being read aloud or retyped.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
TIME_CHARS = 10  # 50 bits of milliseconds: until the year 37,000
RANDOM_CHARS = 10  # 50 random bits within one millisecond of one store


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...


class Ids(Protocol):
    """Where new ids come from."""

    def new(self, prefix: str) -> str:
        """A new id, `<prefix>_<20 characters>`, sortable by time of creation."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class TimeOrderedIds:
    """Ids of 10 time characters and 10 random ones, in the manner of ULID."""

    def new(self, prefix: str) -> str:
        value = (time.time_ns() // 1_000_000) << (5 * RANDOM_CHARS) | secrets.randbits(5 * RANDOM_CHARS)
        chars = []
        for _ in range(TIME_CHARS + RANDOM_CHARS):
            value, index = divmod(value, 32)
            chars.append(ALPHABET[index])
        return f"{prefix}_{''.join(reversed(chars))}"
