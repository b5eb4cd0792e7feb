"""What is used, as the scheduler hears of it: heat and scenes, noted in memory and written in batches.

A session is what one principal does through one client without a pause of SESSION_PAUSE. Being used must cost the one
who asks next to nothing: noting appends to a list, and the vault hears of many uses in one transaction.

What must stay true: what is erased is written no more, whatever waited; a turn of which nothing was used is kept in no
log; a batch that cannot be written is lost and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from engine.operations import Caller
from engine.parts import Parts
from engine.scheduler.heat import COLD, Event, Heat, Use, after
from engine.scheduler.moves import Crossing, Level
from engine.scheduler.scenes import Turn
from engine.vault import Transaction
from engine.vault.heat import HeatRow, SceneRow, heat_of, put_heat, put_scenes
from engine.vault.staging import SHOWN

SESSION_PAUSE = timedelta(minutes=30)
SESSIONS_KNOWN = 64  # of which it is remembered when they were last heard of
WRITTEN_TOGETHER = 64  # turns
BETWEEN = "|"  # no principal's name has it

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Noted:
    """One turn, not written yet."""

    event: Event
    turn: Turn


class Noting:
    """The turns that wait. Safe to use from many threads."""

    def __init__(self, parts: Parts, *, scenes: bool) -> None:
        self._parts, self._scenes = parts, scenes
        self._waiting: list[Noted] = []
        self._sessions: dict[tuple[str, str], tuple[str, datetime]] = {}
        self._lock = threading.Lock()

    def note(self, event: Event, ids: Sequence[str], caller: Caller, vector: Vector | None) -> Turn | None:
        """Memories were used by a caller; `vector` is of what it asked. The turn, where there was any use."""
        if not ids:
            return None
        now = self._parts.clock.now()
        with self._lock:
            turn = Turn(self._session(caller, now), now, tuple(dict.fromkeys(ids)), vector)
            self._waiting.append(Noted(event, turn))
        return turn

    def _session(self, caller: Caller, now: datetime) -> str:
        who = (caller.principal.name, caller.client)
        name, last = self._sessions.pop(who, ("", now))
        if not name or now - last > SESSION_PAUSE:
            name = BETWEEN.join((*who, now.isoformat()))
        self._sessions[who] = name, now
        if len(self._sessions) > SESSIONS_KNOWN:
            del self._sessions[next(iter(self._sessions))]
        return name

    @property
    def due(self) -> bool:
        return len(self._waiting) >= WRITTEN_TOGETHER

    def write(self) -> int:
        """Write what waits; how many turns these were."""
        with self._lock:
            noted, self._waiting = self._waiting, []
        if not noted:
            return 0

        def job(transaction: Transaction) -> None:
            put_heat(transaction, _heated(transaction, noted))
            if self._scenes:
                put_scenes(transaction, [_scene(one.turn) for one in noted if one.event is not Event.OPENED])

        self._parts.vault.write(job, Caller())
        return len(noted)

    def forget(self, ids: Collection[str]) -> None:
        """These are erased: turns that used them go."""
        with self._lock:
            self._waiting = [one for one in self._waiting if not set(one.turn.used).intersection(ids)]


def principal_of(session: str) -> str:
    return session.partition(BETWEEN)[0]


def _heated(transaction: Transaction, noted: Sequence[Noted]) -> list[HeatRow]:
    """The heat of what was used, with the new uses in it; of what is still there."""
    used = {id for one in noted for id in one.turn.used}
    there = transaction.rows(
        f"SELECT id FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[])) AND {SHOWN}", [list(used)]
    )
    rows = heat_of(transaction.connection, used)
    heats = {id: heat_from(rows[id]) if id in rows else COLD for (id,) in there}
    for one in noted:
        for id in one.turn.used:
            if id in heats:
                heats[id] = after(heats[id], Use(id, one.turn.at, one.event))
    return [row_of(id, heat, rows[id].crossed if id in rows else ()) for id, heat in sorted(heats.items())]


def _scene(turn: Turn) -> SceneRow:
    vector = None if turn.vector is None else np.asarray(turn.vector, dtype="<f4").tobytes()
    return SceneRow(turn.at, turn.session, turn.used, vector)


# --- rows and values --------------------------------------------------------------------------------------------------


def heat_from(row: HeatRow) -> Heat:
    return Heat(row.fast, row.slow, row.uses, row.helped, row.misled, row.last_use)


def row_of(id: str, heat: Heat, crossed: tuple[tuple[int, datetime, bool], ...]) -> HeatRow:
    return HeatRow(id, heat.fast, heat.slow, heat.uses, heat.helped, heat.misled, heat.last, crossed)


def crossings(row: HeatRow) -> tuple[Crossing, ...]:
    return tuple(Crossing(Level(level), at, up) for level, at, up in row.crossed)


def cross(transaction: Transaction, ids: Iterable[str], made: Mapping[Level, bool]) -> None:
    """Keep with memories which boundaries they crossed now (True: upwards), so that windows survive a restart."""
    wanted = list(ids)
    rows = heat_of(transaction.connection, wanted)
    there = transaction.rows(f"SELECT id FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[])) AND {SHOWN}", [wanted])
    fresh = tuple((int(level), transaction.now, up) for level, up in made.items())
    changed = []
    for (id,) in there:
        row = rows.get(id, HeatRow(id))
        kept = tuple(old for old in row.crossed if Level(old[0]) not in made)
        changed.append(row_of(id, heat_from(row), kept + fresh))
    put_heat(transaction, changed)
