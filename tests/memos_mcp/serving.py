"""A real engine behind a real server, in this process, for tests that speak MCP to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import anyio
import mcp_types as types
from mcp import Client

from engine.memos import MemOS
from engine.settings import NO_EMBEDDER, Settings
from memos_mcp.server import MemoryServer, build_server

Era = Literal["legacy", "auto"]
ERAS: tuple[Era, ...] = ("legacy", "auto")  # the handshake era, and 2026
VERSION = "0.0.0+test"
SOON_S = 60.0  # how long a test waits for what comes at once
START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class HandClock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.instant = START

    def now(self) -> datetime:
        return self.instant

    def pass_by(self, **span: float) -> None:
        self.instant += timedelta(**span)


@contextmanager
def store(folder: Path, clock: HandClock | None = None) -> Iterator[MemOS]:
    """An engine without an embedder: recall is lexical."""
    with MemOS.open(Settings(data=folder, embedder=NO_EMBEDDER), clock=clock) as memos:
        yield memos


def server_of(memos: MemOS) -> MemoryServer:
    return build_server(memos, version=VERSION)


@asynccontextmanager
async def connected(memos: MemOS, era: Era = "auto", **options: Any) -> AsyncIterator[Client]:
    """A client of a server of its own, in memory."""
    async with Client(server_of(memos), mode=era, **options) as client:
        yield client


@asynccontextmanager
async def connected_to(
    memos: MemOS, toolsets: tuple[str, ...], era: Era = "auto", **options: Any
) -> AsyncIterator[Client]:
    """A client of a server with these toolsets."""
    async with Client(build_server(memos, toolsets=toolsets, version=VERSION), mode=era, **options) as client:
        yield client


def text_of(result: types.CallToolResult) -> str:
    """All text of a result."""
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


async def remember(client: Client, content: str, **more: Any) -> str:
    """Keep `content`; its id."""
    result = await client.call_tool("remember", {"content": content, **more})
    assert not result.is_error, text_of(result)
    stored: str = result.structured_content["stored"][0]["id"]
    return stored


class Heard:
    """Notifications of the handshake era, as they come."""

    def __init__(self) -> None:
        self.updated: list[str] = []
        self.lists_changed = 0
        self._news = anyio.Event()

    async def __call__(self, message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            self.updated.append(message.params.uri)
        elif isinstance(message, types.ResourceListChangedNotification):
            self.lists_changed += 1
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(SOON_S):
            while not condition():
                await self._news.wait()
                self._news = anyio.Event()
