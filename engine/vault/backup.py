"""Copies of the vault: made whole or not at all, found again, and put back.

A backup is a compacted DuckDB file, sealed like the vault that it was made of, with the wrapped key in it. Automatic
ones stand in `<data>/backups`, named by time; the newest few are kept.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from engine.errors import Corrupt, Invalid, NotFound
from engine.files import sync_file
from engine.settings import Settings
from engine.vault.aes import AesSealer
from engine.vault.connection import Connection
from engine.vault.failures import explaining, what_lacks
from engine.vault.key_source import KeyFile, KeySource, PlatformKeyring, forget_source, note_source, noted_files, unwrap
from engine.vault.lock import FolderLock
from engine.vault.sealed_columns import unopened
from engine.vault.sealing import SEALING

AUTOMATIC = "auto"
PRE_MIGRATION = "before-schema-"
SUFFIX = ".duckdb"
PARTIAL = ".partial"  # a copy that is being written
FRESH = ".fresh"  # a compacted vault that is about to take its place
INCOMING = ".incoming"  # a backup that is about to take its place
CLEARING = "clearing"  # the vault's note that copies under another key, or none, are still to be removed
STAMPED = re.compile(r"\d{8}T\d{6}\.\d{6}Z-")  # the names that `backup_path` gives


def backup_path(settings: Settings, now: datetime, label: str) -> Path:
    """Where a backup made at `now` goes."""
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return settings.backups_folder / f"{stamp}-{label}{SUFFIX}"


def backup_names(settings: Settings) -> list[Path]:
    """The backups that were made in the data folder, oldest first; what a person put there is not among them."""
    return sorted(path for path in settings.backups_folder.glob(f"*{SUFFIX}") if STAMPED.match(path.name))


def newest_backup(settings: Settings) -> Path | None:
    names = backup_names(settings)
    return names[-1] if names else None


def copy_database(connection: duckdb.DuckDBPyConnection, path: Path) -> Path:
    """Copy what lives in the connection's database into a new file at `path`.

    Raises:
        Invalid: there is something at `path`, or its folder cannot be written.
        Unavailable: it could not be written to the end, for lack of space, memory or a right; nothing is left of it.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        if path.exists():
            raise Invalid(f"{path} exists: a backup never replaces a file; choose another name")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_database(partial)
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}") from error
    try:
        with explaining():
            _copy(connection, partial)
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # it goes at the next start
            remove_database(partial)
        raise
    return path


def _copy(connection: duckdb.DuckDBPyConnection, partial: Path) -> None:
    source = connection.execute("SELECT current_database()").fetchone()
    assert source is not None  # a SELECT without FROM has one row
    quoted = str(partial).replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS copy_target")
    try:
        connection.execute(f'COPY FROM DATABASE "{source[0]}" TO copy_target')
    finally:
        connection.execute("DETACH copy_target")
    os.chmod(partial, 0o600)
    sync_file(partial)


def remove_database(file: Path) -> None:
    """Remove a database file with all that DuckDB keeps beside it; nobody may have it open."""
    for path in (file, *logs_of(file)):
        path.unlink(missing_ok=True)
    remove_spilled(file)


def logs_of(database: Path) -> list[Path]:
    """The write-ahead log of a database file, and what DuckDB makes of it while it checkpoints or recovers."""
    return sorted(database.parent.glob(f"{glob.escape(database.name)}.wal*"))


def remove_spilled(database: Path) -> None:
    """Remove what DuckDB wrote to disk for want of memory: a killed process leaves it, and nothing reads it again."""
    shutil.rmtree(f"{database}.tmp", ignore_errors=True)


def remove_unfinished(settings: Settings) -> None:
    """Remove what a killed process left of copies and of its work: it may hold what is erased later.

    Only for who has the folder's lock. The write-ahead log stays: it holds what was acknowledged.
    """
    for folder in (settings.data, settings.backups_folder):
        for path in folder.glob(f".*{PARTIAL}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    for suffix in (FRESH, INCOMING):
        remove_database(settings.database.with_suffix(suffix))
    remove_spilled(settings.database)


def key_record(path: Path) -> str | None:
    """The wrapped key of the vault or backup at `path`; empty: it is not sealed; None: it cannot be read."""
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            rows = connection.execute("SELECT value FROM meta WHERE key = ?", [SEALING]).fetchall()
    except duckdb.Error:
        return None
    return str(rows[0][0]) if rows else ""


def check_backup(path: Path, settings: Settings) -> None:
    """Read all of a backup, and open all of it where it is sealed.

    Raises:
        NotFound: there is no such file.
        Corrupt: it is not a whole backup.
        NotAllowed, Unavailable: it is sealed, and its key is not the one at hand.
    """
    if not path.is_file():
        raise NotFound(f"{path} is not there: `memos-mcp doctor` lists the backups in the data folder")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            names = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
            if "memories" not in names or "audit" not in names:
                raise Corrupt(f"{path} is a DuckDB file, but not a backup of memos-mcp")
            for name in names:
                # Summing a hash over every column reads, and so checks, every block.
                connection.execute(f'SELECT bit_xor(hash(t)) FROM "{name}" AS t').fetchall()
            rows = connection.execute("SELECT value FROM meta WHERE key = ?", [SEALING]).fetchall()
            if rows and unopened(Connection(connection, AesSealer(unwrap(rows[0][0], settings)))):
                raise Corrupt(f"{path} is sealed, and not all of it opens: it was damaged or changed")
    except duckdb.Error as error:
        lacking = what_lacks(error)
        if lacking is not None:
            raise lacking from error
        raise Corrupt(f"{path} cannot be read as a backup: it is damaged or another kind of file") from error


def restore_backup(settings: Settings, path: Path, now: datetime) -> Path | None:
    """Put the backup at `path` in place of the vault; what stood there is kept aside, and where is returned.

    Indexes are rebuilt from it at the next start. The store is then encrypted if the backup is, and only then.

    Raises:
        Busy: a daemon has the folder.
        Corrupt, NotFound: the backup cannot be used; nothing was changed.
        NotAllowed: it is encrypted, and not with the key at hand; nothing was changed.
        Unavailable: a file or folder cannot be read or written, or the disk is full.
    """
    with explaining():
        return _restore(settings, path, now)


def _restore(settings: Settings, path: Path, now: datetime) -> Path | None:
    check_backup(path, settings)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FolderLock(settings.data / "vault.lock")
    try:
        incoming = settings.database.with_suffix(INCOMING)
        shutil.copyfile(path, incoming)
        os.chmod(incoming, 0o600)
        with duckdb.connect(str(incoming)) as connection:
            # Indexes of the replaced vault must not pass for indexes of this one.
            connection.execute("UPDATE meta SET value = ? WHERE key = 'incarnation'", [secrets.token_hex(8)])
            connection.execute("DELETE FROM meta WHERE key = ?", [CLEARING])  # that was of another time
        sync_file(incoming)
        record = key_record(incoming)
        if record:
            _note_source(settings, record)
        kept = _keep_aside(settings, now)
        shutil.rmtree(settings.index_folder, ignore_errors=True)
        os.replace(incoming, settings.database)
        if not record:
            forget_source(settings)
        return kept
    finally:
        lock.release()


def _note_source(settings: Settings, record: str) -> None:
    """Have the restored store find the key that opened the backup; until it is in place, the old one must, too."""
    before = noted_files(settings)
    source: KeySource
    if json.loads(record)["source"] == PlatformKeyring.name:
        source = PlatformKeyring()
    elif settings.key_file is not None:
        source = KeyFile(settings.key_file)
    else:
        return
    note_source(settings, source, tuple(path for path in before if path != settings.key_file))


def _keep_aside(settings: Settings, now: datetime) -> Path | None:
    found = [file for file in (settings.database, *logs_of(settings.database)) if file.exists()]
    if not found:
        return None
    folder = settings.damaged_folder / now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder.mkdir(parents=True, mode=0o700)
    for file in found:
        os.replace(file, folder / file.name)
    return folder
