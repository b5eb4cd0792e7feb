"""Kill a process that distils, brings adapters into service, fuses and erases, and look at what is left.

    python -m tests.engine.distilling.killing --rounds 40

A process kills itself before the file operation of a number in its data folder, when its work is so far, or is killed
after so many seconds. What must come out: a store that is whole; adapters whose memories are what they were made from,
with the weights that they name; one that serves at most; checkpoints of work that goes on, and of nothing else; work
that is resumed, or told as given up.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from engine.distilling.effort import Effort
from engine.memos import MemOS
from engine.settings import Settings
from engine.tier_operations import AdapterState, AdapterView, Distil, FuseAdapters, WorkState
from engine.tiers.lora.headers import source_pairs
from engine.vault.adapters import AdapterRow, adapters_of
from engine.vault.blobs import blob_path, read_blob
from tests.conftest import until
from tests.engine.distilling.short import files_of, in_service
from tests.engine.stores import ME, erase, opened, say, settings_for
from tests.models.fixtures import LATEST_WINS

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.engine.distilling.killing"])
OPERATIONS = ("open", "os.rename", "os.remove")
QUICK = Effort(steps=9, replayed=16, checkpoint_steps=4, whole=True)
TOLD = ("the city of alice is paris .", "bob has the color red .", "the pet of carol is cat .")
MORE = ("the job of dave is baker .", "erin has the food soup .")
NEVER = 1 << 30
OPEN = (WorkState.WAITING, WorkState.RUNNING)


def begun(data: Path) -> Settings:
    """A store with two cubes, the adapter of one of which serves."""
    settings = replace(settings_for(data), model=str(LATEST_WINS), model_dtype="float32")
    torch.set_num_threads(1)
    with opened(settings) as memos:
        for cube, texts in (("home", TOLD), ("work", MORE)):
            for text in texts:
                say(memos, text, cube=cube)
        in_service(memos, distilled(memos))
    return settings


def distilled(memos: MemOS, cube: str = "home", tell: Callable[[float], None] = lambda done: None) -> AdapterView:
    memos._distilling.effort = QUICK
    view = memos.distil(Distil(cube, seed=5), ME, lambda done, total, message: tell(done))
    assert isinstance(view, AdapterView)
    return view


def without_model(settings: Settings) -> Settings:
    """The same store, in which no work goes on."""
    return replace(settings, model=None)


# --- what is done until the kill ------------------------------------------------------------------------------------


def distilling(memos: MemOS, tell: Callable[[float], None]) -> None:
    distilled(memos, "home", tell)


def activating(memos: MemOS, tell: Callable[[float], None]) -> None:
    for number in range(40):
        memos.activate_adapter("home", None if number % 2 else 1, ME)
        tell(number / 40)


def erasing(memos: MemOS, tell: Callable[[float], None]) -> None:
    memos._distilling.effort = QUICK
    first = min(memory.id for memory in memos.memories("home", ME).memories)
    erase(memos, first)
    tell(1.0)


def fusing(memos: MemOS, tell: Callable[[float], None]) -> None:
    in_service(memos, distilled(memos, "work"))
    parts = (("home", 0), ("work", 0))
    memos.fuse_adapters(FuseAdapters(parts, "home"), ME, lambda done, total, message: tell(done / (total or 1)))


KINDS: dict[str, Callable[[MemOS, Callable[[float], None]], None]] = {
    "distil": distilling,
    "activate": activating,
    "erase": erasing,
    "fuse": fusing,
}


def killed(settings: Settings, kind: str, *, at: int = NEVER, share: float = 2.0, after_s: float | None = None) -> bool:
    """Whether a process was killed before it was done."""
    process = PROCESSES.Process(target=_run, args=(settings, kind, at, share))
    process.start()
    process.join(after_s)
    process.kill()
    process.join()
    code = process.exitcode
    process.close()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _run(settings: Settings, kind: str, limit: int, share: float) -> None:
    torch.set_num_threads(1)
    with opened(settings) as memos:
        count, folder = 0, f"{settings.data}{os.sep}"

        def end() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def heard(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event in OPERATIONS and isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(folder):
                count += 1
                if count == limit:
                    end()

        sys.addaudithook(heard)
        KINDS[kind](memos, lambda done: end() if done >= share else None)


# --- what is left ---------------------------------------------------------------------------------------------------


def look(settings: Settings) -> Counter[str]:
    """Check all that is left, before any work goes on; how it stands."""
    with opened(without_model(settings)) as memos:
        vault = memos._parts.vault
        assert memos.verify(ME) == ()
        rows = vault.rows("SELECT id, digest, kind FROM artifacts")
        names = {blob_path(settings, digest, vault.sealer).name for _, digest, _ in rows}
        assert set(files_of(settings.blobs_folder)) == names
        live = dict(vault.rows("SELECT id, version FROM memories"))
        there = {id for id, _, kind in rows if kind == "lora"}
        adapters = {row.artifact: row for row in adapters_in(memos)}
        assert there == {id for id, row in adapters.items() if row.state is not AdapterState.GONE}
        for id in there:
            assert all(live.get(memory) == version for memory, version in source_pairs(adapters[id]))
            for _ in read_blob(settings, str(adapters[id].header["blob"]), vault.sealer):
                pass  # it is what its digest says, or this raises
        serving = Counter(row.cube for row in adapters.values() if row.state is AdapterState.SERVING)
        assert set(serving.values()) <= {1}
        work = memos.work(ME)
        waiting = {view.id for view in work if view.state in OPEN}
        assert {name.partition(".")[0] for name in files_of(settings.checkpoints_folder)} <= waiting
        assert all(view.state is not WorkState.RUNNING for view in work)
        told = memos.status(ME).work
        cut_off = [view for view in work if view.state is WorkState.WAITING and view.attempts]
        assert all(any(view.id in line and "was cut off" in line for line in told) for view in cut_off)
        return Counter({f"{view.what} {view.state.value}": 1 for view in work} | {"cut off": len(cut_off)})


def adapters_in(memos: MemOS) -> list[AdapterRow]:
    with memos._parts.vault.reading() as connection:
        return adapters_of(connection)


def gone_on_with(settings: Settings) -> list[AdapterView]:
    """Open the store again and let its work come to an end; the adapters that there are."""
    with opened(settings) as memos:
        memos._distilling.effort = QUICK
        until(lambda: all(view.state not in OPEN for view in memos.work(ME)), "the work ends", 300)
        assert all(view.state is not WorkState.FAILED for view in memos.work(ME)), memos.work(ME)
        assert files_of(settings.checkpoints_folder) == []
        return [one for one in memos.adapters(None, ME) if one.state is not AdapterState.GONE]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    given = arguments.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = begun(Path(folder) / "data")
        for kind in given.kinds:
            seen: Counter[str] = Counter()
            for number in range(given.rounds):
                _round(settings, kind, number, chance, seen)
            print(f"{kind}: {dict(seen)}", flush=True)


def _round(settings: Settings, kind: str, number: int, chance: random.Random, seen: Counter[str]) -> None:
    how = ({"at": chance.randrange(1, 40)}, {"share": chance.random()}, {"after_s": 1 + 8 * chance.random()})[
        number % 3
    ]
    seen["killed" if killed(settings, kind, **how) else "done"] += 1  # type: ignore[arg-type]
    seen.update(look(settings))
    gone_on_with(settings)
    with opened(settings) as memos:  # as it was at first
        if not any(view.state is AdapterState.SERVING for view in memos.adapters("home", ME)):
            for text in TOLD:
                say(memos, text, cube="home")
            in_service(memos, distilled(memos))


if __name__ == "__main__":
    main()
