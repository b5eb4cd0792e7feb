"""The audit log: every change has its row, and a row that is changed, taken out or moved is found where it was."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cubes import Action, CubePolicy, Grant, Scope, Sensitivity
from engine.cube_operations import FuseCubes, Govern, SetCube, Share
from engine.errors import Invalid, NotAllowed, NotFound
from engine.memos import MemOS, restore_backup
from engine.operations import Caller, Fuse, Principal
from engine.settings import Settings
from engine.vault import audit_log
from engine.vault.audit import AUDIT_COLUMNS, audit_row_of, audit_values, broken_links
from engine.vault.connection import Connection
from engine.vault.sealing import UNSEALED
from tests.conftest import HandClock
from tests.engine.stores import ME, archive, ask, erase, opened, say, settings_for

KINDS = {
    *("create_cube", "set_cube", "share", "remember", "archive", "erase", "fuse", "restore", "expire", "decay"),
    *("activate", "import", "govern", "backup", "snapshot", "drop_snapshot", "rollback", "fuse_cubes", "delete_cube"),
    *("unfuse", "retain", "mount", "follow", "unmount"),
}
NOT_CHANGES = ("usage", "operations", "confirmations", "embeddings", "embedders", "meta")
"""Tables whose rows may change without an audit row: how often something was used, answers and previews that are kept
for a while, vectors that come later than their memory, and the vault's notes about itself."""


def steps(memos: MemOS, folder: Path, clock: HandClock) -> Iterator[Callable[[], Any]]:
    """One of every kind of change."""
    kept: dict[str, str] = {}

    def keep(name: str, content: str, cube: str = "ours", **more: Any) -> Callable[[], Any]:
        return lambda: kept.__setitem__(name, say(memos, content, cube=cube, **more))

    yield lambda: memos.set_cube(SetCube("ours", description="Ours", reason="a start"), ME)
    yield lambda: memos.set_cube(SetCube("ours", policy=CubePolicy(keep_versions=5)), ME)
    yield lambda: memos.share(Share("ours", principal="laptop", actions=(Action.READ,)), ME)
    for number, content in enumerate(("Ada keeps goats.", "Ada sells cheese.", "Ada owns a mill.", "Ada has a boat.")):
        yield keep(f"{number}", content)
    yield keep("short", "The fair is tomorrow.", expires_in_days=1)
    yield keep("mill", "The mill turns.", cube="theirs")
    yield lambda: memos.snapshot("ours", "first", ME, reason="a mark")
    yield lambda: memos.govern(Govern((kept["0"],), pinned=True, tags=("farm",), reason="it matters"), ME)
    yield lambda: (ask(memos, "goats"), memos.sweep())
    yield lambda: memos.fuse(Fuse(ids=(kept["0"], kept["1"])), ME)
    yield lambda: memos.restore(kept["0"], 1, ME)
    yield lambda: archive(memos, kept["2"], reason="sold")
    yield lambda: erase(memos, kept["3"], reason="asked for")
    yield lambda: memos.import_memories([{"content": "The barn is red.", "cube": "ours"}], ME)
    whole = {"id": "m_IMPORTED", "cube": "more", "version": 1, "lineage": [], "history": []}
    yield lambda: memos.import_memories([{**record, **whole} for record in memos.export_memories(ME)][:1], ME)
    yield lambda: memos.backup(folder / "one.duckdb", ME)
    yield lambda: memos.rollback("ours", "first", ME)
    yield lambda: memos.fuse_cubes(FuseCubes(("theirs", "more"), "joined"), ME)
    yield lambda: memos.restore(kept["mill"], 1, ME)
    yield lambda: memos.delete_cube("more", ME)
    yield lambda: memos.drop_snapshot("ours", "first", ME)
    yield lambda: (clock.pass_by(days=2), memos.sweep())
    yield lambda: memos.set_cube(SetCube("ours", policy=CubePolicy(decay_days=1, keep_versions=1)), ME)
    yield lambda: (clock.pass_by(days=20), memos.sweep())
    (folder / "notes").mkdir()
    (folder / "notes" / "one.md").write_text("The pier is long.\n")
    yield lambda: memos.mount(folder / "notes", ME, name="pier")
    yield lambda: memos.unmount("pier", ME)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, HandClock]:
    """A store with every kind of audit row, closed."""
    folder, clock = tmp_path_factory.mktemp("audited"), HandClock()
    settings = settings_for(folder / "data")
    with opened(settings, clock) as memos:
        for step in steps(memos, folder, clock):
            clock.pass_by(seconds=1)
            step()
        assert memos.verify(ME) == ()
        found = {row.action for row in memos.audit(ME, limit=1_000)}
        assert found >= KINDS, KINDS - found
    return settings, clock


@pytest.fixture
def raw(full: tuple[Settings, HandClock], tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A copy of the database, open to whoever wants to change it."""
    copy = tmp_path / "copy.duckdb"
    shutil.copyfile(full[0].database, copy)
    with duckdb.connect(str(copy)) as connection:
        assert problems(connection) == []
        yield connection


def problems(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return audit_log.audit_problems(Connection(connection, UNSEALED))


def names(found: list[str], seq: int) -> bool:
    """Whether one of the problems names a row, or a span that it lies in."""
    numbers = [[int(n) for n in re.findall(r"\d+", problem)] for problem in found]
    spans = [span for problem in found for span in re.findall(r"rows (\d+) to (\d+)", problem)]
    return any(seq in told for told in numbers) or any(int(low) <= seq <= int(high) for low, high in spans)


def tampered(connection: duckdb.DuckDBPyConnection, *statements: tuple[str, list[Any]]) -> list[str]:
    """What is found after these statements, which are then taken back."""
    connection.execute("BEGIN")
    try:
        for sql, parameters in statements:
            connection.execute(sql, parameters)
        return problems(connection)
    finally:
        connection.execute("ROLLBACK")


def rows_of(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return connection.execute(f"SELECT {', '.join(AUDIT_COLUMNS)} FROM audit ORDER BY seq").fetchall()


def others(column: str, value: Any) -> list[Any]:
    """Other values that a column could hold instead."""
    if column == "seq":
        return [value + 100_000]
    if column == "recorded_at":
        return [value + timedelta(microseconds=1), value - timedelta(days=1)]
    if column == "reason":
        return ["another"] if value is None else [None, "", value + "."]
    if column in ("ids", "detail"):
        return [f"{value} ", "[]" if value != "[]" else '["m_X"]', "{", "null"]
    return [f"{value}x", ""] if value else ["x"]


def test_any_changed_value_of_any_row_is_found_and_located(raw: duckdb.DuckDBPyConnection) -> None:
    rows = rows_of(raw)
    in_the_database = (rows[0][0], rows[len(rows) // 2][0], rows[-1][0])
    tried = 0
    for place, row in enumerate(rows):
        for number, value in enumerate(row):
            column = AUDIT_COLUMNS[number]
            for other in others(column, value):
                changed = (*row[:number], other, *row[number + 1 :])
                order = sorted([*rows[:place], changed, *rows[place + 1 :]], key=lambda values: int(values[0]))
                assert names(broken_links(order, UNSEALED), row[0]), (column, value, other)
                if row[0] in in_the_database:
                    found = tampered(raw, (f"UPDATE audit SET {column} = ? WHERE seq = ?", [other, row[0]]))
                    assert names(found, row[0]), (column, value, other, found)
                tried += 1
    assert tried > 15 * len(KINDS)


def test_any_removed_row_is_found_and_located(raw: duckdb.DuckDBPyConnection) -> None:
    every = [row[0] for row in rows_of(raw)]
    for seq in every:
        found = tampered(raw, ("DELETE FROM audit WHERE seq = ?", [seq]))
        assert names(found, seq), (seq, found)
        assert len(found) == 1
    for keep in (0, 1, len(every) - 3):
        found = tampered(raw, ("DELETE FROM audit WHERE seq > ?", [keep]))
        assert all(names(found, seq) for seq in every[keep:]), found


def test_rows_that_changed_places_are_found_and_located(raw: duckdb.DuckDBPyConnection) -> None:
    rows = rows_of(raw)
    columns = ", ".join(f"{column} = ?" for column in AUDIT_COLUMNS[1:])
    moved = f"UPDATE audit SET {columns} WHERE seq = ?"
    for one, other in [(a, b) for a in range(len(rows)) for b in (a + 1, len(rows) - 1) if a < b < len(rows)]:
        first, second = rows[one], rows[other]
        contents = tampered(raw, (moved, [*second[1:], first[0]]), (moved, [*first[1:], second[0]]))
        assert names(contents, first[0]), contents
        assert names(contents, second[0]), contents


def test_a_row_that_was_slipped_in_is_found_even_with_a_fitting_hash(raw: duckdb.DuckDBPyConnection) -> None:
    last, hashed = audit_row_of(rows_of(raw)[-1], UNSEALED)
    forged = replace(last, seq=last.seq + 1, actor="nobody", previous=hashed)
    marks = ", ".join("?" * len(AUDIT_COLUMNS))
    values = list(audit_values(forged, forged.hash(), UNSEALED))
    found = tampered(raw, (f"INSERT INTO audit VALUES ({marks})", values))
    assert names(found, forged.seq), found


def test_rows_that_were_all_computed_anew_are_found(raw: duckdb.DuckDBPyConnection) -> None:
    statements: list[tuple[str, list[Any]]] = [("DELETE FROM audit", [])]
    previous = "0" * 64
    for row in rows_of(raw):
        entry, _ = audit_row_of(row, UNSEALED)
        entry = replace(entry, actor="nobody", previous=previous)
        previous = entry.hash()
        marks = ", ".join("?" * len(AUDIT_COLUMNS))
        statements.append((f"INSERT INTO audit VALUES ({marks})", list(audit_values(entry, previous, UNSEALED))))
    assert tampered(raw, *statements) != []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET actor = 'nobody' WHERE seq = 7",
        "DELETE FROM audit WHERE seq = 7",
        "DELETE FROM audit WHERE seq > (SELECT max(seq) - 2 FROM audit)",
    ],
    ids=["changed", "removed", "cut"],
)
def test_a_tampered_store_says_so_also_after_it_was_put_back_and_written_to(
    full: tuple[Settings, HandClock], tmp_path: Path, sql: str
) -> None:
    backup = tmp_path / "backup.duckdb"
    shutil.copyfile(full[0].database, backup)
    with duckdb.connect(str(backup)) as connection:
        connection.execute(sql)
        expected = problems(connection)
    assert expected
    settings = settings_for(tmp_path / "data")
    restore_backup(settings, backup, full[1].now())
    with opened(settings, full[1]) as memos:
        assert memos.verify_audit(ME) == tuple(expected)
        say(memos, "Something else happens.")
        assert set(expected) <= set(memos.verify_audit(ME))
    with opened(settings, full[1]) as memos:
        assert set(expected) <= set(memos.verify(ME))


def test_every_change_has_its_audit_row(tmp_path: Path, clock: HandClock) -> None:
    settings = settings_for(tmp_path / "data")
    with opened(settings, clock) as memos:
        vault = memos._parts.vault
        tables = [name for (name,) in vault.rows("SELECT table_name FROM duckdb_tables() WHERE NOT internal")]
        changing = sorted(set(tables) - {*NOT_CHANGES, "audit"})
        assert set(NOT_CHANGES) < set(tables)

        def contents() -> list[tuple[Any, ...]]:
            return [vault.rows(f"SELECT count(*), bit_xor(hash(t)) FROM {name} AS t")[0] for name in changing]

        for step in steps(memos, tmp_path, clock):
            clock.pass_by(seconds=1)
            before, length = contents(), vault.revision
            step()
            assert contents() == before or vault.revision > length
        assert memos.verify(ME) == ()


# --- reading it -----------------------------------------------------------------------------------------------------


def admin(*cubes: str) -> Caller:
    return Caller(Principal("admin", grants=tuple((cube, (Action.ADMIN,)) for cube in cubes)))


def test_who_administers_a_cube_reads_its_rows_and_no_others(memos: MemOS, tmp_path: Path) -> None:
    theirs = say(memos, "The old price is 40.", cube="theirs")
    mine = say(memos, "The price is 50.", cube="ours", supersedes=(theirs,))
    memos.backup(tmp_path / "copy.duckdb", ME)
    rows = memos.audit(admin("ours"))
    assert {row.cube for row in rows} == {"ours"}
    assert [row.action for row in rows] == ["create_cube", "remember"]
    assert rows[1].ids == (mine,)
    assert rows[1].detail["superseded"] == []
    owner = memos.audit(ME)
    assert [row.action for row in owner] == ["create_cube", "remember", "create_cube", "remember", "backup"]
    assert owner[3].detail["superseded"] == [theirs]
    assert memos.audit(admin("ours", "theirs"))[3].detail["superseded"] == [theirs]
    assert {row.cube for row in memos.audit(admin("*"))} == {"ours", "theirs"}
    assert memos.audit(Caller(Principal("nobody"))) == ()


def test_rows_are_given_in_parts_and_of_one_cube(memos: MemOS) -> None:
    for number in range(5):
        say(memos, f"Note {number}.", cube="ours")
    whole = [row.seq for row in memos.audit(ME)]
    assert whole == sorted(whole)
    assert [row.seq for row in memos.audit(ME, limit=2)] == whole[-2:]
    assert [row.seq for row in memos.audit(ME, cube="ours", limit=2)] == whole[-2:]
    assert [row.seq for row in memos.audit(ME, since=0, limit=2)] == [1, 2]
    assert [row.seq for row in memos.audit(ME, since=2, limit=2)] == [3, 4]
    assert memos.audit(ME, cube="nowhere") == ()
    reader = Caller(Principal("reader", grants=(("ours", (Action.READ,)),)))
    with pytest.raises(NotAllowed):
        memos.audit(reader, cube="ours")
    with pytest.raises(NotFound, match="there is no cube 'ours'"):
        memos.audit(Caller(Principal("nobody")), cube="ours")
    for wrong in ({"limit": 0}, {"limit": 5_000}, {"since": -1}):
        with pytest.raises(Invalid):
            memos.audit(ME, **wrong)


def test_a_grant_by_name_lets_its_principal_read_the_rows_too(memos: MemOS) -> None:
    granted = CubePolicy(read=Scope.SHARED, grants=(Grant("clerk", (Action.ADMIN,)),))
    memos.set_cube(SetCube("ours", policy=granted), ME)
    hidden = say(memos, "A secret.", cube="ours", sensitivity=Sensitivity.SECRET)
    assert memos.audit(Caller(Principal("clerk")))[-1].ids == (hidden,)
    assert memos.audit(Caller(Principal("reader"))) == ()


def test_verifying_is_for_the_owner(memos: MemOS) -> None:
    say(memos, "Note.", cube="ours")
    assert memos.verify_audit(ME) == ()
    with pytest.raises(NotAllowed):
        memos.verify_audit(admin("ours"))
