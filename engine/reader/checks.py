"""What a request to remember may hold: bounds, characters, dates. Everything is checked before anything is read.

Messages name the place in the request and the remedy, and never repeat content.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from cubes import Kind
from engine.errors import Invalid, TooLarge
from engine.operations import (
    MAX_CONTENT_CHARS,
    MAX_IDS,
    MAX_MESSAGES,
    MAX_SOURCE_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TURN_CHARS,
    Remember,
    Turn,
)

ROLES = ("user", "assistant", "system", "tool")
MAX_NAME_CHARS = 256
MAX_CONVERSATION_CHARS = 20_000_000  # all turns together: what one transaction is meant to hold
MAX_EXPIRES_DAYS = 36_500.0  # a century; longer is for ever
EARLIEST = datetime(1000, 1, 1, tzinfo=UTC)  # room on both sides for relative times and time zones
LATEST = datetime(3000, 1, 1, tzinfo=UTC)

_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def check(request: Remember) -> None:
    """Refuse what breaks a rule.

    Raises:
        Invalid: what is wrong and where, and what to do instead.
        TooLarge: a bound was passed.
    """
    if (request.content is None) == (not request.messages):
        both = request.content is not None
        raise Invalid(f"{'both' if both else 'neither'} of content and messages given: give exactly one")
    if request.content is not None:
        check_text(request.content, "content", MAX_CONTENT_CHARS)
    else:
        _check_messages(request)
    if len(request.tags) > MAX_TAGS:
        raise TooLarge(f"{len(request.tags)} tags: at most {MAX_TAGS} are allowed")
    for number, tag in enumerate(request.tags):
        check_text(tag, f"tags[{number}]", MAX_TAG_CHARS)
    if request.source is not None:
        check_text(request.source, "source", MAX_SOURCE_CHARS)
    if request.occurred_at is not None:
        check_instant(request.occurred_at, "occurred_at")
    if len(request.supersedes) > MAX_IDS:
        raise TooLarge(f"{len(request.supersedes)} ids in supersedes: at most {MAX_IDS} are allowed")
    if request.expires_in_days is not None:
        _check_expiry(request.expires_in_days)


def _check_messages(request: Remember) -> None:
    if len(request.messages) > MAX_MESSAGES:
        raise TooLarge(f"{len(request.messages)} messages: at most {MAX_MESSAGES} at once, send them in parts")
    if request.kind not in (None, Kind.MESSAGE):
        raise Invalid(f"messages are kept as kind message, not {request.kind}: leave kind out, or send content")
    for number, turn in enumerate(request.messages):
        _check_turn(turn, f"messages[{number}]")
    total = sum(len(turn.content) for turn in request.messages)
    if total > MAX_CONVERSATION_CHARS:
        raise TooLarge(
            f"messages have {total} characters: at most {MAX_CONVERSATION_CHARS} at once, send them in parts"
        )


def _check_turn(turn: Turn, where: str) -> None:
    if turn.role not in ROLES:
        raise Invalid(f"{where}.role is unknown: use one of {', '.join(ROLES)}")
    check_text(turn.content, f"{where}.content", MAX_TURN_CHARS)
    if turn.name is not None:
        check_text(turn.name, f"{where}.name", MAX_NAME_CHARS)
    if turn.at is not None:
        check_instant(turn.at, f"{where}.at")


def check_text(text: str, where: str, max_chars: int) -> None:
    """Refuse text that is empty, too long, or holds characters that no text needs.

    Raises:
        Invalid, TooLarge: see `check`.
    """
    if len(text) > max_chars:
        raise TooLarge(f"{where} has {len(text)} characters: at most {max_chars} are allowed")
    if not text or text.isspace():
        raise Invalid(f"{where} is empty: give some text, or leave it out")
    found = _FORBIDDEN.search(text)
    if found:
        code = ord(found[0])
        what = "a lone surrogate" if code >= 0xD800 else "NUL" if code == 0 else "a control character"
        raise Invalid(f"{where} holds {what} (U+{code:04X}) at position {found.start()}: take it out and send it again")


def check_instant(instant: datetime, where: str) -> None:
    """Refuse instants without a time zone, and those outside of history as calendars count it.

    Raises:
        Invalid: see `check`.
    """
    if instant.tzinfo is None:
        raise Invalid(f"{where} has no time zone: give an offset, or Z for UTC")
    if not EARLIEST <= instant < LATEST:
        raise Invalid(f"{where} is out of range: give a date from {EARLIEST.year} to {LATEST.year - 1}")


def _check_expiry(days: float) -> None:
    if not math.isfinite(days) or days <= 0:
        raise Invalid("expires_in_days must be a number greater than 0: leave it out to keep the memory for good")
    if days > MAX_EXPIRES_DAYS:
        raise TooLarge(f"expires_in_days is at most {MAX_EXPIRES_DAYS:.0f}: leave it out to keep the memory for good")
