"""Random states for the scheduler, and what it may do with them: drawn from a seed, as drawing each field is slow."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from hypothesis import strategies as st

from cubes import CubePolicy
from engine.scheduler.heat import Heat
from engine.scheduler.moves import (
    ALL_PARTS,
    Adapter,
    Budgets,
    Crossing,
    Level,
    Part,
    QuietHours,
    State,
    Taken,
    TrainingCost,
    Unit,
    by_id,
)
from tests.conftest import START

CUBES = ("default", "work")
MOST_UNITS = 32
MOST_BYTES = 60


def states() -> st.SearchStrategy[State]:
    return st.builds(random_state, st.integers(0, 2**32), st.integers(0, MOST_UNITS))


def random_state(seed: int, size: int) -> State:
    """A state that need not be one that the scheduler would have made: budgets were cut, clocks were set."""
    draw = random.Random(seed)
    many = draw.random() < 0.5  # of one cube, and used all the time: worth training
    adapters = {
        cube: Adapter(cube, 50, START - timedelta(days=draw.randint(0, 20))) for cube in CUBES if draw.random() < 0.5
    }
    policies = {
        cube: CubePolicy(
            decay_days=draw.choice([None, None, 5.0, 30.0]),
            max_memories=draw.choice([None, None, 5, 40]),
            max_bytes=draw.choice([None, None, 200]),
        )
        for cube in CUBES
    }
    return State(
        by_id([_unit(draw, number, set(adapters), many) for number in range(size)]),
        {} if many else policies,
        adapters,
        tuple((START - timedelta(hours=draw.randint(0, 40)), 1.0) for _ in range(draw.randint(0, 3))),
        TrainingCost(1.0, 0.1, 50),
        Taken(*(draw.randint(0, MOST_BYTES) for _ in range(3))),
    )


def _unit(draw: random.Random, number: int, trained: set[str], many: bool) -> Unit:
    cube = CUBES[0] if many else draw.choice(CUBES)
    return Unit(
        id=f"m_{number}",
        cube=cube,
        created_at=START - timedelta(days=draw.randint(0, 60)),
        level=Level(draw.randint(int(many), Level.LORA if cube in trained else Level.GPU)),
        heat=_heat(draw, many),
        content_bytes=draw.randint(0, MOST_BYTES),
        kv_bytes=draw.randint(0, MOST_BYTES),
        ram_bytes=draw.randint(0, MOST_BYTES),
        chance=draw.choice([0.0, 0.0, 0.01, 0.1, 0.3, 0.9]),
        changed_at=draw.choice([None, None, START - timedelta(days=1)]),
        expires_at=draw.choice([None] * 8 + [START - timedelta(days=1), START + timedelta(days=3)]),
        priority=draw.randint(0, 2),
        pinned=draw.random() < 0.15,
        frozen=draw.random() < 0.1,
        trainable=draw.random() < 0.9,
        whole=draw.choice([""] * 8 + ["m_0", "m_1"]),
        crossed=tuple(
            Crossing(level, START - timedelta(minutes=draw.choice([0, 1, 30, 600, 3_000])), draw.random() < 0.5)
            for level in Level
            if level and draw.random() < 0.2
        ),
    )


def _heat(draw: random.Random, many: bool) -> Heat:
    if draw.random() < 0.2:
        return Heat()
    return Heat(
        fast=draw.choice([0.3, 0.9, 1.9, 2.1, 4.5, 9.0, 30.0, 100.0]),
        slow=draw.choice([0.5, 3.0, 9.0, 40.0, 100.0]) + 20 * many,
        uses=draw.randint(1, 50),
        helped=draw.randint(0, 3),
        misled=draw.randint(0, 3),
        last=START - timedelta(hours=draw.choice([0, 1, 10, 40, 400])),
    )


def budgets() -> st.SearchStrategy[Budgets]:
    size = st.sampled_from([0, 60, 200, 600, 2_000])
    quiet = st.sampled_from([(), (), (QuietHours(22 * 60, 7 * 60),), (QuietHours(8 * 60, 18 * 60),)])
    return st.builds(Budgets, size, size, size, st.sampled_from([0.0, 2.0, 30.0]), quiet)


def parts() -> st.SearchStrategy[frozenset[Part]]:
    return st.one_of(st.just(ALL_PARTS), st.frozensets(st.sampled_from(sorted(Part))))


def moments() -> st.SearchStrategy[datetime]:
    return st.sampled_from([START, START + timedelta(hours=14, minutes=30)])
