"""rollback: a cube says again what it said at a moment.

    what differs → vectors of contents that return → one transaction: snapshot, versions, header, audit row

Nothing is deleted: what differs becomes a new version, what did not exist then is archived, and a snapshot of the
moment before, made in the same transaction, undoes the whole. What was erased stays gone. What is frozen stays as it
is. Time itself is not rolled back: what has expired since then is expired. Who may do what with the cube stays as it
is, and no memory becomes less sensitive than now: going back never shares anything again.

Fusions: what another cube gave to a fused memory that goes now lives again there, unless another fusion stands for it;
and a memory that was merged then is merged again only if what it was merged into is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubes import Action, MemCube, Memory, Sensitivity, State
from engine.cube_operations import RolledBack
from engine.erasing import lasting
from engine.errors import Invalid, NotFound
from engine.governance.access import clearance, no_cube, require
from engine.history import as_of_now, said_again
from engine.lifecycle.fusions import HOLDING, Fusions
from engine.lifecycle.states import LIVE, Step, is_expired, state_after
from engine.operations import Caller, Progress
from engine.parts import Parts, answered, memory_key, once, require_room
from engine.timeline.moments import check_reason, check_room, hidden_ids, resolve
from engine.vault import Transaction, past, queries
from engine.vault.connection import Connection
from engine.vault.past import Moment
from engine.vault.rows import Record

BATCH = 32  # contents embedded between two steps of progress
AUTOMATIC = "before-rollback-"
RETURNING = ("description", "licence")  # of the header: who may do what stays as it is
Vectors = dict[str, dict[str, NDArray[np.float32]]]  # fingerprint -> id -> [passages, dimension]


@dataclass(frozen=True, slots=True)
class _Request:
    cube: str
    to: str
    reason: str | None


def rollback(
    parts: Parts, cube: str, to: str, caller: Caller, reason: str | None, dry_run: bool, progress: Progress
) -> RolledBack:
    """Make a cube say again what it said at `to`: a snapshot's name or an ISO instant.

    Raises:
        NotFound: no such cube for this caller, or no such snapshot.
        NotAllowed: the caller may not write to it; a mounted cube shows its file.
        Invalid: a moment that has not come yet.
        TooLarge: the cube has no room for another snapshot, or for what would come back.
    """
    check_reason(reason)
    request = _Request(cube, to, reason)
    before = None if dry_run else answered(parts, caller, request, _load)
    if before is not None:
        return before
    revision = parts.vault.revision
    with parts.vault.reading() as connection:
        now = parts.clock.now()
        _require(connection, cube, caller)
        moment = resolve(connection, cube, to, now)
        if moment.before == past.PRESENT or (moment.at > now and past.moment_of(connection, cube, to) is None):
            raise Invalid(f"{to!r} is not in the past: roll back to an earlier moment")
        plan = _plan(connection, moment, now, caller)
    if dry_run:
        return _told(plan, revision, "")
    vectors = _vectors(parts, plan, progress)

    def job(transaction: Transaction) -> tuple[RolledBack, Sequence[str]]:
        latest = plan
        if transaction.head.seq != revision:  # something was changed since
            latest = _plan(transaction.connection, moment, transaction.now, caller)
        result = _carry_out(parts, transaction, latest, reason, vectors)
        return result, [*result.restored, *result.archived, *result.expired]

    progress(len(plan.returning), len(plan.returning), "rolling back")
    return once(parts, caller, request, job, _dump, _load)


def answered_rollback(parts: Parts, cube: str, to: str, caller: Caller, reason: str | None) -> RolledBack | None:
    """The recorded answer where the caller's operation carried out this very rollback already."""
    return answered(parts, caller, _Request(cube, to, reason), _load)


def _require(connection: Connection, name: str, caller: Caller) -> MemCube:
    cube = queries.cube(connection, name)
    if cube is None:
        raise NotFound(no_cube(name))
    require(caller.principal, cube, Action.WRITE)
    return cube


# --- the plan: what differs, and what becomes of it ------------------------------------------------------------------


@dataclass(slots=True)
class _Plan:
    """`revised`: (present record, what it says next), by id. The other lists name what becomes of which memory."""

    moment: Moment
    header: MemCube  # as it is to be, but for its version and time
    revised: dict[str, tuple[Record, Memory]] = field(default_factory=dict)
    restored: list[str] = field(default_factory=list)
    archived: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    freed: dict[str, Record] = field(default_factory=dict)  # parents in other cubes that live again
    returned: list[str] = field(default_factory=list)  # fields of the header that change

    @property
    def returning(self) -> dict[str, Memory]:
        """What gets another content than it has now."""
        return {id: memory for id, (now, memory) in self.revised.items() if memory.content != now.memory.content}


def _plan(connection: Connection, moment: Moment, now: datetime, caller: Caller) -> _Plan:
    cube = _require(connection, moment.cube, caller)
    seen = clearance(caller.principal, cube)
    then, present = past.versions_at(connection, moment), past.versions_at(connection, past.present(moment.cube, now))
    hidden = set() if seen == frozenset(Sensitivity) else hidden_ids(connection, moment.cube, seen)
    let_go = past.let_go_at(connection, moment)
    differing = {id: version for id, version in present.items() if id not in hidden and then.get(id) != version}
    records = past.versions_of(connection, differing)
    were = past.versions_of(connection, {id: then[id] for id in differing if id in then})
    plan = _Plan(moment, cube)
    plan.gone = [id for id in let_go if id in differing and id not in then]
    if seen == frozenset(Sensitivity):
        plan.gone = [*past.erased_since(connection, moment), *plan.gone]
    for id, record in records.items():
        if id in were:
            _revise(plan, record, were[id].memory, now)
        elif id not in let_go:
            _put_away(plan, record, now)
    _settle_fusions(connection, plan, now)
    header = past.header_at(connection, moment)
    if header is not None:
        plan.header = replace(cube, description=header.description, licence=header.licence)
        plan.returned = [name for name in RETURNING if getattr(plan.header, name) != getattr(cube, name)]
    return plan


def _put_away(plan: _Plan, record: Record, now: datetime) -> None:
    """What did not exist then: it is archived, if it is recalled."""
    memory = record.memory
    if memory.state not in LIVE or is_expired(memory, now):
        return
    if memory.governance.frozen:
        plan.kept.append(memory.id)
        return
    plan.archived.append(memory.id)
    plan.revised[memory.id] = (record, replace(memory, state=state_after(memory, Step.ARCHIVE)))


def _revise(plan: _Plan, record: Record, then: Memory, now: datetime) -> None:
    """What said something else then, or stood otherwise."""
    memory = record.memory
    wanted = said_again(then, memory)
    ended = wanted.state in LIVE and is_expired(wanted, now)
    if ended:
        wanted = replace(wanted, state=State.EXPIRED)
    elif wanted.state in LIVE and memory.state in LIVE:
        wanted = replace(wanted, state=memory.state)  # first use stays
    if as_of_now(wanted, memory) == memory:
        return
    if memory.governance.frozen:
        plan.kept.append(memory.id)
        return
    (plan.expired if ended else plan.restored).append(memory.id)
    plan.revised[memory.id] = (record, wanted)


def _settle_fusions(connection: Connection, plan: _Plan, now: datetime) -> None:
    """Merged is only what something stands for; what nothing stands for any more lives again."""
    fusions = Fusions.around(connection, plan.revised)

    def state_of(id: str) -> State | None:
        return plan.revised[id][1].state if id in plan.revised else fusions.states.get(id)

    merging = {
        id
        for id, (old, memory) in plan.revised.items()
        if memory.state is State.MERGED and old.memory.state is not State.MERGED
    }
    while unheld := {id for id in merging if not fusions.held(id, state_of)}:
        merging -= unheld
        for id in unheld:
            old, memory = plan.revised[id]
            state = State.EXPIRED if is_expired(memory, now) else State.ACTIVATED
            state = old.memory.state if old.memory.state in LIVE else state
            plan.revised[id] = (old, replace(memory, state=state))
    ended = [
        id for id, (old, memory) in plan.revised.items() if old.memory.state in HOLDING and memory.state not in HOLDING
    ]
    freed = past.present_of(connection, fusions.freed(ended, state_of))
    plan.freed = {
        id: record
        for id, record in freed.items()
        # In the cube itself only what it is not known to have said then: the others stand as they stood.
        if (record.memory.cube != plan.moment.cube or id in plan.gone) and not record.memory.governance.frozen
    }
    _drop_unchanged(plan)


def _drop_unchanged(plan: _Plan) -> None:
    same = {id for id, (old, memory) in plan.revised.items() if as_of_now(memory, old.memory) == old.memory}
    plan.revised = {id: pair for id, pair in plan.revised.items() if id not in same}
    plan.restored = [id for id in plan.restored if id not in same]


def _told(plan: _Plan, revision: int, before: str) -> RolledBack:
    return RolledBack(
        cube=plan.moment.cube,
        to=plan.moment.at,
        revision=revision,
        before=before,
        restored=tuple(plan.restored),
        archived=tuple(plan.archived),
        kept=tuple(plan.kept),
        gone=tuple(plan.gone),
        expired=tuple(plan.expired),
        unfused=tuple(plan.freed),
        header=tuple(plan.returned),
    )


# --- vectors of contents that return ---------------------------------------------------------------------------------


def _vectors(parts: Parts, plan: _Plan, progress: Progress) -> Vectors:
    """Embed before the transaction what it will need; where an embedder fails, the background does it later."""
    wanted = list(plan.returning.items())
    found: Vectors = {}
    for start in range(0, len(wanted), BATCH):
        progress(start, len(wanted), "embedding")
        some = wanted[start : start + BATCH]
        texts = [None if memory.descriptive.parts else memory.content for _, memory in some]
        for fingerprint, vectors in parts.embeddings.contents(texts).items():
            known = found.setdefault(fingerprint, {})
            known.update((id, rows) for (id, _), rows in zip(some, vectors, strict=True))
    return found


# --- the transaction --------------------------------------------------------------------------------------------------


def _carry_out(parts: Parts, transaction: Transaction, plan: _Plan, reason: str | None, vectors: Vectors) -> RolledBack:
    moment = plan.moment
    present = _require(transaction.connection, moment.cube, transaction.caller)
    if not plan.revised and not plan.freed and plan.header == present:
        return _told(plan, transaction.head.seq, "")
    check_room(transaction, moment.cube)
    require_room(transaction, moment.cube, *_traffic(plan))
    before = transaction.now - timedelta(microseconds=1)
    name = f"{AUTOMATIC}{before:%Y%m%dT%H%M%S.%f}Z"
    reason = lasting(reason, (memory for pair in plan.revised.values() for memory in (pair[0].memory, pair[1])))
    revision = transaction.audit(
        "rollback",
        moment.cube,
        list(plan.revised),
        reason=reason,
        to=moment.at.isoformat(),
        before=name,
        kept=plan.kept,
    )
    transaction.put_snapshot(moment.cube, name, before, revision, reason="before the cube was rolled back")
    if plan.revised:
        transaction.revise_all(_keyed(parts, plan), "rollback", revision, reason=reason)
    _renew_vectors(parts, transaction, plan, vectors)
    _unfuse(transaction, plan)
    if plan.header != present:
        header = replace(plan.header, version=present.version + 1, updated_at=transaction.now)
        transaction.put_cube(header, revision, "rollback", reason=reason)
    return _told(plan, transaction.head.seq, name)


def _traffic(plan: _Plan) -> tuple[list[Memory], list[Memory]]:
    """What lives afterwards, and what lives now, of the memories that change."""
    return [memory for _, memory in plan.revised.values()], [old.memory for old, _ in plan.revised.values()]


def _keyed(parts: Parts, plan: _Plan) -> list[tuple[Record, Memory]]:
    returning = plan.returning
    return [
        (replace(old, content_key=memory_key(parts.vault, memory)) if id in returning else old, memory)
        for id, (old, memory) in plan.revised.items()
    ]


def _renew_vectors(parts: Parts, transaction: Transaction, plan: _Plan, vectors: Vectors) -> None:
    returning = list(plan.returning)
    if not returning:
        return
    transaction.execute("DELETE FROM embeddings WHERE id IN (SELECT unnest(?::VARCHAR[]))", [returning])
    for fingerprint, known in vectors.items():
        ids = [id for id in returning if id in known]
        parts.embeddings.write(transaction, ids, {fingerprint: [known[id] for id in ids]})


def _unfuse(transaction: Transaction, plan: _Plan) -> None:
    by_cube: dict[str, list[Record]] = {}
    for record in plan.freed.values():
        by_cube.setdefault(record.memory.cube, []).append(record)
    for cube, records in sorted(by_cube.items()):
        revision = transaction.audit("unfuse", cube, [record.memory.id for record in records])
        living = [(old, replace(old.memory, state=state_after(old.memory, Step.RESTORE))) for old in records]
        transaction.revise_all(living, "unfuse", revision)


# --- recorded answers -----------------------------------------------------------------------------------------------

_LISTS = ("restored", "archived", "kept", "gone", "expired", "unfused", "header")


def _dump(result: RolledBack) -> dict[str, Any]:
    return {
        "cube": result.cube,
        "to": result.to.isoformat(),
        "revision": result.revision,
        "before": result.before,
        **{name: list(getattr(result, name)) for name in _LISTS},
    }


def _load(stored: Mapping[str, Any]) -> RolledBack:
    lists = {name: tuple(stored[name]) for name in _LISTS}
    to = datetime.fromisoformat(stored["to"])
    return RolledBack(stored["cube"], to, stored["revision"], stored["before"], **lists)
