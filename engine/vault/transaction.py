"""What a change of the vault may do: a `Transaction` is handed to each job of the writer thread.

It turns changes of memories into rows and writes the audit row that each change owes. It decides nothing: which
changes are allowed is `engine.lifecycle` and `engine.governance`. A job may be run twice (when another job of the same
group failed), so it keeps no state outside the transaction; what must happen once, after the commit, goes to `after`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cubes import Lineage, MemCube, Memory, Sensitivity, State
from engine.operations import Caller
from engine.vault.audit import AUDIT_COLUMNS, FIRST_PREVIOUS, AuditRow, audit_values
from engine.vault.connection import Connection
from engine.vault.rows import Record, cube_row, header_json, place_of, record_of, row_of, stored_time
from engine.vault.schema import CUBE_COLUMNS, MEMORY_COLUMNS
from engine.vault.staging import SHOWN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ERASED_FROM = (
    ("memories", "id"),
    ("versions", "id"),
    ("embeddings", "id"),
    ("usage", "id"),
    ("lineage", "derived"),
    ("lineage", "source"),
    ("heat", "id"),
)
BULK_ROWS = 16  # from here on one statement with lists is faster than many with scalars


@dataclass(slots=True)
class Head:
    """Where the vault stands: the last audit row, the last label, and the time of the last change."""

    seq: int = 0
    hash: str = FIRST_PREVIOUS
    label: int = 0
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A committed change of one memory, for whoever keeps something derived from it."""

    id: str
    label: int
    cube: str
    record: Record | None  # None: erased
    vectors: NDArray[np.float32] | None = None  # [passages, dimension]; None: unchanged or none yet
    embedder: str = ""  # fingerprint of what made them
    sensitivity: Sensitivity = Sensitivity.NORMAL  # of the memory, before or after: the lesser of the two


@dataclass(slots=True)
class Transaction:
    """One job's view of the open transaction."""

    connection: Connection
    head: Head
    now: datetime
    caller: Caller
    changes: list[Change] = field(default_factory=list)
    cubes_changed: bool = False
    cubes: dict[str, None] = field(default_factory=dict)  # what the audit rows are about, in order: these changed
    headers: dict[str, None] = field(default_factory=dict)  # cubes whose own header or snapshots changed
    outdated: dict[str, int] = field(default_factory=dict)  # changed, with the version now, or 0: gone or overwritten
    unneeded: set[str] = field(default_factory=set)  # digests of blobs that rows were removed of
    invalidated: dict[str, int] = field(default_factory=dict)  # all that was `outdated`: what was derived of it is gone
    erasing: bool = False  # something was removed for good: what conversations may have quoted goes, too
    artifacts_shown: bool = False  # artifacts came with a bundle
    written: bool = False
    revision: int = 0  # the vault's revision once this job's changes are in it; set when the job has run
    _after: list[Callable[[], None]] = field(default_factory=list)

    # --- reading -----------------------------------------------------------------------------------------------

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, parameters).fetchall()

    def records(self, ids: Iterable[str]) -> dict[str, Record]:
        """Current records by id; ids that do not exist are left out."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return {}
        marks = ", ".join("?" * len(wanted))
        found = self.rows(f"SELECT {', '.join(MEMORY_COLUMNS)} FROM memories WHERE id IN ({marks}) AND {SHOWN}", wanted)
        return {row[0]: record_of(row, self.connection.sealer) for row in found}

    # --- writing -----------------------------------------------------------------------------------------------

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self.written = True
        self.connection.execute(sql, parameters)

    def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, replace_: bool = False
    ) -> None:
        """Insert rows; many at once go as lists in one statement."""
        if not rows:
            return
        verb = "INSERT OR REPLACE" if replace_ else "INSERT"
        head = f"{verb} INTO {table} ({', '.join(columns)})"
        if len(rows) < BULK_ROWS:
            marks = f"({', '.join('?' * len(columns))})"
            values = [value for row in rows for value in row]
            self.execute(f"{head} VALUES {', '.join([marks] * len(rows))}", values)
        else:
            lists = [list(column) for column in zip(*rows, strict=True)]
            self.execute(f"{head} SELECT {', '.join(['unnest(?)'] * len(columns))}", lists)

    def new_label(self) -> int:
        self.head.label += 1
        return self.head.label

    def audit(
        self,
        action: str,
        cube: str,
        ids: Sequence[str] = (),
        *,
        reason: str | None = None,
        actor: str | None = None,
        **detail: object,
    ) -> int:
        """Append the audit row of one change and return its number, which is the vault's new revision."""
        row = AuditRow(
            seq=self.head.seq + 1,
            recorded_at=self.now,
            actor=actor or self.caller.principal.name,
            client=self.caller.client,
            action=action,
            cube=cube,
            ids=tuple(ids),
            reason=reason,
            detail=dict(detail),
            previous=self.head.hash,
        )
        hashed = row.hash()
        self.insert("audit", AUDIT_COLUMNS, [audit_values(row, hashed, self.connection.sealer)])
        if cube:
            self.cubes[cube] = None
        self.head.seq, self.head.hash = row.seq, hashed
        return row.seq

    def add(self, records: Sequence[Record], vectors: Sequence[NDArray[np.float32] | None], embedder: str) -> None:
        """Insert new memories; `vectors`, [passages, dimension] each, go to whoever keeps the index."""
        self.insert("memories", MEMORY_COLUMNS, [row_of(record, self.connection.sealer) for record in records])
        self.changes += [
            replace(_change(record), vectors=rows, embedder=embedder)
            for record, rows in zip(records, vectors, strict=True)
        ]

    def embed(
        self, vectors: Sequence[tuple[str, NDArray[np.float32]]], embedder: str, *, replace_: bool = False
    ) -> None:
        """Store the passage vectors of memories under the embedder's fingerprint."""
        sealed = self.connection.sealer.blob
        rows = [
            (id, embedder, len(matrix), sealed(matrix.astype("<f4").tobytes(), f"{id}:{embedder}"))
            for id, matrix in vectors
        ]
        self.insert("embeddings", ("id", "embedder", "passages", "vectors"), rows, replace_=replace_)

    def erase(self, records: Sequence[Record], revision: int) -> dict[str, int]:
        """Remove every trace of memories from the tables but their tombstones, which hold no content.

        Returns how many rows went from each table.
        """
        ids = [record.memory.id for record in records]
        removed: dict[str, int] = {}
        for table, column in ERASED_FROM:
            gone = self.rows(f"DELETE FROM {table} WHERE {column} IN (SELECT unnest(?))", [ids])
            removed[table] = removed.get(table, 0) + int(gone[0][0])
        self.rows("DELETE FROM scenes WHERE list_has_any(used, ?::VARCHAR[])", [ids])  # what was asked may repeat it
        self.written = True
        rows = [
            (record.memory.id, record.label, record.memory.cube, revision, record.memory.governance.sensitivity.value)
            for record in records
        ]
        self.insert("tombstones", ("id", "label", "cube", "revision", "sensitivity"), rows)
        self.outdated.update(dict.fromkeys(ids, 0))
        self.erasing = True
        self.changes += [replace(_change(record), record=None) for record in records]
        return removed

    def revise(self, old: Record, memory: Memory, change: str, revision: int, *, reason: str | None = None) -> Record:
        """Make `memory` the next version of `old`; the old version moves to `versions`."""
        return self.revise_all([(old, memory)], change, revision, reason=reason)[0]

    def revise_all(
        self, revised: Sequence[tuple[Record, Memory]], change: str, revision: int, *, reason: str | None = None
    ) -> list[Record]:
        """As `revise`, for many at once: (the present record, with the key of the new content; the next version)."""
        author = self.caller.principal.name
        records = [
            Record(self._next_version(old, memory), old.label, old.content_key, author, change, reason, revision)
            for old, memory in revised
        ]
        columns = ", ".join(MEMORY_COLUMNS)
        self.execute(
            f"INSERT INTO versions ({columns}) SELECT {columns} FROM memories"
            " WHERE id IN (SELECT unnest(?::VARCHAR[]))",
            [[record.memory.id for record in records]],
        )
        self.outdated.update({record.memory.id: record.memory.version for record in records})
        rows = [row_of(record, self.connection.sealer) for record in records]
        if len(rows) < BULK_ROWS:
            settings = ", ".join(f"{column} = ?" for column in MEMORY_COLUMNS[3:])
            for row in rows:
                self.execute(f"UPDATE memories SET {settings} WHERE id = ?", [*row[3:], row[0]])
        else:
            self.insert("memories", MEMORY_COLUMNS, rows, replace_=True)
        self.changes += [
            _change(record, old.memory.governance.sensitivity)
            for (old, _), record in zip(revised, records, strict=True)
        ]
        return records

    def _next_version(self, old: Record, memory: Memory) -> Memory:
        about = replace(memory.descriptive, updated_at=self.now)
        return replace(memory, version=old.memory.version + 1, descriptive=about)

    def move(self, old: Record, state: State, change: str, revision: int, *, reason: str | None = None) -> Record:
        """The next version of `old` in another state."""
        return self.revise(old, replace(old.memory, state=state), change, revision, reason=reason)

    def overwrite(self, record: Record, revision: int) -> None:
        """Replace what one version of a memory says, without making a new one: its old words are erased."""
        memory = record.memory
        self.outdated[memory.id] = 0
        self.erasing = True
        sealed = self.connection.sealer.text
        told = [
            sealed(memory.content, place_of(memory, "content")),
            record.content_key,
            sealed(header_json(memory), place_of(memory, "header")),
        ]
        settings = "content = ?, content_key = ?, header = ?"
        self.execute(f"UPDATE versions SET {settings} WHERE id = ? AND version = ?", [*told, memory.id, memory.version])
        current = self.rows(
            f"UPDATE memories SET {settings}, revision = ? WHERE id = ? AND version = ? RETURNING id",
            [*told, revision, memory.id, memory.version],
        )
        if current:
            self.changes.append(_change(replace(record, revision=revision)))

    def activate(self, records: Sequence[Record], revision: int) -> None:
        """First use: another state, but no new version, since nothing of what the memory says has changed."""
        ids = [record.memory.id for record in records]
        self.execute(
            "UPDATE memories SET state = ?, revision = ? WHERE id IN (SELECT unnest(?))",
            [State.ACTIVATED.value, revision, ids],
        )
        for record in records:
            memory = replace(record.memory, state=State.ACTIVATED)
            self.changes.append(_change(replace(record, memory=memory, revision=revision)))

    def use(self, uses: Mapping[str, tuple[int, datetime]]) -> None:
        """Note that memories were used: how often, and when last, by their ids. Being used is not a change."""
        if not uses:
            return
        known = dict(
            self.rows("SELECT id, access_count FROM usage WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(uses)])
        )
        rows = [(id, known.get(id, 0) + count, stored_time(at)) for id, (count, at) in uses.items()]
        self.insert("usage", ("id", "access_count", "last_access"), rows, replace_=True)

    def link(self, edges: Mapping[str, Iterable[Lineage]], *, imported: bool = False) -> None:
        """Add lineage: the edges of each derived memory, by its id. `imported`: a file says so, it did not happen here.

        An imported edge never takes the place of one that was made here.
        """
        rows = [
            (derived, edge.relation.value, edge.source, edge.version, imported)
            for derived, found in edges.items()
            for edge in found
        ]
        if imported and rows:
            known = {
                tuple(row)
                for row in self.rows(
                    "SELECT derived, relation, source FROM lineage WHERE NOT imported"
                    " AND derived IN (SELECT unnest(?::VARCHAR[]))",
                    [list(edges)],
                )
            }
            rows = [row for row in rows if row[:3] not in known]
        columns = ("derived", "relation", "source", "source_version", "imported")
        self.insert("lineage", columns, rows, replace_=True)

    def put_cube(self, cube: MemCube, revision: int, change: str, *, reason: str | None = None) -> None:
        """Make `cube` the present version of its header. Its `version` says which one it is."""
        row = cube_row(cube, revision, self.connection.sealer)
        sealed = (
            None if reason is None else self.connection.sealer.text(reason, f"cube:{cube.name}:{cube.version}:reason")
        )
        self.insert("cubes", CUBE_COLUMNS, [row], replace_=True)
        columns = (*CUBE_COLUMNS, "author", "change", "reason")
        versioned = [(*row, self.caller.principal.name, change, sealed)]
        self.insert("cube_versions", columns, versioned, replace_=True)
        self.cubes_changed = True
        self.headers[cube.name] = None

    def put_snapshot(
        self,
        cube: str,
        name: str,
        moment: datetime,
        revision: int,
        *,
        reason: str | None = None,
        author: str | None = None,
    ) -> None:
        """Name a moment of a cube, or give the name another one. Revision 0: it came with a bundle."""
        place = f"snapshot:{cube}:{name}:reason"
        sealed = None if reason is None else self.connection.sealer.text(reason, place)
        row = (cube, name, stored_time(moment), author or self.caller.principal.name, sealed, revision)
        columns = ("cube", "name", "moment", "author", "reason", "revision")
        self.insert("snapshots", columns, [row], replace_=True)
        self.headers[cube] = None

    def drop_snapshot(self, cube: str, name: str) -> None:
        """Take the name away from a moment."""
        self.execute("DELETE FROM snapshots WHERE cube = ? AND name = ?", [cube, name])
        self.headers[cube] = None

    def after(self, effect: Callable[[], None]) -> None:
        """Run `effect` once, on the writer thread, when the transaction is durable."""
        self._after.append(effect)

    def effects(self) -> list[Callable[[], None]]:
        return self._after


def _change(record: Record, before: Sensitivity | None = None) -> Change:
    """The change that made `record`; `before` is how sensitive the memory was until then."""
    memory, now = record.memory, record.memory.governance.sensitivity
    lesser = now if before is None else min(now, before, key=tuple(Sensitivity).index)
    return Change(memory.id, record.label, memory.cube, record, sensitivity=lesser)
