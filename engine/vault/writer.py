"""One writer thread with group commit.

All changes of the vault run here, one after the other, several in one DuckDB transaction when they arrive together: one
`fdatasync` then serves them all. A job that refuses (a `MemosError` before it wrote anything) fails alone. A job that
fails after it wrote rolls the group back, and the other jobs are run again, each in a transaction of its own.

What stays true: a job's caller hears of success only after the commit is durable and the effects of the job (index,
events) were applied, in the order of revisions.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

import duckdb

from engine.clock import Clock
from engine.errors import Busy
from engine.operations import Caller
from engine.vault.artifacts import drop_derived
from engine.vault.audit import AUDIT_HEAD
from engine.vault.connection import Connection
from engine.vault.failures import explained
from engine.vault.transaction import Head, Transaction

MAX_GROUP = 64
INSTANT = timedelta(microseconds=1)  # what the vault's times can tell apart
MAX_STANDSTILL = timedelta(hours=1)  # for so long a clock that was put back stands still here
T = TypeVar("T")
Committed = Callable[[Transaction], None]
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job(Generic[T]):
    run: Callable[[Transaction], T]
    caller: Caller
    future: Future[T]


@dataclass(slots=True)
class _Task:
    """Something that must have the vault for itself, between two groups."""

    run: Callable[[], Any]
    future: Future[Any]


class Writer:
    """Runs jobs against the connection that `connection()` gives at that moment."""

    def __init__(
        self,
        connection: Callable[[], Connection],
        head: Head,
        clock: Clock,
        committed: Committed,
    ) -> None:
        self._connection = connection
        self.head = head
        self.committed_seq = head.seq
        self._clock = clock
        self._committed = committed
        self.on_failure: Callable[[], None] = lambda: None  # the database gave up: only another process can open it
        self._queue: queue.SimpleQueue[_Job[Any] | _Task | None] = queue.SimpleQueue()
        self._closed = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="vault-writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[Transaction], T], caller: Caller) -> T:
        """Run a job and wait until what it did is durable.

        Raises:
            MemosError: what the job raised; the vault is then unchanged by it.
        """
        job = _Job(run, caller, Future[T]())
        self._put(job)
        return job.future.result()

    def alone(self, run: Callable[[], T]) -> T:
        """Run something between two groups, with no transaction open."""
        task = _Task(run, Future[T]())
        self._put(task)
        result: T = task.future.result()
        return result

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, item: _Job[Any] | _Task) -> None:
        with self._gate:
            if self._closed:
                raise Busy("the store is closing: try again")
            self._queue.put(item)

    def _loop(self) -> None:
        while (item := self._queue.get()) is not None:
            jobs: list[_Job[Any]] = []
            while isinstance(item, _Job):
                jobs.append(item)
                if len(jobs) == MAX_GROUP or self._queue.empty():
                    item = None
                    break
                item = self._queue.get()
            if jobs:
                self._run_group(jobs)
            if isinstance(item, _Task):
                self._run_task(item)
            elif item is None and self._closed and self._queue.empty():
                return

    def _run_task(self, task: _Task) -> None:
        try:
            task.future.set_result(task.run())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who is waiting for it
            task.future.set_exception(explained(error) if isinstance(error, Exception) else error)

    def _run_group(self, jobs: list[_Job[Any]]) -> None:
        start = copy(self.head)
        connection = self._connection()
        done: list[tuple[_Job[Any], Transaction, Any]] = []
        try:
            connection.execute("BEGIN")
            for job in jobs:
                transaction = Transaction(connection, self.head, self._now(), job.caller)
                try:
                    result = job.run(transaction)
                    drop_derived(transaction)
                except Exception as error:
                    # A statement that DuckDB refused aborts its transaction, for the jobs behind this one as well.
                    if transaction.written or isinstance(error, duckdb.Error):
                        raise
                    job.future.set_exception(explained(error))
                else:
                    transaction.revision = self.head.seq
                    if transaction.written:
                        self.head.at = transaction.now
                    done.append((job, transaction, result))
            if self.head.seq != start.seq:
                _note_head(connection, self.head)
            connection.execute("COMMIT")
            self.committed_seq = self.head.seq
        except Exception as error:  # noqa: BLE001 - sorted out in _failed
            self._failed(jobs, start, error)
            return
        for job, transaction, result in done:
            self._apply(transaction)
            job.future.set_result(result)

    def _now(self) -> datetime:
        """The time of a job: later than that of every change before it, so that a moment tells which came first.

        A clock that was put back by more than `MAX_STANDSTILL` is followed: times would be wrong for longer otherwise.
        """
        now, last = self._clock.now(), self.head.at
        if last is None or now > last or last - now > MAX_STANDSTILL:
            return now
        return last + INSTANT

    def _failed(self, jobs: list[_Job[Any]], start: Head, error: Exception) -> None:
        if isinstance(error, duckdb.FatalException):
            self.on_failure()
        self._roll_back()
        self.head.seq, self.head.hash = start.seq, start.hash
        self.head.label, self.head.at = start.label, start.at
        waiting = [job for job in jobs if not job.future.done()]
        if len(waiting) > 1:
            for job in waiting:
                self._run_group([job])
            return
        for job in waiting:
            job.future.set_exception(explained(error))

    def _roll_back(self) -> None:
        try:
            self._connection().execute("ROLLBACK")
        except duckdb.Error as error:
            # DuckDB has already rolled back what failed at COMMIT.
            log.debug("nothing to roll back: %s", type(error).__name__)

    def _apply(self, transaction: Transaction) -> None:
        for effect in (lambda: self._committed(transaction), *transaction.effects()):
            try:
                effect()
            except Exception:
                # What was committed stands, and the thread that everyone waits for must not end.
                log.exception("a change was stored, but not everything followed it")


def _note_head(connection: Connection, head: Head) -> None:
    """Note where the audit log ends, in the transaction that made it end there."""
    noted = json.dumps({"seq": head.seq, "hash": head.hash})
    connection.execute(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)", [AUDIT_HEAD, connection.sealer.text(noted, AUDIT_HEAD)]
    )
