"""The bundles of one folder, or one bundle by itself: each is shown as a cube of its own, read-only.

A bundle is verified and put into the vault under the same rules as one that a person installs; what is refused is
named, with why, and nothing of it is shown. A file that is replaced shows what it holds now, in place of what it held;
where it is gone from a folder that is there, its cube goes too. A file that is still being written is left until it is
whole. The files stay the truth: what a killed process left half-way is done anew when the store is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from engine import loader
from engine.cube_operations import Install, Mount
from engine.embeddings import SYSTEM
from engine.errors import Busy, Cancelled, Conflict, MemosError, NotFound
from engine.operations import Caller, Progress
from engine.parts import Parts
from engine.removing import UNMOUNT, remove
from engine.vault import Transaction, queries
from engine.watcher import rows
from engine.watcher.folder import READ_BYTES, Look, Scan, Stopped
from engine.watcher.rows import BUNDLE, Row

WRITTEN_NS = 400_000_000  # a file that changed less than this ago may still be being written
NOTE = "mount:"  # before the path: the note in the vault that says what file a cube was read from


LIVE = "live"
_VERSIONS = (
    "SELECT (SELECT count(*) FROM memories WHERE cube = ?) + (SELECT count(*) FROM versions WHERE cube = ?) AS versions"
)


@dataclass(frozen=True, slots=True)
class _Held:
    """A bundle that is shown."""

    cube: str
    digest: str
    look: Look | None = None  # None: not looked at since the store was opened


class Bundles:
    """The bundles of one mount. Not for several threads at once."""

    def __init__(self, parts: Parts, row: Row) -> None:
        self._parts = parts
        self._row = row
        self._root = Path(row.path).parent if row.kind == BUNDLE else Path(row.path)
        self._refused: dict[str, Look] = {}
        self._names: dict[str, str] = {Path(row.path).name: row.cube} if row.kind == BUNDLE and row.cube else {}
        self.problems: dict[str, str] = {}
        self._held = self._load()

    # --- keeping up --------------------------------------------------------------------------------------------

    def refresh(
        self, found: Scan, noticed: Collection[str], stopped: Callable[[], bool], caller: Caller | None
    ) -> bool:
        """Show what is there now; whether anything changed, or has to be looked at again soon.

        With a `caller` the mount is new, and a single bundle that is refused raises `MemosError`.
        """
        held, changed = self._held, False
        for path in [path for path in held if path not in found.bundles and not found.could_hold(path)]:
            self._take_away(path, held.pop(path).cube)
            changed = True
        for gone in [path for path in self.problems if path not in found.bundles]:
            del self.problems[gone]
        for path, look in found.bundles.items():
            if stopped():
                raise Stopped
            seen = held[path].look if path in held else self._refused.get(path)
            if seen == look and not seen.racy and path not in noticed:
                continue
            if caller is None and 0 <= time.time_ns() - look.modified_ns < WRITTEN_NS:
                changed = True
                continue
            changed = self._show(path, look, stopped, caller) or changed
        return changed

    def _load(self) -> dict[str, _Held]:
        """What is shown already. Where a killed process left a mount without its cube, or a cube without its mount, it
        is shown anew under the same name."""
        noted = {row.path: row.cube for row in rows.rows(self._parts) if row.kind == BUNDLE}
        cubes = {cube.mounted: cube.name for cube in self._parts.vault.cubes() if cube.mounted is not None}
        held = {}
        for file, name in (noted | cubes).items():
            if file == self._row.path if self._row.kind == BUNDLE else rows.is_within(file, self._row.path):
                path = os.path.relpath(file, self._root).replace(os.sep, "/")
                if file in cubes:
                    digest = json.loads(self._parts.vault.note(NOTE + file) or "{}").get("digest", "")
                    held[path] = _Held(name, digest if noted.get(file) == name else "")
                elif name:
                    self._names[path] = name
        return held

    def _show(self, path: str, look: Look, stopped: Callable[[], bool], caller: Caller | None) -> bool:
        held = self._held.get(path)
        try:
            digest = _digest(self._root / path, stopped)
            if held is not None and held.digest == digest:
                self._held[path] = _Held(held.cube, digest, look)
                return False
            cube = self._put(path, digest, held, caller, stopped)
        except Cancelled as error:
            raise Stopped from error
        except FileNotFoundError:
            return True  # it went a moment ago
        except OSError as error:
            self.problems[path] = f"it cannot be read: {(error.strerror or type(error).__name__).lower()}"
            self._refused[path] = look
            return False
        except Busy:
            raise
        except MemosError as error:
            if caller is not None and self._row.kind == BUNDLE:
                raise
            self._refuse(path, look, held, error)
            return False
        self._held[path] = _Held(cube, digest, look)
        self._refused.pop(path, None)
        self.problems.pop(path, None)
        return True

    def _refuse(self, path: str, look: Look, held: _Held | None, error: MemosError) -> None:
        """Nothing of a bundle that is refused is shown; its cube stays as the file that was there before said."""
        why = str(error).removeprefix(f"{Path(path).name}: ")
        if isinstance(error, Conflict) and held is None:
            why = f"its name is taken here: mount it with `memos-mcp mount {self._root / path} --as NAME`"
        self.problems[path] = why
        self._refused[path] = look
        if held is not None:
            self._held[path] = _Held(held.cube, held.digest, look)

    def _put(
        self, path: str, digest: str, held: _Held | None, caller: Caller | None, stopped: Callable[[], bool]
    ) -> str:
        """Show the bundle. What it replaces is removed when all of it was read and found good."""
        file = str(self._root / path)
        asked = SYSTEM if caller is None else replace(caller, operation=None)
        request = Install(file, held.cube if held is not None else self._names.get(path))

        def progress(done: float, total: float | None, message: str) -> None:
            if stopped():
                raise Cancelled("the store is closing")

        if held is not None and self._upgraded(file, request, asked, progress):
            return self._note(file, digest, held.cube)
        if held is not None:
            trial = replace(request, name=f"{NOTE}{digest[:16]}", dry_run=True)
            loader.install(self._parts, Path(file), trial, asked, progress, mounted=file)
            self._remove(file, held.cube, f"{file} was replaced")
        cube = loader.install(self._parts, Path(file), request, asked, progress, mounted=file).cube
        return self._note(file, digest, cube)

    def _upgraded(self, file: str, request: Install, caller: Caller, progress: Progress) -> bool:
        """Bring the cube up to the file, if that makes it what the file holds: nobody then sees it gone meanwhile."""
        path, upgrade = Path(file), replace(request, upgrade=True)
        try:
            cube = loader.install(self._parts, path, upgrade, caller, progress, mounted=file).cube
        except (Conflict, NotFound):
            return False  # of another origin, or gone
        found = loader.inspect(self._parts.vault.settings, path)
        with self._parts.vault.reading() as connection:
            states = _folded(queries.counts(connection, "state", cube))
            (versions,) = connection.execute(_VERSIONS, [cube, cube]).fetchall()[0]
        return (states, versions) == (_folded(found.states), found.versions)

    def _note(self, file: str, digest: str, cube: str) -> str:
        """Note which file the cube was read from; its name."""

        def note(transaction: Transaction) -> None:
            rows.put(transaction, Row(file, BUNDLE, cube))
            transaction.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", [NOTE + file, json.dumps({"digest": digest})]
            )

        self._parts.vault.write(note, SYSTEM)
        return cube

    def _take_away(self, path: str, cube: str) -> None:
        """The file is gone: so is its cube."""
        file = str(self._root / path)
        self._remove(file, cube, f"{file} is gone")
        self._parts.vault.write(lambda transaction: forget(transaction, [file]), SYSTEM)

    def _remove(self, file: str, cube: str, reason: str) -> None:
        def job(transaction: Transaction) -> None:
            found = queries.cube(transaction.connection, cube)
            if found is not None and found.mounted == file:
                remove(self._parts, transaction, cube, UNMOUNT, reason=reason)

        self._parts.vault.write(job, SYSTEM)

    # --- being asked -------------------------------------------------------------------------------------------

    def retry(self, path: str, name: str | None) -> None:
        """Look at the bundle at `path` again, and show it under this name if it is not shown yet."""
        if name is not None:
            self._names[path] = name
        self._refused.pop(path, None)

    def cubes(self) -> dict[str, str]:
        """The cubes that show bundles, with the files that they show."""
        return {held.cube: str(self._root / path) for path, held in dict(self._held).items()}

    def shown(self, state: str) -> Iterator[Mount]:
        """Each bundle as a mount."""
        for path, held in sorted(dict(self._held).items()):
            with self._parts.vault.reading() as connection:
                states = dict(queries.counts(connection, "state", held.cube))
            count = sum(states.get(live, 0) for live in queries.LIVE_STATES)
            problem = (f"{path}: {self.problems[path]}",) if path in self.problems else ()
            yield Mount(str(self._root / path), BUNDLE, held.cube, state, count, problem)


def _folded(states: Collection[tuple[str, int]]) -> Counter[str]:
    """Counts by state, where having been used makes no difference."""
    found: Counter[str] = Counter()
    for state, count in states:
        found[LIVE if state in queries.LIVE_STATES else state] += count
    return found


def forget(transaction: Transaction, paths: Collection[str]) -> None:
    """Drop the rows and notes of these mounts."""
    rows.drop(transaction, list(paths))
    notes = [NOTE + path for path in paths]
    transaction.execute("DELETE FROM meta WHERE key IN (SELECT unnest(?::VARCHAR[]))", [notes])


def _digest(path: Path, stopped: Callable[[], bool]) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            found.update(data)
            if stopped():
                raise Stopped
    return found.hexdigest()
