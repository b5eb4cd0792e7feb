"""Several adapters become one that knows what they knew, or nothing is changed."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cubes import Action
from engine.cube_operations import FuseCubes
from engine.distilling.effort import Effort
from engine.errors import Cancelled, Conflict, Invalid, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Principal
from engine.tier_operations import AdapterState, FuseAdapters, WorkState
from tests.conftest import HandClock, until
from tests.engine.distilling.two_cubes import FACTS, TwoCubes, in_the_model, settings_of, standing
from tests.engine.stores import ME, erase, opened, run_python

BOTH = FuseAdapters((("home", 0), ("work", 0)), "home")
BEFORE = [("home", 1, "serving"), ("work", 1, "serving")]
KILLED = """
import os, signal, sys
from pathlib import Path
from engine.distilling.effort import Effort
from engine.memos import MemOS
from engine.operations import Caller
from engine.tier_operations import FuseAdapters
from tests.engine.distilling.two_cubes import settings_of

def tell(done, total, message):
    if "training" in message:
        os.kill(os.getpid(), signal.SIGKILL)

with MemOS.open(settings_of(Path(sys.argv[1]))) as memos:
    memos._distilling.effort = Effort(replayed=100)
    memos.fuse_adapters(FuseAdapters((("home", 0), ("work", 0)), "home"), Caller(), tell)
"""


def when(word: str, do: Callable[[], object]) -> Callable[[float, float | None, str], None]:
    """Progress that does something once, when it first tells of that."""
    done: list[object] = []

    def tell(reached: float, total: float | None, message: str) -> None:
        if word in message and not done:
            done.append(None)
            do()

    return tell


def stop() -> None:
    raise Cancelled("enough")


def test_the_fused_adapter_knows_both_and_says_how_it_was_made(both: MemOS, two_cubes: TwoCubes):
    heard: list[float] = []
    made = both.fuse_adapters(BOTH, ME, lambda done, total, message: heard.append(done))
    assert heard == sorted(heard)
    assert made.adapter.judged is not None
    assert made.adapter.state is AdapterState.SERVING, made.adapter.judged.why
    assert made.how == made.adapter.made == made.tried[-1][0]
    assert [passed for _, _, passed in made.tried] == [False] * (len(made.tried) - 1) + [True]
    assert {id for id, _ in made.adapter.sources} == {*two_cubes.facts["home"], *two_cubes.facts["work"]}
    assert len(made.adapter.known) >= 0.9 * 2 * FACTS
    assert len(made.adapter.parents) == 2
    assert standing(both) == [("home", 1, "resting"), ("home", 2, "serving"), ("work", 1, "serving")]
    assert sum(one.right_after for one in both.compare_adapters("home", 1, 2, ME)) >= 0.9 * 2 * FACTS
    erase(both, next(iter(two_cubes.facts["work"])))
    assert standing(both) == [("home", 1, "resting"), ("home", 2, "gone"), ("work", 1, "gone")]


def test_a_fusion_that_is_stopped_leaves_nothing(both: MemOS):
    with pytest.raises(Cancelled):
        both.fuse_adapters(BOTH, ME, when("training", stop))
    assert standing(both) == BEFORE
    assert not any(name.startswith("fusing") for name in in_the_model(both))
    assert [view.state for view in both.work(ME) if view.what == "fuse"] == [WorkState.CANCELLED]


def test_a_memory_that_goes_meanwhile_ends_the_fusion(both: MemOS, two_cubes: TwoCubes):
    going = next(iter(two_cubes.facts["work"]))
    with pytest.raises(Conflict):
        both.fuse_adapters(BOTH, ME, when("without the adapter", lambda: erase(both, going)))
    assert standing(both) == [("home", 1, "serving"), ("work", 1, "gone")]
    assert not any(name.startswith("fusing") for name in in_the_model(both))


def test_one_adapter_or_one_that_is_not_there_for_the_caller_is_refused(both: MemOS):
    for request in (FuseAdapters((("home", 0), ("home", 1)), "home"), FuseAdapters((("home", 0),), "home")):
        with pytest.raises(Invalid):
            both.fuse_adapters(request, ME)
    with pytest.raises(NotFound):
        both.fuse_adapters(FuseAdapters((("home", 0), ("work", 9)), "home"), ME)
    with pytest.raises(NotFound):
        both.fuse_adapters(FuseAdapters(BOTH.parts, "nowhere"), ME)
    writes_home = Caller(Principal("eve", grants=(("home", (Action.WRITE, Action.READ)),)))
    with pytest.raises(NotFound):
        both.fuse_adapters(BOTH, writes_home)
    reads = Caller(Principal("anna", grants=(("home", (Action.READ,)), ("work", (Action.READ,)))))
    with pytest.raises(NotAllowed):
        both.fuse_adapters(BOTH, reads)
    assert standing(both) == BEFORE


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are killed otherwise here")
def test_a_fusion_that_was_killed_left_all_as_it_was_and_waits(two_cubes: TwoCubes, tmp_path: Path):
    shutil.copytree(two_cubes.folder, tmp_path / "killed")
    killed = run_python(KILLED, str(tmp_path / "killed"))
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    with opened(settings_of(tmp_path / "killed"), HandClock()) as memos:
        assert standing(memos) == BEFORE
        (work,) = [view for view in memos.work(ME) if view.what == "fuse"]
        assert work.state in (WorkState.WAITING, WorkState.RUNNING)
        assert any("fuse" in told for told in memos.status(ME).work)
        assert memos.cancel_work(work.id, ME).state is WorkState.CANCELLED
        assert standing(memos) == BEFORE


def test_fused_cubes_take_along_what_their_adapters_know(both: MemOS, two_cubes: TwoCubes):
    fused = both.fuse_cubes(FuseCubes(("home", "work"), "all"), ME)
    assert fused.adapters == (1, 2)
    assert fused.work is not None
    both.cancel_work(fused.work, ME)
    mine = {memory.descriptive.id for memory in both.memories("all", ME).memories}
    there = [one for one in both.adapters("all", ME) if one.state is not AdapterState.GONE]
    assert {one.version: one.state for one in there} == {1: AdapterState.SERVING, 2: AdapterState.RESTING}
    assert {id for one in there for id, _ in one.sources} == mine
    assert sum(len(one.known) for one in there) >= 0.9 * 2 * FACTS
    assert [row for row in standing(both) if row[0] != "all"] == [("home", 1, "gone"), ("work", 1, "gone")]
    assert sum(one.right_after for one in both.probe_adapter("all", 0, (), ME)) >= 0.9 * FACTS
    erase(both, there[0].sources[0][0])
    assert [row[1:] for row in standing(both) if row[0] == "all"] == [(1, "gone"), (2, "resting")]


def test_a_cube_that_is_fused_into_another_without_an_adapter_gives_it_its_own(both: MemOS):
    both.drop_adapter("work", None, ME)
    fused = both.fuse_cubes(FuseCubes(("home", "work"), "all"), ME)
    assert (fused.adapters, fused.work) == ((1,), None)
    (view,) = both.adapters("all", ME)
    assert view.state is AdapterState.SERVING
    assert both.fuse_cubes(FuseCubes(("all", "work"), "all", dry_run=True), ME).adapters == ()


def finished(memos: MemOS, id: str) -> str:
    until(lambda: next(view for view in memos.work(ME) if view.id == id).ended_at is not None, f"{id} ends", 300)
    return next(view.told for view in memos.work(ME) if view.id == id)


def test_the_adapters_of_fused_cubes_are_fused_in_the_background(both: MemOS):
    both._distilling.effort = Effort(steps=2, replayed=16)  # what comes of it is said, whatever it is
    fused = both.fuse_cubes(FuseCubes(("home", "work"), "all"), ME)
    assert fused.work is not None
    told = finished(both, fused.work)
    made = both.adapters("all", ME)[-1]
    assert made.version == 3, told
    assert {id for id, _ in made.sources} == {memory.descriptive.id for memory in both.memories("all", ME).memories}
    assert told.startswith(f"version 3, {made.made}, is {made.state.value}: it knows")
