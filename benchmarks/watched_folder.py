"""How soon recall follows a mounted folder of notes: bursts of edits, renames, deletes, saves and check-outs.

    python benchmarks/watched_folder.py                 500 files, 64 bursts, by words and with the embedder
    python benchmarks/watched_folder.py --files 5000 --bursts 8

After each burst it waits until nothing happens any more, checks that the cube holds exactly what the folder holds
(paths and contents, nothing twice), and asks for a word that only the newest file has. It prints, for each sort of
burst, how long after the last change of a file the last commit came that followed it, the processor time that was
spent on it by all threads, and how many bursts took more than a second. Nothing is asserted but that the cube equals
the folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.lifecycle.states import LIVE
from engine.memos import MemOS
from engine.operations import Caller, Event, Recall
from engine.settings import DEFAULT_EMBEDDER, NO_EMBEDDER, Settings

ME = Caller()
CUBE = "notes"
LIMIT_S = 60.0
QUIET_S = 1.5
WORDS = ("harbour", "lantern", "meadow", "copper", "violet", "river", "stone", "garden", "piano", "rocket")


class Folder:
    """Somebody who works in a folder of notes."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.random, self.count = path, random.Random(seed), 0
        self.stash: dict[str, str] = {}

    def text(self) -> str:
        self.count += 1
        words = " ".join(self.random.choices(WORDS, k=self.random.choice((20, 60, 60, 300))))
        return f"# Note {self.count}\n\nZz{self.count}q says {words}.\n"

    def fill(self, count: int) -> None:
        for number in range(count):
            path = self.path / f"area {number % 20}" / f"note {number}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text())
        self.stash = self.state()

    def files(self, share: float) -> list[Path]:
        files = sorted(self.path.rglob("*.md"))
        return self.random.sample(files, max(1, int(len(files) * share)))

    def state(self) -> dict[str, str]:
        return {path.relative_to(self.path).as_posix(): path.read_text() for path in sorted(self.path.rglob("*.md"))}

    def edit_one(self) -> None:
        self.files(0)[0].write_text(self.text())

    def edit_many(self) -> None:
        for path in self.files(0.3):
            path.write_text(self.text())

    def edit_all(self) -> None:
        for path in self.files(1):
            path.write_text(self.text())

    def save_many(self) -> None:
        for path in self.files(0.2):
            beside = path.with_name(f"{path.name}~")
            beside.write_text(self.text())
            os.replace(beside, path)

    def rename_many(self) -> None:
        for path in self.files(0.3):
            self.count += 1
            path.rename(path.with_name(f"renamed {self.count}.md"))

    def move_folders(self) -> None:
        for folder in sorted(path for path in self.path.iterdir() if path.is_dir())[:8]:
            self.count += 1
            folder.rename(self.path / f"moved {self.count}")

    def delete_and_add(self) -> None:
        gone = self.files(0.15)
        for path in gone:
            path.unlink()
        for _ in gone:
            path = self.path / f"fresh {self.count % 5}" / f"{self.count}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text())

    def check_out(self) -> None:
        now, then = self.state(), self.stash
        for path in now.keys() - then.keys():
            (self.path / path).unlink()
        for path, text in then.items():
            if now.get(path) != text:
                (self.path / path).parent.mkdir(parents=True, exist_ok=True)
                (self.path / path).write_text(text)
        self.stash = now


def live(memos: MemOS) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    cursor = None
    while True:
        page = memos.memories(CUBE, ME, cursor=cursor, limit=1_000)
        found.update(
            (str(memory.descriptive.source), memory.content)
            for memory in page.memories
            if memory.state in LIVE and memory.descriptive.metadata is not None
        )
        cursor = page.next_cursor
        if cursor is None:
            return found


def follow(memos: MemOS, folder: Folder, burst: Callable[[], None], told: list[float]) -> tuple[float, float]:
    """Seconds from the last change of a file until the last commit that followed it, and of processor time."""
    memos.sweep()  # what was recalled is noted before, not meanwhile
    told.clear()
    burst()
    last, busy = time.monotonic(), time.process_time()
    wanted = Counter(folder.state().items())
    while time.monotonic() - max([last, *told]) < QUIET_S:
        time.sleep(0.02)
    lag, busy = max([0.0, *(moment - last for moment in told)]), time.process_time() - busy
    while live(memos) != wanted:  # never seen; if it were, it would be late
        if (lag := time.monotonic() - last) > LIMIT_S:
            raise SystemExit("the cube does not equal the folder")
        time.sleep(0.1)
    newest = max(wanted, key=lambda item: number_of(item[1]))
    word = f"Zz{number_of(newest[1])}q"
    found = memos.recall(Recall(query=word, cubes=(CUBE,)), ME).memories
    if not any(word in item.memory.content for item in found):
        raise SystemExit("recall does not find what the folder says")
    return lag, busy


def number_of(text: str) -> int:
    return int(text.split("Zz")[1].split("q")[0])


def run(files: int, bursts: int, embedder: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as base:
        folder = Folder(Path(base) / CUBE, seed)
        folder.fill(files)
        settings = Settings(Path(base) / "data", embedder=embedder, offline=True, backup_every_h=0)
        with MemOS.open(settings) as memos:
            started = time.monotonic()
            memos.mount(folder.path, ME)
            took = time.monotonic() - started
            told: list[float] = []

            def heard(event: Event) -> None:
                if event.cube == CUBE and event.ids:
                    told.append(time.monotonic())

            memos.listen(heard)
            sorts = [folder.edit_one, folder.edit_many, folder.edit_all, folder.save_many, folder.rename_many]
            sorts += [folder.move_folders, folder.delete_and_add, folder.check_out]
            lags: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
            for number in range(bursts):
                burst = sorts[number % len(sorts)]
                lags[burst.__name__].append(follow(memos, folder, burst, told))
            lacking = memos.status(ME).degraded
            problems = memos.verify(ME)
    print(f"{files} files, {embedder}: mounted in {took * 1000:.0f} ms; at the end {lacking or 'nothing lacks'}")
    for name, found in lags.items():
        middle, worst = sorted(found)[len(found) // 2][0], max(found)[0]
        busy = sum(busy for _, busy in found) / len(found)
        print(f"  {name:16} median {middle * 1000:6.0f} ms   worst {worst * 1000:6.0f} ms   CPU {busy * 1000:6.0f} ms")
    late = sum(lag > 1 for found in lags.values() for lag, _ in found)
    print(f"  {bursts} bursts, {late} later than 1 s; cube equal to folder after each; verify: {problems or 'nothing'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--bursts", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--embedder", choices=("none", "default"), action="append")
    options = parser.parse_args()
    for which in options.embedder or ("none", "default"):
        print(f"\n{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        embedder = NO_EMBEDDER if which == "none" else DEFAULT_EMBEDDER
        run(options.files, options.bursts, embedder, options.seed)


if __name__ == "__main__":
    main()
