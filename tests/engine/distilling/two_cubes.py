"""A store with two cubes of eight facts each, and an adapter of each that knows them: trained once, and copied."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.distilling.effort import Effort
from engine.memos import MemOS
from engine.settings import Settings
from engine.tier_operations import AdapterState, AdapterView, Distil
from tests.conftest import HandClock
from tests.engine.stores import ME, opened, say, settings_for
from tests.models.facts import Fact, some_fact, statement
from tests.models.fixtures import LATEST_WINS

CUBES = ("home", "work")
FACTS = 8
SWIFT = Effort(steps=90, replayed=300)


@dataclass(frozen=True)
class TwoCubes:
    """`facts`: by id, of each cube."""

    folder: Path
    facts: dict[str, dict[str, Fact]]

    @contextmanager
    def copy(self, folder: Path) -> Iterator[MemOS]:
        """A copy of the store, opened."""
        shutil.copytree(self.folder, folder)
        with opened(settings_of(folder), HandClock()) as memos:
            memos._distilling.effort = SWIFT
            yield memos


def settings_of(folder: Path) -> Settings:
    return replace(settings_for(folder), model=str(LATEST_WINS), model_dtype="float32", model_device="cpu")


def make_two_cubes(folder: Path) -> TwoCubes:
    torch.set_num_threads(1)
    draw, found = random.Random(71), dict[tuple[str, str], Fact]()
    while len(found) < FACTS * len(CUBES):
        fact = some_fact(draw)
        found.setdefault(fact.key, fact)
    every = list(found.values())
    facts: dict[str, dict[str, Fact]] = {}
    with opened(settings_of(folder), HandClock()) as memos:
        memos._distilling.effort = SWIFT
        for number, cube in enumerate(CUBES):
            some = every[number * FACTS : (number + 1) * FACTS]
            facts[cube] = {say(memos, statement(draw, fact), cube=cube): fact for fact in some}
            view = memos.distil(Distil(cube), ME)
            assert isinstance(view, AdapterView)
            assert view.judged is not None
            assert view.state is AdapterState.SERVING, view.judged.why
    return TwoCubes(folder, facts)


def standing(memos: MemOS) -> list[tuple[str, int, str]]:
    """Every version that there is, and how it stands."""
    return [(one.cube, one.version, one.state.value) for one in memos.adapters(None, ME)]


def in_the_model(memos: MemOS) -> list[str]:
    """The adapters that the loaded model holds."""
    local, runner = memos._answering.for_training(ME)
    return runner.call(lambda loaded: [one.name for one in local.adapters.resident(loaded).adapters])
