"""A store with a few statements and the small model, whose trainings are cut short: they teach little in no time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.memos import MemOS
from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.distilling.short import SHORT, TOLD
from tests.engine.distilling.two_cubes import TwoCubes, make_two_cubes
from tests.engine.stores import opened, say


@pytest.fixture(scope="session")
def two_cubes(tmp_path_factory: pytest.TempPathFactory) -> TwoCubes:
    return make_two_cubes(tmp_path_factory.mktemp("two-cubes") / "data")


@pytest.fixture
def both(two_cubes: TwoCubes, tmp_path: Path) -> Iterator[MemOS]:
    """A copy of the store with two cubes, each with an adapter that serves."""
    with two_cubes.copy(tmp_path / "copy") as memos:
        yield memos


@pytest.fixture
def trainable(settings: Settings, latest_wins: Path, clock: HandClock) -> Iterator[MemOS]:
    torch.set_num_threads(1)
    with opened(replace(settings, model=str(latest_wins), model_dtype="float32"), clock) as memos:
        memos._distilling.effort = SHORT
        for text in TOLD:
            clock.pass_by(minutes=1)
            say(memos, text, cube="home")
        yield memos
