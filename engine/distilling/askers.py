"""Who asked for work that is done later, and whether they may still have it done.

Work is done by the right of who asked for it. It notes the grants that they came with, since who holds which token is
not known here; what the cube's own policy says is looked up anew, before the work begins and as often as it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cubes import Action, MemCube
from engine.errors import NotAllowed
from engine.governance.access import allowed
from engine.operations import Caller, Principal
from engine.parts import Parts


def plain_principal(principal: Principal) -> dict[str, Any]:
    """As it is noted in the record of work."""
    grants = [[name, [action.value for action in actions]] for name, actions in principal.grants]
    return {"name": principal.name, "owner": principal.owner, "grants": grants}


def principal_of(plain: Mapping[str, Any]) -> Principal:
    """Who was noted."""
    grants = tuple((name, tuple(Action(action) for action in actions)) for name, actions in plain["grants"])
    return Principal(plain["name"], bool(plain["owner"]), grants)


def still_writable(parts: Parts, cube: str, caller: Caller) -> MemCube:
    """The cube of work, as it is now.

    Raises:
        NotAllowed: who asked for the work may not write to it any more.
    """
    found = next((one for one in parts.vault.cubes() if one.name == cube), None)
    if found is None or not allowed(caller.principal, found, Action.WRITE):
        raise NotAllowed(
            f"{caller.principal.name} asked for it and may not write to cube {cube!r} any more: it was dropped; "
            "who may write to it can ask for it again"
        )
    return found
