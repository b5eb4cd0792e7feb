"""The states of a memory: what is in the table happens, everything else is refused with what to do instead."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubes import Descriptive, Governance, Kind, Memory, State
from engine.errors import Conflict, Frozen
from engine.lifecycle.states import LIVE, TABLE, Step, after, is_expired, state_after

WHEN = datetime(2026, 3, 2, tzinfo=UTC)
MEMORY = Memory("default", "x", 1, State.GENERATED, Descriptive("m_1", Kind.FACT, WHEN, WHEN))
PAIRS = [(state, step) for state in State for step in Step]


@pytest.mark.parametrize(("state", "step"), PAIRS)
def test_each_step_from_each_state_is_in_the_table_or_refused_with_the_remedy(state: State, step: Step) -> None:
    memory = replace(MEMORY, state=state)
    if (state, step) in TABLE:
        assert after(memory, step) is TABLE[(state, step)]
    else:
        with pytest.raises(Conflict, match=r"m_1 cannot .*restore it first"):
            after(memory, step)


@pytest.mark.parametrize(("state", "step"), PAIRS)
def test_what_is_frozen_is_held_against_everything_but_being_used(state: State, step: Step) -> None:
    frozen = replace(MEMORY, state=state, governance=Governance(frozen=True))
    if step is Step.USE:
        assert after(frozen, step) is TABLE[(state, step)]
    else:
        with pytest.raises(Frozen, match="m_1 is frozen"):
            after(frozen, step)


@given(st.lists(st.sampled_from(Step), max_size=30))
def test_no_walk_leaves_the_table_and_only_erasing_ends_it(steps: list[Step]) -> None:
    memory = MEMORY
    for step in steps:
        if (memory.state, step) not in TABLE:
            with pytest.raises(Conflict):
                after(memory, step)
            continue
        state = after(memory, step)
        assert (state is None) == (step is Step.ERASE)
        if state is None:
            return
        assert state in State
        memory = replace(memory, state=state)


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_erased_and_restored_to_life(state: State) -> None:
    assert TABLE[(state, Step.ERASE)] is None
    assert state_after(replace(MEMORY, state=state), Step.RESTORE) in LIVE


@pytest.mark.parametrize("state", State)
def test_being_used_never_takes_a_memory_out_of_where_it_was_put(state: State) -> None:
    used = state_after(replace(MEMORY, state=state), Step.USE)
    assert used is (State.ACTIVATED if state in LIVE else state)


@given(st.integers(-1_000, 1_000))
def test_a_memory_expires_at_the_instant_it_was_given_and_not_before(seconds: int) -> None:
    memory = replace(MEMORY, governance=Governance(expires_at=WHEN))
    assert is_expired(memory, WHEN + timedelta(seconds=seconds)) == (seconds >= 0)
    assert not is_expired(MEMORY, WHEN + timedelta(days=100_000))
