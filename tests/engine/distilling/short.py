"""Trainings of the small model that are cut short, and what is left of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.distilling.effort import Effort
from engine.memos import MemOS
from engine.operations import Progress, silent
from engine.tier_operations import AdapterState, AdapterView, Distil, Judged, WorkView
from tests.engine.stores import ME

SHORT = Effort(steps=4, replayed=24, checkpoint_steps=3, whole=True)
ENDLESS = 20_000  # steps
TOLD = ("the city of alice is paris .", "bob has the color red .", "the pet of carol is cat .")


def request(ids: Sequence[str] = (), *, background: bool = False, **more: object) -> Distil:
    return Distil("home", tuple(ids), background=background, **more)  # type: ignore[arg-type]


def distilled(memos: MemOS, ids: Sequence[str] = (), progress: Progress = silent, **more: object) -> AdapterView:
    view = memos.distil(request(ids, **more), ME, progress)  # type: ignore[arg-type]
    assert isinstance(view, AdapterView)
    return view


def queued(memos: MemOS, ids: Sequence[str] = (), **more: object) -> WorkView:
    view = memos.distil(request(ids, background=True, **more), ME)  # type: ignore[arg-type]
    assert isinstance(view, WorkView)
    return view


def in_service(memos: MemOS, view: AdapterView) -> AdapterView:
    """Have a version serve that was trained too short to pass: somebody judged it anew."""
    store = memos._answering.for_training(ME)[0].adapters
    passed = Judged(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    store.judge(store.row(view.cube, view.version), passed, [id for id, _ in view.sources], ME)
    store.activate(view.cube, view.version, ME, None)
    return next(one for one in memos.adapters(view.cube, ME) if one.id == view.id)


def ids_of(memos: MemOS) -> list[str]:
    """The memories, in the order in which they were told."""
    return sorted(memory.id for memory in memos.memories("home", ME, state="generated").memories)


def versions(memos: MemOS) -> list[tuple[int, AdapterState]]:
    return [(one.version, one.state) for one in memos.adapters("home", ME)]


@contextmanager
def held_up(memos: MemOS) -> Iterator[None]:
    """A reply without end, behind which all training waits."""

    def endless(loaded: object) -> Iterator[None]:
        while True:
            yield None

    _, runner = memos._answering.for_training(ME)
    with runner.stream(endless) as reply:
        next(reply)
        yield


def nothing_is_left(memos: MemOS) -> None:
    """No adapter, no checkpoint, nothing in the model."""
    vault, settings = memos._parts.vault, memos._parts.vault.settings
    assert memos.adapters("home", ME) == ()
    assert vault.rows("SELECT count(*) FROM artifacts") == [(0,)]
    assert files_of(settings.blobs_folder) == files_of(settings.checkpoints_folder) == []
    local, runner = memos._answering.for_training(ME)
    assert runner.call(lambda loaded: local.adapters.resident(loaded).adapters) == ()


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
