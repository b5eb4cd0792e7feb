"""MemOS: the memory operating system as one object. This is where the parts are wired together.

The facade is synchronous and safe to use from many threads; whoever serves an event loop runs it in worker threads. It
parses nothing and renders nothing: requests and results are the values of `engine.operations`. What is written here is
how a store is opened and closed, its four tools, and what goes on by itself; `engine.facade` has the other topics.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from engine import cube_fusing, forgetting, fusing, recalling, remembering, removing, timeline, upkeep
from engine.answering.answering import Answering
from engine.clock import Clock, Ids, SystemClock, TimeOrderedIds
from engine.cube_operations import FuseCubes, FusedCubes
from engine.distilling.distilling import Distilling
from engine.distilling.fusing import FUSE, kind_of_work
from engine.distilling.proving import Proving
from engine.distilling.rebuilding import rebuilding
from engine.drawing.drawing import Drawing
from engine.embeddings import Embeddings
from engine.erasing import note_pending
from engine.errors import Cancelled, MemosError
from engine.events import Events
from engine.facade.files import Files
from engine.facade.governance import Governance
from engine.facade.in_time import InTime
from engine.facade.reading import Reading
from engine.facade.scheduler import Scheduler
from engine.facade.tiers import Tiers
from engine.indexer import Indexes
from engine.moving import Moving
from engine.moving.adapters import Adapters
from engine.operations import (
    Caller,
    Forget,
    ForgetResult,
    Fuse,
    Fused,
    Listener,
    Progress,
    Recall,
    Recalled,
    Remember,
    Remembered,
    silent,
)
from engine.parts import Parts, answered
from engine.scheduling import Scheduling
from engine.scheduling.training import Trainings
from engine.settings import Settings
from engine.store.publishing import remove_fetched
from engine.store.withdrawing import take_off
from engine.tier_operations import WorkView
from engine.vault import Change, MemVault, Transaction, restore_backup
from engine.vault.work import REBUILD, RETRAIN
from engine.watcher import Watcher

FILL_AGAIN_S = 0.5  # vectors that waited for files to settle are looked for again after this
log = logging.getLogger(__name__)

__all__ = ["MemOS", "restore_backup"]


class MemOS(Tiers, Scheduler, Governance, InTime, Reading, Files):
    """An open store. Use it as a context manager, or call `close`."""

    def __init__(self, parts: Parts, announce: Callable[[str], None] = log.warning) -> None:
        self._parts = parts
        self._recalling = recalling.Recalling(parts)
        self._answering = Answering(parts, self._recalling, announce)
        self._distilling = Distilling(parts, self._answering)
        self._proving = Proving(parts, self._answering, self._distilling.working)
        kinds = self._distilling.working.kinds
        kinds[REBUILD] = rebuilding(parts, self._answering)
        kinds[RETRAIN] = self._proving.asking_after(kinds[RETRAIN])
        self._distilling.working.kinds[FUSE] = kind_of_work(parts, self._answering, self._distilling)
        self._drawing = Drawing(parts, self._answering, self._distilling.working)
        self._adapters = Adapters(parts, self._answering)
        self._moving = Moving(parts, self._answering, self._distilling)
        self._scheduling = Scheduling(parts, self._answering, Trainings(parts, self._answering, self._distilling))
        self._recalling.when_used = self._scheduling.used
        self._forgetting = forgetting.Forgetting(parts, self._recalling, take_off, self._proving.hold)
        self._listeners: dict[object, Listener] = {}
        self._events = Events(parts.vault)
        self._stopping = threading.Event()
        self._work = threading.Event()
        remove_fetched(parts.vault.settings)
        self._distilling.take_up()
        parts.vault.on_commit = self._committed
        self._forgetting.finish(at_start=True)
        self._background = threading.Thread(target=self._run_background, name="memos-background", daemon=True)
        self._watcher = Watcher(parts, self._work.set)
        self._background.start()
        self._watcher.start()
        self._distilling.start()
        self._drawing.start()

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        announce: Callable[[str], None] = log.warning,
    ) -> Self:
        """Open the store of `settings.data`, creating it if there is none.

        `announce` is told, once, in words for the user, before anything is downloaded.

        Raises:
            Busy: another process has it open.
            Corrupt: it is damaged; the message says how to restore it.
            Unavailable: it was written by a newer version.
        """
        clock = clock or SystemClock()
        ids = ids or TimeOrderedIds()
        vault = MemVault(settings, clock, ids)
        try:
            embeddings = Embeddings(vault, settings, announce)
            indexes = Indexes(vault, embeddings, settings)
            return cls(Parts(vault, embeddings, indexes, clock, ids), announce)
        except BaseException:
            vault.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be written and let the store go. Nothing acknowledged depends on it."""
        self._watcher.close()
        self._stopping.set()
        self._work.set()
        self._background.join()
        self._scheduling.close()
        self._drawing.close()
        self._distilling.close()  # before the model goes
        self._answering.close()
        try:
            self._recalling.write_uses()
            upkeep.back_up_if_due(self._parts)
            upkeep.save_indexes(self._parts, all_=True)
        except MemosError as error:
            log.error("closing: %s", error)
        finally:
            self._parts.vault.close()

    @property
    def data(self) -> Path:
        """The data folder."""
        return self._parts.vault.settings.data

    def when_failed(self, tell: Callable[[], None]) -> None:
        """`tell` is called, on any thread, when this process can no longer use the store and must end."""
        self._parts.vault.when_failed(tell)

    # --- the four tools ----------------------------------------------------------------------------------------

    def remember(self, request: Remember, caller: Caller, progress: Progress = silent) -> Remembered:
        """Keep a text or a conversation. See `engine.remembering`, and `engine.drawing` for facts of conversations."""
        noting = self._drawing.noting(request.facts, caller, len(request.messages)) if request.messages else None
        stored = remembering.remember(self._parts, request, caller, progress, noting)
        return self._drawing.remembered(request, stored, caller, progress)

    def draw_facts(self, cube: str, caller: Caller) -> WorkView | None:
        """Have facts drawn from the turns of a cube that nothing was drawn from. See `engine.drawing`."""
        return self._drawing.read(cube, caller)

    def recall(self, request: Recall, caller: Caller) -> Recalled:
        """Find what answers a query. See `engine.recalling`."""
        found = self._recalling.recall(request, caller)
        if self._recalling.uses_due:
            self._work.set()
        return found

    def forget(self, request: Forget, caller: Caller, progress: Progress = silent) -> ForgetResult:
        """Archive or erase. See `engine.forgetting`."""
        return self._forgetting.forget(request, caller, progress)

    def answered_forget(self, request: Forget, caller: Caller) -> ForgetResult | None:
        """The recorded answer where the caller's operation carried out this very request already."""
        found = answered(self._parts, caller, request, forgetting.load)
        return None if found is None else self._forgetting.with_receipt(found, caller)

    def fuse(self, request: Fuse, caller: Caller, progress: Progress = silent) -> Fused:
        """Make one memory of several. See `engine.fusing`."""
        return fusing.fuse(self._parts, request, caller, progress)

    def fuse_cubes(self, request: FuseCubes, caller: Caller, progress: Progress = silent) -> FusedCubes:
        """Make one cube of several. See `engine.cube_fusing`."""
        return cube_fusing.fuse_cubes(self._parts, request, caller, progress)

    def delete_cube(self, name: str, caller: Caller, reason: str | None = None, progress: Progress = silent) -> int:
        """Remove a cube with all that it holds, for good and from every file; how many memories that were.

        See `engine.removing`.
        """

        def job(transaction: Transaction) -> int:
            held = removing.remove(self._parts, transaction, name, reason=reason)
            note_pending(transaction, [name], transaction.head.seq)
            return held

        progress(0, 2, "deleting")
        held = self._parts.vault.write(job, caller)
        with contextlib.suppress(Cancelled):  # it is deleted: there is nothing left to stop
            progress(1, 2, "removing every copy")
        self._forgetting.clean()
        return held

    def sweep(self) -> None:
        """Expiry, uses, snapshots, backups. Called by whoever keeps the store open, about once a minute."""
        self._recalling.write_uses()
        self._forgetting.finish()
        self._proving.sweep()
        upkeep.expire(self._parts)
        self._scheduling.sweep()
        timeline.retain(self._parts)
        self._answering.sweep()
        self._watcher.start()
        self._work.set()  # memories that were stored without vectors get them
        upkeep.drop_old_records(self._parts)
        upkeep.save_indexes(self._parts, all_=False)
        upkeep.back_up_if_due(self._parts)

    # --- events and background ---------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` told of each commit; returns what ends that."""
        token = object()
        self._listeners[token] = listener
        return lambda: self._listeners.pop(token, None) and None

    def _committed(self, changes: Sequence[Change], transaction: Transaction) -> None:
        self._answering.committed(changes, transaction)  # first: whatever else fails, nothing outdated is used
        self._distilling.committed(changes, transaction)
        self._scheduling.committed(changes, transaction)
        self._parts.indexes.apply(changes, transaction)
        for event in self._events.of(changes, transaction):
            for listener in list(self._listeners.values()):
                listener(event)

    def _run_background(self) -> None:
        """Load the indexes, then keep vectors complete and uses written until the store closes."""
        stopped, put_off = self._stopping.is_set, threading.Event()

        def held() -> bool:
            if self._watcher.busy:
                put_off.set()
            return stopped() or put_off.is_set()

        while not stopped():
            put_off.clear()
            try:
                self._parts.indexes.load_all(stopped)  # also of cubes that were installed meanwhile
                self._fill(held)
                self._parts.indexes.tend()
                self._recalling.write_uses()
            except Exception as error:  # noqa: BLE001 - the outermost edge of this thread: its work must go on
                log.error("background work is put off: %s", error if isinstance(error, MemosError) else type(error))
            self._work.wait(FILL_AGAIN_S if put_off.is_set() else None)
            self._work.clear()  # after waiting: what is set while this works is then never missed

    def _fill(self, stopped: Callable[[], bool]) -> None:
        parts = self._parts
        if not parts.embeddings.fill(stopped, parts.indexes.applied) or parts.embeddings.target is None:
            return
        prepared = parts.indexes.prepare(*parts.embeddings.target, stopped)
        if prepared is not None:
            parts.embeddings.switch(lambda: parts.indexes.adopt(prepared))
