"""Lines over a socket, for the daemon's side. Bounded: a line over the limit is skipped and reported once."""

from __future__ import annotations

import anyio
from anyio.abc import ByteStream

from memos_mcp.envelope import MAX_LINE_BYTES

CHUNK_BYTES = 1 << 16


class LineTooLong(Exception):
    """The line was skipped; the next read starts behind it."""


class Lines:
    """Reads by one task, writes by many: a written line is never torn by another."""

    def __init__(self, stream: ByteStream, *, limit_bytes: int = MAX_LINE_BYTES) -> None:
        self._stream = stream
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._writing = anyio.Lock()

    async def read(self) -> bytes | None:
        """The next line without its end, None after the last.

        Raises:
            LineTooLong: it had more than the limit.
        """
        skipped = False
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                if skipped or len(line) > self.limit_bytes:
                    raise LineTooLong
                return line
            if len(self._buffer) > self.limit_bytes:
                skipped = True
            if skipped:
                self._buffer.clear()
            self._searched = len(self._buffer)
            try:
                self._buffer += await self._stream.receive(CHUNK_BYTES)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return None

    async def write(self, data: bytes) -> bool:
        """Write a line (its end is added). False: nobody reads any more."""
        async with self._writing:
            try:
                await self._stream.send(data + b"\n")
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return False
        return True
