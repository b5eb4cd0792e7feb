"""The part of the facade for reading: cubes, pages of memories, one memory, completions, how the store does.

What must stay true: nobody is shown, or counted, what they may not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from cubes import Action, MemCube, Memory, Relation
from engine import provenance as tracing
from engine import upkeep
from engine.errors import Invalid, NotFound
from engine.facade.wiring import Wired
from engine.governance.access import clearance, header_for, no_memory
from engine.operations import PAGE_SIZE, Caller, CubeView, EngineStatus, MemoryView, Page
from engine.parts import may, readable_cubes, seen_in, shown, visible
from engine.provenance import Traced
from engine.scheduler.heat import Event
from engine.vault import Transaction, queries

COMPLETIONS = 100  # values that a completion offers at most


class Reading(Wired):
    """What can be read."""

    def cubes(self, caller: Caller) -> tuple[CubeView, ...]:
        """The cubes that the caller may read, by name."""
        return tuple(self._view(cube, caller) for cube in readable_cubes(self._parts, None, caller))

    def cube(self, name: str, caller: Caller) -> CubeView:
        """One cube. Raises `NotFound`."""
        return self._view(readable_cubes(self._parts, [name], caller)[0], caller)

    def _view(self, cube: MemCube, caller: Caller) -> CubeView:
        seen = clearance(caller.principal, cube)
        with self._parts.vault.reading() as connection:
            states = queries.counts(connection, "state", cube.name, seen)
            kinds = queries.counts(connection, "kind", cube.name, seen)
            revision = queries.cube_revision(connection, cube.name, seen)
        header = header_for(caller.principal, cube)
        return CubeView(header, sum(count for _, count in states), states, kinds, revision)

    def memories(
        self,
        cube: str,
        caller: Caller,
        *,
        cursor: str | None = None,
        limit: int = PAGE_SIZE,
        kind: str | None = None,
        tag: str | None = None,
        state: str | None = None,
    ) -> Page:
        """A page of a cube's memories, in the order in which they were remembered.

        Raises:
            NotFound: no such cube for this caller.
            Invalid: a cursor that no page gave out.
        """
        seen = clearance(caller.principal, readable_cubes(self._parts, [cube], caller)[0])
        label = 0 if cursor is None else _label(cursor)
        with self._parts.vault.reading() as connection:
            records = queries.page(
                connection, cube, after_label=label, limit=limit + 1, kind=kind, tag=tag, state=state, seen=seen
            )
            memories = shown(connection, queries.complete(connection, records[:limit]), caller)
        more = len(records) > limit
        return Page(tuple(memories), f"after-{records[limit - 1].label}" if more else None)

    def memory(self, id: str, caller: Caller) -> MemoryView:
        """One memory and what stands around it. Raises `NotFound`."""
        with self._parts.vault.reading() as connection:
            record = queries.records(connection, [id]).get(id)
            if record is None:
                raise NotFound(no_memory(id))
            transaction = Transaction(connection, self._parts.vault.head, self._parts.clock.now(), caller)
            may(transaction, record, Action.READ)
            memory = queries.complete(connection, [record])[0]
            edges = queries.derived_from(connection, [id])
            near = [*(other for other, _ in edges), *(edge.source for edge in memory.lineage)]
            there = visible(connection, near, caller)
            memory = replace(memory, lineage=tuple(edge for edge in memory.lineage if edge.source in there))
            derived = [
                (edge.relation.value, other)
                for other, edge in edges
                if edge.relation is not Relation.FOLLOWS and other in there
            ]
            before, behind = queries.neighbours(connection, memory, seen_in(self._parts, memory.cube, caller))
        self._scheduling.used(Event.OPENED, [id], caller)
        return MemoryView(memory, tuple(derived), self._adapters.tiers_of(memory, caller), before, behind)

    def provenance(self, memories: Sequence[Memory], caller: Caller) -> dict[str, Traced]:
        """Where memories that the caller was given come from, by id. See `engine.provenance`."""
        return tracing.provenance(self._parts, memories, caller)

    def complete_cubes(self, prefix: str, caller: Caller) -> tuple[str, ...]:
        """Names of cubes that begin with `prefix`."""
        names = [cube.name for cube in readable_cubes(self._parts, None, caller)]
        return tuple(name for name in names if name.startswith(prefix))[:COMPLETIONS]

    def complete_ids(self, prefix: str, caller: Caller) -> tuple[str, ...]:
        """Ids of memories that begin with `prefix`, newest first."""
        mine = readable_cubes(self._parts, None, caller)
        seen = {cube.name: clearance(caller.principal, cube) for cube in mine}
        with self._parts.vault.reading() as connection:
            return tuple(queries.ids_with_prefix(connection, prefix, seen, COMPLETIONS))

    def status(self, caller: Caller) -> EngineStatus:
        """How the store does; counts are of what the caller may read, and where it lies is for the owner alone."""
        parts, owner = self._parts, caller.principal.owner
        views = self.cubes(caller)
        names = [view.cube.name for view in views]
        counts: Counter[str] = Counter()
        for view in views:
            counts.update(dict(view.states))
        revision = parts.vault.revision if owner else max((view.revision for view in views), default=0)
        return EngineStatus(
            data=str(parts.vault.settings.data) if owner else "",
            store_id=parts.vault.store_id,
            revision=revision,
            cubes=len(names),
            counts=tuple(sorted(counts.items())),
            embedder=parts.embeddings.name,
            degraded=self._degraded(owner),
            index=tuple(item for item in parts.indexes.status() if item[0] in names),
            last_backup=upkeep.last_backup(parts) if owner else None,
            audit_length=revision,
            encrypted=not parts.vault.sealer.plain,
            model=self._answering.standing() if owner else None,
            reader=self._drawing.standing() if owner else None,
            adapters=self._adapters.in_words(names, caller),
            work=(*self._distilling.told(caller), *self._forgetting.told(caller)),
        )

    def _degraded(self, owner: bool) -> str | None:
        embeddings = self._parts.embeddings
        if embeddings.moving:
            how_many = embeddings.missing() if owner else "some"  # of all cubes: no count for who may not see them all
            return f"{how_many} memories are still to be embedded by {embeddings.name}"
        return embeddings.degraded()


def _label(cursor: str) -> int:
    head, _, number = cursor.partition("-")
    if head != "after" or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise Invalid(f"{cursor!r} is no cursor of this list: start without one")
    return int(number)
