"""MemVault: opens the store, guards it, and gives readers and the writer their connections.

What stays true: one process has the folder (`FolderLock`); all changes go through one writer thread; a store written by
a newer version is refused untouched; a store of an older version is backed up before it is migrated; a store that was
there and is gone, or cannot be read, is `Corrupt` and never an empty store.

DuckDB keeps deleted bytes in free blocks, and `VACUUM` gives nothing back; `compact` therefore copies what lives into a
new file and puts that in place of the old one, write-ahead log included. A vault that is sealed (see
`engine.vault.encrypting`) is opened with its key before anything else is read or changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from cubes import MemCube
from engine.clock import Clock, Ids
from engine.errors import Busy, Corrupt, MemosError
from engine.files import sync_folder
from engine.operations import Caller
from engine.settings import Settings
from engine.vault import audit_log, queries
from engine.vault.aes import AesSealer
from engine.vault.artifacts import drop_without_blob, needed
from engine.vault.backup import (
    CLEARING,
    FRESH,
    copy_database,
    logs_of,
    remove_spilled,
    remove_unfinished,
)
from engine.vault.blobs import collect_blobs, missing_blobs, remove_blobs
from engine.vault.connection import Connection
from engine.vault.failures import explained, explaining, is_damage
from engine.vault.key_source import unwrap
from engine.vault.lock import FolderLock
from engine.vault.opening import connect, damage, note, open_database, prepare, remedy
from engine.vault.remains import clear, remove_unfinished_blobs
from engine.vault.rows import known_time
from engine.vault.schema import META_TABLE, MIGRATIONS, Migration
from engine.vault.sealed_columns import KEY_PLACE
from engine.vault.sealing import SEALING, UNSEALED, Sealer
from engine.vault.shared_lock import SharedLock
from engine.vault.staging import any_staged, discard_some
from engine.vault.transaction import Change, Head, Transaction
from engine.vault.writer import Writer

COMPACTING = "compact"  # as a note of what is to be cleared: the database's own free blocks, too
T = TypeVar("T")
log = logging.getLogger(__name__)


class MemVault:
    """The durable truth of one data folder.

    Raises (on opening):
        Busy: another process has the folder.
        Corrupt: the database is damaged or missing; nothing was touched.
        Unavailable: the store was written by a newer version; or the machine lacks space, memory or a right to files;
            or the store is encrypted and its key is not to be had.
        NotAllowed: the store is encrypted, and not with the key at hand.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        ids: Ids,
        *,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._shared = SharedLock()
        self._cubes: tuple[int, tuple[MemCube, ...] | None] = (0, None)  # which generation, and its cubes
        self.sealer: Sealer = UNSEALED
        self._idle: list[duckdb.DuckDBPyConnection] = []  # cursors that no reader holds
        self.on_commit: Callable[[Sequence[Change], Transaction], None] = lambda changes, transaction: None
        self._closed = False
        with explaining():
            settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = FolderLock(settings.data / "vault.lock")
        try:
            remove_unfinished(settings)
            self._connection = open_database(settings)
            self._connection.execute(META_TABLE)
            if record := note(self._connection, SEALING):
                self.sealer = AesSealer(unwrap(record, settings))
            remove_unfinished_blobs(settings, sealed=not self.sealer.plain)
            prepare(self._connection, settings, migrations, ids, clock.now())
            self._key = bytes.fromhex(self.sealer.read_text(self._noted("key"), KEY_PLACE))
            self.store_id = self._noted("store")
            self.incarnation = self._noted("incarnation")  # another one after each restored backup
            audit_log.note_cut_audit(Connection(self._connection, self.sealer))
            self._writer = Writer(
                lambda: Connection(self._connection, self.sealer), self._head(), clock, self._committed
            )
            self._finish_clearing()
            self._finish_staging()
        except duckdb.Error as error:
            self._give_up()
            raise damage(settings, error) if is_damage(error) else explained(error) from error
        except OSError as error:
            self._give_up()
            raise explained(error) from error
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()
        self._lock.release()

    # --- opening -----------------------------------------------------------------------------------------------

    def _noted(self, key: str) -> str:
        value = note(self._connection, key)
        if value is None:
            raise Corrupt(f"the vault lacks its `{key}`: {remedy(self.settings)}")
        return value

    def _head(self) -> Head:
        row = self._connection.execute("SELECT seq, hash, recorded_at FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
        label = self._connection.execute(
            "SELECT greatest(coalesce((SELECT max(label) FROM memories), 0),"
            " coalesce((SELECT max(label) FROM tombstones), 0))"
        ).fetchone()
        head = Head(label=int(label[0]) if label else 0)
        if row is not None:
            head.seq = int(row[0])
            head.hash = self.sealer.read_text(str(row[1]), f"audit:{head.seq}:hash")
            head.at = known_time(row[2])
        return head

    # --- reading and writing -----------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Number of the last committed audit row; grows with every change."""
        return self._writer.committed_seq

    @property
    def head(self) -> Head:
        return self._writer.head

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reading on this thread. What is read is what was committed when each statement began.

        Raises:
            Corrupt: stored bytes are damaged.
        """
        with self._shared.shared():
            self._require_open()
            try:
                cursor = self._idle.pop()
            except IndexError:
                cursor = self._connection.cursor()
            try:
                yield Connection(cursor, self.sealer)
            except duckdb.Error as error:
                if isinstance(error, duckdb.FatalException):
                    self._writer.on_failure()
                raise explained(error) from error
            finally:
                self._idle.append(cursor)

    @contextlib.contextmanager
    def reading_one_moment(self) -> Iterator[Connection]:
        """As `reading`, but all statements read what was committed when the first one began."""
        with self.reading() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                with contextlib.suppress(duckdb.Error):  # DuckDB gave up on it already
                    connection.execute("ROLLBACK")

    def now(self) -> datetime:
        return self._clock.now()

    def when_failed(self, tell: Callable[[], None]) -> None:
        """`tell` is called when DuckDB has given up on its instance: only another process can open the store again."""
        self._writer.on_failure = tell

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.reading() as connection:
            return connection.execute(sql, parameters).fetchall()

    def cubes(self) -> tuple[MemCube, ...]:
        """All cubes, by name; kept between calls, since every request asks for them."""
        as_of, known = self._cubes
        if known is None:
            with self.reading() as connection:
                known = tuple(queries.cubes(connection))
            if self._cubes[0] == as_of:  # no cube was made or changed while they were read
                self._cubes = (as_of, known)
        return known

    def write(self, job: Callable[[Transaction], T], caller: Caller) -> T:
        """Run `job` in a transaction on the writer thread; returns when it is durable."""
        return self._writer.submit(job, caller)

    def _committed(self, transaction: Transaction) -> None:
        if transaction.cubes_changed:
            self._cubes = (self._cubes[0] + 1, None)
        try:
            self.on_commit(transaction.changes, transaction)
        finally:
            if transaction.unneeded:
                kept = needed(Connection(self._connection, self.sealer), transaction.unneeded)
                remove_blobs(self.settings, transaction.unneeded - kept, self.sealer)

    def discard_staged(self, staged: str | None = None) -> None:
        """Remove what was staged under that name; None: what a killed process left of any."""
        while self.write(lambda transaction: discard_some(transaction, staged), Caller()):
            pass

    def _finish_staging(self) -> None:
        if any_staged(Connection(self._connection, self.sealer)):
            self.discard_staged()
        digests = needed(Connection(self._connection, self.sealer))
        if lacking := missing_blobs(self.settings, digests, self.sealer):
            # Killed between a row and its blob, or the store is a restored backup: what was derived can be made again.
            self.write(lambda transaction: drop_without_blob(transaction, lacking), Caller())
        collect_blobs(self.settings, digests, self.sealer)

    def note(self, key: str) -> str | None:
        """A note that a transaction left in `meta`."""
        rows = self.rows("SELECT value FROM meta WHERE key = ?", [key])
        return str(rows[0][0]) if rows else None

    def keyed(self, text: str) -> bytes:
        """HMAC-SHA256 of `text` under a key that never leaves the vault: says nothing without it."""
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()

    # --- copies ------------------------------------------------------------------------------------------------

    def backup(self, path: Path) -> Path:
        """A copy of the whole vault, consistent as of one moment, at `path`, which appears whole or not at all."""
        with self._shared.shared():
            self._require_open()
            cursor = self._connection.cursor()
            try:
                return copy_database(cursor, path)
            finally:
                cursor.close()

    def compact(self) -> None:
        """Give the database a new file that holds only what lives. Waits for readers, and holds them off meanwhile."""
        self._writer.alone(self._compact)

    def _compact(self) -> None:
        database = self.settings.database
        fresh = database.with_suffix(FRESH)
        fresh.unlink(missing_ok=True)
        with self._shared.exclusive():
            copy_database(self._connection, fresh)
            self._put_in_place(fresh)

    def _put_in_place(self, fresh: Path) -> None:
        database = self.settings.database
        try:
            # The old write-ahead log holds deleted content and belongs to the old file: it goes first. What it
            # held is moved into the old file before, so that this stays whole if we die between the two steps.
            self._checkpoint()
            self._disconnect()
            try:
                for file in logs_of(database):
                    file.unlink(missing_ok=True)
                remove_spilled(database)
                os.replace(fresh, database)
                sync_folder(database.parent)
            finally:
                self._connection = connect(database)
        finally:
            fresh.unlink(missing_ok=True)  # in place by now, or of no use

    def rewrite(self, write: Callable[[Connection, Path], None], sealer: Sealer) -> None:
        """Put the database that `write` makes of this one in its place; `sealer` opens it. Then clear what remains.

        Raises:
            whatever `write` raises: nothing was changed.
            OSError, MemosError: not everything that remains could be cleared; the next start tries again.
        """
        self._writer.alone(lambda: self._rewrite(write, sealer))
        self.clear()

    def _rewrite(self, write: Callable[[Connection, Path], None], sealer: Sealer) -> None:
        fresh = self.settings.database.with_suffix(FRESH)
        with self._shared.exclusive():
            write(Connection(self._connection, self.sealer), fresh)
            self._put_in_place(fresh)
            self.sealer = sealer
            head = self._head()
            self._writer.head, self._writer.committed_seq = head, head.seq

    def clear(self) -> None:
        """Remove what a former key, or none, left in the data folder, if that is noted. See `engine.vault.remains`."""
        noted = self.note(CLEARING)
        if noted is None:
            return
        if noted == COMPACTING:
            self.compact()
        self._writer.alone(lambda: clear(self._connection, self.settings, self._clock.now()))

    def _finish_clearing(self) -> None:
        """Where that fails (a full disk), the store stays usable, and what is to be cleared stays noted."""
        try:
            self.clear()
        except (MemosError, OSError) as error:
            log.error("copies from before a change of the key are still there: %s", type(error).__name__)

    def _checkpoint(self) -> None:
        """Move the write-ahead log into the database file. For who has the vault alone."""
        self._close_cursors()  # a result that was not read to its end keeps a transaction open, which DuckDB refuses
        try:
            self._connection.execute("CHECKPOINT")
        except duckdb.TransactionException as error:
            log.warning("no checkpoint now, closing makes one: %s", type(error).__name__)

    def close(self) -> None:
        """Finish what was submitted, checkpoint, and let the folder go: the lock is released last."""
        self._writer.close()
        with self._shared.exclusive():
            if self._closed:
                return
            self._closed = True
            try:
                self._checkpoint()
            except duckdb.Error as error:
                log.error("no checkpoint at closing (the write-ahead log is kept): %s", type(error).__name__)
            self._disconnect()
        self._lock.release()

    def _require_open(self) -> None:
        if self._closed:
            raise Busy("the store is closing: try again")

    def _disconnect(self) -> None:
        """Close every connection: as long as one is open, DuckDB keeps the database (and its old file) open."""
        self._close_cursors()
        self._connection.close()

    def _close_cursors(self) -> None:
        while self._idle:
            self._idle.pop().close()
