"""Stores that released versions wrote open under this one, with all that they held."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from cubes import Scope, Sensitivity
from cubes.canonical import digest
from engine.cube_operations import Govern
from engine.memos import MemOS
from engine.operations import Forget, Mode
from engine.settings import Settings
from engine.vault import audit_log, past, queries
from engine.vault.backup import PRE_MIGRATION
from engine.vault.blobs import DIGEST_PREFIX
from engine.vault.schema import MIGRATIONS
from tests.conftest import HandClock
from tests.engine.stores import ME, archive, ask, contents, ids, opened, say
from tests.engine.test_loader import tensors

HARBOUR, FERRY, LAMP_2, BEN_2, KEY_2 = (f"m_TWO{n:03d}" for n in (7, 8, 2, 3, 4))
MILL, BAKER = "m_THREE002", "m_THREE003"
RELEASED = Path(__file__).parent / "released"
LAMP, BEN, HAMBURG, MILK, SHED, STEPS, FUSED, ERASED, TWIN = (f"m_OLD{n:03d}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 13))
NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)
LATER = datetime(2026, 3, 5, tzinfo=UTC)


def released(settings: Settings, schema: int, store: str) -> Settings:
    """A folder with the store of a released schema."""
    settings.data.mkdir(mode=0o700)
    with duckdb.connect(str(settings.database)) as connection:
        connection.execute((RELEASED / f"schema_{schema}.sql").read_text())
    (settings.data / "store.json").write_text(json.dumps({"store": store}))
    return settings


@pytest.fixture
def old(settings: Settings) -> Settings:
    return released(settings, 1, "s_OLD001")


@pytest.fixture
def second(settings: Settings) -> Settings:
    """A store of schema 2 with two KV caches that came with a bundle, of another program's model."""
    return with_caches(released(settings, 2, "s_TWO001"))


@pytest.fixture
def third(settings: Settings) -> Settings:
    """A store of schema 3 with two KV caches, the second of which nobody vouches for."""
    return with_caches(released(settings, 3, "s_THREE001"))


def with_caches(settings: Settings) -> Settings:
    settings.blobs_folder.mkdir(mode=0o700)
    for number in (1, 2):
        blob = tensors(number)
        (settings.blobs_folder / digest(blob).removeprefix(DIGEST_PREFIX)).write_bytes(blob)
    return settings


def states_at(memos: MemOS, cube: str, at: datetime) -> dict[str, str]:
    return {memory.id: memory.state.value for memory in memos.memories_as_of(cube, at, ME)}


def test_an_old_store_opens_with_everything_in_it_and_a_backup_of_how_it_was(old: Settings) -> None:
    with opened(old, HandClock(LATER)) as memos:
        assert memos._parts.vault.rows("SELECT value FROM meta WHERE key = 'schema'") == [(str(MIGRATIONS[-1].number),)]
        view = memos.memory(LAMP, ME).memory
        assert ids(ask(memos, "where is the lamp, red?"))[:1] == [LAMP]
        assert ids(ask(memos, "where does Ben live?", cubes=("people",)))[:1] == [HAMBURG]
        assert "It is in the cellar." in contents(ask(memos, "where is my bicycle, in the cellar?"))
        assert (view.descriptive.tags, view.descriptive.source, view.behavioural.access_count) == (
            ("house",),
            "note.md",
            1,
        )
        assert memos.verify(ME) == ()
        with memos._parts.vault.reading() as connection:
            assert audit_log.audit_problems(connection) == []
            assert len(queries.vectors(connection, "tiny+p1", [LAMP])[LAMP]) == 8
    (backup,) = old.backups_folder.glob(f"*{PRE_MIGRATION}1*")
    with duckdb.connect(str(backup), read_only=True) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchall() == [("1",)]
        assert connection.execute("SELECT count(*) FROM memories").fetchall() == [(10,)]


def test_the_history_of_an_old_store_is_what_it_was(old: Settings) -> None:
    with opened(old, HandClock(LATER)) as memos:
        assert [(v.version, v.change, v.at, v.reason) for v in memos.history(LAMP, ME)] == [
            (1, "remember", NINE, None),
            (2, "archive", NINE + timedelta(hours=4), "sold"),
            (3, "restore", NINE + timedelta(hours=5), "bought back"),
        ]
        assert [v.change for v in memos.history(TWIN, ME)] == ["remember", "archive", "restore"]
        assert [v.let_go for v in memos.history(TWIN, ME)] == [0, 0, 0]
        assert [version.change for version in memos.cube_history("people", ME)] == ["create"]


def test_every_moment_of_an_old_store_is_what_it_was(old: Settings) -> None:
    with opened(old, HandClock(LATER)) as memos:
        assert states_at(memos, "default", NINE - timedelta(minutes=1)) == {}
        # First use is no version: the lamp was used later, and lived already.
        assert states_at(memos, "default", NINE) == {LAMP: "activated"}
        assert states_at(memos, "default", NINE + timedelta(hours=4)) == {LAMP: "archived", MILK: "generated"}
        assert states_at(memos, "default", NINE + timedelta(hours=6)) == {
            LAMP: "activated",
            MILK: "generated",
            SHED: "generated",
            STEPS: "generated",
        }
        fused = states_at(memos, "default", NINE + timedelta(hours=8))
        assert (fused[SHED], fused[STEPS], fused[FUSED]) == ("merged", "merged", "generated")
        assert ERASED not in fused
        assert states_at(memos, "people", NINE + timedelta(hours=1)) == {BEN: "generated"}
        assert states_at(memos, "people", NINE + timedelta(hours=2)) == {BEN: "archived", HAMBURG: "generated"}
        assert ids(ask(memos, "where is the milk, in the fridge?", as_of=NINE + timedelta(hours=4)))[:1] == [MILK]
        assert MILK not in ids(ask(memos, "where is the milk?", as_of=NINE + timedelta(hours=40)))


def test_versions_of_one_instant_are_told_apart_by_their_order(old: Settings) -> None:
    same = datetime(2026, 3, 4, 19, tzinfo=UTC)
    with opened(old, HandClock(LATER)) as memos:
        assert {version.at for version in memos.history(TWIN, ME)} == {same}
        assert states_at(memos, "default", same)[TWIN] == "generated"
        with memos._parts.vault.reading() as connection:
            moment = past.moment_at(connection, "default", same)
            assert past.versions_at(connection, moment, [TWIN]) == {TWIN: 3}
            assert moment.before is not None
            earlier = past.Moment("default", same, moment.before - 1)
            assert past.versions_at(connection, earlier, [TWIN]) == {TWIN: 2}


def test_an_old_store_can_be_rolled_back_into_its_past(old: Settings) -> None:
    with opened(old, HandClock(LATER)) as memos:
        new = say(memos, "The lamp in the kitchen is blue.")
        done = memos.rollback("default", (NINE + timedelta(hours=6)).isoformat(), ME)
        assert set(done.restored) == {SHED, STEPS}
        assert set(done.archived) == {FUSED, TWIN, new}
        assert done.gone == ()  # it came later than that, and was erased
        assert done.expired == ()
        assert memos.verify(ME) == ()
        undone = memos.rollback("default", done.before, ME)
        assert set(undone.restored) == {SHED, STEPS, FUSED, TWIN, new}
        later = memos.rollback("default", (NINE + timedelta(hours=8)).isoformat(), ME, dry_run=True)
        assert later.gone == (ERASED,)


# --- schema 2 ---------------------------------------------------------------------------------------------------------


def test_a_store_of_schema_2_opens_with_everything_in_it(second: Settings) -> None:
    with opened(second, HandClock(datetime(2026, 4, 8, tzinfo=UTC))) as memos:
        assert memos._parts.vault.rows("SELECT value FROM meta WHERE key = 'schema'") == [(str(MIGRATIONS[-1].number),)]
        assert ids(ask(memos, "where is the lamp, red?"))[:1] == [LAMP_2]
        assert memos.cube("people", ME).cube.policy.read is Scope.SHARED
        assert memos.memory(KEY_2, ME).memory.governance.sensitivity is Sensitivity.PERSONAL
        assert [version.change for version in memos.history(LAMP_2, ME)] == ["remember", "govern", "archive", "restore"]
        assert [moment.name for moment in memos.snapshots("default", ME)] == ["spring"]
        assert memos.verify(ME) == ()
        assert {row.id: row.sources for row in memos.artifacts("harbour", ME)} == {
            "a_0": ((HARBOUR, 1),),
            "a_1": ((HARBOUR, 1), (FERRY, 1)),
        }
    (backup,) = second.backups_folder.glob(f"*{PRE_MIGRATION}2*")
    with duckdb.connect(str(backup), read_only=True) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchall() == [("2",)]


def test_what_was_derived_in_schema_2_still_goes_with_its_sources(second: Settings) -> None:
    with opened(second, HandClock(datetime(2026, 4, 8, tzinfo=UTC))) as memos:
        memos.govern(Govern((BEN_2,), pinned=True), ME)
        assert len(memos.artifacts("harbour", ME)) == 2
        assert archive(memos, FERRY).invalidated.kv == 1
        assert [row.id for row in memos.artifacts("harbour", ME)] == ["a_0"]
        assert archive(memos, HARBOUR).invalidated.kv == 1
    assert list(second.blobs_folder.iterdir()) == []


def test_a_store_of_schema_3_opens_with_everything_in_it_and_room_for_adapters(third: Settings) -> None:
    with opened(third, HandClock(datetime(2026, 5, 5, tzinfo=UTC))) as memos:
        vault = memos._parts.vault
        assert vault.rows("SELECT value FROM meta WHERE key = 'schema'") == [(str(MIGRATIONS[-1].number),)]
        assert ids(ask(memos, "when does the mill grind?"))[:1] == [MILL]
        assert memos.verify(ME) == ()
        assert {row.id: row.sources for row in memos.artifacts("default", ME)} == {
            "a_THREE1": ((MILL, 1),),
            "a_THREE2": ((MILL, 1), (BAKER, 1)),
        }
        assert vault.rows("SELECT id, uses, vouched FROM artifacts ORDER BY id") == [
            ("a_THREE1", 5, True),
            ("a_THREE2", 10, False),
        ]
        for table in ("adapters", "work", "heat", "scenes"):
            assert vault.rows(f"SELECT count(*) FROM {table}") == [(0,)]
        (backup,) = third.backups_folder.glob(f"*{PRE_MIGRATION}3*")
        with duckdb.connect(str(backup), read_only=True) as connection:
            assert connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchall() == [("3",)]
        memos.forget(Forget(ids=(BAKER,), mode=Mode.ERASE, confirmed=True), ME)
        assert [row.id for row in memos.artifacts("default", ME)] == ["a_THREE1"]
