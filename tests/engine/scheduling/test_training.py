"""Adapters by the scheduler: trained in the background from what is stable and used, retired when nobody uses it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.cube_operations import Govern
from engine.memos import MemOS
from engine.settings import Settings
from engine.tier_operations import AdapterState, WorkState
from tests.conftest import HandClock
from tests.engine.distilling.short import SHORT, distilled, in_service, versions
from tests.engine.stores import ME, opened, say

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan")


@pytest.fixture
def used(settings: Settings, latest_wins: Path, clock: HandClock) -> Iterator[MemOS]:
    """A store whose memories are stable and were used again and again."""
    torch.set_num_threads(1)
    with opened(replace(settings, model=str(latest_wins), model_dtype="float32"), clock) as memos:
        memos._distilling.effort = SHORT
        use(memos, clock)
        yield memos


def use(memos: MemOS, clock: HandClock) -> None:
    ids = [say(memos, f"the city of {name} is paris .", cube="home") for name in NAMES]
    clock.pass_by(days=8)
    for id in ids:
        for _ in range(9):
            memos.memory(id, ME)


def ids_of(memos: MemOS) -> list[str]:
    return [memory.id for memory in memos.memories("home", ME).memories]


def test_what_is_stable_and_used_is_trained_in_the_background_and_that_can_be_ended(used: MemOS) -> None:
    ids = ids_of(used)
    (planned,) = used.run_scheduler(ME, dry_run=True)
    assert (planned.part, planned.to, set(planned.ids)) == ("lora", "lora", set(ids))
    assert used.work(ME) == ()
    (move,) = used.run_scheduler(ME)
    (work,) = used.work(ME)
    assert (work.what, work.cube, move.outcome) == ("distil", "home", f"begun: {work.id}")
    assert work.reason == move.reason
    used.undo_move(move.number, ME)
    assert used.work(ME)[0].state is WorkState.CANCELLED
    assert used.run_scheduler(ME) == ()  # left alone for its window
    assert versions(used) == []


def test_a_pinned_memory_is_not_trained(used: MemOS) -> None:
    first, second, *_ = ids_of(used)
    used.govern(Govern(ids=(first,), pinned=True), ME)
    (planned,) = used.run_scheduler(ME, dry_run=True)
    assert first not in planned.ids
    assert second in planned.ids


@pytest.mark.parametrize("changed", [{"scheduler": ("archive",)}, {"training_minutes": 0.0}, {"lora": False}])
def test_nothing_is_trained_where_that_is_off_or_there_are_no_minutes(
    settings: Settings, latest_wins: Path, clock: HandClock, changed: dict[str, object]
) -> None:
    with_model = replace(settings, model=str(latest_wins), model_dtype="float32")
    with opened(replace(with_model, **changed), clock) as memos:  # type: ignore[arg-type]
        use(memos, clock)
        assert memos.run_scheduler(ME) == ()
        assert memos.work(ME) == ()


def test_no_cache_is_built_where_replies_go_through_an_adapter_which_reads_none(used: MemOS) -> None:
    long = say(
        used, "the pet of judy is cat . the food of judy is sushi . the code of judy is 4 7 1 1 . " * 2, cube="home"
    )
    used.model(ME, load=True)
    for _ in range(9):
        used.memory(long, ME)
    assert (long,) in {move.ids for move in used.run_scheduler(ME, dry_run=True) if move.part == "kv"}
    in_service(used, distilled(used, ids_of(used)[:2]))
    assert [move for move in used.run_scheduler(ME, dry_run=True) if move.part == "kv"] == []


def test_an_adapter_that_nobody_uses_any_more_is_retired_and_serves_again_when_that_is_undone(
    used: MemOS, clock: HandClock
) -> None:
    in_service(used, distilled(used, ids_of(used)[:2]))
    assert dict(used.scheduler(ME).levels)["lora"] == 2
    clock.pass_by(days=300)
    retired = next(move for move in used.run_scheduler(ME) if move.part == "lora")
    assert retired.to == "text"
    assert "hardly used any more" in retired.reason
    assert versions(used) == [(1, AdapterState.RESTING)]
    used.undo_move(retired.number, ME)
    assert versions(used) == [(1, AdapterState.SERVING)]
    assert [move for move in used.run_scheduler(ME) if move.part == "lora"] == []
