"""The log of what the scheduler did: rows of the audit log, as people read them.

Its own moves are rows of the action `move` that carry MARK; what lay unused or was over by its time is archived by
`engine.upkeep` under actions of its own and is shown with them. Reads, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.scheduler.moves import Level, Part
from engine.tier_operations import Scheduled
from engine.vault.audit import AUDIT_COLUMNS, AuditRow, audit_row_of
from engine.vault.connection import Connection

MARK = "scheduler"  # in the details of its rows
NAMES = {
    Level.ARCHIVED: "archived",
    Level.TEXT: "text",
    Level.KV: "kv",
    Level.RAM: "ram",
    Level.GPU: "gpu",
    Level.LORA: "lora",
}
UNDO = "memos-mcp scheduler undo {}"
FUSED = "fused"  # where what was consolidated went
ACTIONS = ("move", "decay", "expire")
READ_TOGETHER = 500
OVER = "its time is over: remember it anew if it still holds"


def rows(connection: Connection, since: int = 0) -> Iterator[AuditRow]:
    """Rows of the scheduler after `since`, the latest first, those of undoing too."""
    number: int | None = None
    while True:
        found = connection.execute(
            f"SELECT {', '.join(AUDIT_COLUMNS)} FROM audit WHERE action IN (SELECT unnest(?::VARCHAR[]))"
            f" AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT {READ_TOGETHER}",
            [list(ACTIONS), since, 2**62 if number is None else number],
        ).fetchall()
        for row in found:
            entry = audit_row_of(row, connection.sealer)[0]
            if entry.action != "move" or MARK in entry.detail:
                yield entry
        if len(found) < READ_TOGETHER:
            return
        number = found[-1][0]


def entries(connection: Connection, limit: int) -> tuple[Scheduled, ...]:
    """The last moves, the latest first, each with what became of it since."""
    found: list[Scheduled] = []
    undone: dict[int, int] = {}
    for row in rows(connection):
        if "undo_of" in row.detail:
            undone[int(row.detail["undo_of"])] = row.seq
        found.append(shown(row, undone.get(row.seq)))
        if len(found) >= limit:
            break
    return tuple(found)


def shown(row: AuditRow, undone_by: int | None = None) -> Scheduled:
    """One row as a move."""
    detail = row.detail
    if row.action == "decay":
        part, to, reason = Part.ARCHIVE.value, NAMES[Level.ARCHIVED], f"unused for {detail.get('decay_days')} days"
    elif row.action == "expire":
        part, to, reason = Part.ARCHIVE.value, "expired", "its time is over"
    else:
        part, to, reason = str(detail["part"]), str(detail["to"]), row.reason or ""
    outcome = str(detail.get("outcome", "done"))
    undo = UNDO.format(row.seq)
    if undone_by is not None:
        outcome, undo = f"undone (row {undone_by})", ""
    elif "undo_of" in detail:
        outcome, undo = f"undid row {detail['undo_of']}", ""
    elif row.action == "expire":
        undo = OVER
    elif outcome.startswith("refused"):
        undo = ""
    return Scheduled(row.seq, row.recorded_at, part, row.cube, row.ids, to, reason, outcome, undo)
