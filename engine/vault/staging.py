"""Rows on their way into the store: under a name that no cube can have until one transaction shows them.

A cube that comes out of a file may be large, so its rows are stored in many small transactions. Until the last one they
are nobody's: no row of `cubes` has their name, and what asks for memories of whatever cube says `SHOWN`. So a process
that dies, or a caller that stops it, leaves the store as it was: what is staged is removed then, or at the next open.

Decides nothing about what is stored. What must stay true: staged rows are in no answer, count, event, index or check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.vault.connection import Connection
from engine.vault.rows import row_of, stored_time
from engine.vault.schema import MEMORY_COLUMNS

if TYPE_CHECKING:
    from engine.vault.ranges import FullRecord
    from engine.vault.transaction import Transaction

PREFIX = "/"  # no cube's name has it
SHOWN = f"NOT starts_with(cube, '{PREFIX}')"
DISCARD_ROWS = 20_000  # memories that are discarded in one transaction

_BY_MEMORY = (("embeddings", "id"), ("usage", "id"), ("lineage", "derived"), ("versions", "id"), ("memories", "id"))


def staged_name(token: str) -> str:
    """The name that staged rows have as their cube's."""
    return PREFIX + token


def store(transaction: Transaction, found: Sequence[FullRecord], embedder: str, *, replace_: bool = False) -> None:
    """Insert memories as they are, with their history. Nobody is told: the caller says when they count.

    `replace_`: in place of the present versions of the same ids.
    """
    sealer = transaction.connection.sealer
    earlier = [record for item in found for record in item.earlier]
    present = [row_of(item.record, sealer) for item in found]
    transaction.insert("memories", MEMORY_COLUMNS, present, replace_=replace_)
    transaction.insert("versions", MEMORY_COLUMNS, [row_of(record, sealer) for record in earlier])
    keep_beside(transaction, found, embedder)


def keep_beside(transaction: Transaction, found: Sequence[FullRecord], embedder: str) -> None:
    """Insert what stands beside memories, or replace it: lineage as a file claims it, usage, vectors."""
    transaction.link({item.record.memory.id: item.lineage for item in found if item.lineage}, imported=True)
    uses = [
        (item.record.memory.id, item.usage.access_count, stored_time(item.usage.last_access))
        for item in found
        if item.usage.last_access is not None
    ]
    transaction.insert("usage", ("id", "access_count", "last_access"), uses, replace_=True)
    known = [(item.record.memory.id, item.vectors) for item in found if item.vectors is not None]
    transaction.embed(known, embedder, replace_=True)


def rename_sources(transaction: Transaction, staged: str, renamed: Sequence[tuple[str, str]]) -> None:
    """Let lineage of staged memories lead to the new ids of what it names: (old id, new id)."""
    if renamed:
        transaction.execute(
            "UPDATE lineage SET source = r.new FROM"
            " (SELECT unnest(?::VARCHAR[]) AS old, unnest(?::VARCHAR[]) AS new) AS r"
            " WHERE lineage.source = r.old AND lineage.derived IN (SELECT id FROM memories WHERE cube = ?)",
            [[old for old, _ in renamed], [new for _, new in renamed], staged],
        )


def show(transaction: Transaction, staged: str, cube: str, revision: int) -> None:
    """Make everything that was staged under that name part of a cube, as of `revision`."""
    for table in ("memories", "versions"):
        transaction.execute(
            f"UPDATE {table} SET cube = ?, revision = ?, recorded = ? WHERE cube = ?",
            [cube, revision, revision, staged],
        )
    come = transaction.rows(
        "UPDATE artifacts SET cube = ?, revision = ? WHERE cube = ? RETURNING id", [cube, revision, staged]
    )
    transaction.artifacts_shown = transaction.artifacts_shown or bool(come)


def any_staged(connection: Connection) -> bool:
    """Whether a process left something staged."""
    found = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM memories WHERE starts_with(cube, ?))"
        " OR EXISTS (SELECT 1 FROM artifacts WHERE starts_with(cube, ?))",
        [PREFIX, PREFIX],
    ).fetchone()
    return bool(found and found[0])


def discard_some(transaction: Transaction, staged: str | None = None) -> bool:
    """Remove some of what was staged under that name, or under any; whether there may be more."""
    where, which = ("starts_with(cube, ?)", PREFIX) if staged is None else ("cube = ?", staged)
    ids = [
        row[0]
        for row in transaction.rows(
            f"SELECT id FROM memories WHERE {where} ORDER BY label LIMIT {DISCARD_ROWS}", [which]
        )
    ]
    for table, column in _BY_MEMORY if ids else ():
        transaction.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT unnest(?::VARCHAR[]))", [ids])
    if len(ids) < DISCARD_ROWS:
        digests = transaction.rows(f"DELETE FROM artifacts WHERE {where} RETURNING digest", [which])
        transaction.written = True
        transaction.unneeded.update(row[0] for row in digests)
    return len(ids) == DISCARD_ROWS
