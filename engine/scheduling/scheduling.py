"""Scheduling: the scheduler of one store, from what is used to what is moved.

    recall, replies, reading → used → heat and scenes (written in batches)
    sweep → decay → state → plan → moves, each with its row in the audit log → copies fused
    a reply → its turn learned → what is expected next → held ready in RAM (on a thread of its own)

Each part is switched off by itself (MEMOS_SCHEDULER); budgets and quiet hours are settings. Without a local model only
archiving and consolidation have anything to do, and cost next to nothing.

What must stay true: whoever asks never waits for any of this; two runs never overlap; after an erasure nothing here
knows what was erased.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from engine import upkeep
from engine.answering.answering import Answering
from engine.errors import MemosError
from engine.operations import Caller, Progress, silent
from engine.parts import Parts
from engine.scheduler.heat import Event
from engine.scheduler.moves import Level, Part
from engine.scheduler.plan import plan
from engine.scheduler.scenes import Turn
from engine.scheduling import log as moves_log
from engine.scheduling.caches import NO_MODEL, CacheTier
from engine.scheduling.consolidating import Consolidating
from engine.scheduling.executing import Executor, Training, scheduled
from engine.scheduling.log import NAMES
from engine.scheduling.noting import Noting
from engine.scheduling.predicting import Predicting
from engine.scheduling.standing import require_owner, status_of
from engine.scheduling.state import Look, budgets_of, read_state
from engine.scheduling.undoing import Undoing
from engine.tier_operations import Scheduled, SchedulerStatus
from engine.vault import Change, Transaction

LOOKED_AGAIN = timedelta(hours=1)  # though nothing was used or changed: what is warm cools
FULL_AGAIN = timedelta(minutes=10)  # a cube that is nearly full, of which nothing could be archived
TURNS_WAITING = 256  # for being learned; the log has all of them
MOST_LOGGED = 1_000
STEPS = 4  # of a run, for whoever watches it
LOOK_AGAIN_S = 0.05  # whether a reply has ended
log = logging.getLogger(__name__)


class Scheduling:
    """Made when the store is opened, which starts nothing: its thread starts with the first reply."""

    def __init__(self, parts: Parts, answering: Answering, training: Training | None = None) -> None:
        settings = parts.vault.settings
        self._parts, self._answering = parts, answering
        self.parts_on = frozenset(Part(name) for name in settings.scheduler)
        self._budgets = budgets_of(settings)
        self._caches = CacheTier(parts, answering)
        self._executor = Executor(parts, self._caches, training)
        self._undoing = Undoing(parts, self._caches, self._executor)
        self._consolidating = Consolidating(parts)
        self._noting = Noting(parts, scenes=Part.PRELOAD in self.parts_on)
        self._predicting = Predicting(parts)
        self._running = threading.Lock()
        self._turns: deque[Turn] = deque(maxlen=TURNS_WAITING)
        self._wake, self._ending, self._gate = threading.Event(), threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._last_run: datetime | None = None
        self._full_again: datetime | None = None  # before that, a sweep reads no cube that is nearly full
        self._seen_revision, self._used, self._fit_due = -1, False, False
        self._remarks: tuple[str, ...] = ()
        answering.when_ended = self._replied

    # --- what is used ----------------------------------------------------------------------------------------------

    def used(self, event: Event, ids: Sequence[str], caller: Caller, vector: NDArray[np.float32] | None = None) -> None:
        """Memories were used by a caller; `vector` is of what it asked. Costs whoever asks a few microseconds."""
        turn = self._noting.note(event, ids, caller, vector) if self.parts_on else None
        if turn is None:
            return
        self._used = True
        if Part.PRELOAD in self.parts_on and event is not Event.OPENED:
            with self._gate:
                self._turns.append(turn)
        if self._noting.due or (event is not Event.GIVEN and self._follows):
            self._begin()

    @property
    def _follows(self) -> bool:
        """Whether there is a model for which something can be held ready."""
        return Part.PRELOAD in self.parts_on and self._caches.ready

    def _replied(self) -> None:
        """A reply has ended: what comes after it can be made ready, which would have held it up before."""
        if self._follows:
            self._begin()

    def committed(self, changes: Sequence[Change], transaction: Transaction) -> None:
        """Called before a writing call returns: nothing here knows what it erased."""
        if not transaction.erasing:
            return
        erased = {change.id for change in changes if change.record is None}
        self._noting.forget(erased)
        with self._gate:
            kept = [turn for turn in self._turns if not erased.intersection(turn.used)]
            self._turns.clear()
            self._turns.extend(kept)
        self._predicting.forget()

    # --- by itself -------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Once a minute: a run, where anything was used or changed or was not looked at yet, or an hour has passed."""
        now, revision = self._parts.clock.now(), self._parts.vault.revision
        idle = not self._used and revision == self._seen_revision and not self._consolidating.behind
        if idle and self._last_run is not None and now - self._last_run < LOOKED_AGAIN:
            if Part.ARCHIVE in self.parts_on:
                upkeep.decay(self._parts)  # takes only time to come about, and is cheap to look for
            return
        self.run(now, quotas=self._full_again is None or now >= self._full_again)
        self._seen_revision = self._parts.vault.revision

    def run(
        self, now: datetime | None = None, *, dry_run: bool = False, quotas: bool = True, progress: Progress = silent
    ) -> tuple[Scheduled, ...]:
        """Plan, and carry it out; what was done, or (in a dry run) would be. `quotas`: also of nearly full cubes."""
        with self._running:
            now = now or self._parts.clock.now()
            on = self._able()
            progress(0, STEPS, "noting uses")
            self._used = self._used and dry_run
            self._taken()  # all of them are in the log once they are written
            self._noting.write()
            done = [] if dry_run else self._executor.flush()
            progress(1, STEPS, "archiving")
            done += self._decayed(dry_run=dry_run) if Part.ARCHIVE in on else []
            progress(2, STEPS, "planning")
            done += self._planned(now, on, dry_run=dry_run, quotas=quotas)
            progress(3, STEPS, "comparing")
            if Part.CONSOLIDATE in on and not self._budgets.is_quiet(now.astimezone()):
                done += self._consolidating.run(now, dry_run=dry_run)
            if not dry_run:
                self._last_run, self._fit_due = now, Part.PRELOAD in on
                if self._fit_due and self._thread is not None:
                    self._wake.set()
            progress(STEPS, STEPS, "done")
        return tuple(done)

    def _able(self) -> frozenset[Part]:
        """The parts that are on and have something to work with."""
        lacking: set[Part] = set()
        if not self._caches.ready:
            lacking |= {Part.KV, Part.PRELOAD}
        if self._executor.training is None or self._answering.untrainable() is not None:
            lacking.add(Part.LORA)
        return self.parts_on - lacking

    def _decayed(self, *, dry_run: bool) -> list[Scheduled]:
        """What nobody used for as long as its cube allows: see `engine.upkeep`, which does it for all memories."""
        if dry_run:
            told = Part.ARCHIVE.value, NAMES[Level.ARCHIVED]
            return [
                Scheduled(0, None, told[0], cube.name, tuple(ids), told[1], f"unused for {days:g} days", "planned", "")
                for cube, ids, days in upkeep.fading(self._parts)
            ]
        before = self._parts.vault.revision
        if not upkeep.decay(self._parts):
            return []
        with self._parts.vault.reading() as connection:
            return [moves_log.shown(row) for row in moves_log.rows(connection, since=before)]

    def _planned(self, now: datetime, on: Collection[Part], *, dry_run: bool, quotas: bool) -> list[Scheduled]:
        tiers = bool({Part.KV, Part.PRELOAD, Part.LORA}.intersection(on))
        caches = self._caches.look()
        chances: dict[str, tuple[float, str]] = {}
        if caches is not None and Part.PRELOAD in on:
            self._predicting.refresh()
            chances = self._predicting.chances(now, caches.kept)
        look = Look.ALL if tiers else Look.QUOTAS
        state = read_state(self._parts, caches, now, chances, self._executor.lately(now), look, quotas=quotas)
        found = plan(state, self._budgets, now.astimezone(), frozenset(on))
        self._remarks = found.remarks
        if quotas:
            fruitless = state.policies and not any(move.part is Part.ARCHIVE for move in found.moves)
            self._full_again = now + FULL_AGAIN if fruitless else None
        if dry_run:
            return [scheduled(move, 0, None, "planned") for move in found.moves]
        return self._executor.carry_out(found.moves, state.units, now)

    # --- after each reply ------------------------------------------------------------------------------------------

    def preload(self, now: datetime | None = None) -> int:
        """Learn what was used and hold ready what is expected next; how many memories are expected."""
        with self._running:
            now = now or self._parts.clock.now()
            turns = self._taken()
            caches = self._caches.look()
            if caches is None or Part.PRELOAD not in self.parts_on:
                return 0
            if self._predicting.empty:
                self._noting.write()
                self._predicting.refresh()
            else:
                self._predicting.learn(turns)
            chances = self._predicting.chances(now, caches.kept)
            state = read_state(self._parts, caches, now, chances, self._executor.lately(now), Look.CACHES)
            found = plan(state, self._budgets, now.astimezone(), frozenset({Part.PRELOAD}))
            self._executor.load(found.moves, now)
            return self._predicting.expected

    def _taken(self) -> list[Turn]:
        """The turns that wait for being learned, which do not any more."""
        with self._gate:
            turns = list(self._turns)
            self._turns.clear()
        return turns

    def _begin(self) -> None:
        """Have the thread look at what there is to do."""
        with self._gate:
            if self._thread is None and not self._ending.is_set():
                self._thread = threading.Thread(target=self._follow, name="memos-scheduler", daemon=True)
                self._thread.start()
        self._wake.set()

    def _follow(self) -> None:
        while True:
            self._wake.wait()
            while self._caches.at_work and not self._ending.wait(LOOK_AGAIN_S):
                pass  # a reply is under way, and goes first: what comes after it is of use only then
            self._wake.clear()
            if self._ending.is_set():
                return
            try:
                if self._noting.due:
                    self._noting.write()
                self.preload()
                self._fit()
            except MemosError as error:
                log.warning("what is needed next was not made ready: %s", error)
            except Exception as error:  # noqa: BLE001 - the outermost edge of this thread: the next turn may go well
                log.error("what is needed next was not made ready: %s", type(error).__qualname__)

    def _fit(self) -> None:
        """Fit what is predicted to the log, once a day. Nobody waits for it, and closing ends it."""
        with self._running:
            now = self._parts.clock.now()
            if not self._fit_due or self._budgets.is_quiet(now.astimezone()):
                return
            fitting = self._predicting.to_fit(now)
            self._fit_due = fitting is not None  # then of another one, too
        if fitting is None:
            return
        model = fitting.fitted(self._ending.is_set)
        if not self._ending.is_set():
            with self._running:
                self._predicting.take(fitting, model)

    # --- asked for -------------------------------------------------------------------------------------------------

    def status(self, caller: Caller) -> SchedulerStatus:
        """How the scheduler stands, for the owner. Raises `NotAllowed`."""
        require_owner(caller)
        now = self._parts.clock.now()
        remarks = [*self._remarks, *self._proposed()]
        if not self._caches.ready and {Part.KV, Part.PRELOAD} & self.parts_on:
            remarks.append(f"nothing is built or preloaded: {NO_MODEL}")
        if Part.LORA in self.parts_on and (why := self._answering.untrainable()) is not None:
            remarks.append(f"nothing is trained: {why}")
        if turns := self._predicting.fitted_turns:
            remarks.append(f"what is needed next is predicted from {turns} turns")
        return status_of(
            self._parts,
            self._caches.look(),
            self._budgets,
            now,
            parts_on=self.parts_on,
            last_run=self._last_run,
            predicted=self._predicting.expected,
            remarks=tuple(remarks),
        )

    def _proposed(self) -> list[str]:
        return [
            f"{len(groups)} groups of cube {cube!r} say nearly the same or contradict one another: "
            f"memos-mcp fuse --cube {cube} lists them"
            for cube, groups in sorted(self._consolidating.open.items())
            if groups
        ]

    def log(self, caller: Caller, limit: int = 50) -> tuple[Scheduled, ...]:
        """The last moves, the latest first, for the owner. Raises `NotAllowed`."""
        require_owner(caller)
        with self._running:
            self._executor.flush()
        with self._parts.vault.reading() as connection:
            return moves_log.entries(connection, max(1, min(limit, MOST_LOGGED)))

    def undo(self, number: int, caller: Caller) -> Scheduled:
        """Take back one move, for the owner. See `engine.scheduling.undoing`."""
        require_owner(caller)
        with self._running:
            self._executor.flush()
            return self._undoing.undo(number, caller)

    def close(self) -> None:
        """End the thread and write what waits. Before the vault is closed."""
        with self._gate:
            self._ending.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._noting.write()
            self._executor.flush()
        except MemosError as error:
            log.error("closing: %s", error)
