"""The command line as a person or a program uses it: real processes, with pipes or with a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.memos_mcp.processes import LONG_S, daemon_gone_after, environment

COMMAND = (sys.executable, "-m", "memos_mcp")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """A shell whose commands all mean one data folder, without an embedder."""

    data: Path

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Done:
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=LONG_S,
            env=environment(self.data, **env),
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def good(self, *arguments: str, stdin: str = "") -> Any:
        """The JSON result of a command that must succeed."""
        done = self(*arguments, "--json", stdin=stdin)
        assert done.code == 0, done.err
        return done.json

    def remember(self, content: str, *options: str) -> str:
        stored = self.good("remember", content, *options)["stored"]
        identity: str = stored[0]["id"]
        return identity

    def at_a_terminal(
        self,
        *arguments: str,
        types: str = "",
        secrets: tuple[tuple[str, str], ...] = (),
        then: Callable[[subprocess.Popen[str]], object] = id,
        **env: str,
    ) -> Done:
        """With a terminal at both ends; `types` is what the person answers at once, `secrets` what it answers to which
        prompt, once that is shown: what is typed before a prompt for a secret is thrown away; `then` is done to
        the process after that."""
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=theirs,
                env=environment(self.data, **env),
                text=True,
                start_new_session=True,  # its terminal is ours, and not that of whoever runs the tests
            )
            os.close(theirs)
            os.write(ours, types.encode())
            shown = ""
            for prompt, answer in secrets:
                shown += _until(ours, prompt)
                os.write(ours, f"{answer}\n".encode())
            then(process)
            out, _ = process.communicate(timeout=LONG_S)
            return Done(process.returncode, out, shown + _rest(ours))
        finally:
            os.close(ours)


def _until(terminal: int, prompt: str) -> str:
    """What is shown up to and with the prompt."""
    seen = ""
    deadline = time.monotonic() + LONG_S
    while prompt not in seen:
        assert time.monotonic() < deadline, f"{prompt!r} was not asked: {seen!r}"
        if select.select([terminal], [], [], 0.05)[0]:
            seen += os.read(terminal, 65536).decode()
    return seen


def _rest(terminal: int) -> str:
    seen = b""
    while select.select([terminal], [], [], 0)[0]:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    return seen.decode()


@contextmanager
def shell(data: Path) -> Iterator[Shell]:
    with daemon_gone_after(data):
        yield Shell(data)
