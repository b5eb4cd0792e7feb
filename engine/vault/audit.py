"""The audit log: append-only, hash-chained, without content.

Each row's hash covers the row and the hash before it (as in a transparency log, without the tree), so a row that is
changed, removed or slipped in later breaks the chain at a place that can be named. The chain cannot tell that its end
was cut off; `audit_log.cut_audit` can, by the vault's note of where it ends. Nobody signs the chain: who may write the
file, computes all hashes anew and changes that note as well is not found out.

Rows hold ids, counts and reasons, never what a memory says: erasing a memory therefore leaves the chain whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cubes.canonical import canonical_bytes
from engine.errors import Corrupt
from engine.vault.rows import known_time, stored_time
from engine.vault.sealing import UNSEALED, Sealer

FIRST_PREVIOUS = "0" * 64
AUDIT_HEAD = "audit_head"  # the vault's note of the last row, written with it: tells when the end is cut off
AUDIT_CUT = "audit_cut"  # its note of what it found cut off when it was opened
AUDIT_COLUMNS = (
    "seq",
    "recorded_at",
    "actor",
    "client",
    "action",
    "cube",
    "ids",
    "reason",
    "detail",
    "previous",
    "hash",
)


@dataclass(frozen=True, slots=True)
class AuditRow:
    seq: int
    recorded_at: datetime
    actor: str
    client: str
    action: str
    cube: str
    ids: tuple[str, ...]
    reason: str | None
    detail: dict[str, Any]
    previous: str

    def hash(self) -> str:
        """SHA-256 over the canonical row, which includes the previous hash."""
        return hashlib.sha256(canonical_bytes(self)).hexdigest()


def audit_values(row: AuditRow, hashed: str, sealer: Sealer) -> tuple[Any, ...]:
    """The values of `AUDIT_COLUMNS`. Hashes are sealed as well: with the other columns they would confirm a guess."""
    place = f"audit:{row.seq}:"
    return (
        row.seq,
        stored_time(row.recorded_at),
        row.actor,
        row.client,
        row.action,
        row.cube,
        json.dumps(row.ids),
        None if row.reason is None else sealer.text(row.reason, f"{place}reason"),
        sealer.text(json.dumps(row.detail, sort_keys=True), f"{place}detail"),
        sealer.text(row.previous, f"{place}previous"),
        sealer.text(hashed, f"{place}hash"),
    )


def audit_row_of(row: Sequence[Any], sealer: Sealer) -> tuple[AuditRow, str]:
    """The row and the hash that stands beside it, from the values of `AUDIT_COLUMNS`."""
    place = f"audit:{row[0]}:"
    return (
        AuditRow(
            seq=row[0],
            recorded_at=known_time(row[1]),
            actor=row[2],
            client=row[3],
            action=row[4],
            cube=row[5],
            ids=tuple(json.loads(row[6])),
            reason=None if row[7] is None else sealer.read_text(row[7], f"{place}reason"),
            detail=json.loads(sealer.read_text(row[8], f"{place}detail")),
            previous=sealer.read_text(row[9], f"{place}previous"),
        ),
        sealer.read_text(row[10], f"{place}hash"),
    )


def broken_links(rows: Iterable[Sequence[Any]], sealer: Sealer) -> list[str]:
    """What is wrong with a chain that should start at 1 and have no gap; empty: it is whole.

    `rows` are the values of `AUDIT_COLUMNS`, in the order of their numbers.
    """
    problems: list[str] = []
    expected = 1
    previous: str | None = FIRST_PREVIOUS
    for values in rows:
        seq = values[0]
        if seq != expected:
            missing = f"row {expected} is" if seq == expected + 1 else f"rows {expected} to {seq - 1} are"
            problems.append(f"audit {missing} missing: the next one is {seq}")
        try:
            row, stored = audit_row_of(values, sealer)
        except (Corrupt, ValueError, TypeError, AttributeError):
            problems.append(f"audit row {seq} was changed after it was written: it cannot be read any more")
            expected, previous = seq + 1, None
            continue
        # After a gap, or a row that cannot be read, nothing is known of what this one should continue.
        if seq == expected and previous is not None and row.previous != previous:
            problems.append(f"audit row {seq} does not continue the row before it")
        if row.hash() != stored or (sealer.plain and not _as_written(values, row)):
            problems.append(f"audit row {seq} was changed after it was written")
        expected, previous = seq + 1, stored
    return problems


def _as_written(values: Sequence[Any], row: AuditRow) -> bool:
    """Whether a row that is not sealed still is what was written, to the letter: its hash is of what it means."""
    return tuple(values[:-1]) == audit_values(row, "", UNSEALED)[:-1]
