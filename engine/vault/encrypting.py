"""Encrypting a store at rest, opening it again, and giving it another key: offline, whole or not at all.

    open (the folder's lock is held) → a new database file with every value sealed → read back and compared with the old
    one → put in its place → automatic backups, index snapshots and plain blobs removed

What must stay true: before the rename the store is what it was, after it the store is the other kind, and a note in
the new database has the next start finish the removal if this process does not; memory is bounded by `BATCH_BYTES`;
where the key is stands in `<data>/encryption.json` before the database that needs it is in place.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from engine.clock import Clock, Ids, SystemClock, TimeOrderedIds
from engine.errors import Cancelled, Conflict, Corrupt, Invalid
from engine.files import sync_file
from engine.operations import OWNER, Caller, Progress, silent
from engine.settings import Settings
from engine.vault import queries
from engine.vault.aes import KEY_BYTES, AesSealer
from engine.vault.audit import AUDIT_COLUMNS, AUDIT_HEAD, AuditRow, audit_values
from engine.vault.backup import CLEARING, key_record, remove_database
from engine.vault.connection import Connection
from engine.vault.failures import explaining
from engine.vault.key_source import (
    KeyFile,
    KeySource,
    PlatformKeyring,
    Work,
    forget_source,
    key_files,
    note_source,
    passphrase,
    unwrap,
    wrap,
)
from engine.vault.remains import convert_blobs, out_of_reach
from engine.vault.sealed_columns import SEALED_NOTES, opened, sealed, stored_rows, tables
from engine.vault.sealing import SEALING, UNSEALED, Sealer
from engine.vault.transaction import Head, Transaction
from engine.vault.vault import COMPACTING, MemVault
from engine.vault.writer import INSTANT

BATCH_ROWS = 500
BATCH_BYTES = 8 * 1024 * 1024
CLIENT = "command line"
COPY = "copy_target"


@dataclass(frozen=True, slots=True)
class Encryption:
    """What was done: `out_of_reach` are copies that are not of the new kind and that this program leaves alone."""

    encrypted: bool
    source: str | None  # "passphrase" or "keyring"
    rows: int
    out_of_reach: tuple[str, ...]


def encrypt(
    settings: Settings,
    source: KeySource,
    *,
    clock: Clock | None = None,
    ids: Ids | None = None,
    progress: Progress = silent,
    work: Work = Work(),  # noqa: B008 - immutable
) -> Encryption:
    """Seal the store of `settings.data` under a new data key, wrapped by a key from `source`.

    Raises:
        Busy: a process has the store open.
        Conflict: it is encrypted already.
        Invalid, NotAllowed, Unavailable: the source cannot be used; nothing was changed.
        Cancelled: `progress` stopped it; nothing was changed.
    """
    _check_source(settings, source)
    vault = MemVault(settings, clock or SystemClock(), ids or TimeOrderedIds())
    try:
        if not vault.sealer.plain:
            raise Conflict(
                f"the store in {settings.data} is encrypted already: `memos-mcp encrypt --change` rewraps it"
            )
        data_key = os.urandom(KEY_BYTES)
        record = wrap(data_key, source, vault.store_id, work)
        note_source(settings, source)
        if unwrap(record, settings) != data_key:
            raise Corrupt("the key was not read back as it was written; nothing was changed")
        return _change(vault, AesSealer(data_key), record, "encrypt", source, progress)
    except BaseException:
        vault.close()  # what the writer thread has begun has ended then: only now it is known which kind this is
        if vault.sealer.plain:
            forget_source(settings)
        raise
    finally:
        vault.close()


def decrypt(
    settings: Settings, *, clock: Clock | None = None, ids: Ids | None = None, progress: Progress = silent
) -> Encryption:
    """Make the store readable without a key again.

    Raises:
        Conflict: it is not encrypted.
        as `encrypt`
    """
    vault = MemVault(settings, clock or SystemClock(), ids or TimeOrderedIds())
    try:
        if vault.sealer.plain:
            raise Conflict(f"the store in {settings.data} is not encrypted")
        return _change(vault, UNSEALED, "", "decrypt", None, progress)
    finally:
        vault.close()


def change_key(
    settings: Settings,
    source: KeySource,
    *,
    clock: Clock | None = None,
    ids: Ids | None = None,
    work: Work = Work(),  # noqa: B008 - immutable
) -> Encryption:
    """Wrap the data key anew, by a key from `source`. What is sealed stays as it is.

    Raises:
        Conflict: the store is not encrypted; or its key is in the keyring already.
        as `encrypt`
    """
    _check_source(settings, source, fresh=False)
    vault = MemVault(settings, clock or SystemClock(), ids or TimeOrderedIds())
    try:
        old = vault.note(SEALING)
        if old is None:
            raise Conflict(f"the store in {settings.data} is not encrypted: `memos-mcp encrypt` does that")
        if isinstance(source, PlatformKeyring) and json.loads(old)["source"] == PlatformKeyring.name:
            raise Conflict("the key of this store is in the keyring already")
        data_key = unwrap(old, settings)
        record = wrap(data_key, source, vault.store_id, work)
        note_source(settings, source, key_files(settings))
        if unwrap(record, replace(settings, key_file=None)) != data_key:
            raise Corrupt("the key was not read back as it was written; nothing was changed")

        def job(transaction: Transaction) -> None:
            transaction.audit("change_key", "", key=source.name)
            notes = [(SEALING, record), (CLEARING, COMPACTING)]
            transaction.insert("meta", ("key", "value"), notes, replace_=True)

        vault.write(job, Caller(OWNER, CLIENT))
        vault.clear()
        return Encryption(True, source.name, 0, _out_of_reach(vault, record))
    finally:
        vault.close()


def is_encrypted(settings: Settings) -> bool | None:
    """Whether the closed store of `settings.data` is encrypted; None: there is none, or it cannot be read."""
    record = key_record(settings.database) if settings.database.exists() else None
    return None if record is None else bool(record)


def _check_source(settings: Settings, source: KeySource, *, fresh: bool = True) -> None:
    if not isinstance(source, KeyFile):
        return
    if settings.data.resolve() in source.path.resolve().parents:
        raise Invalid(
            f"{source.path} lies in the data folder: whoever copies that would have the key too; keep it elsewhere"
        )
    if fresh and settings.key_file is not None and settings.key_file != source.path:
        raise Invalid(f"MEMOS_KEY_FILE names {settings.key_file}: unset it, or encrypt with that file")
    passphrase(source.path)


def _change(
    vault: MemVault, sealer: Sealer, record: str, action: str, source: KeySource | None, progress: Progress
) -> Encryption:
    convert_blobs(vault.settings, vault.sealer, sealer)
    notes = {CLEARING: action} | ({SEALING: record} if record else {})
    name = None if source is None else source.name
    interrupted = threading.Event()

    def told(done: float, total: float | None, message: str) -> None:
        if interrupted.is_set():
            raise Cancelled("it was interrupted; nothing was changed")
        progress(done, total, message)

    copying = _Copying(sealer, notes, _audit_row(vault, action, name), told)
    try:
        vault.rewrite(copying.write, sealer)
    except BaseException:
        interrupted.set()  # of this thread, while the writer's is at work
        raise
    return Encryption(not sealer.plain, name, copying.total, _out_of_reach(vault) if record else ())


def _audit_row(vault: MemVault, action: str, source: str | None) -> AuditRow:
    head: Head = vault.head
    detail = {} if source is None else {"key": source}
    now = vault.now() if head.at is None else max(vault.now(), head.at + INSTANT)
    return AuditRow(head.seq + 1, now, OWNER.name, CLIENT, action, "", (), None, detail, head.hash)


def _out_of_reach(vault: MemVault, record: str | None = None) -> tuple[str, ...]:
    with vault.reading() as connection:
        told = queries.audited(connection, "backup")
    return out_of_reach(vault.settings, [Path(row.detail["path"]) for row in told if row.detail.get("path")], record)


@dataclass(slots=True)
class _Copying:
    """One copy of the database with every value under another sealer, and with `row` at the end of its audit log."""

    sealer: Sealer
    notes: Mapping[str, str]
    row: AuditRow
    progress: Progress
    done: int = 0
    total: int = 0  # rows

    def write(self, connection: Connection, path: Path) -> None:
        """Write the copy to `path` and compare it with the original.

        Raises:
            Corrupt: the original does not open, or the copy is not equal to it; nothing is left of the copy.
            Unavailable: it could not be written to the end; nothing is left of it.
        """
        remove_database(path)
        quoted = str(path).replace("'", "''")
        try:
            with explaining():
                connection.execute(f"ATTACH '{quoted}' AS {COPY}")
                try:
                    os.chmod(path, 0o600)
                    self._copy(connection)
                finally:
                    connection.execute(f"DETACH {COPY}")
                sync_file(path)
        except BaseException:
            remove_database(path)
            raise

    def _copy(self, connection: Connection) -> None:
        source = connection.execute("SELECT current_database()").fetchall()[0][0]
        names = tables(connection.raw, source)
        connection.execute(f'COPY FROM DATABASE "{source}" TO {COPY} (SCHEMA)')
        self.total = sum(connection.execute(f'SELECT count(*) FROM "{table}"').fetchall()[0][0] for table in names)
        first, second = connection.raw.cursor(), connection.raw.cursor()
        try:
            for table, columns in names.items():
                self._fill(second, table, columns, self._rows(first, table, columns, connection.sealer))
            self._finish(second)
            for table, columns in names.items():
                originals = self._rows(first, table, columns, connection.sealer)
                copies = self._rows(second, table, columns, self.sealer, f'{COPY}."{table}"')
                self._compare(table, originals, copies)
        finally:
            first.close()
            second.close()
        connection.execute(f"CHECKPOINT {COPY}")
        self.progress(2 * self.total, 2 * self.total, "done")

    def _rows(
        self, cursor: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], sealer: Sealer, name: str = ""
    ) -> Iterator[dict[str, Any]]:
        """The open rows of a table, but for those that say what is changed here."""
        for stored in stored_rows(cursor, name or f'"{table}"', columns):
            row = opened(table, columns, stored, sealer)
            written_here = table == "meta" and row["key"] in (SEALING, CLEARING, AUDIT_HEAD)
            if not written_here and not (table == "audit" and row["seq"] == self.row.seq):
                yield row

    def _fill(
        self, cursor: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], rows: Iterator[dict[str, Any]]
    ) -> None:
        batch: list[tuple[Any, ...]] = []
        size = 0
        for row in rows:
            batch.append(sealed(table, row, self.sealer))
            size += sum(len(value) for value in batch[-1] if isinstance(value, (str, bytes)))
            if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
                _insert(cursor, table, columns, batch)
                self._tell(len(batch), "writing")
                batch, size = [], 0
        if batch:
            _insert(cursor, table, columns, batch)
            self._tell(len(batch), "writing")

    def _finish(self, cursor: duckdb.DuckDBPyConnection) -> None:
        hashed = self.row.hash()
        _insert(cursor, "audit", AUDIT_COLUMNS, [audit_values(self.row, hashed, self.sealer)])
        head = json.dumps({"seq": self.row.seq, "hash": hashed})
        notes = [*self.notes.items(), (AUDIT_HEAD, self.sealer.text(head, SEALED_NOTES[AUDIT_HEAD]))]
        _insert(cursor, "meta", ("key", "value"), notes)

    def _compare(self, table: str, originals: Iterator[dict[str, Any]], copies: Iterator[dict[str, Any]]) -> None:
        count = 0
        for original in originals:
            count += 1
            if next(copies, None) != original:
                raise Corrupt(f"the copy of table {table} is not what was written, at row {count}; nothing was changed")
            if count % BATCH_ROWS == 0:
                self._tell(BATCH_ROWS, "checking")
        if next(copies, None) is not None:
            raise Corrupt(f"the copy of table {table} has more rows than were written; nothing was changed")
        self._tell(count % BATCH_ROWS, "checking")

    def _tell(self, rows: int, doing: str) -> None:
        self.done += rows
        self.progress(min(self.done, 2 * self.total), 2 * self.total, doing)


def _insert(
    cursor: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    lists = [list(column) for column in zip(*rows, strict=True)]
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(["unnest(?)"] * len(columns))
    cursor.execute(f'INSERT INTO {COPY}."{table}" ({names}) SELECT {values}', lists)
