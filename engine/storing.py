"""Storing drafts, inside the transaction of one remember: what is known already, what contradicts, what is new.

What was found out before the transaction is looked at again where it may no longer stand. What the caller may not see
is not there for it: it is neither a twin nor a rival of what is stored.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from cubes import Action, Descriptive, Governance, Kind, Lineage, MemCube, Memory, Origin, Relation, Sensitivity, State
from engine.comparing import Prepared, is_claim
from engine.governance.access import EVERYTHING, clearance, require_clearance, stricter
from engine.lifecycle.states import LIVE, Step, is_expired, state_after
from engine.operations import Remember, Remembered, Status, Stored
from engine.parts import Parts, ensure_cube, existing, require_room, writable_cube
from engine.reader import Draft
from engine.text.claims import Relation as Claim
from engine.text.claims import compare
from engine.text.origins import other_subject, same_origin
from engine.vault import Transaction, queries
from engine.vault.rows import Record

FEW_KEYS = 32  # up to here a list of placeholders is faster than a list as one parameter
Vectors = NDArray[np.float32]


@dataclass(slots=True)
class Storing:
    """The transaction of one remember."""

    parts: Parts
    request: Remember
    transaction: Transaction
    prepared: Sequence[Prepared]
    embedded: Sequence[tuple[str, list[Vectors]]]
    known_until: int  # the revision that the drafts were compared with
    new: list[tuple[int, Record]] = field(default_factory=list)  # (number of the draft, record)
    edges: list[tuple[str, Lineage]] = field(default_factory=list)
    superseded: list[Record] = field(default_factory=list)
    taken: dict[int, Stored] = field(default_factory=dict)  # number of the draft -> its answer
    known: dict[str, Record] = field(default_factory=dict)  # rivals and exact matches, by id
    exact: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))  # content key -> ids
    pieces: Counter[int | None] = field(default_factory=Counter)  # number of a whole -> how many pieces it has
    renewed: dict[str, Governance] = field(default_factory=dict)  # what is said again, to last or to be guarded: by id
    settles: Callable[[Draft, Record], bool] | None = None  # whether a draft takes the place of what it contradicts
    replaced: list[Record] = field(default_factory=list)  # what drafts took the place of, beside what was asked for
    lasts_days: float | None = None  # how long the cube keeps what comes without an end
    seen: frozenset[Sensitivity] = (
        EVERYTHING  # what is beyond is not there for the caller: it is neither twin nor rival
    )

    def run(self) -> Remembered:
        transaction, request = self.transaction, self.request
        stored = self.decide()
        if not self.new and not self.superseded and not self.renewed:
            return Remembered(request.cube, transaction.head.seq, stored)
        ensure_cube(transaction, request.cube)
        ids = [record.memory.id for _, record in self.new]
        revision = transaction.audit(
            "remember",
            request.cube,
            ids,
            superseded=[record.memory.id for record in (*self.superseded, *self.replaced)],
            renewed=list(self.renewed),
        )
        self._write(revision)
        return Remembered(request.cube, transaction.head.seq, stored)

    def decide(self) -> tuple[Stored, ...]:
        """What becomes of each draft; nothing is written yet."""
        self._look_at_the_cube()
        self.superseded = existing(self.transaction, self.request.supersedes, Action.WRITE)
        for record in self.superseded:
            state_after(record.memory, Step.SUPERSEDE)  # refuses what is frozen, before anything is written
        self.pieces = Counter(item.draft.part_of for item in self.prepared)
        self._look_up()
        stored = tuple(self._store(number) for number in range(len(self.prepared)))
        replaced = (*self.superseded, *self.replaced)
        going = [record.memory for record in replaced if record.memory.cube == self.request.cube]
        require_room(self.transaction, self.request.cube, [record.memory for _, record in self.new], going)
        return stored

    def known_already(self) -> list[bool]:
        self._look_at_the_cube()
        self._look_up()
        answers = [self._duplicate(number, item) for number, item in enumerate(self.prepared)]
        return [answer is not None and answer.id not in self.renewed for answer in answers]

    def _look_at_the_cube(self) -> None:
        caller, now = self.transaction.caller.principal, self.transaction.now
        found = writable_cube(self.transaction, self.request.cube)
        cube = found or MemCube(self.request.cube, caller.name, now, now)
        self.lasts_days, self.seen = cube.policy.ttl_days, clearance(caller, cube)
        asked = {item.draft.governance.sensitivity for item in self.prepared if item.draft.governance is not None}
        if self.request.sensitivity is not None:
            asked.add(self.request.sensitivity)
        for sensitivity in sorted(asked):
            require_clearance(caller, cube, sensitivity)

    def _look_up(self) -> None:
        """One query for exact matches and one for rivals, however many drafts there are."""
        keys = [item.key for item in self.prepared]
        few = len(keys) <= FEW_KEYS
        among = ", ".join("?" * len(keys)) if few else "SELECT unnest(?::BIGINT[])"
        rows = self.transaction.rows(
            f"SELECT content_key, id FROM memories WHERE cube = ? AND content_key IN ({among})",
            [self.request.cube, *(keys if few else [keys])],
        )
        gone = {record.memory.id for record in self.superseded}
        alike = [id for item in self.prepared for id in (*item.same, *item.rivals) if id not in gone]
        found = self.transaction.records([*(row[1] for row in rows), *alike])
        self.known = {id: record for id, record in found.items() if record.memory.governance.sensitivity in self.seen}
        for key, id in rows:
            if id not in gone and self._stands(id):
                self.exact[key].append(id)
        if self.transaction.head.seq > self.known_until:
            self._compare_with_the_newest(gone)

    def _compare_with_the_newest(self, gone: set[str]) -> None:
        """What others remembered while this was prepared was not compared with yet."""
        newest = queries.claims_since(self.transaction.connection, self.request.cube, self.known_until, self.seen)
        for item in self.prepared:
            if not is_claim(item.draft):
                continue
            for record in newest:
                memory = record.memory
                if memory.id in gone:
                    continue
                self.known[memory.id] = record
                claim = compare(memory.content, item.draft.content).relation
                if claim is Claim.SAME:
                    item.same[memory.id] = memory.version
                elif claim is Claim.RIVAL:
                    item.rivals[memory.id] = memory.version

    def _stands(self, id: str) -> bool:
        record = self.known.get(id)
        return (
            record is not None and record.memory.state in LIVE and not is_expired(record.memory, self.transaction.now)
        )

    def _store(self, number: int) -> Stored:
        item = self.prepared[number]
        for found, beside in ((item.same, item.same_here), (item.rivals, item.rivals_here)):
            found.update((self.taken[earlier].id, self.taken[earlier].version) for earlier in beside)
        answer = self._duplicate(number, item)
        if answer is None:
            answer = self._add(number, item)
        elif number == 0 and self.superseded:
            answer = self._take_over(answer)
        self.taken[number] = answer
        return answer

    def _take_over(self, duplicate: Stored) -> Stored:
        """What is already known replaces what it supersedes."""
        old = tuple(record.memory.id for record in self.superseded)
        self._supersede(duplicate.id)
        return Stored(duplicate.id, duplicate.version, Status.SUPERSEDING, superseded=old)

    def _supersede(self, id: str) -> None:
        self.edges += [
            (id, Lineage(Relation.SUPERSEDES, record.memory.id, record.memory.version)) for record in self.superseded
        ]

    # --- duplicates --------------------------------------------------------------------------------------------

    def _duplicate(self, number: int, item: Prepared) -> Stored | None:
        draft = item.draft
        if draft.origin is Origin.RETRIEVAL:
            answer = self._echo(draft)
            if answer is not None:
                return answer
        if draft.part_of is not None:
            return self._duplicate_piece(number, draft)
        alike = (*self.exact.get(item.key, ()), *self._standing(item.same))
        return next((self._as_duplicate(id, draft) for id in alike if self._is_the_same(self.known[id], draft)), None)

    def _as_duplicate(self, id: str, draft: Draft) -> Stored:
        self._renew(self.known[id], draft)
        return Stored(id, self.known[id].memory.version + (id in self.renewed), Status.DUPLICATE)

    def _renew(self, known: Record, draft: Draft) -> None:
        """What is known lasts at least as long, and is as sensitive, as what is said now: its pieces with it."""
        rules, now = known.memory.governance, self._sensitivity(draft)
        if rules.frozen:
            return
        lasting = replace(
            rules,
            expires_at=self._ends(draft) if self._ends_early(known, draft) else rules.expires_at,
            sensitivity=stricter(rules.sensitivity, now),
        )
        if lasting != rules:
            self.renewed[known.memory.id] = lasting

    def _sensitivity(self, draft: Draft) -> Sensitivity:
        if draft.governance is not None:
            return draft.governance.sensitivity
        if self.request.sensitivity is not None:
            return self.request.sensitivity
        levels = [record.memory.governance.sensitivity for record in self.superseded]
        return max(levels, key=tuple(Sensitivity).index, default=Sensitivity.NORMAL)

    def _ends(self, draft: Draft) -> datetime | None:
        if draft.governance is not None and draft.governance.expires_at is not None:
            return draft.governance.expires_at
        lasts = self.lasts_days if self.request.expires_in_days is None else self.request.expires_in_days
        return None if lasts is None else self.transaction.now + timedelta(days=lasts)

    def _ends_early(self, known: Record, draft: Draft) -> bool:
        """Whether what is known would be gone before what is said now: then that it is known is not enough."""
        old, new = known.memory.governance.expires_at, self._ends(draft)
        return old is not None and (new is None or new > old)

    def _echo(self, draft: Draft) -> Stored | None:
        """What recall gave out and comes back is the memory that it was, not a new one."""
        found = self.transaction.records(draft.echoed)
        gone = {record.memory.id for record in self.superseded}
        for id, record in found.items():
            memory = record.memory
            live = memory.state in LIVE and not is_expired(memory, self.transaction.now)
            there = memory.cube == self.request.cube and memory.governance.sensitivity in self.seen
            if id not in gone and live and there:
                return Stored(id, memory.version, Status.DUPLICATE)
        return None

    def _duplicate_piece(self, number: int, draft: Draft) -> Stored | None:
        """A piece is a duplicate exactly when its whole is: its answer is the piece of that whole."""
        assert draft.part_of is not None
        whole = self.taken[draft.part_of]
        if whole.status is not Status.DUPLICATE:
            return None
        rows = self.transaction.rows(
            "SELECT m.id, m.version FROM lineage AS l JOIN memories AS m ON m.id = l.derived"
            " WHERE l.source = ? AND l.relation = ? ORDER BY m.label",
            [whole.id, Relation.PART_OF.value],
        )
        place = number - draft.part_of - 1
        id, version = rows[place] if place < len(rows) else (whole.id, whole.version)
        if whole.id in self.renewed and id != whole.id:
            self.known.update(self.transaction.records([id]))
            self._renew(self.known[id], draft)
        return Stored(id, version + (id != whole.id and id in self.renewed), Status.DUPLICATE)

    def _is_the_same(self, record: Record, draft: Draft) -> bool:
        """Whether what says the same also is the same: of the same time and, where sources tell, the same thing.

        What is frozen cannot be made as sensitive as what is said now: that is kept beside it.
        """
        about, rules = record.memory.descriptive, record.memory.governance
        if rules.frozen and stricter(rules.sensitivity, self._sensitivity(draft)) is not rules.sensitivity:
            return False
        return self._same_event(record, draft) and same_origin(about.metadata, draft.metadata)

    def _same_event(self, record: Record, draft: Draft) -> bool:
        """Whether both speak of the same time, as far as they say: the same words on another day are another event."""
        old, new = record.memory.descriptive.occurred_at, draft.occurred_at
        return old is None or new is None or old == new

    def _apart(self, record: Record, draft: Draft) -> bool:
        """Whether both were given another subject, or another event time, from outside: then they do not contradict.

        A time that the text itself speaks of is part of what it says, and may well be what they disagree about.
        """
        about = record.memory.descriptive
        told = not about.mentions and not draft.mentions
        return other_subject(about.metadata, draft.metadata) or (told and not self._same_event(record, draft))

    def _standing(self, compared: dict[str, int]) -> Iterator[str]:
        """Those memories that still are what the draft was compared with."""
        for id, version in compared.items():
            record = self.known.get(id)
            if record is not None and record.memory.version == version and self._stands(id):
                yield id

    # --- new memories ------------------------------------------------------------------------------------------

    def _add(self, number: int, item: Prepared) -> Stored:
        draft = item.draft
        id = self.parts.ids.new("m")
        superseded = tuple(record.memory.id for record in self.superseded) if number == 0 else ()
        if superseded:
            self._supersede(id)
        rivals = tuple(id for id in self._standing(item.rivals) if not self._apart(self.known[id], draft))
        settled = tuple(id for id in rivals if self.settles is not None and self.settles(draft, self.known[id]))
        conflicts, superseded = tuple(id for id in rivals if id not in settled), (*superseded, *settled)
        self._replace(id, settled)
        record = self._record(id, number, item)
        self.new.append((number, record))
        self.known[id] = record
        self.exact[item.key].append(id)
        self._relate(id, number, draft, conflicts)
        status = Status.SUPERSEDING if superseded else Status.CONFLICT if conflicts else Status.ADDED
        return Stored(id, 1, status, conflicts, superseded)

    def _replace(self, id: str, settled: Sequence[str]) -> None:
        """Have a draft take the place of what it contradicts; for those behind it, that stands no more."""
        found = [self.known.pop(old) for old in settled]
        self.replaced += found
        self.edges += [(id, Lineage(Relation.SUPERSEDES, old.memory.id, old.memory.version)) for old in found]

    def _record(self, id: str, number: int, item: Prepared) -> Record:
        draft, request, now = item.draft, self.request, self.transaction.now
        memory = Memory(
            cube=request.cube,
            content=draft.content,
            version=1,
            state=State.GENERATED,
            descriptive=Descriptive(
                id=id,
                kind=draft.kind,
                created_at=now,
                updated_at=now,
                occurred_at=draft.occurred_at,
                origin=draft.origin,
                source=draft.source,
                actor=draft.actor,
                role=draft.role,
                session=draft.session,
                position=draft.position if draft.part_of is None else number - draft.part_of - 1,
                tags=draft.tags,
                entities=draft.entities,
                mentions=draft.mentions,
                parts=self.pieces[number],
                metadata=draft.metadata,
            ),
            governance=replace(
                draft.governance or Governance(), expires_at=self._ends(draft), sensitivity=self._sensitivity(draft)
            ),
        )
        actor = self.transaction.caller.principal.name
        return Record(memory, self.transaction.new_label(), item.key, actor, "remember", None, 0)

    def _relate(self, id: str, number: int, draft: Draft, conflicts: Sequence[str]) -> None:
        self.edges += [
            (id, Lineage(Relation.CONFLICTS_WITH, rival, self.known[rival].memory.version)) for rival in conflicts
        ]
        self.edges += [(id, Lineage(Relation.DERIVED_FROM, source, version)) for source, version in draft.drawn_from]
        if draft.part_of is not None:
            whole = self.taken[draft.part_of]
            self.edges.append((id, Lineage(Relation.PART_OF, whole.id, whole.version)))
        before = self._turn_before(number, draft)
        if before is not None:
            self.edges.append((id, Lineage(Relation.FOLLOWS, before.id, before.version)))

    def _turn_before(self, number: int, draft: Draft) -> Stored | None:
        if draft.kind is not Kind.MESSAGE:
            return None
        if number and self.prepared[number - 1].draft.session == draft.session:
            return self.taken[number - 1]
        return self._stored_turn_before(number) if draft.position else None

    def _stored_turn_before(self, number: int) -> Stored | None:
        """For a turn whose conversation comes in several parts: the one that is here already."""
        turn = self.new[-1][1].memory
        assert self.new[-1][0] == number
        before, _ = queries.neighbours(self.transaction.connection, turn)
        found = self.transaction.records([before]) if before is not None else {}
        return next((Stored(id, record.memory.version, Status.DUPLICATE) for id, record in found.items()), None)

    def _write(self, revision: int) -> None:
        transaction = self.transaction
        numbers = [number for number, _ in self.new]
        records = [replace(record, revision=revision) for _, record in self.new]
        active = self.parts.embeddings.active or ""
        by_print = {fingerprint: [vectors[number] for number in numbers] for fingerprint, vectors in self.embedded}
        transaction.add(records, by_print.get(active, [None] * len(records)), active)
        self.parts.embeddings.write(transaction, [record.memory.id for record in records], by_print)
        edges: dict[str, list[Lineage]] = {}
        for id, edge in self.edges:
            edges.setdefault(id, []).append(edge)
        transaction.link(edges)
        for id, lasting in self.renewed.items():
            transaction.revise(self.known[id], replace(self.known[id].memory, governance=lasting), "renew", revision)
        for record in (*self.superseded, *self.replaced):
            if record.memory.state in LIVE:
                state = state_after(record.memory, Step.SUPERSEDE)
                transaction.move(record, state, "supersede", revision)
