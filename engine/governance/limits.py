"""How much a cube may hold: the limits of its policy, and what a change would do to them. Pure.

Counted is what is recalled: live memories, the pieces of long texts but not their wholes. What is archived, merged or
expired takes no room, so forgetting makes some.
"""

from __future__ import annotations

from dataclasses import dataclass

from cubes import CubePolicy
from engine.errors import TooLarge


@dataclass(frozen=True, slots=True)
class Room:
    """A number of memories, and the bytes of their contents in UTF-8."""

    memories: int = 0
    content_bytes: int = 0

    def __add__(self, other: Room) -> Room:
        return Room(self.memories + other.memories, self.content_bytes + other.content_bytes)

    def __sub__(self, other: Room) -> Room:
        return Room(self.memories - other.memories, self.content_bytes - other.content_bytes)


NO_ROOM = Room()


def is_limited(policy: CubePolicy) -> bool:
    """Whether anything has to be counted at all."""
    return policy.max_memories is not None or policy.max_bytes is not None


def fits(policy: CubePolicy, held: Room) -> bool:
    """Whether a cube of this policy may hold so much."""
    return held.memories <= (held.memories if policy.max_memories is None else policy.max_memories) and (
        held.content_bytes <= (held.content_bytes if policy.max_bytes is None else policy.max_bytes)
    )


def check_room(name: str, policy: CubePolicy, held: Room) -> None:
    """Raises `TooLarge` where the cube `name` would hold more than its policy allows."""
    remedy = "forget what is not needed, fuse what overlaps, or have who administers the cube raise the limit"
    if policy.max_memories is not None and held.memories > policy.max_memories:
        raise TooLarge(
            f"cube {name!r} would hold {held.memories:,} memories, and its max_memories is {policy.max_memories:,}: "
            f"{remedy}"
        )
    if policy.max_bytes is not None and held.content_bytes > policy.max_bytes:
        raise TooLarge(
            f"cube {name!r} would hold {held.content_bytes:,} bytes, and its max_bytes is {policy.max_bytes:,}: "
            f"{remedy}"
        )
