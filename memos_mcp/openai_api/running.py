"""Replies of the engine, which are synchronous, for the event loop, which never waits for them.

Each reply has a thread of its own, so that many slow ones hold up neither each other nor anything else; there is a
bound on their number. Whoever stops a reply is heard before its next step, on its own thread, where its iterator is
then closed: the engine cancels what the iterator stands for. It knows no HTTP but that a client can be gone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import anyio
from starlette.types import Receive

from engine.errors import Busy, MemosError, Unavailable

T = TypeVar("T")
MOST_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


class Replies:
    """The threads that replies run in."""

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self._most, self._free = most, threading.BoundedSemaphore(most)
        self._running: WeakSet[Running[Any]] = WeakSet()

    def begin(self, start: Callable[[], Iterator[T]]) -> Running[T]:
        """Run what `start` gives. To be called on the loop.

        Raises:
            Busy: too many are running.
        """
        if not self._free.acquire(blocking=False):
            raise Busy(f"{self._most} replies are being made already: ask again in a moment")
        running = Running(start, self._free.release)
        self._running.add(running)
        return running

    def end(self) -> None:
        """End all that run, and tell those who read them: the server ends. To be called on the loop."""
        for running in list(self._running):
            running.end(Unavailable("the server is ending, and so did this reply: ask again when it is back"))


class Running(Generic[T]):
    """One reply. Read it to its end, or stop it."""

    def __init__(self, start: Callable[[], Iterator[T]], ended: Callable[[], None]) -> None:
        self._start, self._ended = start, ended
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._came: asyncio.Queue[T | _End] = asyncio.Queue()
        # A daemon: one that waits for a server elsewhere must not hold up the end of the process.
        threading.Thread(target=self._run, name="memos-reply", daemon=True).start()

    def stop(self) -> None:
        """Have it end at its next step. What still comes of it is not read."""
        self._stopped.set()

    def end(self, why: MemosError) -> None:
        """Stop it, and tell its reader why."""
        self.stop()
        self._came.put_nowait(_End(why))

    async def __aiter__(self) -> AsyncIterator[T]:
        while not isinstance(item := await self._came.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            if not self._stopped.is_set():
                self._steps()
        except BaseException as raised:  # noqa: BLE001 - handed to the reader, who is waiting for it
            error = raised
        finally:
            self._ended()
            self._put(_End(error))

    def _steps(self) -> None:
        steps = self._start()
        try:
            for step in steps:
                if self._stopped.is_set():
                    return
                self._put(step)
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()

    def _put(self, item: T | _End) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._came.put_nowait, item)


async def unless_gone(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`, whose request is read to its end, and cancel it when the client goes."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await work()
        tasks.cancel_scope.cancel()
