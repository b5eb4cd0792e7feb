"""Conversations that other programs kept as trees: which messages are the conversation, and which were tried and left.

Where an answer was asked for again or a question was edited, a tree has several branches. The one that the program
shows is the conversation; each other branch becomes a session of its own from where it parts, at the position where
that is. Pure functions of ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Branch:
    """Messages in order, from `start` on in their conversation; `parted` is None for the one that is shown."""

    ids: tuple[str, ...]
    start: int
    parted: str | None  # the message before the first, where the branch leaves another one


def branches(parents: Mapping[str, str | None], current: object) -> list[Branch]:
    """The branch that ends at `current` (else at the last message), then the others in the order of the tree.

    `parents` names for each message, in the order of the file, the one before it. Every message is in exactly one
    branch, whatever the tree claims: circles are cut.
    """
    leaves = _leaves(parents)
    end = leaves[-1] if leaves else next(iter(parents), None)
    if isinstance(current, str) and current in parents:
        end = current
    depth: dict[str, int] = {}
    found: list[Branch] = []
    for leaf in dict.fromkeys([*([] if end is None else [end]), *leaves, *parents]):
        path: list[str] = []
        at: str | None = leaf
        walked: set[str] = set()
        while at is not None and at in parents and at not in depth and at not in walked:
            path.append(at)
            walked.add(at)
            at = parents[at]
        if not path:
            continue
        parted = at if at in depth else None
        start = depth[parted] + 1 if parted is not None else 0
        path.reverse()
        depth.update((id, start + place) for place, id in enumerate(path))
        found.append(Branch(tuple(path), start, parted))
    return found


def _leaves(parents: Mapping[str, str | None]) -> list[str]:
    inner = set(parents.values())
    return [id for id in parents if id not in inner]
