"""Opening the database file of a vault, and bringing its schema to this version.

What stays true: a store that was there and is gone, or cannot be read, is `Corrupt` and never an empty store; one that
a newer version wrote is refused untouched; one of an older version is backed up before it is migrated.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import duckdb

from engine.clock import Ids
from engine.errors import Busy, Corrupt, Unavailable
from engine.settings import Settings
from engine.vault.backup import PRE_MIGRATION, backup_path, copy_database, newest_backup
from engine.vault.failures import is_damage, what_lacks
from engine.vault.schema import Migration

MARKER = "store.json"  # says that there is a store here: without it, a missing database is a new store
MEMORY_LIMIT = "160MB"  # of DuckDB's own, beyond which it spills to `<database>.tmp`: large cubes pack within bounds
OPEN_TRIES, OPEN_WAIT_S = 100, 0.05  # a killed owner's DuckDB lock goes a moment after the owner
log = logging.getLogger(__name__)


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection that never reaches for the network or for extensions."""
    return duckdb.connect(
        str(path),
        config={
            "threads": 1,  # small statements: a second thread costs more than it gives
            "memory_limit": MEMORY_LIMIT,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "preserve_insertion_order": True,
        },
    )


def open_database(settings: Settings) -> duckdb.DuckDBPyConnection:
    """The database of a data folder, made if there is no store yet.

    Raises:
        Busy: another program has it open.
        Corrupt: it is damaged, or missing though there was a store; nothing was touched.
        Unavailable: the machine lacks space, memory or a right to it.
    """
    database = settings.database
    if (settings.data / MARKER).exists() and not database.exists():
        raise Corrupt(f"the vault {database} is missing, though there was a store here: {remedy(settings)}")
    for attempt in range(OPEN_TRIES):
        try:
            connection = connect(database)
            break
        except duckdb.IOException as error:
            if "lock" not in str(error).lower() or attempt == OPEN_TRIES - 1:
                raise damage(settings, error) from error
            time.sleep(OPEN_WAIT_S)
        except duckdb.Error as error:
            raise damage(settings, error) from error
    database.chmod(0o600)
    return connection


def damage(settings: Settings, error: duckdb.Error) -> Exception:
    """Why the database cannot be read, and what to do about it."""
    if "Conflicting lock" in str(error) or "Could not set lock" in str(error):
        return Busy(f"the vault {settings.database} is open in another program: close it, then try again")
    log.error("the vault cannot be read: %s", type(error).__name__)
    lacking = what_lacks(error)
    if lacking is not None:
        return lacking
    return Corrupt(f"the vault {settings.database} is damaged; it was left as it is: {remedy(settings)}")


def remedy(settings: Settings) -> str:
    """What to do about a vault that cannot be read."""
    newest = newest_backup(settings)
    if newest is None:
        return "there is no backup in its data folder; if you have one, run `memos-mcp restore-backup FILE`"
    return f"run `memos-mcp restore-backup {newest}` (the damaged file is kept aside)"


# --- the schema -----------------------------------------------------------------------------------------------------


def prepare(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    migrations: Sequence[Migration],
    ids: Ids,
    now: datetime,
) -> None:
    """Bring the schema to this version, or refuse a newer one."""
    found = int(note(connection, "schema") or 0)
    newest = migrations[-1].number
    if not found and (settings.data / MARKER).exists():
        raise Corrupt(f"the vault {settings.database} is empty, though there was a store: {remedy(settings)}")
    if found > newest:
        raise Unavailable(
            f"the store in {settings.data} was written by a newer memos-mcp (schema {found}, this one reads "
            f"up to {newest}): upgrade memos-mcp; nothing was changed"
        )
    if 0 < found < newest:
        copy_database(connection, backup_path(settings, now, f"{PRE_MIGRATION}{found}"))
    for migration in migrations[found:]:
        _migrate(connection, settings, migration, ids)
    _mark(settings, note(connection, "store"))


def note(connection: duckdb.DuckDBPyConnection, key: str) -> str | None:
    """What the vault notes of itself under `key`."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", [key]).fetchone()
    return None if row is None else str(row[0])


def _migrate(connection: duckdb.DuckDBPyConnection, settings: Settings, migration: Migration, ids: Ids) -> None:
    notes = {"schema": str(migration.number)}
    if migration.number == 1:
        notes |= {"store": ids.new("s"), "key": secrets.token_hex(32), "incarnation": secrets.token_hex(8)}
    connection.execute("BEGIN")
    try:
        connection.execute(migration.sql)
        for key, value in notes.items():
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, value])
        connection.execute("COMMIT")
    except duckdb.Error as error:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        if is_damage(error):
            raise
        raise Unavailable(
            f"the store in {settings.data} could not be brought to schema {migration.number} "
            f"({migration.says}): it is as it was; go on with the memos-mcp that wrote it, and report this"
        ) from error


def _mark(settings: Settings, store: str | None) -> None:
    marker = settings.data / MARKER
    if not marker.exists():
        temporary = marker.with_suffix(".tmp")
        temporary.write_text(json.dumps({"store": store}) + "\n")
        temporary.chmod(0o600)
        os.replace(temporary, marker)
