"""The vault: one owner, whole transactions, migrations with a way back, copies that are whole."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from engine.clock import TimeOrderedIds
from engine.errors import Busy, Conflict, Corrupt, Invalid, MemosError, NotFound, Unavailable
from engine.memos import MemOS, restore_backup
from engine.operations import Event, Remember
from engine.settings import Settings
from engine.vault import MemVault, Transaction
from engine.vault.failures import explaining
from engine.vault.schema import MIGRATIONS, Migration
from tests.conftest import LONG_S, START, HandClock, until
from tests.engine.stores import ME, archive, ask, contents, ids, opened, run_python, say, settings_for

HOLD = """
import sys
from pathlib import Path
from engine.memos import MemOS
from engine.settings import Settings
with MemOS.open(Settings(data=Path(sys.argv[1]), embedder="none", backup_every_h=0)):
    print("open", flush=True)
    sys.stdin.read()
"""
NOW = MIGRATIONS[-1].number
LATER = Migration(NOW + 1, "a note on each cube", "ALTER TABLE cubes ADD COLUMN note VARCHAR DEFAULT ''")


def vault(settings: Settings, migrations: tuple[Migration, ...] = MIGRATIONS) -> MemVault:
    return MemVault(settings, HandClock(), TimeOrderedIds(), migrations=migrations)


FULL = """
import resource, sys
from pathlib import Path
from engine.errors import MemosError
from engine.memos import MemOS
from engine.operations import Caller, Remember
from engine.settings import Settings

def limited(bytes, work):
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, resource.RLIM_INFINITY))
    try:
        work()
    except MemosError as error:
        return f"{error.code}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

data = Path(sys.argv[1])
with MemOS.open(Settings(data=data, embedder="none", backup_every_h=0)) as memos:
    memos.remember(Remember(content="Before the disk was full."), Caller())
    print(limited(20_000, lambda: memos.backup(data / "copy.duckdb", Caller())))
    print(limited(20_000, memos._parts.vault.compact))
    memos.remember(Remember(content="After there was space again."), Caller())
"""


def schema_of(database: Path) -> str:
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchall()
    return str(rows[0][0])


# --- one process at a time ------------------------------------------------------------------------------------------


def test_a_second_process_is_told_which_process_has_the_store(settings: Settings) -> None:
    with opened(settings) as memos:
        copy = memos.backup(settings.data / "copy.duckdb", ME)
    holder = run_python(HOLD, str(settings.data), stdin=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(Busy, match=f"process {holder.pid}"):
            MemOS.open(settings)
        with pytest.raises(Busy):
            restore_backup(settings, copy, START)
        assert holder.communicate("")[0] == ""
    with opened(settings) as memos:
        say(memos, "The lock went with its holder.")


def test_a_store_that_is_open_here_cannot_be_opened_again(memos: MemOS, settings: Settings) -> None:
    with pytest.raises(Busy):
        MemOS.open(settings)
    assert ids(ask(memos, "anything"))[:1] == []


def test_the_store_is_for_its_owner_alone(settings: Settings, clock: HandClock) -> None:
    with opened(settings, clock) as memos:
        say(memos, "Private.")
        backup = memos._parts.vault.backup(settings.data / "elsewhere" / "copy.duckdb")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (settings.data, settings.database, backup)}
    assert modes == {"data": 0o700, "vault.duckdb": 0o600, "copy.duckdb": 0o600}
    assert stat.S_IMODE(backup.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in settings.data.glob("*.json")} == {0o600}


def test_a_data_folder_may_have_any_name(tmp_path: Path, clock: HandClock) -> None:
    settings = settings_for(tmp_path / 'it\'s a "földer" 日本; --')
    with opened(settings, clock) as memos:
        say(memos, "Names of folders are not statements.")
        assert memos.backup(settings.data / "it's a copy.duckdb", ME).exists()
    with opened(settings, clock) as memos:
        assert contents(ask(memos, "names of folders")) == ["Names of folders are not statements."]


def test_a_closed_store_says_so_and_closing_again_does_nothing(settings: Settings) -> None:
    memos = MemOS.open(settings)
    memos.close()
    memos.close()
    calls: list[Callable[[], object]] = [
        lambda: say(memos, "Too late."),
        lambda: ask(memos, "too late"),
        lambda: memos.backup(settings.data / "late.duckdb", ME),
    ]
    for call in calls:
        with pytest.raises(Busy, match="closing"):
            call()


def test_opening_and_closing_never_waits_for_ever(settings: Settings) -> None:
    for _ in range(15):
        with opened(settings):
            pass


# --- schema ---------------------------------------------------------------------------------------------------------


def test_a_store_of_a_newer_version_is_refused_and_not_touched(settings: Settings) -> None:
    vault(settings, (*MIGRATIONS, LATER)).close()
    before = settings.database.read_bytes()
    with pytest.raises(
        Unavailable, match=rf"newer memos-mcp \(schema {NOW + 1}, this one reads up to {NOW}\): upgrade"
    ):
        MemOS.open(settings)
    assert settings.database.read_bytes() == before
    assert not settings.backups_folder.exists()
    vault(settings, (*MIGRATIONS, LATER)).close()


def test_a_store_of_an_older_version_is_backed_up_before_it_is_migrated(settings: Settings) -> None:
    with opened(settings) as memos:
        id = say(memos, "Written under this schema.")
    newer = vault(settings, (*MIGRATIONS, LATER))
    assert newer.rows("SELECT note FROM cubes") == [("",)]
    assert newer.rows("SELECT id FROM memories") == [(id,)]
    newer.close()
    (backup,) = settings.backups_folder.iterdir()
    assert f"before-schema-{NOW}" in backup.name
    assert (schema_of(backup), schema_of(settings.database)) == (str(NOW), str(NOW + 1))
    restore_backup(settings, backup, START)
    with opened(settings) as memos:
        assert ids(ask(memos, "this schema")) == [id]


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE cubes ADD COLUMN note VARCHAR; SELECT * FROM no_such_table",
        "this is no SQL",
        "DELETE FROM memories; INSERT INTO cubes SELECT * FROM cubes",
    ],
)
def test_a_migration_that_fails_leaves_the_store_as_it_was(settings: Settings, sql: str) -> None:
    with opened(settings) as memos:
        id = say(memos, "Still here after a bad upgrade.")
    with pytest.raises(Unavailable, match=rf"could not be brought to schema {NOW + 1} \(a bad one\): it is as it was"):
        vault(settings, (*MIGRATIONS, Migration(NOW + 1, "a bad one", sql)))
    with opened(settings) as memos:
        assert ids(ask(memos, "bad upgrade")) == [id]
        assert memos.verify(ME) == ()


def test_migrations_are_numbered_from_one_without_a_gap() -> None:
    assert [migration.number for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


# --- group commit ---------------------------------------------------------------------------------------------------


def audited(transaction: Transaction, what: str) -> int:
    return transaction.audit("test", "default", [what])


def test_jobs_that_fail_take_no_other_job_with_them(settings: Settings) -> None:
    store = vault(settings)
    gate = threading.Event()

    def job(number: int) -> Callable[[Transaction], int]:
        def run(transaction: Transaction) -> int:
            gate.wait()
            if number % 5 == 1:
                raise Conflict("refused before writing anything")
            revision = audited(transaction, f"m_{number}")
            if number % 5 == 2:
                raise ValueError("failed after writing")
            if number % 5 == 3:
                transaction.rows("SELECT 1 / (SELECT no_such_column)")
            return revision

        return run

    def attempt(number: int) -> object:
        try:
            return store.write(job(number), ME)
        except (MemosError, ValueError, duckdb.Error) as error:
            return type(error)

    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(attempt, number) for number in range(80)]
        gate.set()
        results = [future.result() for future in waiting]
    kept = [number for number in range(80) if number % 5 in (0, 4)]
    assert [results[number] for number in range(80) if number % 5 == 1] == [Conflict] * 16
    assert [results[number] for number in range(80) if number % 5 == 2] == [ValueError] * 16
    assert [results[number] for number in range(80) if number % 5 == 3] == [duckdb.BinderException] * 16
    assert sorted(results[number] for number in kept) == list(range(1, len(kept) + 1))  # type: ignore[type-var]
    rows = store.rows("SELECT seq, ids FROM audit ORDER BY seq")
    assert {ids for _, ids in rows} == {f'["m_{number}"]' for number in kept}
    assert store.revision == len(kept)
    store.close()


def test_a_statement_that_is_refused_before_anything_was_written_harms_nobody_in_its_group(settings: Settings) -> None:
    store = vault(settings)
    begun, first = threading.Event(), threading.Event()

    def hold(transaction: Transaction) -> bool:
        begun.set()
        return first.wait(LONG_S)

    with ThreadPoolExecutor(4) as pool:
        blocker = pool.submit(store.write, hold, ME)
        begun.wait(LONG_S)
        bad = pool.submit(store.write, lambda transaction: transaction.rows("SELECT nothing FROM nowhere"), ME)
        until(lambda: store._writer._queue.qsize() == 1, "a job behind the first one")
        good = pool.submit(store.write, lambda transaction: audited(transaction, "m_good"), ME)
        until(lambda: store._writer._queue.qsize() == 2, "two jobs that wait together")
        first.set()
        assert blocker.result()
        assert isinstance(bad.exception(), duckdb.Error)
        assert good.result() == 1
    store.close()


def test_many_threads_store_everything_and_count_without_a_gap(memos: MemOS) -> None:
    with ThreadPoolExecutor(16) as pool:
        stored = list(pool.map(lambda n: say(memos, f"Parcel number {n} lies in locker {n * 7}."), range(64)))
    assert len(set(stored)) == 64
    page = memos.memories("default", ME)
    assert {memory.id for memory in page.memories} == set(stored)
    assert memos.verify(ME) == ()
    assert memos.status(ME).audit_length == 65  # one for the cube itself


def test_a_listener_that_fails_stops_nobody(memos: MemOS, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def fail(event: Event) -> None:
        raise RuntimeError("a listener's own mistake")

    stop = memos.listen(fail)
    memos.listen(heard.append)
    id = say(memos, "Kept, whoever listens.")
    assert "not everything followed it" in caplog.text
    stop()
    other = say(memos, "And so is what comes after.")
    assert {id, other} == set(ids(ask(memos, "kept whoever listens comes after")))
    assert heard[-1].ids == (other,)


def test_events_come_in_the_order_of_revisions_and_after_the_memory_can_be_read(memos: MemOS) -> None:
    heard: list[Event] = []
    seen: list[bool] = []

    def listen(event: Event) -> None:
        heard.append(event)
        seen.extend(memos.memory(id, ME).memory.id == id for id in event.ids)

    stop = memos.listen(listen)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: say(memos, f"Note {n} of the day.", cube=f"cube {n % 3}"), range(24)))
    stop()
    say(memos, "Nobody hears this.")
    revisions = [event.revision for event in heard]
    assert revisions == sorted(revisions)
    assert len(heard) == 24
    assert all(seen)


# --- copies ---------------------------------------------------------------------------------------------------------


def test_a_backup_holds_everything_and_is_refused_where_something_lies(memos: MemOS, tmp_path: Path) -> None:
    kept = say(memos, "In the backup.")
    copy = memos.backup(tmp_path / "copy.duckdb", ME)
    say(memos, "After the backup.")
    with pytest.raises(Invalid, match="never replaces a file"):
        memos.backup(copy, ME)
    elsewhere = settings_for(tmp_path / "another")
    assert restore_backup(elsewhere, copy, START) is None
    with opened(elsewhere) as restored:
        assert ids(ask(restored, "backup")) == [kept]
        assert restored.verify(ME) == ()


def test_a_backup_that_cannot_be_written_leaves_nothing_behind(memos: MemOS, tmp_path: Path) -> None:
    say(memos, "Something.")
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(Invalid, match="is no folder"):
        memos.backup(blocked / "copy.duckdb", ME)
    with pytest.raises(Invalid, match="cannot be written"):
        memos._parts.vault.backup(blocked / "copy.duckdb")
    assert list(tmp_path.rglob("*.partial*")) == []


def test_a_backup_under_a_name_that_the_file_system_refuses_is_invalid(memos: MemOS, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be written"):
        memos._parts.vault.backup(tmp_path / f"{'long' * 100}.duckdb")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on the size of files to set")
def test_a_full_disk_is_said_to_be_full_and_takes_nothing_with_it(settings: Settings) -> None:
    said, _ = run_python(FULL, str(settings.data)).communicate(timeout=LONG_S)
    assert [line.partition(";")[0] for line in said.splitlines()] == [
        "Unavailable: the disk is full: nothing was changed",
        "Unavailable: the disk is full: nothing was changed",
    ]
    assert not (settings.data / "copy.duckdb").exists()
    assert not settings.database.with_suffix(".fresh").exists()
    assert list(settings.data.rglob("*.partial*")) == []
    with opened(settings) as memos:
        assert len(memos.memories("default", ME).memories) == 2
        assert memos.verify(ME) == ()


def test_a_data_folder_that_cannot_be_made_is_unavailable_and_named(memos: MemOS, tmp_path: Path) -> None:
    say(memos, "Something.")
    copy = memos.backup(tmp_path / "copy.duckdb", ME)
    (tmp_path / "file").write_text("in the way")
    blocked = settings_for(tmp_path / "file" / "data")
    with pytest.raises(Unavailable, match=r"file.data: Not a directory"):
        MemOS.open(blocked)
    with pytest.raises(Unavailable, match=r"file.data: Not a directory"):
        restore_backup(blocked, copy, START)


def test_what_the_database_refuses_is_an_error_of_the_engine_and_a_mistake_of_ours_is_not(tmp_path: Path) -> None:
    connection = duckdb.connect(str(tmp_path / "some.duckdb"), config={"memory_limit": "10MB", "temp_directory": ""})
    connection.execute("CREATE TABLE t (n INTEGER)")
    first, second = connection.cursor(), connection.cursor()
    first.execute("INSERT INTO t VALUES (1)")
    for cursor in (first, second):
        cursor.execute("BEGIN")
    first.execute("UPDATE t SET n = 2")
    refused: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: second.execute("UPDATE t SET n = 3"), Busy),
        (lambda: connection.execute("SELECT list(md5(i::VARCHAR)) FROM range(3_000_000) AS r(i)"), Unavailable),
        (lambda: connection.execute("ATTACH '/dev/null/x.duckdb' AS elsewhere"), Unavailable),
        (lambda: connection.execute("SELEC 1"), duckdb.ParserException),
        (lambda: connection.execute("SELECT nothing FROM t"), duckdb.BinderException),
    ]
    for run, error in refused:
        with pytest.raises(error), explaining():
            run()
    connection.close()
    with pytest.raises(Unavailable, match="closed"), explaining():
        connection.execute("SELECT 1")


def test_what_a_killed_process_left_of_a_copy_is_removed_at_the_next_start(settings: Settings) -> None:
    with opened(settings) as memos:
        say(memos, "Whole.")
    settings.backups_folder.mkdir()
    leftovers = [
        settings.backups_folder / ".20260302T090000.000000Z-auto.duckdb.partial",
        settings.backups_folder / ".20260302T090000.000000Z-auto.duckdb.partial.wal",
        settings.data / ".vault.fresh.partial",
        settings.data / "vault.fresh",
        settings.data / "vault.incoming",
        settings.data / "vault.incoming.wal.checkpoint",
        settings.data / "vault.incoming.wal.recovery",
    ]
    for leftover in leftovers:
        leftover.write_bytes(b"what is erased later")
    for spilled in ("vault.duckdb.tmp", ".vault.fresh.partial.tmp"):
        (settings.data / spilled).mkdir()
        (settings.data / spilled / "duckdb_temp_storage_S32K-0.tmp").write_bytes(b"what is erased later")
        leftovers.append(settings.data / spilled)
    with opened(settings) as memos:
        assert contents(ask(memos, "whole")) == ["Whole."]
    assert not any(leftover.exists() for leftover in leftovers)


def test_a_file_that_is_no_backup_is_refused_and_nothing_is_changed(settings: Settings, tmp_path: Path) -> None:
    with opened(settings) as memos:
        say(memos, "Stays.")
        good = memos.backup(tmp_path / "good.duckdb", ME)
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as connection:
        connection.execute("CREATE TABLE things (n INTEGER)")
    half = tmp_path / "half.duckdb"
    half.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    text = tmp_path / "text.duckdb"
    text.write_text("not a database")
    before = settings.database.read_bytes()
    for path in (other, half, text):
        with pytest.raises(Corrupt, match=path.name):
            restore_backup(settings, path, START)
    with pytest.raises(NotFound):
        restore_backup(settings, tmp_path / "missing.duckdb", START)
    assert settings.database.read_bytes() == before


@pytest.mark.parametrize("name", ["vault.duckdb.wal", "vault.duckdb.wal.checkpoint", "vault.duckdb.wal.recovery"])
def test_no_log_of_a_replaced_vault_stays_beside_the_restored_one(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    with opened(settings) as memos:
        say(memos, "In the backup.")
        copy = memos.backup(tmp_path / "copy.duckdb", ME)
    (settings.data / name).write_bytes(b"of the replaced vault")
    kept = restore_backup(settings, copy, START)
    assert kept is not None
    assert sorted(path.name for path in kept.iterdir()) == ["vault.duckdb", name]
    assert [path.name for path in settings.data.glob("vault.duckdb*")] == ["vault.duckdb"]
    with opened(settings) as memos:
        assert contents(ask(memos, "backup")) == ["In the backup."]


def test_compacting_leaves_no_log_of_the_old_file(memos: MemOS, settings: Settings) -> None:
    say(memos, "Stays.")
    for name in ("vault.duckdb.wal.checkpoint", "vault.duckdb.wal.recovery"):
        (settings.data / name).write_bytes(b"of the old file")
    memos._parts.vault.compact()
    assert [path.name for path in settings.data.glob("vault.duckdb*")] == ["vault.duckdb"]
    assert contents(ask(memos, "stays")) == ["Stays."]


def test_compacting_keeps_what_lives_while_readers_read(memos: MemOS) -> None:
    stored = {say(memos, f"Row {n} of the table of contents.") for n in range(20)}
    archive(memos, *list(stored)[:5])
    stop = threading.Event()
    wrong: list[int] = []

    def read() -> None:
        while not stop.is_set():
            found = len(memos.memories("default", ME).memories)
            if found != 20:
                wrong.append(found)

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(read)
        try:
            for _ in range(3):
                memos._parts.vault.compact()
        finally:
            stop.set()
    assert wrong == []
    memos.remember(Remember(content="Written after compacting."), ME)
    assert memos.verify(ME) == ()
