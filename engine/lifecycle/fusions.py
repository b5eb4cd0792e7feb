"""Which fused memories stand for which parents: the one place that knows when a merged memory may live again.

A merged memory is held by what it was fused into, as long as that lives or was fused again itself. Between cubes only
what was fused in this store counts: a bundle can claim any lineage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cubes import State
from engine.lifecycle.states import LIVE
from engine.vault.connection import Connection

HOLDING = LIVE | {State.MERGED}
StateOf = Callable[[str], State | None]

_EDGES = """
SELECT l.derived, d.state, l.source, s.state FROM lineage AS l
JOIN memories AS d ON d.id = l.derived JOIN memories AS s ON s.id = l.source
WHERE l.relation = 'fused_from' AND (NOT l.imported OR d.cube = s.cube)
  AND (l.derived IN (SELECT unnest(?::VARCHAR[])) OR l.source IN (SELECT unnest(?::VARCHAR[])))
"""


@dataclass(slots=True)
class Fusions:
    """The fusions around some memories, and the present state of each memory that takes part."""

    into: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # parent -> what it was fused to
    parents: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    states: dict[str, State] = field(default_factory=dict)

    @classmethod
    def around(cls, connection: Connection, ids: Iterable[str]) -> Fusions:
        """Everything that hangs together with `ids` by fusion, at any depth."""
        found = cls()
        seen = set(ids)
        waiting = list(seen)
        while waiting:
            rows = connection.execute(_EDGES, [waiting, waiting]).fetchall()
            for derived, derived_state, source, source_state in rows:
                found.into[source].add(derived)
                found.parents[derived].add(source)
                found.states[derived], found.states[source] = State(derived_state), State(source_state)
            waiting = [id for id in found.states if id not in seen]
            seen.update(waiting)
        return found

    def held(self, id: str, state_of: StateOf | None = None) -> bool:
        """Whether something stands for a merged memory, in the states that `state_of` gives (None: gone)."""
        known = state_of or self.states.get
        return any(known(other) in HOLDING for other in self.into.get(id, ()))

    def freed(self, ended: Iterable[str], state_of: StateOf) -> set[str]:
        """Merged parents of `ended` for which nothing stands any more, in the states that `state_of` gives."""
        parents = {parent for fused in ended for parent in self.parents.get(fused, ())}
        return {id for id in parents if state_of(id) is State.MERGED and not self.held(id, state_of)}

    def above(self, id: str) -> set[str]:
        """Everything that was fused from `id`, at any depth."""
        found: set[str] = set()
        waiting = [id]
        while waiting:
            fresh = self.into.get(waiting.pop(), set()) - found
            found |= fresh
            waiting += fresh
        return found
