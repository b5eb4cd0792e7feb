"""Long work that outlives the process: what waits, what runs, what became of it.

Work is asked for in the transaction that makes it necessary, so it is there however the process ends. What was running
when a process died is waiting again at the next start (`take_up`), and goes on from its checkpoint where it has one.
An adapter that served and goes with one of its memories is asked for anew from the others (`ask_retraining`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from engine.tier_operations import AdapterState, WorkState
from engine.vault.adapters import adapters_of
from engine.vault.connection import Connection
from engine.vault.rows import known_time, stored_time

if TYPE_CHECKING:
    from engine.vault.artifacts import ArtifactRow
    from engine.vault.transaction import Transaction

RETRAIN = "retrain"
REBUILD = "rebuild"  # the KV of a cube's pinned block, where the model is loaded anyway
COLUMNS = ("id", "cube", "what", "state", "header", "attempts", "asked_at", "began_at", "ended_at")
MOST_ATTEMPTS = 3  # after so many that never came to an end it is given up: it may be what ends the process
KEPT_FOR = timedelta(days=30)
RETRAINING = "memories that the adapter was made from changed or were forgotten"
INTERRUPTED = f"it was begun {MOST_ATTEMPTS} times and the process ended each time: ask for it again by hand"
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM work"


@dataclass(frozen=True, slots=True)
class WorkRow:
    """`header` is JSON: what it is to do, why (`reason`), and at the end what became of it (`told`)."""

    id: str
    cube: str
    what: str
    state: WorkState
    header: Mapping[str, Any]
    attempts: int
    asked_at: datetime
    began_at: datetime | None = None
    ended_at: datetime | None = None


def all_work(connection: Connection, states: tuple[WorkState, ...] = tuple(WorkState)) -> list[WorkRow]:
    """Work in these states, in the order in which it was asked for."""
    return _rows(connection, "state IN (SELECT unnest(?::VARCHAR[]))", [[*states]])


def _rows(
    connection: Connection, where: str, values: Sequence[Any], tail: str = "ORDER BY asked_at, id"
) -> list[WorkRow]:
    rows = connection.execute(f"{_SELECT} WHERE {where} {tail}", list(values)).fetchall()
    return [
        WorkRow(
            *(row[0], row[1], row[2], WorkState(row[3])),
            json.loads(connection.sealer.read_text(row[4], _place(row[0]))),
            *(row[5], known_time(row[6])),
            *(None if at is None else known_time(at) for at in row[7:9]),
        )
        for row in rows
    ]


def work_of(connection: Connection, id: str, states: tuple[WorkState, ...] = tuple(WorkState)) -> WorkRow | None:
    """One piece of work, if it is in one of these states."""
    found = _rows(connection, "id = ? AND state IN (SELECT unnest(?::VARCHAR[]))", [id, [*states]])
    return found[0] if found else None


def put_work(transaction: Transaction, row: WorkRow) -> None:
    """Insert work, or replace what is said of it."""
    header = transaction.connection.sealer.text(json.dumps(row.header), _place(row.id))
    times = [None if at is None else stored_time(at) for at in (row.asked_at, row.began_at, row.ended_at)]
    values = (row.id, row.cube, row.what, row.state.value, header, row.attempts, *times)
    transaction.insert("work", COLUMNS, [values], replace_=True)


def ask_for(transaction: Transaction, id: str, cube: str, what: str, header: Mapping[str, Any]) -> WorkRow:
    """Note that there is work, for whoever does it in the background."""
    row = WorkRow(id, cube, what, WorkState.WAITING, header, 0, transaction.now)
    put_work(transaction, row)
    return row


def ask_retraining(transaction: Transaction, gone: Collection[ArtifactRow]) -> None:
    """Adapters are about to go, since memories that they were made from changed: ask for those that served anew.

    Before their rows go. A cube of which nothing is left is asked nothing.
    """
    known = {row.artifact: row for row in adapters_of(transaction.connection)} if gone else {}
    for row in gone:
        version, ids = known.get(row.id), [id for id, _ in row.sources]
        if version is None or version.state is not AdapterState.SERVING:
            continue
        there = transaction.rows("SELECT id FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[]))", [ids])
        left = [id for id in ids if (id,) in there]
        if left:
            header: dict[str, Any] = {"ids": left, "instead": row.id, "reason": RETRAINING}
            header |= {name: version.header[name] for name in ("rank", "seed") if name in version.header}
            header |= {"erased": len(ids) - len(left)} if len(left) < len(ids) else {}
            ask_for(transaction, f"w_{row.id.partition('_')[2]}", row.cube, RETRAIN, header)


def take_up(transaction: Transaction) -> None:
    """At a start: what was running waits again, but for what never comes to an end; old ends are forgotten."""
    for row in all_work(transaction.connection, (WorkState.RUNNING,)):
        if row.attempts >= MOST_ATTEMPTS:
            header = {**row.header, "told": INTERRUPTED}
            ended = replace(row, state=WorkState.FAILED, header=header, ended_at=transaction.now)
            put_work(transaction, ended)
        else:
            transaction.execute("UPDATE work SET state = ? WHERE id = ?", [WorkState.WAITING.value, row.id])
    transaction.execute("DELETE FROM work WHERE ended_at < ?", [stored_time(transaction.now - KEPT_FOR)])


def _place(id: str) -> str:
    return f"work:{id}:header"
