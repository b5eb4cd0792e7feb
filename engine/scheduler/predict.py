"""Next-scene prediction: which memories will be needed next, and which of them to preload into so many bytes.

A small logistic regression over the numbers of `engine.scheduler.scenes`, fitted to the user's own log of uses: for
each turn of the past, what was needed next and what was not. It starts from weights that say what anybody would guess
(what was used lately, what goes with what was just used, what is like what was asked), and moves away from them as
far as the log speaks (a Gaussian prior around them; Newton's method, so no step size, no seed that matters, the same
log gives the same weights).

How it is to be wired: one `Predictor` for each principal, over the few thousand memories that were stored or used last
(a shelf of 10,000 takes some 50 ms a turn); each recall or chat turn is learned, then `preload` names what the planner
gets as `Unit.chance` and `chance_reason`; `fit` runs in the background once a day over the log of uses, and the model
(some twenty numbers) is kept with the vault's other rebuildable things. Erasing a memory takes it out of the log.

Knows no KV cache, no store and no clock. What must stay true: nothing is fitted to what came later than the turn that
is predicted; a choice never exceeds its bytes; without a log the prediction is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from engine.scheduler.scenes import FEATURES, Habits, Numbers, Places, Shelf, Turn

START = {
    "used lately": 1.0,
    "used often": 0.5,
    "heat": 0.5,
    "new": 0.5,
    "among the latest stored or used": 3.0,
    "used together": 1.0,
    "used after": 1.0,
    "from the same conversation": 1.0,
    "near in the conversation": 1.0,
    "like what was asked last": 2.0,
    "like what the session is about": 2.0,
    "like what was used last": 1.0,
}
"""What is believed of each feature before the log has spoken; the others: nothing."""

START_LEVEL = -5.0  # log odds of a memory that nothing speaks for
PRIOR_STRENGTH = 2.0  # how much the log must say before it moves a weight by 1
MOST_TURNS = 2_000  # the latest ones are fitted to
OTHERS_PER_TURN = 200  # of what was not needed, drawn at random (seeded), each counting for as many as it stands for
MOST_EXPECTED = 2_000  # that many are named; what is less likely is not worth loading
NEWTON_STEPS = 25
ENOUGH = 1e-6


@dataclass(frozen=True, slots=True)
class Model:
    """Log odds = level + weights · features. `turns`: how many it was fitted to."""

    weights: tuple[float, ...] = tuple(START.get(name, 0.0) for name in FEATURES)
    level: float = START_LEVEL
    turns: int = 0

    def chances(self, features: Numbers) -> Numbers:
        """The chance of each memory [candidates] to be needed in the next turn."""
        return _sigmoid(features @ np.asarray(self.weights) + self.level)


BELIEF = Model()
"""The model before any log."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A memory that may be needed next: the chance, and the feature that speaks most for it."""

    id: str
    chance: float
    why: str


class Predictor:
    """Follows the log and says what may be needed next. Used from one thread."""

    def __init__(self, shelf: Shelf, model: Model = BELIEF) -> None:
        self.habits = Habits(shelf)
        self.model = model

    def begin(self, session: str) -> None:
        self.habits.begin(session)

    def learn(self, turn: Turn) -> None:
        self.habits.learn(turn)

    def expected(self, now: datetime, among: Collection[str] | None = None) -> list[Expected]:
        """What may be needed next, likeliest first; `among` narrows it to what can be preloaded."""
        places = self.habits.present(now)
        items = self.habits.shelf.items
        if among is not None:
            places = places[[items[place].id in among for place in places]]
        if not len(places):
            return []
        features = self.habits.features(now, places)
        chances = self.model.chances(features)
        shares = (features - features.mean(axis=0)) * np.asarray(self.model.weights)
        order = np.lexsort((places, -chances))
        return [Expected(items[places[at]].id, float(chances[at]), FEATURES[int(shares[at].argmax())]) for at in order]

    def preload(self, now: datetime, budget_bytes: int, among: Collection[str] | None = None) -> list[Expected]:
        """What to hold ready within so many bytes."""
        return within(self.expected(now, among), self.habits.shelf, budget_bytes)


def within(expected: Iterable[Expected], shelf: Shelf, budget_bytes: int) -> list[Expected]:
    """The likeliest that fit. Prefill saved is in proportion to bytes, so by chance and not by chance ÷ bytes."""
    chosen = []
    for one in expected:
        size = shelf.items[shelf.place[one.id]].bytes
        if size <= budget_bytes:
            chosen.append(one)
            budget_bytes -= size
    return chosen


def fit(
    shelf: Shelf,
    log: Sequence[Turn],
    seed: int = 0,
    start: Model = BELIEF,
    ended: Callable[[], bool] = lambda: False,
) -> Model:
    """The model that the log speaks for: every turn of it is predicted from what came before.

    `log` is in order of time. A turn in which nothing was used teaches nothing, but belongs to the session. `ended` is
    asked at each turn and each step; from when it says so, nobody wants the model, and it is the one to start with.
    """
    habits = Habits(shelf)
    random = np.random.default_rng(seed)
    rows, needed, counts = [], [], []
    for number, turn in enumerate(log):
        if ended():
            return start
        habits.begin(turn.session)
        if turn.used and number >= len(log) - MOST_TURNS:
            places, weights = _drawn(habits, turn, random)
            rows.append(habits.features(turn.at, places))
            used = {shelf.place[id] for id in turn.used if id in shelf.place}
            needed.append(np.array([place in used for place in places], dtype=np.float64))
            counts.append(weights)
        habits.learn(turn)
    if not rows:
        return start
    weights = _fitted(np.concatenate(rows), np.concatenate(needed), np.concatenate(counts), start, ended)
    return start if ended() else Model(tuple(float(weight) for weight in weights[:-1]), float(weights[-1]), len(rows))


def _drawn(habits: Habits, turn: Turn, random: np.random.Generator) -> tuple[Places, Numbers]:
    """The memories that a turn teaches about: all that it used, and some of the others, each for so many."""
    places = habits.present(turn.at)
    used = np.isin(places, [habits.shelf.place[id] for id in turn.used if id in habits.shelf.place])
    others = places[~used]
    drawn = others if len(others) <= OTHERS_PER_TURN else random.choice(others, OTHERS_PER_TURN, replace=False)
    weight = len(others) / max(1, len(drawn))
    return (
        np.concatenate([places[used], np.sort(drawn)]),
        np.concatenate([np.ones(int(used.sum())), np.full(len(drawn), weight)]),
    )


def _fitted(rows: Numbers, needed: Numbers, counts: Numbers, start: Model, ended: Callable[[], bool]) -> Numbers:
    """Newton's method on the penalised log likelihood; it is concave, so this is its one maximum."""
    rows = np.column_stack([rows, np.ones(len(rows))])
    belief = np.array([*start.weights, start.level])
    strength = np.full(len(belief), PRIOR_STRENGTH)
    strength[-1] = ENOUGH  # the level is what it is
    weights = belief.copy()
    value = _likelihood(rows, needed, counts, weights, belief, strength)
    for _ in range(NEWTON_STEPS):
        if ended():
            break
        chances = _sigmoid(rows @ weights)
        slope = rows.T @ (counts * (needed - chances)) - strength * (weights - belief)
        curve = (rows * (counts * chances * (1 - chances))[:, None]).T @ rows + np.diag(strength)
        step = np.linalg.solve(curve, slope)
        while (better := _likelihood(rows, needed, counts, weights + step, belief, strength)) < value:
            step = step / 2
            if np.abs(step).max() < ENOUGH:
                return weights
        weights, value = weights + step, better
        if np.abs(step).max() < ENOUGH:
            break
    return weights


def _likelihood(
    rows: Numbers, needed: Numbers, counts: Numbers, weights: Numbers, belief: Numbers, strength: Numbers
) -> float:
    odds = rows @ weights
    fits = counts * (needed * odds - np.logaddexp(0, odds))
    return float(fits.sum() - (strength * (weights - belief) ** 2).sum() / 2)


def _sigmoid(odds: Numbers) -> Numbers:
    return np.asarray(0.5 * (1 + np.tanh(odds / 2)), dtype=np.float64)
