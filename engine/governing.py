"""govern: how memories are to be treated; cubes' headers and rules; who is let in; what the audit log says of it.

What holds the same content is treated alike. The pieces of a long text follow their whole; a memory that is made more
sensitive takes with it what was fused from it, what it was fused from, and the text that it is a piece of: else its
words would still be read there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from cubes import Action, CubePolicy, MemCube, Memory, Relation
from engine.cube_operations import (
    MAX_DESCRIPTION_CHARS,
    MAX_LICENCE_CHARS,
    AuditEntry,
    Govern,
    SetCube,
    Share,
)
from engine.erasing import Erasure, lasting
from engine.errors import Frozen, Invalid, NotAllowed, NotFound, TooLarge
from engine.governance.access import (
    EVERY_CUBE,
    allowed,
    by_name,
    granted,
    header_for,
    no_cube,
    require,
    require_clearance,
    stricter,
)
from engine.governance.policy import MAX_DAYS, check_policy, check_principal, with_grant
from engine.operations import MAX_REASON_CHARS, MAX_TAG_CHARS, MAX_TAGS, Caller
from engine.parts import Parts, check_cube_name, check_ids, existing, may_all, once, readable_cubes, shown
from engine.reader.checks import check_text
from engine.vault import Transaction, audit_log, queries
from engine.vault.audit import AuditRow
from engine.vault.connection import Connection
from engine.vault.rows import Record

MAX_PRIORITY = 1_000  # on both sides of 0
MAX_ENTRIES = 1_000  # audit rows at once

_ELSEWHERE = (
    "what these memories say is also in what you may not change: who administers the cube has to make it more "
    "sensitive; nothing was changed"
)

# What an audit row says besides ids, as far as it is for others than the owner: no paths, no names of other cubes.
TOLD = frozenset(
    (
        *("fields", "pinned", "frozen", "priority", "sensitivity", "read", "write", "share", "principal", "actions"),
        *("name", "to", "version", "versions", "memories", "keep_versions", "keep_days", "decay_days", "receipt"),
    )
)
IDS = frozenset(("superseded", "renewed", "parents"))


# --- memories -------------------------------------------------------------------------------------------------------


def govern(parts: Parts, request: Govern, caller: Caller) -> tuple[Memory, ...]:
    """Set what the request gives, for all its memories or for none; as they are now, in that order.

    Raises:
        NotFound, NotAllowed: a memory that the caller may not see or change, or may not see as it would be then.
        Frozen: one is frozen: it has to be unfrozen first, by itself.
        Invalid, TooLarge: nothing to set, or a value out of bounds.
    """
    _check(request)
    ids = check_ids(request.ids)

    def job(transaction: Transaction) -> tuple[tuple[str, ...], Sequence[str]]:
        _govern(parts, transaction, request, existing(transaction, ids, Action.WRITE))
        return ids, ids

    once(parts, caller, request, job, lambda done: {"ids": list(done)}, lambda stored: tuple(stored["ids"]))
    with parts.vault.reading() as connection:
        records = queries.records(connection, ids)
        found = queries.complete(connection, [records[id] for id in ids if id in records])
        return tuple(shown(connection, found, caller))


def _check(request: Govern) -> None:
    given = (request.pinned, request.frozen, request.priority, request.sensitivity, request.expires_in_days)
    if not request.ids or (all(value is None for value in given) and request.tags is None):
        raise Invalid("say which memories, and what is to hold for them: nothing was changed")
    if request.priority is not None and abs(request.priority) > MAX_PRIORITY:
        raise Invalid(f"priority is {request.priority}: use -{MAX_PRIORITY} to {MAX_PRIORITY}")
    days = request.expires_in_days
    if days is not None and not (math.isfinite(days) and 0 <= days <= MAX_DAYS):
        raise Invalid(f"expires_in_days is {days}: use at most {MAX_DAYS:,.0f}, or 0 to take the end away")
    if request.tags is not None:
        if len(request.tags) > MAX_TAGS:
            raise TooLarge(f"{len(request.tags)} tags: at most {MAX_TAGS} are allowed")
        for number, tag in enumerate(request.tags):
            check_text(tag, f"tags[{number}]", MAX_TAG_CHARS)
    _check_reason(request.reason)


def _check_reason(reason: str | None) -> None:
    if reason is not None:
        check_text(reason, "reason", MAX_REASON_CHARS)


def _govern(parts: Parts, transaction: Transaction, request: Govern, named: Sequence[Record]) -> None:
    if request.sensitivity is not None:
        for name in dict.fromkeys(record.memory.cube for record in named):
            cube = queries.cube(transaction.connection, name)
            assert cube is not None
            require_clearance(transaction.caller.principal, cube, request.sensitivity)
    every = _with_pieces(transaction, named)
    may_all(transaction, every.values(), _ELSEWHERE)
    revised = {id: (record, _governed(record.memory, request, transaction.now)) for id, record in every.items()}
    revised.update(_guarded_too(parts, transaction, request, named, every))
    changed = [(record, memory) for record, memory in revised.values() if memory != record.memory]
    reason = lasting(request.reason, [record.memory for record, _ in changed])
    for name in sorted({record.memory.cube for record, _ in changed}):
        mine = [(record, memory) for record, memory in changed if record.memory.cube == name]
        ids = [record.memory.id for record, _ in mine]
        revision = transaction.audit("govern", name, ids, reason=reason, **_told(request))
        transaction.revise_all(mine, "govern", revision, reason=reason)


def _with_pieces(transaction: Transaction, records: Sequence[Record]) -> dict[str, Record]:
    every = {record.memory.id: record for record in records}
    wholes = [record.memory.id for record in records if record.memory.descriptive.parts]
    edges = queries.derived_from(transaction.connection, wholes)
    pieces = transaction.records(id for id, edge in edges if edge.relation is Relation.PART_OF and id not in every)
    cubes = {record.memory.cube for record in records}
    every.update({id: piece for id, piece in pieces.items() if piece.memory.cube in cubes})
    return every


def _governed(memory: Memory, request: Govern, now: datetime) -> Memory:
    """The memory as the request wants it. Raises `Frozen` where it must not be changed."""
    rules, about = memory.governance, memory.descriptive
    others = (request.pinned, request.priority, request.sensitivity, request.expires_in_days, request.tags)
    if rules.frozen and (request.frozen is not False or any(value is not None for value in others)):
        if request.frozen and all(value is None for value in others):
            return memory
        raise Frozen(f"{memory.id} is frozen: unfreeze it first, by itself (`memos-mcp govern {memory.id} --unfreeze`)")
    ends = rules.expires_at
    if request.expires_in_days is not None:
        ends = now + timedelta(days=request.expires_in_days) if request.expires_in_days else None
    return replace(
        memory,
        descriptive=about if request.tags is None else replace(about, tags=tuple(dict.fromkeys(request.tags))),
        governance=replace(
            rules,
            expires_at=ends,
            priority=rules.priority if request.priority is None else request.priority,
            sensitivity=request.sensitivity or rules.sensitivity,
            pinned=rules.pinned if request.pinned is None else request.pinned,
            frozen=rules.frozen if request.frozen is None else request.frozen,
        ),
    )


def _guarded_too(
    parts: Parts, transaction: Transaction, request: Govern, named: Sequence[Record], every: dict[str, Record]
) -> dict[str, tuple[Record, Memory]]:
    """What holds the content of memories that are made more sensitive, and has to be as sensitive as they."""
    level = request.sensitivity
    if level is None:
        return {}
    rising = [record for record in named if stricter(record.memory.governance.sensitivity, level) is level]
    around = Erasure(parts, transaction, rising, (), None)
    if rising:
        around.collect()
    found = {
        id: record
        for id, record in {**around.gone, **around.blanked}.items()
        if id not in every
        and stricter(record.memory.governance.sensitivity, level) != record.memory.governance.sensitivity
    }
    may_all(transaction, found.values(), _ELSEWHERE)
    for id, record in found.items():
        if record.memory.governance.frozen:
            raise Frozen(f"{id} holds the same content and is frozen: unfreeze it first, by itself")
    return {
        id: (record, replace(record.memory, governance=replace(record.memory.governance, sensitivity=level)))
        for id, record in found.items()
    }


def _told(request: Govern) -> dict[str, Any]:
    """What the audit row says was set: of tags only that, since they are words of the person."""
    values = {
        "pinned": request.pinned,
        "frozen": request.frozen,
        "priority": request.priority,
        "sensitivity": None if request.sensitivity is None else request.sensitivity.value,
    }
    fields = [name for name in ("expires_in_days", "tags") if getattr(request, name) is not None]
    return {**{name: value for name, value in values.items() if value is not None}, "fields": fields}


# --- cubes ----------------------------------------------------------------------------------------------------------


def set_cube(parts: Parts, request: SetCube, caller: Caller) -> MemCube:
    """Make a cube, or set what the request gives of its header. What is set already makes no new version.

    Raises:
        NotFound, NotAllowed: the caller may not write to it; or, for rules and licence, not administer it.
        Invalid, TooLarge: a value that no cube may have.
    """
    check_cube_name(request.name)
    for name, text, most in (
        ("description", request.description, MAX_DESCRIPTION_CHARS),
        ("licence", request.licence, MAX_LICENCE_CHARS),
    ):
        if text:  # an empty one takes it away
            check_text(text, name, most)
    if request.policy is not None:
        check_policy(request.policy)
    _check_reason(request.reason)

    def job(transaction: Transaction) -> None:
        principal = transaction.caller.principal
        found = queries.cube(transaction.connection, request.name)
        if found is None and not granted(principal, request.name, Action.WRITE):
            raise NotFound(no_cube(request.name))
        new = MemCube(request.name, principal.name, transaction.now, transaction.now)
        cube = found or new
        require(principal, cube, Action.READ)
        if request.description is not None:
            require(principal, cube, Action.WRITE)
        if request.policy is not None or request.licence is not None:
            require(principal, cube, Action.ADMIN)
        wanted = replace(
            cube,
            description=cube.description if request.description is None else request.description,
            licence=cube.licence if request.licence is None else request.licence,
            policy=request.policy or cube.policy,
            offered=cube.offered if request.policy is None else None,
        )
        if found is None:
            revision = transaction.audit("create_cube", cube.name, reason=request.reason, fields=_fields(new, wanted))
            transaction.put_cube(wanted, revision, "create", reason=request.reason)
        else:
            _put(transaction, found, wanted, "set_cube", request.reason, fields=_fields(found, wanted))

    parts.vault.write(job, caller)
    return header_for(caller.principal, readable_cubes(parts, [request.name], caller)[0])


def _fields(before: MemCube, after: MemCube) -> list[str]:
    """Which fields of a header are other ones, those of its rules too."""
    of_it = [name for name in ("description", "licence", "offered") if getattr(before, name) != getattr(after, name)]
    rules = [name for name in CubePolicy.__slots__ if getattr(before.policy, name) != getattr(after.policy, name)]
    return [*of_it, *rules]


def _put(
    transaction: Transaction, found: MemCube, wanted: MemCube, action: str, reason: str | None, **detail: Any
) -> None:
    if wanted == found:
        return
    wanted = replace(wanted, version=found.version + 1, updated_at=transaction.now)
    revision = transaction.audit(action, found.name, reason=reason, **detail)
    transaction.put_cube(wanted, revision, action.removesuffix("_cube"), reason=reason)


def share(parts: Parts, request: Share, caller: Caller) -> MemCube:
    """Open a cube to others, close it, or set what one principal may do; the cube, with its grants.

    Who was granted `share` may open reading, or close it; everything else is for who administers the cube.

    Raises:
        NotFound, NotAllowed: the caller may not do this with the cube.
        Invalid: no principal can have that name, or the scopes contradict each other.
    """
    if (request.principal is None) != (request.actions is None):
        raise Invalid("principal and actions go together: no actions take the principal's grant away")
    if request.principal is not None:
        check_principal(request.principal)
    _check_reason(request.reason)
    reading_alone = request.write is None and request.share is None and request.principal is None

    def job(transaction: Transaction) -> None:
        principal = transaction.caller.principal
        cube = queries.cube(transaction.connection, request.cube)
        if cube is None or not allowed(principal, cube, Action.READ):
            raise NotFound(no_cube(request.cube))
        # A scope that lets everyone pass a cube on lets nobody change its scopes.
        if not (reading_alone and by_name(principal, cube, Action.SHARE)):
            require(principal, cube, Action.ADMIN)
        policy = replace(
            cube.policy,
            read=request.read or cube.policy.read,
            write=request.write or cube.policy.write,
            share=request.share or cube.policy.share,
        )
        if request.principal is not None:
            grants = with_grant(policy.grants, request.principal, request.actions or ())
            policy = replace(policy, grants=grants)
        check_policy(policy)
        if policy != cube.policy:
            wanted = replace(cube, policy=policy, offered=None)
            _put(transaction, cube, wanted, "share", request.reason, **_opened(request))

    parts.vault.write(job, caller)
    return header_for(caller.principal, readable_cubes(parts, [request.cube], caller)[0])


def _opened(request: Share) -> dict[str, Any]:
    scopes = {"read": request.read, "write": request.write, "share": request.share}
    told: dict[str, Any] = {name: scope.value for name, scope in scopes.items() if scope is not None}
    if request.principal is not None:
        told |= {"principal": request.principal, "actions": [action.value for action in request.actions or ()]}
    return told


# --- the audit log --------------------------------------------------------------------------------------------------


def audit(
    parts: Parts, caller: Caller, since: int | None = None, limit: int = 100, cube: str | None = None
) -> tuple[AuditEntry, ...]:
    """The log's rows after `since`, or its last: all for the owner, else of the cubes that the caller administers.

    Raises:
        NotFound: no such cube for this caller.
        NotAllowed: it may read the cube, but not administer it.
        Invalid: a bound was passed.
    """
    if not 1 <= limit <= MAX_ENTRIES or (since or 0) < 0:
        raise Invalid(f"limit is 1 to {MAX_ENTRIES}, and since is the number of a row: these are {limit} and {since}")
    owner = caller.principal.owner
    with parts.vault.reading() as connection:
        cubes = (
            None
            if owner
            else [name for name in audit_log.audited_cubes(connection) if _administers(parts, caller, name)]
        )
        if cube is not None:
            if not owner and cube not in (cubes or ()):
                require(caller.principal, readable_cubes(parts, [cube], caller)[0], Action.ADMIN)
            cubes = [cube]
        rows = list(audit_log.audit_rows(connection, since=since, limit=limit, cubes=cubes))
        hidden = set() if owner else _strangers(parts, connection, caller, rows)
    return tuple(_entry(row, owner, hidden) for row in rows)


def _administers(parts: Parts, caller: Caller, name: str) -> bool:
    found = next((cube for cube in parts.vault.cubes() if cube.name == name), None)
    if found is None:  # it is gone: only a token's own scope still tells
        return granted(caller.principal, name, Action.ADMIN)
    return by_name(caller.principal, found, Action.ADMIN)


def _strangers(parts: Parts, connection: Connection, caller: Caller, rows: Iterable[AuditRow]) -> set[str]:
    """Ids in these rows that are of cubes which the caller does not administer."""
    places = queries.places_of(connection, list({id for row in rows for id in (*row.ids, *_ids_in(row))}))
    return {id for id, (cube, _) in places.items() if not _administers(parts, caller, cube)}


def _ids_in(row: AuditRow) -> list[str]:
    return [str(id) for name in IDS for id in _listed(row.detail.get(name))]


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _entry(row: AuditRow, owner: bool, hidden: set[str]) -> AuditEntry:
    detail: dict[str, object] = dict(row.detail)
    if not owner:
        lists = {name: _listed(value) for name, value in detail.items() if name in IDS}
        kept = {name: value for name, value in detail.items() if name in TOLD}
        detail = kept | {name: [id for id in ids if id not in hidden] for name, ids in lists.items()}
    return AuditEntry(
        seq=row.seq,
        at=row.recorded_at,
        actor=row.actor,
        client=row.client,
        action=row.action,
        cube=row.cube,
        ids=tuple(id for id in row.ids if id not in hidden),
        reason=row.reason,
        detail=detail,
    )


def verify_audit(parts: Parts, caller: Caller) -> tuple[str, ...]:
    """What is wrong with the audit log, and in which rows; empty: it is whole. For the owner. Raises `NotAllowed`."""
    if not granted(caller.principal, EVERY_CUBE, Action.ADMIN):
        raise NotAllowed("checking the audit log is for the owner of the store")
    with parts.vault.reading() as connection:
        return tuple(audit_log.audit_problems(connection))
