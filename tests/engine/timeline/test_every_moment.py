"""Whatever happens to a cube, every moment of its past stays what it was, and can be gone back to."""

from __future__ import annotations

import pytest

from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.timeline.walks import walking

WALKS = 20  # of each of these stores; `python -m tests.engine.timeline.walks` walks a thousand times


@pytest.mark.parametrize("seed", [100, 101])
def test_every_past_moment_equals_a_plain_model_that_kept_it(settings: Settings, clock: HandClock, seed: int) -> None:
    done: set[str] = set()
    with walking(settings, clock, seed) as walk:
        for number in range(WALKS):
            done |= set(walk(number))
    assert {"remember", "archive", "rollback", "restore", "supersede"} <= done
