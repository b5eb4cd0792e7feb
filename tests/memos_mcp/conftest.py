"""Shared fixtures: one engine for each test, and the event loop that the product uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.memos import MemOS
from tests.memos_mcp.serving import HandClock, store


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def memos(tmp_path: Path, clock: HandClock) -> Iterator[MemOS]:
    with store(tmp_path / "data", clock) as opened:
        yield opened
