"""history and restore: what a memory said before, and making an earlier version the present one again.

A restored version says again what it said; how carefully it is handled is never less than now. Versions whose front was
let go by retention begin later than 1, and the first one that is left says how many are missing.
"""

from __future__ import annotations

from dataclasses import replace

from cubes import Action, Memory, Relation, State
from engine.erasing import lasting
from engine.errors import Expired, NotFound
from engine.governance.access import clearance, no_memory, stricter
from engine.lifecycle.fusions import HOLDING, Fusions
from engine.lifecycle.states import LIVE, Step, is_expired, state_after
from engine.operations import MAX_REASON_CHARS, Caller, Version
from engine.parts import Parts, existing, may, may_all, memory_key, require_fit, shown
from engine.vault import Transaction, queries
from engine.vault.rows import Record


def history(parts: Parts, id: str, caller: Caller) -> tuple[Version, ...]:
    """All versions of a memory that are kept, oldest first.

    Raises:
        NotFound: there is no such memory for this caller.
    """
    return tuple(
        Version(
            id=id,
            version=record.memory.version,
            at=record.memory.descriptive.updated_at,
            author=record.author,
            change=record.change,
            reason=record.reason,
            state=record.memory.state,
            content=record.memory.content,
            let_go=0 if place else record.memory.version - 1,
        )
        for place, record in enumerate(visible_versions(parts, id, caller))
    )


def visible_versions(parts: Parts, id: str, caller: Caller, action: Action = Action.READ) -> list[Record]:
    """The versions of a memory that the caller may see, oldest first; it may do `action` with the memory.

    Raises:
        NotFound: there is no such memory for this caller.
        NotAllowed: it may see it, but not do that.
    """
    with parts.vault.reading() as connection:
        records = queries.versions(connection, id)
        if not records:
            raise NotFound(no_memory(id))
        may(Transaction(connection, parts.vault.head, parts.clock.now(), caller), records[-1], action)
        cube = queries.cube(connection, records[-1].memory.cube)
    seen = frozenset() if cube is None else clearance(caller.principal, cube)
    return [record for record in records if record.memory.governance.sensitivity in seen]


def version_of(records: list[Record], id: str, version: int) -> Record:
    """One of the versions that are kept. Raises `NotFound`, naming those that are."""
    for record in records:
        if record.memory.version == version:
            return record
    raise NotFound(f"{id} has no version {version}: `memos-mcp history {id}` lists those that there are")


def restore(parts: Parts, id: str, version: int, caller: Caller, reason: str | None) -> Memory:
    """Make version `version` the present one, as a new version; a memory that was archived or merged lives again.

    Restoring a parent of a fused memory undoes the fusion: all its parents live again, the fused memory is archived.
    Where that was fused again, the later fusion is undone as well. A parent that another living fusion holds stays.

    Raises:
        NotFound: no such memory, or no such version of it.
        Expired: that version's time has passed.
        Frozen, NotAllowed: nothing was changed.
    """
    wanted = version_of(visible_versions(parts, id, caller, Action.WRITE), id, version).memory
    vectors = parts.embeddings.contents([None if wanted.descriptive.parts else wanted.content])

    def job(transaction: Transaction) -> Record:
        (current,) = existing(transaction, [id], Action.WRITE)
        then = version_of(queries.versions(transaction.connection, id), id, version)
        state = then.memory.state if then.memory.state in LIVE else state_after(current.memory, Step.RESTORE)
        state_after(current.memory, Step.RESTORE)
        if is_expired(then.memory, transaction.now):
            raise Expired(f"version {version} of {id} expired: remember its content anew if it still holds")
        restored = replace(said_again(then.memory, current.memory), state=state)
        if as_of_now(restored, current.memory) == current.memory:
            return current
        told = lasting(_bounded(reason), [current.memory, restored])
        revision = transaction.audit("restore", current.memory.cube, [id], reason=told, version=version)
        old = replace(current, content_key=memory_key(parts.vault, restored))
        made = transaction.revise(old, restored, "restore", revision, reason=told)
        if restored.content != current.memory.content:
            transaction.execute("DELETE FROM embeddings WHERE id = ?", [id])
            parts.embeddings.write(transaction, [id], vectors)
        _with_it(transaction, current, revision)
        if current.memory.state not in LIVE or len(restored.content) > len(current.memory.content):
            require_fit(transaction, current.memory.cube)  # with what came back together with it
        # A use: what was put away because nobody used it would else be put away again at once.
        transaction.use({id: (1, transaction.now)})
        return made

    made = parts.vault.write(job, caller)
    with parts.vault.reading() as connection:
        return shown(connection, queries.complete(connection, [made]), caller)[0]


def said_again(then: Memory, now: Memory) -> Memory:
    """What a memory said then, handled at least as carefully as now."""
    sensitivity = stricter(then.governance.sensitivity, now.governance.sensitivity)
    return replace(then, governance=replace(then.governance, sensitivity=sensitivity))


def as_of_now(memory: Memory, current: Memory) -> Memory:
    """`memory` under the version number and time of `current`: then both are equal where they say the same."""
    about = replace(memory.descriptive, updated_at=current.descriptive.updated_at)
    return replace(memory, version=current.version, descriptive=about)


def _bounded(reason: str | None) -> str | None:
    return None if reason is None else reason[:MAX_REASON_CHARS]


def _with_it(transaction: Transaction, current: Record, revision: int) -> None:
    """What comes back, or goes, together with a restored memory."""
    if current.memory.state is State.MERGED:
        _unfuse(transaction, current.memory, revision)
    if current.memory.descriptive.parts and current.memory.state is State.ARCHIVED:
        edges = queries.derived_from(transaction.connection, [current.memory.id])
        pieces = [derived for derived, edge in edges if edge.relation is Relation.PART_OF]
        for piece in transaction.records(pieces).values():
            if piece.memory.state is State.ARCHIVED and piece.memory.cube == current.memory.cube:
                transaction.move(piece, state_after(piece.memory, Step.RESTORE), "restore", revision)


def _unfuse(transaction: Transaction, restored: Memory, revision: int) -> None:
    """Undo every fusion that the restored memory went into, however many fusions are between.

    What those were fused from lives again, unless another fusion stands for it; what was fused on the way is archived.
    """
    fusions = Fusions.around(transaction.connection, [restored.id])
    undone = {id for id in fusions.above(restored.id) if fusions.states[id] in HOLDING}
    freed = fusions.freed(undone, lambda id: None if id in undone else fusions.states[id]) - {restored.id}
    records = transaction.records(sorted(undone | freed))
    may_all(transaction, records.values(), _OUT_OF_REACH.format(restored.id))
    revisions = {restored.cube: revision}
    for cube in sorted({record.memory.cube for record in records.values()} - {restored.cube}):
        mine = [id for id, record in records.items() if record.memory.cube == cube]
        revisions[cube] = transaction.audit("unfuse", cube, mine)
    for id, record in records.items():
        memory = record.memory
        if memory.state is State.MERGED:
            memory = replace(memory, state=state_after(memory, Step.RESTORE))
        if id in undone:
            memory = replace(memory, state=state_after(memory, Step.ARCHIVE))
        transaction.move(record, memory.state, "unfuse", revisions[memory.cube])


_OUT_OF_REACH = "{} was fused into what you may not change: its owner has to undo that; nothing was changed"
