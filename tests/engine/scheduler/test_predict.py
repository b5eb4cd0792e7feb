"""What is needed next is learned from the log of uses, and preloaded within so many bytes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler.predict import BELIEF, Predictor, fit, within
from engine.scheduler.scenes import FEATURES, Habits, Item, Shelf, Turn
from tests.conftest import START

COUNT, DIMENSION = 24, 8
random = np.random.default_rng(7)
VECTORS = random.normal(size=(COUNT, DIMENSION)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def shelf(vectors: bool = True, bytes_each: int = 10) -> Shelf:
    items = [Item(f"m_{n}", bytes_each, START - timedelta(days=9), f"talk {n // 4}", n) for n in range(COUNT)]
    return Shelf(items, VECTORS if vectors else None)


def turn(session: int, minute: int, *used: int, asked: int | None = None) -> Turn:
    at = START + timedelta(hours=session, minutes=minute)
    vector = None if asked is None else VECTORS[asked]
    return Turn(f"s_{session}", at, tuple(f"m_{number}" for number in used), vector)


def procedure(sessions: int) -> list[Turn]:
    """Sessions in which 3 is always followed by 17, and 17 by 9, among other things."""
    draw = np.random.default_rng(1)
    log = []
    for session in range(sessions):
        first = int(draw.integers(COUNT))
        log += [turn(session, minute, number) for minute, number in enumerate((first, 3, 17, 9))]
    return log


def test_what_always_follows_is_expected_first_once_the_log_has_shown_it() -> None:
    log = procedure(12)
    predictor = Predictor(shelf(), fit(shelf(), log))
    for past in log:
        predictor.learn(past)
    now = turn(20, 0, 5)
    predictor.learn(now)
    predictor.learn(turn(20, 1, 3))
    first = predictor.expected(now.at + timedelta(minutes=2))[0]
    assert first.id == "m_17"
    assert first.chance > 0.5
    assert first.why in FEATURES


def test_what_is_like_the_question_is_expected_even_without_a_log() -> None:
    predictor = Predictor(shelf())
    predictor.learn(turn(0, 0, asked=11))
    assert predictor.expected(START + timedelta(minutes=1))[0].id == "m_11"


def test_without_an_embedder_uses_alone_still_tell() -> None:
    predictor = Predictor(shelf(vectors=False))
    predictor.learn(turn(0, 0, 13))
    assert [one.id for one in predictor.preload(START + timedelta(minutes=1), 10)] == ["m_13"]


def test_what_a_person_needs_at_an_hour_of_the_day_is_expected_at_that_hour() -> None:
    log = []
    for day in range(40):
        for hour, number in ((0, 2), (6, 21)):
            log.append(turn(24 * day + hour, 0, number))
    predictor = Predictor(shelf(vectors=False), fit(shelf(vectors=False), log))
    for past in log:
        predictor.learn(past)
    for hour, number in ((0, 2), (6, 21)):
        session = 24 * 40 + hour
        predictor.begin(f"s_{session}")
        assert predictor.expected(turn(session, 0).at)[0].id == f"m_{number}"


def test_the_same_log_and_seed_give_the_same_model_and_another_log_another_one() -> None:
    log = procedure(6)
    assert fit(shelf(), log, seed=3) == fit(shelf(), log, seed=3)
    assert fit(shelf(), log) != fit(shelf(), log[:-4])


def test_a_log_without_uses_leaves_the_belief_as_it_was() -> None:
    assert fit(shelf(), [turn(0, 0, asked=1), turn(1, 0)]) == BELIEF
    assert fit(shelf(), []) == BELIEF


def test_uses_of_memories_that_are_gone_teach_nothing_and_break_nothing() -> None:
    log = [replace(one, used=(*one.used, "m_gone")) for one in procedure(6)]
    assert fit(shelf(), log) == fit(shelf(), procedure(6))


def test_features_are_made_of_what_came_before_and_of_nothing_else() -> None:
    log = procedure(5)
    there = np.arange(COUNT)
    short, long = Habits(shelf()), Habits(shelf())
    for past in log[:10]:
        short.learn(past)
    for number, past in enumerate(log):
        if number == 10:
            assert np.array_equal(short.features(log[10].at, there), long.features(log[10].at, there))
        long.learn(past)
    assert not np.array_equal(short.features(log[10].at, there), long.features(log[10].at, there))


def test_a_memory_that_is_not_there_yet_is_not_expected() -> None:
    items = [*shelf().items[:-1], replace(shelf().items[-1], created_at=START + timedelta(days=1))]
    predictor = Predictor(Shelf(items, VECTORS))
    assert f"m_{COUNT - 1}" not in {one.id for one in predictor.expected(START)}
    assert f"m_{COUNT - 1}" in {one.id for one in predictor.expected(START + timedelta(days=2))}


def test_what_comes_later_changes_nothing_that_is_known_of_what_is_there() -> None:
    """The features of a memory do not leak what is stored only afterwards."""
    later = Item("m_later", 10, START + timedelta(days=1), "talk 0", COUNT)
    middle = VECTORS.mean(axis=0)
    known = Habits(Shelf(shelf().items, VECTORS, middle))
    future = Habits(Shelf([*shelf().items, later], np.vstack([VECTORS, VECTORS[:1]]), middle))
    there = np.arange(COUNT)
    assert np.allclose(known.features(START, there), future.features(START, there))


@given(st.integers(0, 400), st.lists(st.integers(1, 60), min_size=COUNT, max_size=COUNT))
def test_a_choice_never_takes_more_than_its_bytes_and_leaves_out_nothing_likelier_that_would_fit(
    budget: int, sizes: list[int]
) -> None:
    items = [replace(item, bytes=size) for item, size in zip(shelf().items, sizes, strict=True)]
    own = Shelf(items, VECTORS)
    predictor = Predictor(own)
    predictor.learn(turn(0, 0, 4, asked=4))
    expected = predictor.expected(START + timedelta(minutes=1))
    chosen = within(expected, own, budget)
    assert sum(own.items[own.place[one.id]].bytes for one in chosen) <= budget
    left = budget
    for one in expected:
        size = own.items[own.place[one.id]].bytes
        assert (one in chosen) == (size <= left)
        left -= size if one in chosen else 0


def test_chances_mean_what_they_say_on_a_log_without_a_pattern() -> None:
    draw = np.random.default_rng(5)
    log = [turn(n // 4, n % 4, int(draw.integers(COUNT))) for n in range(400)]
    model = fit(shelf(vectors=False), log)
    predictor = Predictor(shelf(vectors=False), model)
    for past in log:
        predictor.learn(past)
    total = sum(one.chance for one in predictor.expected(log[-1].at + timedelta(minutes=1)))
    assert total == pytest.approx(1.0, abs=0.4)


def test_what_can_be_preloaded_may_be_narrowed() -> None:
    predictor = Predictor(shelf())
    assert [one.id for one in predictor.expected(START, among={"m_2", "m_4", "m_nowhere"})] in (
        ["m_2", "m_4"],
        ["m_4", "m_2"],
    )
    assert predictor.expected(START, among=()) == []
