"""fuse for cubes: what several cubes hold becomes one cube, once, and nothing is lost.

    what lives in the cubes → what says the same, what contradicts → one transaction: copies, lineage, merged parents

Memories that say the same become one, with lineage to each. Rivals are both kept, linked and listed. Everything else is
copied as it is: conversations keep their turns in order, long texts their pieces, vectors are taken over. The parents
become merged, in their own cubes. Each cube gets a snapshot of the moment before; rolling the cubes back to it undoes
the whole. What their adapters know goes along; attention caches of the fused cube are made as it is used.

What may be slow (comparing) happens before the transaction; a parent that changed meanwhile refuses the whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from cubes import Action, Behavioural, Governance, Kind, Lineage, Memory, Relation, Sensitivity
from engine.cube_operations import FuseCubes, FusedCubes
from engine.errors import Conflict, Invalid
from engine.fusing import newest_first
from engine.governance.access import clearance, require
from engine.index.cube_index import CubeIndex
from engine.lifecycle.states import LIVE, Step, is_expired, state_after
from engine.operations import Caller, Difference, Progress, Recall
from engine.parts import Parts, answered, check_cube_name, ensure_cube, memory_key, once, readable_cubes, writable_cube
from engine.recall import rank
from engine.text.claims import Relation as Claim
from engine.text.claims import compare
from engine.text.origins import other_subject, same_origin
from engine.tiers.lora.taking_over import Copy, take_over
from engine.vault import Transaction, queries
from engine.vault.rows import Record, stored_time

MIN_CUBES, MAX_CUBES = 2, 20
NEIGHBOURS = 5  # similar memories of each other cube that a claim is compared with
MAX_SEARCH_CHARS = 2_000
CLAIMS = (Kind.FACT, Kind.PREFERENCE, Kind.EVENT, Kind.PROCEDURE)
PROGRESS_EVERY = 32
ADD_TOGETHER = 512
STRICTNESS = ("normal", "personal", "secret")


def fuse_cubes(parts: Parts, request: FuseCubes, caller: Caller, progress: Progress) -> FusedCubes:
    """Fuse the cubes of the request into one.

    Raises:
        Invalid: too few or too many cubes, or a name that no cube can have.
        NotFound, NotAllowed: a cube that the caller may not read or write; a mounted one cannot be fused.
        Frozen, Conflict: a memory is held against change, or changed meanwhile; nothing was changed.
    """
    names = _check(request)
    before = answered(parts, caller, request, _load)
    if before is not None:
        return before
    plan = _plan(parts, request, names, caller, progress)
    if request.dry_run:
        return FusedCubes(
            None, None, parts.vault.revision, plan.memories, plan.joined, tuple(plan.parents), plan.differences
        )

    def job(transaction: Transaction) -> tuple[FusedCubes, Sequence[str]]:
        result = _Store(parts, transaction, request, names, plan).run()
        return result, [*result.merged, *plan.parents]

    progress(len(plan.parents), None, "fusing")
    return once(parts, caller, request, job, _dump, _load)


def _check(request: FuseCubes) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(request.cubes))
    if not MIN_CUBES <= len(names) <= MAX_CUBES:
        raise Invalid(f"give {MIN_CUBES} to {MAX_CUBES} different cubes to fuse; these are {len(names)}")
    check_cube_name(request.into)
    return names


# --- the plan: what is the same, what contradicts -----------------------------------------------------------------


@dataclass(slots=True)
class _Plan:
    """`parents`, by id: memories of the other cubes, which become merged. `mine`: what `into` holds already."""

    parents: dict[str, Record] = field(default_factory=dict)
    mine: dict[str, Record] = field(default_factory=dict)
    root: dict[str, str] = field(default_factory=dict)  # memories that say the same have the same root
    rivals: dict[tuple[str, str], str] = field(default_factory=dict)  # (older, newer) -> what they disagree about

    def find(self, id: str) -> str:
        while self.root.setdefault(id, id) != id:
            self.root[id] = id = self.root[self.root[id]]
        return id

    def join(self, one: str, other: str) -> None:
        self.root[self.find(other)] = self.find(one)

    def groups(self) -> list[list[Record]]:
        """Parents that become one memory together."""
        found: dict[str, list[Record]] = defaultdict(list)
        for id, record in self.parents.items():
            found[self.find(id)].append(record)
        return list(found.values())

    def home(self, group: Sequence[Record]) -> Record | None:
        """The memory of `into` that says the same as a group, if there is one."""
        root = self.find(group[0].memory.id)
        return next((record for id, record in self.mine.items() if self.find(id) == root), None)

    @property
    def memories(self) -> int:
        return len(self.mine) + sum(self.home(group) is None for group in self.groups())

    @property
    def joined(self) -> int:
        return len(self.mine) + len(self.parents) - self.memories

    @property
    def differences(self) -> tuple[Difference, ...]:
        return tuple(Difference(pair, about) for pair, about in self.rivals.items())


def _plan(parts: Parts, request: FuseCubes, names: Sequence[str], caller: Caller, progress: Progress) -> _Plan:
    cubes = readable_cubes(parts, names, caller)
    now, plan = parts.clock.now(), _Plan()
    with parts.vault.reading() as connection:
        transaction = Transaction(connection, parts.vault.head, now, caller)
        into = writable_cube(transaction, request.into)
        for cube in cubes:
            require(caller.principal, cube, Action.WRITE)
            if cube.name != request.into:
                seen = clearance(caller.principal, cube)
                for record in _living(queries.live(connection, cube.name), now):
                    if record.memory.governance.sensitivity in seen:
                        state_after(record.memory, Step.MERGE)  # refuses what is frozen
                        plan.parents[record.memory.id] = record
        if into is not None:
            seen = clearance(caller.principal, into)
            plan.mine = {
                record.memory.id: record
                for record in _living(queries.live(connection, into.name), now)
                if record.memory.governance.sensitivity in seen
            }
    _join_equal(plan)
    _compare(parts, plan, now, progress)
    return plan


def _living(records: Iterable[Record], now: datetime) -> Iterator[Record]:
    return (record for record in records if not is_expired(record.memory, now))


def _join_equal(plan: _Plan) -> None:
    """Join what is word for word the same in the same place: turns with turns, texts with texts."""
    first: dict[tuple[Any, ...], str] = {}
    for id, record in (*plan.mine.items(), *plan.parents.items()):
        about = record.memory.descriptive
        place = (record.content_key, about.kind, about.session, about.position, about.parts, about.occurred_at)
        other = first.setdefault(place, id)
        if other != id and _same_words(plan, other, record):
            plan.join(other, id)


def _same_words(plan: _Plan, id: str, record: Record) -> bool:
    other = plan.mine.get(id) or plan.parents[id]
    return compare(other.memory.content, record.memory.content).relation is Claim.SAME


def _compare(parts: Parts, plan: _Plan, now: datetime, progress: Progress) -> None:
    """Find, for each claim, what says the same or contradicts it in another cube."""
    everything = {**plan.mine, **plan.parents}
    claims = {id: record for id, record in everything.items() if _is_claim(record.memory)}
    cubes = {record.memory.cube for record in claims.values()}
    indexes = {name: found[0] for name in sorted(cubes) if (found := parts.indexes.ready(name)) is not None}
    for number, (id, record) in enumerate(claims.items()):
        if number % PROGRESS_EVERY == 0:
            progress(number, len(claims), "comparing")
        others = {name: index for name, index in indexes.items() if name != record.memory.cube}
        for other in _similar(record.memory, others, now):
            if other in claims and plan.find(other) != plan.find(id):
                _relate(plan, record, claims[other])


def _is_claim(memory: Memory) -> bool:
    """Whether it says something that another memory may repeat or contradict: turns and pieces of a text do not."""
    about = memory.descriptive
    return memory.kind in CLAIMS and not about.parts and about.position is None


def _similar(memory: Memory, indexes: Mapping[str, CubeIndex], now: datetime) -> Iterator[str]:
    for name, index in indexes.items():
        search = Recall(query=memory.content[:MAX_SEARCH_CHARS], limit=NEIGHBOURS)
        yield from (candidate.id for candidate in rank(search, {name: index}, None, now).candidates[:NEIGHBOURS])


def _relate(plan: _Plan, one: Record, other: Record) -> None:
    newer, older = newest_first([one, other])
    verdict = compare(older.memory.content, newer.memory.content)
    ours, theirs = one.memory.descriptive, other.memory.descriptive
    if other_subject(ours.metadata, theirs.metadata):
        return
    other_time = None not in (ours.occurred_at, theirs.occurred_at) and ours.occurred_at != theirs.occurred_at
    if verdict.relation is Claim.SAME and not other_time and same_origin(ours.metadata, theirs.metadata):
        plan.join(one.memory.id, other.memory.id)
    # A time that the texts themselves speak of may well be what they disagree about.
    elif verdict.relation is Claim.RIVAL and (not other_time or ours.mentions or theirs.mentions):
        plan.rivals[(older.memory.id, newer.memory.id)] = verdict.about


# --- the transaction ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Store:
    parts: Parts
    transaction: Transaction
    request: FuseCubes
    names: Sequence[str]
    plan: _Plan
    new_id: dict[str, str] = field(default_factory=dict)  # parent -> the memory of `into` that stands for it
    usage: dict[str, Behavioural] = field(default_factory=dict)
    edges: dict[str, tuple[Lineage, ...]] = field(default_factory=dict)  # of each parent

    def run(self) -> FusedCubes:
        transaction, into = self.transaction, self.request.into
        self._check_unchanged()
        existed = queries.cube(transaction.connection, into) is not None
        ensure_cube(transaction, into)
        self._read_parents()
        fresh, grown = self._copies()
        ids = [record.memory.id for record in fresh]
        revision = transaction.audit("fuse_cubes", into, ids, cubes=list(self.names), parents=len(self.plan.parents))
        before = self._note_snapshots(revision)
        self._add([replace(record, revision=revision) for record in fresh])
        transaction.revise_all(grown, "fuse", revision)
        self._link()
        merged = [
            (parent, replace(parent.memory, state=state_after(parent.memory, Step.MERGE)))
            for parent in self.plan.parents.values()
        ]
        if merged:
            transaction.revise_all(merged, "fuse", revision)
        adapters, work = take_over(transaction, into, self._lives_on(), self.parts.ids.new, revision)
        cube = queries.cube(transaction.connection, into)
        assert cube is not None
        if existed:
            cube = replace(cube, version=cube.version + 1, updated_at=transaction.now)
            transaction.put_cube(cube, revision, "fuse")
        return FusedCubes(
            into,
            cube.version,
            revision,
            self.plan.memories,
            self.plan.joined,
            tuple(self.plan.parents),
            self._told(),
            before,
            adapters,
            work,
        )

    def _check_unchanged(self) -> None:
        found = self.transaction.records([*self.plan.parents, *self.plan.mine])
        for id, record in (*self.plan.parents.items(), *self.plan.mine.items()):
            now = found.get(id)
            if now is None or now.memory.version != record.memory.version or now.memory.state not in LIVE:
                raise Conflict(f"{id} changed while the cubes were compared: fuse them again; nothing was changed")

    def _note_snapshots(self, revision: int) -> tuple[tuple[str, str], ...]:
        """Snapshots of the moment before this transaction; a cube that is only made now is empty in its own."""
        moment = self.transaction.now - timedelta(microseconds=1)
        name = f"before-fuse-{moment:%Y%m%dT%H%M%S.%f}Z"
        into = self.request.into
        cubes = dict.fromkeys((*self.names, into))
        for cube in cubes:
            self.transaction.put_snapshot(cube, name, moment, revision, reason=f"before it was fused into {into}")
        return tuple((cube, name) for cube in cubes)

    def _read_parents(self) -> None:
        for memory in queries.complete(self.transaction.connection, self.plan.parents.values()):
            self.usage[memory.id] = memory.behavioural
            self.edges[memory.id] = memory.lineage

    def _copies(self) -> tuple[list[Record], list[tuple[Record, Memory]]]:
        """New memories of `into`, and those that it had and that take something over from a parent."""
        fresh, grown = [], []
        for group in self.plan.groups():
            home = self.plan.home(group)
            if home is None:
                record = self._copy(group)
                fresh.append(record)
            else:
                record = home
                memory = _with_headers(home.memory, [parent.memory for parent in group])
                if memory != home.memory:
                    grown.append((home, memory))
            self.new_id.update({parent.memory.id: record.memory.id for parent in group})
        return fresh, grown

    def _copy(self, group: Sequence[Record]) -> Record:
        newest = newest_first(group)[0].memory
        about = replace(
            newest.descriptive,
            id=self.parts.ids.new("m"),
            created_at=min(record.memory.descriptive.created_at for record in group),
            updated_at=self.transaction.now,
        )
        memory = replace(newest, cube=self.request.into, version=1, descriptive=about)
        memory = _with_headers(memory, [record.memory for record in group])
        author = self.transaction.caller.principal.name
        key = memory_key(self.parts.vault, memory)
        return Record(memory, self.transaction.new_label(), key, author, "fuse", None, 0)

    def _add(self, records: Sequence[Record]) -> None:
        """Insert the copies with the vectors of what they were copied from."""
        active = self.parts.embeddings.active or ""
        source = {copy: parent for parent, copy in self.new_id.items()}
        for start in range(0, len(records), ADD_TOGETHER):
            part = records[start : start + ADD_TOGETHER]
            found = self._vectors(active, [source[record.memory.id] for record in part])
            vectors = [found.get(source[record.memory.id]) for record in part]
            self.transaction.add(part, vectors, active)
            known = [(record.memory.id, rows) for record, rows in zip(part, vectors, strict=True) if rows is not None]
            self.transaction.embed(known, active)
        uses = [
            (copy, sum(self.usage[parent].access_count for parent in parents), stored_time(max(times)))
            for copy, parents in self._parents_of().items()
            if copy not in self.plan.mine
            and (times := [at for parent in parents if (at := self.usage[parent].last_access) is not None])
        ]
        self.transaction.insert("usage", ("id", "access_count", "last_access"), uses)

    def _vectors(self, embedder: str, ids: Sequence[str]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        dimension = self.parts.embeddings.dimension
        if not embedder or dimension is None:
            return {}
        stored = queries.vectors(self.transaction.connection, embedder, ids)
        return {id: np.frombuffer(raw, dtype="<f4").reshape(-1, dimension) for id, raw in stored.items()}

    def _lives_on(self) -> dict[str, Copy]:
        """What each memory that was looked at lives on as."""
        homes = self.new_id | {id: id for id in self.plan.mine}
        now = {id: record.memory for id, record in self.transaction.records(list(set(homes.values()))).items()}
        before = {**self.plan.mine, **self.plan.parents}
        return {
            id: Copy(
                home,
                now[home].version,
                now[home].content == before[id].memory.content,
                now[home].governance.sensitivity is Sensitivity.NORMAL,
            )
            for id, home in homes.items()
        }

    def _parents_of(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for parent, copy in self.new_id.items():
            found[copy].append(parent)
        return found

    def _link(self) -> None:
        edges: dict[str, list[Lineage]] = defaultdict(list)
        for parent, copy in self.new_id.items():
            edges[copy].append(Lineage(Relation.FUSED_FROM, parent, self.plan.parents[parent].memory.version))
            for edge in self.edges[parent]:
                if edge.relation is not Relation.FUSED_FROM:
                    source = self.new_id.get(edge.source, edge.source)
                    version = 1 if edge.source in self.new_id else edge.version
                    if source != copy:
                        edges[copy].append(Lineage(edge.relation, source, version))
        for older, newer in self.plan.rivals:
            one, other = self.new_id.get(newer, newer), self.new_id.get(older, older)
            if one != other:
                edges[one].append(Lineage(Relation.CONFLICTS_WITH, other, 1))
        self.transaction.link({copy: list(dict.fromkeys(found)) for copy, found in edges.items()})

    def _told(self) -> tuple[Difference, ...]:
        """The rivals as they are called in the fused cube."""
        named = ((tuple(self.new_id.get(id, id) for id in pair), about) for pair, about in self.plan.rivals.items())
        return tuple(Difference(pair, about) for pair, about in dict(named).items())


def _with_headers(memory: Memory, others: Sequence[Memory]) -> Memory:
    """The memory with the others' headers: as lasting, as guarded and as tagged as any of them."""
    every = [memory, *others]
    ends = [other.governance.expires_at for other in every]
    known = [end for end in ends if end is not None]
    return replace(
        memory,
        descriptive=replace(
            memory.descriptive,
            tags=tuple(dict.fromkeys(tag for other in every for tag in other.descriptive.tags)),
            entities=tuple(dict.fromkeys(entity for other in every for entity in other.descriptive.entities)),
        ),
        governance=Governance(
            expires_at=max(known) if len(known) == len(ends) else None,
            priority=max(other.governance.priority for other in every),
            sensitivity=max((other.governance.sensitivity for other in every), key=STRICTNESS.index),
            pinned=any(other.governance.pinned for other in every),
        ),
    )


# --- recorded answers -----------------------------------------------------------------------------------------------


def _dump(result: FusedCubes) -> dict[str, Any]:
    return {
        "cube": result.cube,
        "version": result.version,
        "revision": result.revision,
        "memories": result.memories,
        "joined": result.joined,
        "merged": list(result.merged),
        "conflicts": [[list(difference.ids), difference.about] for difference in result.conflicts],
        "before": [list(item) for item in result.before],
        "adapters": list(result.adapters),
        "work": result.work,
    }


def _load(plain: dict[str, Any]) -> FusedCubes:
    return FusedCubes(
        cube=plain["cube"],
        version=plain["version"],
        revision=plain["revision"],
        memories=plain["memories"],
        joined=plain["joined"],
        merged=tuple(plain["merged"]),
        conflicts=tuple(Difference(tuple(ids), about) for ids, about in plain["conflicts"]),
        before=tuple((cube, name) for cube, name in plain["before"]),
        adapters=tuple(plain.get("adapters", ())),
        work=plain.get("work"),
    )
