"""What a cube was at a past moment: reading queries.

A version counts from the transaction that recorded it, and until the next one was recorded: so the order of changes
decides, not the clock, which may be put back, and not what a file claims of its own past. Only for a time at which the
cube was not in this store yet, its memories' own times are asked: a cube that was moved here keeps its past.

What was erased is gone at every moment. What retention let go is not answered wrongly: `horizon` tells since when the
history of a cube is whole. First use changes no version, so a state of a past moment is `activated` where it became so
later. Times are those of the vault, revisions those of the audit log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cubes import Lineage, MemCube, Memory, Relation
from engine.cube_operations import CubeVersion, Snapshot
from engine.vault.connection import Connection
from engine.vault.queries import made_under
from engine.vault.rows import Record, cube_of, known_time, record_of, stored_time
from engine.vault.schema import CUBE_COLUMNS, MEMORY_COLUMNS

PRESENT = 1 << 62  # later than every revision
COLUMNS = ", ".join(MEMORY_COLUMNS)
EVERY_VERSION = f"(SELECT {COLUMNS} FROM memories UNION ALL SELECT {COLUMNS} FROM versions)"
_OF_CUBE = "(SELECT id FROM memories WHERE cube = ? UNION SELECT id FROM versions WHERE cube = ?)"


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of one cube. `before`: what was recorded under an earlier revision counts; None: own times decide."""

    cube: str
    at: datetime
    before: int | None

    @property
    def had(self) -> str:
        """The condition, with one parameter, under which a version had been recorded."""
        return "updated_at <= ?" if self.before is None else "recorded < ?"

    @property
    def bound(self) -> object:
        return stored_time(self.at) if self.before is None else self.before


def present(cube: str, now: datetime) -> Moment:
    return Moment(cube, now, PRESENT)


def moment_at(connection: Connection, cube: str, at: datetime) -> Moment:
    """What the store had recorded by `at`, if the cube was in it then."""
    row = connection.execute("SELECT max(seq) FROM audit WHERE recorded_at <= ?", [stored_time(at)]).fetchone()
    last = int(row[0]) if row and row[0] is not None else 0
    made = made_under(connection, cube)
    return Moment(cube, at, last + 1 if 0 < made <= last else None)


def moment_of(connection: Connection, cube: str, snapshot: str) -> Moment | None:
    """The moment that a snapshot names; None: there is no such snapshot."""
    row = connection.execute(
        "SELECT moment, revision FROM snapshots WHERE cube = ? AND name = ?", [cube, snapshot]
    ).fetchone()
    if row is None:
        return None
    moment, revision = row
    # What came with a bundle has no revision here: it names a moment of the cube's own past.
    return Moment(cube, known_time(moment), revision or None)


# --- memories -----------------------------------------------------------------------------------------------------


def versions_at(connection: Connection, moment: Moment, ids: Collection[str] | None = None) -> dict[str, int]:
    """The version of each memory (of `ids`, or all) that was the present one in the cube at the moment."""
    among, which = (_OF_CUBE, [moment.cube] * 2) if ids is None else ("(SELECT unnest(?::VARCHAR[]))", [list(ids)])
    narrow = "SELECT id, version, cube, recorded, updated_at, label FROM"
    rows = connection.execute(
        f"SELECT id, max(version), arg_max(cube, version), any_value(label) AS label"
        f" FROM ({narrow} memories UNION ALL {narrow} versions) WHERE id IN {among} AND {moment.had}"
        " GROUP BY id ORDER BY label",
        [*which, moment.bound],
    ).fetchall()
    return {id: version for id, version, cube, _ in rows if cube == moment.cube}


def versions_of(connection: Connection, versions: Mapping[str, int]) -> dict[str, Record]:
    """The given version of each memory, in the order given; what is gone by now is left out."""
    if not versions:
        return {}
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM {EVERY_VERSION} JOIN"
        " (SELECT unnest(?::VARCHAR[]) AS id, unnest(?::INTEGER[]) AS version) USING (id, version)",
        [list(versions), list(versions.values())],
    ).fetchall()
    found = {row[0]: record_of(row, connection.sealer) for row in rows}
    return {id: found[id] for id in versions if id in found}


def records_at(connection: Connection, moment: Moment, ids: Collection[str] | None = None) -> dict[str, Record]:
    """As `versions_at`, the whole records."""
    return versions_of(connection, versions_at(connection, moment, ids))


def ending_between(connection: Connection, cube: str, start: datetime, end: datetime) -> set[str]:
    """Memories of the cube of which some version comes to its end after `start` and by `end`."""
    rows = connection.execute(
        "SELECT id FROM (SELECT id, cube, expires_at FROM memories UNION ALL SELECT id, cube, expires_at FROM versions)"
        " WHERE cube = ? AND expires_at > ? AND expires_at <= ?",
        [cube, stored_time(start), stored_time(end)],
    ).fetchall()
    return {row[0] for row in rows}


def lineage_at(connection: Connection, memories: Iterable[Memory], moment: Moment) -> list[Memory]:
    """The memories without the lineage that came later: a source moves on when it is superseded or fused."""
    found = list(memories)
    edges = {(edge.source, edge.version + 1) for memory in found for edge in memory.lineage if _moves_on(edge)}
    rows = connection.execute(
        "SELECT id, version - 1 FROM (SELECT id, version, recorded, updated_at FROM memories UNION ALL"
        " SELECT id, version, recorded, updated_at FROM versions) JOIN"
        " (SELECT unnest(?::VARCHAR[]) AS id, unnest(?::INTEGER[]) AS version) USING (id, version)"
        f" WHERE NOT ({moment.had})",
        [[id for id, _ in edges], [version for _, version in edges], moment.bound],
    ).fetchall()
    later = {tuple(row) for row in rows}
    return [
        replace(
            memory,
            lineage=tuple(
                edge for edge in memory.lineage if not (_moves_on(edge) and (edge.source, edge.version) in later)
            ),
        )
        for memory in found
    ]


def _moves_on(edge: Lineage) -> bool:
    return edge.relation in (Relation.SUPERSEDES, Relation.FUSED_FROM)


def present_of(connection: Connection, ids: Collection[str]) -> dict[str, Record]:
    """The present versions of `ids`, in the order of labels, however many they are."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[])) ORDER BY label", [list(ids)]
    ).fetchall()
    return {row[0]: record_of(row, connection.sealer) for row in rows}


def erased_since(connection: Connection, moment: Moment) -> dict[str, str]:
    """Memories of the cube that were there at the moment and were erased since: id -> how sensitive it was."""
    if moment.before is None:
        return {}
    rows = connection.execute(
        "SELECT id, sensitivity FROM tombstones WHERE cube = ? AND revision >= ? AND id IN"
        " (SELECT unnest(from_json(ids, '[\"VARCHAR\"]')) FROM audit WHERE seq < ?) ORDER BY label",
        [moment.cube, moment.before, moment.before],
    ).fetchall()
    return dict(rows)


_LET_GO = """
SELECT id, first_kept FROM (
    SELECT id, min(version) AS version, arg_min(updated_at, version) AS first_kept,
        arg_min(recorded, version) AS recorded, min(created_at) AS created_at
    FROM (SELECT id, version, cube, updated_at, recorded, created_at FROM memories UNION ALL
          SELECT id, version, cube, updated_at, recorded, created_at FROM versions)
    WHERE cube = ? GROUP BY id HAVING min(version) > 1)
WHERE created_at <= ? AND first_kept > ? AND recorded >= ?
"""


def let_go_at(connection: Connection, moment: Moment) -> dict[str, datetime]:
    """Memories of the cube whose version of the moment was let go: id -> since when its history is whole."""
    at, before = stored_time(moment.at), -1 if moment.before is None else moment.before
    rows = connection.execute(_LET_GO, [moment.cube, at, at, before]).fetchall()
    return {id: known_time(first) for id, first in rows}


def horizon(connection: Connection, moment: Moment) -> datetime | None:
    """Since when the cube's history is whole, if it is not at the moment."""
    return max(let_go_at(connection, moment).values(), default=None)


# --- headers and snapshots ------------------------------------------------------------------------------------------


def cube_versions(connection: Connection, name: str) -> list[CubeVersion]:
    """Every version of a cube's header, oldest first."""
    rows = connection.execute(
        f"SELECT {', '.join(CUBE_COLUMNS)}, author, change, reason FROM cube_versions WHERE name = ? ORDER BY version",
        [name],
    ).fetchall()
    found = []
    for row in rows:
        cube, (author, change, reason) = cube_of(row, connection.sealer), row[len(CUBE_COLUMNS) :]
        told = None if reason is None else connection.sealer.read_text(reason, f"cube:{name}:{cube.version}:reason")
        found.append(CubeVersion(cube, cube.updated_at, author, change, told))
    return found


def header_at(connection: Connection, moment: Moment) -> MemCube | None:
    """The cube's header at the moment; None: it was not there yet."""
    row = connection.execute(
        f"SELECT {', '.join(CUBE_COLUMNS)} FROM (SELECT *, revision AS recorded FROM cube_versions) WHERE name = ?"
        f" AND {moment.had} ORDER BY version DESC LIMIT 1",
        [moment.cube, moment.bound],
    ).fetchone()
    return None if row is None else cube_of(row, connection.sealer)


def snapshots(connection: Connection, cube: str, names: Sequence[str] | None = None) -> list[Snapshot]:
    """The snapshots of a cube (those of `names`, or all), oldest first."""
    where, which = ("", []) if names is None else (" AND name IN (SELECT unnest(?::VARCHAR[]))", [list(names)])
    rows = connection.execute(
        f"SELECT name, moment, author, reason FROM snapshots WHERE cube = ?{where} ORDER BY revision, name",
        [cube, *which],
    ).fetchall()
    opened = connection.sealer.read_text
    return [
        Snapshot(
            cube,
            name,
            known_time(moment),
            author,
            None if reason is None else opened(reason, f"snapshot:{cube}:{name}:reason"),
        )
        for name, moment, author, reason in rows
    ]
