"""One run of a command: its settings, its screen, and the conversation with the daemon.

The daemon is started when a command needs it and none runs. Knows the control mode of the socket (one line a request,
then lines of progress and items, then one result), and nothing of what the methods mean. What must stay true: a
failure reaches the person as one line, whatever went wrong on the way.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import MemosError, Unavailable
from engine.settings import Settings
from memos_mcp import dial, endpoint
from memos_mcp.terminal import Screen

DONE, FAILED, USAGE = 0, 1, 2
CLIENT = "command line"
STOP_PATIENCE_S = 30.0
LOOK_AGAIN_S = 0.02

Watch = Callable[[float, float | None, str], None]


class Failure(Exception):
    """Refused or failed: the message is the one line that the person reads."""


class Usage(Failure):
    """The command line itself is wrong."""


@dataclass
class Session:
    """What a command works with. The connection is made at the first call and kept to the end."""

    settings: Settings
    screen: Screen
    _link: dial.Link | None = field(default=None, repr=False)
    _requests: int = 0

    def call(self, method: str, params: dict[str, Any], watch: Watch | None = None, *, start: bool = True) -> Any:
        """Ask the daemon and wait for its result.

        Raises:
            Failure: it refused, or could not be reached; the message says why and what to do.
        """
        result = None
        for kind, value in self._answers(method, params, start=start):
            if kind == "progress" and watch is not None:
                watch(*value)
            elif kind == "result":
                result = value
        return result

    def items(self, method: str, params: dict[str, Any], watch: Watch | None = None) -> Iterator[Any]:
        """What the daemon sends one by one, as it comes."""
        for kind, value in self._answers(method, params, start=True):
            if kind == "progress" and watch is not None:
                watch(*value)
            elif kind == "item":
                yield value

    def tool(self, name: str, arguments: dict[str, Any], doing: str) -> dict[str, Any]:
        """Run one of the tools; its structured result."""
        with self.screen.bar(doing) as bar:
            result = self.call("tool", {"name": name, "arguments": arguments}, bar)
        return dict(result)

    def _answers(self, method: str, params: dict[str, Any], *, start: bool) -> Iterator[tuple[str, Any]]:
        link = self._connected(start)
        self._requests += 1
        request = {"id": self._requests, "method": method, "params": params}
        try:
            link.sock.sendall(json.dumps(request).encode() + b"\n")
            while True:
                line = link.lines.readline()
                if not line:
                    raise ConnectionResetError
                answer = json.loads(line)
                if "error" in answer:
                    raise Failure(str(answer["error"]["message"]))
                for kind in ("progress", "item", "result"):
                    if kind in answer:
                        yield kind, answer[kind]
                if "result" in answer:
                    return
        except (OSError, ValueError) as error:
            self.close()
            log = endpoint.log_path(self.settings.data)
            raise Failure(f"the daemon went away while it worked on this: try again, or see {log}") from error

    def _connected(self, start: bool) -> dial.Link:
        if self._link is None:
            try:
                self._link = dial.connect(
                    self.settings.data, dial.Hello("control", dial.new_session(), CLIENT), start=start
                )
            except MemosError as error:
                raise Failure(str(error)) from error
        return self._link

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    # --- the daemon as a process ------------------------------------------------------------------------------------

    def daemon_runs(self) -> bool:
        return self.settings.data.is_dir() and endpoint.owned(self.settings.data)

    def stop_daemon(self) -> int | None:
        """Ask the daemon to end and wait until it has let go of the store; its process id, or None if none ran.

        Raises:
            Failure: it refuses, hangs, or still holds the store after a while.
        """
        if not self.daemon_runs():
            return None
        pid = endpoint.owner_pid(self.settings.data)
        try:
            self.call("stop", {}, start=False)
        except Failure as failure:
            # It may have ended in this very moment, or closed the line before it answered.
            if not isinstance(failure.__cause__, (OSError, Unavailable)):
                raise
        self.close()
        deadline = time.monotonic() + STOP_PATIENCE_S
        while self.daemon_runs():
            if time.monotonic() > deadline:
                raise Failure(
                    f"process {pid} still owns {self.settings.data} after {STOP_PATIENCE_S:.0f} s: "
                    "wait for it, or end it, then try again"
                )
            time.sleep(LOOK_AGAIN_S)
        while pid is not None and _exists(pid) and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN_S)  # it has let go of everything and is on its way out
        return pid


def _exists(pid: int) -> bool:
    """Whether the process is there; one that has ended and waits for its parent to notice is not."""
    if sys.platform == "win32":
        return False  # asking there would end it
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:1]
    except ProcessLookupError:
        return False
    except OSError:  # another's process by now; or a system without /proc, where the signal has told
        return not Path("/proc/self").exists()
    return state != [b"Z"]
