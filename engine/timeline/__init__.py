"""Versions and time of whole cubes: snapshots, differences, rollback, retention."""

from engine.timeline.differences import diff_cube, diff_versions
from engine.timeline.moments import cube_history, drop_snapshot, memories_as_of, snapshot, snapshots
from engine.timeline.retention import retain
from engine.timeline.rolling_back import answered_rollback, rollback

__all__ = [
    "answered_rollback",
    "cube_history",
    "diff_cube",
    "diff_versions",
    "drop_snapshot",
    "memories_as_of",
    "retain",
    "rollback",
    "snapshot",
    "snapshots",
]
