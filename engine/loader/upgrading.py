"""Bringing an installed cube up to a newer bundle: what `engine.loader.comparison` found is carried out.

What is new is staged; one transaction shows it, takes over new versions, archives what is gone, and makes the header
follow. A cube that changed since it was compared refuses the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cubes import Lineage, MemCube
from cubes.manifest import ArtifactHeader
from cubes.records import PackedMemory, PackedVersion
from engine.cube_operations import Installed
from engine.errors import Conflict
from engine.lifecycle.states import Step, state_after
from engine.loader.comparison import CHANGE, Plan
from engine.loader.staged import Staged, batches, record_of_packed, with_beside
from engine.operations import Progress
from engine.parts import require_fit
from engine.vault import Transaction, queries, staging
from engine.vault.artifacts import artifacts_of
from engine.vault.ranges import FullRecord
from engine.vault.rows import Record
from engine.vault.schema import MEMORY_COLUMNS

TOGETHER = 1_000


@dataclass(slots=True)
class Upgrade:
    """One upgrade: the plan, and what is staged for it."""

    plan: Plan
    staged: Staged
    facts: dict[str, Any]  # for the audit log
    artifacts: tuple[tuple[str, str], ...] = ()

    def stage(self, progress: Progress) -> None:
        """Stage what is new. Until it is shown, the cube is as it was."""
        plan, staged, total = self.plan, self.staged, len(self.plan.added) + 1
        if plan.added:
            memories = plan.bundle.memories(vectors=bool(staged.embedder))
            for batch in batches(memory for memory in memories if memory.id in plan.added):
                staged.stage(batch)
                progress(staged.memories, total, "installing")
        staged.renamed += plan.renamed
        staged.unusual.update(plan.unusual)
        staged.rename_sources()
        with plan.parts.vault.reading() as connection:
            held = {row.digest for row in artifacts_of(connection, plan.cube.name)}
        kept = set(plan.kept)

        def is_wanted(header: ArtifactHeader) -> bool:
            return header.digest not in held and kept.isdisjoint(id for id, _ in header.sources)

        self.artifacts = staged.stage_artifacts(
            lambda: progress(staged.memories, total, "installing artifacts"), is_wanted
        )

    def show(self, transaction: Transaction) -> tuple[Installed, Sequence[str]]:
        """Show it all: the one transaction. It may be run twice."""
        plan, staged, name = self.plan, self.staged, self.plan.cube.name
        if queries.cube(transaction.connection, name) != plan.cube:
            raise _changed_meanwhile(name)
        removed = self._unchanged(transaction, plan.removed)
        told = self.facts | {
            "added": len(plan.added),
            "changed": len(plan.taken),
            "removed": len(removed),
            "kept_local": len(plan.kept),
            "header": plan.bundle.manifest.cube.version,
        }
        revision = transaction.audit(CHANGE, name, **told)
        staging.show(transaction, staged.name, name, revision)
        renamed = set(staged.renamed)
        lacking = self._take_over(transaction, renamed, revision)
        transaction.link({id: self._led(edges, renamed) for id, edges in plan.linked.items()}, imported=True)
        if removed:
            gone = [(old, replace(old.memory, state=state_after(old.memory, Step.ARCHIVE))) for old in removed.values()]
            transaction.revise_all(gone, CHANGE, revision)
        if plan.header != plan.cube or plan.bundle.manifest.cube.version > plan.cube.version:
            transaction.put_cube(self._header(transaction), revision, CHANGE)
        require_fit(transaction, name)
        staged.settle(transaction, len(plan.added) - staged.embedded + lacking)
        result = replace(plan.told(), revision=revision, artifacts=self.artifacts, renamed_ids=len(staged.renamed))
        return result, [*plan.shown, *plan.taken, *plan.removed]

    def _header(self, transaction: Transaction) -> MemCube:
        theirs, ours = self.plan.bundle.manifest.cube, self.plan.cube
        if theirs.version > ours.version:
            return replace(self.plan.header, version=theirs.version, updated_at=theirs.updated_at)
        return replace(self.plan.header, version=ours.version + 1, updated_at=transaction.now)

    def _unchanged(self, transaction: Transaction, wanted: dict[str, int]) -> dict[str, Record]:
        """The records, if they are still those that were compared. Raises `Conflict`."""
        found: dict[str, Record] = {}
        for start in range(0, len(wanted), TOGETHER):
            found.update(transaction.records(list(wanted)[start : start + TOGETHER]))
        if any(id not in found or found[id].memory.version != version for id, version in wanted.items()):
            raise _changed_meanwhile(self.plan.cube.name)
        return found

    def _take_over(self, transaction: Transaction, renamed: set[str], revision: int) -> int:
        """Make the bundle's versions the present ones; how many memories lack vectors now."""
        plan, staged, lacking = self.plan, self.staged, 0
        if not plan.taken:
            return 0
        wanted = (memory for memory in plan.bundle.memories(vectors=bool(staged.embedder)) if memory.id in plan.names)
        for batch in batches(wanted):
            names = [plan.names[memory.id] for memory in batch]
            ours = self._unchanged(transaction, {id: plan.taken[id] for id in names})
            full = [
                self._next(_following(memory, ours[id], transaction), ours[id], renamed, revision)
                for memory, id in zip(batch, names, strict=True)
            ]
            lacking += _replace(transaction, full, ours, staged.embedder)
        return lacking

    def _next(self, memory: PackedMemory, ours: Record, renamed: set[str], revision: int) -> FullRecord:
        """The bundle's versions that come after ours."""
        plan, id = self.plan, ours.memory.id

        def made(version: PackedVersion) -> Record:
            return record_of_packed(plan.parts, version, plan.cube.name, id, ours.label, revision)

        later = tuple(made(old) for old in memory.history if old.version > ours.memory.version)
        full = with_beside(FullRecord(made(memory.current), later), memory, self.staged)
        edges = self._led(full.lineage, renamed)
        return replace(full, lineage=edges, usage=replace(full.usage, last_access=None))  # used is what is used here

    def _led(self, edges: Sequence[Lineage], renamed: set[str]) -> tuple[Lineage, ...]:
        """Lineage of the bundle as it leads here."""
        new = self.staged.new_id
        return tuple(replace(edge, source=new(edge.source)) if edge.source in renamed else edge for edge in edges)


def _following(memory: PackedMemory, ours: Record, transaction: Transaction) -> PackedMemory:
    """The bundle's memory; where an upgrade made ours, what it says now as the version after ours."""
    common = next((old for old in memory.history if old.version == ours.memory.version), None)
    now, before = memory.current, ours.memory
    if ours.change != CHANGE or (common is not None and common.descriptive.updated_at == before.descriptive.updated_at):
        return memory
    about = replace(now.descriptive, updated_at=transaction.now)
    author = transaction.caller.principal.name
    made = replace(now, version=before.version + 1, descriptive=about, author=author, change=CHANGE, reason=None)
    return replace(memory, current=made, history=())


def _replace(transaction: Transaction, full: Sequence[FullRecord], ours: dict[str, Record], embedder: str) -> int:
    """Make these the present versions; ours, and those between, become earlier ones. How many lack vectors now."""
    ids = [item.record.memory.id for item in full]
    transaction.outdated.update({item.record.memory.id: item.record.memory.version for item in full})
    columns, among = ", ".join(MEMORY_COLUMNS), "IN (SELECT unnest(?::VARCHAR[]))"
    # Where the bundle does not reach back to our version, what was before it is not known to be the past of it.
    cut = [
        item.record.memory.id
        for item in full
        if item.record.memory.version - len(item.earlier) != ours[item.record.memory.id].memory.version + 1
    ]
    kept = [id for id in ids if id not in set(cut)]
    transaction.execute(f"DELETE FROM versions WHERE id {among}", [cut])
    transaction.execute(f"INSERT INTO versions ({columns}) SELECT {columns} FROM memories WHERE id {among}", [kept])
    reworded = [
        item.record.memory.id
        for item in full
        if item.record.memory.content != ours[item.record.memory.id].memory.content or item.vectors is not None
    ]
    transaction.execute(f"DELETE FROM embeddings WHERE id {among}", [reworded])
    staging.store(transaction, full, embedder, replace_=True)
    return len(reworded) - sum(item.vectors is not None for item in full)


def _changed_meanwhile(name: str) -> Conflict:
    return Conflict(
        f"cube {name!r} changed while it was compared with the bundle: upgrade it again; nothing was changed"
    )
