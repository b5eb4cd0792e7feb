"""Kill a process that builds, saves, merges and evicts KV caches, again and again, and look at what is left.

    python -m tests.engine.tiers.killing --rounds 200

A process kills itself before the file operation of a number in its data folder, or is killed after so many seconds.
What must come out: a store that is whole; rows and blobs that belong together; no cache that is not, number by number,
what its tokens make it; none of a memory that has changed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from engine.settings import Settings
from engine.tiers.kv.store import Scope
from tests.engine.stores import ME, archive, encrypted, erase, say, settings_for
from tests.engine.tiers.caches import TOKEN_BYTES, Kept, kept, layers_for, model, part, tokens

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.engine.tiers.killing", "tests.engine.vault.killing"])
OPERATIONS = ("open", "os.rename", "os.remove")
INFO = model()
TURNS = 12  # of one process
FOREVER = 1_000_000
NAMES = ("owner", "ben")


def small(settings: Settings) -> Settings:
    """With budgets so small that there is always something to evict."""
    return replace(settings, kv_disk_bytes=900 * TOKEN_BYTES, kv_ram_bytes=500 * TOKEN_BYTES)


def conversation(name: str, seed: int) -> list[int]:
    return [*tokens(32), *tokens(16 * TURNS, seed=seed + len(name))]


def work(store: Kept, seed: int) -> None:
    """Two conversations, notes with chunks and a pinned block; notes are archived and erased on the way."""
    chance, notes = random.Random(seed), list[str]()
    for turn in range(1, TURNS + 1):
        for name in NAMES:
            prompt = conversation(name, seed)[: 32 + 16 * turn]
            start = store.filled(INFO, [Scope.talk(name)], prompt)
            layers = part(layers_for(prompt), start, len(prompt))
            store.kv.keep_prefix(INFO, Scope.talk(name), "", prompt, layers, start, ())
        notes.append(say(store.memos, f"Note {turn} of round {seed} is here.", cube="home"))
        ids = tokens(40, seed=turn)
        store.kv.keep_chunk(INFO, "home", notes[-1], 1, ids, layers_for(ids), 0.0)
        pinned = tokens(48, seed=1_000 + turn)
        store.kv.keep_prefix(INFO, Scope.cube("home"), "home", pinned, layers_for(pinned), 0, [(notes[-1], 1)])
        if notes and chance.random() < 0.3:
            archive(store.memos, notes.pop(chance.randrange(len(notes))))
        if notes and chance.random() < 0.05:
            erase(store.memos, notes.pop())
        if chance.random() < 0.2:
            store.kv.sweep()
    store.kv.flush()


def look(settings: Settings, seeds: range) -> int:
    """Check everything that is left; how many caches that are."""
    with kept(settings) as store:
        vault = store.memos._parts.vault
        rows = vault.rows("SELECT id, digest, cube, sources FROM artifacts")
        names = {path.name for path in settings.blobs_folder.iterdir()} if settings.blobs_folder.exists() else set()
        assert names == {digest.removeprefix("sha256:") + vault.sealer.suffix for _, digest, _, _ in rows}
        live = dict(vault.rows("SELECT id, version FROM memories"))
        assert all(live.get(id) == 1 for _, _, _, sources in rows for id in sources)
        for seed in seeds:
            for name in NAMES:
                store.filled(INFO, [Scope.talk(name)], conversation(name, seed))
            for turn in range(1, TURNS + 1):
                store.filled(INFO, [Scope.cube("home")], tokens(48, seed=1_000 + turn))
        for id in live:
            chunk = store.kv.chunk(INFO, "home", id, 1)
            if chunk is not None:
                assert any(chunk.fits(tokens(40, seed=turn)) for turn in range(1, TURNS + 1))
                assert chunk.load() is not None
        assert store.kv.remarks() == ()  # nothing was found damaged
        assert store.memos.verify(ME) == ()
        totals = store.kv.totals()
        assert (totals.caches, totals.disk_bytes <= settings.kv_disk_bytes) == (len(rows), True)
    return len(rows)


def killed(settings: Settings, seed: int, *, at: int = FOREVER, after_s: float | None = None) -> bool:
    """Whether a process was killed before it was done."""
    process = PROCESSES.Process(target=_run, args=(settings, seed, at))
    process.start()
    process.join(after_s)
    process.kill()
    process.join()
    code = process.exitcode
    process.close()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _run(settings: Settings, seed: int, limit: int) -> None:
    count, folder = 0, f"{settings.data}{os.sep}"

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in OPERATIONS and isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(folder):
            count += 1
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heard)
    with kept(settings) as store:
        work(store, seed)


def rounds(settings: Settings, count: int, chance: random.Random, longest_s: float, most: int) -> Counter[str]:
    """Kill one process after another over one store; by a file operation and by time in turns."""
    seen: Counter[str] = Counter()
    for number in range(count):
        if number % 2:
            ended = killed(settings, number, after_s=chance.random() * longest_s)
        else:
            ended = killed(settings, number, at=chance.randrange(1, most))
        seen["killed" if ended else "done"] += 1
        seen["caches"] += look(settings, range(max(0, number - 2), number + 1))
    return seen


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("--longest", type=float, default=4.0, help="seconds until a kill, at most")
    arguments.add_argument("--most", type=int, default=400, help="file operations until a kill, at most")
    given = arguments.parse_args()
    for kind in ("plain", "sealed"):
        with tempfile.TemporaryDirectory() as folder:
            settings = small(settings_for(Path(folder) / "data"))
            settings = settings if kind == "plain" else encrypted(settings)
            seen = rounds(settings, given.rounds // 2, random.Random(0), given.longest, given.most)
            print(f"{kind}: {dict(seen)}", flush=True)


if __name__ == "__main__":
    main()
