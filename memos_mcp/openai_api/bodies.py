"""Bodies of requests: JSON objects of a bounded size. Knows nothing of what they ask for."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from memos_mcp.openai_api.errors import Refused
from memos_mcp.wire import shown

MAX_BODY_BYTES = 16 << 20
MAX_DRAINED_BYTES = 64 << 20  # of a body that is too long, read so that its sender hears the refusal
NO_JSON = "the body must be one JSON object in UTF-8"


async def body_of(request: Request) -> bytes:
    """The whole body.

    Raises:
        Refused: it is not called JSON, or too long.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(
            f"the body must be application/json, and is called {shown(kind or 'nothing')!r}: set its Content-Type",
            status=415,
        )
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= MAX_BODY_BYTES:
            parts.append(part)
        elif size > MAX_DRAINED_BYTES:
            break
    if size > MAX_BODY_BYTES:
        raise Refused(f"the body is longer than {MAX_BODY_BYTES:,} bytes: leave out old messages", status=413)
    return b"".join(parts)


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is. To be run in a thread: a long one takes a while.

    Raises:
        Refused: it is none.
    """
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except RecursionError:
        raise Refused(f"{NO_JSON}; this one is nested too deeply") from None
    except ValueError:  # with text that is no UTF-8, or a number of very many digits
        raise Refused(f"{NO_JSON}; this one is none") from None
    if not isinstance(content, dict):
        raise Refused(NO_JSON)
    return content


def _no_number(name: str) -> float:
    raise ValueError(name)
