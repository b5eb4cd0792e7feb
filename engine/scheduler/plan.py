"""MemScheduler's plan: which memories should move between archive, text, KV caches and adapters, and why.

`plan` is a pure function of what is, what may be used, and the time. It goes over the rules again and again, each pass
on the state that the moves so far would leave, until a pass finds nothing to do: so planning again right after
executing gives nothing. At every point of the list of moves the budgets hold, as far as the state they began with held
them: what frees comes before what takes.

What must stay true: what is pinned or frozen is in no move; a move is not undone within its window, unless a budget
that was cut leaves no other way; nothing is computed in quiet hours; a part that is off does nothing.

How it is to be wired: the executor (upkeep's thread) reads the state from the vault and the tiers, plans, and carries
moves out one by one in their order, each in one transaction with an audit row whose details are the move's part, target
and reason; the move's crossings are kept with it, so that windows survive a restart. A move that fails is noted as
crossed back at that instant, which bars it for its window. Archiving goes through `engine.lifecycle.states` (`step`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from engine.lifecycle.states import Step
from engine.scheduler.moves import (
    ALL_PARTS,
    PART_OF,
    RESOURCES,
    WINDOW_S,
    Budgets,
    Level,
    Move,
    Part,
    State,
    Taken,
    Unit,
    after,
    carry_out,
    use_of,
)

UP_AT = {Level.KV: 2.0, Level.RAM: 4.0, Level.GPU: 8.0}
DOWN_BELOW = {Level.RAM: 1.0, Level.GPU: 2.0}
"""Warmth from which a memory climbs to a level, and below which it leaves it: far apart, so that it does not swing."""

DROPPED_AFTER = timedelta(days=30)  # without use; a cache that was built is kept on disk for so long, if there is room

WARMTH_OF_CHANCE = 400.0  # needed next with a chance of 1 %: worth loading, where there is room
DISPLACES = 2.0  # what is so many times as warm may take the place of another one

TRAINED_FROM = 8.0  # slow heat: used about eight times in a month
RETIRED_BELOW = 1.0  # mean slow heat of what an adapter knows
STABLE_FOR = timedelta(days=7)  # unchanged for so long
LEAST_TRAINED = 8  # memories that are worth a training
RETRAINED_AFTER = timedelta(days=1)

FULL_FROM, FULL_TO = 0.95, 0.90  # of a quota: archiving begins, and ends
MOST_MISFITS = 50  # that many that do not fit, and no more are tried in one pass

WORDS = {Level.KV: "a KV cache on disk", Level.RAM: "RAM", Level.GPU: "the GPU", Level.TEXT: "text alone"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order; `remarks` says what stays wrong, in words."""

    moves: tuple[Move, ...] = ()
    remarks: tuple[str, ...] = ()


def plan(state: State, budgets: Budgets, now: datetime, parts: frozenset[Part] = ALL_PARTS) -> Plan:
    """The moves that are due at `now`."""
    moves: list[Move] = []
    while True:
        table = _Table(state, budgets, now, parts)
        for rule in RULES:
            rule(table)
        if not table.moves:
            return Plan(tuple(moves), tuple(_overruns(state, budgets)))
        moves += table.moves
        state = after(state, table.moves, now)


def _overruns(state: State, budgets: Budgets) -> Iterator[str]:
    left = budgets.bytes - state.used()
    for name, shown in RESOURCES.items():
        if (over := -getattr(left, name)) > 0:
            yield f"{shown} is {over:,} bytes over its budget: what holds it is pinned, frozen or not the scheduler's"


class _Table:
    """One pass: the state as the moves so far would leave it."""

    def __init__(self, state: State, budgets: Budgets, now: datetime, parts: frozenset[Part]) -> None:
        self._units, self._adapters = dict(state.units), dict(state.adapters)
        self.state = replace(state, units=self._units, adapters=self._adapters)
        self.budgets, self.now, self.parts = budgets, now, parts
        self.quiet = budgets.is_quiet(now)
        self.left = budgets.bytes - state.used()
        self.moves: list[Move] = []
        self.warmth = {id: warmth(unit, now) for id, unit in state.units.items()}
        movable = (unit for unit in state.units.values() if not unit.held and unit.level is not Level.ARCHIVED)
        self._order = sorted((unit.id for unit in movable), key=lambda id: (self.warmth[id], id))
        self._holders = {
            name: [id for id in self._order if getattr(use_of(self._units[id], self._units[id].level), name)]
            for name in RESOURCES
        }

    def do(self, move: Move) -> None:
        before = self._taken(move)
        runs = carry_out(move, self._units, self._adapters, self.state.cost, self.now)
        self.state = replace(self.state, runs=self.state.runs + runs)
        self.left = self.left + before - self._taken(move)
        self.moves.append(move)

    def _taken(self, move: Move) -> Taken:
        """What those take that a move is about."""
        adapter = self._adapters.get(move.cube) if move.part is Part.LORA else None
        taken = Taken(disk_bytes=adapter.bytes if adapter else 0)
        for id in move.ids:
            taken += use_of(self._units[id], self._units[id].level)
        return taken

    def units(self) -> Iterator[Unit]:
        """What may be moved, coldest first."""
        return (self._units[id] for id in self._order if self._units[id].level is not Level.ARCHIVED)

    def holders(self, short: frozenset[str]) -> Iterator[Unit]:
        """What held something of what is short when the pass began, coldest first.

        What holds RAM or GPU holds disk too, so where disk is short as well, its holders are all.
        """
        name = "disk_bytes" if "disk_bytes" in short else min(short)
        return (self._units[id] for id in self._holders[name])

    def warmest(self) -> Iterator[Unit]:
        return (self._units[id] for id in reversed(self._order) if self._units[id].level is not Level.ARCHIVED)

    def may(self, unit: Unit, to: Level) -> bool:
        """Whether the parts that such a move takes are on, and it undoes nothing."""
        return self.on(unit.level, to) and not unit.bars(to, self.now)

    def on(self, start: Level, to: Level) -> bool:
        between = (level for level in PART_OF if min(start, to) < level <= max(start, to))
        return all(PART_OF[level] in self.parts for level in between)


def warmth(unit: Unit, now: datetime) -> float:
    """What speaks for having a memory ready: its heat, and that it is expected."""
    return unit.heat.fast_at(now) + WARMTH_OF_CHANCE * unit.chance


# --- archiving ------------------------------------------------------------------------------------------------------


def _archive(table: _Table) -> None:
    if Part.ARCHIVE not in table.parts:
        return
    wholes = _wholes(table)
    for units in wholes:
        if all(unit.expires_at is not None and unit.expires_at <= table.now for unit in units):
            table.do(_archived(units, "its time is over", Step.EXPIRE))
        elif (since := _decayed(table, units)) is not None:
            table.do(_archived(units, f"unused since {since:%Y-%m-%d}", Step.ARCHIVE))
    _under_quota(table)


def _wholes(table: _Table) -> list[list[Unit]]:
    """Long texts with their pieces, and other memories alone: those of which nothing is held."""
    groups: defaultdict[str, list[Unit]] = defaultdict(list)
    for _, unit in sorted(table.state.units.items()):
        if unit.level is not Level.ARCHIVED:
            groups[f"{unit.cube}/{unit.whole or unit.id}"].append(unit)
    return [groups[name] for name in sorted(groups) if not any(unit.held for unit in groups[name])]


def _archived(units: Sequence[Unit], reason: str, step: Step) -> Move:
    return Move(Part.ARCHIVE, tuple(unit.id for unit in units), units[0].cube, Level.ARCHIVED, reason, step=step)


def _decayed(table: _Table, units: Sequence[Unit]) -> datetime | None:
    """Since when a whole is unused, where that is too long."""
    policy = table.state.policies.get(units[0].cube)
    if policy is None or policy.decay_days is None or any(not _may_archive(table, unit) for unit in units):
        return None
    last = max(unit.last_use for unit in units)
    kept = timedelta(days=policy.decay_days * (1 + max(unit.priority for unit in units)))
    return last if last + kept <= table.now else None


def _may_archive(table: _Table, unit: Unit) -> bool:
    """Not what was restored or remembered just now, nor what an adapter in service knows."""
    fresh = table.now < unit.created_at + timedelta(seconds=WINDOW_S[Level.TEXT])
    return not fresh and unit.level is not Level.LORA and not unit.bars(Level.ARCHIVED, table.now)


def _under_quota(table: _Table) -> None:
    """The least recently used go, before a quota refuses what is new."""
    for cube, policy in sorted(table.state.policies.items()):
        for most, size in ((policy.max_memories, _one), (policy.max_bytes, _content)):
            if most is None:
                continue
            units = [u for u in table.state.units.values() if u.cube == cube and u.level is not Level.ARCHIVED]
            held = sum(size(unit) for unit in units)
            if held < FULL_FROM * most:
                continue
            wholes = [whole for whole in _wholes(table) if whole[0].cube == cube]
            for whole in sorted(wholes, key=lambda whole: (max(u.last_use for u in whole), whole[0].id)):
                if held <= FULL_TO * most:
                    break
                if all(_may_archive(table, unit) for unit in whole):
                    held -= sum(size(unit) for unit in whole)
                    table.do(_archived(whole, f"{cube} is nearly full, and it is the longest unused", Step.ARCHIVE))


def _one(unit: Unit) -> int:
    return 0 if unit.whole == unit.id else 1  # the whole of a long text is not counted: its pieces are


def _content(unit: Unit) -> int:
    return 0 if unit.whole == unit.id else unit.content_bytes


# --- KV caches ------------------------------------------------------------------------------------------------------


def _cool(table: _Table) -> None:
    """What has cooled steps down."""
    for unit in table.units():
        to = unit.level
        while _is_cold(table, unit, to) and table.may(unit, Level(to - 1)):
            to = Level(to - 1)
        while to is not unit.level and not table.may(unit, to):
            to = Level(to + 1)
        if to is Level.RAM and table.left.short_of(use_of(unit, to) - use_of(unit, unit.level)):
            to = Level.KV if table.may(unit, Level.KV) else unit.level
        if to is not unit.level:
            cooled = f"it has cooled to {table.warmth[unit.id]:.1f}"
            table.do(_moved(unit, to, cooled if to > Level.TEXT else f"unused since {unit.last_use:%Y-%m-%d}"))


def _is_cold(table: _Table, unit: Unit, level: Level) -> bool:
    """Whether a memory has no business at a level any more."""
    if level is not Level.KV:
        return level in DOWN_BELOW and table.warmth[unit.id] < DOWN_BELOW[level]
    built = [crossing.at for crossing in unit.crossed if crossing.level is Level.KV and crossing.up]
    unused = max([unit.last_use, *built]) + DROPPED_AFTER <= table.now
    return unused and table.warmth[unit.id] < UP_AT[Level.KV]


def _moved(unit: Unit, to: Level, why: str) -> Move:
    part = Part.KV if Level.TEXT in (unit.level, to) else Part.PRELOAD
    return Move(part, (unit.id,), unit.cube, to, f"{why}: {WORDS[to]}")


def _fit(table: _Table) -> None:
    """What is over a budget goes down, coldest first; what would undo a move, only when nothing else is left."""
    for undoing in (False, True):
        for resource, shown in RESOURCES.items():
            for unit in table.units():
                if getattr(table.left, resource) >= 0:
                    break
                to = _gives_way(frozenset({resource}), unit)
                if to is not None and table.on(unit.level, to) and (undoing or not unit.bars(to, table.now)):
                    table.do(_moved(unit, to, f"the {shown} budget is overdrawn, and it is the coldest"))
        for cube in _coldest_adapters(table):
            if table.left.disk_bytes < 0:
                _retire(table, cube, "the disk budget is overdrawn", undoing=undoing)


def _warm(table: _Table) -> None:
    """What is warm climbs, warmest first, into what is free or held by what is much colder."""
    misfits = 0
    for unit in table.warmest():
        to = _wanted(table, unit)
        while to > unit.level and misfits < MOST_MISFITS:
            if table.may(unit, to):
                if _make_room(table, unit, to):
                    table.do(_moved(unit, to, _why_warm(table, unit, to)))
                    break
                misfits += 1
            to = Level(to - 1)


def _wanted(table: _Table, unit: Unit) -> Level:
    """The level that a memory is warm enough for. Expected or not, a cache is built only for what was used."""
    to = unit.level
    if to is Level.TEXT:
        if table.quiet or not unit.kv_bytes or unit.heat.fast_at(table.now) < UP_AT[Level.KV]:
            return to
        to = Level.KV
    top = Level.GPU if table.budgets.gpu_bytes else Level.RAM
    while Level.KV <= to < top and table.warmth[unit.id] >= UP_AT[Level.RAM]:
        if to is Level.RAM and table.warmth[unit.id] < UP_AT[Level.GPU]:
            break
        to = Level(to + 1)
    return to


def _why_warm(table: _Table, unit: Unit, to: Level) -> str:
    expected = WARMTH_OF_CHANCE * unit.chance > unit.heat.fast_at(table.now) and to > Level.KV
    if expected:
        return f"expected next ({unit.chance:.0%}{', ' if unit.chance_reason else ''}{unit.chance_reason})"
    return f"used often lately (heat {unit.heat.fast_at(table.now):.1f})"


def _make_room(table: _Table, unit: Unit, to: Level) -> bool:
    """Free what a move needs, if that can be done by moving what is much colder; otherwise move nothing."""
    more = use_of(unit, to) - use_of(unit, unit.level)
    left = table.left
    short = left.short_of(more)
    victims: list[tuple[Unit, Level]] = []
    for other in table.holders(short) if short else ():
        if not short or table.warmth[other.id] * DISPLACES > table.warmth[unit.id]:
            break
        down = _gives_way(short, other)
        if other.id != unit.id and down is not None and table.may(other, down):
            victims.append((other, down))
            left = left + use_of(other, other.level) - use_of(other, down)
            short = left.short_of(more)
    if short:
        return False
    for other, down in victims:
        table.do(_moved(other, down, f"{unit.id} is warmer ({table.warmth[unit.id]:.1f}) and takes its place"))
    return True


def _gives_way(short: frozenset[str], other: Unit) -> Level | None:
    """Where a memory would go to free what is short; None: it holds nothing of that."""
    held = use_of(other, other.level)
    if not any(getattr(held, name) for name in short):
        return None
    return Level.TEXT if "disk_bytes" in short else Level.KV


# --- adapters -------------------------------------------------------------------------------------------------------


def _retire_cold(table: _Table) -> None:
    for cube in _coldest_adapters(table):
        members = table.state.members(cube)
        mean = sum(unit.heat.slow_at(table.now) for unit in members) / max(1, len(members))
        if mean < RETIRED_BELOW:
            _retire(table, cube, f"what it knows is hardly used any more (heat {mean:.1f})")


def _coldest_adapters(table: _Table) -> list[str]:
    def heat(cube: str) -> tuple[float, str]:
        return sum(unit.heat.slow_at(table.now) for unit in table.state.members(cube)), cube

    return sorted(table.state.adapters, key=heat)


def _retire(table: _Table, cube: str, why: str, *, undoing: bool = False) -> None:
    members = table.state.members(cube)
    if Part.LORA not in table.parts or any(unit.held for unit in members):
        return
    if undoing or not any(unit.bars(Level.TEXT, table.now) for unit in members):
        ids = tuple(sorted(unit.id for unit in members))
        table.do(Move(Part.LORA, ids, cube, Level.TEXT, f"{why}: the adapter of {cube} is retired"))


def _train(table: _Table) -> None:
    """What is stable and used again and again is trained into the adapter of its cube, all in one run."""
    if Part.LORA not in table.parts or table.quiet:
        return
    stable: defaultdict[str, list[Unit]] = defaultdict(list)
    for unit in table.units():
        if _worth_training(unit, table.now):
            stable[unit.cube].append(unit)
    for cube in sorted(stable):
        adapter, cost = table.state.adapters.get(cube), table.state.cost
        if adapter is not None and table.now < adapter.trained_at + RETRAINED_AFTER:
            continue
        left_minutes = table.budgets.training_minutes - table.state.minutes_used(table.now)
        known = len(table.state.members(cube))
        chosen = sorted(stable[cube], key=lambda unit: (-unit.heat.slow_at(table.now), unit.id))
        while chosen and cost.minutes(known + len(chosen)) > left_minutes:
            chosen.pop()
        if len(chosen) < LEAST_TRAINED or table.left.disk_bytes < cost.adapter_bytes:
            continue
        reason = f"{len(chosen)} memories are stable and used again and again: trained into the adapter of {cube}"
        ids = tuple(sorted(unit.id for unit in chosen))
        table.do(Move(Part.LORA, ids, cube, Level.LORA, reason, cost.minutes(known + len(chosen))))


def _worth_training(unit: Unit, now: datetime) -> bool:
    return (
        unit.trainable
        and unit.level is not Level.LORA
        and (unit.changed_at or unit.created_at) + STABLE_FOR <= now
        and unit.heat.slow_at(now) >= TRAINED_FROM
        and not unit.bars(Level.LORA, now)
    )


RULES: tuple[Callable[[_Table], None], ...] = (_archive, _cool, _fit, _retire_cold, _train, _warm)
"""In this order: what frees comes before what takes."""
