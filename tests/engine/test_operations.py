"""At most once: a request that is sent again gets the recorded answer, and stopping one leaves nothing half-done."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.errors import Cancelled, Invalid
from engine.memos import MemOS
from engine.operations import Caller, Forget, Fuse, Mode, Remember, Status, Turn
from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.stores import ME, erase, opened, say, state

AGAIN = Caller(operation="session:7")


def count(memos: MemOS) -> int:
    return sum(1 for _ in memos.export_memories(ME))


def test_a_request_sent_again_is_answered_from_its_record_and_stores_nothing(settings: Settings) -> None:
    with opened(settings) as memos:
        first = memos.remember(Remember(content="The shed needs a new roof."), AGAIN)
        revision = memos.status(ME).revision
        assert memos.remember(Remember(content="The shed needs a new roof."), AGAIN) == first
        assert first.stored[0].status is Status.ADDED
        assert memos.status(ME).revision == revision
    with opened(settings) as memos:
        assert memos.remember(Remember(content="The shed needs a new roof."), AGAIN) == first
        assert count(memos) == 1


def test_other_arguments_under_the_same_operation_are_another_request(memos: MemOS) -> None:
    memos.remember(Remember(content="The shed needs a new roof."), AGAIN)
    other = memos.remember(Remember(content="The shed needs a new door."), AGAIN)
    assert other.stored[0].status is not Status.DUPLICATE
    assert count(memos) == 2


def test_the_same_operation_sent_by_many_threads_at_once_is_carried_out_once(memos: MemOS) -> None:
    request = Remember(messages=(Turn("user", "Ahoy."), Turn("assistant", "Ahoy yourself.")))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: memos.remember(request, AGAIN), range(8)))
    assert len({answer.stored for answer in answers}) == 1
    assert {stored.status for stored in answers[0].stored} == {Status.ADDED}
    assert count(memos) == 2


def test_fusing_and_forgetting_are_carried_out_once_too(memos: MemOS) -> None:
    first, second = say(memos, "The lamp is green."), say(memos, "The coat is blue.")
    fused = memos.fuse(Fuse(ids=(first, second)), Caller(operation="f"))
    assert memos.fuse(Fuse(ids=(first, second)), Caller(operation="f")) == fused
    archived = memos.forget(Forget(ids=(str(fused.id),)), Caller(operation="a"))
    memos.restore(str(fused.id), 1, ME)
    assert memos.forget(Forget(ids=(str(fused.id),)), Caller(operation="a")) == archived
    assert state(memos, str(fused.id)) == "generated"
    token = memos.forget(Forget(ids=(first,), mode=Mode.ERASE), ME).confirm
    erased = memos.forget(Forget(confirm=token), Caller(operation="e"))
    assert memos.forget(Forget(confirm=token), Caller(operation="e")) == erased


def test_a_request_that_was_refused_leaves_no_record(memos: MemOS) -> None:
    with pytest.raises(Invalid):
        memos.fuse(Fuse(ids=("m_1",)), AGAIN)
    first, second = say(memos, "The lamp is green."), say(memos, "The coat is blue.")
    assert memos.fuse(Fuse(ids=(first, second)), AGAIN).id is not None


def test_records_are_kept_for_a_week(memos: MemOS, clock: HandClock) -> None:
    memos.remember(Remember(content="The shed needs a new roof."), AGAIN)
    clock.pass_by(days=6)
    memos.sweep()
    assert memos.remember(Remember(content="The shed needs a new roof."), AGAIN).stored[0].status is Status.ADDED
    clock.pass_by(days=2)
    memos.sweep()
    assert memos.remember(Remember(content="The shed needs a new roof."), AGAIN).stored[0].status is Status.DUPLICATE


def test_the_record_of_an_erased_memory_goes_with_it(memos: MemOS) -> None:
    first = memos.remember(Remember(content="The shed needs a new roof."), AGAIN)
    erase(memos, first.stored[0].id)
    assert memos._parts.vault.rows("SELECT count(*) FROM operations") == [(0,)]


# --- stopping -------------------------------------------------------------------------------------------------------


def stopping_at(step: int) -> Callable[[float, float | None, str], None]:
    calls = iter(range(1_000))

    def progress(done: float, total: float | None, message: str) -> None:
        if next(calls) == step:
            raise Cancelled("stopped by its caller")

    return progress


@pytest.mark.parametrize("step", range(4))
def test_stopping_a_remember_stores_all_of_it_or_nothing(memos: MemOS, step: int) -> None:
    turns = tuple(Turn("user", f"Turn {n} of the story.") for n in range(80))
    with pytest.raises(Cancelled):
        memos.remember(Remember(messages=turns), AGAIN, stopping_at(step))
    assert memos.cubes(ME) == ()
    assert len(memos.remember(Remember(messages=turns), AGAIN).stored) == 80


@pytest.mark.parametrize("step", range(2))
def test_stopping_a_fuse_changes_nothing(memos: MemOS, step: int) -> None:
    first, second = say(memos, "The lamp is green."), say(memos, "The coat is blue.")
    with pytest.raises(Cancelled):
        memos.fuse(Fuse(ids=(first, second)), ME, stopping_at(step))
    assert [state(memos, first), state(memos, second), count(memos)] == ["generated", "generated", 2]


def test_stopping_an_erasure_before_it_began_changes_nothing(memos: MemOS) -> None:
    id = say(memos, "Still here.")
    with pytest.raises(Cancelled):
        memos.forget(Forget(ids=(id,), mode=Mode.ERASE, confirmed=True), ME, stopping_at(0))
    assert state(memos, id) == "generated"


def test_stopping_an_import_leaves_whole_memories_and_the_rest_can_follow(memos: MemOS) -> None:
    records = [{"content": f"Line {n} of the old diary."} for n in range(300)]
    with pytest.raises(Cancelled):
        memos.import_memories(records, ME, stopping_at(0))
    before = count(memos)
    assert memos.verify(ME) == ()
    report = memos.import_memories(records, ME)
    assert (report.added + report.duplicates, report.refused) == (300, [])
    assert report.duplicates == before
    assert count(memos) == 300
