"""What the handlers of one running server share: the engine, the threads that it runs in, and who listens.

The engine is synchronous; the event loop never waits for it. A call runs in a worker thread with its progress brought
back to the client, and when the client cancels or leaves, the next progress of the call ends it with `Cancelled`: the
engine reports progress only where stopping leaves a whole state.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.abc
import anyio.to_thread
from mcp.server import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from engine.errors import Cancelled, Invalid, NotAllowed
from engine.operations import OWNER, Caller, Principal, Progress
from memos_mcp.connection import client_name, current_connection, operation_id
from memos_mcp.subscriptions import Admitted, Watchers, always
from memos_mcp.wire import NOT_IN_A_LINE

if TYPE_CHECKING:
    from engine.memos import MemOS

Context = ServerRequestContext["Service", Any]
T = TypeVar("T")

THREADS = 32  # most of them wait for the writer, which commits what they bring together
PROGRESS_EVERY_S = 0.1
OPERATION_KEY = "io.memos/operation"
PRINCIPAL_KEY = "memos.principal"
"""Where a transport that knows its caller leaves the principal, in the ASGI scope."""
ADMITTED_KEY = "memos.admitted"
"""Where it leaves a function that says whether the caller would still be let in, if that can end."""
MAX_OPERATION_CHARS = 200

Report = tuple[float, float | None, str]


@dataclass(frozen=True)
class Service:
    """Lives as long as the server's lifespan."""

    memos: MemOS
    threads: anyio.CapacityLimiter
    tasks: anyio.abc.TaskGroup
    watchers: Watchers

    async def run(self, ctx: Context, work: Callable[[Progress], T]) -> T:
        """`work` in a worker thread, for the request of `ctx`.

        Raises:
            MemosError: as `work` raises it.
        """
        stopped, reporter = threading.Event(), _Reporter(ctx, self.tasks)
        try:
            return await self._in_thread(work, _stoppable(reporter, stopped), stopped)
        finally:
            await reporter.end()

    async def _in_thread(self, work: Callable[[Progress], T], progress: Progress, stopped: threading.Event) -> T:
        try:
            return await anyio.to_thread.run_sync(work, progress, abandon_on_cancel=True, limiter=self.threads)
        finally:
            stopped.set()

    async def read(self, work: Callable[[], T]) -> T:
        """A quick read of the engine, in a worker thread."""
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self.threads)


@asynccontextmanager
async def serving(memos: MemOS) -> AsyncIterator[Service]:
    """A service, its listeners and its threads."""
    threads = anyio.CapacityLimiter(THREADS)

    async with anyio.create_task_group() as tasks:
        watchers = Watchers(memos, tasks)
        tasks.start_soon(watchers.serve)
        try:
            yield Service(memos, threads, tasks, watchers)
        finally:
            tasks.cancel_scope.cancel()


def caller_of(ctx: Context) -> Caller:
    """Who asks, through which client, and under which operation.

    Raises:
        Invalid: the request carries an operation id that is none.
    """
    return Caller(principal=principal_of(ctx), client=_client(ctx), operation=_operation(ctx))


def principal_of(ctx: Context) -> Principal:
    """Whom the transport authenticated: by a token, by the daemon's socket, or the owner of this process.

    Raises:
        NotAllowed: the request came over HTTP, and nobody there said who asks.
    """
    if ctx.request is not None:
        known = getattr(ctx.request, "scope", {}).get(PRINCIPAL_KEY)
        if not isinstance(known, Principal):
            raise NotAllowed("nobody knows who sent this request, so it is refused: this server is not set up right")
        return known
    connection = current_connection.get(None)
    return OWNER if connection is None else connection.principal


def admission_of(ctx: Context) -> Admitted:
    """Says, at any later time, whether who sent this request would still be let in."""
    known: Admitted | None = getattr(ctx.request, "scope", {}).get(ADMITTED_KEY)
    return known if known is not None else always


def is_modern(ctx: Context) -> bool:
    """Whether the request speaks the 2026 era."""
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def _client(ctx: Context) -> str:
    connection = current_connection.get(None)
    if connection is not None and connection.client:
        return connection.client
    params = ctx.session.client_params
    return client_name(params.client_info.name) if params is not None else ""


def _operation(ctx: Context) -> str | None:
    if (known := operation_id(ctx.request_id)) is not None:
        return known
    sent = (ctx.meta or {}).get(OPERATION_KEY)
    if sent is None:
        return None
    if not isinstance(sent, str) or not 0 < len(sent) <= MAX_OPERATION_CHARS or NOT_IN_A_LINE.search(sent):
        raise Invalid(f"'{OPERATION_KEY}' must be a printable string of at most {MAX_OPERATION_CHARS} characters")
    return f"{principal_of(ctx).name}:{sent}"  # one principal's operations are not another's


def _stoppable(progress: Progress, stopped: threading.Event) -> Progress:
    def report(done: float, total: float | None, message: str) -> None:
        if stopped.is_set():
            raise Cancelled("the caller stopped this request; what was not finished was not done")
        progress(done, total, message)

    return report


class _Reporter:
    """Progress from any thread to the client: rising, and not more often than a client can use."""

    def __init__(self, ctx: Context, tasks: anyio.abc.TaskGroup) -> None:
        self._ctx, self._tasks, self._loop = ctx, tasks, asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # that of a worker thread says that no event loop runs
        self._beginning: asyncio.Task[None] | None = None
        self._done, self._sent_at = -1.0, float("-inf")
        self._reports: list[Report] = []
        self._arrived, self._told = anyio.Event(), anyio.Event()
        self._telling = self._ended = False

    def __call__(self, done: float, total: float | None, message: str) -> None:
        """Called by the engine, on whatever thread it works."""
        now = time.monotonic()
        if done <= self._done or (now - self._sent_at < PROGRESS_EVERY_S and done != total):
            return
        self._done, self._sent_at = done, now
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._take, (done, total, message), context=self._context)

    def _take(self, report: Report) -> None:
        if self._ended:
            return
        self._reports.append(report)
        self._arrived.set()
        if not self._telling:
            self._telling = True
            self._beginning = self._loop.create_task(self._begin())

    async def _begin(self) -> None:
        """In a task: only there anyio knows which event loop runs, where sniffio is installed beside it."""
        self._tasks.start_soon(self._tell)

    async def _tell(self) -> None:
        try:
            while self._reports or not self._ended:
                await self._arrived.wait()
                self._arrived, reports, self._reports = anyio.Event(), self._reports, []
                for done, total, message in reports:
                    await self._ctx.session.report_progress(done, total, message)
        finally:
            self._told.set()

    async def end(self) -> None:
        """Have what was reported told before the answer."""
        self._ended = True
        self._arrived.set()
        if self._telling:
            await self._told.wait()
