"""What differs between moments of a cube and between versions of a memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.cube_operations import Changed, CubeDiff
from engine.errors import NotFound
from engine.memos import MemOS
from engine.operations import Fuse, Remember
from engine.vault import Transaction
from tests.conftest import HandClock
from tests.engine.stores import ME, archive, ask, erase, say
from tests.engine.timeline.test_rollback import edit


def tag(memos: MemOS, id: str, *tags: str, priority: int) -> None:
    def job(transaction: Transaction) -> None:
        old = transaction.records([id])[id]
        about = replace(old.memory.descriptive, tags=tags)
        rules = replace(old.memory.governance, priority=priority)
        revision = transaction.audit("govern", "default", [id])
        transaction.revise(old, replace(old.memory, descriptive=about, governance=rules), "govern", revision)

    memos._parts.vault.write(job, ME)


def test_a_diff_lists_what_came_what_went_and_what_changed_in_which_fields(memos: MemOS, clock: HandClock) -> None:
    lamp, mast = say(memos, "The lamp is red."), say(memos, "The mast is new.")
    one, two = say(memos, "The ladder is in the shed."), say(memos, "The ladder has seven steps.")
    at = clock.pass_by(hours=1).isoformat()
    clock.pass_by(hours=1)
    edit(memos, lamp, "The lamp is blue.")
    tag(memos, lamp, "light", priority=3)
    archive(memos, mast)
    fused = str(memos.fuse(Fuse(ids=(one, two)), ME).id)
    passing = say(memos, "This came and went.")
    archive(memos, passing)
    gone = say(memos, "Nobody may keep this.")
    erase(memos, gone)
    changes = (("content", "The lamp is red.", "The lamp is blue."), ("tags", [], ["light"]), ("priority", 0, 3))
    assert memos.diff_cube("default", at, "now", ME) == CubeDiff(
        at, "now", added=(fused,), removed=(mast, one, two), changed=(Changed(lamp, changes),)
    )
    back = memos.diff_cube("default", "now", at, ME)
    assert (back.added, back.removed) == ((mast, one, two), (fused,))
    assert back.changed[0].fields[0] == ("content", "The lamp is blue.", "The lamp is red.")


def test_use_is_no_difference_and_the_passing_of_time_is(memos: MemOS, clock: HandClock) -> None:
    lamp, ticket = say(memos, "The lamp is red."), say(memos, "The ticket is valid.", expires_in_days=1)
    at = clock.pass_by(hours=1).isoformat()
    ask(memos, "lamp red")
    memos.sweep()
    nothing = memos.diff_cube("default", at, "now", ME)
    assert (nothing.added, nothing.removed, nothing.changed, nothing.header) == ((), (), (), ())
    unswept = clock.pass_by(days=2).isoformat()
    assert memos.diff_cube("default", at, "now", ME).removed == (ticket,)
    clock.pass_by(hours=1)
    memos.sweep()  # the state follows: nothing else changes
    assert memos.diff_cube("default", unswept, "now", ME).changed == ()
    assert memos.diff_cube("default", at, unswept, ME).removed == (ticket,)
    assert lamp not in memos.diff_cube("default", at, "now", ME).removed


def test_before_a_cube_was_there_everything_is_new(memos: MemOS, clock: HandClock) -> None:
    before = clock.now().isoformat()
    clock.pass_by(hours=1)
    lamp = say(memos, "The lamp is red.")
    diff = memos.diff_cube("default", before, "now", ME)
    assert diff.added == (lamp,)
    assert ("owner", None, "owner") in diff.header


def test_two_versions_of_a_memory_are_compared_field_by_field(memos: MemOS) -> None:
    lamp = say(memos, "The lamp is red.", expires_in_days=1)
    memos.remember(Remember(content="The lamp is red."), ME)
    archive(memos, lamp)
    name, before, after = memos.diff_versions(lamp, 1, 2, ME).fields[0]
    assert (name, str(before)[:10], after) == ("expires_at", "2026-03-03", None)
    assert memos.diff_versions(lamp, 2, 3, ME).fields == (("state", "generated", "archived"),)
    assert memos.diff_versions(lamp, 2, 2, ME).fields == ()
    with pytest.raises(NotFound, match="no version 9"):
        memos.diff_versions(lamp, 1, 9, ME)
    with pytest.raises(NotFound, match="no memory"):
        memos.diff_versions("m_nowhere", 1, 2, ME)
