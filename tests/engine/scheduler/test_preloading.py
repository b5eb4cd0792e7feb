"""Prediction and plan together: what is predicted is in RAM when it is needed, within the budget."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.session_logs import PEOPLE, SessionLog, generated
from engine.scheduler.heat import Use as Used
from engine.scheduler.heat import after as heated
from engine.scheduler.moves import Budgets, Level, State, Unit, after, by_id
from engine.scheduler.plan import plan
from engine.scheduler.predict import Predictor, fit
from engine.scheduler.scenes import Turn

SESSIONS, TAUGHT = 36, 24
SHARE = 0.1  # of the bytes of all memories


def hits(log: SessionLog, *, predicting: bool) -> float:
    """The share of what was needed that the plan had in RAM, on the sessions that are held out."""
    known = set(log.sessions[:TAUGHT])
    past = [turn for turn in log.turns if turn.session in known]
    predictor = Predictor(log.shelf, fit(log.shelf, past))
    kept = [Unit(item.id, "c", item.created_at, Level.KV, kv_bytes=1, ram_bytes=item.bytes) for item in log.shelf.items]
    state, budgets = State(by_id(kept)), Budgets(int(log.bytes * SHARE), 0, len(kept))
    found = []
    for turn in log.turns:
        predictor.begin(turn.session)
        if turn.session not in known:
            chances = {one.id: one.chance for one in predictor.expected(turn.at)} if predicting else {}
            units = {id: replace(unit, chance=chances.get(id, 0.0)) for id, unit in state.units.items()}
            state = replace(state, units=units)
            state = after(state, plan(state, budgets, turn.at).moves, turn.at)
            assert state.used().ram_bytes <= budgets.ram_bytes
            found += [state.units[id].level is Level.RAM for id in turn.used]
        predictor.learn(turn)
        state = used(state, turn)
    return sum(found) / len(found)


def used(state: State, turn: Turn) -> State:
    units = dict(state.units)
    for id in turn.used:
        units[id] = replace(units[id], heat=heated(units[id].heat, Used(id, turn.at)))
    return replace(state, units=units)


def test_a_plan_that_knows_what_is_expected_has_ready_much_more_than_one_that_knows_only_heat() -> None:
    log = generated(next(person for person in PEOPLE if person.name == "topics"), sessions=SESSIONS)
    with_prediction, without = hits(log, predicting=True), hits(log, predicting=False)
    assert with_prediction >= 0.5
    assert with_prediction >= 2 * without
