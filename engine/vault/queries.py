"""What is asked of the vault: reading queries, as functions of a connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from cubes import Lineage, MemCube, Memory, Relation
from engine.vault.audit import AUDIT_COLUMNS, AUDIT_HEAD, AuditRow, audit_row_of
from engine.vault.connection import Connection
from engine.vault.rows import Record, cube_of, lineage_of, record_of, stored_time, usage_of
from engine.vault.schema import CUBE_COLUMNS, MEMORY_COLUMNS

COLUMNS = ", ".join(MEMORY_COLUMNS)
LIVE_STATES = ("generated", "activated")


def records(connection: Connection, ids: Sequence[str]) -> dict[str, Record]:
    """Current records by id; ids that do not exist are left out."""
    if not ids:
        return {}
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(f"SELECT {COLUMNS} FROM memories WHERE id IN ({marks})", list(ids)).fetchall()
    return {row[0]: record_of(row, connection.sealer) for row in rows}


def contents(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    """(version, content) by id; ids that do not exist are left out."""
    if not ids:
        return {}
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(f"SELECT id, version, content FROM memories WHERE id IN ({marks})", list(ids)).fetchall()
    opened = connection.sealer.read_text
    return {id: (version, opened(content, f"{id}:{version}:content")) for id, version, content in rows}


def complete(connection: Connection, found: Iterable[Record]) -> list[Memory]:
    """Memories with lineage and usage, in the order given."""
    found = list(found)
    if not found:
        return []
    ids = [record.memory.id for record in found]
    marks = ", ".join("?" * len(ids))
    edges: dict[str, list[tuple[Any, ...]]] = {}
    for derived, *edge in connection.execute(
        f"SELECT derived, relation, source, source_version FROM lineage WHERE derived IN ({marks})"
        " ORDER BY relation, source",
        ids,
    ).fetchall():
        edges.setdefault(derived, []).append(tuple(edge))
    usage = {
        row[0]: usage_of(row[1:])
        for row in connection.execute(
            f"SELECT id, access_count, last_access FROM usage WHERE id IN ({marks})", ids
        ).fetchall()
    }
    memories = []
    for record in found:
        memory = record.memory
        memory = replace(memory, lineage=lineage_of(edges.get(memory.id, ())))
        memories.append(replace(memory, behavioural=usage.get(memory.id, memory.behavioural)))
    return memories


def versions(connection: Connection, id: str) -> list[Record]:
    """All versions of a memory, oldest first."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM versions WHERE id = ? UNION ALL SELECT {COLUMNS} FROM memories WHERE id = ?"
        " ORDER BY version",
        [id, id],
    ).fetchall()
    return [record_of(row, connection.sealer) for row in rows]


def earlier_versions(connection: Connection, ids: Sequence[str]) -> dict[str, list[Record]]:
    """The versions before the current one, oldest first, by id."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM versions WHERE id IN (SELECT unnest(?::VARCHAR[])) ORDER BY id, version", [list(ids)]
    ).fetchall()
    found: dict[str, list[Record]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(record_of(row, connection.sealer))
    return found


def derived_from(connection: Connection, ids: Sequence[str]) -> list[tuple[str, Lineage]]:
    """Edges into `ids`: (id of the derived memory, the edge)."""
    if not ids:
        return []
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(
        f"SELECT derived, relation, source, source_version FROM lineage WHERE source IN ({marks})"
        " ORDER BY derived, relation, source",
        list(ids),
    ).fetchall()
    return [(row[0], lineage_of([row[1:]])[0]) for row in rows]


def made_here(connection: Connection, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of (derived, source) those whose lineage came about in this store, and was not only claimed by a file."""
    rows = connection.execute(
        "SELECT DISTINCT derived, source FROM lineage WHERE NOT imported"
        " AND derived IN (SELECT unnest(?::VARCHAR[])) AND source IN (SELECT unnest(?::VARCHAR[]))",
        [[derived for derived, _ in pairs], [source for _, source in pairs]],
    ).fetchall()
    return {(row[0], row[1]) for row in rows}.intersection(pairs)


def live(connection: Connection, cube: str) -> list[Record]:
    """The memories of a cube that are recalled unless more is asked for, in the order of labels."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE cube = ? AND state IN (?, ?) ORDER BY label", [cube, *LIVE_STATES]
    ).fetchall()
    return [record_of(row, connection.sealer) for row in rows]


def sources_of(connection: Connection, ids: Sequence[str], relation: Relation) -> list[str]:
    """Ids of what `ids` stand in `relation` to, each once."""
    rows = connection.execute(
        "SELECT DISTINCT source FROM lineage WHERE derived IN (SELECT unnest(?::VARCHAR[])) AND relation = ?"
        " ORDER BY source",
        [list(ids), relation.value],
    ).fetchall()
    return [row[0] for row in rows]


def neighbours(connection: Connection, memory: Memory) -> tuple[str | None, str | None]:
    """The turns before and after in the same session."""
    about = memory.descriptive
    if about.session is None or about.position is None:
        return None, None
    session = connection.sealer.name(about.session)
    before = connection.execute(
        "SELECT id FROM memories WHERE cube = ? AND session = ? AND position < ? ORDER BY position DESC LIMIT 1",
        [memory.cube, session, about.position],
    ).fetchone()
    after = connection.execute(
        "SELECT id FROM memories WHERE cube = ? AND session = ? AND position > ? ORDER BY position LIMIT 1",
        [memory.cube, session, about.position],
    ).fetchone()
    return (before[0] if before else None), (after[0] if after else None)


def cubes(connection: Connection) -> list[MemCube]:
    rows = connection.execute(f"SELECT {', '.join(CUBE_COLUMNS)} FROM cubes ORDER BY name").fetchall()
    return [cube_of(row, connection.sealer) for row in rows]


def cube(connection: Connection, name: str) -> MemCube | None:
    row = connection.execute(f"SELECT {', '.join(CUBE_COLUMNS)} FROM cubes WHERE name = ?", [name]).fetchone()
    return None if row is None else cube_of(row, connection.sealer)


def made_under(connection: Connection, name: str) -> int:
    """The revision under which a cube was made."""
    row = connection.execute("SELECT min(revision) FROM cube_versions WHERE name = ?", [name]).fetchone()
    return int(row[0]) if row and row[0] is not None else 0


def counts(connection: Connection, column: str, cube: str | None = None) -> tuple[tuple[str, int], ...]:
    """Number of memories by `state` or `kind`."""
    assert column in ("state", "kind")
    where, parameters = ("WHERE cube = ?", [cube]) if cube is not None else ("", [])
    rows = connection.execute(
        f"SELECT {column}, count(*) FROM memories {where} GROUP BY {column} ORDER BY {column}", parameters
    ).fetchall()
    return tuple((row[0], row[1]) for row in rows)


def page(
    connection: Connection,
    cube: str,
    *,
    after_label: int,
    limit: int,
    kind: str | None,
    tag: str | None,
    state: str | None,
) -> list[Record]:
    """Memories of a cube in the order in which they were remembered, from behind `after_label` on."""
    conditions, parameters = ["cube = ?", "label > ?"], [cube, after_label]
    for column, value in (("kind", kind), ("state", state)):
        if value is not None:
            conditions.append(f"{column} = ?")
            parameters.append(value)
    found: list[Record] = []
    while len(found) < limit:
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM memories WHERE {' AND '.join(conditions)} ORDER BY label LIMIT ?",
            [*parameters, limit],
        ).fetchall()
        read = [record_of(row, connection.sealer) for row in rows]
        found += [record for record in read if tag is None or tag in record.memory.descriptive.tags]
        if len(rows) < limit:
            break
        parameters[1] = read[-1].label
    return found[:limit]


def claims_since(connection: Connection, cube: str, revision: int) -> list[Record]:
    """Live memories of a cube that say something of their own and changed after `revision`."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE cube = ? AND revision > ? AND state IN (?, ?)"
        " AND kind NOT IN ('message', 'document') ORDER BY label",
        [cube, revision, *LIVE_STATES],
    ).fetchall()
    return [record_of(row, connection.sealer) for row in rows]


def newest_claims(connection: Connection, cube: str, limit: int) -> list[Record]:
    """The newest live memories of a cube that say something of their own: no turns, documents or pieces of texts."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE cube = ? AND state IN (?, ?) AND kind NOT IN ('message', 'document')"
        " AND id NOT IN (SELECT derived FROM lineage WHERE relation = 'part_of') ORDER BY label DESC LIMIT ?",
        [cube, *LIVE_STATES, limit],
    ).fetchall()
    return [record_of(row, connection.sealer) for row in rows]


def as_of(connection: Connection, cube: str, moment: datetime) -> list[Record]:
    """The version of each memory of a cube that was current at `moment`, in the order of labels."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM (SELECT {COLUMNS} FROM memories UNION ALL SELECT {COLUMNS} FROM versions)"
        " WHERE cube = ? AND updated_at <= ?"
        " QUALIFY row_number() OVER (PARTITION BY id ORDER BY version DESC) = 1 ORDER BY label",
        [cube, stored_time(moment)],
    ).fetchall()
    return [record_of(row, connection.sealer) for row in rows]


def versions_as_of(connection: Connection, ids: Sequence[str], moment: datetime) -> dict[str, Record]:
    """The versions of `ids` that were current at `moment`; what did not exist then is left out."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM (SELECT {COLUMNS} FROM memories UNION ALL SELECT {COLUMNS} FROM versions)"
        " WHERE id IN (SELECT unnest(?::VARCHAR[])) AND updated_at <= ?"
        " QUALIFY row_number() OVER (PARTITION BY id ORDER BY version DESC) = 1",
        [list(ids), stored_time(moment)],
    ).fetchall()
    return {row[0]: record_of(row, connection.sealer) for row in rows}


def changed_since(connection: Connection, cube: str, revision: int) -> list[Record]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE cube = ? AND revision > ? ORDER BY label", [cube, revision]
    ).fetchall()
    return [record_of(row, connection.sealer) for row in rows]


def erased_since(connection: Connection, cube: str, revision: int) -> list[int]:
    """Labels of memories that were erased after `revision`."""
    rows = connection.execute(
        "SELECT label FROM tombstones WHERE cube = ? AND revision > ? ORDER BY label", [cube, revision]
    ).fetchall()
    return [row[0] for row in rows]


def vectors(connection: Connection, embedder: str, ids: Sequence[str]) -> dict[str, bytes]:
    """Stored embeddings by id: float32, little-endian, [passages, dimension]."""
    if not ids:
        return {}
    rows = connection.execute(
        "SELECT e.id, e.vectors FROM embeddings AS e JOIN (SELECT unnest(?) AS id) AS wanted USING (id)"
        " WHERE e.embedder = ?",
        [list(ids), embedder],
    ).fetchall()
    opened = connection.sealer.read_blob
    return {id: opened(stored, f"{id}:{embedder}") for id, stored in rows}


def audit_rows(connection: Connection, *, since: int = 0, limit: int | None = None) -> Iterator[tuple[AuditRow, str]]:
    sql = f"SELECT {', '.join(AUDIT_COLUMNS)} FROM audit WHERE seq > ? ORDER BY seq"
    if limit is not None:
        sql += f" LIMIT {int(limit)}"
    for row in connection.execute(sql, [since]).fetchall():
        yield audit_row_of(row, connection.sealer)


def audited(connection: Connection, action: str) -> list[AuditRow]:
    """The audit rows of one action, oldest first."""
    rows = connection.execute(
        f"SELECT {', '.join(AUDIT_COLUMNS)} FROM audit WHERE action = ? ORDER BY seq", [action]
    ).fetchall()
    return [audit_row_of(row, connection.sealer)[0] for row in rows]


def cut_audit(connection: Connection) -> list[str]:
    """Whether rows were cut off the end of the audit log: it must end where the vault last noted that it does."""
    row = connection.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    noted = connection.execute("SELECT value FROM meta WHERE key = ?", [AUDIT_HEAD]).fetchone()
    if noted is None:
        return []  # nothing was written since the vault began to note it
    expected = json.loads(connection.sealer.read_text(noted[0], AUDIT_HEAD))
    last = int(row[0]) if row else 0
    if last < expected["seq"]:
        return [f"audit rows {last + 1} to {expected['seq']} are missing: the log ends too early"]
    found = "" if row is None else connection.sealer.read_text(row[1], f"audit:{last}:hash")
    if last > expected["seq"] or found != expected["hash"]:
        return [f"the audit log ends at row {last} with another hash than the vault noted for row {expected['seq']}"]
    return []


def lacking_vectors(connection: Connection, embedder: str, limit: int) -> list[Record]:
    """Memories, oldest first, without a stored embedding of `embedder`."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE id NOT IN (SELECT id FROM embeddings WHERE embedder = ?)"
        " ORDER BY label LIMIT ?",
        [embedder, limit],
    ).fetchall()
    return [record_of(row, connection.sealer) for row in rows]


def without_vectors(connection: Connection, cube: str, embedder: str) -> int:
    """How many memories of a cube have no stored embedding of `embedder`."""
    row = connection.execute(
        "SELECT count(*) FROM memories WHERE cube = ? AND id NOT IN (SELECT id FROM embeddings WHERE embedder = ?)",
        [cube, embedder],
    ).fetchone()
    return int(row[0]) if row else 0


def read_everything(connection: Connection) -> None:
    """Read every value of every table, so that damaged bytes are noticed."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
    for (name,) in tables:
        connection.execute(f'SELECT bit_xor(hash(t)) FROM "{name}" AS t').fetchall()


def cubes_of(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """The cube of each memory, by its id; ids that do not exist are left out."""
    rows = connection.execute(
        "SELECT id, cube FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(ids)]
    ).fetchall()
    return dict(rows)


def cube_revision(connection: Connection, cube: str) -> int:
    """The revision under which anything in a cube last changed."""
    row = connection.execute(
        "SELECT greatest(coalesce((SELECT max(revision) FROM memories WHERE cube = ?), 0),"
        " coalesce((SELECT max(revision) FROM tombstones WHERE cube = ?), 0),"
        " coalesce((SELECT max(revision) FROM cubes WHERE name = ?), 0))",
        [cube, cube, cube],
    ).fetchone()
    return int(row[0]) if row else 0


def ids_with_prefix(connection: Connection, prefix: str, cubes: Sequence[str], limit: int) -> list[str]:
    rows = connection.execute(
        "SELECT id FROM memories WHERE starts_with(id, ?) AND cube IN (SELECT unnest(?::VARCHAR[]))"
        " ORDER BY label DESC LIMIT ?",
        [prefix, list(cubes), limit],
    ).fetchall()
    return [row[0] for row in rows]


def indexed(connection: Connection, cube: str) -> int:
    """How many memories of a cube its index should hold: all but the wholes of long texts."""
    row = connection.execute("SELECT count(*) FROM memories WHERE cube = ? AND parts = 0", [cube]).fetchone()
    return int(row[0]) if row else 0
