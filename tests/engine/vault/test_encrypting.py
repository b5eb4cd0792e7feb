"""Encrypting a store, opening it again, changing its key: whole or not at all, and nothing readable left behind."""

from __future__ import annotations

import _thread
import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from engine.errors import Busy, Cancelled, Conflict, Corrupt, Invalid, MemosError, NotAllowed, NotFound, Unavailable
from engine.memos import MemOS, restore_backup
from engine.operations import Progress
from engine.settings import Settings
from engine.vault import encrypting
from engine.vault.artifacts import ArtifactRow, artifacts_of, put_artifacts
from engine.vault.backup import backup_names, key_record
from engine.vault.blobs import keep_blob, read_blob
from engine.vault.encrypting import Encryption, is_encrypted
from engine.vault.key_source import KeyFile
from engine.vault.sealing import SEALING
from engine.vault.vault import MemVault
from tests.conftest import START, HandClock
from tests.engine.stores import ME, archive, ask, contents, erase, opened, plain_only, say, settings_for
from tests.engine.test_forget import traces
from tests.engine.vault.killing import WORK, Do, do_change, do_decrypt, do_encrypt, killed

pytestmark = plain_only  # these choose for themselves which store is encrypted
KILLS = int(os.environ.get("MEMOS_ENCRYPT_KILLS", "1"))  # of each kind
SAID = [f"Quillfeather number {n} keeps the zylophorous lantern {n} in house {n * 7}." for n in range(30)]
BLOB = SAID[1].encode() * 3_000
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
RARE = ("quillfeather", "zylophor", "vantablossom")
REASON = "because of the Vantablossom"


def file_with(path: Path, words: str = "correct horse battery staple") -> Path:
    path.write_text(words + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return file_with(tmp_path / "words")


def encrypt(settings: Settings, file: Path, progress: Progress = lambda *_: None) -> Encryption:
    return encrypting.encrypt(settings, KeyFile(file), work=WORK, progress=progress)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A closed plain store with backups, index snapshots, blobs, and what a killed process leaves."""
    settings = replace(settings_for(tmp_path_factory.mktemp("whole") / "data"), backup_every_h=24.0)
    with opened(settings, HandClock()) as memos:
        stored = [say(memos, text, tags=("vantablossom",)) for text in SAID]
        archive(memos, stored[0], reason=REASON)
        artifact = ArtifactRow("a_1", "default", "kv", "f", DIGEST, len(BLOB), ((stored[1], 1),), "{}", START)
        memos._parts.vault.write(lambda transaction: put_artifacts(transaction, [artifact], transaction.head.seq), ME)
        keep_blob(settings, DIGEST, [BLOB], memos._parts.vault.sealer)
        memos._parts.vault.backup(settings.backups_folder / "20200101T000000.000000Z-auto.duckdb")
    (settings.data / "vault.fresh").write_text(SAID[0])
    (settings.backups_folder / ".x.duckdb.partial").write_text(SAID[0])
    assert settings.index_folder.exists()
    assert len(backup_names(settings)) == 2
    return settings


@pytest.fixture
def copied(whole: Settings, tmp_path: Path) -> Settings:
    shutil.copytree(whole.data, tmp_path / "data")
    return replace(whole, data=tmp_path / "data")


def assert_whole(settings: Settings) -> None:
    """Everything is there, all of it opens, and blobs are of the same kind as the vault."""
    with MemOS.open(settings) as memos:
        page = memos.memories("default", ME).memories
        assert [memory.content for memory in page] == SAID
        assert {memory.descriptive.tags for memory in page} == {("vantablossom",)}
        assert memos.history(page[0].descriptive.id, ME)[-1].reason == REASON
        assert memos.verify(ME) == ()
        vault = memos._parts.vault
        assert memos.status(ME).encrypted is not vault.sealer.plain
        with vault.reading() as connection:
            (artifact,) = artifacts_of(connection, "default")
        assert b"".join(read_blob(settings, artifact.digest, vault.sealer)) == BLOB
        assert len(list(settings.blobs_folder.iterdir())) == 1


def assert_nothing_readable(settings: Settings) -> None:
    assert traces(settings.data, *SAID[:3], REASON, *RARE) == []


# --- there and back -------------------------------------------------------------------------------------------------


def test_an_encrypted_store_is_whole_and_holds_nothing_readable(copied: Settings, file: Path) -> None:
    heard: list[tuple[float, float | None]] = []
    done = encrypt(copied, file, lambda done, total, message: heard.append((done, total)))
    assert (done.encrypted, done.source, done.out_of_reach) == (True, "passphrase", ())
    assert heard == sorted(heard)
    assert heard[-1] == (2 * done.rows, 2 * done.rows)
    assert_nothing_readable(copied)
    assert is_encrypted(copied)
    assert len(backup_names(copied)) == 1
    assert json.loads(copied.encryption_note.read_text()) == {"source": "passphrase", "path": str(file)}
    assert_whole(copied)
    assert_nothing_readable(copied)
    assert not copied.index_folder.exists()


def test_a_store_that_was_opened_again_is_the_one_that_was_encrypted(copied: Settings, file: Path) -> None:
    before = exported(copied)
    encrypt(copied, file)
    assert exported(copied) == before
    assert encrypting.decrypt(copied) == Encryption(False, None, rows_of(copied), ())
    assert exported(copied) == before
    assert is_encrypted(copied) is False
    assert not copied.encryption_note.exists()
    assert [key_record(path) for path in backup_names(copied)] == [""]
    file.unlink()
    assert_whole(copied)
    with MemOS.open(copied) as memos:
        rows = memos._parts.vault.rows("SELECT action, actor FROM audit WHERE action LIKE '%crypt' ORDER BY seq")
    assert rows == [("encrypt", "owner"), ("decrypt", "owner")]


def exported(settings: Settings) -> list[dict[str, object]]:
    with MemOS.open(settings) as memos:
        return list(memos.export_memories(ME))


def rows_of(settings: Settings) -> int:
    with duckdb.connect(str(settings.database), read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        return sum(connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for (name,) in names)


def test_the_indexes_and_primary_keys_of_the_tables_are_kept(copied: Settings, file: Path) -> None:
    def schema() -> list[tuple[str, ...]]:
        with duckdb.connect(str(copied.database), read_only=True) as connection:
            return connection.execute("SELECT sql FROM duckdb_tables() ORDER BY table_name").fetchall()

    before = schema()
    encrypt(copied, file)
    assert schema() == before


def test_a_store_that_is_not_there_is_made_encrypted(tmp_path: Path, file: Path) -> None:
    settings = settings_for(tmp_path / "new")
    encrypt(settings, file)
    with MemOS.open(settings) as memos:
        say(memos, SAID[0])
    assert is_encrypted(settings)
    assert_nothing_readable(settings)


def test_an_encrypted_store_of_long_texts_and_many_rows_is_copied_in_batches(tmp_path: Path, file: Path) -> None:
    settings = settings_for(tmp_path / "large")
    with MemOS.open(settings) as memos:
        records = [{"id": f"m_{n}", "content": f"Row {n}. " + "word " * 30} for n in range(600)]
        memos.import_memories(records, ME)
        long = say(memos, "Long. " * 33_333)
    encrypt(settings, file)
    with MemOS.open(settings) as memos:
        assert memos.verify(ME) == ()
        assert memos.memory(long, ME).memory.content == "Long. " * 33_333
        assert len(list(memos.export_memories(ME))) > 600


# --- refusals -------------------------------------------------------------------------------------------------------


def refused(error: type[MemosError], match: str, run: Callable[[], object], settings: Settings) -> None:
    """`run` is refused, and every file is what it was."""
    before = files(settings)
    with pytest.raises(error, match=match):
        run()
    assert files(settings) == before


def files(settings: Settings) -> dict[str, bytes]:
    found = (path for path in settings.data.rglob("*") if path.is_file() and path.name not in ("vault.lock", ".lock"))
    return {str(path): path.read_bytes() for path in found}


def test_what_is_done_already_or_cannot_be_done_is_refused(copied: Settings, file: Path, tmp_path: Path) -> None:
    inside = file_with(copied.data / "words")
    refused(Invalid, "lies in the data folder", lambda: encrypt(copied, inside), copied)
    refused(Unavailable, "cannot be read", lambda: encrypt(copied, tmp_path / "none"), copied)
    named = replace(copied, key_file=tmp_path / "other")
    refused(Invalid, "MEMOS_KEY_FILE names", lambda: encrypt(named, file), copied)
    MemOS.open(copied).close()
    refused(Conflict, "is not encrypted", lambda: encrypting.decrypt(copied), copied)
    refused(Conflict, "is not encrypted", lambda: encrypting.change_key(copied, KeyFile(file)), copied)
    encrypt(copied, file)
    refused(Conflict, "is encrypted already", lambda: encrypt(copied, file), copied)


def test_a_store_that_is_open_is_busy_and_stays_as_it_is(copied: Settings, file: Path) -> None:
    with MemOS.open(copied) as memos:
        with pytest.raises(Busy):
            encrypt(copied, file)
        assert contents(ask(memos, "Quillfeather 17", limit=1)) == [SAID[17]]
    assert is_encrypted(copied) is False


@pytest.mark.parametrize("call", [1, 2, -1])
def test_a_stopped_encryption_changes_nothing(copied: Settings, file: Path, call: int) -> None:
    MemOS.open(copied).close()  # what a killed process left is removed by that
    calls = 0
    counted: list[int] = []
    if call < 0:
        shutil.copytree(copied.data, copied.data.parent / "another")
        encrypt(replace(copied, data=copied.data.parent / "another"), file, lambda *_: counted.append(1))
    last = len(counted) if call < 0 else call

    def stop(done: float, total: float | None, message: str) -> None:
        nonlocal calls
        calls += 1
        if calls == last:
            raise Cancelled("the caller stopped it")

    before = files(copied)
    with pytest.raises(Cancelled):
        encrypt(copied, file, stop)
    shown = {name: content for name, content in files(copied).items() if "blobs" not in name}
    assert shown == {name: content for name, content in before.items() if "blobs" not in name}
    encrypt(copied, file)
    assert_nothing_readable(copied)
    assert_whole(copied)


def test_an_interrupted_encryption_changes_nothing(copied: Settings, file: Path) -> None:
    called = threading.Event()

    def interrupt(done: float, total: float | None, message: str) -> None:
        if not called.is_set():
            called.set()
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        encrypt(copied, file, interrupt)
    assert is_encrypted(copied) is copied.encryption_note.exists()
    assert_whole(copied)


WRONG: dict[str, tuple[type[MemosError], str]] = {
    "wrong passphrase": (NotAllowed, "is not the one of this store"),
    "no file": (Unavailable, "cannot be read"),
    "no note": (Unavailable, "set MEMOS_KEY_FILE"),
    "edited record": (Unavailable, "was edited"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_store_whose_key_is_not_at_hand_is_refused_and_not_touched(copied: Settings, file: Path, wrong: str) -> None:
    encrypt(copied, file)
    with MemOS.open(copied) as memos:
        backup = memos.backup(copied.data.parent / "copy.duckdb", ME)
    if wrong == "wrong passphrase":
        file_with(file, "another passphrase")
    elif wrong == "no file":
        file.unlink()
    elif wrong == "no note":
        copied.encryption_note.unlink()
    else:
        for database in (copied.database, backup):
            with duckdb.connect(str(database)) as connection:
                connection.execute(
                    "UPDATE meta SET value = replace(value, '\"r\": 8', '\"r\": 9') WHERE key = ?", [SEALING]
                )
    uses: list[Callable[[], object]] = [
        lambda: MemOS.open(copied),
        lambda: encrypting.decrypt(copied),
        lambda: encrypting.change_key(copied, KeyFile(file_with(copied.data.parent / "new"))),
        lambda: restore_backup(copied, backup, START),
    ]
    for use in uses:
        refused(*WRONG[wrong], use, copied)


def test_a_value_that_was_moved_or_changed_is_found_and_named(copied: Settings, file: Path) -> None:
    encrypt(copied, file)
    with duckdb.connect(str(copied.database)) as connection:
        connection.execute(
            "UPDATE memories SET content = (SELECT content FROM memories WHERE label = 3) WHERE label = 4"
        )
        connection.execute("UPDATE memories SET header = 'QUJD' || header WHERE label = 7")
        (named,) = connection.execute("SELECT list(id ORDER BY label) FROM memories WHERE label IN (4, 7)").fetchall()
    with MemOS.open(copied) as memos:
        found = "\n".join(memos.verify(ME))
    assert all(id in found for id in named[0])
    with pytest.raises(Corrupt):
        encrypting.decrypt(copied)
    assert is_encrypted(copied)


def test_a_flipped_byte_of_an_encrypted_store_is_never_a_wrong_answer(copied: Settings, file: Path) -> None:
    encrypt(copied, file)
    MemOS.open(copied).close()
    content = copied.database.read_bytes()
    chance = random.Random(3)
    noticed = 0
    for _ in range(8):
        place = chance.randrange(len(content))
        copied.database.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            with MemOS.open(copied) as memos:
                assert [memory.content for memory in memos.memories("default", ME).memories] == SAID
        except (Corrupt, Unavailable, NotAllowed):
            noticed += 1
    assert noticed


# --- another key ------------------------------------------------------------------------------------------------------


def test_another_key_opens_the_store_and_the_old_one_does_not(copied: Settings, file: Path, tmp_path: Path) -> None:
    encrypt(copied, file)
    new = file_with(tmp_path / "new", "a new passphrase")
    with MemOS.open(copied) as memos:
        elsewhere = memos.backup(tmp_path / "before.duckdb", ME)
    old = str(key_record(copied.database))
    done = encrypting.change_key(copied, KeyFile(new), work=WORK)
    assert done == Encryption(True, "passphrase", 0, (str(elsewhere),))
    assert json.loads(copied.encryption_note.read_text()) == {"source": "passphrase", "path": str(new)}
    assert key_record(copied.database) not in ("", old, None)
    assert {key_record(path) for path in backup_names(copied)} == {key_record(copied.database)}
    assert traces(copied.data, json.loads(old)["wrapped"]) == []
    assert_whole(copied)
    with pytest.raises(NotAllowed):
        MemOS.open(replace(copied, key_file=file))
    with pytest.raises(NotAllowed):
        restore_backup(copied, elsewhere, START)
    restore_backup(replace(copied, key_file=file), elsewhere, START)
    assert_whole(copied)


# --- backups --------------------------------------------------------------------------------------------------------


def test_a_sealed_backup_comes_back_elsewhere_with_the_same_passphrase(
    copied: Settings, file: Path, tmp_path: Path
) -> None:
    encrypt(copied, file)
    with MemOS.open(copied) as memos:
        backup = memos.backup(tmp_path / "copy.duckdb", ME)
    assert traces(tmp_path, *RARE) == []
    elsewhere = settings_for(tmp_path / "another")
    refused(Unavailable, "set MEMOS_KEY_FILE", lambda: restore_backup(elsewhere, backup, START), elsewhere)
    restore_backup(replace(elsewhere, key_file=file), backup, START)
    with MemOS.open(elsewhere) as memos:
        assert len(memos.memories("default", ME).memories) == len(SAID)
        assert memos.verify(ME) == ()
        assert memos.status(ME).encrypted


def test_a_plain_backup_makes_the_store_plain_and_a_sealed_one_sealed(
    copied: Settings, file: Path, tmp_path: Path
) -> None:
    with MemOS.open(copied) as memos:
        plain = memos.backup(tmp_path / "plain.duckdb", ME)
    done = encrypt(copied, file)
    assert done.out_of_reach == (str(plain),)
    with MemOS.open(copied) as memos:
        sealed = memos.backup(tmp_path / "sealed.duckdb", ME)
    for backup, encrypted in ((plain, False), (sealed, True), (plain, False)):
        restore_backup(
            replace(copied, key_file=file), backup, START.replace(minute=len(list(tmp_path.rglob("*.duckdb"))))
        )
        assert is_encrypted(copied) is encrypted
        assert copied.encryption_note.exists() is encrypted
        with MemOS.open(copied) as memos:
            assert len(memos.memories("default", ME).memories) == len(SAID)
    done = encrypt(copied, file)
    kept = [path for path in done.out_of_reach if "damaged" in path]
    assert kept
    assert all(not key_record(Path(path)) for path in kept)


def test_a_damaged_sealed_backup_is_refused(copied: Settings, file: Path, tmp_path: Path) -> None:
    encrypt(copied, file)
    with MemOS.open(copied) as memos:
        backup = memos.backup(tmp_path / "copy.duckdb", ME)
    with duckdb.connect(str(backup)) as connection:
        connection.execute("UPDATE versions SET content = 'QUJD' || content")
    refused(Corrupt, "not all of it opens", lambda: restore_backup(copied, backup, START), copied)
    refused(NotFound, "is not there", lambda: restore_backup(copied, tmp_path / "none", START), copied)


def test_an_encrypted_store_is_compacted_erased_from_and_backed_up_as_any_other(copied: Settings, file: Path) -> None:
    encrypt(copied, file)
    daily = replace(copied, backup_every_h=24.0, backups_kept=2)
    with MemOS.open(daily) as memos:
        gone = memos.memories("default", ME).memories[4].descriptive.id
        (stored,) = memos._parts.vault.rows("SELECT content FROM memories WHERE id = ?", [gone])[0]
        receipt = erase(memos, gone).receipt
        assert receipt is not None
        assert len(receipt.digests) == 1
        memos._parts.vault.compact()
        assert memos.verify(ME) == ()
        assert SAID[4] not in contents(ask(memos, "Quillfeather number 4", limit=100, max_tokens=100_000))
    assert traces(copied.data, stored) == []
    assert_nothing_readable(copied)


# --- killed ---------------------------------------------------------------------------------------------------------


def prepared(do: Do, settings: Settings, file: Path) -> Path:
    """Bring the store to where `do` begins; the passphrase file that it is given."""
    if do is do_encrypt:
        return file
    encrypt(settings, file)
    return file_with(file.with_name("new"), "a new passphrase") if do is do_change else file


def check_killed(do: Do, before: Settings, file: Path, folder: Path, **when: float) -> tuple[bool, int | None]:
    """Whether it was changed when it was killed, and what it reported. Either way the store is whole."""
    settings = replace(before, data=folder)
    shutil.copytree(before.data, folder)
    old = key_record(settings.database)
    told = killed(do, settings, file, **when)  # type: ignore[arg-type]
    if told is not None and do is do_encrypt:
        assert_nothing_readable(settings)
    changed = MemVault(settings, HandClock(), encrypting.TimeOrderedIds())
    changed.close()
    now = key_record(settings.database)
    assert told is None or now != old
    if now:
        assert_nothing_readable(settings)
    assert {key_record(path) for path in backup_names(settings)} == {now} or (not now and do is do_encrypt)
    assert_whole(settings)
    if now and now != old:
        assert len(json.loads(settings.encryption_note.read_text())) == 2
    shutil.rmtree(folder)
    return now != old, told


@pytest.mark.parametrize("do", [do_encrypt, do_decrypt, do_change])
@pytest.mark.timeout(120 + 20 * KILLS)
def test_a_killed_change_of_encryption_happened_whole_or_not_at_all(
    copied: Settings, file: Path, tmp_path: Path, do: Do, record_property: Callable[[str, object], None]
) -> None:
    given = prepared(do, copied, file)
    chance = random.Random(11)
    changed, operations = check_killed(do, copied, given, tmp_path / "counted")
    assert changed
    assert operations is not None
    assert operations > 20
    places = sorted(chance.sample(range(1, operations + 1), min(KILLS, operations)))
    outcomes = [check_killed(do, copied, given, tmp_path / f"at {n}", at=n) for n in places]
    assert all(told is None for _, told in outcomes)
    assert [changed for changed, _ in outcomes] == sorted(changed for changed, _ in outcomes)  # one moment decides
    moments = [chance.uniform(0.0, 0.9) for _ in range(KILLS)]
    outcomes += [check_killed(do, copied, given, tmp_path / f"after {n}", after_s=s) for n, s in enumerate(moments)]
    record_property("kills", sum(told is None for _, told in outcomes))
    record_property("changed", sum(changed for changed, _ in outcomes))
