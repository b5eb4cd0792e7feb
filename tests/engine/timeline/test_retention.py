"""Earlier versions that nobody wants to keep go, from the front, and nothing pretends that they never were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from engine.errors import NotFound
from engine.lifecycle.states import LIVE
from engine.memos import MemOS
from engine.settings import Settings
from engine.vault import Transaction, queries
from tests.conftest import HandClock
from tests.engine.stores import ME, ask, erase, ids, opened, say
from tests.engine.timeline.test_moments import held
from tests.engine.timeline.test_rollback import edit


def keep(memos: MemOS, **policy: Any) -> None:
    """Set what the cube keeps."""
    (cube,) = (view.cube for view in memos.cubes(ME) if view.cube.name == "default")

    def job(transaction: Transaction) -> None:
        revision = transaction.audit("set_cube", "default")
        changed = replace(cube, policy=replace(cube.policy, **policy), version=cube.version + 1)
        transaction.put_cube(replace(changed, updated_at=transaction.now), revision, "set")

    memos._parts.vault.write(job, ME)


def many_versions(memos: MemOS, clock: HandClock, count: int = 6) -> str:
    """A memory that says something else every day."""
    id = say(memos, "On day 1 the lamp is red.")
    for day in range(2, count + 1):
        clock.pass_by(days=1)
        edit(memos, id, f"On day {day} the lamp is red.")
    return id


def numbers(memos: MemOS, id: str) -> Sequence[int]:
    return [version.version for version in memos.history(id, ME)]


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        ({"keep_versions": 2}, [4, 5, 6]),
        ({"keep_versions": 0}, [6]),
        ({"keep_days": 2.5}, [3, 4, 5, 6]),  # what was said at any time in these days can be told
        ({"keep_days": 2.5, "keep_versions": 1}, [5, 6]),
        ({"keep_days": 0.5, "keep_versions": 4}, [5, 6]),
        ({"keep_versions": 9}, [1, 2, 3, 4, 5, 6]),
        ({}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_what_a_policy_does_not_keep_goes_from_the_front(
    memos: MemOS, clock: HandClock, policy: dict[str, Any], left: list[int]
) -> None:
    id = many_versions(memos, clock)
    keep(memos, **policy)
    revision = memos.status(ME).revision
    memos.sweep()
    assert numbers(memos, id) == left
    assert memos.history(id, ME)[0].let_go == 6 - len(left)
    assert [version.let_go for version in memos.history(id, ME)[1:]] == [0] * (len(left) - 1)
    with memos._parts.vault.reading() as connection:
        told = [row.detail for row in queries.audited(connection, "retain")]
    assert [(row["versions"], row["memories"]) for row in told] == ([(6 - len(left), 1)] if len(left) < 6 else [])
    assert memos.status(ME).revision == revision + len(told)
    memos.sweep()
    assert memos.status(ME).revision == revision + len(told)
    assert memos.verify(ME) == ()


def test_pinned_frozen_and_what_a_snapshot_shows_stay(memos: MemOS, clock: HandClock) -> None:
    frozen = many_versions(memos, clock)
    edit(memos, frozen, frozen=True)
    pinned, shown, plain = (many_versions(memos, clock) for _ in range(3))
    edit(memos, pinned, "On day 7 the lamp is red.")

    def pin(transaction: Transaction) -> None:
        old = transaction.records([pinned])[pinned]
        rules = replace(old.memory.governance, pinned=True)
        transaction.revise(old, replace(old.memory, governance=rules), "govern", transaction.audit("govern", "default"))

    memos._parts.vault.write(pin, ME)
    memos.snapshot("default", "needed", ME)
    for id in (shown, plain):
        clock.pass_by(days=1)
        edit(memos, id, f"Later on, {id} says something else.")
        clock.pass_by(days=1)
        edit(memos, id, f"And at last, {id} says this.")
    keep(memos, keep_versions=0)
    memos.sweep()
    assert numbers(memos, frozen) == list(range(1, 8))
    assert numbers(memos, pinned) == list(range(1, 9))
    assert numbers(memos, shown) == [6, 7, 8]  # that of the snapshot, and no gap behind it
    assert {memory.content for memory in memos.memories_as_of("default", "needed", ME) if memory.id == shown} == {
        "On day 6 the lamp is red."
    }
    memos.drop_snapshot("default", "needed", ME)
    memos.sweep()
    assert (numbers(memos, shown), numbers(memos, plain)) == ([8], [8])
    assert memos.verify(ME) == ()


def test_a_moment_before_what_is_kept_is_not_answered_wrongly(memos: MemOS, clock: HandClock) -> None:
    early = clock.now()
    id = many_versions(memos, clock)
    clock.pass_by(hours=1)
    fresh = say(memos, "The mast is new.")
    assert ask(memos, "lamp red", as_of=early).degraded is None or "retention" not in str(
        ask(memos, "lamp red", as_of=early).degraded
    )
    keep(memos, keep_versions=1)
    memos.sweep()
    first = memos.history(id, ME)[0].at
    told = ask(memos, "lamp red", as_of=early)
    assert id not in ids(told)
    assert f"versions before {first.isoformat()} were let go by retention" in str(told.degraded)
    assert "retention" not in str(ask(memos, "lamp red", as_of=first).degraded)
    assert "retention" not in str(ask(memos, "lamp red").degraded)
    done = memos.rollback("default", early.isoformat(), ME)
    assert (done.gone, done.archived) == ((id,), (fresh,))  # nobody knows what it said then: it stays
    assert held(memos, "now")[id] in LIVE  # what was recalled is activated when its use is written
    with pytest.raises(NotFound, match="no version 1"):
        memos.restore(id, 1, ME)


def test_a_history_without_its_front_goes_out_and_comes_in(memos: MemOS, clock: HandClock, settings: Settings) -> None:
    id = many_versions(memos, clock)
    keep(memos, keep_versions=2)
    memos.sweep()
    (record,) = memos.export_memories(ME)
    assert [old["version"] for old in record["history"]] == [4, 5]
    with opened(replace(settings, data=settings.data.with_name("other")), clock) as other:
        report = other.import_memories([record], ME)
        assert report.refused == []
        assert numbers(other, id) == [4, 5, 6]
        assert list(other.export_memories(ME)) == [record]
        assert other.verify(ME) == ()
        for broken in ([4], [5, 4], [3, 5], [2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5]):
            history = [{**record["history"][0], "id": "m_B", "version": number} for number in broken]
            refused = other.import_memories([{**record, "id": "m_B", "history": history}], ME).refused
            assert len(refused) == 1, broken


def test_a_front_that_went_without_retention_is_a_gap(memos: MemOS, clock: HandClock) -> None:
    id = many_versions(memos, clock)
    memos._parts.vault.write(
        lambda transaction: transaction.execute("DELETE FROM versions WHERE id = ? AND version = 1", [id]), ME
    )
    assert any("history has a gap" in problem for problem in memos.verify(ME))
    keep(memos, keep_versions=1)
    memos.sweep()
    assert memos.verify(ME) == ()
    memos._parts.vault.write(lambda transaction: transaction.execute("UPDATE versions SET version = 3"), ME)
    assert any("history has a gap" in problem for problem in memos.verify(ME))


def test_what_is_erased_leaves_nothing_whether_or_not_its_front_went(memos: MemOS, clock: HandClock) -> None:
    id = many_versions(memos, clock)
    keep(memos, keep_versions=1)
    memos.sweep()
    erase(memos, id)
    assert held(memos, (clock.now()).isoformat()) == {}
    assert memos.verify(ME) == ()
