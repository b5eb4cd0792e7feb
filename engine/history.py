"""history and restore: what a memory said before, and making an earlier version the present one again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cubes import Action, Memory, Relation, State
from engine.erasing import lasting
from engine.errors import Expired, NotFound
from engine.governance.access import no_memory
from engine.lifecycle.states import LIVE, Step, is_expired, state_after
from engine.operations import MAX_REASON_CHARS, Caller, Version
from engine.parts import Parts, existing, may, memory_key
from engine.vault import Transaction, queries
from engine.vault.rows import Record


def history(parts: Parts, id: str, caller: Caller) -> tuple[Version, ...]:
    """All versions of a memory, oldest first.

    Raises:
        NotFound: there is no such memory for this caller.
    """
    with parts.vault.reading() as connection:
        records = queries.versions(connection, id)
        if not records:
            raise NotFound(no_memory(id))
        may(Transaction(connection, parts.vault.head, parts.clock.now(), caller), records[-1], Action.READ)
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
        )
        for record in records
    )


def restore(parts: Parts, id: str, version: int, caller: Caller, reason: str | None) -> Memory:
    """Make version `version` the present one, as a new version; a memory that was archived or merged lives again.

    Restoring a parent of a fused memory undoes the fusion: all its parents live again, the fused memory is archived.
    Where that was fused again, the later fusion is undone as well.

    Raises:
        NotFound: no such memory, or no such version of it.
        Expired: that version's time has passed.
        Frozen, NotAllowed: nothing was changed.
    """
    with parts.vault.reading() as connection:
        versions = {record.memory.version: record for record in queries.versions(connection, id)}
        existing(Transaction(connection, parts.vault.head, parts.clock.now(), caller), [id], Action.WRITE)
    if versions and version not in versions:
        raise NotFound(f"{id} has no version {version}: `memos-mcp history {id}` lists 1 to {max(versions)}")
    wanted = versions[version].memory if versions else None
    vectors = parts.embeddings.contents([wanted.content]) if wanted is not None and not wanted.descriptive.parts else {}

    def job(transaction: Transaction) -> Record:
        (current,) = existing(transaction, [id], Action.WRITE)
        then = next(r for r in queries.versions(transaction.connection, id) if r.memory.version == version)
        state = then.memory.state if then.memory.state in LIVE else state_after(current.memory, Step.RESTORE)
        state_after(current.memory, Step.RESTORE)
        if is_expired(then.memory, transaction.now):
            raise Expired(f"version {version} of {id} expired: remember its content anew if it still holds")
        restored = replace(then.memory, state=state)
        if replace(restored, version=current.memory.version, descriptive=current.memory.descriptive) == current.memory:
            return current
        told = lasting(_bounded(reason), [current.memory, restored])
        revision = transaction.audit("restore", current.memory.cube, [id], reason=told, version=version)
        old = replace(current, content_key=memory_key(parts.vault, restored))
        made = transaction.revise(old, restored, "restore", revision, reason=told)
        if restored.content != current.memory.content:
            transaction.execute("DELETE FROM embeddings WHERE id = ?", [id])
            parts.embeddings.write(transaction, [id], vectors)
        _with_it(transaction, current, revision)
        return made

    made = parts.vault.write(job, caller)
    with parts.vault.reading() as connection:
        return queries.complete(connection, [made])[0]


def _bounded(reason: str | None) -> str | None:
    return None if reason is None else reason[:MAX_REASON_CHARS]


def _with_it(transaction: Transaction, current: Record, revision: int) -> None:
    """What comes back, or goes, together with a restored memory."""
    if current.memory.state is State.MERGED:
        _unfuse(transaction, current.memory.id, revision)
    if current.memory.descriptive.parts and current.memory.state is State.ARCHIVED:
        pieces = _derived(transaction, [current.memory.id], Relation.PART_OF)
        for piece in pieces:
            if piece.memory.state is State.ARCHIVED:
                transaction.move(piece, state_after(piece.memory, Step.RESTORE), "restore", revision)


def _unfuse(transaction: Transaction, id: str, revision: int) -> None:
    """Undo every live fusion that the restored memory went into, however many fusions are between.

    What those were fused from lives again; of that, what was fused itself on the way from `id` is archived instead.
    """
    between = _fused_from(transaction, id)
    undone = [fused for fused in between.values() if fused.memory.state in LIVE]
    pending = [fused.memory.id for fused in undone]
    met = {id, *pending}
    for fused in undone:
        transaction.move(fused, state_after(fused.memory, Step.ARCHIVE), "unfuse", revision)
    while pending:
        for parent in transaction.records(
            queries.sources_of(transaction.connection, [pending.pop()], Relation.FUSED_FROM)
        ).values():
            memory = parent.memory
            if memory.id in met:
                continue
            met.add(memory.id)
            if memory.id in between:
                pending.append(memory.id)
            if memory.state is State.MERGED:
                state = state_after(memory, Step.RESTORE)
                if memory.id in between:
                    state = state_after(replace(memory, state=state), Step.ARCHIVE)
                transaction.move(parent, state, "unfuse", revision)


def _fused_from(transaction: Transaction, id: str) -> dict[str, Record]:
    """Everything that was fused from `id`, at any depth."""
    found: dict[str, Record] = {}
    pending = [id]
    while pending:
        for record in _derived(transaction, [pending.pop()], Relation.FUSED_FROM):
            if record.memory.id not in found:
                found[record.memory.id] = record
                pending.append(record.memory.id)
    return found


def _derived(transaction: Transaction, ids: Sequence[str], relation: Relation) -> list[Record]:
    edges = queries.derived_from(transaction.connection, ids)
    return list(transaction.records([derived for derived, edge in edges if edge.relation is relation]).values())
