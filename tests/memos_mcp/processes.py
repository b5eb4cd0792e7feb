"""Real processes for tests: assistants that speak through `memos-mcp`, and the daemon behind them.

Waiting is always for a condition, with a deadline far beyond what it should take.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from memos_mcp import dial, endpoint

ROOT = Path(__file__).resolve().parents[2]
LONG_S = 60.0


def until(condition: Callable[[], Any], what: str, limit_s: float = LONG_S) -> Any:
    """Wait for `condition` to be true, and give what it gave."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {limit_s:.0f} s"
        time.sleep(0.01)
    return value


def note(*key: object) -> str:
    """A text that is like no other: a name for the test to find, and words that nobody ever said."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=24).hexdigest()
    letters = digest.translate(str.maketrans("0123456789", "ghijklmnop"))
    return "-".join(map(str, key)) + " " + " ".join(letters[i : i + 8] for i in range(0, len(letters), 8))


def environment(data: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MEMOS_")}
    settings = {"MEMOS_DATA": str(data), "MEMOS_EMBEDDER": "none", "MEMOS_OFFLINE": "1", "MEMOS_IDLE_S": "60"}
    return {**kept, "PYTHONPATH": str(ROOT), **settings, **more}


def owner(data: Path) -> int:
    """The process that owns the folder now and has published where it listens."""

    def published() -> int | None:
        found = endpoint.read_endpoint(data)
        return found.pid if found is not None and endpoint.owned(data) and alive(found.pid) else None

    pid: int = until(published, "a daemon")
    return pid


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def free(data: Path) -> bool:
    return not endpoint.owned(data)


def daemons_so_far(data: Path) -> int:
    """How many processes have owned the folder."""
    return json.loads((data / "owner.lock").read_bytes())["epoch"]  # type: ignore[no-any-return]


@contextmanager
def daemon_gone_after(data: Path) -> Iterator[Path]:
    """End the daemon of `data` when the test is over, however that goes."""
    try:
        yield data
    finally:
        deadline = time.monotonic() + LONG_S
        while endpoint.owned(data) and time.monotonic() < deadline:
            pid = endpoint.owner_pid(data)
            if pid is not None and alive(pid):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.02)


class Assistant:
    """An MCP client on the standard streams of a `memos-mcp` process of its own."""

    def __init__(self, data: Path, command: list[str] | None = None, **more: str) -> None:
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "memos_mcp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment(data, **more),
        )
        self._next = 0
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.seen: list[Any] = []  # everything that came, in order
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(b"")

    def send(self, message: object) -> None:
        assert self.process.stdin is not None
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()

    def receive(self, limit_s: float = LONG_S) -> Any:
        """The next line; None at the end of the stream."""
        line = self._lines.get(timeout=limit_s)
        message = json.loads(line) if line else None
        self.seen.append(message)
        return message

    def ask(self, method: str, limit_s: float = LONG_S, **params: Any) -> Any:
        """A request and its whole answer."""
        return self.answer_to(self.begin(method, **params), limit_s)

    def begin(self, method: str, **params: Any) -> int:
        self._next += 1
        self.send({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})
        return self._next

    def answer_to(self, identifier: int, limit_s: float = LONG_S) -> Any:
        while True:
            message = self.receive(limit_s)
            assert message is not None, "the bridge ended"
            if message.get("id") == identifier and "method" not in message:
                return message

    def start(self) -> Assistant:
        """Shake hands as a client of 2025 does."""
        client = {"name": "test", "version": "1"}
        answer = self.ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
        assert "result" in answer, answer
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def tool(self, name: str, **arguments: Any) -> Any:
        """The structured result of a tool."""
        answer = self.ask("tools/call", name=name, arguments=arguments)
        assert "result" in answer, answer
        assert not answer["result"].get("isError"), answer
        return answer["result"]["structuredContent"]

    def remember(self, content: str) -> Any:
        (stored,) = self.tool("remember", content=content)["stored"]
        return stored

    def close(self, limit_s: float = LONG_S) -> int:
        """End of input, as a client leaves; the exit status."""
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        return self.process.wait(limit_s)

    def __enter__(self) -> Assistant:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()


def stored_contents(data: Path) -> list[str]:
    """What the store holds, by the control mode's export."""
    return [item["content"] for item in control(data, "export", {}) if isinstance(item, dict)]


def control(data: Path, method: str, params: dict[str, Any]) -> list[Any]:
    """The items and the result of a control request, items first; an error as {"error": …}."""
    link = dial.connect(data, dial.Hello("control", dial.new_session(), "test"), start=False)
    try:
        link.sock.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
        got = []
        while True:
            answer = json.loads(link.lines.readline())
            if "error" in answer:
                return [answer["error"]["code"], answer["error"]["message"]]
            if "item" in answer:
                got.append(answer["item"])
            if "result" in answer:
                return got if method == "export" else [answer["result"]]
    finally:
        link.close()
