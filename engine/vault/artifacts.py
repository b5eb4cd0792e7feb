"""Artifacts: which KV caches and adapters were derived from which versions of which memories.

Nothing derived outlives its source: a transaction that changes or erases a memory drops the artifacts that were derived
from it (`drop_derived`, which the writer calls before each commit), and their blobs go before the caller hears of it.
What was derived from a conversation belongs to no cube: such a row has `CONVERSATION` in place of one, so that no cube
shows or packs it, and every erasure drops all of these, since what a conversation quoted cannot be traced.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine.vault.adapters import KIND as ADAPTER
from engine.vault.adapters import let_go
from engine.vault.connection import Connection
from engine.vault.rows import known_time, stored_time
from engine.vault.staging import SHOWN
from engine.vault.work import ask_retraining

if TYPE_CHECKING:
    from engine.vault.transaction import Transaction

CONVERSATION = ""  # no cube's name is empty
COLUMNS = (
    *("id", "cube", "kind", "fingerprint", "digest", "bytes", "header", "created_at", "revision"),
    *("sources", "uses", "heat", "last_use", "vouched"),
)
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM artifacts"
_DERIVED_FROM = f"""{_SELECT} WHERE {SHOWN} AND (sources IS NULL OR id IN (
    SELECT id FROM (SELECT id, unnest(sources) AS source FROM artifacts)
    WHERE source IN (SELECT unnest(?::VARCHAR[]))))"""


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    id: str
    cube: str  # or CONVERSATION
    kind: str
    fingerprint: str  # of the model that it belongs to
    digest: str  # of the blob
    bytes: int
    sources: tuple[tuple[str, int], ...]  # (memory id, version)
    metadata: str | None
    created_at: datetime
    uses: int = 0
    heat: float = 0.0  # uses that fade, as of `last_use`
    last_use: datetime | None = None
    vouched: bool = True  # False: it came with a file of somebody unknown, and was not checked yet


def artifacts_of(connection: Connection, cube: str) -> list[ArtifactRow]:
    """The artifacts of a cube, by id."""
    rows = connection.execute(f"{_SELECT} WHERE cube = ? ORDER BY id", [cube]).fetchall()
    return [_row_of(row, connection) for row in rows]


def artifacts_with(connection: Connection, memories: Collection[str]) -> list[ArtifactRow]:
    """The artifacts of cubes that were derived from any of these memories, by id."""
    rows = connection.execute(
        f"{_SELECT} WHERE cube <> ? AND {SHOWN} AND id IN (SELECT id FROM (SELECT id, unnest(sources) AS source"
        " FROM artifacts) WHERE source IN (SELECT unnest(?::VARCHAR[]))) ORDER BY id",
        [CONVERSATION, list(memories)],
    ).fetchall()
    return [_row_of(row, connection) for row in rows]


def artifacts_of_kind(connection: Connection, kind: str, without: Collection[str] = ()) -> list[ArtifactRow]:
    """All artifacts of a kind, those of conversations too, but for those with these ids."""
    rows = connection.execute(
        f"{_SELECT} WHERE kind = ? AND {SHOWN} AND id NOT IN (SELECT unnest(?::VARCHAR[]))", [kind, list(without)]
    ).fetchall()
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
                list(dict.fromkeys(id for id, _ in row.sources)),
                row.uses,
                row.heat,
                None if row.last_use is None else stored_time(row.last_use),
                row.vouched,
            )
            for row in rows
        ],
    )


def outdated_artifacts(transaction: Transaction) -> dict[str, ArtifactRow]:
    """What was derived from memories that this transaction changed or erased and is still there, by id."""
    changed, stale = transaction.outdated, dict[str, ArtifactRow]()
    if changed:
        rows = transaction.rows(_DERIVED_FROM, [list(changed)])
        for row in (_row_of(row, transaction.connection) for row in rows):
            if any(changed.get(id, version) != version for id, version in row.sources):
                stale[row.id] = row
    if transaction.erasing:
        stale |= {row.id: row for row in artifacts_of(transaction.connection, CONVERSATION)}
    return stale


def drop_derived(transaction: Transaction) -> Mapping[str, int]:
    """Drop what was derived from memories that this transaction changed or erased; how many of each kind."""
    stale = outdated_artifacts(transaction)
    ask_retraining(transaction, [row for row in stale.values() if row.kind == ADAPTER])
    drop_artifacts(transaction, list(stale))
    transaction.invalidated.update(transaction.outdated)
    transaction.outdated.clear()
    return Counter(row.kind for row in stale.values())


def drop_artifacts(transaction: Transaction, ids: Sequence[str]) -> int:
    """Drop rows by their ids, and with the last of each digest its blob; how many rows that were."""
    if not ids:
        return 0
    gone = transaction.rows(
        "DELETE FROM artifacts WHERE id IN (SELECT unnest(?::VARCHAR[])) RETURNING digest", [list(ids)]
    )
    transaction.written = transaction.written or bool(gone)
    transaction.unneeded.update(row[0] for row in gone)
    let_go(transaction, ids)
    return len(gone)


def drop_without_blob(transaction: Transaction, digests: Collection[str]) -> None:
    """Drop rows whose blobs were never written to their end, by their digests."""
    rows = transaction.rows("SELECT id FROM artifacts WHERE digest IN (SELECT unnest(?::VARCHAR[]))", [list(digests)])
    drop_artifacts(transaction, [row[0] for row in rows])


def note_uses(transaction: Transaction, uses: Mapping[str, tuple[int, float, datetime]]) -> None:
    """Note how often artifacts were used, how hot they are, and when they were last used. Being used is no change."""
    for id, (count, heat, at) in uses.items():
        transaction.execute(
            "UPDATE artifacts SET uses = ?, heat = ?, last_use = ? WHERE id = ?", [count, heat, stored_time(at), id]
        )


def add_uses(transaction: Transaction, uses: Mapping[str, int]) -> None:
    """Add to how often artifacts were used, as of now."""
    for id, count in uses.items():
        transaction.execute(
            "UPDATE artifacts SET uses = coalesce(uses, 0) + ?, last_use = ? WHERE id = ?",
            [count, stored_time(transaction.now), id],
        )


def vouch(transaction: Transaction, id: str) -> None:
    """Note that an artifact holds what it says: it was checked."""
    transaction.execute("UPDATE artifacts SET vouched = true WHERE id = ?", [id])


def needed(connection: Connection, digests: Iterable[str] | None = None) -> set[str]:
    """The digests (of these, or all) that a row names."""
    among, which = ("", []) if digests is None else (" WHERE digest IN (SELECT unnest(?::VARCHAR[]))", [list(digests)])
    return {row[0] for row in connection.execute(f"SELECT DISTINCT digest FROM artifacts{among}", which).fetchall()}


def _row_of(row: Sequence[Any], connection: Connection) -> ArtifactRow:
    header = json.loads(connection.sealer.read_text(row[6], f"artifact:{row[0]}:header"))
    sources = tuple((id, version) for id, version in header["sources"])
    uses, heat, last_use = row[10] or 0, row[11] or 0.0, None if row[12] is None else known_time(row[12])
    told = header["metadata"], known_time(row[7]), uses, heat, last_use, bool(row[13])
    return ArtifactRow(row[0], row[1], row[2], row[3], row[4], row[5], sources, *told)
