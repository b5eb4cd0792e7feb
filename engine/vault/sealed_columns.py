"""Which columns of the vault are sealed in an encrypted store, and under which place; all others stay readable.

One table says it for whoever treats all rows alike: the one who seals a store, opens it again, or checks that every
value opens. The places are those under which `rows`, `audit`, `transaction` and `engine.parts` write.

What must stay true: every column of every table stands here, sealed or readable (a test compares with the schema);
readable are ids, names of cubes, kinds, states, times, sizes, counts, names of principals and clients, and paths of
mounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import duckdb

from engine.errors import Corrupt
from engine.vault.audit import AUDIT_HEAD
from engine.vault.connection import Connection
from engine.vault.sealing import Sealer

BATCH_ROWS = 256
SHOWN = 20  # places that do not open, of one table
KEY_PLACE = "meta:key"


class Form(Enum):
    TEXT = auto()
    BLOB = auto()
    NAME = auto()


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """`place` is a format string over the columns of the row."""

    column: str
    place: str
    form: Form = Form.TEXT

    def seal(self, value: Any, row: Mapping[str, Any], sealer: Sealer) -> Any:
        if value is None:
            return None
        if self.form is Form.NAME:
            return sealer.name(value)
        place = self.place.format_map(row)
        return sealer.blob(value, place) if self.form is Form.BLOB else sealer.text(value, place)

    def open(self, stored: Any, row: Mapping[str, Any], sealer: Sealer) -> Any:
        if stored is None:
            return None
        if self.form is Form.NAME:
            return sealer.read_name(stored)
        place = self.place.format_map(row)
        return sealer.read_blob(stored, place) if self.form is Form.BLOB else sealer.read_text(stored, place)


_OF_A_MEMORY = (
    SealedColumn("content", "{id}:{version}:content"),
    SealedColumn("header", "{id}:{version}:header"),
    SealedColumn("reason", "{id}:{version}:reason"),
    SealedColumn("session", "", Form.NAME),
)
_OF_A_CUBE = SealedColumn("header", "cube:{name}:{version}")

SEALED: Mapping[str, tuple[SealedColumn, ...]] = {
    "memories": _OF_A_MEMORY,
    "versions": _OF_A_MEMORY,
    "cubes": (_OF_A_CUBE,),
    "cube_versions": (_OF_A_CUBE, SealedColumn("reason", "cube:{name}:{version}:reason")),
    "embeddings": (SealedColumn("vectors", "{id}:{embedder}", Form.BLOB),),
    "operations": (SealedColumn("result", "operation:{operation}"),),
    "audit": tuple(SealedColumn(name, f"audit:{{seq}}:{name}") for name in ("reason", "detail", "previous", "hash")),
    "snapshots": (SealedColumn("reason", "snapshot:{cube}:{name}:reason"),),
    "artifacts": (SealedColumn("header", "artifact:{id}:header"),),
    "adapters": (SealedColumn("header", "adapter:{artifact}:header"),),
    "work": (SealedColumn("header", "work:{id}:header"),),
    "scenes": (SealedColumn("session", "", Form.NAME), SealedColumn("vector", "scene:{number}:vector", Form.BLOB)),
}
SEALED_NOTES = {"key": KEY_PLACE, AUDIT_HEAD: AUDIT_HEAD}  # rows of `meta`, and their places

_MEMORY_LABELS = (
    "id label cube version state kind content_key created_at updated_at occurred_at expires_at position author change"
    " revision sensitivity parts recorded"
)
_CUBE_LABELS = "name owner version created_at updated_at mounted revision"
READABLE: Mapping[str, frozenset[str]] = {
    table: frozenset(columns.split())
    for table, columns in {
        "memories": _MEMORY_LABELS,
        "versions": _MEMORY_LABELS,
        "cubes": _CUBE_LABELS,
        "cube_versions": f"{_CUBE_LABELS} author change",
        "tombstones": "id label cube revision sensitivity",
        "lineage": "derived relation source source_version imported",
        "embeddings": "id embedder passages",
        "embedders": "fingerprint source dimension active",
        "usage": "id access_count last_access",
        "operations": "operation arguments ids recorded_at",  # `arguments` is keyed with the sealed key
        "confirmations": "token principal mode items expires_at",
        "audit": "seq recorded_at actor client action cube ids",
        "snapshots": "cube name moment author revision",
        "mounts": "path kind cube added_at",
        "artifacts": "id cube kind fingerprint digest bytes created_at revision sources uses heat last_use vouched",
        "adapters": "artifact cube version state changed_at",
        "work": "id cube what state attempts asked_at began_at ended_at",
        "heat": "id fast slow uses helped misled last_use crossed",
        "scenes": "number asked_at used",
        "meta": "key value",  # but for SEALED_NOTES
    }.items()
}


def tables(raw: duckdb.DuckDBPyConnection, database: str) -> dict[str, list[str]]:
    """The columns of every table, in their order."""
    rows = raw.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = ? AND NOT internal"
        " ORDER BY table_name, column_index",
        [database],
    ).fetchall()
    found: dict[str, list[str]] = {}
    for table, column in rows:
        found.setdefault(table, []).append(column)
    return found


def opened(table: str, columns: Sequence[str], row: Sequence[Any], sealer: Sealer) -> dict[str, Any]:
    """The row with its sealed values open.

    Raises:
        Corrupt: one does not open.
    """
    found = dict(zip(columns, row, strict=True))
    if table == "meta":
        if found["key"] in SEALED_NOTES:
            found["value"] = sealer.read_text(found["value"], SEALED_NOTES[found["key"]])
        return found
    return found | {item.column: item.open(found[item.column], found, sealer) for item in SEALED.get(table, ())}


def sealed(table: str, row: Mapping[str, Any], sealer: Sealer) -> tuple[Any, ...]:
    """The values of an open row as they are stored under `sealer`."""
    stored = dict(row)
    if table == "meta":
        if row["key"] in SEALED_NOTES:
            stored["value"] = sealer.text(row["value"], SEALED_NOTES[row["key"]])
    else:
        stored |= {item.column: item.seal(row[item.column], row, sealer) for item in SEALED.get(table, ())}
    return tuple(stored.values())


def stored_rows(cursor: duckdb.DuckDBPyConnection, name: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a table in the order in which they stand there, a few at a time. `name` may name a database too."""
    quoted = ", ".join(f'"{column}"' for column in columns)
    cursor.execute(f"SELECT {quoted} FROM {name}")
    while rows := cursor.fetchmany(BATCH_ROWS):
        yield from rows


def unopened(connection: Connection) -> list[str]:
    """What of an encrypted store does not open; empty: every sealed value was written here and stands in its place."""
    if connection.sealer.plain:
        return []
    found: list[str] = []
    database = connection.execute("SELECT current_database()").fetchall()[0][0]
    for table, columns in tables(connection.raw, database).items():
        count = 0
        for row in stored_rows(connection.raw, f'"{table}"', columns):
            try:
                opened(table, columns, row, connection.sealer)
            except Corrupt as error:
                count += 1
                if count <= SHOWN:
                    found.append(f"in table {table}: {error}")
        if count > SHOWN:
            found.append(f"in table {table}: {count - SHOWN} more sealed values do not open")
    return found
