"""What a cube's policy may say, and what it makes of memories that nobody uses. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import timedelta

from cubes import Action, CubePolicy, Grant, Memory, Scope
from engine.errors import Invalid, TooLarge

MAX_GRANTS = 1_000
MAX_DAYS = 36_525.0  # a century: longer is for good
MAX_COUNT = 2**53
PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")  # what may name a token
NOT_PRINCIPALS = ("memos", "owner")  # the engine itself and the owner may do everything: no grant is for them


def check_policy(policy: CubePolicy) -> None:
    """Refuse a policy that makes no sense.

    Raises:
        Invalid, TooLarge: what is wrong with it, and what to say instead.
    """
    for name, scope in (("write", policy.write), ("share", policy.share)):
        if scope is not Scope.PRIVATE and policy.read is Scope.PRIVATE:
            raise Invalid(
                f"{name} is {scope.value} and read is private: who may not read cannot {name}; open reading too"
            )
    for name in ("ttl_days", "decay_days", "keep_days"):
        _check_days(name, getattr(policy, name))
    for name, least in (("keep_versions", 0), ("max_memories", 1), ("max_bytes", 1)):
        count = getattr(policy, name)
        if count is not None and not least <= count <= MAX_COUNT:
            raise Invalid(f"{name} is {count}: use a whole number from {least} on, or none for no bound")
    if len(policy.grants) > MAX_GRANTS:
        raise TooLarge(f"{len(policy.grants)} grants: a cube has at most {MAX_GRANTS}; share it instead")
    named = [grant.principal for grant in policy.grants]
    for grant in policy.grants:
        check_principal(grant.principal)
        if not grant.actions or named.count(grant.principal) > 1:
            raise Invalid(f"{grant.principal} needs one grant with at least one action")


def _check_days(name: str, days: float | None) -> None:
    if days is not None and not (math.isfinite(days) and 0 < days <= MAX_DAYS):
        raise Invalid(f"{name} is {days}: use more than 0 and at most {MAX_DAYS:,.0f} days, or none for no end")


def check_principal(name: str) -> None:
    """Raises `Invalid` for a name that no token can have."""
    if not PRINCIPAL.match(name) or name.lower() in NOT_PRINCIPALS:
        raise Invalid(
            f"{name[:64]!r} names no principal: grant to the name of an access token (`memos-mcp token list`)"
        )


def with_grant(grants: Sequence[Grant], principal: str, actions: Sequence[Action]) -> tuple[Grant, ...]:
    """The grants with this one in place of what the principal had; without actions: without it."""
    rest = tuple(grant for grant in grants if grant.principal != principal)
    told = tuple(action for action in Action if action in actions)
    return (*rest, Grant(principal, told)) if told else rest


def unused_for(policy: CubePolicy, memories: Sequence[Memory]) -> timedelta | None:
    """How long these, which go together, may stay unused before they are put away; None: they never are.

    The higher the priority, the longer; what is pinned or frozen stays, and what goes together with it.
    """
    rules = [memory.governance for memory in memories]
    if policy.decay_days is None or any(rule.pinned or rule.frozen for rule in rules):
        return None
    days = policy.decay_days * (1 + max(0, *(rule.priority for rule in rules)))
    return timedelta(days=min(days, MAX_DAYS))
