"""provenance: where memories come from, beside what their headers say: who stored them, and out of which bundle.

Asked about memories that the caller was given already; it decides nothing about who may see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cubes import Memory, Provenance
from engine.governance.access import header_for
from engine.operations import Caller
from engine.parts import Parts

_AUTHORS = """
SELECT id, arg_min(author, version), arg_max(author, version) FROM (
  SELECT id, version, author FROM versions WHERE id IN (SELECT unnest(?::VARCHAR[]))
  UNION ALL SELECT id, version, author FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[]))
) GROUP BY id
"""


@dataclass(frozen=True, slots=True)
class Traced:
    """Where one memory comes from. `bundle`: the store in which its cube was packed; `mounted`: what the cube shows."""

    author: str  # of the earliest version that is kept
    changed_by: str  # of the present one
    bundle: Provenance | None = None
    mounted: str | None = None


def provenance(parts: Parts, memories: Sequence[Memory], caller: Caller) -> dict[str, Traced]:
    """By id; a memory that was erased meanwhile is left out."""
    ids = [memory.id for memory in memories]
    cubes = {cube.name: header_for(caller.principal, cube) for cube in parts.vault.cubes()}
    authors = {id: (first, last) for id, first, last in parts.vault.rows(_AUTHORS, [ids, ids])}
    return {
        memory.id: Traced(*authors[memory.id], cubes[memory.cube].provenance, cubes[memory.cube].mounted)
        for memory in memories
        if memory.id in authors and memory.cube in cubes
    }
