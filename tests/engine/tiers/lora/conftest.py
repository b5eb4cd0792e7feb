"""The small model with its adapters: trained once, as they take seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from engine.model.loading import Loaded, load
from engine.model.prompts import Note
from engine.settings import Settings
from engine.tiers.lora.asking import finished
from engine.tiers.lora.distil import Distilled, Plan, distilling
from engine.tiers.lora.files import write_adapter
from engine.tiers.lora.material import Material, gathering
from engine.tiers.lora.serving import Resident
from tests.models.questions import Facts, some_notes

PLAN = Plan(steps=110, batch=28, seed=1)
REPLAYED = 300
PLENTY = 1 << 30
T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """An adapter in a folder, and what it was made from."""

    folder: Path
    notes: tuple[Note, ...]
    questions: Facts
    distilled: Distilled


_MADE: dict[str, Any] = {}  # once for a process, whichever folder of tests asks


def made_once(name: str, make: Callable[[], T]) -> T:
    if name not in _MADE:
        _MADE[name] = make()
    return _MADE[name]


@pytest.fixture(scope="session")
def loaded(latest_wins: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    torch.set_num_threads(1)
    settings = Settings(data=tmp_path_factory.mktemp("data"), model_device="cpu")
    return made_once("loaded", lambda: load(str(latest_wins), settings, lambda _: None))


@pytest.fixture
def resident(loaded: Loaded) -> Iterator[Resident]:
    made = Resident(loaded, PLENTY)
    yield made
    made.close()


def some_material(loaded: Loaded, notes: tuple[Note, ...], questions: Facts, replayed: int = REPLAYED) -> Material:
    return finished(gathering(loaded, notes, questions, 1, replayed=replayed))


def trained(loaded: Loaded, folder: Path, seed: int, besides: Facts | None = None) -> Trained:
    notes, questions = some_notes(seed, 8, list(besides.by_id.values()) if besides else ())
    resident = Resident(loaded, PLENTY)
    made = finished(distilling(resident, "made-here", some_material(loaded, notes, questions), PLAN))
    card = resident.known("made-here").card
    assert card is not None
    write_adapter(folder, resident.config("made-here"), resident.tensors("made-here"), card)
    resident.close()
    return Trained(folder, notes, questions, made)


@pytest.fixture(scope="session")
def first(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return made_once("first", lambda: trained(loaded, tmp_path_factory.mktemp("adapters") / "first", 51))


@pytest.fixture(scope="session")
def second(loaded: Loaded, first: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("adapters") / "second"
    return made_once("second", lambda: trained(loaded, folder, 52, first.questions))
