"""A store with a few memories, and adapters of them that are kept without a training: what these say matters not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.memos import MemOS
from engine.tier_operations import Judged
from engine.tiers.lora.distil import Plan, adapter_config
from engine.tiers.lora.files import Card, Source, digest_of
from engine.tiers.lora.serving import Resident
from engine.tiers.lora.store import Made
from engine.vault.adapters import AdapterRow
from engine.vault.work import all_work
from tests.conftest import START, HandClock
from tests.engine.stores import ME, opened, say, settings_for

PASSED = Judged(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.01)
FACTS = (
    "the food of alice is soup .",
    "the food of bob is rice .",
    "the color of dave is red .",
    "the pet of erin is cat .",
)
PLENTY = 1 << 30
SMALL = Plan(rank=2, alpha=4)


@dataclass(frozen=True)
class Tried:
    """The store, its memories, and the model that is loaded."""

    memos: MemOS
    ids: tuple[str, ...]

    def keep(self, ids: Sequence[str], **more: Any) -> AdapterRow:
        """Keep an adapter of these memories, as if it had been trained on them."""
        local, runner = self.memos._answering.for_training(ME)
        known = tuple(Source(id, 1, known=True) for id in ids)

        def weights(loaded: Any) -> tuple[Any, Any, str]:
            resident = Resident(loaded, PLENTY)
            resident.add("untrained", adapter_config(SMALL))
            tensors = {name: tensor.clone() for name, tensor in resident.tensors("untrained").items()}
            config = resident.config("untrained")
            resident.close()
            return config, tensors, loaded.info.fingerprint

        config, tensors, loaded = runner.call(weights)
        model = more.pop("model", loaded)
        made = Made(
            "home",
            config,
            tensors,
            Card(model, digest_of(config, tensors), known, 0, 1),
            **{"judged": PASSED, "caller": ME, **more},
        )
        row = local.adapters.keep(made)
        assert row is not None
        return row

    def serving(self) -> int | None:
        return next((view.version for view in self.memos.adapters("home", ME) if view.state == "serving"), None)

    def asked_for(self) -> set[str]:
        """The memories that the one training is to be on."""
        with self.memos._parts.vault.reading() as connection:
            (row,) = all_work(connection)
        return set(row.header["ids"])

    def tiers(self, id: str) -> list[str]:
        return sorted(held.tier for held in self.memos.memory(id, ME).tiers)


@pytest.fixture
def tried(tmp_path: Path, latest_wins: Path) -> Iterator[Tried]:
    torch.set_num_threads(1)
    settings = replace(settings_for(tmp_path / "data"), model=str(latest_wins))
    with opened(settings, HandClock(START)) as memos:
        yield Tried(memos, tuple(say(memos, fact, cube="home") for fact in FACTS))
