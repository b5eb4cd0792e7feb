"""Memories into files, and copies of the whole store: export, backup, restore-backup.

The daemon reads and writes the store; this module reads and writes the other files. What must stay true: an exported
file or folder appears whole or not at all, and only its owner may read it; a folder that we did not write is never
replaced; a store that is replaced is kept aside.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from engine.files import sync_file, sync_folder
from engine.formats import FORMATS, Report
from memos_mcp.commands.importing import tell_left
from memos_mcp.commands.memory import STANDARD_STREAM
from memos_mcp.commands.session import DONE, Failure, Session, Usage
from memos_mcp.terminal import Bar

MARK = ".memos-export"  # says that a folder was written here, and may be replaced


# --- export ---------------------------------------------------------------------------------------------------------


def write_out(session: Session, options: argparse.Namespace) -> int:
    """`export`: every memory that may be read, in the form that was named."""
    known, report = FORMATS[options.format], Report()
    wanted = {"cubes": options.cubes} if options.cubes else {}
    with session.screen.bar("export") as bar:
        counted = _Counted(session.items("export", wanted), bar)
        if known.write_files is not None:
            files = known.write_files(counted, report)
            _whole_folder(_place(options), lambda folder: _fill(folder, files), force=options.force)
        elif known.write is None:
            raise Usage(f"{known.name} is read, not written")
        elif options.path == STANDARD_STREAM:
            _copy(known.write(counted, report), sys.stdout)
        else:
            pieces = known.write(counted, report)
            _whole_file(_place(options), lambda file: _copy(pieces, file))
    if session.screen.as_json and options.path != STANDARD_STREAM:
        left = [asdict(entry) for entry in report.left]
        session.screen.json({"format": known.name, "exported": counted.count, "not_carried": left})
    session.screen.remark(f"exported {counted.count:,} {'memory' if counted.count == 1 else 'memories'}")
    tell_left(session, report.left)
    return DONE


class _Counted:
    """The memories as the daemon sends them, counted while they pass."""

    def __init__(self, items: Iterable[Any], bar: Bar) -> None:
        self._items, self._bar, self.count = items, bar, 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.count += 1
            self._bar(self.count, None, "memories")
            yield item


def _place(options: argparse.Namespace) -> Path:
    if options.path == STANDARD_STREAM:
        raise Usage(f"{options.format} is a folder of files: name one")
    path = Path(options.path).expanduser()
    if path.exists() and not options.force:
        raise Failure(f"{path} is there already: choose another name, or --force to replace it")
    return path


def _copy(pieces: Iterable[str], file: TextIO) -> None:
    for piece in pieces:
        file.write(piece)
    file.flush()


def _part(path: Path) -> Path:
    """Where something is written before it gets its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _create(path: Path) -> TextIO:
    """A new file that only its owner may read; text goes in as it is."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", newline="")


def _whole_file(path: Path, write: Callable[[TextIO], None]) -> None:
    """Let `write` fill a new file beside `path`, and give it the name only when it is complete and on disk."""
    part = _part(path)
    try:
        with _create(part) as file:
            write(file)
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _whole_folder(path: Path, fill: Callable[[Path], None], *, force: bool) -> None:
    """Let `fill` fill a new folder beside `path`, and give it the name only when all is on disk."""
    path = path.absolute()
    if force and path.exists() and not (path / MARK).is_file():
        raise Failure(f"{path} was not written by an export: it is not replaced, choose another name")
    part, old = _part(path), path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        part.mkdir(mode=0o700)
        fill(part)
        with _create(part / MARK) as mark:
            mark.write("1\n")
        _sync_all(part)
        if path.exists():
            path.rename(old)
        part.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _fill(folder: Path, files: Iterable[tuple[str, str]]) -> None:
    for name, text in files:
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _create(path) as file:
            file.write(text)


def _sync_all(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(place, name))
        sync_folder(Path(place))


# --- backups --------------------------------------------------------------------------------------------------------


def backup(session: Session, options: argparse.Namespace) -> int:
    path = options.file.expanduser().absolute()
    if path.exists():
        raise Failure(f"{path} is there already: choose another name")
    with session.screen.bar("backup") as bar:
        result = session.call("backup", {"path": str(path)}, bar)
    written = result if isinstance(result, dict) else {"path": result}
    if session.screen.as_json:
        session.screen.json(written)
    else:
        session.screen.line(f"backup written to {written['path']}")
    return DONE


def restore_backup(session: Session, options: argparse.Namespace) -> int:
    """`restore-backup`: the only command that touches the store itself, and only when no daemon has it."""
    # Only here: every other command leaves the engine alone, and need not wait for it to load.
    from engine.clock import SystemClock
    from engine.memos import restore_backup as put_back
    from engine.vault.encrypting import is_encrypted

    path = options.file.expanduser().absolute()
    if not path.is_file():
        raise Failure(f"{path} is not a file")
    data = session.settings.data
    session.stop_daemon()
    before = is_encrypted(session.settings)
    kept = put_back(session.settings, path, SystemClock().now())
    encrypted = is_encrypted(session.settings)
    if session.screen.as_json:
        answer = {"restored": str(path), "data": str(data), "kept": None if kept is None else str(kept)}
        session.screen.json(answer | {"encrypted": encrypted})
        return DONE
    session.screen.line(f"the store in {data} is now what {path} holds")
    if kept is not None:
        readable = ", not encrypted" if before is False and encrypted else ""
        session.screen.line(f"what was there before is kept in {kept}{readable}")
    if before and not encrypted:
        session.screen.line("the backup was not encrypted, so the store is not any more: `memos-mcp encrypt` does that")
    return DONE
