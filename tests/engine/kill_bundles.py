"""Kill a process in the middle of packing, installing or upgrading, again and again, and look at what is left.

    python -m tests.engine.kill_bundles --rounds 30

What must come out: the file, or the cube, as it was before, or as it is after; the store whole, and nothing besides.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cubes.bundle import open_bundle
from engine.cube_operations import Govern, Install, Pack
from engine.memos import MemOS
from engine.settings import Settings
from tests.engine.stores import ME, opened, run_python, say, settings_for

MEMORIES = 3_000
_HEAD = """
import sys
from pathlib import Path
from engine.cube_operations import Install, Pack
from engine.memos import MemOS
from engine.operations import Caller
from engine.settings import Settings

def tell(done, total, message):
    print("now", flush=True)

with MemOS.open(Settings(data=Path(sys.argv[1]), embedder="none", offline=True, backup_every_h=0)) as memos:
"""
PACK = f"{_HEAD}    memos.pack(Pack('home', Path(sys.argv[2]), replace=True), Caller(), tell)\n"
INSTALL = f"{_HEAD}    memos.install(Install(sys.argv[2], upgrade=sys.argv[3] == 'upgrade'), Caller(), tell)\n"


@dataclass(frozen=True)
class Ground:
    """Two bundles of one cube, the second one newer, and the store that they come from."""

    folder: Path
    origin: Settings
    first: Path
    second: Path

    def fresh(self, name: str) -> Settings:
        return settings_for(self.folder / name)


def prepare(folder: Path, memories: int = MEMORIES) -> Ground:
    ground = Ground(folder, settings_for(folder / "origin"), folder / "1.memcube", folder / "2.memcube")
    with opened(ground.origin) as memos:
        records = [{"content": f"Lamp number {n} is red.", "cube": "home"} for n in range(memories)]
        assert memos.import_memories(records, ME).added == memories
        memos.pack(Pack("home", ground.first), ME)
        some = [memory.id for memory in memos.memories("home", ME, limit=500).memories]
        memos.govern(Govern(tuple(some), tags=("lit",)), ME)
        for number in range(50):
            say(memos, f"Harbour number {number} opens at eight.", cube="home")
        memos.pack(Pack("home", ground.second), ME)
    return ground


def kill(code: str, delay_s: float, *arguments: str) -> bool:
    """Kill a process so long after it began its work; False: it had ended by itself."""
    process = run_python(code, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    ended = process.wait()
    process.stdout.close()
    assert ended in (0, -signal.SIGKILL)
    return ended != 0


def count_in(path: Path) -> int:
    with open_bundle(path) as bundle:
        return bundle.manifest.counts.memories


def packing(ground: Ground, delay_s: float) -> str:
    """A bundle that is replaced while its writer is killed."""
    folder = ground.folder / "out"
    folder.mkdir(exist_ok=True)
    target = folder / "home.memcube"
    target.write_bytes(ground.first.read_bytes())
    kill(PACK, delay_s, str(ground.origin.data), str(target))
    with open_bundle(target) as bundle:
        bundle.verify()
        count = bundle.manifest.counts.memories
    left = [path.name for path in folder.iterdir() if path != target]
    assert not left, f"{left} is left beside it"
    with opened(ground.origin) as memos:
        assert memos.verify(ME) == ()
    return "after" if count == count_in(ground.second) else "before"


def installing(ground: Ground, delay_s: float) -> str:
    """A cube that is installed beside another one while the process is killed."""
    settings = ground.fresh(f"installed-{time.monotonic_ns()}")
    with opened(settings) as memos:
        mine = say(memos, "Mine.", cube="mine")
        before = _rows(memos)
    kill(INSTALL, delay_s, str(settings.data), str(ground.first), "new")
    with opened(settings) as memos:
        assert memos.verify(ME) == ()
        assert memos.memory(mine, ME).memory.content == "Mine."
        if [view.cube.name for view in memos.cubes(ME)] == ["mine"]:
            assert _rows(memos) == before
            return "before"
        _same(memos, ground.first, ground.folder)
    return "after"


def upgrading(ground: Ground, delay_s: float) -> str:
    """A cube that is brought up to a newer bundle while the process is killed."""
    settings = ground.fresh(f"upgraded-{time.monotonic_ns()}")
    with opened(settings) as memos:
        memos.install(Install(str(ground.first)), ME)
    kill(INSTALL, delay_s, str(settings.data), str(ground.second), "upgrade")
    with opened(settings) as memos:
        assert memos.verify(ME) == ()
        after = memos.cube("home", ME).memories == count_in(ground.second)
        _same(memos, ground.second if after else ground.first, ground.folder)
    return "after" if after else "before"


def _rows(memos: MemOS) -> list[int]:
    tables = ("memories", "versions", "embeddings", "usage", "lineage", "artifacts", "cubes", "audit")
    return [memos._parts.vault.rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables]


def _same(memos: MemOS, bundle: Path, folder: Path) -> None:
    """The cube is what the bundle says, to the byte."""
    again = folder / "again.memcube"
    memos.pack(Pack("home", again, replace=True), ME)
    assert again.read_bytes() == bundle.read_bytes()


KINDS: dict[str, Callable[[Ground, float], str]] = {
    "pack": packing,
    "install": installing,
    "upgrade": upgrading,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--rounds", type=int, default=30)
    arguments.add_argument("--longest", type=float, default=3.0, help="seconds until the kill, at most")
    given = arguments.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        ground = prepare(Path(folder))
        for name, run in KINDS.items():
            seen = Counter(run(ground, chance.random() * given.longest) for _ in range(given.rounds))
            print(f"{name}: {given.rounds} kills: {dict(seen)}", flush=True)


if __name__ == "__main__":
    main()
