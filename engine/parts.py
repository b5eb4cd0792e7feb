"""What the operations of the engine share: the parts that `MemOS` wires together, access, and running at most once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cubes import Action, MalformedCube, MemCube, Memory, Sensitivity
from cubes.canonical import digest
from engine.clock import Clock, Ids
from engine.embeddings import Embeddings
from engine.errors import Invalid, NotAllowed, NotFound
from engine.governance.access import EVERY_CUBE, allowed, clearance, granted, no_cube, no_memory, require
from engine.governance.limits import NO_ROOM, Room, check_room, fits, is_limited
from engine.indexer import Indexes
from engine.lifecycle.states import LIVE
from engine.operations import MAX_CUBE_NAME_CHARS, MAX_IDS, Caller
from engine.text.claims import normal_form
from engine.vault import MemVault, Transaction, queries
from engine.vault.connection import Connection
from engine.vault.rows import Record, stored_time
from engine.vault.sealing import Sealer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    vault: MemVault
    embeddings: Embeddings
    indexes: Indexes
    clock: Clock
    ids: Ids


# --- cubes and access ---------------------------------------------------------------------------------------------


def check_cube_name(name: str) -> None:
    """Raises `Invalid` for a name that no cube can have."""
    if not name or len(name) > MAX_CUBE_NAME_CHARS:
        raise Invalid(f"a cube's name has 1 to {MAX_CUBE_NAME_CHARS} characters, this one has {len(name)}")
    if not name.isprintable() or name != name.strip() or "/" in name or name == EVERY_CUBE:
        raise Invalid(f"{name!r} cannot be a cube's name: use printable characters without `/` and outer blanks")


def readable_cubes(parts: Parts, names: Sequence[str] | None, caller: Caller) -> list[MemCube]:
    """The cubes that the caller named, or all that it may read.

    Raises:
        NotFound: one that was named does not exist (for this caller).
    """
    mine = [cube for cube in parts.vault.cubes() if allowed(caller.principal, cube, Action.READ)]
    if names is None:
        return mine
    known = {cube.name: cube for cube in mine}
    for name in names:
        if name not in known:
            raise NotFound(no_cube(name))
    return [known[name] for name in dict.fromkeys(names)]


def existing_cube(parts: Parts, name: str, caller: Caller) -> MemCube:
    """The cube that the caller named to put something into: none is made by a slip of the pen.

    Raises:
        NotFound: it does not exist (for this caller). NotAllowed: the caller may not write to it.
    """
    try:
        (header,) = readable_cubes(parts, [name], caller)
    except NotFound as error:
        raise NotFound(f"{error}; make it first: memos-mcp cube create {name}") from None
    require(caller.principal, header, Action.WRITE)
    return header


def writable_cube(transaction: Transaction, name: str) -> MemCube | None:
    """The cube if it exists and the caller may write to it; None if it does not exist and the caller may create it."""
    found = queries.cube(transaction.connection, name)
    if found is not None:
        require(transaction.caller.principal, found, Action.WRITE)
        return found
    check_cube_name(name)
    if not granted(transaction.caller.principal, name, Action.WRITE):
        raise NotFound(no_cube(name))
    return None


def ensure_cube(transaction: Transaction, name: str) -> int:
    """Create the cube if it is not there; the revision under which that happened, or the present one."""
    if writable_cube(transaction, name) is not None:
        return transaction.head.seq
    revision = transaction.audit("create_cube", name)
    cube = MemCube(name, transaction.caller.principal.name, transaction.now, transaction.now)
    transaction.put_cube(cube, revision, "create")
    return revision


def seen_in(parts: Parts, name: str, caller: Caller) -> frozenset[Sensitivity]:
    """How sensitive the memories of a cube may be that the caller sees; of one that is not there yet, would see."""
    found = next((cube for cube in parts.vault.cubes() if cube.name == name), None)
    now = parts.clock.now()
    return clearance(caller.principal, found or MemCube(name, caller.principal.name, now, now))


def visible(connection: Connection, ids: Iterable[str], caller: Caller) -> set[str]:
    """Those of `ids` that name a memory which exists for the caller."""
    places = queries.places_of(connection, list(dict.fromkeys(ids)))
    found = {name: queries.cube(connection, name) for name in {name for name, _ in places.values()}}
    seen = {name: clearance(caller.principal, cube) for name, cube in found.items() if cube is not None}
    return {id for id, (name, sensitivity) in places.items() if sensitivity in seen.get(name, ())}


def shown(connection: Connection, memories: Sequence[Memory], caller: Caller) -> list[Memory]:
    """Memories that the caller sees, with as much of their lineage as leads to what it sees."""
    if caller.principal.owner:
        return list(memories)
    there = visible(connection, (edge.source for memory in memories for edge in memory.lineage), caller)
    return [
        replace(memory, lineage=tuple(edge for edge in memory.lineage if edge.source in there)) for memory in memories
    ]


def may(transaction: Transaction, record: Record, action: Action) -> None:
    """Let pass or refuse; a memory that the caller may not see, by its cube or by itself, does not exist for it."""
    cube, memory = queries.cube(transaction.connection, record.memory.cube), record.memory
    if cube is None or memory.governance.sensitivity not in clearance(transaction.caller.principal, cube):
        raise NotFound(no_memory(memory.id))
    require(transaction.caller.principal, cube, action)


def may_all(transaction: Transaction, records: Iterable[Record], refusal: str) -> None:
    """Let pass or refuse a change that reaches further than to what the caller named. Raises `NotAllowed(refusal)`.

    What it reaches is not named: it may be nothing that the caller may see.
    """
    for record in records:
        try:
            may(transaction, record, Action.WRITE)
        except (NotFound, NotAllowed) as error:
            raise NotAllowed(refusal) from error


def existing(transaction: Transaction, ids: Sequence[str], action: Action) -> list[Record]:
    """The records of `ids`, all of them, in that order.

    Raises:
        NotFound: one is not there, or not for this caller.
        NotAllowed: the caller may read it, but not do `action`.
    """
    found = transaction.records(ids)
    for id in ids:
        if id not in found:
            raise NotFound(no_memory(id))
        may(transaction, found[id], action)
    return [found[id] for id in ids]


def require_room(transaction: Transaction, name: str, adding: Iterable[Memory], freeing: Iterable[Memory] = ()) -> None:
    """Let live memories come into a cube while others leave it, or refuse where that goes beyond its limits.

    A change that adds nothing always fits: also a cube that holds too much can be tidied.

    Raises:
        TooLarge: the limit, and what makes room.
    """
    growth = _room(adding) - _room(freeing)
    if growth.memories > 0 or growth.content_bytes > 0:
        require_fit(transaction, name, growth)


def require_fit(transaction: Transaction, name: str, growth: Room = NO_ROOM) -> None:
    """Refuse what a cube holds by now, and is to hold besides, where it is too much. Raises `TooLarge`."""
    cube = queries.cube(transaction.connection, name)
    if cube is None or not is_limited(cube.policy):
        return
    held = Room(*queries.holdings(transaction.connection, name, exact=False)) + growth
    if not fits(cube.policy, held):
        held = Room(*queries.holdings(transaction.connection, name, exact=True)) + growth
    check_room(name, cube.policy, held)


def _room(memories: Iterable[Memory]) -> Room:
    counted = [memory for memory in memories if memory.state in LIVE and not memory.descriptive.parts]
    return Room(len(counted), sum(len(memory.content.encode("utf-8", "surrogatepass")) for memory in counted))


def check_ids(ids: Sequence[str]) -> tuple[str, ...]:
    """Each id once, in order. Raises `Invalid` where there are too many or one is no id."""
    if len(ids) > MAX_IDS:
        raise Invalid(f"{len(ids)} ids at once are too many: send at most {MAX_IDS}")
    for id in ids:
        if not id or len(id) > 64 or not id.isascii() or not id.isprintable():
            raise Invalid("an id is a short ASCII word such as m_01J…: take ids from recall or remember")
    return tuple(dict.fromkeys(ids))


# --- at most once ---------------------------------------------------------------------------------------------------


def answered(parts: Parts, caller: Caller, request: Any, load: Callable[[dict[str, Any]], T]) -> T | None:
    """The recorded answer to a request that was carried out already.

    Raises:
        NotFound: it names what no longer exists for the caller.
    """
    if caller.operation is None:
        return None
    arguments = _arguments(parts.vault, request, caller)
    with parts.vault.reading() as connection:
        rows = connection.execute(_RECORDED, [caller.operation, arguments]).fetchall()
        if not rows:
            return None
        _still_seen(connection, rows[0][1], caller)
    return load(_recorded(parts.vault.sealer, caller.operation, rows[0][0]))


def _still_seen(connection: Connection, ids: str, caller: Caller) -> None:
    """An answer was for what the caller saw when it was given; what it may not see now it is not told again."""
    named = json.loads(ids)
    there = queries.places_of(connection, named)
    seen = visible(connection, there, caller)
    for id in named:
        if id in there and id not in seen:
            raise NotFound(no_memory(id))


def _recorded(sealer: Sealer, operation: str, stored: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(sealer.read_text(stored, f"operation:{operation}"))
    return result


def _arguments(vault: MemVault, request: Any, caller: Caller) -> str:
    """What tells requests apart: also who asks, and what it may do now, since an answer is given for these."""
    try:
        return vault.keyed(digest([type(request).__name__, request, caller.principal])).hex()
    except MalformedCube as error:
        raise Invalid(f"the request cannot be carried out: {error}") from error


def once(
    parts: Parts,
    caller: Caller,
    request: Any,
    job: Callable[[Transaction], tuple[T, Sequence[str]]],
    dump: Callable[[T], dict[str, Any]],
    load: Callable[[dict[str, Any]], T],
) -> T:
    """Run `job` in a transaction, unless the caller's operation was already carried out: then its recorded result.

    `job` returns its result and the ids that the result names. An operation id that comes back with other arguments
    is another request (some clients count from 1 again): it is carried out.
    """
    before = answered(parts, caller, request, load)
    if before is not None:
        return before
    arguments = _arguments(parts.vault, request, caller) if caller.operation is not None else ""

    def recorded(transaction: Transaction) -> T:
        if caller.operation is None:
            return job(transaction)[0]
        rows = transaction.rows("SELECT result, arguments, ids FROM operations WHERE operation = ?", [caller.operation])
        if rows and rows[0][1] == arguments:
            _still_seen(transaction.connection, rows[0][2], caller)
            return load(_recorded(transaction.connection.sealer, caller.operation, rows[0][0]))
        result, ids = job(transaction)
        values = (
            caller.operation,
            arguments,
            json.dumps(list(ids)),
            transaction.connection.sealer.text(json.dumps(dump(result)), f"operation:{caller.operation}"),
            stored_time(transaction.now),
        )
        transaction.insert(
            "operations", ("operation", "arguments", "ids", "result", "recorded_at"), [values], replace_=bool(rows)
        )
        return result

    return parts.vault.write(recorded, caller)


_RECORDED = "SELECT result, ids FROM operations WHERE operation = ? AND arguments = ?"


# --- content --------------------------------------------------------------------------------------------------------


def content_key(vault: MemVault, content: str, *place: object) -> int:
    """The number under which exact duplicates are looked up; `place` tells apart what is equal in different places."""
    text = "\0".join([normal_form(content), *map(str, place)])
    return int.from_bytes(vault.keyed(text)[:8], "little", signed=True)


def memory_key(vault: MemVault, memory: Memory) -> int:
    """The key of a memory: a turn is a duplicate only of the same turn of the same conversation."""
    about = memory.descriptive
    if about.session is not None and about.position is not None:
        return content_key(vault, memory.content, about.session, about.position)
    return content_key(vault, memory.content)
