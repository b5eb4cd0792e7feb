"""Who may do what with which cube: one rule, in one place, for every way in.

A principal has grants on cubes (or on `*`). The owner of the data folder may do everything. A cube whose read scope is
shared or public may be read by every principal. A cube that a principal may not read does not exist for it: refusals
say `NotFound`, so that names do not leak.
"""

from __future__ import annotations

from cubes import Action, MemCube, Scope, Sensitivity
from engine.errors import NotAllowed, NotFound
from engine.operations import Principal

EVERY_CUBE = "*"

# Who may do the more may do the less.
IMPLIED_BY = {
    Action.READ: frozenset({Action.READ, Action.WRITE, Action.SHARE, Action.ADMIN}),
    Action.WRITE: frozenset({Action.WRITE, Action.ADMIN}),
    Action.SHARE: frozenset({Action.SHARE, Action.ADMIN}),
    Action.ADMIN: frozenset({Action.ADMIN}),
}


def granted(principal: Principal, cube: str, action: Action) -> bool:
    """Whether the principal's own grants cover `action` on the cube of that name."""
    if principal.owner:
        return True
    return any(
        name in (cube, EVERY_CUBE) and IMPLIED_BY[action].intersection(actions) for name, actions in principal.grants
    )


def allowed(principal: Principal, cube: MemCube, action: Action) -> bool:
    """Whether `principal` may do `action` with `cube`, by its grants or by the cube's policy."""
    if granted(principal, cube.name, action):
        return True
    scopes = {Action.READ: cube.policy.read, Action.WRITE: cube.policy.write, Action.SHARE: cube.policy.share}
    return scopes.get(action, Scope.PRIVATE) is not Scope.PRIVATE


def clearance(principal: Principal, cube: MemCube) -> frozenset[Sensitivity]:
    """How sensitive the memories of `cube` may be that the principal sees; what is beyond does not exist for it."""
    if granted(principal, cube.name, Action.ADMIN):
        return frozenset(Sensitivity)
    if granted(principal, cube.name, Action.READ):
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
    raise NotAllowed(
        f"{principal.name} may not {action.value} cube {cube.name!r}: ask its owner for a token with that scope"
    )


def no_cube(name: str) -> str:
    return f"there is no cube {name!r}: `memos://cubes` lists the ones that you may read"


def no_memory(id: str) -> str:
    return f"there is no memory {id!r}: recall finds ids, and erased ones never come back"
