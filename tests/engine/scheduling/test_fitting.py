"""Weights are fitted to the log while everything else goes on, and what is erased meanwhile is in none of them."""

from __future__ import annotations

import random
from datetime import timedelta

from engine.memos import MemOS
from engine.operations import Facts, Remember, Turn
from engine.settings import Settings
from engine.vault.heat import SceneRow, put_scenes
from tests.conftest import HandClock, until
from tests.engine.stores import ME, erase, opened

MEMORIES, TURNS, USED = 400, 400, 10  # of so many, fitting takes a second or more


def logged(memos: MemOS) -> list[str]:
    """A long log of uses, which is read; the memories in it."""
    said = tuple(Turn("user", f"Thing {number} lies on shelf {number}.") for number in range(MEMORIES))
    ids = [one.id for one in memos.remember(Remember(messages=said, facts=Facts.NONE), ME).stored]
    chance, now = random.Random(2), memos._parts.clock.now()
    log = [
        SceneRow(now - timedelta(minutes=3 * (TURNS - number)), f"owner|x|{number // 10}", _some(chance, ids), None)
        for number in range(TURNS)
    ]
    memos._parts.vault.write(lambda t: put_scenes(t, log), ME)
    memos._scheduling._predicting.refresh()
    return ids


def begin(memos: MemOS) -> None:
    """Have weights fitted to it, as after a reply."""
    memos._scheduling._fit_due = True
    memos._scheduling._begin()
    until(lambda: memos._scheduling._predicting._fitted_at, "the fit began")


def _some(chance: random.Random, ids: list[str]) -> tuple[str, ...]:
    return tuple(chance.sample(ids, USED))


def fitted(memos: MemOS) -> int:
    return memos._scheduling._predicting.fitted_turns


def test_nobody_waits_while_weights_are_fitted(settings: Settings, clock: HandClock) -> None:
    with opened(settings, clock) as memos:
        logged(memos)
        begin(memos)
        memos.scheduler_log(ME)
        memos.sweep()
        assert fitted(memos) == 0  # it goes on
        until(lambda: fitted(memos) == TURNS, "the weights are used")


def test_closing_ends_a_fit(settings: Settings, clock: HandClock) -> None:
    with opened(settings, clock) as memos:
        logged(memos)
        begin(memos)
    assert fitted(memos) == 0


def test_weights_that_were_fitted_to_what_is_erased_by_now_are_not_used(memos: MemOS) -> None:
    ids = logged(memos)
    predicting, now = memos._scheduling._predicting, memos._parts.clock.now()
    fitting = predicting.to_fit(now)
    assert fitting is not None
    model = fitting.fitted(lambda: False)
    assert model.turns == TURNS
    erase(memos, ids[0])
    predicting.take(fitting, model)
    assert fitted(memos) == 0
    predicting.refresh()
    again = predicting.to_fit(now)  # to what is left
    assert again is not None
    assert ids[0] not in again.shelf.place
    assert all(ids[0] not in turn.used for turn in again.turns)
    predicting.take(again, again.fitted(lambda: False))
    assert fitted(memos) == len(again.turns)
