"""Memories become an adapter, for who waits or in the background; what is stopped or overtaken leaves nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from cubes import Action, Sensitivity
from engine.cube_operations import Govern
from engine.distilling.choosing import chosen
from engine.errors import Busy, Cancelled, Conflict, Invalid, NotAllowed, NotFound, TooLarge, Unavailable
from engine.memos import MemOS
from engine.operations import Caller, Principal, Remember
from engine.settings import Settings
from engine.tier_operations import AdapterState, Distil, WorkState, WorkView
from tests.conftest import HandClock, until
from tests.engine.distilling.short import (
    ENDLESS,
    distilled,
    files_of,
    held_up,
    ids_of,
    in_service,
    nothing_is_left,
    queued,
    request,
    versions,
)
from tests.engine.stores import ME, archive, erase, opened, say

FAILED, SERVING, GONE = AdapterState.FAILED, AdapterState.SERVING, AdapterState.GONE


def work(memos: MemOS, id: str) -> WorkView:
    return next(view for view in memos.work(ME) if view.id == id)


def ended(memos: MemOS, id: str) -> WorkView:
    until(lambda: work(memos, id).ended_at is not None, f"{id} ends")
    return work(memos, id)


def at(share: float, do: Callable[[], object]) -> Callable[[float, float | None, str], None]:
    """Progress that does something once, when so much is done."""
    done: list[object] = []

    def tell(reached: float, total: float | None, message: str) -> None:
        if reached >= share and not done:
            done.append(None)
            do()

    return tell


def stop() -> None:
    raise Cancelled("enough")


# --- what is made --------------------------------------------------------------------------------------------------


def test_an_adapter_is_made_of_all_that_a_cube_holds_and_says_what_it_was_made_from(trainable: MemOS) -> None:
    told: list[tuple[float, float | None]] = []
    view = distilled(trainable, (), lambda done, total, message: told.append((done, total)), seed=7, reason="stable")
    assert [id for id, _ in view.sources] == ids_of(trainable)
    assert (view.version, view.made, view.steps, view.usable) == (1, "distilled", 4, True)
    assert view.judged is not None
    assert (view.state is FAILED) == bool(view.judged.why)  # four steps teach nothing, and the gate says so
    assert {total for _, total in told} == {1.0}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    (entry,) = [row for row in trainable.audit(ME) if row.action == "distil"]
    assert (set(entry.ids), entry.reason) == (set(ids_of(trainable)), "stable")
    (view,) = trainable.work(ME)
    assert view.state is WorkState.DONE
    assert view.told.startswith("version 1 was refused by the gate: it knows ")
    assert files_of(trainable._parts.vault.settings.checkpoints_folder) == []


def test_the_same_seed_makes_the_same_adapter_and_another_seed_another(trainable: MemOS) -> None:
    store = trainable._answering.for_training(ME)[0].adapters
    made = [distilled(trainable, ids_of(trainable)[:1], steps=2, seed=seed).version for seed in (3, 3, 4)]
    one, two, three = (store.row("home", version).header["digest"] for version in made)
    assert one == two != three


def test_only_what_is_named_is_learned(trainable: MemOS) -> None:
    first, _, third = ids_of(trainable)
    assert [id for id, _ in distilled(trainable, [third, first], steps=1).sources] == [first, third]


def test_nothing_is_learned_that_is_not_for_every_reader_or_holds_no_more(trainable: MemOS) -> None:
    first, second, third = ids_of(trainable)
    trainable.govern(Govern((first,), sensitivity=Sensitivity.PERSONAL), ME)
    archive(trainable, second)
    assert [id for id, _ in distilled(trainable, steps=1).sources] == [third]
    for id, why in ((first, "personal"), (second, "archived")):
        with pytest.raises(Invalid, match=f"{id} cannot be trained on: it is {why}"):
            distilled(trainable, [third, id])
    erase(trainable, third)
    with pytest.raises(Invalid, match="nothing to train on"):
        distilled(trainable)


def test_the_pieces_of_a_long_text_are_learned_and_not_the_whole(trainable: MemOS) -> None:
    text = "\n\n".join(f"Lamp number {n} is kept behind door {n}. " * 12 for n in range(12))
    whole = say(trainable, text, cube="long")
    with pytest.raises(Invalid, match="its pieces"):
        trainable.distil(Distil("long", (whole,)), ME)
    assert whole not in {memory.id for memory in chosen(trainable._parts, "long", (), ME)}


def test_what_contradicts_another_memory_is_not_learned_unless_it_is_named(trainable: MemOS) -> None:
    asked = Remember(content="the city of alice is london .", cube="home")
    other = trainable.remember(asked, ME).stored[0]
    assert other.conflicts_with
    unnamed = {memory.id for memory in chosen(trainable._parts, "home", (), ME)}
    assert unnamed == set(ids_of(trainable)) - {other.id, *other.conflicts_with}
    assert [memory.id for memory in chosen(trainable._parts, "home", (other.id,), ME)] == [other.id]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_who_may_not_change_a_cube_trains_nothing_from_it(trainable: MemOS) -> None:
    reader = Caller(Principal("ben", grants=(("home", (Action.READ,)),)))
    with pytest.raises(NotAllowed):
        trainable.distil(request(), reader)
    with pytest.raises(NotFound):
        trainable.distil(request(), Caller(Principal("eve")))
    with pytest.raises(NotFound):
        trainable.distil(request(["m_00000000000000000000"]), ME)
    assert trainable.work(ME) == ()


@pytest.mark.parametrize("more", [{"rank": -1}, {"rank": 10_000}, {"steps": -1}, {"seed": -1}, {"reason": "\x00"}])
def test_a_request_outside_the_bounds_is_refused(trainable: MemOS, more: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        trainable.distil(replace(request(), **more), ME)
    assert trainable.work(ME) == ()


def test_without_a_model_that_can_be_trained_the_reason_is_said(settings: Settings) -> None:
    for change, why in (
        ({}, "no model is configured"),
        ({"model": "http://127.0.0.1:9/v1"}, "remote server"),
        ({"model": "x", "lora": False}, "MEMOS_LORA=0"),
    ):
        with opened(replace(settings, **change)) as memos:
            if not memos.cubes(ME):
                say(memos, "the city of alice is paris .", cube="home")
            with pytest.raises(Unavailable, match=why):
                memos.distil(request(), ME)
            id = queued(memos).id
            assert work(memos, id).state is WorkState.WAITING
            assert why in memos.status(ME).work[0]
            memos.cancel_work(id, ME)


def test_a_training_that_needs_more_memory_than_it_may_is_refused_before_it_begins(
    settings: Settings, latest_wins, clock: HandClock
) -> None:
    with opened(replace(settings, model=str(latest_wins), lora_bytes=10_000), clock) as memos:
        say(memos, "the city of alice is paris .", cube="home")
        with pytest.raises(TooLarge, match="smaller rank"):
            memos.distil(request(), ME)
        nothing_is_left(memos)


# --- what is stopped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
def test_a_cancelled_run_leaves_nothing(trainable: MemOS, share: float) -> None:
    with pytest.raises(Cancelled):
        distilled(trainable, progress=at(share, stop), steps=8)
    nothing_is_left(trainable)
    (view,) = trainable.work(ME)
    assert (view.state, view.told) == (WorkState.CANCELLED, "cancelled")


def test_a_run_in_the_background_is_seen_and_cancelled_from_elsewhere(trainable: MemOS) -> None:
    id = queued(trainable, steps=ENDLESS).id
    until(lambda: "training" in work(trainable, id).message, "it trains")
    assert f"distil of cube 'home' ({id}) is under way: " in trainable.status(ME).work[0]
    with pytest.raises(Busy, match=f"this very training is under way already, as {id}: .*tier work"):
        distilled(trainable)
    assert trainable.cancel_work(id, ME).state is WorkState.CANCELLED
    nothing_is_left(trainable)
    assert distilled(trainable, steps=1).version == 1


def test_what_is_asked_again_while_it_waits_is_not_done_twice(trainable: MemOS) -> None:
    first = queued(trainable, steps=ENDLESS)
    again, other = queued(trainable, steps=ENDLESS), queued(trainable, steps=ENDLESS, seed=1)
    assert again.id == first.id != other.id
    for id in (other.id, first.id):
        trainable.cancel_work(id, ME)
    nothing_is_left(trainable)


def test_what_a_training_has_when_its_store_is_closed_is_gone_on_from(trainable: MemOS) -> None:
    settings = trainable._parts.vault.settings
    id = queued(trainable, steps=ENDLESS).id
    until(lambda: files_of(settings.checkpoints_folder), "there is a checkpoint")
    trainable.close()
    (left,) = files_of(settings.checkpoints_folder)
    assert left.startswith(id)
    with opened(replace(settings, model=None)) as memos:
        assert files_of(settings.checkpoints_folder) == [left]
        assert (work(memos, id).state, work(memos, id).attempts) == (WorkState.WAITING, 0)
        erase(memos, ids_of(memos)[0])  # it learned of it
        assert files_of(settings.checkpoints_folder) == []
    with opened(settings) as memos:
        until(lambda: "training" in work(memos, id).message, "it goes on")
        assert len(memos._distilling._run.sources) == 2  # type: ignore[union-attr]
        assert memos.cancel_work(id, ME).state is WorkState.CANCELLED
        nothing_is_left(memos)


def test_neither_cancelling_nor_closing_waits_for_replies_that_go_first(trainable: MemOS) -> None:
    id = queued(trainable, steps=ENDLESS).id
    until(lambda: "training" in work(trainable, id).message, "it trains")
    with held_up(trainable):
        assert trainable.cancel_work(id, ME).state is WorkState.CANCELLED
    nothing_is_left(trainable)
    id = queued(trainable, steps=ENDLESS).id
    until(lambda: "training" in work(trainable, id).message, "it trains")
    with held_up(trainable):
        closing = threading.Thread(target=trainable._distilling.close, daemon=True)
        closing.start()
        closing.join(60)
        assert not closing.is_alive()
    assert work(trainable, id).state is WorkState.WAITING


def test_a_memory_that_changes_under_a_training_ends_it_and_nothing_is_kept(trainable: MemOS) -> None:
    first = ids_of(trainable)[0]
    with pytest.raises(Conflict, match="train again"):
        distilled(trainable, progress=at(0.2002, lambda: archive(trainable, first)), steps=ENDLESS)
    nothing_is_left(trainable)
    assert [view.state for view in trainable.work(ME)] == [WorkState.FAILED]


def test_in_the_background_a_training_begins_anew_with_the_memories_that_are_left(trainable: MemOS) -> None:
    first, second, third = ids_of(trainable)
    id = queued(trainable, steps=20).id
    until(lambda: "training" in work(trainable, id).message, "it trains")
    erase(trainable, second)
    assert ended(trainable, id).state is WorkState.DONE
    (view,) = trainable.adapters("home", ME)
    assert [id for id, _ in view.sources] == [first, third]


def test_what_a_checkpoint_learned_of_an_erased_memory_is_gone_when_the_call_returns(trainable: MemOS) -> None:
    folder = trainable._parts.vault.settings.checkpoints_folder
    id = queued(trainable, steps=ENDLESS).id
    until(lambda: files_of(folder) != [], "there is a checkpoint")
    run = trainable._distilling._run
    assert run is not None
    erase(trainable, ids_of(trainable)[0])
    run.checkpoint.write(b"again")  # as the step that is under way may do
    assert not (folder / f"{id}.safetensors").exists()
    trainable.cancel_work(id, ME)


def test_a_cube_that_goes_ends_its_training(trainable: MemOS) -> None:
    id = queued(trainable, steps=ENDLESS).id
    until(lambda: "training" in work(trainable, id).message, "it trains")
    trainable.delete_cube("home", ME)
    until(lambda: trainable._distilling._run is None, "it ends")
    assert trainable.work(ME) == ()
    assert trainable._parts.vault.rows("SELECT count(*) FROM artifacts") == [(0,)]


def test_two_who_train_at_once_do_not_meet(trainable: MemOS) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(60)

    first = threading.Thread(target=distilled, args=(trainable, (), at(0.3, wait)), daemon=True)
    first.start()
    assert begun.wait(60)
    with pytest.raises(Busy):
        distilled(trainable)
    go_on.set()
    first.join(60)
    assert versions(trainable) == [(1, FAILED)]


# --- what goes with a memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [erase, archive])
def test_an_adapter_that_served_and_lost_a_memory_is_trained_anew_from_the_others(trainable: MemOS, how) -> None:
    first, second, third = ids_of(trainable)
    in_service(trainable, distilled(trainable))
    assert versions(trainable) == [(1, SERVING)]
    assert how(trainable, second).invalidated.lora == 1
    assert versions(trainable)[0] == (1, GONE)
    (view,) = [view for view in trainable.work(ME) if view.what == "retrain"]
    assert ended(trainable, view.id).state is WorkState.DONE
    latest = trainable.adapters("home", ME)[-1]
    assert ([id for id, _ in latest.sources], latest.version) == ([first, third], 2)
    assert "version 2" in work(trainable, view.id).told


def test_no_adapter_is_trained_anew_where_nothing_is_left_or_none_served(trainable: MemOS) -> None:
    every = ids_of(trainable)
    distilled(trainable, steps=1)
    erase(trainable, every[0])  # it rested
    assert [view.what for view in trainable.work(ME)] == ["distil"]
    in_service(trainable, distilled(trainable, every[1:], steps=1))
    erase(trainable, *every[1:])
    assert [view.what for view in trainable.work(ME)] == ["distil", "distil"]


def test_a_version_that_was_made_meanwhile_is_not_trained_over(trainable: MemOS) -> None:
    first, second, _ = ids_of(trainable)
    in_service(trainable, distilled(trainable, [first, second], steps=1))
    held = trainable._distilling.working.kinds.pop("retrain")
    erase(trainable, first)
    (view,) = [view for view in trainable.work(ME) if view.what == "retrain"]
    in_service(trainable, distilled(trainable, steps=1))
    trainable._distilling.working.kinds["retrain"] = held
    trainable._distilling.working.wake()
    assert ended(trainable, view.id).told.startswith("another version serves by now")
    assert [version for version, _ in versions(trainable)] == [1, 2]
