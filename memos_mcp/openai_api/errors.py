"""Refusals in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, with the status that fits.

`Refused` is raised by what reads a request; errors of the engine are turned into it by a table. It knows no request.
What must stay true: a client is never told to try again what cannot get better by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from engine.errors import (
    Busy,
    Cancelled,
    Conflict,
    Corrupt,
    Expired,
    Frozen,
    Invalid,
    MemosError,
    NotAllowed,
    NotFound,
    TooLarge,
    Unavailable,
)
from memos_mcp.wire import encodable

PREFIX = "/v1"
REQUEST, AUTHENTICATION, PERMISSION, RATE, SERVER = (
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
)
AGAIN_S = 1
TOO_LARGE_CODE = "context_length_exceeded"

# The first class that an error belongs to: status, type, code.
STATUSES: tuple[tuple[type[MemosError], int, str, str | None], ...] = (
    (TooLarge, 400, REQUEST, TOO_LARGE_CODE),
    (Invalid, 400, REQUEST, None),
    (NotFound, 404, REQUEST, "not_found"),
    (NotAllowed, 403, PERMISSION, "not_allowed"),
    (Expired, 401, AUTHENTICATION, "invalid_api_key"),
    (Conflict, 409, REQUEST, "conflict"),
    (Frozen, 409, REQUEST, "conflict"),
    (Busy, 429, RATE, "busy"),
    (Unavailable, 503, SERVER, "unavailable"),
    (Cancelled, 503, SERVER, "cancelled"),
    (Corrupt, 500, SERVER, "corrupt"),
)


class Refused(Exception):
    """A refusal, as the client reads it."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = REQUEST, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.kind, self.param, self.code = encodable(message), status, kind, param, code

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def refused(error: MemosError) -> Refused:
    """What the engine refused."""
    for known, status, kind, code in STATUSES:
        if isinstance(error, known):
            return Refused(str(error), status=status, kind=kind, code=code)
    return Refused(str(error), status=500, kind=SERVER, code=error.code)


def unexpected(report: str) -> Refused:
    """What nobody expected, and which the log has under the number of this report."""
    return Refused(
        f"internal error {report}: nothing is known to be lost; the server's log has the details",
        status=500,
        kind=SERVER,
        code="internal_error",
    )


def response_of(refusal: Refused, headers: Mapping[str, str] | None = None) -> Response:
    """The answer. OpenAI's clients try again by themselves after 409, 429 and 5xx, unless they are told not to."""
    told = dict(headers or {})
    if refusal.status == 429:
        told["Retry-After"] = str(AGAIN_S)
    elif refusal.status >= 409:
        told["X-Should-Retry"] = "false"
    return JSONResponse(refusal.body, status_code=refusal.status, headers=told)


def said_by_the_gate(status: int, message: str, headers: Mapping[str, str]) -> Response:
    """A refusal from before the request reached these routes: its host, its origin or its token."""
    code = "invalid_api_key" if status == 401 else None
    kind = AUTHENTICATION if status == 401 else REQUEST
    return response_of(Refused(message, status=status, kind=kind, code=code), headers)
