"""Artifacts: which KV caches and adapters were derived from which versions of which memories.

Nothing derived outlives its source: a transaction that changes or erases a memory drops the artifacts that were derived
from it (`drop_derived`, which the writer calls before each commit), and their blobs go before the caller hears of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine.vault.connection import Connection
from engine.vault.rows import known_time, stored_time
from engine.vault.staging import SHOWN

if TYPE_CHECKING:
    from engine.vault.transaction import Transaction

COLUMNS = ("id", "cube", "kind", "fingerprint", "digest", "bytes", "header", "created_at", "revision")
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM artifacts"


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    id: str
    cube: str
    kind: str
    fingerprint: str  # of the model that it belongs to
    digest: str  # of the blob
    bytes: int
    sources: tuple[tuple[str, int], ...]  # (memory id, version)
    metadata: str | None
    created_at: datetime


def artifacts_of(connection: Connection, cube: str) -> list[ArtifactRow]:
    """The artifacts of a cube, by id."""
    rows = connection.execute(f"{_SELECT} WHERE cube = ? ORDER BY id", [cube]).fetchall()
    return [_row_of(row, connection) for row in rows]


def put_artifacts(transaction: Transaction, rows: Sequence[ArtifactRow], revision: int) -> None:
    """Insert rows of artifacts. Each blob is stored after its row, and read only when it is there."""
    seal = transaction.connection.sealer.text
    transaction.insert(
        "artifacts",
        COLUMNS,
        [
            (
                row.id,
                row.cube,
                row.kind,
                row.fingerprint,
                row.digest,
                row.bytes,
                seal(json.dumps({"sources": row.sources, "metadata": row.metadata}), f"artifact:{row.id}:header"),
                stored_time(row.created_at),
                revision,
            )
            for row in rows
        ],
    )


def drop_derived(transaction: Transaction) -> Mapping[str, int]:
    """Drop what was derived from memories that this transaction changed or erased; how many of each kind."""
    changed = transaction.outdated
    if not changed:
        return {}
    rows = transaction.rows(f"{_SELECT} WHERE {SHOWN}")
    found = [_row_of(row, transaction.connection) for row in rows]
    stale = [row for row in found if any(changed.get(id, version) != version for id, version in row.sources)]
    if stale:
        transaction.execute(
            "DELETE FROM artifacts WHERE id IN (SELECT unnest(?::VARCHAR[]))", [[row.id for row in stale]]
        )
        transaction.unneeded.update(row.digest for row in stale)
    transaction.outdated.clear()
    return Counter(row.kind for row in stale)


def needed(connection: Connection, digests: Iterable[str] | None = None) -> set[str]:
    """The digests (of these, or all) that a row names."""
    among, which = ("", []) if digests is None else (" WHERE digest IN (SELECT unnest(?::VARCHAR[]))", [list(digests)])
    return {row[0] for row in connection.execute(f"SELECT DISTINCT digest FROM artifacts{among}", which).fetchall()}


def _row_of(row: Sequence[Any], connection: Connection) -> ArtifactRow:
    header = json.loads(connection.sealer.read_text(row[6], f"artifact:{row[0]}:header"))
    sources = tuple((id, version) for id, version in header["sources"])
    return ArtifactRow(row[0], row[1], row[2], row[3], row[4], row[5], sources, header["metadata"], known_time(row[7]))
