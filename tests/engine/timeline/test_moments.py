"""Named moments of a cube, and what it held at any moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cubes import Action, Relation, Sensitivity
from engine.cube_operations import MAX_SNAPSHOT_NAME_CHARS
from engine.errors import Conflict, Invalid, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Fuse, Principal, Recall, Remember
from engine.timeline import moments
from engine.timeline.moments import instant
from engine.vault import Transaction
from tests.conftest import HandClock
from tests.engine.stores import ME, archive, ask, contents, erase, ids, say

READER = Caller(Principal("reader", grants=(("default", (Action.READ,)),)))
WRITER = Caller(Principal("writer", grants=(("default", (Action.WRITE,)),)))
STRANGER = Caller(Principal("stranger"))


def held(memos: MemOS, moment: str | datetime, cube: str = "default") -> dict[str, str]:
    """What the cube held at a moment: id -> state."""
    return {memory.id: memory.state.value for memory in memos.memories_as_of(cube, moment, ME)}


def mark(memos: MemOS, id: str, sensitivity: Sensitivity) -> None:
    def job(transaction: Transaction) -> None:
        old = transaction.records([id])[id]
        rules = replace(old.memory.governance, sensitivity=sensitivity)
        revision = transaction.audit("govern", old.memory.cube, [id])
        transaction.revise(old, replace(old.memory, governance=rules), "govern", revision)

    memos._parts.vault.write(job, ME)


def test_a_snapshot_is_the_moment_at_which_it_was_made(memos: MemOS, clock: HandClock) -> None:
    first = say(memos, "The mast is new.")
    made = memos.snapshot("default", "launch", ME, "before the journey")
    second = say(memos, "The sail is torn.")  # in the same instant of the clock
    archive(memos, first)
    assert held(memos, "launch") == {first: "generated"}
    assert held(memos, "now") == {first: "archived", second: "generated"}
    assert memos.snapshots("default", READER) == (made,)
    assert (made.name, made.author, made.reason) == ("launch", "owner", "before the journey")
    assert clock.now() <= made.at < clock.now() + timedelta(seconds=1)
    memos.drop_snapshot("default", "launch", WRITER)
    assert memos.snapshots("default", ME) == ()
    with pytest.raises(NotFound, match="no snapshot 'launch'"):
        held(memos, "launch")
    assert memos.verify(ME) == ()


def test_a_snapshot_has_one_name_and_a_reader_makes_none(memos: MemOS, monkeypatch: pytest.MonkeyPatch) -> None:
    say(memos, "The mast is new.")
    memos.snapshot("default", "one", ME)
    revision = memos.status(ME).revision
    with pytest.raises(Conflict, match="has a snapshot 'one'"):
        memos.snapshot("default", "one", ME)
    long = "n" * (MAX_SNAPSHOT_NAME_CHARS + 1)
    for bad in ("", " one", "a/b", "now", "NOW", "2026-01-01", "2026-01-01T10:00:00Z", long, "a\nb"):
        with pytest.raises(Invalid):
            memos.snapshot("default", bad, ME)
    for act in (
        lambda: memos.snapshot("default", "two", READER),
        lambda: memos.drop_snapshot("default", "one", READER),
    ):
        with pytest.raises(NotAllowed):
            act()
    for hidden in (
        lambda: memos.snapshots("default", STRANGER),
        lambda: memos.snapshot("default", "two", STRANGER),
        lambda: memos.memories_as_of("default", "one", STRANGER),
        lambda: memos.diff_cube("default", "one", "now", STRANGER),
        lambda: memos.rollback("default", "one", STRANGER),
        lambda: memos.cube_history("default", STRANGER),
        lambda: memos.snapshot("nowhere", "two", ME),
    ):
        with pytest.raises(NotFound, match="there is no cube"):
            hidden()
    monkeypatch.setattr(moments, "MAX_SNAPSHOTS", 1)
    with pytest.raises(Invalid, match="drop one"):
        memos.snapshot("default", "two", ME)
    assert memos.status(ME).revision == revision


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("2026-03-02", datetime(2026, 3, 2, tzinfo=UTC)),
        ("2026-03-02T10:00", datetime(2026, 3, 2, 10, tzinfo=UTC)),
        (" 2026-03-02T10:00:00+02:00 ", datetime(2026, 3, 2, 8, tzinfo=UTC)),
        ("2026-03-02T10:00:00Z", datetime(2026, 3, 2, 10, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),  # before all time in UTC
        ("yesterday", None),
        ("", None),
    ],
)
def test_an_instant_is_read_in_utc_or_not_at_all(said: str, meant: datetime | None) -> None:
    assert instant(said) == meant


def test_what_ended_is_told_by_its_time_whether_or_not_a_sweep_came(memos: MemOS, clock: HandClock) -> None:
    start = clock.now()
    id = say(memos, "The ticket is valid.", expires_in_days=1)
    clock.pass_by(hours=12)
    told = memos.remember(Remember(content="The ticket is valid.", expires_in_days=3), ME)
    assert told.stored[0].version == 2  # said again, to last longer
    clock.pass_by(days=10)
    memos.sweep()
    for days, found in ((0.4, True), (2.0, True), (3.4, True), (3.6, False), (9.0, False)):
        moment = start + timedelta(days=days)
        assert (id in ids(ask(memos, "is the ticket valid?", as_of=moment))) is found, days
        assert held(memos, moment) == {id: "generated"}
    assert held(memos, "now") == {id: "expired"}


def test_what_was_imported_later_was_not_known_before_but_a_cube_that_comes_keeps_its_past(
    memos: MemOS, clock: HandClock
) -> None:
    old = say(memos, "The lamp is green.")
    (record,) = memos.export_memories(ME)
    then = clock.pass_by(days=1)
    memos.snapshot("default", "before", ME)
    clock.pass_by(days=1)

    def incoming(id: str, cube: str) -> dict[str, Any]:
        return {**record, "id": id, "cube": cube, "content": f"The lamp of {cube} is green."}

    memos.import_memories([incoming("m_IN", "default"), incoming("m_MOVED", "moved")], ME)
    ask(memos, "lamp green")
    memos.sweep()  # first use changes what came in, but not when it came
    assert held(memos, "before").keys() == {old}
    assert held(memos, then).keys() == {old}
    assert held(memos, then, "moved").keys() == {"m_MOVED"}  # that cube was elsewhere then: its own times count
    assert memos.rollback("default", "before", ME).archived == ("m_IN",)


def test_a_clock_that_was_put_back_spoils_no_snapshot(memos: MemOS, clock: HandClock) -> None:
    first = say(memos, "Said with a clock that was ahead.")
    clock.pass_by(days=-2)
    memos.snapshot("default", "back", ME)
    second = say(memos, "Said with the right clock.")
    assert held(memos, "back").keys() == {first}
    done = memos.rollback("default", "back", ME)
    assert done.archived == (second,)
    assert memos.rollback("default", done.before, ME).restored == (second,)
    assert held(memos, "now") == {first: "generated", second: "generated"}


def test_lineage_is_that_of_the_moment(memos: MemOS, clock: HandClock) -> None:
    one, other = say(memos, "The ladder is in the shed."), say(memos, "The ladder has seven steps.")
    third = say(memos, "The ladder was painted.")
    clock.pass_by(hours=1)
    memos.remember(Remember(content="The ladder has seven steps.", supersedes=(third,)), ME)  # known already
    later = clock.pass_by(hours=1)
    fused = str(memos.fuse(Fuse(ids=(one, other)), ME).id)

    def sources(moment: str | datetime, id: str) -> set[tuple[Relation, str]]:
        found = {memory.id: memory for memory in memos.memories_as_of("default", moment, ME)}
        return {(edge.relation, edge.source) for edge in found[id].lineage}

    assert sources(later - timedelta(minutes=90), other) == set()
    assert sources(later - timedelta(minutes=30), other) == {(Relation.SUPERSEDES, third)}
    assert sources("now", fused) == {(Relation.FUSED_FROM, one), (Relation.FUSED_FROM, other)}
    detailed = Recall(query="ladder seven steps", as_of=later - timedelta(minutes=90), detailed=True)
    assert all(item.memory.lineage == () for item in memos.recall(detailed, ME).memories)


def test_a_long_text_is_recalled_by_its_pieces_as_of_then(memos: MemOS, clock: HandClock) -> None:
    text = "\n\n".join(f"Chapter {n}. " + f"The {n}th harbour had a lighthouse of its own. " * 30 for n in range(6))
    whole = say(memos, text)
    then = clock.pass_by(hours=1)
    clock.pass_by(hours=1)
    archive(memos, whole)
    assert ask(memos, "which harbour had a lighthouse?").memories == ()
    assert "lighthouse" in contents(ask(memos, "which harbour had a lighthouse?", as_of=then))[0]
    states = held(memos, then)
    assert len(states) > 2
    assert set(states.values()) == {"generated"}
    done = memos.rollback("default", then.isoformat(), ME)
    assert set(done.restored) == states.keys()
    assert ask(memos, "which harbour had a lighthouse?").memories != ()
    erase(memos, whole)
    assert held(memos, then) == {}


def test_what_is_secret_now_or_was_then_is_not_shown_of_the_past(memos: MemOS, clock: HandClock) -> None:
    plain = say(memos, "The door is green.")
    was, became = say(memos, "The door code was 4711."), say(memos, "The door code is 5822.")
    mark(memos, was, Sensitivity.SECRET)
    first = clock.pass_by(hours=1)
    clock.pass_by(hours=1)
    mark(memos, was, Sensitivity.NORMAL)
    mark(memos, became, Sensitivity.SECRET)
    archive(memos, became)
    at = first.isoformat()
    assert [memory.id for memory in memos.memories_as_of("default", at, READER)] == [plain]
    assert held(memos, at).keys() == {plain, was, became}
    diff = memos.diff_cube("default", at, "now", READER)
    assert became not in diff.removed
    assert [version.version for version in memos.history(was, READER)] == [1, 3]
    with pytest.raises(NotFound):
        memos.diff_versions(was, 1, 2, READER)
    done = memos.rollback("default", at, WRITER)
    assert became not in (*done.restored, *done.archived)


def test_cube_history_tells_every_header_with_who_and_why(memos: MemOS, clock: HandClock) -> None:
    say(memos, "The mast is new.")
    (cube,) = (view.cube for view in memos.cubes(ME))
    later = clock.pass_by(days=1)

    def describe(transaction: Transaction) -> None:
        revision = transaction.audit("set_cube", "default")
        changed = replace(cube, version=2, description="Ships", licence="CC0", updated_at=transaction.now)
        transaction.put_cube(changed, revision, "set", reason="tidy")

    memos._parts.vault.write(describe, ME)
    told = memos.cube_history("default", READER)
    assert [(version.cube.version, version.change, version.reason, version.author) for version in told] == [
        (1, "create", None, "owner"),
        (2, "set", "tidy", "owner"),
    ]
    assert told[1].at == later
    before = (later - timedelta(hours=1)).isoformat()
    assert memos.diff_cube("default", before, "now", ME).header == (
        ("description", "", "Ships"),
        ("licence", "", "CC0"),
    )
    memos.rollback("default", before, ME, "undo")
    (view,) = memos.cubes(ME)
    assert (view.cube.version, view.cube.description, view.cube.licence) == (3, "", "")
    assert memos.cube_history("default", ME)[2].reason == "undo"
