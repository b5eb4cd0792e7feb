"""Heat rises by use and halves by time, in whatever order uses are noted."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler.heat import (
    COLD,
    FAST_HALF_LIFE_S,
    SLOW_HALF_LIFE_S,
    WEIGHTS,
    Event,
    Use,
    after,
    after_all,
    together,
)
from tests.conftest import START

uses = st.lists(
    st.builds(
        Use,
        st.just("m_1"),
        st.integers(0, 40 * 86_400).map(lambda seconds: START - timedelta(seconds=seconds)),
        st.sampled_from(Event),
    ),
    max_size=12,
)


@given(uses)
def test_heat_is_the_sum_of_what_each_use_added_halved_with_every_half_life(log: list[Use]) -> None:
    heat = after_all(COLD, log)
    for shown, half_life_s in ((heat.fast_at(START), FAST_HALF_LIFE_S), (heat.slow_at(START), SLOW_HALF_LIFE_S)):
        parts = [WEIGHTS[use.event] * 0.5 ** ((START - use.at).total_seconds() / half_life_s) for use in log]
        assert shown == pytest.approx(2 * heat.usefulness * sum(parts))


@given(uses, st.randoms(use_true_random=False))
def test_the_order_in_which_uses_are_noted_does_not_matter(log: list[Use], shuffle: object) -> None:
    mixed = list(log)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = after_all(COLD, log), after_all(COLD, mixed)
    assert (one.uses, one.helped, one.misled, one.last) == (other.uses, other.helped, other.misled, other.last)
    assert (one.fast, one.slow) == pytest.approx((other.fast, other.slow))


@given(uses, st.integers(0, 10**7), st.integers(0, 10**7))
def test_without_use_heat_only_falls_and_is_never_negative(log: list[Use], soon_s: int, later_s: int) -> None:
    heat = after_all(COLD, log)
    first, second = (START + timedelta(seconds=seconds) for seconds in sorted((soon_s, later_s)))
    assert 0 <= heat.fast_at(second) <= heat.fast_at(first)
    assert 0 <= heat.slow_at(second) <= heat.slow_at(first)


@given(uses, uses)
def test_what_was_fused_is_as_hot_as_its_parents_together(left: list[Use], right: list[Use]) -> None:
    fused, one_log = together([after_all(COLD, left), after_all(COLD, right)]), after_all(COLD, left + right)
    assert (fused.uses, fused.last) == (one_log.uses, one_log.last)
    assert (fused.fast, fused.slow) == pytest.approx((one_log.fast, one_log.slow))


def test_what_helped_is_hotter_than_what_was_only_given_and_what_misled_is_colder() -> None:
    given_ = after(COLD, Use("m_1", START))
    helped = after(given_, Use("m_1", START, Event.HELPED))
    misled = after(given_, Use("m_1", START, Event.MISLED))
    assert misled.fast_at(START) < given_.fast_at(START) < helped.fast_at(START)
    assert (misled.usefulness, given_.usefulness, helped.usefulness) == pytest.approx((1 / 3, 1 / 2, 2 / 3))
    assert misled.uses == given_.uses == 1


def test_a_single_use_is_half_as_hot_after_a_day_and_worth_training_for_much_longer() -> None:
    heat = after(COLD, Use("m_1", START))
    assert heat.fast_at(START + timedelta(days=1)) == pytest.approx(0.5)
    assert heat.slow_at(START + timedelta(days=30)) == pytest.approx(0.5)
