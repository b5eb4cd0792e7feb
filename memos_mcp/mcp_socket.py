"""One MCP conversation over the daemon's socket: lines become messages for the SDK's loop, and back.

Knows the SDK's streams and nothing of tools or of the engine. What stays true: every request line gets an answer,
even one that the SDK cannot read; when the daemon closes, what is in flight is finished first (`drain`); a line that
only the bridge can say (`memos/reuse`) never reaches the server.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server import Server
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage

from memos_mcp.connection import Connection, current_connection, request_key
from memos_mcp.conversation import REUSE, STOPPED, STREAMS
from memos_mcp.envelope import INTERNAL_ERROR, INVALID_REQUEST, Malformed, Message, compact, error_line, read_line
from memos_mcp.lines import Lines, LineTooLong

logger = logging.getLogger(__name__)

Incoming = SessionMessage | Exception
REUSE_MARK = f'"{REUSE}"'.encode()


class McpSocket:
    """The daemon's end of one bridge."""

    def __init__(self, lines: Lines, session: str, client: str) -> None:
        self._lines = lines
        self._uses: dict[str, int] = {}
        self._connection = Connection(session=session, client=client, uses=self._uses)
        self._in_flight: set[str] = set()
        self._reading = anyio.CancelScope()
        self._settled = anyio.Event()
        self._settled.set()

    async def serve(self, server: Server[Any], lifespan: Any) -> None:
        """Until the client goes, or `drain` was called and all is answered."""
        current_connection.set(self._connection)
        to_server, incoming = anyio.create_memory_object_stream[Incoming]()
        outgoing, from_server = anyio.create_memory_object_stream[SessionMessage]()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write, from_server)
            tasks.start_soon(self._read, to_server)
            options = server.create_initialization_options()
            await serve_dual_era_loop(server, incoming, outgoing, lifespan_state=lifespan, init_options=options)
            self._reading.cancel()

    async def drain(self, on_purpose: bool) -> None:
        """Take no more requests; return when those in flight are answered. `on_purpose`: the daemon was stopped."""
        if on_purpose:
            await self._lines.write(compact({"jsonrpc": "2.0", "method": STOPPED}))
        self._reading.cancel()
        await self._settled.wait()

    async def _read(self, to_server: MemoryObjectSendStream[Incoming]) -> None:
        async with to_server:
            with self._reading:
                while await self._read_line(to_server.send):
                    pass
            if self._reading.cancel_called:  # the end of this stream would cancel what is in flight
                await self._settled.wait()

    async def _read_line(self, send: Callable[[Incoming], Awaitable[None]]) -> bool:
        try:
            line = await self._lines.read()
        except LineTooLong:
            await self._lines.write(error_line("null", INVALID_REQUEST, "Invalid request: the message is too long"))
            return True
        if line is None:
            return False
        if REUSE_MARK in line[:64] and self._noted_reuse(line):
            return True
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:  # pydantic's ValidationError; its text quotes the message, so it goes nowhere
            await self._refuse(line)
            return True
        if isinstance(message, types.JSONRPCRequest):
            self._begin(message)
        elif isinstance(message, types.JSONRPCNotification):
            self._cancelled(message)
        try:
            await send(SessionMessage(message))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # the server's loop has ended
            return False
        return True

    def _noted_reuse(self, line: bytes) -> bool:
        read = read_line(line)
        if not isinstance(read, Message) or read.method != REUSE or read.key is not None:
            return False
        params = read.body["params"]
        self._uses[str(params["key"])] = int(params["use"])
        return True

    async def _refuse(self, line: bytes) -> None:
        """Answer a line that is JSON, as far as the bridge could see, and no message for the SDK."""
        read = read_line(line)
        if isinstance(read, Malformed):
            await self._lines.write(error_line(read.key, read.code, read.text))
        elif isinstance(read, Message) and (read.key is not None or "id" in read.body or read.method is None):
            text = "Invalid request: not a JSON-RPC 2.0 message, or text in it is not valid Unicode"
            await self._lines.write(error_line(read.key or "null", INVALID_REQUEST, text))

    # --- what is in flight ---

    def _begin(self, request: types.JSONRPCRequest) -> None:
        if request.method not in STREAMS:
            self._in_flight.add(request_key(request.id))
            if self._settled.is_set():
                self._settled = anyio.Event()

    def _cancelled(self, notification: types.JSONRPCNotification) -> None:
        if notification.method == "notifications/cancelled":
            self._end(json.dumps((notification.params or {}).get("requestId")))

    def _end(self, key: str) -> None:
        self._in_flight.discard(key)
        if not self._in_flight:
            self._settled.set()

    async def _write(self, from_server: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with from_server:
            async for outgoing in from_server:
                message = outgoing.message
                answers = isinstance(message, (types.JSONRPCResponse, types.JSONRPCError)) and message.id is not None
                key = request_key(message.id) if answers else None  # type: ignore[union-attr, arg-type]
                alive = await self._lines.write(_line(message, key))
                if key is not None:
                    self._end(key)
                if not alive:
                    return


def _line(message: types.JSONRPCMessage, key: str | None) -> bytes:
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except ValueError:  # text that cannot be UTF-8
        logger.error("an answer could not be written as JSON")
        return error_line(key or "null", INTERNAL_ERROR, "Internal error: the answer could not be written as JSON")
