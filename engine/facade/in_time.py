"""The part of the facade for time: versions of memories, moments of cubes, going back to them.

Thin calls, as the rest of the facade.
"""

from __future__ import annotations

from datetime import datetime

from cubes import Memory
from engine import history as versions
from engine import timeline
from engine.cube_operations import Changed, CubeDiff, CubeVersion, RolledBack, Snapshot
from engine.facade.wiring import Wired
from engine.operations import Caller, Progress, Version, silent


class InTime(Wired):
    """What can be done with the past."""

    def history(self, id: str, caller: Caller) -> tuple[Version, ...]:
        """All versions of a memory, oldest first. See `engine.history`."""
        return versions.history(self._parts, id, caller)

    def restore(self, id: str, version: int, caller: Caller, reason: str | None = None) -> Memory:
        """Make an earlier version the present one. See `engine.history`."""
        return versions.restore(self._parts, id, version, caller, reason)

    def diff_versions(self, id: str, a: int, b: int, caller: Caller) -> Changed:
        """In which fields two versions of a memory differ. See `engine.timeline.differences`."""
        return timeline.diff_versions(self._parts, id, a, b, caller)

    def snapshot(self, cube: str, name: str, caller: Caller, reason: str | None = None) -> Snapshot:
        """Name the present moment of a cube. See `engine.timeline.moments`."""
        return timeline.snapshot(self._parts, cube, name, caller, reason)

    def snapshots(self, cube: str, caller: Caller) -> tuple[Snapshot, ...]:
        """The named moments of a cube, oldest first."""
        return timeline.snapshots(self._parts, cube, caller)

    def drop_snapshot(self, cube: str, name: str, caller: Caller) -> None:
        """Take its name away from a moment."""
        timeline.drop_snapshot(self._parts, cube, name, caller)

    def memories_as_of(self, cube: str, moment: str | datetime, caller: Caller) -> tuple[Memory, ...]:
        """Every memory that a cube held at a moment: a snapshot's name, an ISO instant, or "now"."""
        return timeline.memories_as_of(self._parts, cube, moment, caller)

    def diff_cube(self, cube: str, before: str, after: str, caller: Caller) -> CubeDiff:
        """What differs between two moments of a cube. See `engine.timeline.differences`."""
        return timeline.diff_cube(self._parts, cube, before, after, caller)

    def rollback(
        self,
        cube: str,
        to: str,
        caller: Caller,
        reason: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> RolledBack:
        """Make a cube say again what it said at a moment. See `engine.timeline.rolling_back`."""
        done = timeline.rollback(self._parts, cube, to, caller, reason, dry_run, progress)
        self._work.set()  # vectors that could not be made beforehand
        return done

    def answered_rollback(self, cube: str, to: str, caller: Caller, reason: str | None = None) -> RolledBack | None:
        """The recorded answer where the caller's operation carried out this very rollback already."""
        return timeline.answered_rollback(self._parts, cube, to, caller, reason)

    def cube_history(self, cube: str, caller: Caller) -> tuple[CubeVersion, ...]:
        """Every version of a cube's header, oldest first."""
        return timeline.cube_history(self._parts, cube, caller)
