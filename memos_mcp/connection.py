"""Who is on the other end of the connection that a request came in on.

The daemon sets `current_connection` around each connection's loop; handlers are tasks started inside it and so see
it. It knows no protocol and no transport. What stays true: a request that is sent again over another connection of
the same session gets the same operation id, and two different requests of one session never share one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from engine.operations import OWNER, Principal

MAX_CLIENT_CHARS = 200


@dataclass(frozen=True)
class Connection:
    """`session` is None where requests cannot be sent again (HTTP without an operation of its own)."""

    session: str | None = None
    client: str = ""
    principal: Principal = OWNER
    uses: Mapping[str, int] = field(default_factory=dict)  # how often a request id was used before, where it was


current_connection: ContextVar[Connection] = ContextVar("current_connection")


def client_name(given: str) -> str:
    """What a client calls itself, as it goes to the audit log: one line, of a bounded length."""
    kept = given[:MAX_CLIENT_CHARS]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in kept)


def request_key(request_id: str | int) -> str:
    """`7` and `"7"` are different ids in JSON-RPC."""
    return json.dumps(request_id)


def operation_id(request_id: str | int | None) -> str | None:
    """The operation id of a request of the current connection; None when it cannot be sent again."""
    connection = current_connection.get(None)
    if connection is None or connection.session is None or request_id is None:
        return None
    key = request_key(request_id)
    use = connection.uses.get(key, 0)
    return f"{connection.session}:{key}" if use == 0 else f"{connection.session}:{key}:{use}"
