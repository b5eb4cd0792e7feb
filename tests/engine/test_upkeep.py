"""What the store does by itself: expiry, backups, and saying how it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.errors import Conflict, Frozen, NotAllowed
from engine.memos import MemOS
from engine.operations import Caller, Principal
from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.stores import ME, archive, opened, say, state


def test_a_backup_is_made_once_a_day_if_something_changed_and_the_newest_are_kept(
    settings: Settings, clock: HandClock
) -> None:
    daily = replace(settings, backup_every_h=24.0, backups_kept=2)
    with opened(daily, clock) as memos:
        memos.sweep()
        assert memos.status(ME).last_backup is None  # nothing to back up yet
        for day in range(4):
            say(memos, f"Day {day} in the log.")
            memos.sweep()
            memos.sweep()
            assert memos.status(ME).last_backup == clock.now()
            clock.pass_by(days=1)
        assert len(list(daily.backups_folder.iterdir())) == 2
        memos.sweep()
        last = memos.status(ME).last_backup
        clock.pass_by(days=5)
        memos.sweep()
        assert memos.status(ME).last_backup == last  # nothing has changed


def test_a_file_of_ones_own_among_the_backups_troubles_nothing_and_stays(settings: Settings, clock: HandClock) -> None:
    daily = replace(settings, backup_every_h=24.0, backups_kept=1)
    with opened(daily, clock) as memos:
        say(memos, "First.")
        mine = memos.backup(daily.backups_folder / "zz mine.duckdb", ME)
        for _ in range(3):
            clock.pass_by(days=2)
            say(memos, f"Written at {clock.now():%d %B}.")
            memos.sweep()
            assert memos.status(ME).last_backup == clock.now()
    assert mine.exists()
    assert len(list(daily.backups_folder.iterdir())) == 2


def test_a_sweep_expires_what_is_due_in_every_state_but_frozen(memos: MemOS, clock: HandClock) -> None:
    plain = say(memos, "Short-lived.", expires_in_days=1)
    away = say(memos, "Short-lived and put away.", expires_in_days=1)
    archive(memos, away)
    record = next(r for r in memos.export_memories(ME) if r["id"] == plain)
    memos.import_memories([{**record, "id": "m_FROZEN", "content": "Frozen and due.", "frozen": True}], ME)
    lasting = say(memos, "Lasting.")
    clock.pass_by(days=1)
    memos.sweep()
    memos.sweep()
    assert [state(memos, id) for id in (plain, away, "m_FROZEN", lasting)] == [
        "expired",
        "expired",
        "generated",
        "generated",
    ]
    assert [version.change for version in memos.history(plain, ME)] == ["remember", "expire"]
    assert memos.verify(ME) == ()
    with pytest.raises((Frozen, Conflict)):
        archive(memos, "m_FROZEN")


def test_status_says_what_is_there(memos: MemOS, settings: Settings) -> None:
    say(memos, "One.")
    archive(memos, say(memos, "Two.", cube="other"))
    status = memos.status(ME)
    assert status.data == str(settings.data)
    assert (status.cubes, dict(status.counts)) == (2, {"generated": 1, "archived": 1})
    assert status.revision == status.audit_length == 5
    assert status.embedder is None
    assert status.degraded is not None


def test_checking_and_copying_the_store_are_for_its_owner(memos: MemOS, settings: Settings) -> None:
    guest = Caller(Principal("guest"))
    with pytest.raises(NotAllowed):
        memos.verify(guest)
    with pytest.raises(NotAllowed):
        memos.backup(settings.data / "copy.duckdb", guest)
    assert not (settings.data / "copy.duckdb").exists()
