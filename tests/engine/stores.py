"""Real stores for the tests of the engine, and short ways to say what a test does with them."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.memos import MemOS
from engine.operations import Caller, Forget, ForgetResult, Mode, Recall, Recalled, Remember, Remembered
from engine.settings import DEFAULT_EMBEDDER, NO_EMBEDDER, Settings
from engine.vault.encrypting import encrypt, is_encrypted
from engine.vault.key_source import KeyFile, Work
from tests.conftest import START, HandClock

ME = Caller()
ROOT = Path(__file__).resolve().parents[2]
SEALED = os.environ.get("MEMOS_TEST_SEALED") == "1"  # every store that is opened here is encrypted first
CHEAP = Work(n=2)  # what a passphrase costs is nothing to test
plain_only = pytest.mark.skipif(SEALED, reason="looks at, or changes, what a store that is not encrypted has on disk")


def settings_for(data: Path, embedder: str = NO_EMBEDDER) -> Settings:
    """A store without automatic backups: the tests of backups ask for them."""
    return Settings(data=data, embedder=embedder, offline=True, backup_every_h=0)


def with_vectors(settings: Settings) -> Settings:
    return replace(settings, embedder=DEFAULT_EMBEDDER)


@functools.cache
def passphrase_file() -> Path:
    """The passphrase of every encrypted store of this run."""
    folder = Path(tempfile.mkdtemp(prefix="memos-passphrase-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "passphrase"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o600)
    return path


def encrypted(settings: Settings) -> Settings:
    """The same store, encrypted (and made, if there is none) a day before the tests' clocks begin."""
    if not is_encrypted(settings):
        encrypt(settings, KeyFile(passphrase_file()), clock=HandClock(START - timedelta(days=1)), work=CHEAP)
    return settings


@contextmanager
def opened(settings: Settings, clock: HandClock | None = None) -> Iterator[MemOS]:
    if SEALED:
        encrypted(settings)
    with MemOS.open(settings, clock=clock) as memos:
        yield memos


def say(memos: MemOS, content: str, caller: Caller = ME, **more: Any) -> str:
    """Remember one content; the id of (the whole of) it."""
    return memos.remember(Remember(content=content, **more), caller).stored[0].id


def told(memos: MemOS, content: str, caller: Caller = ME, **more: Any) -> Remembered:
    return memos.remember(Remember(content=content, **more), caller)


def ask(memos: MemOS, query: str, caller: Caller = ME, **more: Any) -> Recalled:
    return memos.recall(Recall(query=query, **more), caller)


def ids(found: Recalled) -> list[str]:
    return [item.memory.id for item in found.memories]


def contents(found: Recalled) -> list[str]:
    return [item.memory.content for item in found.memories]


def archive(memos: MemOS, *wanted: str, reason: str | None = None) -> ForgetResult:
    return memos.forget(Forget(ids=wanted, reason=reason), ME)


def erase(memos: MemOS, *wanted: str, reason: str | None = None, caller: Caller = ME) -> ForgetResult:
    return memos.forget(Forget(ids=wanted, mode=Mode.ERASE, confirmed=True, reason=reason), caller)


def state(memos: MemOS, id: str) -> str:
    return memos.memory(id, ME).memory.state.value


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process that runs `code` with this project on its path."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command: Sequence[str] = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, **options)
