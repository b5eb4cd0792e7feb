"""What a newer bundle of the same origin would do to a cube: the rules, memory by memory.

Where the bundle's history continues ours, its new versions are taken over; where ours continues the bundle's, or both
are the same, ours stays; where both went on from different versions, ours stays and is named. What came with a bundle
and is in it no more is archived, unless it was changed here, or the bundle leaves out what is sensitive. What was made
here, and what was erased here, is not touched. First use is no change: a memory that was only recalled is as it came.
Nor is what an upgrade did: what it archived is as the bundle says again where the bundle holds it again. A bundle that
is behind what was taken over already is refused, unless the cube is there to show that file.

Changes nothing: `engine.loader.upgrading` carries it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from cubes import Action, Lineage, MemCube, Memory, Provenance
from cubes.bundle import Bundle
from cubes.records import PackedMemory, PackedVersion
from cubes.seen import Seen
from engine.cube_operations import Changed, CubeDiff, Install, Installed
from engine.errors import Conflict, Frozen, NotFound
from engine.governance.access import no_cube, require
from engine.lifecycle.states import LIVE, Step, state_after
from engine.loader.staged import batches, free_id, usable_vectors
from engine.operations import Caller, Progress
from engine.parts import Parts
from engine.timeline.differences import fields
from engine.vault import queries
from engine.vault.connection import Connection
from engine.vault.rows import Record

CHANGE = "upgrade"
INSTALLING = ("install", CHANGE)  # audit actions under which memories came out of bundles
PAGE = 1_000
FIELDS_SHOWN = 1_000  # changed memories of which the fields are shown; of the others, only the ids
ATTEMPTS = 3  # ids under which a renamed memory is looked for


@dataclass(slots=True)
class Plan:
    """What an upgrade would do. `taken`, `removed`: id here -> the version that it was compared with."""

    parts: Parts
    bundle: Bundle
    cube: MemCube
    request: Install
    mounted: str | None = None
    added: set[str] = field(default_factory=set)  # ids in the bundle
    shown: list[str] = field(default_factory=list)  # the same, as they are told
    taken: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # id in the bundle -> id here, of what is taken over
    renamed: list[str] = field(default_factory=list)  # ids in the bundle of what has another id here
    unusual: dict[str, str] = field(default_factory=dict)  # as in `Staged`
    linked: dict[str, tuple[Lineage, ...]] = field(default_factory=dict)  # lineage that what stays gets besides
    removed: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)

    @property
    def header(self) -> MemCube:
        """The cube's header after it."""
        theirs, ours = self.bundle.manifest.cube, self.cube
        offered = None if ours.offered is None else theirs.policy
        policy = theirs.policy if self.request.keep_policy else ours.policy
        return replace(
            ours,
            description=theirs.description,
            licence=theirs.licence,
            offered=offered,
            policy=policy,
            mounted=self.mounted or ours.mounted,
        )

    @property
    def nothing(self) -> bool:
        """Whether the cube is up to the bundle already."""
        return not (self.added or self.taken or self.removed or self.linked) and self.header == self.cube

    @property
    def diff(self) -> CubeDiff:
        told = tuple(
            (name, getattr(self.cube, name), getattr(self.header, name))
            for name in ("description", "licence")
            if getattr(self.cube, name) != getattr(self.header, name)
        )
        return CubeDiff(
            before=self.cube.name,
            after=self.bundle.name,
            added=tuple(self.shown),
            removed=tuple(self.removed),
            changed=tuple(self.changed),
            header=told,
        )

    def told(self) -> Installed:
        """What is answered where nothing was changed."""
        manifest, signature = self.bundle.manifest, self.bundle.signature
        kept = usable_vectors(self.parts, self.bundle)
        return Installed(
            cube=self.cube.name,
            revision=self.parts.vault.revision,
            memories=manifest.counts.memories,
            versions=manifest.counts.versions,
            signed_by=None if signature is None else signature.key.fingerprint,
            trusted=signature is not None and signature.known,
            reembedded=not kept and manifest.counts.passages > 0,
            diff=self.diff,
            kept_local=tuple(self.kept),
        )


def compared(
    parts: Parts,
    bundle: Bundle,
    name: str,
    request: Install,
    caller: Caller,
    progress: Progress,
    *,
    mounted: str | None = None,
) -> Plan:
    """Compare the cube `name` with the bundle.

    Raises:
        NotFound, NotAllowed: no such cube, or the caller may not administer and write to it.
        Conflict: it came from elsewhere, or the bundle is older than what was taken over already.
    """
    cube = next((cube for cube in parts.vault.cubes() if cube.name == name), None)
    if cube is None:
        raise NotFound(no_cube(name))
    require(caller.principal, cube, Action.ADMIN)
    if mounted is None or cube.mounted != mounted:
        require(caller.principal, cube, Action.WRITE)
    theirs, ours = bundle.manifest.cube.provenance, cube.provenance
    ours = ours or Provenance(parts.vault.store_id, cube.name, cube.owner)
    if theirs is None or (theirs.store, theirs.cube) != (ours.store, ours.cube):
        raise Conflict(
            f"cube {name!r} did not come from where this bundle was made: install it beside it with --as NAME, "
            "and fuse the two if you like"
        )
    plan = Plan(parts, bundle, cube, request, mounted)
    _compare(plan, progress)
    return plan


def _compare(plan: Plan, progress: Progress) -> None:
    parts, bundle, name = plan.parts, plan.bundle, plan.cube.name
    seen, done, total = Seen(), 0, bundle.manifest.counts.memories
    came = _came_under(parts, name)
    _check_header(plan)
    for batch in batches(bundle.memories(vectors=False)):
        with parts.vault.reading() as connection:
            here = _here(parts, connection, name, [memory.id for memory in batch])
            histories = queries.earlier_versions(connection, list(here.values()))
            records = queries.records(connection, list(here.values()))
            erased = _erased(parts, connection, name, [memory.id for memory in batch])
            known = _edges(connection, list(here.values()))
        for memory in batch:
            id = here.get(memory.id)
            if id is None:
                if memory.id not in erased:
                    plan.added.add(memory.id)
                    plan.shown.append(memory.id)
                continue
            seen.add(id)
            _note_name(plan, memory.id, id)
            record = records[id]
            if _weigh(plan, memory, record, histories.get(id, []), record.recorded in came):
                missing = tuple(edge for edge in memory.lineage if not _is_known(plan, id, edge, known))
                if missing:
                    plan.linked[id] = missing
        done += len(batch)
        progress(done, 2 * total + 1, "comparing")
    if bundle.manifest.redacted is None:
        _find_removed(plan, seen, came)


def _here(parts: Parts, connection: Connection, cube: str, ids: Sequence[str]) -> dict[str, str]:
    """The id under which each memory of the bundle is in the cube, by its id there."""
    found: dict[str, str] = {}
    tried = {id: id for id in ids}
    for attempt in range(ATTEMPTS):
        places = queries.cubes_of(connection, list(tried))
        found |= {old: id for id, old in tried.items() if places.get(id) == cube and old not in found}
        tried = {free_id(parts, cube, old, attempt): old for old in ids if old not in found}
        if not tried:
            break
    return found


def _erased(parts: Parts, connection: Connection, cube: str, ids: Sequence[str]) -> set[str]:
    """Those of the bundle's memories that were erased in this cube: they never come back."""
    by_id = {id: id for id in ids} | {free_id(parts, cube, id, 0): id for id in ids}
    rows = connection.execute(
        "SELECT id FROM tombstones WHERE cube = ? AND id IN (SELECT unnest(?::VARCHAR[]))", [cube, list(by_id)]
    ).fetchall()
    return {by_id[row[0]] for row in rows}


def _came_under(parts: Parts, cube: str) -> frozenset[int]:
    """The revisions under which memories of the cube came out of bundles."""
    with parts.vault.reading() as connection:
        made = queries.made_under(connection, cube)
        rows = [row for action in INSTALLING for row in queries.audited(connection, action)]
    return frozenset(row.seq for row in rows if row.cube == cube and row.seq >= made)


def _check_header(plan: Plan) -> None:
    """Refuse a bundle whose header is behind the one that was taken over last."""
    name = plan.cube.name
    with plan.parts.vault.reading() as connection:
        made = queries.made_under(connection, name)
        rows = [row for row in queries.audited(connection, CHANGE) if row.cube == name and row.seq >= made]
    known = [row.detail["header"] for row in rows if "header" in row.detail]
    if known and plan.bundle.manifest.cube.version < known[-1]:
        _refuse_older(plan)


def _refuse_older(plan: Plan) -> None:
    if plan.mounted is None:
        raise Conflict(
            f"this bundle is older than what cube {plan.cube.name!r} was brought up to already: upgrade it with a "
            "newer file, or install this one beside it with --as NAME; nothing was changed"
        )


def _note_name(plan: Plan, theirs: str, ours: str) -> None:
    if theirs != ours:
        plan.renamed.append(theirs)
        if ours != free_id(plan.parts, plan.cube.name, theirs, 0):
            plan.unusual[theirs] = ours


def _edges(connection: Connection, ids: Sequence[str]) -> set[tuple[str, str, str]]:
    """(derived, relation, source) of the lineage of these."""
    rows = connection.execute(
        "SELECT derived, relation, source FROM lineage WHERE derived IN (SELECT unnest(?::VARCHAR[]))", [list(ids)]
    ).fetchall()
    return {(row[0], row[1], row[2]) for row in rows}


def _is_known(plan: Plan, id: str, edge: Lineage, known: set[tuple[str, str, str]]) -> bool:
    names = (edge.source, free_id(plan.parts, plan.cube.name, edge.source, 0), plan.unusual.get(edge.source, ""))
    return any((id, edge.relation.value, name) in known for name in names)


def _weigh(plan: Plan, memory: PackedMemory, record: Record, earlier: Sequence[Record], untouched: bool) -> bool:
    """Decide about one memory that both have; whether it is the same here."""
    ours, theirs = record.memory, memory.current
    if theirs.version == ours.version and _same(theirs, ours):
        return True
    common = next((old for old in memory.history if old.version == ours.version), None)
    if untouched and record.change == CHANGE and (common is None or not _same(common, ours)):
        return _weigh_upgraded(plan, memory, ours, earlier)
    if theirs.version < ours.version:
        if untouched:
            _refuse_older(plan)
        then = next((old.memory for old in earlier if old.memory.version == theirs.version), None)
        if then is None or not _same(theirs, then):
            plan.kept.append(ours.id)
        return False
    continues = untouched if common is None else _same(common, ours)
    if theirs.version == ours.version or not continues or ours.governance.frozen:
        plan.kept.append(ours.id)
        return False
    _take(plan, memory, ours)
    return False


def _weigh_upgraded(plan: Plan, memory: PackedMemory, ours: Memory, earlier: Sequence[Record]) -> bool:
    """As `_weigh`, where our present version was made by an upgrade here: what came before counts."""
    theirs = memory.current
    if _says_the_same(theirs, ours):
        return True
    base = next((old.memory for old in reversed(earlier) if old.change != CHANGE), None)
    if base is not None and theirs.version < base.version + (ours.state in LIVE):  # live: taken over after it
        _refuse_older(plan)
        return False
    then = None if base is None else base.version
    common = next((old for old in (*memory.history, theirs) if old.version == then), None)
    if ours.governance.frozen or (base is not None and common is not None and not _same(common, base)):
        plan.kept.append(ours.id)
        return False
    _take(plan, memory, ours)
    return False


def _take(plan: Plan, memory: PackedMemory, ours: Memory) -> None:
    plan.taken[ours.id] = ours.version
    plan.names[memory.id] = ours.id
    later = memory.current.memory(ours.cube)
    later = replace(later, descriptive=replace(later.descriptive, id=ours.id))
    plan.changed.append(Changed(ours.id, fields(ours, later) if len(plan.changed) < FIELDS_SHOWN else ()))


def _same(theirs: PackedVersion, ours: Memory) -> bool:
    """Whether two versions say the same; being used is no difference."""
    one, other = theirs.memory(ours.cube), ours
    one = replace(one, descriptive=replace(one.descriptive, id=other.id))
    if {one.state, other.state} <= LIVE:
        one = replace(one, state=other.state)
    return one == other


def _says_the_same(theirs: PackedVersion, ours: Memory) -> bool:
    """As `_same`, whatever the number of the version and its time."""
    about = replace(theirs.descriptive, updated_at=ours.descriptive.updated_at)
    return _same(replace(theirs, version=ours.version, descriptive=about), ours)


def _find_removed(plan: Plan, seen: Seen, came: frozenset[int]) -> None:
    """What came with a bundle and is in this one no more."""
    for record, first in _of_cube(plan.parts, plan.cube.name):
        memory = record.memory
        if first not in came or not seen.add(memory.id):
            continue
        if memory.state not in LIVE:
            continue
        try:
            state_after(memory, Step.ARCHIVE)
        except Frozen:
            plan.kept.append(memory.id)
            continue
        if record.recorded in came:
            plan.removed[memory.id] = memory.version
        else:
            plan.kept.append(memory.id)


def _of_cube(parts: Parts, cube: str) -> Iterator[tuple[Record, int]]:
    """Every memory of a cube, and the revision under which its first version that is kept came to be."""
    label = 0
    while True:
        with parts.vault.reading() as connection:
            records = queries.page(connection, cube, after_label=label, limit=PAGE, kind=None, tag=None, state=None)
            ids = [record.memory.id for record in records]
            firsts = dict(
                connection.execute(
                    "SELECT id, arg_min(recorded, version) FROM versions WHERE id IN (SELECT unnest(?::VARCHAR[]))"
                    " GROUP BY id",
                    [ids],
                ).fetchall()
            )
        for record in records:
            yield record, firsts.get(record.memory.id, record.recorded)
        if len(records) < PAGE:
            return
        label = records[-1].label
