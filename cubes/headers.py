"""The header of a cube as a bundle says it: name, licence, the policy that is offered, and where it was made.

What belongs to one store (its owner there, what is mounted) is not in it. Knows nothing of files.
"""

from __future__ import annotations

from typing import Any

from cubes import fields
from cubes.canonical import plain
from cubes.cube import Action, CubePolicy, Grant, MemCube, Provenance, Scope
from cubes.errors import MalformedCube
from cubes.limits import (
    MAX_CUBE_NAME_CHARS,
    MAX_DAYS,
    MAX_DESCRIPTION_CHARS,
    MAX_GRANTS,
    MAX_LICENCE_CHARS,
    MAX_NAME_CHARS,
    MAX_TOTAL,
)

_CUBE = frozenset({"name", "description", "created_at", "updated_at", "version", "licence", "policy", "provenance"})
_POLICY = frozenset(CubePolicy.__dataclass_fields__)


def cube_to_plain(cube: MemCube) -> dict[str, Any]:
    """The header as one plain JSON object; `cube.policy` is what is offered, `cube.provenance` must be there."""
    return {
        "name": cube.name,
        "description": cube.description,
        "created_at": plain(cube.created_at),
        "updated_at": plain(cube.updated_at),
        "version": cube.version,
        "licence": cube.licence,
        "policy": _plain_policy(cube.policy),
        "provenance": plain(cube.provenance),
    }


def _plain_policy(policy: CubePolicy) -> dict[str, Any]:
    grants = [
        {"principal": grant.principal, "actions": sorted(action.value for action in grant.actions)}
        for grant in sorted(policy.grants, key=lambda grant: grant.principal)
    ]
    days = {name: _short(getattr(policy, name)) for name in ("ttl_days", "decay_days", "keep_days")}
    return {name: plain(getattr(policy, name)) for name in CubePolicy.__dataclass_fields__} | days | {"grants": grants}


def _short(days: float | None) -> float | None:
    """Whole numbers have no fraction, so that equal policies have equal bytes."""
    return int(days) if days is not None and float(days).is_integer() else days


def cube_from_plain(value: object) -> MemCube:
    """The header that a plain object says.

    Raises:
        MalformedCube, TooLargeBundle: a field is missing, unknown, or holds what it may not.
    """
    found = fields.mapping(value, "the cube", _CUBE)
    provenance = fields.mapping(found["provenance"], "provenance", {"store", "cube", "owner"})
    made = Provenance(
        *(fields.text(provenance[name], f"provenance.{name}", MAX_NAME_CHARS) for name in ("store", "cube", "owner"))
    )
    return MemCube(
        name=fields.text(found["name"], "name of the cube", MAX_CUBE_NAME_CHARS),
        owner=made.owner,
        created_at=fields.instant(found["created_at"], "created_at of the cube"),
        updated_at=fields.instant(found["updated_at"], "updated_at of the cube"),
        version=fields.whole(found["version"], "version of the cube", 1),
        description=fields.text(found["description"], "description", MAX_DESCRIPTION_CHARS, empty=True),
        policy=_policy(found["policy"]),
        licence=fields.text(found["licence"], "licence", MAX_LICENCE_CHARS, empty=True),
        provenance=made,
    )


def _policy(value: object) -> CubePolicy:
    found = fields.mapping(value, "policy", _POLICY)
    grants = tuple(_grant(item) for item in fields.array(found["grants"], "grants", MAX_GRANTS))
    if len({grant.principal for grant in grants}) != len(grants):
        raise MalformedCube("grants name a principal twice")

    def days(name: str) -> float | None:
        return None if found[name] is None else fields.number(found[name], name, MAX_DAYS)

    def most(name: str) -> int | None:
        return None if found[name] is None else fields.whole(found[name], name, 0, MAX_TOTAL)

    return CubePolicy(
        read=fields.choice(found["read"], "policy.read", Scope),
        write=fields.choice(found["write"], "policy.write", Scope),
        share=fields.choice(found["share"], "policy.share", Scope),
        grants=grants,
        ttl_days=days("ttl_days"),
        decay_days=days("decay_days"),
        keep_versions=most("keep_versions"),
        keep_days=days("keep_days"),
        max_memories=most("max_memories"),
        max_bytes=most("max_bytes"),
    )


def _grant(value: object) -> Grant:
    found = fields.mapping(value, "a grant", {"principal", "actions"})
    actions = fields.array(found["actions"], "actions of a grant", len(Action))
    granted = tuple(fields.choice(item, "an action of a grant", Action) for item in actions)
    if len(set(granted)) != len(granted):
        raise MalformedCube("a grant has an action twice")
    return Grant(fields.text(found["principal"], "principal of a grant", MAX_NAME_CHARS), granted)
