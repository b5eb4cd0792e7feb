"""Heat and scenes as rows: how much each memory is used, and what was used for which question.

Both are kept by the scheduler and say nothing of contents but for the vector of what was asked, which is sealed. Being
used is no change: nothing here writes an audit row. `Transaction.erase` removes the heat of what it erases, and every
scene that used it.

What must stay true: the log of scenes is bounded; a scene that names a memory which is not there is never written.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from engine.vault.connection import Connection
from engine.vault.rows import known_time, stored_time
from engine.vault.staging import SHOWN

if TYPE_CHECKING:
    from engine.vault.transaction import Transaction

SCENES_KEPT = 4_000  # the latest ones
HEAT_COLUMNS = ("id", "fast", "slow", "uses", "helped", "misled", "last_use", "crossed")
SCENE_COLUMNS = ("number", "asked_at", "session", "used", "vector")
Crossed = tuple[tuple[int, datetime, bool], ...]  # (level, when, upwards)


@dataclass(frozen=True, slots=True)
class HeatRow:
    """See `engine.scheduler.heat`; `crossed` as in `engine.scheduler.moves`."""

    id: str
    fast: float = 0.0
    slow: float = 0.0
    uses: int = 0
    helped: int = 0
    misled: int = 0
    last_use: datetime | None = None
    crossed: Crossed = ()


@dataclass(frozen=True, slots=True)
class SceneRow:
    """Something was asked, and these memories were used for it. `vector`: float32, little-endian; None: no embedder."""

    asked_at: datetime
    session: str
    used: tuple[str, ...]
    vector: bytes | None = None


def heat_of(connection: Connection, ids: Collection[str]) -> dict[str, HeatRow]:
    """The heat of these memories, as far as any is kept."""
    rows = connection.execute(
        f"SELECT {', '.join(HEAT_COLUMNS)} FROM heat WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(ids)]
    ).fetchall()
    return {
        row[0]: HeatRow(
            *(row[0], row[1], row[2], row[3], row[4], row[5]),
            last_use=None if row[6] is None else known_time(row[6]),
            crossed=_crossed(row[7]),
        )
        for row in rows
    }


def warm_since(connection: Connection, since: datetime, limit: int) -> list[str]:
    """The memories that were used since, the latest first."""
    rows = connection.execute(
        "SELECT id FROM heat WHERE last_use >= ? ORDER BY last_use DESC, id LIMIT ?", [stored_time(since), limit]
    ).fetchall()
    return [row[0] for row in rows]


def put_heat(transaction: Transaction, rows: Sequence[HeatRow]) -> None:
    """Insert or replace."""
    values = [
        (
            *(row.id, row.fast, row.slow, row.uses, row.helped, row.misled),
            None if row.last_use is None else stored_time(row.last_use),
            json.dumps([[level, at.isoformat(), up] for level, at, up in row.crossed]),
        )
        for row in rows
    ]
    transaction.insert("heat", HEAT_COLUMNS, values, replace_=True)


def _crossed(stored: str) -> Crossed:
    return tuple((int(level), datetime.fromisoformat(at), bool(up)) for level, at, up in json.loads(stored))


def scenes(connection: Connection) -> list[SceneRow]:
    """The log, oldest first."""
    rows = connection.execute(f"SELECT {', '.join(SCENE_COLUMNS)} FROM scenes ORDER BY number").fetchall()
    seal = connection.sealer
    return [
        SceneRow(
            known_time(row[1]),
            seal.read_name(row[2]),
            tuple(row[3]),
            None if row[4] is None else seal.read_blob(row[4], f"scene:{row[0]}:vector"),
        )
        for row in rows
    ]


def put_scenes(transaction: Transaction, rows: Iterable[SceneRow]) -> None:
    """Append to the log, but for what names a memory that is not there; the oldest go where it is full."""
    found = list(rows)
    named = {id for row in found for id in row.used}
    there = {
        row[0]
        for row in transaction.rows(
            f"SELECT id FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[])) AND {SHOWN}", [list(named)]
        )
    }
    found = [row for row in found if there.issuperset(row.used)]
    if not found:
        return
    last = int(transaction.rows("SELECT coalesce(max(number), 0) FROM scenes")[0][0])
    seal = transaction.connection.sealer
    values = []
    for number, row in enumerate(found, last + 1):
        vector = None if row.vector is None else seal.blob(row.vector, f"scene:{number}:vector")
        values.append((number, stored_time(row.asked_at), seal.name(row.session), list(row.used), vector))
    transaction.insert("scenes", SCENE_COLUMNS, values)
    transaction.execute("DELETE FROM scenes WHERE number <= ?", [last + len(found) - SCENES_KEPT])
