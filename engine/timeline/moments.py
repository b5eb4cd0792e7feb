"""Moments of a cube: named snapshots, and what the cube held at any moment.

A moment is said as the name of a snapshot, as an ISO instant (without a zone: UTC; a date: its beginning), or as "now".
Snapshots copy nothing: the versions are there anyway, and retention leaves what a snapshot needs. The rule of what
counts as recorded by then stands in `engine.vault.past`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from cubes import Action, MemCube, Memory, Sensitivity
from engine.cube_operations import MAX_SNAPSHOT_NAME_CHARS, MAX_SNAPSHOTS, CubeVersion, Snapshot
from engine.errors import Conflict, Invalid, NotFound, TooLarge
from engine.governance.access import clearance, header_for, no_cube, require
from engine.operations import MAX_REASON_CHARS, Caller
from engine.parts import Parts, readable_cubes, shown
from engine.reader.checks import check_text
from engine.vault import Transaction, past, queries
from engine.vault.connection import Connection
from engine.vault.past import Moment
from engine.vault.rows import Record

NOW = "now"


# --- snapshots ----------------------------------------------------------------------------------------------------


def snapshot(parts: Parts, cube: str, name: str, caller: Caller, reason: str | None = None) -> Snapshot:
    """Name the present moment of a cube.

    Raises:
        Invalid: no name for a snapshot, or a reason that is too long.
        Conflict: there is one of that name.
        TooLarge: the cube has as many snapshots as it may have.
        NotFound, NotAllowed: no such cube, or not for this caller.
    """
    _check_name(name)
    check_reason(reason)

    def job(transaction: Transaction) -> Snapshot:
        _writable(transaction, cube)
        if past.snapshots(transaction.connection, cube, [name]):
            raise Conflict(f"cube {cube!r} has a snapshot {name!r}: choose another name, or drop that one first")
        check_room(transaction, cube)
        revision = transaction.audit("snapshot", cube, reason=reason, name=name)
        transaction.put_snapshot(cube, name, transaction.now, revision, reason=reason)
        return past.snapshots(transaction.connection, cube, [name])[0]

    return parts.vault.write(job, caller)


def snapshots(parts: Parts, cube: str, caller: Caller) -> tuple[Snapshot, ...]:
    """The snapshots of a cube, oldest first. Raises `NotFound`."""
    readable_cubes(parts, [cube], caller)
    with parts.vault.reading() as connection:
        return tuple(past.snapshots(connection, cube))


def drop_snapshot(parts: Parts, cube: str, name: str, caller: Caller) -> None:
    """Forget that a moment had a name; what was remembered stays.

    Raises:
        NotFound: no such cube or snapshot.
        NotAllowed: the caller may not write to the cube.
    """

    def job(transaction: Transaction) -> None:
        _writable(transaction, cube)
        if not past.snapshots(transaction.connection, cube, [name]):
            raise NotFound(_no_snapshot(cube, name))
        transaction.audit("drop_snapshot", cube, name=name)
        transaction.drop_snapshot(cube, name)

    parts.vault.write(job, caller)


def check_room(transaction: Transaction, cube: str) -> None:
    """Raises `TooLarge` where a cube may have no further snapshot."""
    if len(past.snapshots(transaction.connection, cube)) >= MAX_SNAPSHOTS:
        raise TooLarge(f"cube {cube!r} has {MAX_SNAPSHOTS} snapshots: drop one that is not needed first")


def check_reason(reason: str | None) -> None:
    if reason is not None:
        check_text(reason, "reason", MAX_REASON_CHARS)


def _check_name(name: str) -> None:
    if not name or len(name) > MAX_SNAPSHOT_NAME_CHARS or not name.isprintable() or name != name.strip():
        raise Invalid(f"a snapshot's name has 1 to {MAX_SNAPSHOT_NAME_CHARS} printable characters, no outer blanks")
    if name.lower() == NOW or "/" in name or instant(name) is not None:
        raise Invalid(f"{name!r} cannot be a snapshot's name: it would be taken for a moment or a path")


def _no_snapshot(cube: str, name: str) -> str:
    return f"cube {cube!r} has no snapshot {name!r}: `memos-mcp cube snapshots {cube}` lists them"


def _writable(transaction: Transaction, name: str) -> MemCube:
    cube = queries.cube(transaction.connection, name)
    if cube is None:
        raise NotFound(no_cube(name))
    require(transaction.caller.principal, cube, Action.WRITE)
    return cube


# --- moments --------------------------------------------------------------------------------------------------------


def instant(said: str) -> datetime | None:
    """An ISO 8601 instant or date; None where it is none."""
    try:
        found = datetime.fromisoformat(said.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def resolve(connection: Connection, cube: str, said: str | datetime, now: datetime) -> Moment:
    """The moment of a cube that is meant. The name of a snapshot goes before an instant.

    Raises:
        NotFound: neither an instant nor a snapshot of the cube.
    """
    if isinstance(said, datetime):
        return past.moment_at(connection, cube, said)
    if said.strip().lower() == NOW:
        return past.present(cube, now)
    found = past.moment_of(connection, cube, said)
    if found is not None:
        return found
    at = instant(said)
    if at is None:
        raise NotFound(f"{_no_snapshot(cube, said)}; a moment is also an ISO instant, or {NOW!r}")
    return past.moment_at(connection, cube, at)


def memories_as_of(parts: Parts, cube: str, moment: str | datetime, caller: Caller) -> tuple[Memory, ...]:
    """Every memory that a cube held at a moment, in the version and state of then, in the order of remembering.

    Whether one was recalled then is told by its state and, as its time may have passed, by its end.

    Raises:
        NotFound: no such cube or snapshot.
    """
    header = readable_cubes(parts, [cube], caller)[0]
    seen = clearance(caller.principal, header)
    with parts.vault.reading() as connection:
        found = resolve(connection, cube, moment, parts.clock.now())
        records = visible_records(connection, past.records_at(connection, found).values(), cube, seen)
        memories = past.lineage_at(connection, queries.complete(connection, records), found)
        return tuple(shown(connection, memories, caller))


def visible_records(
    connection: Connection, records: Iterable[Record], cube: str, seen: frozenset[Sensitivity]
) -> list[Record]:
    """Without those that are, or were then, too sensitive."""
    if seen == frozenset(Sensitivity):
        return list(records)
    hidden = hidden_ids(connection, cube, seen)
    return [
        record for record in records if record.memory.id not in hidden and record.memory.governance.sensitivity in seen
    ]


def hidden_ids(connection: Connection, cube: str, seen: frozenset[Sensitivity]) -> set[str]:
    """Memories of a cube that are at present too sensitive for who sees `seen`."""
    rows = connection.execute(
        "SELECT id FROM memories WHERE cube = ? AND sensitivity NOT IN (SELECT unnest(?::VARCHAR[]))",
        [cube, sorted(seen)],
    ).fetchall()
    return {row[0] for row in rows}


def cube_history(parts: Parts, cube: str, caller: Caller) -> tuple[CubeVersion, ...]:
    """Every version of a cube's header that the caller may see, oldest first. Raises `NotFound`."""
    readable_cubes(parts, [cube], caller)
    with parts.vault.reading() as connection:
        versions = past.cube_versions(connection, cube)
    return tuple(replace(version, cube=header_for(caller.principal, version.cube)) for version in versions)
