"""Long work is done once, one piece after the other, and outlives the process that was to do it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from cubes import Action
from engine.cube_operations import SetCube
from engine.distilling import Kind, Task
from engine.distilling.working import MOST_TOLD
from engine.errors import Busy, Cancelled, Conflict, Invalid, NotFound, Unavailable
from engine.memos import MemOS
from engine.operations import Caller, Principal
from engine.scheduling.state import trainings
from engine.settings import Settings
from engine.tier_operations import WorkState, WorkView
from engine.vault import Transaction, work
from engine.vault.work import MOST_ATTEMPTS, WorkRow, all_work, put_work
from tests.conftest import HandClock, until
from tests.engine.stores import ME, opened, say

HOLDS = "hold"


def anything(task: Task) -> str:
    task.tell(1, 2, "half of it")
    return f"did {task.row.header['thing']}"


def kind(run=anything, waits=lambda: None) -> Kind:
    return Kind(run, waits)


def asked(memos: MemOS, what: str, cube: str = "home", **header: object) -> str:
    working = memos._distilling.working
    return memos._parts.vault.write(lambda transaction: working.ask(transaction, what, cube, header).id, ME)


def of(memos: MemOS, id: str) -> WorkView:
    return next(view for view in memos.work(ME) if view.id == id)


def ended(memos: MemOS, id: str) -> WorkView:
    until(lambda: of(memos, id).ended_at is not None, f"{id} ends")
    return of(memos, id)


@contextmanager
def holding(memos: MemOS) -> Iterator[str]:
    """A piece of work that is under way until it is told to stop."""
    begun = threading.Event()

    def hold(task: Task) -> str:
        begun.set()
        while True:
            task.tell(3, 10, "holding on")
            task.closing.wait(0.001)

    memos._distilling.working.kinds[HOLDS] = kind(hold)
    id = asked(memos, HOLDS)
    assert begun.wait(60)
    yield id


@pytest.fixture(autouse=True)
def home(memos: MemOS) -> None:
    memos.set_cube(SetCube("home"), ME)


def test_work_is_done_in_the_order_in_which_it_was_asked_for(memos: MemOS) -> None:
    done: list[str] = []

    def run(task: Task) -> str:
        done.append(str(task.row.header["thing"]))
        return anything(task)

    with holding(memos) as first:
        memos._distilling.working.kinds["some"] = kind(run)
        ids = [asked(memos, "some", thing=thing) for thing in ("one", "two", "three")]
        memos.cancel_work(first, ME)
    views = [ended(memos, id) for id in ids]
    assert done == ["one", "two", "three"]
    assert [(view.state, view.told) for view in views] == [(WorkState.DONE, f"did {thing}") for thing in done]


def test_what_fails_says_why_and_the_next_goes_on(memos: MemOS) -> None:
    def fails(task: Task) -> str:
        raise Invalid("there is no such lamp: name another one")

    def breaks(task: Task) -> str:
        return str(1 // 0)

    kinds = memos._distilling.working.kinds
    kinds |= {"fails": kind(fails), "breaks": kind(breaks), "some": kind()}
    ids = [asked(memos, what, thing="it") for what in ("fails", "breaks", "some")]
    told = [(view.state, view.told) for view in (ended(memos, id) for id in ids)]
    assert told == [
        (WorkState.FAILED, "there is no such lamp: name another one"),
        (WorkState.FAILED, "it failed (ZeroDivisionError)"),
        (WorkState.DONE, "did it"),
    ]
    failed = [line for line in memos.status(ME).work if "failed" in line]
    assert len(failed) == 2
    assert "no such lamp" in failed[0]


def test_what_is_under_way_and_what_waits_can_be_seen(memos: MemOS) -> None:
    memos._distilling.working.kinds["later"] = kind(waits=lambda: "the moon is not up")
    with holding(memos) as id:
        later = asked(memos, "later", reason="for the tide")
        until(lambda: of(memos, id).message, "it says how far it is")
        view = of(memos, id)
        assert (view.state, view.done, view.total, view.message) == (WorkState.RUNNING, 3, 10, "holding on")
        assert memos.at_work
        assert (of(memos, later).message, of(memos, later).reason) == ("the moon is not up", "for the tide")
        assert memos.status(ME).work == (
            f"hold of cube 'home' ({id}) is under way: 30%, holding on",
            f"later of cube 'home' ({later}) waits: the moon is not up",
        )
        memos.cancel_work(id, ME)


def test_work_that_is_under_way_is_cancelled_and_has_ended_when_the_call_returns(memos: MemOS) -> None:
    with holding(memos) as id:
        assert memos.cancel_work(id, ME).state is WorkState.CANCELLED
    assert not memos.at_work
    with pytest.raises(Conflict, match="is over"):
        memos.cancel_work(id, ME)


def test_work_that_waits_is_cancelled_and_never_begins(memos: MemOS) -> None:
    done = threading.Event()
    with holding(memos) as first:
        memos._distilling.working.kinds["some"] = kind(lambda task: str(done.set()))
        id = asked(memos, "some")
        assert memos.cancel_work(id, ME).state is WorkState.CANCELLED
        last = asked(memos, "some")
        assert not done.is_set()
        memos.cancel_work(first, ME)
    ended(memos, last)
    assert of(memos, id).attempts == 0


def test_what_cannot_be_done_at_the_moment_is_tried_again_and_given_up_in_the_end(memos: MemOS) -> None:
    times: list[int] = []

    def run(task: Task) -> str:
        times.append(task.row.attempts)
        raise Busy("in use") if len(times) < 3 else Unavailable("there is no model")

    working = memos._distilling.working
    working.kinds["some"] = kind(run)
    id = asked(memos, "some")

    def again() -> bool:
        working._put_off.clear()
        working.wake()
        return of(memos, id).ended_at is not None

    until(again, "it is given up")
    assert times == [1, 1, 1, 2, 3]  # being in use is no attempt
    assert of(memos, id).told == "there is no model"


def test_work_of_a_caller_who_waits_is_seen_and_stopped_like_any_other(memos: MemOS) -> None:
    working, seen = memos._distilling.working, list[str]()

    def run(task: Task) -> str:
        seen.append(of(memos, task.row.id).state.value)
        threading.Thread(target=memos.cancel_work, args=(task.row.id, ME), daemon=True).start()
        until(task.cancelled.is_set, "it is cancelled")
        task.tell(1, 2, "too late")
        return "never"

    with pytest.raises(Cancelled):
        working.now("some", "home", {}, ME, lambda *_: None, run)
    assert seen == ["running"]
    assert [view.state for view in memos.work(ME)] == [WorkState.CANCELLED]


def test_a_caller_who_waits_is_told_what_went_wrong(memos: MemOS) -> None:
    def run(task: Task) -> str:
        raise Busy("in use")

    with pytest.raises(Busy):
        memos._distilling.working.now("some", "home", {}, ME, lambda *_: None, run)
    assert [(view.state, view.told) for view in memos.work(ME)] == [(WorkState.FAILED, "in use")]


def test_only_who_may_change_a_cube_sees_and_stops_its_work(memos: MemOS) -> None:
    def who(*actions: Action) -> Caller:
        return Caller(Principal("ben", grants=(("home", actions),)))

    id = asked(memos, "nobody does this", reason="mine")
    reader, writer, stranger = who(Action.READ), who(Action.WRITE), Caller(Principal("eve"))
    for caller in (reader, stranger):
        assert memos.work(caller) == ()
        assert memos.status(caller).work == ()
        with pytest.raises(NotFound):
            memos.cancel_work(id, caller)
    assert [view.id for view in memos.work(writer)] == [id]
    assert memos.cancel_work(id, writer).state is WorkState.CANCELLED


def test_work_goes_with_its_cube(memos: MemOS) -> None:
    id = asked(memos, "nobody does this")
    memos.delete_cube("home", ME)
    assert memos.work(ME) == ()
    with pytest.raises(NotFound):
        memos.cancel_work(id, ME)


def test_a_cube_that_goes_while_its_work_is_done_takes_the_work_along(memos: MemOS) -> None:
    with holding(memos) as id:
        memos.delete_cube("home", ME)
        with pytest.raises(NotFound):
            memos.cancel_work(id, ME)
    until(lambda: memos._distilling.working._running == {}, "it has ended")
    assert memos.work(ME) == ()


# --- over the end of a process ---------------------------------------------------------------------------------


def test_work_that_is_under_way_when_a_store_is_closed_waits_for_the_next_opening(
    settings: Settings, clock: HandClock
) -> None:
    closed = replace(settings, data=settings.data.with_name("closed"))
    with opened(closed, clock) as memos:
        say(memos, "Here.", cube="home")
        with holding(memos) as id:
            pass
    with opened(closed, clock) as memos:
        assert (of(memos, id).state, of(memos, id).attempts) == (WorkState.WAITING, 0)
        memos._distilling.working.kinds[HOLDS] = kind(lambda task: "at last")
        memos._distilling.working.wake()
        assert ended(memos, id).told == "at last"


def test_what_was_cut_off_is_said_and_given_up_after_some_attempts(settings: Settings, clock: HandClock) -> None:
    killed = replace(settings, data=settings.data.with_name("killed"))
    with opened(killed, clock) as memos:
        say(memos, "Here.", cube="home")
        id = asked(memos, "some", thing="it")
    for attempts in range(1, MOST_ATTEMPTS + 1):
        with opened(killed, clock) as memos:  # as a process leaves it that is killed in the midst of it

            def begin(transaction) -> None:
                (row,) = all_work(transaction.connection)
                put_work(transaction, replace(row, state=WorkState.RUNNING, attempts=row.attempts + 1))

            memos._parts.vault.write(begin, ME)
        with opened(killed, clock) as memos:
            view, (line,) = of(memos, id), memos.status(ME).work
            if attempts < MOST_ATTEMPTS:
                assert view.state is WorkState.WAITING
                assert "it was cut off when the process ended, and goes on" in line
            else:
                assert (view.state, "ask for it again" in line) == (WorkState.FAILED, True)


def test_what_became_of_old_work_is_forgotten(settings: Settings, clock: HandClock) -> None:
    old = replace(settings, data=settings.data.with_name("old"))
    with opened(old, clock) as memos:
        say(memos, "Here.", cube="home")
        memos._distilling.working.kinds["some"] = kind()
        ended(memos, asked(memos, "some", thing="it"))
    clock.instant += timedelta(days=31)
    with opened(old, clock) as memos:
        assert memos.work(ME) == ()


# --- however much there is -------------------------------------------------------------------------------------


def many(memos: MemOS, count: int, state: WorkState = WorkState.WAITING, what: str = "nobody does this") -> None:
    """Work in a state; what ended did so a second after the piece before it."""

    def put(transaction: Transaction) -> None:
        for number in range(count):
            at = transaction.now + timedelta(seconds=number)
            ended = None if state is WorkState.WAITING else at
            put_work(transaction, WorkRow(f"w_many{state}{number:05}", "home", what, state, {}, 0, at, None, ended))

    memos._parts.vault.write(put, ME)


def test_the_status_tells_of_a_few_and_counts_the_others(memos: MemOS) -> None:
    many(memos, 300)
    many(memos, MOST_TOLD + 1, WorkState.FAILED)
    lines = memos.status(ME).work
    assert len(lines) == 2 * MOST_TOLD + 2
    assert lines[MOST_TOLD].startswith(f"and {300 - MOST_TOLD} more waiting")
    assert lines[-1].startswith("and 1 more that failed")
    assert memos.status(Caller(Principal("eve"))).work == ()
    assert len(memos.work(ME)) == 300 + MOST_TOLD + 1


def test_one_piece_of_work_is_done_without_reading_what_is_said_of_the_others(memos: MemOS) -> None:
    many(memos, 3)
    many(memos, 3, WorkState.DONE)

    def damage(transaction: Transaction) -> None:
        transaction.execute("UPDATE work SET header = 'no JSON'")

    memos._parts.vault.write(damage, ME)
    memos._distilling.working.kinds["some"] = kind()
    id = asked(memos, "some", thing="it")
    until(lambda: memos._distilling.working.view(id).state is WorkState.DONE, "it is done")
    assert memos.cancel_work(asked(memos, "nobody does this"), ME).state is WorkState.CANCELLED
    with memos._parts.vault.reading() as connection:
        assert trainings(connection, memos._parts.clock.now())[0] == ()


def test_old_ends_are_forgotten_while_the_store_is_open(
    memos: MemOS, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MOST_ENDED", 2)
    many(memos, 5, WorkState.DONE)
    many(memos, 2, WorkState.FAILED, "another kind")
    many(memos, 3)
    memos.sweep()
    left = [(view.state, view.id[-1]) for view in memos.work(ME) if view.ended_at is not None]
    assert sorted(left) == [("done", "3"), ("done", "4"), ("failed", "0"), ("failed", "1")]
    assert sum(view.state is WorkState.WAITING for view in memos.work(ME)) == 3
    clock.instant += timedelta(days=31)
    memos.sweep()
    assert [view.state for view in memos.work(ME)] == [WorkState.WAITING] * 3
