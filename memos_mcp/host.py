"""The daemon at work: accepts connections, opens the store beside them, and ends in good order.

It listens before the store is open: who comes early is told so each second and waits. Knows the two modes of the
socket and nothing of what is said in them.

What stays true: nobody is served who does not know the token; at the end the endpoint is taken back first, then what
is in flight is finished within a bound, and only then may the store be closed; the event loop never waits for the
engine.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import SocketListener, SocketStream

from engine.errors import MemosError, Unavailable
from engine.settings import Settings
from memos_mcp import endpoint as places
from memos_mcp.connection import client_name
from memos_mcp.control import ControlSocket
from memos_mcp.endpoint import PROTOCOL, Endpoint, Lock
from memos_mcp.envelope import MAX_LINE_BYTES, compact
from memos_mcp.lines import Lines, LineTooLong
from memos_mcp.version import VERSION

if TYPE_CHECKING:
    from mcp.server import Server

    from engine.memos import MemOS
    from memos_mcp.mcp_socket import McpSocket

T = TypeVar("T")
logger = logging.getLogger(__name__)

HELLO_S = 10.0
MAX_HELLO_BYTES = 1 << 16
STARTING_EVERY_S = 1.0
LEAST_IDLE_S = 1.0  # less, and a daemon might go before the one who started it comes
FAILURE_STAYS_S = 2.0  # a store that did not open: how long clients are told why
SWEEP_EVERY_S = 60.0
DRAIN_S = 10.0
ACCEPT_AGAIN_S = 0.1
FOLDER_EVERY_S = 2.0
ON_PURPOSE = frozenset({"stop", "SIGTERM", "SIGINT", "SIGHUP", "HTTP has ended"})
"""Ends that somebody wanted: bridges then start another daemon only when there is work."""


@dataclass(frozen=True)
class Opened:
    """What is loaded beside the listening loop. `server_with` gives the server of other toolsets than the usual ones.

    All servers share one lifespan: they differ only in the tools that they list.
    """

    memos: MemOS
    server: Server[Any]
    server_with: Callable[[tuple[str, ...]], Server[Any]]


Http = Callable[["Host", Opened, Any], Awaitable[None]]


class Host:
    """One run of the daemon's event loop."""

    def __init__(
        self, settings: Settings, lock: Lock, endpoint: Endpoint, load: Callable[[], Opened], http: Http | None
    ) -> None:
        self.foreground = endpoint.foreground
        self.ended_because = ""
        self.opened: Opened | None = None
        self._settings = settings
        self._lock = lock
        self._endpoint = endpoint
        self._load = load
        self._http = http
        self.failure: MemosError | None = None  # why the store did not open
        self._lifespan: Any = None
        self._ready = anyio.Event()
        self._ended = anyio.Event()
        self._bridges: set[McpSocket] = set()
        self._controls: set[ControlSocket] = set()
        self._streams: set[SocketStream] = set()
        self._busy_at = time.monotonic()

    async def serve(self, listener: SocketListener) -> None:
        """Until something ends it: a signal, a request, idleness, or a store that does not open."""
        self._loop = asyncio.get_running_loop()
        self._catch_signals()
        async with anyio.create_task_group() as tasks:
            for work in (self._open, self._sweep, self._end_when_idle, self._end_with_the_folder):
                tasks.start_soon(work)
            tasks.start_soon(self._accept, listener)
            await self._ended.wait()
            logger.info("ending: %s", self.ended_because)
            if self._lock.counts():  # else the place is another's by now
                places.retract(self._settings.data)
                places.remove_socket(self._endpoint.address)
            await listener.aclose()
            await self._drain()
            tasks.cancel_scope.cancel()

    # --- what clients of the control mode may ask ---

    def facts(self) -> dict[str, Any]:
        return {
            "running": True,
            "pid": self._endpoint.pid,
            "version": self._endpoint.version,
            "epoch": self._endpoint.epoch,
            "foreground": self.foreground,
            "connections": len(self._bridges),
        }

    def end(self, why: str) -> None:
        if not self._ended.is_set():
            self.ended_because = why
            self._ended.set()

    async def engine(self) -> MemOS:
        """The engine, once it is open.

        Raises:
            MemosError: it could not be opened.
        """
        await self._ready.wait()
        if self.failure is not None:
            raise self.failure
        assert self.opened is not None
        return self.opened.memos

    # --- tasks ---

    def _catch_signals(self) -> None:
        def end(number: int, frame: object) -> None:
            self._end_from_elsewhere(signal.Signals(number).name)

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        if sys.platform != "win32":
            signal.signal(signal.SIGHUP, end if self.foreground else signal.SIG_IGN)

    def _end_from_elsewhere(self, why: str) -> None:
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self.end, why)

    async def _open(self) -> None:
        started = time.monotonic()
        try:
            await anyio.to_thread.run_sync(self._load_here)
        except MemosError as error:
            await self._fail(error)
        except Exception:  # the outermost edge: whatever it is, those who wait are told
            logger.exception("the store could not be opened")
            await self._fail(Unavailable(f"the daemon cannot start: see {places.log_path(self._settings.data)}"))
        else:
            logger.info("ready after %.0f ms, epoch %d", 1e3 * (time.monotonic() - started), self._endpoint.epoch)
            assert self.opened is not None
            async with self.opened.server.lifespan(self.opened.server) as self._lifespan:
                self._busy_at = time.monotonic()
                self._ready.set()
                # A database that has given up can be opened again only by another process: make room for one.
                self.opened.memos.when_failed(lambda: self._end_from_elsewhere("the store has failed"))
                if self._http is not None:
                    await self._http(self, self.opened, self._lifespan)
                    self.end("HTTP has ended")
                await anyio.sleep_forever()  # the lifespan lasts until everything is drained

    def _load_here(self) -> None:
        """In a worker thread: what is open must be known even if we are told to end meanwhile, so as to be closed."""
        self.opened = self._load()

    async def _fail(self, error: MemosError) -> None:
        logger.error("%s: %s", error.code, error)
        self.failure = error
        self._ready.set()
        await anyio.sleep(FAILURE_STAYS_S)
        self.end(error.code)

    async def _sweep(self) -> None:
        await self._ready.wait()
        while self.opened is not None:
            await anyio.sleep(SWEEP_EVERY_S)
            await anyio.to_thread.run_sync(sweep, self.opened.memos)

    async def _end_when_idle(self) -> None:
        await self._ready.wait()
        limit_s = max(self._settings.idle_s, LEAST_IDLE_S)
        while not self.foreground:
            at_work = self.opened is not None and self.opened.memos.at_work  # a training is not cut off
            if self._bridges or self._controls or at_work:
                self._busy_at = time.monotonic()
            left_s = self._busy_at + limit_s - time.monotonic()
            if left_s <= 0:
                self.end("idle")
                return
            await anyio.sleep(left_s)

    async def _end_with_the_folder(self) -> None:
        """Whoever removed the data folder would lose what is written from now on; a new daemon makes a new one."""
        while self._lock.counts():
            await anyio.sleep(FOLDER_EVERY_S)
        self.end("the data folder was removed")

    async def _drain(self) -> None:
        """Let what is in flight finish. The clients of a daemon that was stopped on purpose are told so."""
        on_purpose = self.ended_because in ON_PURPOSE
        with anyio.move_on_after(DRAIN_S):
            async with anyio.create_task_group() as tasks:
                for bridge in self._bridges:
                    tasks.start_soon(bridge.drain, on_purpose)
                for control in self._controls:
                    tasks.start_soon(control.drain)
        for stream in list(self._streams):
            await stream.aclose()

    # --- connections ---

    async def _accept(self, listener: SocketListener) -> None:
        async with anyio.create_task_group() as connections:
            with suppress(anyio.ClosedResourceError):  # closed because we end; the connections go on until drained
                while True:
                    try:
                        connections.start_soon(self._connection, await listener.accept())
                    except OSError as error:  # out of descriptors, for a while
                        logger.error("a connection could not be accepted: %s", error.strerror)
                        await anyio.sleep(ACCEPT_AGAIN_S)

    async def _connection(self, stream: SocketStream) -> None:
        self._streams.add(stream)
        try:
            async with stream:
                await self._talk(Lines(stream, limit_bytes=MAX_HELLO_BYTES))
        except Exception:  # the outermost edge of one connection: the others live on
            logger.exception("a connection failed")
        finally:
            self._streams.discard(stream)

    async def _talk(self, lines: Lines) -> None:
        hello = await self._hello(lines)
        if hello is None:
            return
        lines.limit_bytes = MAX_LINE_BYTES
        session, client = str(hello.get("session") or os.urandom(16).hex()), client_name(str(hello.get("client") or ""))
        if hello["mode"] == "control":
            control = ControlSocket(lines, session, client, self)
            with self._counted(self._controls, control):
                await lines.write(self._accepted())
                await control.serve()
            return
        from memos_mcp.mcp_socket import McpSocket  # only here: the SDK is loaded beside the loop, not before it

        if await self._wait_until_ready(lines):
            assert self.opened is not None
            try:
                server = self.opened.server_with(_names(hello.get("toolsets")))
            except MemosError as error:
                await lines.write(_refusal(error.code, str(error)))
                return
            bridge = McpSocket(lines, session, client)
            with self._counted(self._bridges, bridge):
                await lines.write(self._accepted())
                await bridge.serve(server, self._lifespan)

    async def _hello(self, lines: Lines) -> dict[str, Any] | None:
        """What the client introduced itself with; None when it is refused, or nothing came."""
        try:
            with anyio.fail_after(HELLO_S):
                hello = json.loads(await lines.read() or b"{}")
        except (TimeoutError, ValueError, RecursionError, LineTooLong):
            return None
        if not isinstance(hello, dict) or not hmac.compare_digest(
            str(hello.get("token")).encode(), self._endpoint.token.encode()
        ):
            await lines.write(_refusal("Token", "the token is not this daemon's: read the endpoint file again"))
            return None
        low, high = PROTOCOL
        if hello.get("mode") == "control" or (
            hello.get("mode") == "mcp" and low <= _number(hello.get("memos")) <= high
        ):
            return hello
        text = (
            f"the daemon (process {self._endpoint.pid}, version {VERSION}) speaks versions {low} to {high} of the "
            f"socket's protocol, not {hello.get('memos')!r}: use the same version of memos-mcp everywhere"
        )
        await lines.write(_refusal("Unavailable", text))
        return None

    async def _wait_until_ready(self, lines: Lines) -> bool:
        while not self._ready.is_set():
            with anyio.move_on_after(STARTING_EVERY_S):
                await self._ready.wait()
            if not self._ready.is_set() and not await lines.write(b'{"starting":true}'):
                return False
        if self.failure is not None:
            await lines.write(_refusal(self.failure.code, str(self.failure)))
        return self.failure is None

    def _accepted(self) -> bytes:
        facts = self.facts()
        return compact({"ok": True, "pid": facts["pid"], "version": facts["version"], "epoch": facts["epoch"]})

    @contextmanager
    def _counted(self, among: set[T], one: T) -> Iterator[None]:
        among.add(one)
        try:
            yield
        finally:
            among.discard(one)
            self._busy_at = time.monotonic()


def sweep(memos: MemOS) -> None:
    """Let the engine tidy up. A full disk ends neither the daemon nor its orderly close: the next sweep tries again."""
    try:
        memos.sweep()
    except MemosError as error:
        logger.warning("the sweep failed: %s: %s", error.code, error)
    except Exception as error:  # noqa: BLE001 -- an outermost edge; the text may quote content, the type does not
        logger.error("the sweep failed: %s", type(error).__qualname__)


def _refusal(code: str, message: str) -> bytes:
    return compact({"error": {"code": code, "message": message}})


def _names(value: object) -> tuple[str, ...]:
    return tuple(str(name) for name in value) if isinstance(value, list) else ()


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1
