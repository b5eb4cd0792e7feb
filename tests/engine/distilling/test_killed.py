"""A process that is killed while it trains, keeps or loses an adapter leaves a whole store; the next one goes on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.settings import Settings
from engine.tier_operations import AdapterState, WorkState
from tests.engine.distilling.killing import adapters_in, begun, gone_on_with, killed, look, without_model
from tests.engine.distilling.short import files_of
from tests.engine.stores import ME, opened


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return begun(tmp_path_factory.mktemp("first") / "data")


@pytest.fixture
def store(first: Settings, tmp_path: Path) -> Settings:
    """A closed store in which an adapter serves."""
    shutil.copytree(first.data, tmp_path / "data")
    return replace(first, data=tmp_path / "data")


def weights_of(settings: Settings) -> list[str]:
    """What tells the weights of the versions apart."""
    with opened(without_model(settings)) as memos:
        return [str(row.header["digest"]) for row in adapters_in(memos)]


def test_a_training_that_was_killed_goes_on_from_its_checkpoint_and_comes_to_the_same_end(store: Settings) -> None:
    assert killed(store, "distil", share=0.85)
    assert len(files_of(store.checkpoints_folder)) == 1
    assert look(store) == {"distil done": 1, "distil waiting": 1, "cut off": 1}
    assert len(files_of(store.checkpoints_folder)) == 1  # nothing that is to go on loses what it has
    one, two = gone_on_with(store)
    assert (one.state, two.state) == (AdapterState.SERVING, AdapterState.FAILED)
    assert (two.steps, two.sources) == (9, one.sources)
    uninterrupted, resumed = weights_of(store)
    assert uninterrupted == resumed


@pytest.mark.parametrize("kind", ["distil", "erase"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_kill_before_any_file_operation_leaves_a_whole_store(store: Settings, kind: str, at: int) -> None:
    assert killed(store, kind, at=at)
    look(store)


def test_an_erasure_that_was_killed_leaves_no_adapter_that_knows_what_was_erased(store: Settings) -> None:
    assert killed(store, "erase", share=1.0)
    assert look(store)["retrain waiting"] == 1
    with opened(without_model(store)) as memos:
        assert [view.state for view in memos.adapters("home", ME)] == [AdapterState.GONE]
        assert "retrain of cube 'home'" in memos.status(ME).work[0]
    made = gone_on_with(store)  # with the steps of a test the gate refuses most of them, and others are tried
    assert made
    assert {len(view.sources) for view in made} == {2}


def test_a_kill_while_versions_are_brought_into_service_leaves_one_that_serves_or_none(store: Settings) -> None:
    assert killed(store, "activate", share=0.5)
    look(store)
    with opened(without_model(store)) as memos:
        assert all(view.state is not WorkState.RUNNING for view in memos.work(ME))
        assert len([view for view in memos.adapters("home", ME) if view.state is AdapterState.SERVING]) <= 1
