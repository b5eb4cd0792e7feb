"""Processes that encrypt or open a store and are killed on the way: at a chosen file operation, or at a chosen moment.

A process kills itself with SIGKILL before the file operation of that number in its data folder (Python tells of each
one through its audit hooks, so the code under test knows nothing of it), or is killed by the test after so many seconds
(which also reaches into what DuckDB does by itself). It leaves a file when it has reported that it is done.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from engine.settings import Settings
from engine.vault.encrypting import change_key, decrypt, encrypt
from engine.vault.key_source import KeyFile, Work

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.engine.vault.killing"])
OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree")
FOREVER = 1_000_000
WORK = Work(n=2)

Do = Callable[[Settings, Path], object]


def do_encrypt(settings: Settings, file: Path) -> object:
    return encrypt(settings, KeyFile(file), work=WORK)


def do_decrypt(settings: Settings, file: Path) -> object:
    return decrypt(settings)


def do_change(settings: Settings, file: Path) -> object:
    return change_key(settings, KeyFile(file), work=WORK)


def killed(do: Do, settings: Settings, file: Path, *, at: int = FOREVER, after_s: float | None = None) -> int | None:
    """How many file operations it reported when it was done; None: it was killed before."""
    report = settings.data.with_name(f"{settings.data.name} done")
    process = PROCESSES.Process(target=_run, args=(do, settings, file, at, report))
    process.start()
    process.join(after_s)
    process.kill()
    process.join()
    process.close()
    if not report.exists():
        return None
    said = report.read_text()
    report.unlink()
    return int(said) if said else None


def _run(do: Do, settings: Settings, file: Path, limit: int, report: Path) -> None:
    count = 0
    folder = f"{settings.data}{os.sep}"

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in OPERATIONS and isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(folder):
            count += 1
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    os.umask(0o077)
    sys.addaudithook(heard)
    do(settings, file)
    report.write_text(str(count))
