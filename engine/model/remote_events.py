"""What an OpenAI-compatible server says in a reply: its server-sent events, or the one object of a reply in whole.

Servers differ in what they leave out; nothing here takes a field for granted. It knows no connection and asks nothing.
What must stay true: lines are bounded, and an end that was not announced is not taken for one.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

MAX_LINE_BYTES = 1 << 20
DONE = "[DONE]"


class Lines(Protocol):
    """What lines are read from; empty at the end."""

    def readline(self, limit: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Said:
    """One event. Counts are 0, and `reason` None, where it does not say."""

    text: str = ""
    reason: str | None = None  # stop or length
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused_tokens: int = 0
    failed: bool = False


class Events:
    """The events of a stream. `ended`: it came to the end that it announced."""

    def __init__(self, lines: Lines) -> None:
        self.ended = False
        self._lines = lines

    def __iter__(self) -> Iterator[Said]:
        while line := self._lines.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise http.client.LineTooLong("event")
            name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
            if name != "data":
                continue
            if value.strip() == DONE:
                self.ended = True
                return
            said = said_in(value)
            if said is not None:
                self.ended = self.ended or said.reason is not None  # some servers leave [DONE] out
                yield said


def said_in(data: str | bytes) -> Said | None:
    """What one object says: an event, or a whole reply. None: nothing that is known."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    if content.get("error"):
        return Said(failed=True)
    choices = content.get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    text = _object(choice.get("delta") or choice.get("message")).get("content")
    reason = choice.get("finish_reason")
    usage = _object(content.get("usage"))
    return Said(
        text if isinstance(text, str) else "",
        None if not reason else "length" if reason == "length" else "stop",
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(_object(usage.get("prompt_tokens_details")).get("cached_tokens")),
    )


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
