"""Folders of notes for tests, and what a cube that shows one has to say."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from engine.cube_operations import Mount
from engine.lifecycle.states import LIVE
from engine.memos import MemOS
from tests.engine.stores import ME

WORDS = ("harbour", "lantern", "meadow", "copper", "violet", "river", "stone", "garden", "piano", "rocket")


def live(memos: MemOS, cube: str = "notes") -> Counter[tuple[str, str]]:
    """(path, content) of each live note of the cube."""
    found: Counter[tuple[str, str]] = Counter()
    cursor = None
    while True:
        page = memos.memories(cube, ME, cursor=cursor, limit=500)
        found.update(
            (str(memory.descriptive.source), memory.content)
            for memory in page.memories
            if memory.state in LIVE and memory.descriptive.metadata is not None
        )
        cursor = page.next_cursor
        if cursor is None:
            return found


def written(folder: Path) -> Counter[tuple[str, str]]:
    """(path, content) of each note in the folder."""
    return Counter(
        (path.relative_to(folder).as_posix(), text)
        for path in folder.rglob("*.md")
        if path.is_file() and (text := path.read_text()).strip()
    )


def same(memos: MemOS, folder: Path, cube: str = "notes") -> Callable[[], bool]:
    return lambda: live(memos, cube) == written(folder)


def mounted(memos: MemOS, cube: str = "notes") -> Mount:
    return next(mount for mount in memos.mounts(ME) if mount.cube == cube)


def id_of(memos: MemOS, path: str, cube: str = "notes") -> str:
    return next(m.id for m in memos.memories(cube, ME, limit=1_000).memories if m.descriptive.source == path)


class Editor:
    """Somebody who works in a folder, in the ways in which programs write files. Everything follows from the seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.count = 0

    def text(self) -> str:
        self.count += 1
        words = " ".join(self.random.choices(WORDS, k=self.random.choice([5, 40, 40, 400])))
        return f"# Note {self.count}\n\nNumber {self.count} says {words}.\n"

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.md"))

    def fill(self, count: int) -> None:
        for number in range(count):
            self.new(self.folder / f"area {number % 7}" / f"note {number}.md")

    def new(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text())

    def burst(self, size: int) -> None:
        """So many things at once, of all sorts."""
        for _ in range(size):
            self.random.choice(
                [self.add, self.edit, self.edit, self.save, self.move, self.delete, self.copy, self.move_folder]
            )()

    def some(self) -> Path:
        return self.random.choice(self.files())

    def place(self) -> Path:
        return self.folder / f"area {self.random.randrange(9)}" / f"{self.random.choice('xyz')}" / f"n{self.count}.md"

    def add(self) -> None:
        self.count += 1
        self.new(self.place())

    def edit(self) -> None:
        """Truncate and write, in two steps."""
        with self.some().open("w") as file:
            file.write(self.text())
            file.flush()
            file.write("More of it.\n")

    def save(self) -> None:
        """Write beside it, then take its place, as editors do."""
        path = self.some()
        beside = path.with_name(f".{path.name}.swp")
        beside.write_text(self.text())
        os.replace(beside, path)

    def move(self) -> None:
        self.count += 1
        target = self.place()
        target.parent.mkdir(parents=True, exist_ok=True)
        self.some().rename(target)

    def delete(self) -> None:
        if len(self.files()) > 5:
            self.some().unlink()

    def copy(self) -> None:
        self.count += 1
        target = self.place()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.some().read_text())

    def move_folder(self) -> None:
        self.count += 1
        folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        self.random.choice(folders).rename(self.folder / f"moved {self.count}")

    def check_out(self, other: dict[str, str]) -> None:
        """Bring the folder to another state all at once, as a version control program does."""
        wanted = {self.folder / path: text for path, text in other.items()}
        for path in self.files():
            if path not in wanted:
                path.unlink()
        for path, text in wanted.items():
            if not path.exists() or path.read_text() != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.write_text(text)

    def state(self) -> dict[str, str]:
        return {path.relative_to(self.folder).as_posix(): path.read_text() for path in self.files()}
