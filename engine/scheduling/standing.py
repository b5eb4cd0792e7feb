"""How the scheduler stands, as it is shown: parts, budgets, what is at which level, what it did last. Reads only."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from engine.errors import NotAllowed
from engine.operations import Caller
from engine.parts import Parts
from engine.scheduler.moves import Budgets, Level, Part
from engine.scheduling.log import NAMES, entries
from engine.scheduling.state import Caches, adapters_there, trainings
from engine.tier_operations import SchedulerStatus
from engine.vault import queries
from engine.vault.staging import SHOWN

RECENT = 10  # moves
MB = 1e6


def require_owner(caller: Caller) -> None:
    """Raises `NotAllowed`: what the scheduler sees and does is about everybody's memories."""
    if not caller.principal.owner:
        raise NotAllowed("the scheduler is for the owner of the store: `memos-mcp audit` shows what changed in a cube")


def status_of(
    parts: Parts,
    caches: Caches | None,
    budgets: Budgets,
    now: datetime,
    *,
    parts_on: Collection[Part],
    last_run: datetime | None,
    predicted: int,
    remarks: tuple[str, ...],
) -> SchedulerStatus:
    """The status, as of now."""
    kept = [] if caches is None else list(caches.kept.values())
    with parts.vault.reading() as connection:
        rows = connection.execute(
            f"SELECT state, count(*) FROM memories WHERE parts = 0 AND {SHOWN} GROUP BY state"
        ).fetchall()
        known, adapters = adapters_there(connection)
        runs, _ = trainings(connection, now)
        recent = entries(connection, RECENT)
    states = {state: int(count) for state, count in rows}
    live = sum(states.get(state, 0) for state in queries.LIVE_STATES)
    in_ram = [one for one in kept if one.in_ram]
    levels = {
        Level.ARCHIVED: states.get("archived", 0),
        Level.TEXT: max(0, live - len({one.memory for one in kept} | set(known))),
        Level.KV: len(kept) - len(in_ram),
        Level.RAM: len(in_ram),
        Level.LORA: len(known),
    }
    disk = sum(one.disk_bytes for one in kept) + (0 if caches is None else caches.others_disk_bytes)
    disk += sum(adapter.bytes for adapter in adapters.values())
    minutes = sum(took for at, took in runs if at > now - timedelta(days=1))
    return SchedulerStatus(
        parts=tuple((part.value, part in parts_on) for part in Part),
        budgets=(
            ("MB of RAM for memories held ready", sum(one.ram_bytes for one in in_ram) / MB, budgets.ram_bytes / MB),
            ("MB of disk for caches and adapters", disk / MB, budgets.disk_bytes / MB),
            ("minutes of training in 24 hours", minutes, budgets.training_minutes),
        ),
        quiet=budgets.is_quiet(now.astimezone()),
        last_run=last_run,
        levels=tuple((NAMES[level], count) for level, count in levels.items()),
        predicted=predicted,
        recent=recent,
        remarks=remarks,
    )
