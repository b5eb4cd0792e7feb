"""A process that is killed while it builds, saves, merges or evicts KV caches leaves none that is half."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.settings import Settings
from tests.engine.stores import settings_for
from tests.engine.tiers.caches import kept
from tests.engine.tiers.killing import killed, look, small, work

AT = (3, 25, 80, 140)  # file operations before which a process is killed: opening makes the first few
AFTER_S = 0.3


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A closed store whose disk budget is used up."""
    settings = small(settings_for(tmp_path_factory.mktemp("full") / "data"))
    with kept(settings) as store:
        work(store, 0)
    assert look(settings, range(1)) > 5
    return settings


@pytest.mark.parametrize("place", [*AT, AFTER_S])
def test_a_killed_process_leaves_a_whole_store(full: Settings, tmp_path: Path, place: float) -> None:
    shutil.copytree(full.data, tmp_path / "data")
    settings = replace(full, data=tmp_path / "data")
    if isinstance(place, int):
        assert killed(settings, place, at=place)
    else:
        killed(settings, 1, after_s=place)
    assert look(settings, range(int(place) + 1)[-1:]) > 0
