"""fuse: one memory out of several, nothing made up, nothing lost, and a way back."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from cubes import Origin, Relation, State
from engine.errors import Conflict, Invalid, MemosError, NotFound
from engine.memos import MemOS
from engine.operations import Fuse
from tests.conftest import HandClock
from tests.engine.stores import ME, archive, ask, ids, say, state, told

SHIP = (
    ("The ship has two masts. Its hull is oak.", datetime(2026, 1, 1, tzinfo=UTC)),
    ("The ship has three masts. It was built in Turku.", datetime(2026, 2, 1, tzinfo=UTC)),
    ("It was built in Turku. The cook is called Runa.", datetime(2025, 12, 1, tzinfo=UTC)),
)


@pytest.fixture
def ship(memos: MemOS) -> list[str]:
    """Three memories that overlap and disagree; the second is the newest."""
    return [say(memos, text, occurred_at=when, tags=(f"t{n}", "ship")) for n, (text, when) in enumerate(SHIP)]


def test_the_union_is_the_same_whatever_the_order_and_the_newest_wins(memos: MemOS, ship: list[str]) -> None:
    plans = {memos.fuse(Fuse(ids=order, dry_run=True), ME).content for order in itertools.permutations(ship)}
    (content,) = plans
    assert content is not None
    lines = content.splitlines()
    assert lines[0] == "The ship has three masts. It was built in Turku."
    assert "two masts" not in content
    assert content.count("built in Turku") == 1
    assert {"Its hull is oak.", "The cook is called Runa."} <= set(lines)


def test_differences_are_listed_with_both_sides(memos: MemOS, ship: list[str]) -> None:
    (difference,) = memos.fuse(Fuse(ids=tuple(ship), dry_run=True), ME).conflicts
    assert set(difference.ids) == {ship[0], ship[1]}
    assert "two" in difference.about
    assert "three" in difference.about


def test_a_dry_run_changes_nothing(memos: MemOS, ship: list[str]) -> None:
    before = memos.status(ME).revision
    result = memos.fuse(Fuse(ids=tuple(ship), dry_run=True), ME)
    assert (result.id, result.merged) == (None, tuple(ship))
    assert memos.status(ME).revision == before


def test_the_fused_memory_takes_the_place_of_its_parents(dense: MemOS, clock: HandClock) -> None:
    parents = [say(dense, text, occurred_at=when, tags=(f"t{n}",)) for n, (text, when) in enumerate(SHIP)]
    result = dense.fuse(Fuse(ids=tuple(parents)), ME)
    assert result.merged == tuple(parents)
    assert {state(dense, parent) for parent in parents} == {"merged"}
    memory = dense.memory(str(result.id), ME).memory
    assert memory.content == result.content
    assert memory.descriptive.origin is Origin.INFERENCE
    assert memory.descriptive.occurred_at == SHIP[1][1]
    assert set(memory.descriptive.tags) == {"t0", "t1", "t2"}
    assert {(edge.relation, edge.source) for edge in memory.lineage} == {(Relation.FUSED_FROM, p) for p in parents}
    assert ids(ask(dense, "what is the cook called and how many masts?")) == [result.id]


def test_the_callers_own_synthesis_is_kept_word_for_word(memos: MemOS, ship: list[str]) -> None:
    result = memos.fuse(Fuse(ids=tuple(ship), content="A three-master from Turku.\n"), ME)
    assert memos.memory(str(result.id), ME).memory.content == "A three-master from Turku.\n"
    assert len(result.conflicts) == 1


def test_restoring_a_parent_undoes_the_fusion(memos: MemOS, ship: list[str]) -> None:
    fused = str(memos.fuse(Fuse(ids=tuple(ship)), ME).id)
    memos.restore(ship[2], 1, ME)
    assert [state(memos, parent) for parent in ship] == ["generated" if p == ship[2] else "activated" for p in ship]
    assert state(memos, fused) == "archived"
    assert fused not in ids(ask(memos, "ship masts Turku cook"))
    assert memos.fuse(Fuse(ids=tuple(ship)), ME).id not in (None, fused)
    assert memos.verify(ME) == ()


def test_a_fused_memory_lasts_as_long_as_its_longest_parent(memos: MemOS, clock: HandClock) -> None:
    short, long = (say(memos, f"The {c} flag is up.", expires_in_days=d) for c, d in (("red", 1), ("blue", 9)))
    fused = memos.fuse(Fuse(ids=(short, long)), ME)
    longest = memos.memory(long, ME).memory.governance.expires_at
    assert longest is not None
    assert longest > clock.now() + timedelta(days=8)
    assert memos.memory(str(fused.id), ME).memory.governance.expires_at == longest
    other = say(memos, "The green flag is up.")
    again = memos.fuse(Fuse(ids=(str(fused.id), other)), ME)
    assert memos.memory(str(again.id), ME).memory.governance.expires_at is None


def test_what_is_alike_is_proposed_and_what_is_not_is_left(memos: MemOS) -> None:
    rivals = {say(memos, "The office wifi is on channel 6."), say(memos, "The office wifi is on channel 11.")}
    say(memos, "Anna keeps bees on the roof.")
    before = memos.status(ME).revision
    groups = memos.fuse(Fuse(cube="default"), ME).groups
    assert [set(group) for group in groups] == [rivals]
    assert memos.status(ME).revision == before
    memos.fuse(Fuse(ids=groups[0]), ME)
    assert memos.fuse(Fuse(cube="default"), ME).groups == ()


def test_what_cannot_be_fused_is_refused_and_nothing_changes(memos: MemOS, ship: list[str], clock: HandClock) -> None:
    away, brief = say(memos, "Put away."), say(memos, "Gone tomorrow.", expires_in_days=1)
    elsewhere = say(memos, "In another cube.", cube="other")
    whole = told(memos, "A long line of rope. " * 100).stored[0].id
    archive(memos, away)
    clock.pass_by(days=2)
    before = memos.status(ME).revision
    refused: list[tuple[type[MemosError], Fuse]] = [
        (Invalid, Fuse()),
        (Invalid, Fuse(ids=(ship[0],))),
        (Invalid, Fuse(ids=(ship[0], ship[0]))),
        (Invalid, Fuse(ids=tuple(f"m_{n}" for n in range(101)))),
        (Invalid, Fuse(cube="default", content="x")),
        (Invalid, Fuse(ids=(ship[0], ship[1]), content=" ")),
        (Invalid, Fuse(ids=(ship[0], ship[1]), content="AWS key AKIAIOSFODNN7QXBMPLE")),
        (Invalid, Fuse(ids=(ship[0], elsewhere))),
        (Invalid, Fuse(ids=(ship[0], whole))),
        (NotFound, Fuse(ids=(ship[0], "m_nowhere"))),
        (NotFound, Fuse(cube="nowhere")),
        (Conflict, Fuse(ids=(ship[0], away))),
        (Conflict, Fuse(ids=(ship[0], brief))),
    ]
    for kind, request in refused:
        with pytest.raises(kind):
            memos.fuse(request, ME)
    assert memos.status(ME).revision == before
    assert {state(memos, id) for id in ship} == {State.GENERATED.value}
