"""Every column of the vault is sealed or readable, as one table says, and what is sealed says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from engine.memos import MemOS
from engine.operations import Caller, Fuse, Remember, Turn
from engine.settings import Settings
from engine.tier_operations import AdapterState, WorkState
from engine.vault import Transaction
from engine.vault.adapters import AdapterRow, put_adapter
from engine.vault.aes import AesSealer
from engine.vault.connection import Connection
from engine.vault.heat import SceneRow, put_scenes
from engine.vault.key_source import unwrap
from engine.vault.schema import META_TABLE, MIGRATIONS
from engine.vault.sealed_columns import READABLE, SEALED, SEALED_NOTES, tables, unopened
from engine.vault.sealing import SEALING
from engine.vault.work import WorkRow, put_work
from tests.engine.stores import ME, archive, encrypted, say, settings_for, with_vectors


def test_every_column_is_either_sealed_or_readable() -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute(META_TABLE)
        for migration in MIGRATIONS:
            connection.execute(migration.sql)
        found = {table: set(columns) for table, columns in tables(connection, "memory").items()}
    sealed = {table: {item.column for item in columns} for table, columns in SEALED.items()}
    assert {table: READABLE[table] | sealed.get(table, set()) for table in READABLE} == found
    assert not any(READABLE[table] & columns for table, columns in sealed.items())


@pytest.fixture
def store(tmp_path: Path) -> Settings:
    """An encrypted store with something in every column that a person's words can reach."""
    settings = encrypted(with_vectors(settings_for(tmp_path / "data")))
    with MemOS.open(settings) as memos:
        first = say(memos, "Vantablossom grows in June.", tags=("vantablossom",), source="vantablossom.txt")
        second = say(memos, "Vantablossom grows in the shade.", caller=Caller(operation="once"))
        memos.remember(Remember(messages=(Turn("user", "Vantablossom?", name="vantablossom"),) * 2), ME)
        memos.fuse(Fuse(ids=(first, second), content="Vantablossom grows in the shade in June."), ME)
        archive(memos, say(memos, "Gone tomorrow."), reason="vantablossom")
        memos.backup(tmp_path / "vantablossom.duckdb", ME)
        memos._parts.vault.write(
            lambda transaction: transaction.put_snapshot(
                "default", "before", transaction.now, transaction.head.seq, reason="vantablossom"
            ),
            ME,
        )
        memos._parts.vault.write(lambda transaction: _put_parametric(transaction, first), ME)
    return settings


def _put_parametric(transaction: Transaction, memory: str) -> None:
    """What adapters, long work and the log of uses say of a memory."""
    told, now = {"subjects": ["vantablossom"], "reason": "vantablossom"}, transaction.now
    for number in (1, 2):
        put_adapter(transaction, AdapterRow(f"a_{number}", "default", number, AdapterState.RESTING, told, now))
        put_work(transaction, WorkRow(f"w_{number}", "default", "distil", WorkState.WAITING, told, 0, now))
    put_scenes(transaction, [SceneRow(now, "vantablossom", (memory,), b"vantablossom")] * 2)


def test_no_column_of_an_encrypted_store_holds_a_word_of_what_was_said(store: Settings) -> None:
    with duckdb.connect(str(store.database), read_only=True) as connection:
        names = tables(connection, "vault")
        for table in names:
            for row in connection.execute(f'SELECT * FROM "{table}"').fetchall():
                assert "vantablossom" not in repr(row).lower(), table
        filled = {table for table in SEALED if connection.execute(f'SELECT count(*) FROM "{table}"').fetchall()[0][0]}
        notes = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    assert filled == SEALED.keys() - {"artifacts"}
    assert all(not notes[key].startswith("{") for key in SEALED_NOTES)
    with pytest.raises(ValueError, match="hex"):
        bytes.fromhex(notes["key"])


def test_every_value_opens_and_one_that_was_moved_within_its_table_does_not(store: Settings) -> None:
    with duckdb.connect(str(store.database)) as raw:
        (record,) = raw.execute("SELECT value FROM meta WHERE key = ?", [SEALING]).fetchall()[0]
        connection = Connection(raw, AesSealer(unwrap(record, store)))
        assert unopened(connection) == []
        for table, columns in SEALED.items():
            for item in columns:
                rows = raw.execute(
                    f'SELECT rowid, "{item.column}" FROM "{table}" WHERE "{item.column}" IS NOT NULL'
                ).fetchall()
                if not item.place or len(rows) < 2:
                    continue
                (place, stored), (_, other) = rows[:2]
                change = f'UPDATE "{table}" SET "{item.column}" = ? WHERE rowid = ?'
                raw.execute("BEGIN")
                raw.execute(change, [other, place])
                (problem,) = unopened(connection)
                raw.execute("ROLLBACK")
                assert problem.startswith(f"in table {table}: ")
                assert stored != other
        raw.execute("UPDATE meta SET value = ? WHERE key = 'audit_head'", [json.dumps({"seq": 1, "hash": ""})])
        assert len(unopened(connection)) == 1
