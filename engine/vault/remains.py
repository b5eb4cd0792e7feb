"""What is left of a store under another key, or under none, after it was encrypted, opened or given a new key.

The replaced database is noted in the new one, together with its new key, so that a process that dies before everything
is removed leaves that to the next one that opens the store. Automatic backups are replaced by one new backup; of blobs
both kinds stand side by side until the plain or the sealed ones go. Copies that a person made elsewhere are out of
reach: they are named, and left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import duckdb

from engine.files import sync_file, sync_folder
from engine.settings import Settings
from engine.vault.aes import SEALED_SUFFIX
from engine.vault.backup import AUTOMATIC, CLEARING, PARTIAL, backup_names, backup_path, copy_database, key_record
from engine.vault.key_source import forget_source, settle_source
from engine.vault.sealing import SEALING, Sealer

BLOB_PLACE = "blob:"


def clear(connection: duckdb.DuckDBPyConnection, settings: Settings, now: datetime) -> None:
    """Remove what the note stands for, then the note. It may be run again after any interruption.

    Raises:
        OSError, MemosError: something could not be removed or written; the note stays.
    """
    record = _note(connection, SEALING)
    for folder in (settings.index_folder, settings.checkpoints_folder):
        if folder.exists():
            _remove(folder)
    _replace_backups(connection, settings, record, now)
    _clear_blobs(settings, sealed=bool(record))
    if record:
        settle_source(settings)
    else:
        forget_source(settings)
    connection.execute("DELETE FROM meta WHERE key = ?", [CLEARING])


def _note(connection: duckdb.DuckDBPyConnection, key: str) -> str:
    rows = connection.execute("SELECT value FROM meta WHERE key = ?", [key]).fetchall()
    return str(rows[0][0]) if rows else ""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _replace_backups(connection: duckdb.DuckDBPyConnection, settings: Settings, record: str, now: datetime) -> None:
    names = backup_names(settings)
    old = [path for path in names if key_record(path) != record]
    if old and len(old) == len(names):
        while (fresh := backup_path(settings, now, AUTOMATIC)).exists():
            now += timedelta(microseconds=1)
        copy_database(connection, fresh)
    for path in old:
        path.unlink()
    if old:
        sync_folder(settings.backups_folder)


# --- blobs ----------------------------------------------------------------------------------------------------------


def write_blob(path: Path, content: Iterable[bytes], sealer: Sealer, place: str) -> None:
    """Write a file through the sealer: whole or not at all, for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    partial.unlink(missing_ok=True)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            sealer.seal_file(content, file, place)
        sync_file(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def blobs(settings: Settings, *, sealed: bool) -> Iterator[Path]:
    """The blobs of one kind."""
    if not settings.blobs_folder.is_dir():
        return
    for path in sorted(settings.blobs_folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and (path.suffix == SEALED_SUFFIX) == sealed:
            yield path


def place_of_blob(settings: Settings, path: Path) -> str:
    """The place under which a blob is sealed: its name below the folder, without the suffix of sealed ones."""
    return BLOB_PLACE + path.relative_to(settings.blobs_folder).as_posix().removesuffix(SEALED_SUFFIX)


def convert_blobs(settings: Settings, old: Sealer, new: Sealer) -> None:
    """Write each blob a second time, beside the first: they count when the database that goes with them does."""
    for path in list(blobs(settings, sealed=not old.plain)):
        place = place_of_blob(settings, path)
        other = path.with_name(path.name.removesuffix(SEALED_SUFFIX) + new.suffix)
        with path.open("rb") as source:
            write_blob(other, old.open_file(source, place), new, place)


def remove_unfinished_blobs(settings: Settings, *, sealed: bool) -> None:
    """Remove what a killed process left: half of a blob, and what it wrote for a vault that did not take its place."""
    for path in list(settings.blobs_folder.rglob(f".*{PARTIAL}")) if settings.blobs_folder.is_dir() else []:
        path.unlink()
    for path in list(blobs(settings, sealed=not sealed)):
        name = path.name.removesuffix(SEALED_SUFFIX) + (SEALED_SUFFIX if sealed else "")
        if path.with_name(name).exists():
            path.unlink()


def _clear_blobs(settings: Settings, *, sealed: bool) -> None:
    """Remove the blobs of the kind that the store is not of."""
    for path in list(blobs(settings, sealed=not sealed)):
        path.unlink()


# --- what is out of reach -------------------------------------------------------------------------------------------


def out_of_reach(settings: Settings, noted: Iterable[Path], record: str | None = None) -> tuple[str, ...]:
    """Copies of the store that are not sealed, or not with this wrapped key where one is given.

    They are backups elsewhere (`noted`), and what a person or a repair kept.
    """
    kept = sorted(settings.damaged_folder.rglob("*.duckdb")) if settings.damaged_folder.is_dir() else []
    own = sorted(settings.backups_folder.glob("*")) if settings.backups_folder.is_dir() else []
    found = dict.fromkeys((*noted, *own, *kept))
    keys = {path: key_record(path) for path in found if path.is_file()}
    return tuple(str(path) for path, key in keys.items() if not key or record not in (None, key))
