"""How a process reaches the daemon of a data folder, and starts one where there is none.

`connect` is all that the bridge and the command line need: it believes the endpoint file only after a hello, starts
a daemon when the lock is free, asks an older daemon to hand over, and gives up after a bounded time with an error
that names who is in the way. It never ends another process. The standard library is all it may use.

The hello line and the control method `handover` never change their shape, whatever the protocol number: that is how
two versions part in peace.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from engine import errors
from engine.errors import Busy, MemosError, Unavailable
from memos_mcp import endpoint as places
from memos_mcp.endpoint import PROTOCOL, Endpoint, Lock
from memos_mcp.version import VERSION, version_key

PATIENCE_S = 30.0  # how long a caller waits for a daemon
SILENCE_S = 10.0  # a daemon that starts, or drains, says so every second; one that says nothing for this long hangs
FIRST_WAIT_S, LONGEST_WAIT_S = 0.005, 0.1
MAX_FAILED_STARTS = 3
ERRORS: dict[str, type[MemosError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MemosError)
}


class Stale(Exception):
    """Nobody, or somebody else, is at the published place. It is tried again."""


@dataclass(frozen=True, slots=True)
class Hello:
    """How a client introduces itself. `session` names what may be sent again over another connection."""

    mode: str  # "mcp" or "control"
    session: str
    client: str = ""
    version: str = VERSION
    toolsets: tuple[str, ...] = ()  # which tools this connection is to have; none named: the daemon's own choice


@dataclass(frozen=True, slots=True)
class Link:
    """An accepted connection. `lines` reads what the daemon sends, line by line."""

    sock: socket.socket
    lines: BufferedReader
    pid: int
    version: str
    epoch: int

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.lines.close()
        self.sock.close()


def new_session() -> str:
    return os.urandom(16).hex()


def toolsets(given: str | None) -> tuple[str, ...]:
    """The names in `given`, or in `MEMOS_TOOLSETS`, between commas. Which there are is for the daemon to say."""
    names = os.environ.get("MEMOS_TOOLSETS", "") if given is None else given
    return tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def connect(data: Path, hello: Hello, *, start: bool = True, patience_s: float = PATIENCE_S) -> Link:
    """A connection to the daemon of `data`, which is started if need be.

    Raises:
        Busy: the owner does not answer, or none came in time.
        Unavailable: there is none and `start` is false; it cannot start; it speaks another protocol.
        MemosError: the daemon could not open the store and says why.
    """
    if start:
        places.prepare_folder(data)
    deadline = time.monotonic() + patience_s
    wait_s = FIRST_WAIT_S
    asked = False
    with Starter(data) as starter:
        while True:
            published = places.read_endpoint(data)
            if published is not None:
                try:
                    link = dial(published, hello, min(SILENCE_S, patience_s))
                    if asked or not start or not outdated(published, hello.version) or not starter.reserve():
                        return link
                    link.close()
                    asked = True
                    if ask_to_hand_over(published, hello):
                        continue
                    return dial(published, hello, SILENCE_S)
                except Stale:
                    pass
            if start:
                starter.start_if_alone()
            elif not places.owned(data):
                raise Unavailable(f"no daemon runs for {data}")
            if time.monotonic() > deadline:
                raise Busy(no_answer(data, patience_s))
            time.sleep(wait_s * random.uniform(0.5, 1.5))
            wait_s = min(wait_s * 1.5, LONGEST_WAIT_S)


def dial(published: Endpoint, hello: Hello, silence_s: float) -> Link:
    """Connect and be accepted. The daemon may say that it is still starting; it is waited for while it says so.

    Raises:
        Stale: nobody is there, or not the one who published this.
        Busy: somebody is there and says nothing.
        MemosError: it refuses, and says why.
    """
    try:
        sock = places.call(published.address, silence_s)
    except TimeoutError as error:
        raise Busy(hangs(published.pid, silence_s)) from error
    except OSError as error:
        raise Stale from error
    lines = sock.makefile("rb")
    greeting = {
        "memos": PROTOCOL[1],
        "token": published.token,
        "mode": hello.mode,
        "session": hello.session,
        "version": hello.version,
        "client": hello.client,
        "toolsets": hello.toolsets,
    }
    try:
        sock.sendall(json.dumps(greeting).encode() + b"\n")
        answer = _answer(lines)
        sock.settimeout(None)
        return Link(sock, lines, int(answer["pid"]), str(answer["version"]), int(answer["epoch"]))
    except BaseException as error:
        lines.close()
        sock.close()
        if isinstance(error, TimeoutError):
            raise Busy(hangs(published.pid, silence_s)) from error
        if isinstance(error, (OSError, ValueError, KeyError, TypeError)):
            raise Stale from error
        raise


def _answer(lines: BufferedReader) -> dict[str, Any]:
    while True:
        line = lines.readline()
        if not line:
            raise ConnectionResetError("closed before it answered")
        answer = json.loads(line)
        if "error" in answer:
            raise refusal(answer["error"])
        if answer.get("ok"):
            return dict(answer)


def refusal(error: dict[str, Any]) -> Exception:
    """The error that a daemon sent, as the same error here."""
    if error.get("code") == "Token":  # the endpoint file was of an owner before this one
        return Stale()
    return ERRORS.get(str(error.get("code")), Unavailable)(str(error.get("message")))


def outdated(published: Endpoint, version: str) -> bool:
    return version_key(published.version) < version_key(version)


def ask_to_hand_over(published: Endpoint, hello: Hello) -> bool:
    """Ask an owner to end in favour of this version. False: it stays, and may be talked to."""
    try:
        link = dial(published, Hello("control", new_session(), hello.client, hello.version), SILENCE_S)
    except Stale:
        return True
    try:
        link.sock.settimeout(SILENCE_S)
        request = {"id": 1, "method": "handover", "params": {"version": hello.version}}
        link.sock.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(link.lines.readline() or b"{}")
        return "error" not in answer
    except (OSError, ValueError):
        return True
    finally:
        link.close()


def hangs(pid: int, silence_s: float) -> str:
    return (
        f"the memos-mcp daemon (process {pid}) has not answered for {silence_s:.0f} s: it may be stopped or hung. "
        f"Let it continue, or end process {pid}, then try again"
    )


def no_answer(data: Path, patience_s: float) -> str:
    pid = places.owner_pid(data)
    if places.owned(data):
        return (
            f"process {pid} owns the data folder {data} and accepts no connection since {patience_s:.0f} s. "
            f"Wait for it, or end process {pid}, then try again"
        )
    return f"no memos-mcp daemon came up within {patience_s:.0f} s: try again, and see {places.log_path(data)}"


# --- starting one -----------------------------------------------------------------------------------------------


class Starter:
    """Starts a daemon when nobody owns the folder: among all processes that find none, one at a time.

    The start lock is held until the caller is connected, so that the others wait for this daemon instead of starting
    theirs, and so that after a handover the newer version is the one to start.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._turn: Lock | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._failed = 0

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._turn is not None:
            self._turn.release()
        if self._child is not None:  # it outlives us; while we live, its end must not leave a zombie
            threading.Thread(target=self._child.wait, daemon=True).start()

    def reserve(self) -> bool:
        """Take the turn to start a daemon; False while another process has it."""
        if self._turn is None:
            self._turn = places.take_lock(self._data / "start.lock")
        return self._turn is not None

    def start_if_alone(self) -> None:
        """Start a daemon unless there is an owner, or one is being started.

        Raises:
            Unavailable: it ends each time as soon as it starts.
        """
        if self._child is not None:
            status = self._child.poll()
            if status is None:
                return
            self._child = None
            self._failed += status != 0
            if self._failed >= MAX_FAILED_STARTS:
                log = places.log_path(self._data)
                raise Unavailable(f"the memos-mcp daemon ends as soon as it starts (status {status}): see {log}")
        if self.reserve() and not places.owned(self._data):
            self._child = start_daemon(self._data)


def start_daemon(data: Path) -> subprocess.Popen[bytes]:
    """A daemon process of its own: no terminal, no pipes of ours, a session of its own."""
    log = os.open(places.log_path(data), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "memos_mcp", "daemon", "--data", str(data)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=data.anchor or "/",
            env=_environment(),
            start_new_session=True,
            creationflags=0x00000208 if sys.platform == "win32" else 0,  # DETACHED_PROCESS, a process group of its own
        )
    finally:
        os.close(log)


def _environment() -> dict[str, str]:
    """Ours, and the way to this code where it is found only because of where or how we were started."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[1])
    installed = root.endswith("-packages")  # found anyway, and must not come before the standard library
    if not installed and (sys.path[:1] in ([""], [root]) or "PYTHONPATH" in environment):
        others = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p and p != root]
        environment["PYTHONPATH"] = os.pathsep.join([root, *others])
    return environment
