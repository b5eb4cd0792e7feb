"""Who may do what with which cube, and which memories of it one sees: one rule, for every way in.

The owner of the data folder may do everything. Any other principal has grants of its own, from its token (on a cube, or
on `*`) and from the cube's policy (by the principal's name); and a cube's scopes let in every principal: `shared` and
`public` open reading to all, writing and sharing to all who may read. A public cube may also be packed by its readers.

How sensitive a memory is decides who sees it: `normal` whoever may read the cube, `personal` whoever has a grant of its
own, `secret` who administers the cube. What one may not see does not exist: refusals say `NotFound` in the same words,
so that neither names nor ids leak. A cube that shows a file or folder cannot be written to, not even by the owner.

Pure: nothing here reads a store.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

from cubes import Action, CubePolicy, MemCube, Scope, Sensitivity
from engine.errors import NotAllowed, NotFound
from engine.operations import Event, Principal

EVERY_CUBE = "*"
EVERYTHING = frozenset(Sensitivity)

# Who may do the more may do the less.
IMPLIED_BY = {
    Action.READ: frozenset({Action.READ, Action.WRITE, Action.SHARE, Action.ADMIN}),
    Action.WRITE: frozenset({Action.WRITE, Action.ADMIN}),
    Action.SHARE: frozenset({Action.SHARE, Action.ADMIN}),
    Action.ADMIN: frozenset({Action.ADMIN}),
}


def granted(principal: Principal, cube: str, action: Action) -> bool:
    """Whether the principal's own grants, apart from any cube's policy, cover `action` on the cube of that name."""
    if principal.owner:
        return True
    return any(
        name in (cube, EVERY_CUBE) and IMPLIED_BY[action].intersection(actions) for name, actions in principal.grants
    )


def by_name(principal: Principal, cube: MemCube, action: Action) -> bool:
    """Whether the principal has a grant of its own: from its token, or by its name in the cube's policy."""
    if granted(principal, cube.name, action):
        return True
    return any(
        grant.principal == principal.name and IMPLIED_BY[action].intersection(grant.actions)
        for grant in cube.policy.grants
    )


def allowed(principal: Principal, cube: MemCube, action: Action) -> bool:
    """Whether `principal` may do `action` with `cube`, by grants or by the cube's scopes."""
    if action is Action.WRITE and cube.mounted is not None:
        return False
    if by_name(principal, cube, action):
        return True
    if action is Action.READ:
        return cube.policy.read is not Scope.PRIVATE
    opened = _opened(cube.policy, action)
    return opened and allowed(principal, cube, Action.READ)


def _opened(policy: CubePolicy, action: Action) -> bool:
    """Whether a scope lets everyone who may read do `action`. No scope lets anyone administer."""
    if action is Action.SHARE:
        return policy.share is not Scope.PRIVATE or policy.read is Scope.PUBLIC
    return action is Action.WRITE and policy.write is not Scope.PRIVATE


def clearance(principal: Principal, cube: MemCube) -> frozenset[Sensitivity]:
    """How sensitive the memories of `cube` may be that the principal sees; what is beyond does not exist for it."""
    if by_name(principal, cube, Action.ADMIN):
        return EVERYTHING
    if by_name(principal, cube, Action.READ):
        return frozenset({Sensitivity.NORMAL, Sensitivity.PERSONAL})
    return frozenset({Sensitivity.NORMAL}) if allowed(principal, cube, Action.READ) else frozenset()


def require(principal: Principal, cube: MemCube, action: Action) -> None:
    """Let pass or refuse.

    Raises:
        NotFound: the principal may not even read the cube.
        NotAllowed: it may read it, but not do this.
    """
    if allowed(principal, cube, action):
        return
    if not allowed(principal, cube, Action.READ):
        raise NotFound(no_cube(cube.name))
    if action is Action.WRITE and cube.mounted is not None:
        shows = cube.mounted if principal.owner else "a file or folder"
        raise NotAllowed(
            f"cube {cube.name!r} shows {shows} and is read-only: change that, or put a copy into the store with "
            "`memos-mcp cube install`"
        )
    raise NotAllowed(
        f"{principal.name} may not {action.value} cube {cube.name!r}: ask its owner for a token with that scope, or "
        "for a grant"
    )


def require_clearance(principal: Principal, cube: MemCube, sensitivity: Sensitivity) -> None:
    """Refuse to mark a memory as something that the principal would then not see itself. Raises `NotAllowed`."""
    if sensitivity not in clearance(principal, cube):
        raise NotAllowed(
            f"{principal.name} may not see {sensitivity.value} memories of cube {cube.name!r}, and so not make any: "
            "ask its owner for a grant"
        )


def stricter(one: Sensitivity, other: Sensitivity) -> Sensitivity:
    """The more careful of two."""
    return max(one, other, key=_LEAST_FIRST.index)


def header_for(principal: Principal, cube: MemCube) -> MemCube:
    """The cube's header as the principal may see it.

    Who else was let in, and on what terms a bundle was offered, is for who administers the cube; where on this machine
    a mounted file lies is for the owner.
    """
    policy, offered, mounted = cube.policy, cube.offered, cube.mounted
    if not by_name(principal, cube, Action.ADMIN):
        mine = tuple(grant for grant in policy.grants if grant.principal == principal.name)
        policy, offered = replace(policy, grants=mine), None
    if mounted is not None and not principal.owner:
        mounted = PurePath(mounted).name
    return replace(cube, policy=policy, offered=offered, mounted=mounted)


def hears_of(principal: Principal, event: Event) -> tuple[bool, bool]:
    """Whether a principal is told of what changed, and whether it is told that its list of cubes may be another one.

    Told is who may read the cube now, and see what changed as it is or was. The list of cubes is another one for every
    principal that could read the cube before or can now.
    """
    if principal.owner:
        return True, event.cubes_changed
    seen = event.headers[-1:] if event.headers else ()
    told = any(event.sensitivity in clearance(principal, cube) for cube in seen)
    listed = event.cubes_changed and any(allowed(principal, cube, Action.READ) for cube in event.headers)
    return told, listed


def no_cube(name: str) -> str:
    return f"there is no cube {name!r}: `memos://cubes`, or `memos-mcp cube list`, lists the ones that you may read"


def no_memory(id: str) -> str:
    return f"there is no memory {id!r}: recall finds ids, and erased ones never come back"


_LEAST_FIRST = tuple(Sensitivity)
