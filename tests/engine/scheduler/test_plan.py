"""The plan keeps its promises on random states, and does what is expected on plain ones."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from cubes import CubePolicy
from engine.lifecycle.states import Step
from engine.scheduler.heat import Event, Heat, after_all
from engine.scheduler.heat import Use as Used
from engine.scheduler.heat import after as heated
from engine.scheduler.moves import (
    RESOURCES,
    WINDOW_S,
    Adapter,
    Budgets,
    Level,
    Part,
    QuietHours,
    State,
    Taken,
    TrainingCost,
    Unit,
    after,
    boundaries_between,
    by_id,
    use_of,
)
from engine.scheduler.plan import LEAST_TRAINED, plan
from tests.conftest import START
from tests.engine.scheduler.states import budgets, moments, parts, random_state, states

STATES = int(os.environ.get("MEMOS_FUZZ_STATES", "120"))  # by hand: 10,000
SIMULATIONS = max(3, STATES // 60)
SIMULATED_STEPS = 150
ROOM = Budgets(1_000, 0, 10_000, 60.0)
OLD = START - timedelta(days=90)


# --- promises -------------------------------------------------------------------------------------------------------


@settings(max_examples=STATES)
@given(states(), budgets(), moments(), parts())
def test_no_move_takes_more_than_the_budgets_at_any_point_of_the_list(
    state: State, limits: Budgets, now: datetime, on: frozenset[Part]
) -> None:
    worst = state.used()
    for move in plan(state, limits, now, on).moves:
        state = after(state, [move], now)
        used = state.used()
        for name in RESOURCES:
            assert getattr(used, name) <= max(getattr(limits, name), getattr(worst, name)), move
        worst = used
    assert state.minutes_used(now) <= max(limits.training_minutes, sum(minutes for _, minutes in state.runs[:3]))


@settings(max_examples=STATES)
@given(states(), budgets(), moments())
def test_an_overdrawn_budget_is_kept_afterwards_but_for_what_is_held(
    state: State, limits: Budgets, now: datetime
) -> None:
    planned = plan(state, limits, now)
    end = after(state, planned.moves, now)
    fixed = end.taken
    for unit in end.units.values():
        if unit.held:
            fixed += use_of(unit, unit.level)
    for cube, adapter in end.adapters.items():
        if any(unit.held for unit in end.members(cube)):
            fixed += Taken(disk_bytes=adapter.bytes)
    for name, shown in RESOURCES.items():
        over = getattr(end.used(), name) - getattr(limits, name)
        assert over <= max(0, getattr(fixed, name) - getattr(limits, name))
        assert (over > 0) == any(remark.startswith(f"{shown} is ") for remark in planned.remarks)


@settings(max_examples=STATES)
@given(states(), budgets(), moments(), parts())
def test_what_is_pinned_or_frozen_is_in_no_move(
    state: State, limits: Budgets, now: datetime, on: frozenset[Part]
) -> None:
    for move in plan(state, limits, now, on).moves:
        assert not any(state.units[id].pinned or state.units[id].frozen for id in move.ids)


@settings(max_examples=STATES)
@given(states(), budgets(), moments(), parts())
def test_planning_again_right_after_executing_gives_nothing(
    state: State, limits: Budgets, now: datetime, on: frozenset[Part]
) -> None:
    end = after(state, plan(state, limits, now, on).moves, now)
    assert plan(end, limits, now, on).moves == ()


@settings(max_examples=STATES)
@given(states(), budgets(), moments(), st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_in_which_memories_are_listed(
    state: State, limits: Budgets, now: datetime, shuffle: random.Random
) -> None:
    shuffled = list(state.units.values())
    shuffle.shuffle(shuffled)
    assert plan(replace(state, units=by_id(shuffled)), limits, now) == plan(state, limits, now)


@settings(max_examples=STATES)
@given(states(), budgets(), moments(), parts())
def test_a_part_that_is_off_does_nothing_and_every_move_says_why(
    state: State, limits: Budgets, now: datetime, on: frozenset[Part]
) -> None:
    for move in plan(state, limits, now, on).moves:
        assert move.part in on
        assert len(move.reason.split()) >= 3
        for id in move.ids:
            crossed = boundaries_between(state.units[id].level, move.to)
            assert Part.PRELOAD in on or move.part is not Part.KV or Level.RAM not in crossed
        state = after(state, [move], now)


@settings(max_examples=STATES)
@given(states(), budgets(), moments())
def test_nothing_is_computed_in_quiet_hours(state: State, limits: Budgets, now: datetime) -> None:
    if limits.is_quiet(now):
        for move in plan(state, limits, now).moves:
            assert move.to is not Level.LORA
            assert not (move.part is Part.KV and move.to > Level.TEXT)


@settings(max_examples=STATES)
@given(states(), moments())
def test_with_room_for_everything_no_move_undoes_another_within_its_window(state: State, now: datetime) -> None:
    plenty = Budgets(10**6, 10**6, 10**6, 10**6)
    for move in plan(state, plenty, now).moves:
        for id in move.ids:
            assert move.step is Step.EXPIRE or not state.units[id].bars(move.to, now), move
        state = after(state, [move], now)


@settings(max_examples=SIMULATIONS)
@given(st.integers(0, 10**6))
def test_over_weeks_of_use_no_boundary_is_crossed_back_within_its_window(seed: int) -> None:
    draw = random.Random(seed)
    state = _population(draw)
    limits = Budgets(draw.choice([100, 300]), draw.choice([0, 100]), draw.choice([200, 600]), 30.0)
    crossed: dict[tuple[str, Level], tuple[bool, datetime]] = {}
    now, moved = START, 0
    for _ in range(SIMULATED_STEPS):
        now += timedelta(seconds=draw.choice([20, 90, 600, 4_000, 40_000, 200_000]))
        state = _used(state, draw, now)
        moves = plan(state, limits, now).moves
        for move in moves:
            for id in move.ids:
                unit = state.units[id]
                for level in boundaries_between(unit.level, move.to):
                    up = move.to > unit.level
                    was_up, at = crossed.get((id, level), (up, now))
                    assert was_up == up or (now - at).total_seconds() >= WINDOW_S[level], move
                    crossed[(id, level)] = (up, now)
            state = after(state, [move], now)
            moved += 1
        used = state.used()
        assert all(getattr(used, name) <= getattr(limits, name) for name in RESOURCES)
        assert state.minutes_used(now) <= limits.training_minutes
    assert moved > 20


def _population(draw: random.Random) -> State:
    made = [
        Unit(
            f"m_{number}",
            draw.choice(["default", "work"]),
            OLD,
            content_bytes=10,
            kv_bytes=draw.randint(1, 30),
            ram_bytes=draw.randint(1, 30),
        )
        for number in range(30)
    ]
    policies = {"default": CubePolicy(decay_days=20.0), "work": CubePolicy(max_memories=14)}
    return State(by_id(made), policies, cost=TrainingCost(1.0, 0.1, 60))


def _used(state: State, draw: random.Random, now: datetime) -> State:
    units = dict(state.units)
    for id in draw.sample(sorted(units), 4):
        if units[id].level > Level.ARCHIVED:
            units[id] = replace(units[id], heat=heated(units[id].heat, Used(id, now, draw.choice(list(Event)))))
    for id, unit in units.items():
        units[id] = replace(unit, chance=draw.choice([0.0, 0.0, 0.0, 0.3]))
    return replace(state, units=units)


# --- what is expected -----------------------------------------------------------------------------------------------


def unit(id: str, uses: int = 0, **about: object) -> Unit:
    heat = after_all(Heat(), [Used(id, START)] * uses)
    made = Unit(id, "default", OLD, heat=heat, content_bytes=10, kv_bytes=100, ram_bytes=100)
    return replace(made, **about)  # type: ignore[arg-type]


def moved(state: State, limits: Budgets = ROOM, now: datetime = START) -> dict[str, Level]:
    return {id: move.to for move in plan(state, limits, now).moves for id in move.ids}


def test_use_lifts_a_memory_from_text_to_disk_to_ram_and_time_takes_it_down_again() -> None:
    state = State(by_id([unit("once", 1), unit("twice", 2), unit("often", 6)]))
    assert moved(state) == {"twice": Level.KV, "often": Level.RAM}
    state = after(state, plan(state, ROOM, START).moves, START)
    assert moved(state, now=START + timedelta(days=3)) == {"often": Level.KV}
    assert moved(state, now=START + timedelta(days=31)) == {"twice": Level.TEXT, "often": Level.TEXT}


def test_what_is_expected_next_is_loaded_before_what_is_only_warm_and_the_reason_names_it() -> None:
    ready = [unit("warm", 5, level=Level.KV), unit("expected", level=Level.KV, chance=0.6, chance_reason="used after")]
    found = plan(State(by_id(ready)), replace(ROOM, ram_bytes=100), START).moves
    assert [(move.ids, move.to) for move in found] == [(("expected",), Level.RAM)]
    assert found[0].reason == "expected next (60%, used after): RAM"


def test_being_expected_alone_builds_no_cache() -> None:
    assert moved(State(by_id([unit("m", chance=0.9)]))) == {}


def test_a_much_warmer_memory_takes_the_place_of_a_colder_one_and_a_little_warmer_one_does_not() -> None:
    old = unit("old", 5, level=Level.RAM)
    for uses, taken in ((8, False), (10, True)):
        state = State(by_id([old, unit("new", uses, level=Level.KV)]))
        expected = {"old": Level.KV, "new": Level.RAM} if taken else {}
        assert moved(state, replace(ROOM, ram_bytes=100)) == expected


def test_a_cut_budget_is_kept_even_where_that_undoes_a_move() -> None:
    fresh = unit("m", 6).at(Level.RAM, START)
    assert moved(State(by_id([fresh])), replace(ROOM, ram_bytes=50)) == {"m": Level.KV}
    assert moved(State(by_id([fresh])), replace(ROOM, disk_bytes=50)) == {"m": Level.TEXT}


def test_a_pinned_memory_that_alone_overdraws_a_budget_is_said_and_left() -> None:
    planned = plan(State(by_id([unit("m", level=Level.RAM, pinned=True)])), Budgets(60, 0, 500), START)
    assert planned.moves == ()
    assert planned.remarks == (
        "RAM is 40 bytes over its budget: what holds it is pinned, frozen or not the scheduler's",
    )


def test_stable_memories_that_are_used_again_and_again_are_trained_together_within_the_minutes() -> None:
    many = [unit(f"m_{number:02}", 9 + number, kv_bytes=0) for number in range(12)]
    state = State(by_id(many), cost=TrainingCost(1.0, 1.0, 100))
    (move,) = plan(state, ROOM, START).moves
    assert (move.to, len(move.ids), move.minutes) == (Level.LORA, 12, 13.0)
    (move,) = plan(state, replace(ROOM, training_minutes=10.0), START).moves
    assert (len(move.ids), move.minutes) == (9, 10.0)
    assert "m_00" not in move.ids
    assert plan(state, replace(ROOM, training_minutes=LEAST_TRAINED), START).moves == ()
    run = replace(state, runs=((START - timedelta(hours=23), 55.0),))
    assert plan(run, ROOM, START).moves == ()
    assert len(plan(run, ROOM, START + timedelta(hours=2)).moves) == 1


def test_what_changed_lately_or_must_not_be_learned_is_not_trained() -> None:
    for about in ({"changed_at": START - timedelta(days=6)}, {"trainable": False}, {"pinned": True}):
        many = [unit(f"m_{number}", 20, kv_bytes=0, **about) for number in range(10)]
        assert plan(State(by_id(many)), ROOM, START).moves == ()


def test_an_adapter_whose_knowledge_is_hardly_used_is_retired_and_a_used_one_is_not() -> None:
    known = [unit(f"m_{number}", 3, level=Level.LORA) for number in range(3)]
    state = State(by_id(known), adapters={"default": Adapter("default", 100, OLD)})
    assert moved(state) == {}
    (move,) = plan(state, ROOM, START + timedelta(days=70)).moves
    assert (move.to, len(move.ids)) == (Level.TEXT, 3)
    assert "hardly used any more" in move.reason


def test_time_decay_and_a_nearly_full_cube_archive_what_is_longest_unused_and_say_which_it_was() -> None:
    policy = CubePolicy(decay_days=30.0, max_memories=20)
    made = [unit(f"m_{number:02}", heat=_last(number)) for number in range(17)]
    made += [
        unit("over", 9, expires_at=START),
        unit("decayed"),
        unit("prior", priority=3, heat=_last(31)),
        unit("kept", pinned=True),
        unit("stays", frozen=True),
    ]
    found = plan(State(by_id(made), {"default": policy}), ROOM, START).moves
    archived = {id: (move.step, move.reason) for move in found for id in move.ids if move.to is Level.ARCHIVED}
    assert archived["over"] == (Step.EXPIRE, "its time is over")
    assert archived["decayed"] == (Step.ARCHIVE, "unused since 2025-12-02")
    assert archived["prior"] == (Step.ARCHIVE, "default is nearly full, and it is the longest unused")
    assert set(archived) == {"over", "decayed", "prior", "m_16"}


def _last(days: int) -> Heat:
    return Heat(uses=1, last=START - timedelta(days=days))


def test_a_long_text_is_archived_with_all_its_pieces_or_not_at_all() -> None:
    pieces = [unit(f"p_{number}", whole="w") for number in range(3)] + [unit("w", whole="w")]
    policy = {"default": CubePolicy(decay_days=30.0)}
    (move,) = plan(State(by_id(pieces), policy), ROOM, START).moves
    assert sorted(move.ids) == ["p_0", "p_1", "p_2", "w"]
    for part in ({"pinned": True}, {"heat": _last(1)}):
        held = [replace(pieces[0], **part), *pieces[1:]]  # type: ignore[arg-type]
        assert plan(State(by_id(held), policy), ROOM, START).moves == ()


def test_what_was_restored_is_not_archived_again_on_the_same_day() -> None:
    policy = {"default": CubePolicy(decay_days=30.0)}
    restored = unit("m", level=Level.ARCHIVED).at(Level.TEXT, START)
    assert plan(State(by_id([restored]), policy), ROOM, START + timedelta(hours=23)).moves == ()
    assert len(plan(State(by_id([restored]), policy), ROOM, START + timedelta(hours=25)).moves) == 1


def test_quiet_hours_reach_over_midnight() -> None:
    night = QuietHours(22 * 60, 7 * 60)
    hours = [START.replace(hour=hour) for hour in (21, 22, 23, 0, 6, 7)]
    assert [night.cover(hour) for hour in hours] == [False, True, True, True, True, False]
    state = State(by_id([unit("m", 6)]))
    assert moved(state, replace(ROOM, quiet=(night,)), START.replace(hour=23)) == {}
    assert moved(state, replace(ROOM, quiet=(night,))) == {"m": Level.RAM}


def test_random_states_give_every_sort_of_move() -> None:
    """So that the promises above are promises about something."""
    seen: set[tuple[Part, Level, Step | None]] = set()
    roomy = Budgets(600, 200, 2_000, 30.0)
    for seed in range(300):
        for limits in (roomy, Budgets(60, 60, 200, 30.0)):
            seen |= {(move.part, move.to, move.step) for move in plan(random_state(seed, 32), limits, START).moves}
    assert seen == {
        (Part.ARCHIVE, Level.ARCHIVED, Step.EXPIRE),
        (Part.ARCHIVE, Level.ARCHIVED, Step.ARCHIVE),
        (Part.KV, Level.TEXT, None),
        (Part.KV, Level.KV, None),
        (Part.KV, Level.RAM, None),
        (Part.KV, Level.GPU, None),
        (Part.PRELOAD, Level.KV, None),
        (Part.PRELOAD, Level.RAM, None),
        (Part.PRELOAD, Level.GPU, None),
        (Part.LORA, Level.LORA, None),
        (Part.LORA, Level.TEXT, None),
    }
