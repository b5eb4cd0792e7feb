"""The audit log as it stands in the vault: reading it, and finding out whether somebody changed it.

The chain (`engine.vault.audit`) tells of rows that were changed, removed, slipped in or moved. That its end was cut off
is told by the vault's note of where it ends, and by what the vault holds that changed under rows which are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from engine.errors import Corrupt
from engine.vault.audit import AUDIT_COLUMNS, AUDIT_CUT, AUDIT_HEAD, AuditRow, audit_row_of, broken_links
from engine.vault.connection import Connection

_REVISED = ("memories", "versions", "tombstones", "cubes", "cube_versions", "snapshots", "artifacts")
_LAST_REVISION = f"SELECT max(revision) FROM ({' UNION ALL '.join(f'SELECT revision FROM {t}' for t in _REVISED)})"


def audit_rows(
    connection: Connection, *, since: int | None = 0, limit: int | None = None, cubes: Sequence[str] | None = None
) -> Iterator[AuditRow]:
    """The rows after `since`, in order, or the last ones where it is None; of these cubes, or of all."""
    where, which = ("", []) if cubes is None else (" AND cube IN (SELECT unnest(?::VARCHAR[]))", [list(cubes)])
    sql = f"SELECT {', '.join(AUDIT_COLUMNS)} FROM audit WHERE seq > ?{where} ORDER BY seq{' DESC' * (since is None)}"
    if limit is not None:
        sql += f" LIMIT {int(limit)}"
    rows = connection.execute(sql, [since or 0, *which]).fetchall()
    for row in reversed(rows) if since is None else rows:
        yield audit_row_of(row, connection.sealer)[0]


def audited_cubes(connection: Connection) -> list[str]:
    """The cubes that the audit log is about, those that are gone too."""
    return [row[0] for row in connection.execute("SELECT DISTINCT cube FROM audit WHERE cube <> ''").fetchall()]


def audit_problems(connection: Connection) -> list[str]:
    """What is wrong with the audit log: rows that were changed, removed, slipped in, moved or cut off; where."""
    rows = connection.execute(f"SELECT {', '.join(AUDIT_COLUMNS)} FROM audit ORDER BY seq").fetchall()
    return [*broken_links(rows, connection.sealer), *cut_audit(connection)]


def cut_audit(connection: Connection) -> list[str]:
    """Whether rows were cut off the end of the audit log: it must end where the vault last noted that it does.

    What was found cut when the vault was opened stays told, though rows have been written behind the cut since.
    """
    known = connection.execute("SELECT value FROM meta WHERE key = ?", [AUDIT_CUT]).fetchone()
    before: list[str] = [] if known is None else json.loads(known[0])
    return list(dict.fromkeys([*before, *_wrong_end(connection)]))


def note_cut_audit(connection: Connection) -> None:
    """Note, when the vault is opened, that the audit log was cut: the next change would note a new end over it."""
    if found := cut_audit(connection):
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [AUDIT_CUT, json.dumps(found)])


def _wrong_end(connection: Connection) -> Iterator[str]:
    row = connection.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    noted = connection.execute("SELECT value FROM meta WHERE key = ?", [AUDIT_HEAD]).fetchone()
    revised = connection.execute(_LAST_REVISION).fetchone()
    last, changed = int(row[0]) if row else 0, int(revised[0] or 0) if revised else 0
    seal = connection.sealer
    expected: dict[str, Any] = {"seq": 0, "hash": ""}
    try:
        if noted is not None:  # else nothing was written since the vault began to note it
            expected = json.loads(seal.read_text(noted[0], AUDIT_HEAD))
        found = "" if row is None else seal.read_text(row[1], f"audit:{last}:hash")
    except (Corrupt, ValueError):
        yield "the vault's note of where the audit log ends, or the hash that it ends with, was changed"
        return
    if last < max(expected["seq"], changed):
        yield f"audit rows {last + 1} to {max(expected['seq'], changed)} are missing: the log ends too early"
    elif noted is not None and (last > expected["seq"] or found != expected["hash"]):
        yield f"the audit log ends at row {last} with another hash than the vault noted for row {expected['seq']}"
