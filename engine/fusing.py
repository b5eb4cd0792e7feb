"""fuse: make one memory of several, keep the parents as merged, and be able to undo it.

Without a synthesis from the caller the fused content is a deterministic union: the newest parent first, then each
sentence of an older one that says something that is not there yet. Where two sentences are rivals (another number,
date, name or negation) the newest wins, and the difference is listed. Nothing is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cubes import Action, Descriptive, Governance, Kind, Lineage, Memory, Origin, Relation, State
from engine.embeddings import BATCH_MEMORIES
from engine.errors import Conflict, Invalid, TooLarge
from engine.lifecycle.states import Step, is_expired, state_after
from engine.operations import (
    MAX_CONTENT_CHARS,
    Caller,
    Difference,
    Fuse,
    Fused,
    Progress,
    Recall,
    Remember,
)
from engine.parts import Parts, answered, check_ids, content_key, existing, once, readable_cubes, require_room, seen_in
from engine.reader.checks import check_text
from engine.reader.secrets import refuse_secrets
from engine.recall import rank
from engine.scheduler.heat import Heat, together
from engine.text.claims import Relation as Claim
from engine.text.claims import compare
from engine.text.sentences import sentences
from engine.vault import Transaction, queries
from engine.vault.heat import HeatRow, heat_of, put_heat
from engine.vault.rows import Record

MIN_PARENTS, MAX_PARENTS = 2, 100
GROUPS_FROM = 2_000  # the newest memories of a cube that are looked at for groups
NEIGHBOURS = 5
MAX_SEARCH_CHARS = 2_000
EARLIEST = datetime.min.replace(tzinfo=UTC)


def fuse(
    parts: Parts,
    request: Fuse,
    caller: Caller,
    progress: Progress,
    also: Callable[[Transaction, Fused], None] = lambda transaction, fused: None,
) -> Fused:
    """Fuse memories, or propose groups of them. `also` is done in the same transaction.

    Raises:
        Invalid: neither ids nor a cube, too few or too many ids, parents of several cubes.
        NotFound, NotAllowed, Frozen, Conflict: nothing was changed.
    """
    if request.cube is not None and not request.ids:
        if request.content is not None:
            raise Invalid("content goes with ids: a cube alone asks for groups that are worth fusing")
        return Fused(groups=tuple(_groups(parts, request.cube, caller, progress)))
    ids = check_ids(request.ids)
    if request.cube is not None or not MIN_PARENTS <= len(ids) <= MAX_PARENTS:
        raise Invalid(f"give {MIN_PARENTS} to {MAX_PARENTS} different ids to fuse, or a cube alone for proposals")
    if request.content is not None:
        _check_synthesis(request.content)
    before = answered(parts, caller, request, _load)
    if before is not None:  # its parents are merged already: they could not be fused again
        return before
    plan = _plan(parts, ids, request.content, caller)
    if request.dry_run:
        return Fused(None, None, ids, plan.differences, (), plan.content)
    progress(0, 2, "embedding")
    embedded = parts.embeddings.contents([plan.content])
    progress(1, 2, "fusing")

    def job(transaction: Transaction) -> tuple[Fused, Sequence[str]]:
        records = _parents(transaction, ids)
        now = _union(records) if request.content is None else replace(plan, content=request.content)
        # A parent that changed since the plan was made changes what is written; its vectors then come later.
        vectors = embedded if now.content == plan.content else {}
        fused = _store(parts, transaction, records, now, vectors)
        also(transaction, fused)
        return fused, ids

    return once(parts, caller, request, job, _dump, _load)


def _check_synthesis(content: str) -> None:
    check_text(content, "content", MAX_CONTENT_CHARS)
    refuse_secrets(Remember(content=content))


@dataclass(frozen=True, slots=True)
class Plan:
    """What the fused memory will say, and what its parents disagree about."""

    content: str
    differences: tuple[Difference, ...]


def _plan(parts: Parts, ids: Sequence[str], content: str | None, caller: Caller) -> Plan:
    with parts.vault.reading() as connection:
        transaction = Transaction(connection, parts.vault.head, parts.clock.now(), caller)
        plan = _union(_parents(transaction, ids))
    return plan if content is None else replace(plan, content=content)


def _parents(transaction: Transaction, ids: Sequence[str]) -> list[Record]:
    records = existing(transaction, ids, Action.WRITE)
    if len({record.memory.cube for record in records}) > 1:
        raise Invalid("these memories are of several cubes: fuse memories of one cube")
    for record in records:
        state_after(record.memory, Step.MERGE)
        if is_expired(record.memory, transaction.now):
            raise Conflict(f"{record.memory.id} has expired: fuse the others, or remember what still holds anew")
        if record.memory.descriptive.parts:
            raise Invalid(f"{record.memory.id} is the whole of a long text: fuse its pieces, or other memories")
    return records


def newest_first(records: Sequence[Record]) -> list[Record]:
    """By event time where there is one, else by the time of remembering."""
    return sorted(
        records,
        key=lambda record: (
            record.memory.descriptive.occurred_at or record.memory.descriptive.created_at or EARLIEST,
            record.label,
        ),
        reverse=True,
    )


def _union(records: Sequence[Record]) -> Plan:
    """The deterministic union of contents; a pure function of the records."""
    kept: list[tuple[str, str]] = []  # (id of the memory that says it, sentence)
    differences: list[Difference] = []
    for record in newest_first(records):
        id = record.memory.id
        fresh = []
        for sentence in _sentences(record.memory.content):
            verdicts = [(other, compare(said, sentence)) for other, said in kept if other != id]
            if any(verdict.relation is Claim.SAME for _, verdict in verdicts):
                continue
            rivals = [(other, verdict) for other, verdict in verdicts if verdict.relation is Claim.RIVAL]
            if rivals:
                differences += [Difference((other, id), verdict.about) for other, verdict in rivals]
            else:
                fresh.append((id, sentence))
        kept += fresh
    content = "\n".join(_paragraphs(kept))
    if len(content) > MAX_CONTENT_CHARS:
        raise TooLarge(
            f"together they have {len(content)} characters, over {MAX_CONTENT_CHARS}: give a shorter content"
        )
    return Plan(content, tuple(dict.fromkeys(differences)))


def _sentences(content: str) -> Iterator[str]:
    return (content[start:end].strip() for start, end in sentences(content) if content[start:end].strip())


def _paragraphs(kept: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What each memory adds, a line each."""
    for id in dict.fromkeys(id for id, _ in kept):
        yield " ".join(sentence for owner, sentence in kept if owner == id)


def _store(
    parts: Parts,
    transaction: Transaction,
    records: Sequence[Record],
    plan: Plan,
    vectors: dict[str, list[np.ndarray[Any, np.dtype[np.float32]]]],
) -> Fused:
    newest = newest_first(records)[0].memory
    id = parts.ids.new("m")
    memory = Memory(
        cube=newest.cube,
        content=plan.content,
        version=1,
        state=State.GENERATED,
        descriptive=Descriptive(
            id=id,
            kind=Kind.FACT if newest.kind is Kind.MESSAGE else newest.kind,
            created_at=transaction.now,
            updated_at=transaction.now,
            occurred_at=newest.descriptive.occurred_at,
            origin=Origin.INFERENCE,
            tags=_joined([record.memory.descriptive.tags for record in records]),
            entities=_joined([record.memory.descriptive.entities for record in records]),
        ),
        governance=Governance(
            expires_at=_latest([record.memory.governance.expires_at for record in records]),
            priority=max(record.memory.governance.priority for record in records),
            sensitivity=max((record.memory.governance.sensitivity for record in records), key=_strictness),
            pinned=any(record.memory.governance.pinned for record in records),
        ),
    )
    author = transaction.caller.principal.name
    require_room(transaction, memory.cube, [memory], [record.memory for record in records])
    key = content_key(parts.vault, plan.content)
    revision = transaction.audit("fuse", newest.cube, [id], parents=[record.memory.id for record in records])
    record = Record(memory, transaction.new_label(), key, author, "fuse", None, revision)
    active = parts.embeddings.active or ""
    transaction.add([record], [vectors[active][0] if active in vectors else None], active)
    parts.embeddings.write(transaction, [id], vectors)
    edges = [Lineage(Relation.FUSED_FROM, parent.memory.id, parent.memory.version) for parent in records]
    transaction.link({id: edges})
    _inherit_heat(transaction, id, [parent.memory.id for parent in records])
    for parent in records:
        transaction.move(parent, state_after(parent.memory, Step.MERGE), "fuse", revision)
    return Fused(id, 1, tuple(parent.memory.id for parent in records), plan.differences, (), plan.content)


def _inherit_heat(transaction: Transaction, id: str, parents: Sequence[str]) -> None:
    """What stands for several memories is as warm as they were together."""
    rows = heat_of(transaction.connection, parents)
    if not rows:
        return
    warm = together(Heat(row.fast, row.slow, row.uses, row.helped, row.misled, row.last_use) for row in rows.values())
    put_heat(transaction, [HeatRow(id, warm.fast, warm.slow, warm.uses, warm.helped, warm.misled, warm.last)])


def _joined(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for items in lists for item in items))


def _latest(times: Sequence[datetime | None]) -> datetime | None:
    """Parents that never expire make a fused memory that never does."""
    found = [moment for moment in times if moment is not None]
    return max(found) if len(found) == len(times) else None


def _strictness(sensitivity: str) -> int:
    return ("normal", "personal", "secret").index(sensitivity)


# --- proposals ----------------------------------------------------------------------------------------------------


def _groups(parts: Parts, cube: str, caller: Caller, progress: Progress) -> Iterator[tuple[str, ...]]:
    """Groups of memories that say the same or contradict one another, by the rule of duplicates and conflicts."""
    readable_cubes(parts, [cube], caller)
    seen = seen_in(parts, cube, caller)
    found = parts.indexes.ready(cube)
    if found is None:
        return
    index = found[0].showing(seen)
    with parts.vault.reading() as connection:
        records = {record.memory.id: record for record in queries.newest_claims(connection, cube, GROUPS_FROM, seen)}
    now = parts.clock.now()
    alive = {id: record.memory for id, record in records.items() if not is_expired(record.memory, now)}
    parent = {id: id for id in alive}

    def root(id: str) -> str:
        while parent[id] != id:
            parent[id] = parent[parent[id]]
            id = parent[id]
        return id

    for number, (id, memory) in enumerate(alive.items()):
        if number % BATCH_MEMORIES == 0:
            progress(number, len(alive), "comparing")
        search = Recall(query=memory.content[:MAX_SEARCH_CHARS], limit=NEIGHBOURS + 1)
        for candidate in rank(search, {cube: index}, None, now).candidates[: NEIGHBOURS + 1]:
            other = alive.get(candidate.id)
            if other is None or root(id) == root(candidate.id):
                continue
            if compare(other.content, memory.content).relation is not Claim.DIFFERENT:
                parent[root(candidate.id)] = root(id)
    groups: dict[str, list[str]] = {}
    for id in alive:
        groups.setdefault(root(id), []).append(id)
    yield from (tuple(group) for group in groups.values() if len(group) > 1)


# --- recorded answers -----------------------------------------------------------------------------------------------


def _dump(result: Fused) -> dict[str, Any]:
    return {
        "id": result.id,
        "version": result.version,
        "merged": list(result.merged),
        "conflicts": [[list(difference.ids), difference.about] for difference in result.conflicts],
        "content": result.content,
    }


def _load(plain: dict[str, Any]) -> Fused:
    return Fused(
        id=plain["id"],
        version=plain["version"],
        merged=tuple(plain["merged"]),
        conflicts=tuple(Difference(tuple(ids), about) for ids, about in plain["conflicts"]),
        content=plain["content"],
    )
