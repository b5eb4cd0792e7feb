"""Damage and death: what is acknowledged is there after a kill, and what is damaged says so and is kept."""

from __future__ import annotations

import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from engine.errors import Corrupt
from engine.memos import MemOS, restore_backup
from engine.settings import Settings
from engine.vault import audit_log
from engine.vault.connection import Connection
from engine.vault.sealing import UNSEALED
from tests.conftest import START, HandClock
from tests.engine.stores import ME, archive, ask, ids, opened, run_python, say, settings_for

WRITE = """
import sys, threading
from pathlib import Path
from engine.memos import MemOS
from engine.operations import Caller, Remember
from engine.settings import Settings

memos = MemOS.open(Settings(data=Path(sys.argv[1]), embedder="none", backup_every_h=0))
lock = threading.Lock()

def write(thread):
    number = 0
    while True:
        text = f"Round {sys.argv[2]}, thread {thread}, parcel {number} of {number * 31}."
        stored = memos.remember(Remember(content=text), Caller()).stored[0]
        with lock:
            print(stored.id, flush=True)
        number += 1

for thread in range(4):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
threading.Event().wait()
"""
MEMORIES = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A closed store with a backup, to make damaged copies of."""
    settings = replace(settings_for(tmp_path_factory.mktemp("whole") / "data"), backup_every_h=24.0)
    with opened(settings, HandClock()) as memos:
        for number in range(MEMORIES):
            say(memos, f"Quillfeather number {number} lives in house {number * 7}. " + f"word{number} " * 100)
        archive(memos, *(memory.id for memory in memos.memories("default", ME).memories[:5]))
    return settings


@pytest.fixture
def copied(whole: Settings, tmp_path: Path) -> Settings:
    shutil.copytree(whole.data, tmp_path / "data")
    return replace(whole, data=tmp_path / "data")


def flipped(content: bytes, place: int, count: int = 64) -> bytes:
    part = bytes(byte ^ 0xFF for byte in content[place : place + count])
    return content[:place] + part + content[place + count :]


# --- the database file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "header", "text", "another database"])
def test_a_damaged_database_is_kept_and_the_last_backup_comes_back(copied: Settings, damage: str) -> None:
    content = copied.database.read_bytes()
    if damage == "another database":
        copied.database.unlink()
        with duckdb.connect(str(copied.database)) as connection:
            connection.execute("CREATE TABLE things (n INTEGER)")
        damaged = copied.database.read_bytes()
    else:
        damaged = {
            "missing": b"",
            "empty": b"",
            "half": content[: len(content) // 2],
            "header": flipped(content, 8),
            "text": b"not a database at all" * 1_000,
        }[damage]
        copied.database.write_bytes(damaged)
    if damage == "missing":
        copied.database.unlink()
    with pytest.raises(Corrupt, match=r"restore-backup .*-auto\.duckdb") as refusal:
        MemOS.open(copied)
    (backup,) = copied.backups_folder.iterdir()
    assert str(backup) in str(refusal.value)
    if damage == "missing":
        assert not copied.database.exists()
    elif damage != "another database":
        assert copied.database.read_bytes() == damaged
    kept = restore_backup(copied, backup, START)
    if damage == "missing":
        assert kept is None
    else:
        assert kept is not None
        assert (kept / "vault.duckdb").is_file()
    with opened(copied) as memos:
        found = ask(memos, "Quillfeather number 17 house 119", limit=3)
        assert "Quillfeather number 17 lives" in found.memories[0].memory.content
        assert len(memos.memories("default", ME).memories) == MEMORIES
        assert memos.verify(ME) == ()


def test_a_flipped_byte_is_never_a_wrong_answer(whole: Settings, tmp_path: Path) -> None:
    content = whole.database.read_bytes()
    with opened(whole) as memos:
        right = {memory.id: memory.content for memory in memos.memories("default", ME).memories}
    chance = random.Random(20260302)
    noticed = 0
    for attempt in range(10):
        settings = replace(whole, data=tmp_path / str(attempt), backup_every_h=0)
        settings.data.mkdir()
        shutil.copy(whole.data / "store.json", settings.data)
        settings.database.write_bytes(flipped(content, chance.randrange(len(content))))
        try:
            with MemOS.open(settings) as memos:
                found = {memory.id: memory.content for memory in memos.memories("default", ME).memories}
                assert found == right
                recalled = ask(memos, "Quillfeather lives in house", limit=100, max_tokens=100_000)
                assert {item.memory.id: item.memory.content for item in recalled.memories}.items() <= right.items()
                say(memos, "Something new after the flip.")
        except Corrupt:
            noticed += 1
    assert noticed


def test_damage_that_opening_does_not_meet_is_found_by_verifying(copied: Settings) -> None:
    content = copied.database.read_bytes()
    place = content.rfind(b"Quillfeather number")
    assert place > 0
    copied.database.write_bytes(flipped(content, place, 4))
    problems: tuple[str, ...]
    try:
        with MemOS.open(copied) as memos:
            problems = memos.verify(ME)
    except Corrupt as error:
        problems = (str(error),)
    assert len(problems) == 1
    assert "damaged" in problems[0]


# --- the write-ahead log ---------------------------------------------------------------------------------------------


def killed_while_writing(settings: Settings, number: int, after: int) -> list[str]:
    """Ids that a process printed before it was killed."""
    writer = run_python(WRITE, str(settings.data), str(number))
    assert writer.stdout is not None
    told = [writer.stdout.readline().strip() for _ in range(after)]
    writer.send_signal(signal.SIGKILL)
    told += writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    return [id for id in told if len(id) == 22]


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(settings: Settings) -> None:
    told: set[str] = set()
    chance = random.Random(7)
    for number in range(10):
        told.update(killed_while_writing(settings, number, chance.randrange(1, 40)))
    with opened(settings) as memos:
        exported = {record["id"] for record in memos.export_memories(ME)}
        assert told <= exported
        assert memos.verify(ME) == ()
        some = sorted(told)[-1]
        content = memos.memory(some, ME).memory.content
        assert some in ids(ask(memos, content))


def test_a_torn_tail_of_the_write_ahead_log_loses_nothing_acknowledged(settings: Settings) -> None:
    told = killed_while_writing(settings, 0, 25)
    log = Path(f"{settings.database}.wal")
    assert log.stat().st_size
    with log.open("ab") as file:
        file.write(b"\x07torn")
    with opened(settings) as memos:
        assert set(told) <= {record["id"] for record in memos.export_memories(ME)}
        assert memos.verify(ME) == ()


def test_a_flipped_byte_inside_the_write_ahead_log_is_corrupt_and_nothing_is_thrown_away(settings: Settings) -> None:
    killed_while_writing(settings, 0, 25)
    log = Path(f"{settings.database}.wal")
    # In the words of an entry, which its checksum covers. A flip in an entry's length is another thing: DuckDB takes an
    # entry that seems to reach behind the end of the log for the torn tail of a killed process.
    written = log.read_bytes()
    log.write_bytes(flipped(written, written.index(b"parcel", len(written) // 2), 16))
    before = (settings.database.read_bytes(), log.read_bytes())
    with pytest.raises(Corrupt, match="damaged"):
        MemOS.open(settings)
    assert (settings.database.read_bytes(), log.read_bytes()) == before


# --- the audit log ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE seq = 3", "audit row 3 was changed"),
        ("UPDATE audit SET ids = '[]' WHERE seq = 4", "audit row 4 was changed"),
        ('UPDATE audit SET detail = \'{"superseded": ["m_x"]}\' WHERE seq = 2', "audit row 2 was changed"),
        ("DELETE FROM audit WHERE seq = 3", "audit row 3 is missing"),
        ("UPDATE audit SET previous = hash WHERE seq = 5", "audit row 5 does not continue"),
    ],
)
def test_tampering_with_the_audit_log_is_found_and_located(copied: Settings, sql: str, problem: str) -> None:
    with duckdb.connect(str(copied.database)) as connection:
        connection.execute(sql)
    with opened(copied) as memos:
        found = memos.verify(ME)
    assert any(text.startswith(problem) for text in found), found


def test_an_audit_log_whose_end_was_cut_off_is_found(copied: Settings) -> None:
    with opened(copied) as memos, memos._parts.vault.reading() as connection:
        assert audit_log.cut_audit(connection) == []
        (last,) = memos._parts.vault.rows("SELECT max(revision) FROM memories")[0]
    with duckdb.connect(str(copied.database)) as raw:
        connection = Connection(raw, UNSEALED)
        raw.execute("DELETE FROM audit WHERE seq >= ?", [last])
        (problem,) = audit_log.cut_audit(connection)
        assert problem.startswith(f"audit rows {last} to ")
        raw.execute("DELETE FROM audit")
        (problem,) = audit_log.cut_audit(connection)
        assert problem.startswith("audit rows 1 to ")


def test_an_empty_store_lacks_no_audit_row(settings: Settings) -> None:
    with opened(settings) as memos, memos._parts.vault.reading() as connection:
        assert audit_log.cut_audit(connection) == []


def test_memories_that_were_taken_out_by_hand_are_found(copied: Settings) -> None:
    with duckdb.connect(str(copied.database)) as connection:
        connection.execute("UPDATE memories SET version = 9 WHERE label = 7")
        connection.execute("DELETE FROM cubes")
    with opened(copied) as memos:
        found = memos.verify(ME)
    assert any("history has a gap" in text for text in found)
    assert any("a cube that does not exist" in text for text in found)
