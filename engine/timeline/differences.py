"""What differs: between two moments of a cube, between two versions of a memory.

A cube is compared by what was recalled from it: a memory that was archived, merged or had expired by then is not there.
First use changes nothing that a memory says, so it is no difference. What was erased is gone at every moment, and so in
no difference. Pure but for the reading.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from cubes import MemCube, Memory, State
from cubes.canonical import plain
from engine.cube_operations import Changed, CubeDiff
from engine.governance.access import clearance, header_for
from engine.history import version_of, visible_versions
from engine.lifecycle.states import LIVE, is_expired
from engine.operations import Caller
from engine.parts import Parts, readable_cubes
from engine.timeline.moments import resolve, visible_records
from engine.vault import past
from engine.vault.rows import Record

UNCHANGING = ("id", "created_at", "updated_at")
HEADER = ("owner", "description", "licence", "policy", "provenance", "offered", "mounted")
Field = tuple[str, object, object]


def diff_cube(parts: Parts, cube: str, before: str, after: str, caller: Caller) -> CubeDiff:
    """What was added to, removed from and changed in a cube between two moments.

    Raises:
        NotFound: no such cube, or no such snapshot of it.
    """
    seen = clearance(caller.principal, readable_cubes(parts, [cube], caller)[0])
    with parts.vault.reading() as connection:
        now = parts.clock.now()
        moments = [resolve(connection, cube, said, now) for said in (before, after)]
        # Only what is in another version, or has come to its end, can differ.
        versions = [past.versions_at(connection, moment) for moment in moments]
        ends = sorted(moment.at for moment in moments)
        suspects = _suspects(versions[0], versions[1]) | past.ending_between(connection, cube, ends[0], ends[1])
        found = [past.versions_of(connection, _only(held, suspects)) for held in versions]
        sides = [_by_id(visible_records(connection, records.values(), cube, seen)) for records in found]
        headers = [past.header_at(connection, moment) for moment in moments]
    old, new = (_Side(side, moment.at) for side, moment in zip(sides, moments, strict=True))
    return CubeDiff(
        before=before,
        after=after,
        added=tuple(id for id in new.memories if new.lives(id) and not old.lives(id)),
        removed=tuple(id for id in old.memories if old.lives(id) and not new.lives(id)),
        changed=tuple(_changed(old, new)),
        header=_header_fields(*(None if h is None else header_for(caller.principal, h) for h in headers)),
    )


def diff_versions(parts: Parts, id: str, a: int, b: int, caller: Caller) -> Changed:
    """In which fields two versions of a memory differ: name -> (in `a`, in `b`).

    Raises:
        NotFound: no such memory for this caller, or no such version of it.
    """
    records = visible_versions(parts, id, caller)
    one, other = (version_of(records, id, version).memory for version in (a, b))
    return Changed(id, fields(one, other))


def fields(before: Memory, after: Memory) -> tuple[Field, ...]:
    """The fields in which two versions differ, as plain values, by name."""
    if {before.state, after.state} <= LIVE:
        after = replace(after, state=before.state)
    one, other = _flat(before), _flat(after)
    return tuple((name, one[name], other[name]) for name in one if one[name] != other[name])


def _flat(memory: Memory) -> dict[str, object]:
    about, rules = plain(memory.descriptive), plain(memory.governance)
    assert isinstance(about, dict)
    assert isinstance(rules, dict)
    found = {"content": memory.content, "state": memory.state.value, "cube": memory.cube, **about, **rules}
    return {name: value for name, value in found.items() if name not in UNCHANGING}


class _Side:
    """One moment of a cube: what of it may differ."""

    def __init__(self, memories: dict[str, Memory], at: datetime) -> None:
        self.memories = {id: _in_state_of(memory, at) for id, memory in memories.items()}

    def lives(self, id: str) -> bool:
        return id in self.memories and self.memories[id].state in LIVE


def _in_state_of(memory: Memory, at: datetime) -> Memory:
    """As it was, whether or not a sweep had noticed yet that its time had passed."""
    return replace(memory, state=State.EXPIRED) if is_expired(memory, at) else memory


def _changed(old: _Side, new: _Side) -> list[Changed]:
    found = []
    for id, memory in old.memories.items():
        if id in new.memories and old.lives(id) == new.lives(id):
            differing = fields(memory, new.memories[id])
            if differing:
                found.append(Changed(id, differing))
    return found


def _header_fields(before: MemCube | None, after: MemCube | None) -> tuple[Field, ...]:
    def values(cube: MemCube | None, name: str) -> object:
        return None if cube is None else plain(getattr(cube, name))

    pairs = ((name, values(before, name), values(after, name)) for name in HEADER)
    return tuple((name, one, other) for name, one, other in pairs if one != other)


def _suspects(one: dict[str, int], other: dict[str, int]) -> set[str]:
    return {id for id in one.keys() | other.keys() if one.get(id) != other.get(id)}


def _only(versions: dict[str, int], ids: set[str]) -> dict[str, int]:
    return {id: version for id, version in versions.items() if id in ids}


def _by_id(records: list[Record]) -> dict[str, Memory]:
    return {record.memory.id: record.memory for record in records}
