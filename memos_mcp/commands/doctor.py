"""`doctor`: look at everything that the memory stands on, and say for each thing that is wrong what to do.

It changes nothing but may start the daemon, which opens (and so repairs) the store. Each check is a function that
yields findings; none depends on another one's success. What must stay true: a problem always comes with its remedy,
and only a problem makes the exit code 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from engine.errors import MemosError
from engine.index.embedder import open_embedder
from engine.settings import NO_EMBEDDER
from memos_mcp import endpoint
from memos_mcp.commands.session import DONE, FAILED, Failure, Session
from memos_mcp.version import VERSION

OLDEST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 256 * 1024 * 1024
ROOM_FOR_COPIES = 3  # an erasure and a backup each write the store anew beside the old one
BACKUP_AGE = timedelta(days=7)
PRIVATE_FILES = ("vault.duckdb", "vault.duckdb.wal", "endpoint.json", "daemon.log")


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    about: str
    level: Level
    text: str


def doctor(session: Session, options: argparse.Namespace) -> int:
    findings = [finding for check in CHECKS for finding in check(session)]
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if session.screen.as_json:
        session.screen.json({"healthy": not problems, "findings": [asdict(finding) for finding in findings]})
    else:
        session.screen.table(("", "checked", "found"), [(f.level.value, f.about, f.text) for f in findings])
    if problems:
        session.screen.remark(f"{problems} {'problem' if problems == 1 else 'problems'} found")
    return FAILED if problems else DONE


def python(session: Session) -> Iterator[Finding]:
    running = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Finding("python", Level.PROBLEM, f"{running} is too old: install Python 3.11 or later")
    else:
        yield Finding("python", Level.OK, f"{running}, memos-mcp {VERSION}")


def data_folder(session: Session) -> Iterator[Finding]:
    data = session.settings.data
    if not data.exists():
        yield Finding("data folder", Level.NOTE, f"{data} is not there yet: the first command that needs it makes it")
        return
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("data folder", Level.PROBLEM, f"{data} cannot be read and written: chown it to yourself")
        return
    loose = [path for path in (data, *(data / name for name in PRIVATE_FILES)) if _open_to_others(path)]
    for path in loose:
        yield Finding("data folder", Level.PROBLEM, f"others may read {path}: chmod go-rwx '{path}'")
    if not loose:
        yield Finding("data folder", Level.OK, f"{data}, private")


def _open_to_others(path: Path) -> bool:
    return os.name == "posix" and path.exists() and bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def free_disk(session: Session) -> Iterator[Finding]:
    folder = next(path for path in (session.settings.data, *session.settings.data.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    database = session.settings.database
    size = database.stat().st_size if database.exists() else 0
    needed = max(LEAST_FREE_BYTES, size * ROOM_FOR_COPIES)
    text = f"{_mib(free)} free, the store takes {_mib(size)}"
    if free < needed:
        yield Finding("disk", Level.PROBLEM, f"{text}: make {_mib(needed)} free, for backups and erasures")
    else:
        yield Finding("disk", Level.OK, text)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1024 * 1024):,.0f} MiB"


def daemon_and_store(session: Session) -> Iterator[Finding]:
    """Everything that needs the store open. An absent folder is left absent: nothing can be wrong with it."""
    if not session.settings.data.exists():
        return
    ran = session.daemon_runs()
    try:
        state = session.call("status", {})
    except Failure as failure:
        yield Finding("daemon", Level.PROBLEM, str(failure))
        yield from _what_is_left(session)
        return
    how = "runs" if ran else "did not run and started"
    yield Finding("daemon", Level.OK, f"process {state['pid']} {how}, version {state['version']}")
    if state["version"] != VERSION:
        yield Finding(
            "daemon", Level.NOTE, f"it is version {state['version']}, this is {VERSION}: `memos-mcp stop` ends it"
        )
    counts = ", ".join(f"{count} {name}" for name, count in (state["counts"] or {}).items()) or "no memories"
    yield Finding("store", Level.OK, f"opens at revision {state['revision']}: {counts}")
    if state.get("encrypted"):
        yield Finding("encryption", Level.OK, "what the store says is encrypted at rest, backups made by it as well")
    yield from _verified(session)
    yield from _embedder_of_daemon(session, state)


def _verified(session: Session) -> Iterator[Finding]:
    try:
        with session.screen.bar("verify") as bar:
            answer = session.call("verify", {}, bar)
    except Failure as failure:
        yield Finding("audit, indexes", Level.PROBLEM, str(failure))
        return
    problems = answer["problems"] if isinstance(answer, dict) else answer
    for problem in problems:
        yield Finding("audit, indexes", Level.PROBLEM, problem)
    if not problems:
        yield Finding("audit, indexes", Level.OK, "the audit chain is whole, counts and indexes agree with the store")


def _what_is_left(session: Session) -> Iterator[Finding]:
    """When the store does not open: what there is to go back to."""
    backups = _backups(session)
    if backups:
        yield Finding("store", Level.NOTE, f"to go back to the last backup: memos-mcp restore-backup '{backups[-1]}'")
    else:
        yield Finding("store", Level.NOTE, f"there is no backup in {session.settings.backups_folder}")


def _embedder_of_daemon(session: Session, state: dict[str, Any]) -> Iterator[Finding]:
    if state["embedder"]:
        yield Finding("embedder", Level.OK, str(state["embedder"]))
    elif session.settings.embedder == NO_EMBEDDER:
        yield Finding("embedder", Level.NOTE, "none, as chosen: recall is lexical only")
    else:
        yield from embedder(session, state["degraded"])
    if state["degraded"]:
        yield Finding("recall", Level.NOTE, f"degraded: {state['degraded']}")


def embedder(session: Session, otherwise: str | None = None) -> Iterator[Finding]:
    """Whether this process would find the embedder, without downloading it."""
    try:
        found = open_embedder(replace(session.settings, offline=True), session.screen.remark)
    except MemosError as error:
        yield Finding("embedder", Level.PROBLEM, str(error))
        return
    if otherwise is None:
        yield Finding("embedder", Level.OK, found.name)
    else:
        yield Finding(
            "embedder", Level.PROBLEM, f"{found.name} is there, but the daemon does not use it: `memos-mcp stop` it"
        )


def embedder_before_the_first_start(session: Session) -> Iterator[Finding]:
    if not session.settings.data.exists() and session.settings.embedder != NO_EMBEDDER:
        yield from embedder(session)


def large_stores(session: Session) -> Iterator[Finding]:
    if importlib.util.find_spec("hnswlib"):
        yield Finding("hnswlib", Level.OK, "installed: very large cubes are searched through an HNSW index")
    else:
        yield Finding("hnswlib", Level.NOTE, "not installed: large cubes are searched exactly; pip install hnswlib")


def backups(session: Session) -> Iterator[Finding]:
    if not session.settings.database.exists():
        return
    names = _backups(session)
    if not names:
        yield Finding("backups", Level.NOTE, "none yet: `memos-mcp backup FILE` makes one")
        return
    made = datetime.fromtimestamp(names[-1].stat().st_mtime, UTC)
    text = f"{len(names)} in {session.settings.backups_folder}, the last of {made:%Y-%m-%d %H:%M} UTC"
    old = datetime.now(UTC) - made > BACKUP_AGE
    yield Finding("backups", Level.NOTE if old else Level.OK, text)


def _backups(session: Session) -> list[Path]:
    return sorted(session.settings.backups_folder.glob("*.duckdb"))


def set_aside(session: Session) -> Iterator[Finding]:
    folder = session.settings.damaged_folder
    if folder.is_dir() and any(folder.iterdir()):
        yield Finding(
            "damaged", Level.NOTE, f"{folder} holds what was found damaged: delete it when you no longer need it"
        )


def left_behind(session: Session) -> Iterator[Finding]:
    """An endpoint file without an owner is harmless, and says that a daemon was killed."""
    data = session.settings.data
    published = endpoint.read_endpoint(data)
    if published is not None and not session.daemon_runs():
        yield Finding("lock", Level.NOTE, f"the daemon before (process {published.pid}) was killed; nothing is lost")


CHECKS: tuple[Callable[[Session], Iterator[Finding]], ...] = (
    python,
    data_folder,
    free_disk,
    left_behind,
    daemon_and_store,
    embedder_before_the_first_start,
    large_stores,
    backups,
    set_aside,
)
