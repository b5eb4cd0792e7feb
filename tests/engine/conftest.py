"""Stores for tests: one of their own, with or without vectors, and one to read from that a module shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.memos import MemOS
from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.stores import opened, settings_for, with_vectors


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data")


@pytest.fixture
def memos(settings: Settings, clock: HandClock) -> Iterator[MemOS]:
    """A store that finds by words alone: for what does not depend on vectors."""
    with opened(settings, clock) as store:
        yield store


@pytest.fixture
def dense(settings: Settings, clock: HandClock) -> Iterator[MemOS]:
    """A store with the default embedder."""
    with opened(with_vectors(settings), clock) as store:
        yield store
