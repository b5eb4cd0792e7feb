"""Long work: done one after the other on a thread of its own, or at once for somebody who waits for it.

What is to be done stands in the table `work`, so it outlives the process. A kind of work says how it is done and why it
cannot be done now; nothing here knows more of it. Work reports through `Task.tell`, which is also where it is stopped.

What must stay true: each piece of work is done by one thread at a time; it ends as done, failed or cancelled, or waits
again because the process ends, and then it is as if that attempt had never begun.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from cubes import Action
from engine.embeddings import SYSTEM
from engine.errors import Busy, Cancelled, Conflict, MemosError, NotFound, Unavailable
from engine.governance.access import EVERY_CUBE, allowed, granted
from engine.operations import Caller, Progress, silent
from engine.parts import Parts
from engine.tier_operations import WorkState, WorkView
from engine.vault import Transaction
from engine.vault.work import (
    MOST_ATTEMPTS,
    WorkRow,
    all_work,
    ask_for,
    next_work,
    open_ids,
    put_work,
    some_work,
    take_up,
    work_of,
)

LOOK_AGAIN_S = 30.0  # what could not be done now is tried again after this
CANCEL_S = 30.0  # who cancels waits for so long until it has ended
MOST_TOLD = 5  # pieces of work in a state, one by one in the status
SHOWN_FOR = timedelta(days=1)  # what failed is in the status
OPEN = (WorkState.WAITING, WorkState.RUNNING)
T = TypeVar("T")
log = logging.getLogger(__name__)


class Task:
    """A piece of work that is being done."""

    def __init__(self, row: WorkRow, also: Progress = silent) -> None:
        self.row = row
        self.done: float = 0.0
        self.total: float | None = None
        self.message = ""
        self.cancelled = threading.Event()
        self.closing = threading.Event()
        self.ended = threading.Event()
        self._also = also
        self._when_stopped: Callable[[], None] = lambda: None

    def tell(self, done: float, total: float | None, message: str) -> None:
        """Say how far it is.

        Raises:
            Cancelled: it is to stop, and to leave nothing.
            Unavailable: the process ends; another one goes on with it.
        """
        self.done, self.total, self.message = done, total, message
        if self.cancelled.is_set():
            raise Cancelled(f"{self.row.id} was cancelled: nothing was changed")
        if self.closing.is_set():
            raise Unavailable("the store is being closed: the work goes on when it is opened again")
        self._also(done, total, message)

    def stop(self, how: threading.Event) -> None:
        """Have it stop, as `cancelled` or as `closing`. From any thread."""
        how.set()
        self._when_stopped()

    def when_stopped(self, end: Callable[[], None]) -> None:
        """`end` is called when it is to stop, so that who waits for something else is woken. It may be called twice."""
        self._when_stopped = end
        if self.cancelled.is_set() or self.closing.is_set():
            end()

    def settle(self, transaction: Transaction, told: str) -> None:
        """Note that it is done, in the transaction that does it."""
        header = {**self._header(transaction), "told": told}
        put_work(transaction, replace(self.row, state=WorkState.DONE, header=header, ended_at=transaction.now))

    def note(self, transaction: Transaction, **header: Any) -> None:
        """Note something for the next attempt, if this one is cut off."""
        self.row = replace(self.row, header={**self._header(transaction), **header})
        put_work(transaction, self.row)

    def _header(self, transaction: Transaction) -> Mapping[str, Any]:
        """What is said of it now: an erasure may have taken words out of it."""
        found = work_of(transaction.connection, self.row.id)
        return self.row.header if found is None else found.header


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of work is done (what became of it, in words), and why it cannot be done now; None: it can."""

    run: Callable[[Task], str]
    waits: Callable[[], str | None]


class Working:
    """The work of one store; with `beside`, other kinds of it that another thread does meanwhile."""

    def __init__(self, parts: Parts, beside: Working | None = None) -> None:
        self._parts = parts
        self.kinds: dict[str, Kind] = {}
        self._threads: list[Working] = [] if beside is None else beside._threads
        self._threads.append(self)
        self._lock: threading.Lock = threading.Lock() if beside is None else beside._lock
        self._running: dict[str, Task] = {} if beside is None else beside._running
        self._mine: set[str] = set()  # of what is running: begun here
        self._put_off: dict[str, float] = {}
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    def take_up(self) -> list[WorkRow]:
        """At the start: what a process that died was at waits again; all that is open."""
        if self._rows((WorkState.RUNNING,)) or self._parts.vault.rows("SELECT 1 FROM work WHERE ended_at IS NOT NULL"):
            self._parts.vault.write(take_up, SYSTEM)
        return self._rows((WorkState.WAITING,))

    def start(self) -> None:
        """Begin to do what waits, in the background."""
        self._thread = threading.Thread(target=self._run, name="memos-work", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something may be there to be done."""
        self._wake.set()

    def committed(self, transaction: Transaction) -> None:
        """Called before a writing call returns: work that went with its cube is stopped."""
        with self._lock:
            running = dict(self._running)
        if running and transaction.cubes_changed:
            with self._parts.vault.reading() as connection:
                there = open_ids(connection)
            for id in running.keys() - there:
                running[id].stop(running[id].cancelled)

    def close(self) -> None:
        """Stop; what is being done waits for the next process."""
        self._closing.set()
        with self._lock:
            tasks = [task for id, task in self._running.items() if id in self._mine]
        for task in tasks:
            task.stop(task.closing)
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        for task in tasks:  # those of callers that wait for them
            task.ended.wait(CANCEL_S)

    # --- asking --------------------------------------------------------------------------------------------------

    def ask(self, transaction: Transaction, what: str, cube: str, header: Mapping[str, Any]) -> WorkRow:
        """Note work in a transaction; it is begun when that is durable."""
        transaction.after(self._wake.set)
        return ask_for(transaction, self._parts.ids.new("w"), cube, what, header)

    def now(
        self,
        what: str,
        cube: str,
        header: Mapping[str, Any],
        caller: Caller,
        progress: Progress,
        run: Callable[[Task], T],
    ) -> T:
        """Do work for a caller who waits for it. If the process dies meanwhile, the next one goes on with it.

        Raises:
            what `run` raises; Cancelled where the work was cancelled.
        """

        def job(transaction: Transaction) -> WorkRow:
            at = transaction.now
            row = WorkRow(self._parts.ids.new("w"), cube, what, WorkState.RUNNING, header, 1, at, at)
            put_work(transaction, row)
            return row

        task = self._task(self._parts.vault.write(job, caller), progress)
        try:
            result = run(task)
        except BaseException as error:
            self._failed(task, error, awaited=True)
            raise
        else:
            self._end(task, WorkState.DONE, "done")
            return result
        finally:
            self._gone(task)

    @property
    def busy(self) -> bool:
        """Whether anything is being done."""
        with self._lock:
            return bool(self._running)

    # --- looking -------------------------------------------------------------------------------------------------

    def views(self, caller: Caller) -> tuple[WorkView, ...]:
        """The work of cubes that the caller may change, the oldest first."""
        mine = self._mine_of(caller)
        return tuple(self._view(row) for row in self._rows() if mine is None or row.cube in mine)

    def view(self, id: str) -> WorkView:
        """Raises `NotFound`."""
        return self._view(self._row(id))

    def cancel(self, id: str, caller: Caller) -> WorkView:
        """Stop work, or have it never begin.

        Raises:
            NotFound: there is no such work for this caller.
            Conflict: it is over.
        """
        row = self._row(id)
        if not self._may(row, caller):
            raise NotFound(_none(id))
        with self._lock:
            task = self._running.get(id)
        if task is not None:
            task.stop(task.cancelled)
            task.ended.wait(CANCEL_S)
            return self.view(id)

        def job(transaction: Transaction) -> None:
            found = work_of(transaction.connection, id, OPEN)
            if found is None:
                raise Conflict(f"{id} is over: there is nothing to cancel")
            put_work(transaction, replace(found, state=WorkState.CANCELLED, ended_at=transaction.now))

        self._parts.vault.write(job, caller)
        return self.view(id)

    def told(self, caller: Caller) -> tuple[str, ...]:
        """What is under way, what waits and why, and what failed of late, in words."""
        since, mine = self._parts.clock.now() - SHOWN_FOR, self._mine_of(caller)
        said: list[str] = []
        for state, more in ((WorkState.RUNNING, "under way"), (WorkState.WAITING, "waiting"), (WorkState.FAILED, "")):
            ended = since if state is WorkState.FAILED else None
            with self._parts.vault.reading() as connection:
                rows, count = some_work(connection, state, mine, ended, MOST_TOLD)
            said += [self._said(row) for row in rows]
            if count > len(rows):
                said.append(f"and {count - len(rows)} more {more or 'that failed'}: memos-mcp tier work lists them")
        return tuple(said)

    def _said(self, row: WorkRow) -> str:
        """How a piece of work stands, in words."""
        name = f"{row.what} of cube {row.cube!r} ({row.id})"
        with self._lock:
            task = self._running.get(row.id)
        again = "; it was cut off when the process ended, and goes on" if _attempts_before(row, task) else ""
        if row.state is WorkState.FAILED:
            return f"{name} failed: {row.header.get('told', '')}"
        if task is not None:
            how_far = f"{task.done / task.total:.0%}, " if task.total else ""
            return f"{name} is under way: {how_far}{task.message or 'it begins'}{again}"
        return f"{name} waits: {self._waits(row) or 'for its turn'}{again}"

    # --- in the background ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            try:
                did = self._one()
            except Exception as error:  # noqa: BLE001 - the outermost edge of this thread: the next work may succeed
                log.error("work is put off: %s", error if isinstance(error, MemosError) else type(error))
                did = False
            if not did:
                self._wake.wait(LOOK_AGAIN_S)

    def _one(self) -> bool:
        """Do the next piece of work that can be done; False: there is none."""
        now = time.monotonic()
        self._put_off = {id: until for id, until in self._put_off.items() if until > now}
        ready = [what for what, kind in self.kinds.items() if kind.waits() is None]
        with self._parts.vault.reading() as connection:
            row = next_work(connection, ready, self._put_off)
        task = None if row is None else self._begun(row)
        if row is None or task is None:
            return False
        try:
            self._end(task, WorkState.DONE, self.kinds[row.what].run(task))
        except Exception as error:  # noqa: BLE001 - the outermost edge of this work: it is told as having failed
            self._failed(task, error)
        finally:
            self._gone(task)
        return True

    def _waits(self, row: WorkRow) -> str | None:
        kind = next((working.kinds[row.what] for working in self._threads if row.what in working.kinds), None)
        return "nothing here does such work" if kind is None else kind.waits()

    def _begun(self, row: WorkRow) -> Task | None:
        """Take work up; None: it is no more to be done."""

        def job(transaction: Transaction) -> WorkRow | None:
            found = work_of(transaction.connection, row.id, (WorkState.WAITING,))
            if found is None:
                return None
            begun = replace(
                found, state=WorkState.RUNNING, attempts=found.attempts + 1, began_at=transaction.now, ended_at=None
            )
            put_work(transaction, begun)
            return begun

        begun = self._parts.vault.write(job, SYSTEM)
        return None if begun is None else self._task(begun, silent)

    def _task(self, row: WorkRow, progress: Progress) -> Task:
        task = Task(row, progress)
        with self._lock:
            self._running[row.id] = task
            self._mine.add(row.id)
            if self._closing.is_set():
                task.closing.set()
        return task

    def _failed(self, task: Task, error: BaseException, *, awaited: bool = False) -> None:
        """Note why it did not end well. What nobody waits for (`awaited`) and may do later is tried again."""
        row = task.row
        if task.closing.is_set() and not task.cancelled.is_set():
            self._again(task, row.attempts - 1)
        elif isinstance(error, Cancelled):
            self._end(task, WorkState.CANCELLED, "cancelled")
        elif isinstance(error, Busy | Unavailable) and row.attempts < MOST_ATTEMPTS and not awaited:
            log.info("%s of cube %r is put off: %s", row.what, row.cube, error)
            self._put_off[row.id] = time.monotonic() + LOOK_AGAIN_S
            self._again(task, row.attempts - isinstance(error, Busy))
        else:
            if not isinstance(error, MemosError | KeyboardInterrupt):
                log.error("%s of cube %r failed: %s", row.what, row.cube, type(error).__qualname__)
            told = str(error) if isinstance(error, MemosError) else f"it failed ({type(error).__qualname__})"
            self._end(task, WorkState.FAILED, told)

    def _again(self, task: Task, attempts: int) -> None:
        """It waits, as before."""
        self._put(task, lambda row, now: replace(row, state=WorkState.WAITING, attempts=attempts, began_at=None))

    def _end(self, task: Task, state: WorkState, told: str) -> None:
        self._put(task, lambda row, now: replace(row, state=state, header={**row.header, "told": told}, ended_at=now))

    def _put(self, task: Task, change: Callable[[WorkRow, Any], WorkRow]) -> None:
        """Change what is noted of work that is being done; what was settled, or went with its cube, stays so."""

        def job(transaction: Transaction) -> None:
            found = work_of(transaction.connection, task.row.id, OPEN)
            if found is not None:
                put_work(transaction, change(found, transaction.now))

        self._parts.vault.write(job, SYSTEM)

    def _gone(self, task: Task) -> None:
        with self._lock:
            self._running.pop(task.row.id, None)
            self._mine.discard(task.row.id)
        task.ended.set()

    # --- rows ----------------------------------------------------------------------------------------------------

    def _rows(self, states: tuple[WorkState, ...] = tuple(WorkState)) -> list[WorkRow]:
        with self._parts.vault.reading() as connection:
            return all_work(connection, states)

    def _row(self, id: str) -> WorkRow:
        with self._parts.vault.reading() as connection:
            found = work_of(connection, id)
        if found is None:
            raise NotFound(_none(id))
        return found

    def _mine_of(self, caller: Caller) -> set[str] | None:
        """The cubes whose work the caller may see and stop; None: of all, those that are gone too."""
        if caller.principal.owner:
            return None
        cubes = {cube.name: cube for cube in self._parts.vault.cubes()}
        mine = {name for name, cube in cubes.items() if allowed(caller.principal, cube, Action.WRITE)}
        if granted(caller.principal, EVERY_CUBE, Action.ADMIN):
            with self._parts.vault.reading() as connection:
                mine |= {
                    row[0] for row in connection.execute("SELECT DISTINCT cube FROM work").fetchall()
                } - cubes.keys()
        return mine

    def _may(self, row: WorkRow, caller: Caller) -> bool:
        mine = self._mine_of(caller)
        return mine is None or row.cube in mine

    def _view(self, row: WorkRow) -> WorkView:
        with self._lock:
            task = self._running.get(row.id)
        how_far = (task.done, task.total, task.message) if task is not None else (0.0, None, "")
        if task is None and row.state is WorkState.WAITING:
            how_far = (0.0, None, self._waits(row) or "")
        return WorkView(
            *(row.id, row.cube, row.what, row.state, str(row.header.get("reason") or "")),
            *(row.asked_at, row.began_at, row.ended_at, row.attempts),
            *how_far,
            str(row.header.get("told", "")),
        )


def _attempts_before(row: WorkRow, task: Task | None) -> int:
    """How often it was begun before, by processes that ended in the midst of it."""
    return row.attempts - (task is not None)


def _none(id: str) -> str:
    return f"there is no work {id!r}: `memos-mcp tier work` lists what there is"
