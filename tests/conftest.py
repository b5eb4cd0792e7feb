"""What every test may use: a clock that is moved by hand, and waiting for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import hypothesis
import pytest

from tests.models.fixtures import half_billion as half_billion
from tests.models.fixtures import latest_wins as latest_wins

T = TypeVar("T")
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)  # a Monday
LONG_S = 60.0  # far beyond what anything here should take

hypothesis.settings.register_profile("suite", deadline=None, max_examples=60, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("suite")


class HandClock:
    """A clock that moves only when it is told to."""

    def __init__(self, instant: datetime = START) -> None:
        self.instant = instant

    def now(self) -> datetime:
        return self.instant

    def pass_by(self, **span: float) -> datetime:
        """Let so many `days=`, `minutes=`, … pass."""
        self.instant += timedelta(**span)
        return self.instant


def until(condition: Callable[[], T], what: str, limit_s: float = LONG_S) -> T:
    """Wait for `condition` to be true, and give what it gave."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {limit_s:.0f} s"
        time.sleep(0.005)
    return value


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


TRAINING = ("latest_wins", "trainable", "two_cubes", "first", "loaded")  # fixtures of tests that may train
TRAINING_TIMEOUT_S = 1_800  # a training that takes a minute alone takes many where much else runs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that train longer: what they find does not depend on how long it takes."""
    for item in items:
        trains = not set(TRAINING).isdisjoint(getattr(item, "fixturenames", ()))
        if trains and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TRAINING_TIMEOUT_S))
