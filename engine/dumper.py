"""MemDumper: a cube becomes one file, as it was at one moment.

    rights → one reading transaction over ranges of the cube → the bundle, whole or not at all → audit

A bundle never holds what the caller may not see. It carries where the cube was first made, and the policy under which
it was offered there, however often it is installed and packed again: the same cube gives the same bytes.

What may slow others down: erasing has to wait until a cube that is being packed has been read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from cubes import Action, CubePolicy, MemCube, Provenance, Sensitivity
from cubes.manifest import ArtifactHeader, ArtifactKind, EmbedderHeader, NamedMoment
from cubes.packing import PackedArtifact, WrittenBundle, write_bundle
from cubes.records import PackedMemory, PackedVersion
from engine import keys
from engine.cube_operations import Pack, Packed
from engine.errors import Invalid, NotFound
from engine.governance.access import by_name, clearance, no_cube, require
from engine.operations import Caller, Progress
from engine.parts import Parts, visible
from engine.tier_operations import AdapterState
from engine.vault import past, queries
from engine.vault.adapters import adapters_of
from engine.vault.artifacts import ArtifactRow, artifacts_of
from engine.vault.blobs import blob_path, open_blob
from engine.vault.connection import Connection
from engine.vault.ranges import FullRecord, Reading, left_out, read_cube
from engine.vault.rows import Record

BUNDLES = ("bundles", "fetched")  # the folders in the data folder in which bundles may lie
INSTALLING = ("install", "upgrade")  # audit actions that brought a bundle in


def pack(parts: Parts, request: Pack, caller: Caller, progress: Progress) -> Packed:
    """Pack a cube into a file.

    Raises:
        NotFound, NotAllowed: no such cube or snapshot for this caller, or it may not pass it on.
        Invalid: the file is in the way, or cannot be written, or a recipient is none; no bundle may hold a memory.
        TooLarge: a bound of the format is passed.
        Unavailable: the disk is full.
    """
    path = _target(parts, request)
    signing = keys.signing_key(parts.vault.settings) if request.sign else None
    passphrase = None if request.passphrase_file is None else keys.passphrase(request.passphrase_file)
    with parts.vault.reading_one_moment() as connection:
        plan = _plan(parts, connection, request, caller)
        total = plan.memories
    # Noted first: an erasure that comes in between must know of the file.
    parts.vault.write(lambda transaction: transaction.audit("pack", request.cube, path=str(path)), caller)
    with keys.refusing(), parts.vault.reading_one_moment() as connection:
        plan = _plan(parts, connection, request, caller)
        remarks = _without_adapters(connection, plan, request, caller, signed=signing is not None)
        written = write_bundle(
            path,
            plan.header,
            _memories(parts, connection, plan, caller),
            embedder=plan.embedder,
            artifacts=_artifacts(parts, connection, plan, request, signed=signing is not None),
            redacted=plan.redacted,
            snapshots=plan.snapshots,
            signing_key=signing,
            recipients=request.recipients,
            passphrase=passphrase,
            replace=request.replace,
            progress=_one_scale(progress, total),
        )
    return replace(_noted(parts, request, path, written, caller), remarks=remarks)


def _target(parts: Parts, request: Pack) -> Path:
    path, data = request.path.absolute(), parts.vault.settings.data
    if path.is_relative_to(data) and not any(path.is_relative_to(data / name) for name in BUNDLES):
        raise Invalid(f"{path} is in the store's own folder: choose another place for the bundle")
    return path


def _noted(parts: Parts, request: Pack, path: Path, written: WrittenBundle, caller: Caller) -> Packed:
    counts, redacted = written.manifest.counts, written.manifest.redacted
    signer = None if written.signed_by is None else written.signed_by.fingerprint
    packed = Packed(
        cube=request.cube,
        path=str(path),
        memories=counts.memories,
        versions=counts.versions,
        bytes=written.bytes,
        digest=written.digest,
        signed_by=signer,
        redacted=None if redacted is None else redacted.value,
    )
    parts.vault.write(
        lambda transaction: transaction.audit(
            "packed",
            request.cube,
            path=packed.path,
            digest=packed.digest,
            memories=packed.memories,
            versions=packed.versions,
            signed_by=signer,
            redacted=packed.redacted,
        ),
        caller,
    )
    return packed


def _one_scale(progress: Progress, memories: int) -> Progress:
    """Reading and writing as two halves of one way."""
    total = max(memories, 1)

    def report(done: float, of: float | None, message: str) -> None:
        if of is None:
            progress(min(done, total) if message == "packing memories" else total, 2 * total, message)
        else:
            progress(total + total * done / max(of, 1), 2 * total, message)

    return report


# --- what goes in -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    header: MemCube
    reading: Reading
    without: frozenset[str]
    redacted: Sensitivity | None
    embedder: EmbedderHeader | None
    snapshots: tuple[NamedMoment, ...]
    memories: int


def _plan(parts: Parts, connection: Connection, request: Pack, caller: Caller) -> _Plan:
    cube = queries.cube(connection, request.cube)
    if cube is None:
        raise NotFound(no_cube(request.cube))
    require(caller.principal, cube, Action.SHARE)
    allowed = clearance(caller.principal, cube)
    if request.redact is not None:
        levels = tuple(Sensitivity)
        allowed &= frozenset(levels[: levels.index(request.redact)])
        if not allowed:
            raise Invalid(f"with everything that is {request.redact.value} or more sensitive left out, nothing is left")
    moment = None
    if request.snapshot is not None:
        moment = past.moment_of(connection, cube.name, request.snapshot)
        if moment is None:
            raise NotFound(f"cube {cube.name!r} has no snapshot {request.snapshot!r}")
        cube = past.header_at(connection, moment) or cube
    embedder = _embedder(parts) if request.embeddings else None
    reading = Reading(
        cube.name,
        allowed,
        request.history,
        moment,
        "" if embedder is None else embedder.fingerprint,
        0 if embedder is None else embedder.dimension,
    )
    return _Plan(
        _header(parts, cube, caller),
        reading,
        left_out(connection, reading),
        _redacted(connection, cube, allowed),
        embedder,
        _snapshots(connection, reading),
        sum(count for _, count in queries.counts(connection, "state", cube.name, allowed)),
    )


def _snapshots(connection: Connection, reading: Reading) -> tuple[NamedMoment, ...]:
    """The named moments that the packed history tells. Reasons may speak of what is left out."""
    if not reading.history:
        return ()
    return tuple(
        NamedMoment(found.name, found.at, found.author, found.reason if reading.everything else None)
        for found in past.snapshots(connection, reading.cube)
        if reading.moment is None or found.at <= reading.moment.at
    )


def _header(parts: Parts, cube: MemCube, caller: Caller) -> MemCube:
    """As it is offered: with where it was made, and who is let in for those alone who administer it."""
    made = cube.provenance or Provenance(parts.vault.store_id, cube.name, cube.owner)
    policy: CubePolicy = cube.policy if cube.offered is None else cube.offered
    if not by_name(caller.principal, cube, Action.ADMIN):
        policy = replace(policy, grants=())
    return replace(cube, policy=policy, provenance=made)


def _redacted(connection: Connection, cube: MemCube, allowed: frozenset[Sensitivity]) -> Sensitivity | None:
    """From how sensitive on memories are left out, here or in the bundle that the cube came from."""
    levels = tuple(Sensitivity)
    missing = [level for level in levels if level not in allowed]
    made = queries.made_under(connection, cube.name)
    rows = (row for action in INSTALLING for row in queries.audited(connection, action))
    missing += [
        Sensitivity(row.detail["redacted"])
        for row in rows
        if row.cube == cube.name and row.seq >= made and row.detail.get("redacted")
    ]
    return min(missing, key=levels.index, default=None)


def _embedder(parts: Parts) -> EmbedderHeader | None:
    """Whose vectors the vault holds. A path on this machine is nobody else's business."""
    stored = parts.embeddings.stored
    if stored is None:
        return None
    fingerprint, source, dimension = stored
    if PurePath(source).is_absolute() or source.startswith((".", "~")):
        source = PurePath(source).name or "a local model"
    return EmbedderHeader(fingerprint, source, dimension)


# --- memories ---------------------------------------------------------------------------------------------------------


def _memories(parts: Parts, connection: Connection, plan: _Plan, caller: Caller) -> Iterator[PackedMemory]:
    for found in read_cube(connection, plan.reading, plan.without):
        for item in _without_edges(connection, plan, found, caller):
            yield _packed(item)


def _packed(item: FullRecord) -> PackedMemory:
    return PackedMemory(
        _version(item.record),
        item.lineage,
        item.usage,
        tuple(_version(record) for record in item.earlier),
        item.vectors,
    )


def _version(record: Record) -> PackedVersion:
    return PackedVersion.of(record.memory, record.author, record.change, record.reason)


def _without_edges(
    connection: Connection, plan: _Plan, found: list[FullRecord], caller: Caller
) -> Iterable[FullRecord]:
    """Without the lineage that leads to what is left out, here or in another cube."""
    if plan.reading.everything and caller.principal.owner:
        return found
    sources = {edge.source for item in found for edge in item.lineage}
    places = queries.places_of(connection, sources_list := sorted(sources))
    seen = visible(connection, sources_list, caller)
    hidden = {
        id
        for id, (_, sensitivity) in places.items()
        if id not in seen or id in plan.without or sensitivity not in plan.reading.allowed
    }
    return [replace(item, lineage=tuple(edge for edge in item.lineage if edge.source not in hidden)) for item in found]


# --- artifacts --------------------------------------------------------------------------------------------------------


def _artifacts(
    parts: Parts, connection: Connection, plan: _Plan, request: Pack, *, signed: bool
) -> Iterator[PackedArtifact]:
    """Those that were derived from nothing that is left out; of a past moment there are none.

    Nobody signs what came with another's file and was not checked: whoever trusts the signature would trust that too.
    """
    if request.snapshot is not None:
        return
    settings, sealer = parts.vault.settings, parts.vault.sealer
    adapters = {row.artifact: row.state for row in adapters_of(connection, request.cube)}
    for row in artifacts_of(connection, request.cube):
        if signed and not row.vouched:
            continue
        if row.kind == ArtifactKind.LORA and _why_not(connection, plan, row, adapters.get(row.id)):
            continue
        if plan.reading.everything or _all_packed(connection, plan, row):
            header = ArtifactHeader(
                row.id,
                ArtifactKind(row.kind),
                row.fingerprint,
                row.digest,
                row.bytes,
                row.created_at,
                row.sources,
                row.metadata,
            )
            if not blob_path(settings, row.digest, sealer).exists():
                continue  # it is being written, or has just been dropped
            blob = open_blob(settings, row.digest, sealer)
            yield PackedArtifact(header, lambda blob=blob: blob)  # type: ignore[misc]


def _why_not(connection: Connection, plan: _Plan, row: ArtifactRow, state: AdapterState | None) -> str:
    """Why an adapter is not passed on: none that failed, and none where anything was left out. What it was trained
    beside, that nothing else was to change, may have been that. One that came with a bundle and is no version here,
    since another program wrote it (None), goes as it came.
    """
    if state not in (AdapterState.SERVING, AdapterState.RESTING, None):
        return "it did not pass the gate"
    if plan.redacted is not None or plan.without:
        return "memories of the cube are left out, and it may have been trained beside them"
    if not _all_packed(connection, plan, row):
        return "it rests on memories of another cube"
    return ""


def _without_adapters(
    connection: Connection, plan: _Plan, request: Pack, caller: Caller, *, signed: bool
) -> tuple[str, ...]:
    """Which versions of the cube's adapter are not in the bundle, and why; of those that the caller may know of."""
    remarks, versions = [], {row.artifact: row for row in adapters_of(connection, request.cube)}
    for row in artifacts_of(connection, request.cube):
        version = versions.get(row.id)
        ids = [id for id, _ in row.sources]
        if version is None or not visible(connection, ids, caller).issuperset(ids):
            continue
        if request.snapshot is not None:
            why = "of a past moment none goes along"
        elif signed and not row.vouched:
            why = "it came with a file, and a signature would vouch for it: activate it first, which judges it"
        else:
            why = _why_not(connection, plan, row, version.state)
        if why:
            remarks.append(f"version {version.version} of the adapter is left out: {why}")
    return tuple(remarks)


def _all_packed(connection: Connection, plan: _Plan, row: ArtifactRow) -> bool:
    ids = [id for id, _ in row.sources]
    places = queries.places_of(connection, ids)
    return bool(ids) and all(id in places and places[id][0] == row.cube and id not in plan.without for id in ids)
