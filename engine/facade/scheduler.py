"""The part of the facade for the scheduler: how it stands, a run by hand, its log, taking a move back.

Thin calls, as the rest of the facade.
"""

from __future__ import annotations

from engine.facade.wiring import Wired
from engine.operations import Caller, Progress, silent
from engine.scheduling.standing import require_owner
from engine.tier_operations import Scheduled, SchedulerStatus


class Scheduler(Wired):
    """What can be asked of the scheduler, by the owner of the store."""

    def scheduler(self, caller: Caller) -> SchedulerStatus:
        """Parts, budgets, levels, and what was done last. See `engine.scheduling`."""
        return self._scheduling.status(caller)

    def run_scheduler(
        self, caller: Caller, dry_run: bool = False, progress: Progress = silent
    ) -> tuple[Scheduled, ...]:
        """Plan now, and carry it out; in a dry run, what would be done. See `engine.scheduling`."""
        require_owner(caller)
        return self._scheduling.run(dry_run=dry_run, progress=progress)

    def scheduler_log(self, caller: Caller, limit: int = 50) -> tuple[Scheduled, ...]:
        """What it did, the latest first, each move with its reason. See `engine.scheduling`."""
        return self._scheduling.log(caller, limit)

    def undo_move(self, number: int, caller: Caller) -> Scheduled:
        """Take back one move. See `engine.scheduling.undoing`."""
        return self._scheduling.undo(number, caller)
