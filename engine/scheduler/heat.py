"""Heat: how much a memory is used, what is past counting less.

A *use* is one event: a memory was found, given to a model, opened, or turned out useful. Each adds its weight, and
what was added halves with every half-life: heat at an instant is the sum over all uses of weight × 0.5^(age ÷
half-life), as in the exponential decay of the LRFU policy (Lee et al., 2001), which lies between LRU (short half-life)
and LFU (long). There are two: the fast one tells what is needed in these days (KV caches, RAM), the slow one what is
needed again and again (adapters).

Knows no store, no clock and no tiers. What must stay true: heat is the same in whatever order uses are noted, never
negative, and without use it only falls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

FAST_HALF_LIFE_S = 86_400.0  # a day: that of the KV store, so that both speak of the same heat
SLOW_HALF_LIFE_S = 30 * 86_400.0  # a month: worth training for


class Event(StrEnum):
    """What happened to a memory."""

    FOUND = "found"  # a recall returned it
    GIVEN = "given"  # it was put before a model
    OPENED = "opened"  # somebody read it by its id
    HELPED = "helped"  # the reply rested on it, or a person said that it helped
    MISLED = "misled"  # a person said that it did not help


WEIGHTS = {Event.FOUND: 0.5, Event.GIVEN: 1.0, Event.OPENED: 1.0, Event.HELPED: 2.0, Event.MISLED: 0.0}
"""What each event adds to heat."""

PRIOR_JUDGEMENTS = 2.0  # as if it had helped once and misled once: one judgement alone decides little


@dataclass(frozen=True, slots=True)
class Use:
    """One event of one memory."""

    id: str
    at: datetime
    event: Event = Event.GIVEN


@dataclass(frozen=True, slots=True)
class Heat:
    """What is kept of all uses of one memory: enough to tell its heat at any later instant."""

    fast: float = 0.0  # as of `last`
    slow: float = 0.0
    uses: int = 0
    helped: int = 0
    misled: int = 0
    last: datetime | None = None  # the latest use

    def fast_at(self, now: datetime) -> float:
        """The fast heat, weighed by usefulness."""
        return self.usefulness * 2 * _faded(self.fast, self._age_s(now), FAST_HALF_LIFE_S)

    def slow_at(self, now: datetime) -> float:
        """The slow heat, weighed by usefulness."""
        return self.usefulness * 2 * _faded(self.slow, self._age_s(now), SLOW_HALF_LIFE_S)

    @property
    def usefulness(self) -> float:
        """0..1, 0.5 where nobody judged: the mean of a Beta(1 + helped, 1 + misled)."""
        return (PRIOR_JUDGEMENTS / 2 + self.helped) / (PRIOR_JUDGEMENTS + self.helped + self.misled)

    def _age_s(self, now: datetime) -> float:
        return 0.0 if self.last is None else max(0.0, (now - self.last).total_seconds())


COLD = Heat()


def after(heat: Heat, use: Use) -> Heat:
    """Heat with one more use, which may be earlier than the latest one."""
    last = use.at if heat.last is None else max(heat.last, use.at)
    one = Heat(
        WEIGHTS[use.event],
        WEIGHTS[use.event],
        0 if use.event is Event.MISLED else 1,
        int(use.event is Event.HELPED),
        int(use.event is Event.MISLED),
        use.at,
    )
    return _sum((heat, one), last)


def after_all(heat: Heat, uses: Iterable[Use]) -> Heat:
    """Heat with more uses, in any order."""
    for use in uses:
        heat = after(heat, use)
    return heat


def together(heats: Iterable[Heat]) -> Heat:
    """The heat of a memory that stands for several: fused from them."""
    known = tuple(heats)
    times = [heat.last for heat in known if heat.last is not None]
    return _sum(known, max(times)) if times else COLD


def _sum(heats: tuple[Heat, ...], at: datetime) -> Heat:
    fast = slow = 0.0
    for heat in heats:
        age_s = heat._age_s(at)
        fast += _faded(heat.fast, age_s, FAST_HALF_LIFE_S)
        slow += _faded(heat.slow, age_s, SLOW_HALF_LIFE_S)
    return Heat(
        fast,
        slow,
        sum(heat.uses for heat in heats),
        sum(heat.helped for heat in heats),
        sum(heat.misled for heat in heats),
        at,
    )


def _faded(amount: float, age_s: float, half_life_s: float) -> float:
    return float(amount * 0.5 ** (age_s / half_life_s))
