"""What the scheduler sees and what it may do, as values and tables: levels, budgets, states, moves.

Memory climbs: archived, plain text, a KV cache on disk, the same in RAM, the same on the GPU, and at last an adapter
that is proven to know it (then it needs no cache). Each step between two neighbouring levels is a *boundary*. A move
crosses all boundaries on its way, and a boundary that was crossed is not crossed back within its window: that is the
hysteresis.

Knows no store, no model and no clock. What must stay true: what `after` gives is what the executor leaves when every
move succeeded, and the budgets are counted in `used` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

from cubes import CubePolicy
from engine.lifecycle.states import Step
from engine.scheduler.heat import COLD, Heat


class Level(IntEnum):
    """Where a memory is held, lowest first. Plain text is always there; the higher levels come on top of it."""

    ARCHIVED = 0
    TEXT = 1
    KV = 2  # a KV cache on disk
    RAM = 3  # the same, loaded
    GPU = 4
    LORA = 5  # the active adapter of its cube is proven to know it


class Part(StrEnum):
    """What can be switched off by itself."""

    ARCHIVE = "archive"  # by TTL, decay and quota
    KV = "kv"  # building and dropping KV caches
    PRELOAD = "preload"  # into RAM and onto the GPU, and out again
    LORA = "lora"  # training and retiring adapters
    CONSOLIDATE = "consolidate"  # fusing copies: see `engine.scheduler.consolidate`


ALL_PARTS = frozenset(Part)

PART_OF = {Level.TEXT: Part.ARCHIVE, Level.KV: Part.KV, Level.RAM: Part.PRELOAD, Level.GPU: Part.PRELOAD}
"""The part that moves memory over the boundary below a level; all moves to and from LORA are of Part.LORA."""

WINDOW_S = {
    Level.TEXT: 86_400.0,  # archived and restored
    Level.KV: 3_600.0,  # building a cache costs a prefill
    Level.RAM: 60.0,  # loading costs a read
    Level.GPU: 60.0,
    Level.LORA: 7 * 86_400.0,  # training costs minutes
}
"""How long the boundary below a level is not crossed back."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """The boundary below `level` was crossed."""

    level: Level
    at: datetime
    up: bool


@dataclass(frozen=True, slots=True)
class Unit:
    """A memory, as the scheduler sees it."""

    id: str
    cube: str
    created_at: datetime
    level: Level = Level.TEXT
    heat: Heat = COLD
    content_bytes: int = 0  # counted against the quota of its cube
    kv_bytes: int = 0  # on disk
    ram_bytes: int = 0  # loaded
    chance: float = 0.0  # of being needed next, as predicted
    chance_reason: str = ""
    changed_at: datetime | None = None  # None: never since it was remembered
    expires_at: datetime | None = None
    priority: int = 0
    pinned: bool = False
    frozen: bool = False
    trainable: bool = True  # false for what must not end up in weights
    whole: str = ""  # the long text that it is a piece of, or that it is: archived together
    crossed: tuple[Crossing, ...] = ()

    @property
    def held(self) -> bool:
        """Whether it is not the scheduler's to move."""
        return self.pinned or self.frozen

    @property
    def last_use(self) -> datetime:
        """What was never used counts from when it was remembered."""
        return max(self.created_at, self.heat.last) if self.heat.last else self.created_at

    def bars(self, to: Level, now: datetime) -> bool:
        """Whether going to `to` would undo a move within its window."""
        up, boundaries = to > self.level, boundaries_between(self.level, to)
        return any(
            crossing.up is not up
            and crossing.level in boundaries
            and now < crossing.at + timedelta(seconds=WINDOW_S[crossing.level])
            for crossing in self.crossed
        )

    def at(self, to: Level, now: datetime) -> Unit:
        """It, after a move."""
        boundaries = boundaries_between(self.level, to)
        kept = tuple(crossing for crossing in self.crossed if crossing.level not in boundaries)
        fresh = tuple(Crossing(level, now, to > self.level) for level in boundaries)
        return replace(self, level=to, crossed=kept + fresh)


def boundaries_between(start: Level, to: Level) -> tuple[Level, ...]:
    """The boundaries between two levels, each named by the level above it."""
    return tuple(level for level in Level if min(start, to) < level <= max(start, to))


RESOURCES = {"ram_bytes": "RAM", "gpu_bytes": "GPU", "disk_bytes": "disk"}


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes in use, or free."""

    ram_bytes: int = 0
    gpu_bytes: int = 0
    disk_bytes: int = 0

    def __add__(self, other: Taken) -> Taken:
        return Taken(
            self.ram_bytes + other.ram_bytes, self.gpu_bytes + other.gpu_bytes, self.disk_bytes + other.disk_bytes
        )

    def __sub__(self, other: Taken) -> Taken:
        return Taken(
            self.ram_bytes - other.ram_bytes, self.gpu_bytes - other.gpu_bytes, self.disk_bytes - other.disk_bytes
        )

    def short_of(self, more: Taken) -> frozenset[str]:
        """Of what is left: the resources of which `more` wants more than there is."""
        return frozenset(name for name in RESOURCES if getattr(more, name) > max(0, getattr(self, name)))


def use_of(unit: Unit, level: Level) -> Taken:
    """What a memory takes at a level."""
    if level is Level.KV:
        return Taken(disk_bytes=unit.kv_bytes)
    if level is Level.RAM:
        return Taken(disk_bytes=unit.kv_bytes, ram_bytes=unit.ram_bytes)
    if level is Level.GPU:
        return Taken(disk_bytes=unit.kv_bytes, gpu_bytes=unit.ram_bytes)
    return Taken()


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From `start` to `end`, minutes of the day in the time zone of `now`, nothing is computed in the background."""

    start: int
    end: int

    def cover(self, now: datetime) -> bool:
        minute = now.hour * 60 + now.minute
        if self.start <= self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


@dataclass(frozen=True, slots=True)
class Budgets:
    """What the scheduler may use. Adapters count on disk; which of them are in RAM is the serving's matter."""

    ram_bytes: int = 0
    gpu_bytes: int = 0  # 0: there is none
    disk_bytes: int = 0
    training_minutes: float = 0.0  # in any 24 hours
    quiet: tuple[QuietHours, ...] = ()

    @property
    def bytes(self) -> Taken:
        return Taken(self.ram_bytes, self.gpu_bytes, self.disk_bytes)

    def is_quiet(self, now: datetime) -> bool:
        return any(hours.cover(now) for hours in self.quiet)


@dataclass(frozen=True, slots=True)
class Adapter:
    """The active adapter of a cube."""

    cube: str
    bytes: int
    trained_at: datetime


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """What training an adapter costs, as measured here: minutes = base + each × memories."""

    base_minutes: float = 1.0
    minutes_each: float = 0.05
    adapter_bytes: int = 20_000_000

    def minutes(self, memories: int) -> float:
        return self.base_minutes + self.minutes_each * memories


@dataclass(frozen=True, slots=True)
class State:
    """All that the plan is made from."""

    units: Mapping[str, Unit]
    policies: Mapping[str, CubePolicy] = field(default_factory=dict)
    adapters: Mapping[str, Adapter] = field(default_factory=dict)  # by cube
    runs: tuple[tuple[datetime, float], ...] = ()  # when training began, and its minutes
    cost: TrainingCost = field(default_factory=TrainingCost)
    taken: Taken = field(default_factory=Taken)  # by what is planned elsewhere: prefixes, the model

    def used(self) -> Taken:
        """What is in use by everything."""
        total = self.taken + Taken(disk_bytes=sum(adapter.bytes for adapter in self.adapters.values()))
        for unit in self.units.values():
            total += use_of(unit, unit.level)
        return total

    def minutes_used(self, now: datetime) -> float:
        """Minutes of training in the last 24 hours."""
        return sum(minutes for at, minutes in self.runs if at > now - timedelta(days=1))

    def members(self, cube: str) -> list[Unit]:
        """What the adapter of a cube knows."""
        return [unit for unit in self.units.values() if unit.cube == cube and unit.level is Level.LORA]


@dataclass(frozen=True, slots=True)
class Move:
    """One thing to do. Several ids only where they go together: a training, an adapter that is retired, a long text.

    `step` is what it is for the lifecycle of the memory, where it is anything.
    """

    part: Part
    ids: tuple[str, ...]
    cube: str
    to: Level
    reason: str
    minutes: float = 0.0
    step: Step | None = None


def after(state: State, moves: Iterable[Move], now: datetime) -> State:
    """The state when all moves succeeded."""
    units, adapters, runs = dict(state.units), dict(state.adapters), state.runs
    for move in moves:
        runs += carry_out(move, units, adapters, state.cost, now)
    return replace(state, units=units, adapters=adapters, runs=runs)


def carry_out(
    move: Move, units: dict[str, Unit], adapters: dict[str, Adapter], cost: TrainingCost, now: datetime
) -> tuple[tuple[datetime, float], ...]:
    """Change units and adapters as a move does; gives the training that it was, if it was one."""
    for id in move.ids:
        units[id] = units[id].at(move.to, now)
    if move.part is not Part.LORA:
        return ()
    if move.to is not Level.LORA:
        adapters.pop(move.cube, None)
        return ()
    adapters[move.cube] = Adapter(move.cube, cost.adapter_bytes, now)
    return ((now, move.minutes),)


def by_id(units: Sequence[Unit]) -> dict[str, Unit]:
    """Units as a state wants them."""
    return {unit.id: unit for unit in units}
