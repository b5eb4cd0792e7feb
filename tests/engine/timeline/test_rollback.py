"""A whole cube goes back to a moment: once, wholly, and so that it can be undone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cubes import Action, Scope, Sensitivity
from engine.cube_operations import FuseCubes, SetCube
from engine.errors import Cancelled, Invalid, NotAllowed, NotFound
from engine.lifecycle.states import LIVE
from engine.memos import MemOS
from engine.operations import Caller, Fuse, Principal, Remember
from engine.parts import content_key
from engine.settings import Settings
from engine.timeline.rolling_back import BATCH
from engine.vault import Transaction
from tests.conftest import HandClock, until
from tests.engine.stores import ME, archive, ask, contents, erase, ids, opened, say, state, with_vectors
from tests.engine.timeline.kill_rounds import one_round, prepare
from tests.engine.timeline.test_moments import held, mark

WRITER = Caller(Principal("writer", grants=(("default", (Action.WRITE,)),)))


def edit(memos: MemOS, id: str, content: str | None = None, *, frozen: bool | None = None) -> None:
    """Another version: with other words, or frozen, or no longer."""
    parts = memos._parts

    def job(transaction: Transaction) -> None:
        old = transaction.records([id])[id]
        text = old.memory.content if content is None else content
        rules = old.memory.governance if frozen is None else replace(old.memory.governance, frozen=frozen)
        revision = transaction.audit("edit", old.memory.cube, [id])
        memory = replace(old.memory, content=text, governance=rules)
        transaction.revise(replace(old, content_key=content_key(parts.vault, text)), memory, "edit", revision)
        if content is not None:
            transaction.execute("DELETE FROM embeddings WHERE id = ?", [id])
            parts.embeddings.write(transaction, [id], parts.embeddings.contents([text]))

    parts.vault.write(job, ME)


def test_a_cube_says_again_what_it_said_and_what_came_since_is_archived(dense: MemOS, clock: HandClock) -> None:
    lamp, mast = say(dense, "The lamp is red."), say(dense, "The mast is new.")
    dense.snapshot("default", "then", ME)
    clock.pass_by(days=1)
    edit(dense, lamp, "The lamp is blue.")
    archive(dense, mast)
    sail = say(dense, "The sail is torn.")
    foreseen = dense.rollback("default", "then", ME, dry_run=True)
    revision = dense.status(ME).revision
    assert (set(foreseen.restored), foreseen.archived, foreseen.before) == ({lamp, mast}, (sail,), "")
    done = dense.rollback("default", "then", ME, "a mistake")
    assert replace(done, revision=0, before="") == replace(foreseen, revision=0)
    assert done.revision == revision + 1
    assert contents(ask(dense, "which colour has the lamp, red or blue?"))[0] == "The lamp is red."
    assert ask(dense, "lamp").degraded is None
    # What was asked for may have been noted as used by now.
    assert {state(dense, lamp), state(dense, mast)} <= LIVE
    assert state(dense, sail) == "archived"
    last = dense.history(lamp, ME)[-1]
    assert (last.version, last.change, last.reason, last.author) == (3, "rollback", "a mistake", "owner")
    assert dense.verify(ME) == ()
    dense.rollback("default", done.before, ME)
    assert contents(ask(dense, "which colour has the lamp, red or blue?"))[0] == "The lamp is blue."
    assert state(dense, mast) == "archived"
    assert state(dense, sail) in LIVE
    assert dense.diff_cube("default", done.before, "now", ME).changed == ()
    assert dense.verify(ME) == ()


def test_where_nothing_differs_nothing_is_written(memos: MemOS, clock: HandClock) -> None:
    say(memos, "The lamp is red.")
    at = clock.pass_by(hours=1).isoformat()
    ask(memos, "lamp red")
    memos.sweep()  # it was used, which is no difference
    revision = memos.status(ME).revision
    done = memos.rollback("default", at, ME)
    assert (done.before, done.restored, done.archived) == ("", (), ())
    assert memos.status(ME).revision == revision
    assert memos.snapshots("default", ME) == ()


def test_frozen_stays_erased_stays_gone_and_time_is_not_rolled_back(memos: MemOS, clock: HandClock) -> None:
    frozen, gone = say(memos, "The lamp is red."), say(memos, "A word nobody may keep.")
    brief = say(memos, "The ticket is valid.", expires_in_days=1)
    at = clock.pass_by(hours=1).isoformat()
    clock.pass_by(hours=1)
    edit(memos, frozen, "The lamp is blue.", frozen=True)
    newer = say(memos, "The sail is torn.")
    edit(memos, newer, frozen=True)
    erase(memos, gone)
    clock.pass_by(days=2)
    memos.sweep()
    done = memos.rollback("default", at, ME)
    assert (set(done.kept), done.gone, done.expired) == ({frozen, newer}, (gone,), ())
    assert (done.restored, done.archived, state(memos, brief)) == ((), (), "expired")
    clock.pass_by(hours=1)
    lasting = memos.remember(Remember(content="The ticket is valid."), ME).stored[0].id
    assert memos.rollback("default", at, ME).archived == (lasting,)


def test_what_was_put_off_comes_to_its_end_again(memos: MemOS, clock: HandClock) -> None:
    brief = say(memos, "The ticket is valid.", expires_in_days=1)
    at = clock.pass_by(hours=1).isoformat()
    clock.pass_by(hours=1)
    memos.remember(Remember(content="The ticket is valid."), ME)  # renewed, for good
    clock.pass_by(days=2)
    assert ids(ask(memos, "ticket valid")) == [brief]
    done = memos.rollback("default", at, ME)
    assert (done.restored, done.expired, state(memos, brief)) == ((), (brief,), "expired")
    assert memos.rollback("default", done.before, ME).restored == (brief,)
    assert ids(ask(memos, "ticket valid")) == [brief]


def test_going_back_shares_nothing_again(memos: MemOS, clock: HandClock) -> None:
    id = say(memos, "The door code is 4711.")
    with memos._parts.vault.reading():
        (cube,) = (view.cube for view in memos.cubes(ME))

    def share(scope: Scope, version: int) -> None:
        def job(transaction: Transaction) -> None:
            revision = transaction.audit("share", "default")
            policy = replace(cube.policy, read=scope)
            changed = replace(cube, policy=policy, version=version, description=scope.value)
            transaction.put_cube(replace(changed, updated_at=transaction.now), revision, "share")

        memos._parts.vault.write(job, ME)

    share(Scope.PUBLIC, 2)
    memos.snapshot("default", "open", ME)
    share(Scope.PRIVATE, 3)
    mark(memos, id, Sensitivity.SECRET)
    edit(memos, id, "The door code is 5822.")
    memos.rollback("default", "open", ME)
    (cube,) = (view.cube for view in memos.cubes(ME))
    assert (cube.policy.read, cube.description) == (Scope.PRIVATE, "public")
    memory = memos.memory(id, ME).memory
    assert (memory.content, memory.governance.sensitivity) == ("The door code is 4711.", Sensitivity.SECRET)
    assert memos.restore(id, 1, ME).governance.sensitivity is Sensitivity.SECRET


def test_moments_that_are_none_and_callers_that_may_not_are_refused(memos: MemOS, clock: HandClock) -> None:
    say(memos, "The lamp is red.")
    memos.snapshot("default", "then", ME)
    say(memos, "The sail is torn.")
    revision = memos.status(ME).revision
    for to in ("now", (clock.now() + timedelta(days=1)).isoformat()):
        with pytest.raises(Invalid, match="not in the past"):
            memos.rollback("default", to, ME)
    with pytest.raises(NotFound, match="no snapshot 'never'"):
        memos.rollback("default", "never", ME)
    with pytest.raises(NotAllowed):
        memos.rollback("default", "then", Caller(Principal("reader", grants=(("default", (Action.READ,)),))))
    with pytest.raises(Invalid):
        memos.rollback("default", "then", ME, "r" * 3000)
    assert memos.status(ME).revision == revision


def test_a_cube_that_shows_a_folder_is_refused(memos: MemOS, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "lamp.md").write_text("The lamp is red.\n")
    cube = memos.mount(tmp_path / "notes", ME).cube
    for act in (lambda: memos.snapshot(cube, "then", ME), lambda: memos.rollback(cube, "2020-01-01", ME)):
        with pytest.raises(NotAllowed, match="read-only"):
            act()


def test_the_same_request_sent_again_gets_the_same_answer(memos: MemOS) -> None:
    say(memos, "The lamp is red.")
    memos.snapshot("default", "then", ME)
    sail = say(memos, "The sail is torn.")
    caller = Caller(operation="op-1")
    done = memos.rollback("default", "then", caller)
    again = say(memos, "The keel is sound.")
    assert memos.rollback("default", "then", caller) == done
    assert (state(memos, sail), state(memos, again)) == ("archived", "generated")


@pytest.mark.parametrize("after", [0, 1])
def test_a_rollback_that_is_stopped_while_it_embeds_changes_nothing(dense: MemOS, after: int) -> None:
    names = [say(dense, f"The lamp of room {n} is red.") for n in range(BATCH + 3)]
    dense.snapshot("default", "then", ME)
    for n, id in enumerate(names):
        edit(dense, id, f"Nobody knows what became of lamp {n}.")
    revision, steps = dense.status(ME).revision, []

    def stop(done: float, total: float | None, message: str) -> None:
        steps.append((done, total, message))
        if len(steps) > after:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        dense.rollback("default", "then", ME, progress=stop)
    assert steps == [(n * BATCH, len(names), "embedding") for n in range(after + 1)]
    assert dense.status(ME).revision == revision
    dense.rollback("default", "then", ME)
    assert ids(ask(dense, "is the lamp of room 7 red?"))[0] == names[7]


def test_vectors_that_could_not_be_made_beforehand_come_later(settings: Settings, clock: HandClock) -> None:
    with opened(with_vectors(settings), clock) as memos:
        lamp = say(memos, "The lamp is red.")
        memos.snapshot("default", "then", ME)
        edit(memos, lamp, "Something else altogether.")
    with opened(settings, clock) as memos:  # no embedder at hand
        memos.rollback("default", "then", ME)
        assert contents(ask(memos, "lamp red")) == ["The lamp is red."]
    with opened(with_vectors(settings), clock) as memos:
        until(lambda: memos._parts.embeddings.missing() == 0, "the vector of what came back")
        assert contents(ask(memos, "which colour has the light?")) == ["The lamp is red."]
        assert memos.verify(ME) == ()


# --- fusions --------------------------------------------------------------------------------------------------------


def test_a_fusion_since_is_undone_and_a_fusion_of_then_is_done_again(memos: MemOS) -> None:
    one, two = say(memos, "The ladder is in the shed."), say(memos, "The ladder has seven steps.")
    memos.snapshot("default", "apart", ME)
    fused = str(memos.fuse(Fuse(ids=(one, two)), ME).id)
    memos.snapshot("default", "together", ME)
    memos.rollback("default", "apart", ME)
    assert held(memos, "now") == {one: "generated", two: "generated", fused: "archived"}
    memos.rollback("default", "together", ME)
    assert held(memos, "now") == {one: "merged", two: "merged", fused: "generated"}


def test_what_was_merged_into_something_that_is_gone_stays_alive(memos: MemOS) -> None:
    one, two = say(memos, "The ladder is in the shed."), say(memos, "The ladder has seven steps.")
    memos.fuse(Fuse(ids=(one, two)), ME)
    memos.snapshot("default", "together", ME)
    erase(memos, one)  # and with it what was made of it
    done = memos.rollback("default", "together", ME)
    assert held(memos, "now") == {two: "activated"}
    assert one in done.gone
    assert done.restored == ()


def test_parents_in_other_cubes_live_again_when_what_they_were_fused_into_goes(memos: MemOS) -> None:
    one, other = say(memos, "The ladder is in the shed.", cube="a"), say(memos, "Ben has a boat.", cube="b")
    fused = memos.fuse_cubes(FuseCubes(("a", "b"), "all"), ME)
    (snapshot,) = (name for cube, name in fused.before if cube == "all")
    assert (state(memos, one), state(memos, other)) == ("merged", "merged")
    done = memos.rollback("all", snapshot, ME)
    assert len(done.archived) == 2
    assert set(done.unfused) == {one, other}
    assert (state(memos, one), state(memos, other)) == ("activated", "activated")
    assert memos.verify(ME) == ()


def test_restoring_a_parent_leaves_one_that_another_fusion_holds(memos: MemOS) -> None:
    one, two, three = (
        say(memos, f"The {what} of the ship.") for what in ("anchor is black", "sail is torn", "keel is sound")
    )
    first = str(memos.fuse(Fuse(ids=(one, two)), ME).id)
    memos.restore(one, 1, ME)
    second = str(memos.fuse(Fuse(ids=(one, three)), ME).id)
    memos.restore(first, 1, ME)  # now two fusions stand for the first one
    memos.restore(three, 1, ME)
    assert (state(memos, second), state(memos, three)) == ("archived", "generated")
    assert (state(memos, first), state(memos, one), state(memos, two)) == ("generated", "merged", "activated")


# --- all or nothing -------------------------------------------------------------------------------------------------


def test_a_killed_rollback_happened_wholly_or_not_at_all(settings: Settings) -> None:
    prepare(settings)
    outcomes = [one_round(settings, delay_s) for delay_s in (0.0, 0.05, 0.4)]
    assert set(outcomes) <= {"then", "later"}


def test_a_rollback_brings_the_description_back_and_says_so(memos: MemOS) -> None:
    say(memos, "The harbour opens at eight.", cube="work")
    memos.snapshot("work", "one", ME)
    memos.set_cube(SetCube("work", description="another"), ME)
    assert memos.rollback("work", "one", ME, dry_run=True).header == ("description",)
    assert memos.rollback("work", "one", ME).header == ("description",)
    assert memos.cube("work", ME).cube.description == ""
