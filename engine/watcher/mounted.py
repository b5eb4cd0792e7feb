"""One mount at work: a folder or bundle, the cubes that show it, and in words how that goes.

Whoever refreshes a mount holds its lock; what went wrong is kept as its state and never raised, because the folder will
be looked at again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.cube_operations import Mount
from engine.errors import Busy, MemosError
from engine.operations import Caller
from engine.parts import Parts
from engine.watcher.bundles import Bundles
from engine.watcher.folder import Scan, Stopped, look_of, scan
from engine.watcher.following import Notes
from engine.watcher.rows import BUNDLE, NOTES, Row

PROBLEMS_SHOWN = 100
READY = "ready"
SETTLE_S = 0.3  # after a change a folder is looked at once more: it may have been in the middle of something
RETRY_S = 2.0  # after a failure of the store
REST = 4  # times as long as looking at a folder took, it is left alone, however busy it is
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Mounted:
    """A mount, and when it is to be looked at (`due_s`, in the seconds of `time.monotonic`)."""

    parts: Parts
    row: Row
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)
    state: str = "waiting"
    due_s: float = 0.0
    rests_until_s: float = 0.0
    noticed: set[str] = field(default_factory=set)
    notes: Notes | None = None
    bundles: Bundles = field(init=False)
    problems: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.notes = Notes(self.parts, self.path, self.row.cube) if self.row.kind == NOTES else None
        self.bundles = Bundles(self.parts, self.row)

    @property
    def path(self) -> Path:
        return Path(self.row.path)

    def identity(self) -> tuple[int, int] | None:
        """Which folder lies at the path now; None: none does. A watch of one that was there before sees nothing."""
        try:
            seen = self.path.stat()
        except (OSError, ValueError):
            return None
        return seen.st_dev, seen.st_ino

    def notice(self, path: str, now_s: float) -> None:
        """Something happened at `path`, which is relative to the folder."""
        self.noticed.add(path)
        self.due_s = min(self.due_s, max(now_s, self.rests_until_s))

    def show(self, path: str, name: str | None, stopped: Callable[[], bool]) -> None:
        """Look again at the bundle at `path` in the folder, and show it under this name if it is not shown yet."""
        with self.lock:
            self.bundles.retry(path, name)
        self.notice(path, time.monotonic())
        self.look(stopped)

    def look(self, stopped: Callable[[], bool], caller: Caller | None = None) -> bool:
        """Look at all of it and bring its cubes up to date; whether anything changed.

        With a `caller` the mount is new, and what fails is raised: `MemosError` or `OSError`.
        """
        with self.lock:
            if self.ended.is_set():
                return False
            return self._look(lambda: stopped() or self.ended.is_set(), caller)

    def _look(self, stopped: Callable[[], bool], caller: Caller | None) -> bool:
        noticed, self.noticed = self.noticed, set()
        self.due_s = float("inf")
        started_s = time.monotonic()
        try:
            found = self._scan(stopped)
            self.rests_until_s = time.monotonic() + REST * (time.monotonic() - started_s)
            changed = self.notes.refresh(found, noticed, stopped) if self.notes is not None else False
            changed = self.bundles.refresh(found, noticed, stopped, caller) or changed
        except Stopped:
            self._again(noticed, 0.0)
            return True
        except OSError as error:
            if caller is not None:
                raise
            self._say(
                f"missing: {(error.strerror or type(error).__name__).lower()}; its cube shows what was last there"
            )
            return False
        except MemosError as error:
            if caller is not None:
                raise
            if not isinstance(error, Busy):
                self._say(f"not up to date: {error}")
            self._again(noticed, RETRY_S)
            return True
        self._say(READY)
        self.problems = found.problems
        if changed:
            self._again(set(), SETTLE_S)
        return changed

    def _scan(self, stopped: Callable[[], bool]) -> Scan:
        now_ns = time.time_ns()
        if self.row.kind != BUNDLE:
            return scan(self.path, now_ns, stopped)
        found = Scan()
        if self.path.parent.is_dir():
            if self.path.is_file():
                found.bundles[self.path.name] = look_of(self.path.stat(), now_ns)
            return found
        raise FileNotFoundError(2, "no such file or directory")

    def _again(self, noticed: set[str], in_s: float) -> None:
        self.noticed |= noticed
        self.due_s = time.monotonic() + in_s

    def _say(self, state: str) -> None:
        if state != self.state and state != READY:
            log.warning("%s: %s", self.row.path, state)
        self.state = state

    # --- being asked -------------------------------------------------------------------------------------------

    def shown(self, remark: str | None) -> Iterator[Mount]:
        """The mount and the bundles in it; `remark`: what is to be said of watching."""
        told = {**self.problems, **(self.notes.problems if self.notes is not None else {}), **self.bundles.problems}
        problems = [f"{path}: {why}" for path, why in sorted(told.items())]
        if len(problems) > PROBLEMS_SHOWN:
            problems[PROBLEMS_SHOWN:] = [f"and {len(problems) - PROBLEMS_SHOWN} more"]
        state = f"{self.state}; {remark}" if remark is not None and self.state == READY else self.state
        bundles = list(self.bundles.shown(state))
        if self.row.kind != BUNDLE:
            count = len(self.notes) if self.notes is not None else 0
            yield Mount(self.row.path, self.row.kind, self.row.cube, state, count, tuple(problems))
        elif not bundles:
            yield Mount(self.row.path, self.row.kind, self.row.cube, state, 0, tuple(problems))
        yield from bundles
