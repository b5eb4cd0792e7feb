"""What the scheduler archives and fuses by itself, that it says why, and that it can be taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cubes import CubePolicy
from engine.cube_operations import Govern, SetCube
from engine.errors import Conflict, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Principal
from engine.scheduling import consolidating
from engine.settings import Settings
from engine.tier_operations import Scheduled
from tests.conftest import HandClock
from tests.engine.stores import ME, ask, opened, say

TEA = "Ann drinks green tea in the morning."
LIMIT = 20


def fill(memos: MemOS, clock: HandClock, policy: CubePolicy) -> list[str]:
    memos.set_cube(SetCube("default", policy=policy), ME)
    ids = []
    for number in range(LIMIT):
        ids.append(say(memos, f"Shelf {number} holds the books of author number {number}."))
        clock.pass_by(minutes=1)
    return ids


def copy_of(memos: MemOS, id: str, content: str) -> str:
    """The same memory once more, as an import brings it."""
    record = next(row for row in memos.export_memories(ME) if row["id"] == id)
    memos.import_memories([{**record, "id": f"{id}COPY", "content": content}], ME)
    return f"{id}COPY"


def states(memos: MemOS, *ids: str) -> list[str]:
    """Their states, without opening any of them, which would be a use."""
    known = {row["id"]: row["state"] for row in memos.export_memories(ME)}
    return [known[id] for id in ids]


def state(memos: MemOS, id: str) -> str:
    return states(memos, id)[0]


def moves(memos: MemOS, **filters: str) -> list[Scheduled]:
    return [move for move in memos.scheduler_log(ME) if all(getattr(move, k) == v for k, v in filters.items())]


def test_a_cube_that_is_nearly_full_lets_go_of_the_longest_unused(memos: MemOS, clock: HandClock) -> None:
    ids = fill(memos, clock, CubePolicy(max_memories=LIMIT))
    memos.govern(Govern(ids=(ids[1],), pinned=True), ME)
    memos.govern(Govern(ids=(ids[2],), frozen=True), ME)
    clock.pass_by(days=2)
    memos.memory(ids[0], ME)
    planned = memos.run_scheduler(ME, dry_run=True)
    assert [move.outcome for move in planned] == ["planned"] * 2
    assert states(memos, *ids) == ["generated"] * LIMIT
    done = memos.run_scheduler(ME)
    assert [move.ids for move in done] == [(ids[3],), (ids[4],)]  # not what was opened, is pinned or frozen
    assert states(memos, *ids[:6]) == ["generated"] * 3 + ["archived"] * 2 + ["generated"]
    assert {row.reason for row in done} == {"default is nearly full, and it is the longest unused"}
    assert memos.run_scheduler(ME) == ()
    assert memos.verify(ME) == ()


def test_a_full_cube_of_which_nothing_can_go_is_not_read_with_every_sweep(memos: MemOS, clock: HandClock) -> None:
    ids = fill(memos, clock, CubePolicy(max_memories=LIMIT))
    memos.govern(Govern(ids=tuple(ids), pinned=True), ME)
    clock.pass_by(days=2)
    memos.sweep()
    memos.govern(Govern(ids=tuple(ids[:2]), pinned=False), ME)
    clock.pass_by(minutes=1)
    memos.sweep()
    assert states(memos, *ids) == ["generated"] * LIMIT  # later
    assert len(memos.run_scheduler(ME, dry_run=True)) == 2  # who asks is told at once
    memos.govern(Govern(ids=(ids[1],), pinned=True), ME)
    clock.pass_by(minutes=10)
    memos.sweep()
    assert states(memos, *ids[:3]) == ["archived", "generated", "generated"]


def test_what_was_archived_can_be_taken_back_and_is_then_left_alone(memos: MemOS, clock: HandClock) -> None:
    fill(memos, clock, CubePolicy(max_memories=LIMIT))
    clock.pass_by(days=2)
    first, second = memos.run_scheduler(ME)
    undone = memos.undo_move(first.number, ME)
    assert undone.outcome == f"undid row {first.number}"
    assert state(memos, first.ids[0]) == "generated"
    again = memos.run_scheduler(ME)
    assert first.ids[0] not in {id for move in again for id in move.ids}
    with pytest.raises(Conflict, match="undone already"):
        memos.undo_move(first.number, ME)
    assert moves(memos, number=first.number)[0].outcome == f"undone (row {undone.number})"
    assert moves(memos, number=second.number)[0].undo == f"memos-mcp scheduler undo {second.number}"


def test_what_lay_unused_for_too_long_is_in_the_log_and_can_be_taken_back(memos: MemOS, clock: HandClock) -> None:
    memos.set_cube(SetCube("default", policy=CubePolicy(decay_days=10)), ME)
    tea = say(memos, TEA)
    clock.pass_by(days=11)
    (planned,) = memos.run_scheduler(ME, dry_run=True)
    assert (planned.ids, planned.reason, state(memos, tea)) == ((tea,), "unused for 10 days", "generated")
    memos.sweep()
    (move,) = moves(memos, part="archive")
    assert (move.ids, move.to, move.reason, state(memos, tea)) == ((tea,), "archived", "unused for 10 days", "archived")
    memos.undo_move(move.number, ME)
    memos.sweep()
    assert state(memos, tea) == "generated"


def test_what_expired_is_in_the_log_and_says_that_it_cannot_be_taken_back(memos: MemOS, clock: HandClock) -> None:
    tea = say(memos, TEA, expires_in_days=1)
    clock.pass_by(days=2)
    memos.sweep()
    (move,) = moves(memos, to="expired")
    assert move.ids == (tea,)
    with pytest.raises(Conflict, match="its time is over"):
        memos.undo_move(move.number, ME)


def test_copies_are_fused_and_taken_apart_for_good(memos: MemOS) -> None:
    one = say(memos, TEA)
    other = copy_of(memos, one, TEA.replace(".", ""))
    (move,) = memos.run_scheduler(ME)
    assert (move.part, set(move.ids), state(memos, one)) == ("consolidate", {one, other}, "merged")
    assert f"{move.ids[-1]} says all that the others say" == move.reason
    memos.undo_move(move.number, ME)
    assert set(states(memos, one, other)) <= {"generated", "activated"}
    assert memos.run_scheduler(ME) == ()
    assert set(states(memos, one, other)) <= {"generated", "activated"}


def test_what_came_all_at_once_is_looked_at_little_by_little_and_nothing_is_passed_over(
    memos: MemOS, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consolidating, "LOOKED_AT", 4)
    like = say(memos, "Shelf 0 holds the books of author number 0.")
    row = next(iter(memos.export_memories(ME)))
    contents = [
        *(f"Shelf {number} holds the books of author number {number}." for number in range(1, 10)),
        TEA,
        TEA[:-1],
    ]
    ids = [f"{like}{number:02}" for number in range(len(contents))]
    memos.import_memories([{**row, "id": id, "content": text} for id, text in zip(ids, contents, strict=True)], ME)
    changed = memos._parts.vault.rows("SELECT count(DISTINCT revision) FROM memories WHERE id <> ?", [like])
    assert changed == [(1,)]
    for _ in range(2):
        memos.sweep()
        clock.pass_by(minutes=1)  # nothing is used or changed meanwhile
        assert states(memos, *ids[-2:]) == ["generated"] * 2  # not their turn yet
    memos.sweep()
    assert "merged" in states(memos, *ids[-2:])
    memos.sweep()
    last = memos.scheduler(ME).last_run
    clock.pass_by(minutes=1)
    memos.sweep()
    assert memos.scheduler(ME).last_run == last  # it has caught up


def test_what_disagrees_or_is_pinned_is_never_fused_but_proposed(memos: MemOS) -> None:
    one = say(memos, TEA)
    pinned = copy_of(memos, one, TEA.replace(".", ""))
    memos.govern(Govern(ids=(pinned,), pinned=True), ME)
    say(memos, "The gate opens at 7 in the morning.")
    say(memos, "The gate opens at 9 in the morning.")
    assert memos.run_scheduler(ME) == ()
    assert any("2 groups of cube 'default'" in remark for remark in memos.scheduler(ME).remarks)


@pytest.mark.parametrize("off", ["archive", "consolidate"])
def test_a_part_that_is_off_does_nothing(settings: Settings, clock: HandClock, off: str) -> None:
    parts = tuple(part for part in settings.scheduler if part != off)
    with opened(replace(settings, scheduler=parts), clock) as memos:
        fill(memos, clock, CubePolicy(max_memories=LIMIT, decay_days=30))
        copy_of(memos, say(memos, TEA, cube="tea"), TEA.replace(".", ""))
        clock.pass_by(days=40)
        done = {move.part for move in memos.run_scheduler(ME)}
        memos.sweep()
        assert done == {"archive", "consolidate"} - {off}
        assert dict(memos.scheduler(ME).parts)[off] is False


def test_nothing_is_fused_in_quiet_hours(settings: Settings, clock: HandClock) -> None:
    minute = clock.now().astimezone().hour * 60
    quiet = replace(settings, quiet_hours=((minute, minute + 59),))
    with opened(quiet, clock) as memos:
        copy_of(memos, say(memos, TEA), TEA.replace(".", ""))
        assert memos.run_scheduler(ME) == ()
        assert memos.scheduler(ME).quiet
        clock.pass_by(hours=1)
        assert [move.part for move in memos.run_scheduler(ME)] == ["consolidate"]


def test_a_sweep_looks_again_only_where_something_happened_or_an_hour_has_passed(
    memos: MemOS, clock: HandClock
) -> None:
    say(memos, TEA)
    memos.sweep()
    first = memos.scheduler(ME).last_run
    clock.pass_by(minutes=1)
    memos.sweep()
    assert memos.scheduler(ME).last_run == first
    ask(memos, "what does Ann drink?")
    memos.sweep()
    assert memos.scheduler(ME).last_run == clock.now()


def test_the_scheduler_is_for_the_owner(memos: MemOS) -> None:
    guest = Caller(Principal("guest"))
    for asked in (
        lambda: memos.scheduler(guest),
        lambda: memos.run_scheduler(guest),
        lambda: memos.scheduler_log(guest),
        lambda: memos.undo_move(1, guest),
    ):
        with pytest.raises(NotAllowed):
            asked()
    with pytest.raises(NotFound):
        memos.undo_move(1, ME)
