"""Indexes: whatever happens to their files, recall equals that of indexes that were built anew."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from engine.operations import Recall
from engine.settings import Settings
from engine.vault import Change, Transaction, queries, restore_backup
from tests.conftest import LONG_S, START, HandClock, until
from tests.engine.stores import ME, archive, ask, erase, ids, opened, say, settings_for, told, with_vectors

QUERIES = (
    "what does she take in her hot drink?",
    "crate 17",
    "where does Ben live?",
    "which row is the crate with the rope in?",
    "storm",
)


@dataclass(frozen=True)
class Store:
    settings: Settings
    older: Path  # its index folder as it was before the last changes
    right: list[tuple[list[str], list[float]]]  # answers of freshly built indexes


def answers(settings: Settings) -> list[tuple[list[str], list[float]]]:
    with opened(settings, HandClock()) as memos:
        found = [
            memos._recalling.recall(Recall(query=query, limit=10, include_archived=archived), ME, use=False)
            for query in QUERIES
            for archived in (False, True)
        ]
        assert all(item.degraded is None for item in found)
        assert memos.verify(ME) == ()
    return [(ids(item), [round(m.score, 5) for m in item.memories]) for item in found]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("indexed")
    settings = with_vectors(settings_for(folder / "data"))
    clock = HandClock()
    with opened(settings, clock) as memos:
        say(memos, "Anna prefers oat milk in her coffee.")
        old = say(memos, "Ben lives in Oslo.")
        crates = [say(memos, f"Crate {n} with rope stands in row {n * 3}.", cube=f"hold {n % 2}") for n in range(24)]
        told(memos, f"The log tells of a storm on day {1}. It broke the mast. " * 40)
    shutil.copytree(settings.index_folder, folder / "older")
    with opened(settings, clock) as memos:
        told(memos, "Ben lives in Bergen now.", supersedes=(old,))
        archive(memos, crates[3])
        erase(memos, crates[5])
        say(memos, "After the storm the crate with the rope was moved to row 99.", cube="hold 1")
    fresh = replace(settings, data=folder / "fresh")
    shutil.copytree(settings.data, fresh.data, ignore=shutil.ignore_patterns("index"))
    right = answers(fresh)
    assert all(found for found, _ in right)
    return Store(settings, folder / "older", right)


@pytest.fixture
def copied(store: Store, tmp_path: Path) -> Settings:
    shutil.copytree(store.settings.data, tmp_path / "data")
    return replace(store.settings, data=tmp_path / "data")


def files(settings: Settings) -> list[Path]:
    found = sorted(path for path in settings.index_folder.rglob("*") if path.is_file())
    assert found
    return found


def rebuilt(caplog: pytest.LogCaptureFixture) -> int:
    """How many indexes were built from the vault instead of loaded."""
    return sum(record.getMessage().startswith("building the index") for record in caplog.records)


def each(change: Callable[[bytes], bytes]) -> Callable[[Settings], None]:
    def damage(settings: Settings) -> None:
        for path in files(settings):
            path.write_bytes(change(path.read_bytes()))

    return damage


def members_only(settings: Settings) -> None:
    for path in files(settings):
        if path.name != "MANIFEST.json":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)


def swapped_between_cubes(settings: Settings) -> None:
    folders = sorted(settings.index_folder.iterdir())
    assert len(folders) == 3
    folders[0].rename(settings.index_folder / "aside")
    folders[1].rename(folders[0])
    (settings.index_folder / "aside").rename(folders[1])


def a_file_instead(settings: Settings) -> None:
    shutil.rmtree(settings.index_folder)
    settings.index_folder.write_text("not a folder")


DAMAGES: dict[str, Callable[[Settings], None]] = {
    "deleted": lambda settings: shutil.rmtree(settings.index_folder),
    "a file instead": a_file_instead,
    "emptied": each(lambda content: b""),
    "cut in half": each(lambda content: content[: len(content) // 2]),
    "a byte short": each(lambda content: content[:-1]),
    "flipped at the start": each(lambda content: bytes([content[0] ^ 0xFF]) + content[1:]),
    "flipped at the end": each(lambda content: content[:-1] + bytes([content[-1] ^ 0xFF])),
    "members flipped": members_only,
    "replaced by noise": each(lambda content: bytes(range(256)) * 8),
    "manifests gone": lambda settings: [p.unlink() for p in files(settings) if p.name == "MANIFEST.json"] and None,
    "members gone": lambda settings: [p.unlink() for p in files(settings) if p.name != "MANIFEST.json"] and None,
    "swapped between cubes": swapped_between_cubes,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_recall_from_damaged_index_files_equals_that_of_new_ones(store: Store, copied: Settings, damage: str) -> None:
    DAMAGES[damage](copied)
    assert answers(copied) == store.right
    assert answers(copied) == store.right  # and the files are good again


def test_an_intact_snapshot_is_used_and_gives_the_same_answers(
    store: Store, copied: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="engine.indexer")
    assert answers(copied) == store.right
    assert rebuilt(caplog) == 0


def test_a_damaged_snapshot_is_noticed_and_built_anew(copied: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="engine.indexer")
    members_only(copied)
    with opened(copied) as memos:
        ask(memos, "crate")
        assert dict(memos.status(ME).index) == {"default": "ready", "hold 0": "ready", "hold 1": "ready"}
    assert rebuilt(caplog) == 3


def test_an_older_snapshot_is_brought_up_to_date(
    store: Store, copied: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="engine.indexer")
    shutil.rmtree(copied.index_folder)
    shutil.copytree(store.older, copied.index_folder)
    assert answers(copied) == store.right
    assert rebuilt(caplog) == 0


def test_the_snapshot_of_another_store_is_not_used(store: Store, copied: Settings, tmp_path: Path) -> None:
    other = replace(store.settings, data=tmp_path / "other")
    with opened(other) as memos:
        say(memos, "Somebody else's secret about crate 17.")
        for number in range(24):
            say(memos, f"Somebody else's crate {number}.", cube=f"hold {number % 2}")
    shutil.rmtree(copied.index_folder)
    shutil.copytree(other.index_folder, copied.index_folder)
    assert answers(copied) == store.right


def test_indexes_of_a_vault_that_was_replaced_by_a_backup_are_not_used(copied: Settings, tmp_path: Path) -> None:
    with opened(copied) as memos:
        backup = memos.backup(tmp_path / "copy.duckdb", ME)
        before = ids(ask(memos, "which crate is in row 99?"))
        for number in range(5):
            say(memos, f"Crate {number} was moved to row 99 after the backup.")
    newer = shutil.copytree(copied.index_folder, tmp_path / "newer")
    restore_backup(copied, backup, START)
    shutil.copytree(newer, copied.index_folder)
    with opened(copied) as memos:
        assert ids(ask(memos, "which crate is in row 99?")) == before
        for number in range(9):
            say(memos, f"Barrel {number} is empty.")
        assert memos.verify(ME) == ()


def test_a_snapshot_without_vectors_that_came_later_is_not_used(copied: Settings, store: Store) -> None:
    with opened(copied) as memos:
        memos._parts.vault.write(
            lambda transaction: transaction.execute("DELETE FROM embeddings WHERE id LIKE 'm_%'"), ME
        )
        memos._parts.indexes.adopt({})
        memos._parts.indexes.save()
    with opened(copied) as memos:
        until(lambda: memos._parts.embeddings.missing() == 0, "vectors for all")
    stale = shutil.copytree(copied.index_folder, copied.data / "stale")
    assert answers(copied) == store.right
    shutil.rmtree(stale)


def test_folders_of_cubes_that_do_not_exist_are_removed(copied: Settings) -> None:
    stranger = copied.index_folder / "0123456789abcdef01234567"
    stranger.mkdir()
    (stranger / "MANIFEST.json").write_text("{}")
    with opened(copied) as memos:
        ask(memos, "crate")
    assert not stranger.exists()


def test_a_recall_does_not_wait_for_a_loader_where_only_a_writer_is_at_the_index(copied: Settings) -> None:
    with opened(copied) as memos, ThreadPoolExecutor(1) as pool:
        indexes = memos._parts.indexes
        right = ids(ask(memos, "rope", cubes=("hold 1",)))
        slot = indexes._slot("hold 1")
        with slot.lock:  # as a writer has it
            slot.ready.clear()
            asked = pool.submit(indexes.ready, "hold 1", LONG_S)
            until(lambda: "ready" in running(), "the recall is waiting")
        assert asked.result(timeout=LONG_S / 2) is not None
        assert ids(ask(memos, "rope", cubes=("hold 1",))) == right


def running() -> set[str]:
    """The functions of the indexer that some thread is in."""
    found = set()
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_globals.get("__name__") == "engine.indexer":
                found.add(frame.f_code.co_name)
            frame = frame.f_back
    return found


def test_an_index_that_has_half_of_a_change_is_not_saved_and_not_asked(
    copied: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="engine.indexer")
    with opened(copied) as memos:
        indexes = memos._parts.indexes
        before = ids(ask(memos, "rope", cubes=("hold 1",)))
        with memos._parts.vault.reading() as connection:
            record = queries.records(connection, before[:1])[before[0]]

        def half(transaction: Transaction) -> None:
            transaction.changes.append(Change(record.memory.id, record.label, "hold 1", None))
            broken = np.zeros((1, 3), np.float32)
            embedder = indexes._slot("hold 1").embedder
            transaction.changes.append(Change(record.memory.id, record.label, "hold 1", record, broken, embedder))

        memos._parts.vault.write(half, ME)
        assert "a change was stored, but not everything followed it" in caplog.text
        indexes.save_cube("hold 1")
        assert not indexes.folder("hold 1").exists()
        assert ids(ask(memos, "rope", cubes=("hold 1",))) == before
        indexes.save_cube("hold 1")
        assert indexes.folder("hold 1").exists()
