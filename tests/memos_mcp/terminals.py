"""A terminal with a program in it: what is typed, what is shown, and Ctrl-C as the terminal sends it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.memos_mcp.processes import LONG_S, environment

CTRL_C, CTRL_D = "\x03", "\x04"
COLUMNS = 100
PRESS_AGAIN_S = 5.0  # a key that was not heard until then is pressed again
# Makes the terminal that it has for standard input its own, so that Ctrl-C reaches it, and becomes the program.
BECOME = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program in a terminal that is ours."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process = process
        self._bytes = b""
        self._ours = ours
        self._read_to = 0

    def types(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def _press(self, key: str) -> None:
        with contextlib.suppress(OSError):  # it has just ended
            self.types(key)

    def until(self, text: str, key: str = "") -> str:
        """Wait until `text` is shown, after what was waited for before; what was shown up to it, in plain text.

        `key` is pressed until then, as in `end`.
        """
        deadline, pressed = time.monotonic() + LONG_S, float("-inf")
        while (at := self.plain.find(text, self._read_to)) < 0:
            if key and time.monotonic() - pressed > PRESS_AGAIN_S:
                self._press(key)
                pressed = time.monotonic()
            assert time.monotonic() < deadline, f"{text!r} was not shown: {self.seen!r}"
            if not self._read(0.05) and self.process.poll() is not None:
                assert text in self.plain[self._read_to :], f"ended without {text!r}: {self.seen!r}"
        shown = self.plain[self._read_to : at + len(text)]
        self._read_to = at + len(text)
        return shown

    def end(self, key: str = "") -> int:
        """Wait for the program's end; its exit code. `key` is pressed until then.

        Once is not enough: what is typed while a line editor sets up the terminal is lost, as it is for a person.
        """
        deadline, pressed = time.monotonic() + LONG_S, float("-inf")
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on: {self.seen!r}"
            if key and time.monotonic() - pressed > PRESS_AGAIN_S:
                self._press(key)
                pressed = time.monotonic()
            self._read(0.02)
        while self._read(0):
            pass
        return self.process.wait()

    @property
    def seen(self) -> str:
        """All that was shown so far, escape sequences and all."""
        return self._bytes.decode("utf-8", "replace")

    @property
    def plain(self) -> str:
        """The same without escape sequences and carriage returns."""
        return ESCAPES.sub("", self.seen).replace("\r", "")

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._ours], [], [], wait_s)[0]:
            return False
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            return False
        self._bytes += chunk
        return bool(chunk)


@contextmanager
def terminal(data: Path, *arguments: str, **env: str) -> Iterator[Terminal]:
    """`memos-mcp` with these arguments in a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "memos_mcp", *arguments]
    more = {"TERM": "xterm", "INPUTRC": os.devnull, **env}
    process = subprocess.Popen(
        [sys.executable, "-c", BECOME, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(data, **more),
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)
