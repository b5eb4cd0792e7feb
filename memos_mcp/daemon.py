"""The daemon as a process: it wins the folder, loads the engine, serves, and lets go in the right order.

`main` is the daemon that a bridge or a command started on demand, `serve` the one that a person runs in the
foreground. The lock is taken first and released last; between, `Host` is at work. A process that does not win ends at
once and quietly: somebody else serves.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import SocketListener

from engine.errors import Busy, MemosError
from engine.settings import Settings, environment_settings
from memos_mcp import dial
from memos_mcp import endpoint as places
from memos_mcp.dial import Hello, Starter
from memos_mcp.endpoint import Endpoint, Lock
from memos_mcp.host import Host, Http, Opened, sweep
from memos_mcp.logs import log_to_file
from memos_mcp.version import VERSION

if TYPE_CHECKING:
    from engine.memos import MemOS

logger = logging.getLogger("memos_mcp.daemon")

LOCK_TRIES_S = 0.5  # those who only ask whether the lock is free hold a shared one for a moment
OPEN_TRIES_S = 5.0  # the locks of an owner that was killed may outlive it for a moment
TAKE_OVER_S = 45.0
CLOSE_LIMIT_S = 30.0  # closing that takes longer hangs: what is acknowledged is durable, so the process may just end
DONE, FAILED, USAGE = 0, 1, 2
CORE = ("core",)


def main(arguments: Sequence[str]) -> int:
    """`memos-mcp daemon --data DIR`: what `dial.start_daemon` runs."""
    if len(arguments) != 2 or arguments[0] != "--data":
        sys.stderr.write("memos-mcp: daemon takes --data DIR and is started by the others\n")
        return USAGE
    try:
        settings = environment_settings(data=Path(arguments[1]))
        places.prepare_folder(settings.data)
        won = _win(settings.data)
        if won is None:
            return DONE
        return _own(settings, won, None)
    except MemosError as error:
        sys.stderr.write(f"memos-mcp: {error}\n")  # stderr is the log file here
        return FAILED


def serve(settings: Settings, http: Http | None, *, toolsets: Sequence[str] = CORE) -> int:
    """The daemon in the foreground; an on-demand daemon is asked to hand over.

    Raises:
        Busy: another `serve` has the folder, or its owner does not answer.
        MemosError: the store does not open.
    """
    places.prepare_folder(settings.data)
    with Starter(settings.data) as starter:
        won = _take_over(settings.data, starter)
    return _own(settings, won, http, toolsets=toolsets, foreground=True)


# --- winning the folder -------------------------------------------------------------------------------------------


def _win(data: Path) -> tuple[Lock, int] | None:
    deadline = time.monotonic() + LOCK_TRIES_S
    while (won := places.take_ownership(data)) is None and time.monotonic() < deadline:
        time.sleep(random.uniform(0.01, 0.03))
    return won


def _take_over(data: Path, starter: Starter) -> tuple[Lock, int]:
    deadline = time.monotonic() + TAKE_OVER_S
    while time.monotonic() < deadline:
        starter.reserve()  # so that no bridge starts a daemon between the old one's end and ours
        if (won := _win(data)) is not None:
            return won
        published = places.read_endpoint(data)
        if published is None:
            continue
        if published.foreground or not dial.ask_to_hand_over(published, Hello("control", dial.new_session())):
            raise Busy(
                f"another `memos-mcp serve` (process {published.pid}) serves {data} already: end it first, or choose "
                "another folder with --data"
            )
    raise Busy(dial.no_answer(data, TAKE_OVER_S))


# --- owning it ----------------------------------------------------------------------------------------------------


def _own(
    settings: Settings,
    won: tuple[Lock, int],
    http: Http | None,
    *,
    toolsets: Sequence[str] = CORE,
    foreground: bool = False,
) -> int:
    lock, epoch = won
    os.umask(0o077)
    log = log_to_file(places.log_path(settings.data))
    try:
        sock, address = places.listen(settings.data, tcp=os.environ.get("MEMOS_SOCKET") == "tcp")
        endpoint = Endpoint(address, secrets.token_hex(32), os.getpid(), epoch, VERSION, foreground=foreground)
        places.publish(settings.data, endpoint)
        logger.info("version %s owns %s, epoch %d", VERSION, settings.data, epoch)
        return anyio.run(_serve, settings, lock, endpoint, sock, http, toolsets)
    except MemosError:
        raise
    except Exception:  # the outermost edge: the interpreter's own report would quote what was being worked on
        logger.exception("an unexpected failure ended the daemon")
        return FAILED
    finally:
        if lock.counts():
            places.retract(settings.data)
        logging.getLogger().removeHandler(log)
        log.close()
        lock.release()


async def _serve(
    settings: Settings,
    lock: Lock,
    endpoint: Endpoint,
    sock: socket.socket,
    http: Http | None,
    toolsets: Sequence[str],
) -> int:
    host = Host(settings, lock, endpoint, lambda: _load(settings, toolsets), http)
    sock.setblocking(False)
    try:
        await host.serve(await SocketListener.from_socket(sock))
    finally:
        last_resort = threading.Timer(CLOSE_LIMIT_S, _give_up_closing)
        last_resort.daemon = True
        last_resort.start()
        if host.opened is not None:
            await anyio.to_thread.run_sync(_close, host.opened)
        last_resort.cancel()
    if host.failure is None:
        return DONE
    if endpoint.foreground:
        raise host.failure
    return FAILED


def _load(settings: Settings, toolsets: Sequence[str]) -> Opened:
    """The engine, opened while the server's modules are imported: each takes half of the time that a start has.

    Imports happen in one thread only: two threads may meet inside a package that imports in circles.
    """
    gc.disable()  # importing makes half a million objects and no garbage
    try:
        from engine.memos import MemOS

        with ThreadPoolExecutor(1) as thread:
            memos = thread.submit(_patiently, lambda: MemOS.open(settings, announce=logger.info))
            from memos_mcp.server import Servers

            servers = Servers(memos.result(), tuple(toolsets), version=VERSION)
            return Opened(memos.result(), servers.usual, servers.with_toolsets)
    finally:
        gc.enable()


def _patiently(open_engine: Callable[[], MemOS]) -> MemOS:
    deadline = time.monotonic() + OPEN_TRIES_S
    while True:
        try:
            return open_engine()
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _close(opened: Opened) -> None:
    sweep(opened.memos)
    try:
        opened.memos.close()
        logger.info("closed")
    except MemosError as error:
        logger.error("closing failed: %s: %s", error.code, error)
    except Exception as error:  # noqa: BLE001 -- the outermost edge: the endpoint and the lock are still to be let go
        logger.error("closing failed: %s", type(error).__qualname__)


def _give_up_closing() -> None:
    logger.error("closing has taken longer than %.0f s: the process ends without it", CLOSE_LIMIT_S)
    os._exit(FAILED)
