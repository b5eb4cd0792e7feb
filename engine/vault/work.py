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
MOST_ENDED = 1_000  # of a kind: what ended before these is forgotten
RETRAINING = "memories that the adapter was made from changed or were forgotten"
INTERRUPTED = f"it was begun {MOST_ATTEMPTS} times and the process ended each time: ask for it again by hand"
_OLD = (  # it takes a time and a number
    "SELECT id FROM work WHERE ended_at IS NOT NULL"
    " QUALIFY ended_at < ? OR row_number() OVER (PARTITION BY what ORDER BY ended_at DESC, id) > ?"
)
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


def next_work(connection: Connection, kinds: Collection[str], without: Collection[str]) -> WorkRow | None:
    """What waits longest of these kinds, but for some ids."""
    where = "state = 'waiting' AND what IN (SELECT unnest(?::VARCHAR[])) AND id NOT IN (SELECT unnest(?::VARCHAR[]))"
    found = _rows(connection, where, [[*kinds], [*without]], "ORDER BY asked_at, id LIMIT 1")
    return found[0] if found else None


def waiting_work(connection: Connection, what: str, cube: str, limit: int) -> list[WorkRow]:
    """Work of a kind that waits for a cube, what was asked for last first."""
    where = "state = 'waiting' AND what = ? AND cube = ?"
    return _rows(connection, where, [what, cube, limit], "ORDER BY asked_at DESC, id DESC LIMIT ?")


def open_work(connection: Connection, what: str, cube: str) -> list[WorkRow]:
    """Work of a kind for a cube that is not over."""
    return _rows(connection, "state IN ('waiting', 'running') AND what = ? AND cube = ?", [what, cube])


def some_work(
    connection: Connection, state: WorkState, cubes: Collection[str] | None, since: datetime | None, limit: int
) -> tuple[list[WorkRow], int]:
    """The first of the work in a state, and how much there is; of these cubes (None: all), ended from `since` on."""
    where = "state = ?"
    values: list[Any] = [state.value]
    if cubes is not None:
        where, values = f"{where} AND cube IN (SELECT unnest(?::VARCHAR[]))", [*values, [*cubes]]
    if since is not None:
        where, values = f"{where} AND ended_at >= ?", [*values, stored_time(since)]
    count = connection.execute(f"SELECT count(*) FROM work WHERE {where}", values).fetchall()[0][0]
    return _rows(connection, where, [*values, limit], "ORDER BY asked_at, id LIMIT ?") if count else [], int(count)


def open_ids(connection: Connection, what: str | None = None) -> set[str]:
    """The work that is not over; of a kind, or all."""
    found = connection.execute(
        "SELECT id FROM work WHERE state IN ('waiting', 'running') AND what = coalesce(?, what)", [what]
    ).fetchall()
    return {id for (id,) in found}


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
    forget_ended(transaction)


def forget_ended(transaction: Transaction) -> None:
    """Forget what became of old work."""
    transaction.execute(f"DELETE FROM work WHERE id IN ({_OLD})", [*_old_by(transaction.now)])


def has_old(connection: Connection, now: datetime) -> bool:
    """Whether there is work to be forgotten."""
    return bool(connection.execute(f"{_OLD} LIMIT 1", [*_old_by(now)]).fetchall())


def _old_by(now: datetime) -> tuple[datetime | None, int]:
    return stored_time(now - KEPT_FOR), MOST_ENDED


def _place(id: str) -> str:
    return f"work:{id}:header"
