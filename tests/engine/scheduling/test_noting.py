"""What is used becomes heat and scenes, in batches; what is erased is in neither."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.memos import MemOS
from engine.operations import Caller, Fuse, Principal
from engine.scheduling.noting import SESSION_PAUSE
from engine.settings import Settings
from engine.vault.heat import SCENES_KEPT, SceneRow, heat_of, put_scenes, scenes
from tests.conftest import HandClock
from tests.engine.stores import ME, ask, erase, opened, say

CAR, DOG = "The car is parked behind the old mill.", "The dog eats at seven in the evening."


def heat(memos: MemOS, id: str) -> tuple[float, int]:
    with memos._parts.vault.reading() as connection:
        row = heat_of(connection, [id]).get(id)
    return (0.0, 0) if row is None else (row.fast, row.uses)


def log(memos: MemOS) -> list[SceneRow]:
    with memos._parts.vault.reading() as connection:
        return scenes(connection)


def test_what_is_found_and_opened_gets_warm_and_cools(memos: MemOS, clock: HandClock) -> None:
    car = say(memos, CAR)
    ask(memos, "where is the car parked?")
    memos.memory(car, ME)
    assert heat(memos, car) == (0.0, 0)  # written later, with others
    memos.run_scheduler(ME)
    assert heat(memos, car) == (1.5, 2)
    clock.pass_by(days=1)
    ask(memos, "where is the car parked?")
    memos.run_scheduler(ME)
    assert heat(memos, car) == (pytest.approx(1.25), 3)


def test_what_stands_for_several_is_as_warm_as_they_were_together(memos: MemOS) -> None:
    car, dog = say(memos, CAR), say(memos, DOG)
    for id in (car, car, dog):
        memos.memory(id, ME)
    memos.run_scheduler(ME)
    fused = memos.fuse(Fuse(ids=(car, dog)), ME).id
    assert fused is not None
    assert heat(memos, fused) == (3.0, 3)


def test_a_recall_of_the_past_or_one_that_finds_nothing_is_no_use(memos: MemOS, clock: HandClock) -> None:
    car = say(memos, CAR)
    then = clock.now()
    clock.pass_by(hours=1)
    ask(memos, "where is the car parked?", as_of=then)
    ask(memos, "zzz")
    memos.run_scheduler(ME)
    assert heat(memos, car) == (0.0, 0)
    assert log(memos) == []


def test_turns_of_one_caller_without_a_pause_are_one_session(memos: MemOS, clock: HandClock) -> None:
    say(memos, CAR)
    other = Caller(Principal("guest", owner=True))
    for caller, pause in ((ME, SESSION_PAUSE / 2), (ME, SESSION_PAUSE / 2), (other, SESSION_PAUSE * 2), (ME, None)):
        ask(memos, "where is the car parked?", caller)
        if pause is not None:
            clock.pass_by(seconds=pause.total_seconds())
    memos.run_scheduler(ME)
    sessions = [scene.session for scene in log(memos)]
    assert sessions[0] == sessions[1]
    assert len(set(sessions)) == 3
    assert [session.partition("|")[0] for session in sessions] == ["owner", "owner", "guest", "owner"]


def test_what_is_erased_is_in_no_heat_and_no_scene_though_it_waited_to_be_written(memos: MemOS) -> None:
    car, dog = say(memos, CAR), say(memos, DOG)
    ask(memos, "where is the car parked?")
    memos.run_scheduler(ME)
    ask(memos, "where is the car parked?")
    ask(memos, "when does the dog eat?")
    erase(memos, car)
    memos.run_scheduler(ME)
    assert heat(memos, car) == (0.0, 0)
    assert [scene.used for scene in log(memos)] == [(dog,)]


def test_the_log_is_bounded_and_names_only_what_is_there(memos: MemOS, clock: HandClock) -> None:
    car = say(memos, CAR)
    many = [SceneRow(clock.now(), f"s{number}", (car,)) for number in range(SCENES_KEPT + 10)]
    gone = SceneRow(clock.now(), "gone", (car, "m_GONE"))
    memos._parts.vault.write(lambda transaction: put_scenes(transaction, [*many, gone]), ME)
    kept = log(memos)
    assert len(kept) == SCENES_KEPT
    assert kept[-1].session == f"s{SCENES_KEPT + 9}"


def test_nothing_is_noted_where_all_of_the_scheduler_is_off(settings: Settings, clock: HandClock) -> None:
    with opened(replace(settings, scheduler=()), clock) as memos:
        car = say(memos, CAR)
        ask(memos, "where is the car parked?")
        memos.sweep()
        assert heat(memos, car) == (0.0, 0)
        assert log(memos) == []


def test_vectors_of_what_was_asked_are_kept_with_it(dense: MemOS) -> None:
    say(dense, CAR)
    ask(dense, "where is the car parked?")
    dense.run_scheduler(ME)
    (scene,) = log(dense)
    assert scene.vector is not None
    assert len(scene.vector) == 4 * (dense._parts.embeddings.dimension or 0)
