"""What a line of JSON-RPC is, read as little as the bridge needs: its id, its method, whether it answers something.

Knows nothing of MCP. Lines that are not JSON-RPC are told apart here, with the error that the sender should get, so
that nothing half-understood travels on. The standard library is all it may use.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MAX_LINE_BYTES = 16 << 20
PARSE_ERROR, INVALID_REQUEST, INTERNAL_ERROR = -32700, -32600, -32603
SERVER_ERROR = -32000  # the range that JSON-RPC leaves to implementations: an engine error, its code in `data`

# The daemon writes its answers in this order of fields: the id of most lines is known without parsing them.
ANSWER = re.compile(rb'\{"jsonrpc":"2\.0","id":(-?[0-9]{1,15}|"[\w.:-]{0,128}"),"(?:result|error)":')
ID = rb'"id"\s*:\s*(-?[0-9]{1,15}|"[\w.:-]{0,128}")'
FIRST_FIELDS = re.compile(rb'\s*\{(?:\s*"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,)*\s*' + ID)
LAST_FIELD = re.compile(rb",\s*" + ID + rb"\s*\}\s*$")


@dataclass(frozen=True, slots=True)
class Message:
    """One JSON-RPC message. `key` is its id as JSON, None when it has none; `method` is None for an answer."""

    line: bytes
    key: str | None
    method: str | None
    body: dict[str, Any]

    @property
    def is_nothing(self) -> bool:
        """Whether it is neither request, notification nor answer: somebody waits for an error."""
        if self.method is None:
            return "result" not in self.body and "error" not in self.body
        return self.key is None and "id" in self.body


@dataclass(frozen=True, slots=True)
class Batch:
    """Several messages in one line. `members` that are no objects are None."""

    members: tuple[Message | None, ...]


@dataclass(frozen=True, slots=True)
class Malformed:
    code: int
    text: str
    key: str = "null"


def read_line(line: bytes) -> Message | Batch | Malformed:
    """Understand one line."""
    try:
        value = json.loads(line.decode())  # decoded here: given bytes, json would also guess at UTF-16
    except RecursionError:
        return Malformed(PARSE_ERROR, "Parse error: nested too deeply")
    except ValueError:  # not JSON, or not UTF-8
        return Malformed(PARSE_ERROR, "Parse error: not a line of valid JSON in UTF-8")
    if isinstance(value, dict):
        return message(line, value)
    if isinstance(value, list) and value:
        return Batch(tuple(message(compact(v), v) if isinstance(v, dict) else None for v in value))
    return Malformed(INVALID_REQUEST, "Invalid request: a JSON-RPC message is an object")


def message(line: bytes, body: dict[str, Any]) -> Message:
    identifier, method = body.get("id"), body.get("method")
    usable = isinstance(identifier, (str, int)) and not isinstance(identifier, bool)
    return Message(line, json.dumps(identifier) if usable else None, method if isinstance(method, str) else None, body)


def answered_key(line: bytes) -> str | None:
    """The id that a line of the daemon answers, without parsing it; None when that takes parsing."""
    found = ANSWER.match(line)
    return found[1].decode() if found else None


def oversized(head: bytes, tail: bytes) -> Malformed:
    """The error for a line over the bound, from its first and last bytes; its id where it can be seen for certain."""
    found = FIRST_FIELDS.match(head) or LAST_FIELD.search(tail)
    key = found[1].decode() if found else "null"
    return Malformed(INVALID_REQUEST, f"Invalid request: a message may have at most {MAX_LINE_BYTES} bytes", key)


def compact(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def with_id(body: dict[str, Any], identifier: str | int) -> bytes:
    """The message under another id."""
    return compact({**body, "id": identifier})


def error_line(key: str, code: int, text: str, data: dict[str, Any] | None = None) -> bytes:
    """An error answer to the request whose id is `key`."""
    error: dict[str, Any] = {"code": code, "message": text}
    if data is not None:
        error["data"] = data
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (key.encode(), compact(error))
