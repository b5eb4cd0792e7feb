"""Versions of adapters: which of a cube's is serving, what each knows, and how it was made.

The weights are an artifact of the kind `lora` with a blob. A version's number is never given out again: when its
artifact goes, for whatever reason, its row stays as `gone` and says nothing of what it knew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine.tier_operations import AdapterState
from engine.vault.connection import Connection
from engine.vault.rows import known_time, stored_time

if TYPE_CHECKING:
    from engine.vault.transaction import Transaction

KIND = "lora"
COLUMNS = ("artifact", "cube", "version", "state", "header", "changed_at")
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM adapters"


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """`header` is JSON: what the distiller wrote of it; empty: it is gone."""

    artifact: str
    cube: str
    version: int
    state: AdapterState
    header: Mapping[str, Any]
    changed_at: datetime


def adapters_of(connection: Connection, cube: str | None = None) -> list[AdapterRow]:
    """The versions of a cube's adapter (None: of all cubes), oldest first, those that are gone too."""
    where, which = ("", []) if cube is None else (" WHERE cube = ?", [cube])
    rows = connection.execute(f"{_SELECT}{where} ORDER BY cube, version", which).fetchall()
    return [
        AdapterRow(
            row[0],
            row[1],
            row[2],
            AdapterState(row[3]),
            json.loads(connection.sealer.read_text(row[4], _place(row[0]))),
            known_time(row[5]),
        )
        for row in rows
    ]


def next_version(transaction: Transaction, cube: str) -> int:
    """The number of the next version of a cube's adapter."""
    return int(transaction.rows("SELECT coalesce(max(version), 0) + 1 FROM adapters WHERE cube = ?", [cube])[0][0])


def put_adapter(transaction: Transaction, row: AdapterRow) -> None:
    """Insert a version, or replace what is said of it."""
    header = transaction.connection.sealer.text(json.dumps(row.header), _place(row.artifact))
    values = (row.artifact, row.cube, row.version, row.state.value, header, stored_time(row.changed_at))
    transaction.insert("adapters", COLUMNS, [values], replace_=True)


def set_state(transaction: Transaction, artifact: str, state: AdapterState) -> None:
    transaction.execute(
        "UPDATE adapters SET state = ?, changed_at = ? WHERE artifact = ?",
        [state.value, stored_time(transaction.now), artifact],
    )


def let_go(transaction: Transaction, artifacts: Collection[str]) -> None:
    """The artifacts are no more: nothing of what these versions knew is kept."""
    empty = {id: transaction.connection.sealer.text("{}", _place(id)) for id in artifacts}
    known = transaction.rows(
        "SELECT artifact FROM adapters WHERE artifact IN (SELECT unnest(?::VARCHAR[]))", [[*empty]]
    )
    for (id,) in known:
        transaction.execute(
            "UPDATE adapters SET state = ?, header = ?, changed_at = ? WHERE artifact = ?",
            [AdapterState.GONE.value, empty[id], stored_time(transaction.now), id],
        )


def _place(artifact: str) -> str:
    return f"adapter:{artifact}:header"
