"""What the plan is made from, read from the vault and the tiers: units, budgets, adapters, trainings.

Not every memory is a unit: those that were used lately, that have a KV cache, that an adapter knows, and all of a cube
that is nearly full. What nobody uses is at home as plain text, and there is nothing to decide about it; its expiry and
decay are `engine.upkeep`'s, which looks at all of them with one query.

Reads, and changes nothing. What must stay true: what is archived, expired or merged is no unit; a memory whose
adapter's proof is of another version counts as not known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING

from cubes import CubePolicy, MemCube, Memory, Sensitivity
from engine.answering.forms import WORTH_TOKENS
from engine.governance.limits import is_limited
from engine.lifecycle.states import LIVE, is_expired
from engine.parts import Parts
from engine.scheduler.moves import Adapter, Budgets, Crossing, Level, QuietHours, State, Taken, TrainingCost, Unit
from engine.scheduler.plan import FULL_FROM
from engine.scheduling.noting import crossings, heat_from
from engine.settings import Settings
from engine.tier_operations import AdapterState
from engine.tiers.lora.headers import known_pairs
from engine.vault import queries
from engine.vault.adapters import adapters_of
from engine.vault.artifacts import artifacts_of
from engine.vault.connection import Connection
from engine.vault.heat import HeatRow, heat_of, warm_since
from engine.vault.rows import known_time

if TYPE_CHECKING:
    from engine.tiers.kv.warming import Kept

WARM_FOR = timedelta(days=90)  # what was not used for so long is cold
MOST_WARM = 4_000  # memories
CHARS_PER_TOKEN = 4  # roughly, of what was never encoded
RAM_SHARE = 2  # one in so many bytes of the KV tier's RAM is for memories held ready; the rest is for conversations
TRAININGS = ("distil", "retrain")


class Look(Enum):
    """What a state is wanted for."""

    ALL = auto()
    CACHES = auto()  # what to hold ready
    QUOTAS = auto()  # what to archive, where there are no deeper tiers


@dataclass(frozen=True, slots=True)
class Caches:
    """The KV tier as it is: what is kept of which memory, and what else takes room."""

    kept: Mapping[str, Kept]  # by memory
    others_disk_bytes: int
    bytes_per_token: int  # 0: no KV caches can be made of memories


def budgets_of(settings: Settings) -> Budgets:
    """What the scheduler may use."""
    return Budgets(
        ram_bytes=settings.kv_ram_bytes // RAM_SHARE,
        disk_bytes=settings.kv_disk_bytes,
        training_minutes=settings.training_minutes if settings.lora else 0.0,
        quiet=tuple(QuietHours(start, end) for start, end in settings.quiet_hours),
    )


def read_state(
    parts: Parts,
    caches: Caches | None,
    now: datetime,
    chances: Mapping[str, tuple[float, str]],
    lately: Mapping[str, tuple[Crossing, ...]],
    look: Look,
    *,
    quotas: bool = True,
) -> State:
    """What there is to decide about. `lately` are crossings that only this process knows of. `quotas`: of cubes
    that are nearly full too, of which everything is read.
    """
    kept = {} if caches is None else caches.kept
    tiers = look is not Look.QUOTAS
    with parts.vault.reading() as connection:
        cubes = {cube.name: cube for cube in queries.cubes(connection)}
        full: dict[str, CubePolicy] = {}
        if quotas and look is not Look.CACHES:
            full = {name: cube.policy for name, cube in cubes.items() if _is_nearly_full(connection, cube)}
        known, adapters = adapters_there(connection) if tiers else ({}, {})
        ids: set[str] = {*kept, *known} if tiers else set()
        if look is Look.ALL:
            ids.update(warm_since(connection, now - WARM_FOR, MOST_WARM))
        memories = _memories(connection, ids, full, now)
        heat = heat_of(connection, list(memories))
        last = _last_access(connection, list(memories))
        wholes = _wholes(connection, memories)
        runs, cost = trainings(connection, now) if tiers else ((), TrainingCost())
    units = {}
    for id, memory in memories.items():
        unit = _unit(memory, cubes[memory.cube], heat.get(id, HeatRow(id)), last.get(id), wholes.get(id, ""))
        unit = _placed(unit, memory, caches, known, adapters)
        chance, why = chances.get(id, (0.0, "")) if memory.cube not in adapters else (0.0, "")
        fresh = {crossing.level: crossing for crossing in lately.get(id, ())}
        crossed = tuple(crossing for crossing in unit.crossed if crossing.level not in fresh)
        units[id] = replace(unit, chance=chance, chance_reason=why, crossed=crossed + tuple(fresh.values()))
    # How long something may lie unused is upkeep's to see to: the plan only hears of quotas.
    policies = {name: replace(policy, decay_days=None) for name, policy in full.items()}
    taken = Taken(disk_bytes=caches.others_disk_bytes if caches is not None else 0)
    return State(units, policies, adapters, runs, cost, taken)


def _is_nearly_full(connection: Connection, cube: MemCube) -> bool:
    policy: CubePolicy = cube.policy
    if cube.mounted is not None or not is_limited(policy):
        return False
    memories, size = queries.holdings(connection, cube.name, exact=False)
    return (policy.max_memories is not None and memories >= FULL_FROM * policy.max_memories) or (
        policy.max_bytes is not None and size >= FULL_FROM * policy.max_bytes
    )


def _memories(connection: Connection, ids: Collection[str], full: Collection[str], now: datetime) -> dict[str, Memory]:
    found = [record.memory for record in queries.records(connection, sorted(ids)).values()]
    found += [record.memory for name in sorted(full) for record in queries.live(connection, name)]
    return {memory.id: memory for memory in found if memory.state in LIVE and not is_expired(memory, now)}


def _last_access(connection: Connection, ids: Sequence[str]) -> dict[str, datetime]:
    rows = connection.execute(
        "SELECT id, last_access FROM usage WHERE id IN (SELECT unnest(?::VARCHAR[]))", [ids]
    ).fetchall()
    return {id: known_time(at) for id, at in rows}


def _wholes(connection: Connection, memories: Mapping[str, Memory]) -> dict[str, str]:
    """The long text that each piece is of, and each whole its own."""
    rows = connection.execute(
        "SELECT derived, source FROM lineage WHERE relation = 'part_of' AND derived IN (SELECT unnest(?::VARCHAR[]))",
        [list(memories)],
    ).fetchall()
    return {**dict(rows), **{id: id for id, memory in memories.items() if memory.descriptive.parts}}


def _unit(memory: Memory, cube: MemCube, row: HeatRow, last_access: datetime | None, whole: str) -> Unit:
    about, rules = memory.descriptive, memory.governance
    heat = heat_from(row)
    times = [at for at in (heat.last, last_access) if at is not None]
    return Unit(
        id=memory.id,
        cube=memory.cube,
        created_at=about.created_at,
        heat=replace(heat, last=max(times)) if times and heat.last is None else heat,
        content_bytes=len(memory.content.encode("utf-8", "surrogatepass")),
        changed_at=about.updated_at if memory.version > 1 else None,
        priority=rules.priority,
        pinned=rules.pinned,
        frozen=rules.frozen,
        trainable=cube.mounted is None and rules.sensitivity is Sensitivity.NORMAL and not about.parts,
        whole=whole,
        crossed=crossings(row),
    )


def _placed(
    unit: Unit,
    memory: Memory,
    caches: Caches | None,
    known: Mapping[str, tuple[int, str]],
    adapters: Mapping[str, Adapter],
) -> Unit:
    """The level that it is at, and what it takes or would take there."""
    if known.get(memory.id, (0, "")) == (memory.version, memory.cube):
        trained_at = adapters[memory.cube].trained_at
        earlier = tuple(crossing for crossing in unit.crossed if crossing.level is not Level.LORA)
        return replace(unit, level=Level.LORA, crossed=(*earlier, Crossing(Level.LORA, trained_at, True)))
    if caches is None:
        return unit
    kept = caches.kept.get(memory.id)
    if kept is not None and kept.version == memory.version:
        level = Level.RAM if kept.in_ram else Level.KV
        return replace(unit, level=level, kv_bytes=kept.disk_bytes, ram_bytes=kept.ram_bytes)
    tokens = len(memory.content) // CHARS_PER_TOKEN
    if tokens < WORTH_TOKENS or memory.descriptive.parts or memory.cube in adapters:
        return unit  # no cache is worth building: it is short, or replies go through an adapter, which reads none
    return replace(unit, kv_bytes=tokens * caches.bytes_per_token, ram_bytes=tokens * caches.bytes_per_token)


# --- adapters ---------------------------------------------------------------------------------------------------------


def adapters_there(connection: Connection) -> tuple[dict[str, tuple[int, str]], dict[str, Adapter]]:
    """What the serving adapters are proven to know (version and cube, by id), and these adapters by cube."""
    known: dict[str, tuple[int, str]] = {}
    adapters: dict[str, Adapter] = {}
    for row in adapters_of(connection):
        if row.state is not AdapterState.SERVING:
            continue
        size = next((one.bytes for one in artifacts_of(connection, row.cube) if one.id == row.artifact), 0)
        adapters[row.cube] = Adapter(row.cube, size, row.changed_at)
        known.update({id: (version, row.cube) for id, version in known_pairs(row)})
    return known, adapters


def trainings(connection: Connection, now: datetime) -> tuple[tuple[tuple[datetime, float], ...], TrainingCost]:
    """When trainings began and how many minutes each took, and what one costs by these."""
    rows = connection.execute(
        "SELECT began_at, ended_at FROM work WHERE what IN (SELECT unnest(?::VARCHAR[])) AND began_at IS NOT NULL"
        " ORDER BY asked_at, id",
        [[*TRAININGS]],
    ).fetchall()
    runs = []
    for began_at, ended_at in rows:
        began, ended = known_time(began_at), now if ended_at is None else known_time(ended_at)
        runs.append((began, max(0.0, (ended - began).total_seconds() / 60)))
    sizes = [
        artifact for (artifact,) in connection.execute("SELECT bytes FROM artifacts WHERE kind = 'lora'").fetchall()
    ]
    cost = TrainingCost()
    return tuple(runs), replace(cost, adapter_bytes=max(sizes)) if sizes else cost
