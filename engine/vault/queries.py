"""What is asked of the vault: reading queries, as functions of a connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from cubes import Lineage, MemCube, Memory, Relation, Sensitivity
from engine.vault.audit import AUDIT_COLUMNS, AuditRow, audit_row_of
from engine.vault.connection import Connection
from engine.vault.rows import Record, cube_of, known_time, lineage_of, record_of, stored_time, usage_of
from engine.vault.schema import CUBE_COLUMNS, MEMORY_COLUMNS
from engine.vault.staging import SHOWN

COLUMNS = ", ".join(MEMORY_COLUMNS)
LIVE_STATES = ("generated", "activated")
Seen = frozenset[Sensitivity] | None  # how sensitive memories may be that a query finds; None: any


def records(connection: Connection, ids: Sequence[str]) -> dict[str, Record]:
    """Current records by id; ids that do not exist are left out."""
    if not ids:
        return {}
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(f"SELECT {COLUMNS} FROM memories WHERE id IN ({marks}) AND {SHOWN}", list(ids)).fetchall()
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


def neighbours(connection: Connection, memory: Memory, seen: Seen = None) -> tuple[str | None, str | None]:
    """The turns before and after in the same session."""
    about = memory.descriptive
    if about.session is None or about.position is None:
        return None, None
    session = connection.sealer.name(about.session)
    where, which = _among(seen)
    turns, place = f"SELECT id FROM memories WHERE cube = ? AND session = ?{where}", [memory.cube, session, *which]
    before = connection.execute(
        f"{turns} AND position < ? ORDER BY position DESC LIMIT 1", [*place, about.position]
    ).fetchone()
    after = connection.execute(
        f"{turns} AND position > ? ORDER BY position LIMIT 1", [*place, about.position]
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


def counts(connection: Connection, column: str, cube: str, seen: Seen = None) -> tuple[tuple[str, int], ...]:
    """Number of memories of a cube by `state` or `kind`."""
    assert column in ("state", "kind")
    where, which = _among(seen)
    rows = connection.execute(
        f"SELECT {column}, count(*) FROM memories WHERE cube = ?{where} GROUP BY {column} ORDER BY {column}",
        [cube, *which],
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
    seen: Seen = None,
) -> list[Record]:
    """Memories of a cube in the order in which they were remembered, from behind `after_label` on."""
    conditions, parameters = ["cube = ?", "label > ?"], [cube, after_label]
    for column, value in (("kind", kind), ("state", state)):
        if value is not None:
            conditions.append(f"{column} = ?")
            parameters.append(value)
    where, which = _among(seen)
    parameters += which
    found: list[Record] = []
    while len(found) < limit:
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM memories WHERE {' AND '.join(conditions)}{where} ORDER BY label LIMIT ?",
            [*parameters, limit],
        ).fetchall()
        read = [record_of(row, connection.sealer) for row in rows]
        found += [record for record in read if tag is None or tag in record.memory.descriptive.tags]
        if len(rows) < limit:
            break
        parameters[1] = read[-1].label
    return found[:limit]


def claims_since(connection: Connection, cube: str, revision: int, seen: Seen = None) -> list[Record]:
    """Live memories of a cube that say something of their own and changed after `revision`."""
    where, which = _among(seen)
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE cube = ? AND revision > ? AND state IN (?, ?)"
        f" AND kind NOT IN ('message', 'document'){where} ORDER BY label",
        [cube, revision, *LIVE_STATES, *which],
    ).fetchall()
    return [record_of(row, connection.sealer) for row in rows]


def claims_after(
    connection: Connection, cube: str, after: tuple[int, int], limit: int, seen: Seen = None
) -> list[tuple[str, int, int]]:
    """(id, revision, label) of what `claims_since` is about, behind (revision, label), in that order. Reads no more."""
    where, which = _among(seen)
    rows = connection.execute(
        "SELECT id, revision, label FROM memories WHERE cube = ? AND (revision > ? OR (revision = ? AND label > ?))"
        f" AND state IN (?, ?) AND kind NOT IN ('message', 'document'){where} ORDER BY revision, label LIMIT ?",
        [cube, after[0], *after, *LIVE_STATES, *which, limit],
    ).fetchall()
    return [(row[0], int(row[1]), int(row[2])) for row in rows]


def newest_claims(connection: Connection, cube: str, limit: int, seen: Seen = None) -> list[Record]:
    """The newest live memories of a cube that say something of their own: no turns, documents or pieces of texts."""
    where, which = _among(seen)
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE cube = ? AND state IN (?, ?) AND kind NOT IN ('message', 'document')"
        f"{where} AND id NOT IN (SELECT derived FROM lineage WHERE relation = 'part_of') ORDER BY label DESC LIMIT ?",
        [cube, *LIVE_STATES, *which, limit],
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


def audited(connection: Connection, action: str) -> list[AuditRow]:
    """The audit rows of one action, oldest first."""
    rows = connection.execute(
        f"SELECT {', '.join(AUDIT_COLUMNS)} FROM audit WHERE action = ? ORDER BY seq", [action]
    ).fetchall()
    return [audit_row_of(row, connection.sealer)[0] for row in rows]


def lacking_vectors(connection: Connection, embedder: str, limit: int) -> list[Record]:
    """Memories, oldest first, without a stored embedding of `embedder`."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE id NOT IN (SELECT id FROM embeddings WHERE embedder = ?)"
        f" AND {SHOWN} ORDER BY label LIMIT ?",
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


def cube_revision(connection: Connection, cube: str, seen: Seen = None) -> int:
    """The revision under which anything in a cube last changed."""
    where, which = _among(seen)
    row = connection.execute(
        f"SELECT greatest(coalesce((SELECT max(revision) FROM memories WHERE cube = ?{where}), 0),"
        f" coalesce((SELECT max(revision) FROM tombstones WHERE cube = ?{where}), 0),"
        " coalesce((SELECT max(revision) FROM cubes WHERE name = ?), 0))",
        [cube, *which, cube, *which, cube],
    ).fetchone()
    return int(row[0]) if row else 0


def ids_with_prefix(
    connection: Connection, prefix: str, cubes: Mapping[str, frozenset[Sensitivity]], limit: int
) -> list[str]:
    """Ids of memories of these cubes, each as sensitive as is said there, newest first."""
    pairs = [(cube, sensitivity.value) for cube, seen in cubes.items() for sensitivity in sorted(seen)]
    rows = connection.execute(
        "SELECT m.id FROM memories AS m JOIN (SELECT unnest(?::VARCHAR[]) AS cube, unnest(?::VARCHAR[]) AS sensitivity)"
        " AS wanted USING (cube, sensitivity) WHERE starts_with(m.id, ?) ORDER BY m.label DESC LIMIT ?",
        [[cube for cube, _ in pairs], [sensitivity for _, sensitivity in pairs], prefix, limit],
    ).fetchall()
    return [row[0] for row in rows]


def places_of(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, Sensitivity]]:
    """(cube, how sensitive it is) of each memory, by its id; ids that do not exist are left out."""
    rows = connection.execute(
        "SELECT id, cube, sensitivity FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(ids)]
    ).fetchall()
    return {id: (cube, Sensitivity(sensitivity)) for id, cube, sensitivity in rows}


def first_expiry(connection: Connection, ids: Sequence[str]) -> datetime | None:
    """When the first of these memories expires; None: none does."""
    rows = connection.execute(
        "SELECT min(expires_at) FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(ids)]
    ).fetchall()
    return None if rows[0][0] is None else known_time(rows[0][0])


def holdings(connection: Connection, cube: str, *, exact: bool) -> tuple[int, int]:
    """How many live memories a cube holds, and their contents' bytes in UTF-8. The whole of a long text is not
    counted: its pieces are. Not `exact`: sealed contents are counted as they are stored, which is never less.
    """
    where = "FROM memories WHERE cube = ? AND parts = 0 AND state IN (?, ?)"
    if exact and not connection.sealer.plain:
        rows = connection.execute(f"SELECT id, version, content {where}", [cube, *LIVE_STATES]).fetchall()
        opened = connection.sealer.read_text
        return len(rows), sum(len(opened(content, f"{id}:{version}:content").encode()) for id, version, content in rows)
    row = connection.execute(
        f"SELECT count(*), coalesce(sum(strlen(content)), 0) {where}", [cube, *LIVE_STATES]
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def unused(connection: Connection, cube: str, since: datetime) -> list[tuple[list[str], datetime]]:
    """(ids, when last used) of live memories of a cube that nobody used since, oldest first.

    A long text and its pieces go together. What was never used counts from when it was remembered.
    """
    rows = connection.execute(
        "SELECT list(m.id ORDER BY m.label), max(greatest(m.created_at, coalesce(u.last_access, m.created_at))) AS last"
        " FROM memories AS m LEFT JOIN usage AS u USING (id)"
        " LEFT JOIN lineage AS l ON l.derived = m.id AND l.relation = 'part_of'"
        " WHERE m.cube = ? AND m.state IN (?, ?) GROUP BY coalesce(l.source, m.id)"
        " HAVING last <= ? ORDER BY min(m.label)",
        [cube, *LIVE_STATES, stored_time(since)],
    ).fetchall()
    return [(ids, known_time(last)) for ids, last in rows]


def _among(seen: Seen) -> tuple[str, list[list[str]]]:
    """A condition on how sensitive a memory is, and its parameter."""
    if seen is None or len(seen) == len(Sensitivity):
        return "", []
    return " AND sensitivity IN (SELECT unnest(?::VARCHAR[]))", [sorted(item.value for item in seen)]


def indexed(connection: Connection, cube: str) -> int:
    """How many memories of a cube its index should hold: all but the wholes of long texts."""
    row = connection.execute("SELECT count(*) FROM memories WHERE cube = ? AND parts = 0", [cube]).fetchone()
    return int(row[0]) if row else 0


def unread(connection: Connection, cube: str, seen: Seen = None) -> list[str]:
    """Ids of the live turns of a cube that nothing was drawn from, conversation by conversation."""
    where, which = _among(seen)
    rows = connection.execute(
        "SELECT id FROM memories AS m JOIN (SELECT session AS name, min(label) AS began FROM memories WHERE cube = ?"
        " GROUP BY session) AS s ON m.session IS NOT DISTINCT FROM s.name"
        f" WHERE cube = ? AND kind = 'message' AND state IN (?, ?){where}"
        " AND id NOT IN (SELECT source FROM lineage WHERE relation = 'derived_from') ORDER BY began, position, label",
        [cube, cube, *LIVE_STATES, *which],
    ).fetchall()
    return [row[0] for row in rows]
