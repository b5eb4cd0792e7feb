"""The stdio process that an assistant starts: it copies lines between its pipes and the daemon's socket.

It loads no engine and no MCP library: the standard library is all it may use, and it is at work within a tenth of a
second. What the lines mean is `conversation`'s to know, how a daemon is found and started `dial`'s; here are the
threads and the pipes: one thread reads stdin, one keeps the connection and reads from it, one writes stdout, and the
first one waits for the end.

What stays true: reading stdin never waits for stdout; a dead daemon is replaced without the client noticing; at the
end of stdin, or a signal, what was asked is answered within a bound, and the process is gone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.errors import Busy, MemosError
from memos_mcp import dial
from memos_mcp import endpoint as places
from memos_mcp.conversation import Conversation
from memos_mcp.dial import Hello, Link
from memos_mcp.envelope import MAX_LINE_BYTES, Malformed, error_line, oversized

CHUNK_BYTES = 1 << 16
OUTBOX_BYTES = 8 << 20  # answers that the client does not read are left with the daemon beyond this
DRAIN_S = 10.0  # after stdin ends, what is in flight may take this long
SIGNAL_DRAIN_S = 1.0  # after a signal, this long
FLUSH_S = 2.0  # for a client that does not read what is left
SILENT_S = 15.0  # a daemon that owes an answer and says nothing for so long is asked whether it is alive
WATCH_S = 5.0  # how often that is looked at
END_OF_INPUT, END_OF_OUTPUT, ANSWERED = "end of input", "end of output", "answered"


def main(data: Path | None = None, toolsets: str | None = None) -> int:
    """Be the bridge of the standard streams until they end. Returns the exit status."""
    if sys.platform == "win32":
        import msvcrt

        for fd in (0, 1):
            msvcrt.setmode(fd, os.O_BINARY)
    return Bridge(data or data_folder(), toolsets=dial.toolsets(toolsets)).run()


def data_folder() -> Path:
    """The data folder as the settings have it, without what the settings load."""
    given = os.environ.get("MEMOS_DATA")
    if given:
        return Path(given).expanduser().absolute()
    from engine.settings import default_data_folder  # only here: most of the bridge's start would go into it

    return default_data_folder().absolute()


class Bridge:
    def __init__(
        self,
        data: Path,
        *,
        stdin: int = 0,
        stdout: int = 1,
        patience_s: float = dial.PATIENCE_S,
        toolsets: tuple[str, ...] = (),
    ) -> None:
        self._data = data
        self._stdin = stdin
        self._patience_s = patience_s
        self._hello = Hello("mcp", dial.new_session(), toolsets=toolsets)
        self._events: queue.SimpleQueue[str | int] = queue.SimpleQueue()  # its put is safe in a signal handler
        self._outbox = Outbox(stdout, lambda: self._events.put(END_OF_OUTPUT))
        self._conversation = Conversation()
        self._state = threading.Lock()  # over the conversation; never held while anything blocks
        self._sending = threading.Lock()  # over what goes to the daemon; taken before `_state` where both are
        self._needed = threading.Event()
        self._link: Link | None = None
        self._heard = time.monotonic()
        self._ending = False

    def run(self) -> int:
        for number in _ending_signals():
            signal.signal(number, lambda n, _: self._events.put(n))
        self._outbox.start()
        for work in (self._keep_connected, self._read_input):
            threading.Thread(target=work, daemon=True).start()
        status = self._wait_for_the_end()
        self._outbox.finish(FLUSH_S)
        if self._link is not None:
            self._link.close()
        return status

    # --- the first thread: waits for the end ---

    def _wait_for_the_end(self) -> int:
        while True:
            try:
                event = self._events.get(timeout=WATCH_S)
            except queue.Empty:
                self._check_for_a_hang()
                continue
            if event == END_OF_OUTPUT:
                return 0
            if event == END_OF_INPUT:
                self._drain(DRAIN_S)
                return 0
            if isinstance(event, int):
                self._drain(SIGNAL_DRAIN_S)
                return 128 + event

    def _drain(self, limit_s: float) -> None:
        """Wait until nothing is in flight, the client is gone, a (second) signal comes, or the time is over."""
        deadline = time.monotonic() + limit_s
        self._ending = True
        while self._waiting() and (left_s := deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left_s)
            except queue.Empty:
                return
            if event == END_OF_OUTPUT or isinstance(event, int):
                return

    def _waiting(self) -> int:
        with self._state:
            return self._conversation.waiting

    def _check_for_a_hang(self) -> None:
        """A daemon that owes an answer, says nothing and accepts nobody hangs: tell the client who it is."""
        published = places.read_endpoint(self._data)
        if published is None or not self._waiting() or time.monotonic() - self._heard < SILENT_S:
            return
        try:
            dial.dial(published, Hello("control", self._hello.session), dial.SILENCE_S).close()
            self._heard = time.monotonic()  # it lives, and works
        except Busy as error:
            self._give_up(error)
        except (dial.Stale, MemosError):
            return  # the connection will end by itself

    # --- the second thread: stdin ---

    def _read_input(self) -> None:
        splitter = LineSplitter()
        with contextlib.suppress(OSError):
            while chunk := os.read(self._stdin, CHUNK_BYTES):
                for line in splitter.feed(chunk):
                    self._from_client(line)
        for line in splitter.rest():
            self._from_client(line)
        self._events.put(END_OF_INPUT)

    def _from_client(self, line: bytes | Malformed) -> None:
        if isinstance(line, Malformed):
            self._outbox.put([error_line(line.key, line.code, line.text)])
            return
        with self._state:
            if not self._conversation.waiting:
                self._heard = time.monotonic()
            step = self._conversation.from_client(line)
            generation = self._conversation.generation
            if self._conversation.needs_daemon:
                self._needed.set()
        self._outbox.put(step.answer)
        if step.send:
            with self._sending:
                # Of another generation: the replay to the new daemon had it already.
                if self._link is not None and self._conversation.generation == generation:
                    _send(self._link, step.send)

    # --- the third thread: the daemon ---

    def _keep_connected(self) -> None:
        while True:
            try:
                link = dial.connect(self._data, self._hello, patience_s=self._patience_s)
            except MemosError as error:
                self._give_up(error)
            else:
                self._adopt(link)
                self._copy_answers(link)
                link.close()
            self._needed.wait()

    def _adopt(self, link: Link) -> None:
        with self._sending:
            with self._state:
                lines = self._conversation.replay()
                self._link = link
                self._heard = time.monotonic()
            _send(link, lines)

    def _copy_answers(self, link: Link) -> None:
        """Until the daemon closes the connection or dies; what it did not finish writing counts as not said."""
        while True:
            try:
                line = link.lines.readline()
            except (OSError, ValueError):
                line = b""
            whole = line.endswith(b"\n")
            with self._state:
                if whole:
                    self._heard = time.monotonic()
                    lines = self._conversation.from_daemon(line.rstrip(b"\r\n"))
                else:
                    lines = self._conversation.lost()
                    _set(self._needed, self._conversation.needs_daemon)
            self._outbox.put(lines)
            if self._ending:
                self._events.put(ANSWERED)
            if not whole:
                return
            self._outbox.wait_for_room()

    def _give_up(self, error: MemosError) -> None:
        """Answer what waits with the error. The next request makes another attempt."""
        with self._state:
            lines = self._conversation.give_up(error)
            self._needed.clear()
        self._outbox.put(lines)
        self._events.put(ANSWERED)
        with contextlib.suppress(OSError):
            os.write(2, f"memos-mcp: {error}\n".encode())


def _send(link: Link, lines: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the thread that reads from it sees that too, and gets a new one
        link.sock.sendall(b"".join(line + b"\n" for line in lines))


def _set(event: threading.Event, value: bool) -> None:
    if value:
        event.set()
    else:
        event.clear()


def _ending_signals() -> list[signal.Signals]:
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


class LineSplitter:
    """Cuts a stream into lines. Of one over the bound only the ends are kept: they may tell whose it was."""

    def __init__(self, limit_bytes: int = MAX_LINE_BYTES) -> None:
        self._limit = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[bytes | Malformed]:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._add(chunk[start:end])
            yield from self.rest()
            start = end + 1
        self._add(chunk[start:])

    def rest(self) -> Iterator[bytes | Malformed]:
        """What has come since the last line ended, as a line; white space is none."""
        parts, size = self._parts, self._size
        self._parts, self._size = [], 0
        if size > self._limit:
            yield oversized(parts[0][:4096], b"".join(parts[-2:])[-512:])
        elif line := b"".join(parts).strip():
            yield line

    def _add(self, part: bytes) -> None:
        if not part:
            return
        self._size += len(part)
        self._parts.append(part)
        if self._size > self._limit and len(self._parts) > 3:
            del self._parts[1:-2]


class Outbox(threading.Thread):
    """Writes lines to a file descriptor, in order, on its own thread."""

    def __init__(self, fd: int, broken: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._fd = fd
        self._broken = broken
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._finishing = False

    def put(self, lines: list[bytes]) -> None:
        """Never waits."""
        if lines:
            with self._changed:
                self._lines.extend(lines)
                self._bytes += sum(map(len, lines))
                self._changed.notify_all()

    def wait_for_room(self) -> None:
        """Wait while more than `OUTBOX_BYTES` wait to be read by the client."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes <= OUTBOX_BYTES)

    def finish(self, limit_s: float) -> None:
        """Write what there is, for at most so long."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
        self.join(limit_s)

    def run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._finishing)
                if not self._lines:
                    return
                data = b"".join(line + b"\n" for line in self._lines)
                self._lines.clear()
            try:
                _write_all(self._fd, data)
            except OSError:
                self._broken()
                return
            with self._changed:
                self._bytes = sum(map(len, self._lines))
                self._changed.notify_all()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
