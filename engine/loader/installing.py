"""Installing a bundle: whole or not at all, however large it is.

    the bundle's signature against the trust policy → every memory staged → one transaction that shows the cube

The cube is private here, unless the policy that the bundle offers is taken over; that policy is kept either way, so
that packing the cube again gives the same bytes. Its index is built when all is done, in the background.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cubes import Action, CubePolicy, MemCube
from cubes.bundle import Bundle
from cubes.bundle import inspect as inspect_bundle
from cubes.container import CHUNK_BYTES
from engine import keys
from engine.cube_operations import Artifact, Changed, CubeDiff, CubeFile, Install, Installed
from engine.errors import Conflict, Invalid, NotAllowed, NotFound
from engine.governance.access import allowed, clearance, granted, no_cube
from engine.governance.policy import check_policy
from engine.loader.comparison import compared
from engine.loader.staged import (
    KEPT,
    Staged,
    batches,
    stage_all,
    staging_of,
    standing,
    take_snapshots,
    taken,
    usable_vectors,
)
from engine.loader.upgrading import Upgrade
from engine.operations import Caller, Progress
from engine.parts import Parts, answered, check_cube_name, once, readable_cubes, require_fit
from engine.settings import Settings
from engine.vault import Transaction, queries, staging
from engine.vault.adapters import adapters_of
from engine.vault.artifacts import ArtifactRow, artifacts_of
from engine.vault.connection import Connection


def install(
    parts: Parts,
    path: Path,
    request: Install,
    caller: Caller,
    progress: Progress,
    *,
    mounted: str | None = None,
    model: str = "",
) -> Installed:
    """Install the bundle at `path`, or bring a cube up to it; `request.source` is only told. `mounted`: the cube shows
    that file, and is read-only. `model`: the fingerprint of the model that is served, as far as it is known.

    Raises:
        NotAllowed: the trust policy refuses it, no key opens it, or the caller may not make or change the cube.
        Conflict: there is such a cube already; or it changed while it was compared.
        NotFound: there is no such cube to upgrade.
        Invalid, TooLarge, Corrupt, Unavailable: the bundle cannot be read, or not be stored; nothing was changed.
    """
    asked = replace(request, passphrase_file=None)  # what tells requests apart; where a passphrase lies does not
    before = answered(parts, caller, asked, load)
    if before is not None:
        return before
    with keys.opened(parts.vault.settings, path, request.passphrase_file) as bundle:
        name = request.name or bundle.manifest.cube.name
        check_cube_name(name)
        facts = {"source": request.source, "digest": _digest(path), **_facts(bundle)}
        if request.upgrade:
            plan = compared(parts, bundle, name, request, caller, progress, mounted=mounted)
            if request.dry_run or plan.nothing:
                return plan.told()
            with staging_of(parts, bundle, name, model) as staged:
                upgrade = Upgrade(plan, staged, facts)
                upgrade.stage(progress)
                return once(parts, caller, asked, upgrade.show, dump, load)
        _check_new(parts, name, request, caller)
        if request.dry_run:
            return _dry(parts, bundle, name, progress, model)
        with staging_of(parts, bundle, name, model) as staged:
            stage_all(staged, progress)
            total = staged.memories
            artifacts = staged.stage_artifacts(lambda: progress(total, total + 1, "installing artifacts"))
            progress(total, total + 1, "showing")

            def job(transaction: Transaction) -> tuple[Installed, Sequence[str]]:
                return _show(staged, transaction, request, facts, artifacts, mounted), ()

            return once(parts, caller, asked, job, dump, load)


def _check_new(parts: Parts, name: str, request: Install, caller: Caller) -> None:
    """Refuse before work is spent on it."""
    found = next((cube for cube in parts.vault.cubes() if cube.name == name), None)
    if found is not None and allowed(caller.principal, found, Action.READ):
        raise _there(name)
    if found is not None or not granted(caller.principal, name, Action.WRITE):
        raise NotFound(no_cube(name))
    if request.keep_policy and not granted(caller.principal, name, Action.ADMIN):
        raise NotAllowed("taking over who is let in is for who administers the cube: install it without")


def _there(name: str) -> Conflict:
    return Conflict(
        f"there is a cube {name!r} already: take another name with --as, or bring it up to the file with "
        "`memos-mcp cube upgrade`; nothing was changed"
    )


def _show(
    staged: Staged,
    transaction: Transaction,
    request: Install,
    facts: dict[str, Any],
    artifacts: tuple[tuple[str, str], ...],
    mounted: str | None,
) -> Installed:
    """Make what was staged a cube of this store."""
    name = staged.cube
    if queries.cube(transaction.connection, name) is not None:
        raise _there(name)
    header = staged.bundle.manifest.cube
    policy = header.policy if request.keep_policy else CubePolicy()
    if request.keep_policy:
        check_policy(policy)
    revision = transaction.audit(
        "install", name, **facts, memories=staged.memories, versions=staged.versions, renamed=len(staged.renamed)
    )
    staging.show(transaction, staged.name, name, revision)
    cube = replace(
        header,
        name=name,
        owner=transaction.caller.principal.name,
        policy=policy,
        offered=header.policy,
        mounted=mounted,
    )
    transaction.put_cube(cube, revision, "install")
    take_snapshots(transaction, name, staged.bundle)
    require_fit(transaction, name)
    staged.settle(transaction, staged.memories - staged.embedded)
    return Installed(
        cube=name,
        revision=revision,
        memories=staged.memories,
        versions=staged.versions,
        signed_by=facts["signed_by"],
        trusted=facts["trusted"],
        reembedded=_reembedded(staged.bundle, staged.embedder),
        artifacts=artifacts,
        renamed_ids=len(staged.renamed),
    )


def _reembedded(bundle: Bundle, kept: str) -> bool:
    return not kept and bundle.manifest.counts.passages > 0


def _facts(bundle: Bundle) -> dict[str, Any]:
    """What the audit log keeps of a bundle."""
    manifest, signature = bundle.manifest, bundle.signature
    return {
        "signed_by": None if signature is None else signature.key.fingerprint,
        "trusted": signature is not None and signature.known,
        "redacted": None if manifest.redacted is None else manifest.redacted.value,
    }


def _digest(path: Path) -> str:
    hashed = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                hashed.update(chunk)
    except OSError as error:
        raise Invalid(f"{path.name}: it cannot be read: {error.strerror}") from error
    return f"sha256:{hashed.hexdigest()}"


def _dry(parts: Parts, bundle: Bundle, name: str, progress: Progress, model: str) -> Installed:
    """Read all of it, and say what would happen."""
    bundle.verify(progress)
    renamed = 0
    for batch in batches(bundle.memories(vectors=False)):
        with parts.vault.reading() as connection:
            renamed += len(taken(connection, [memory.id for memory in batch]))
    manifest, facts = bundle.manifest, _facts(bundle)
    return Installed(
        cube=name,
        revision=parts.vault.revision,
        memories=manifest.counts.memories,
        versions=manifest.counts.versions,
        signed_by=facts["signed_by"],
        trusted=facts["trusted"],
        reembedded=_reembedded(bundle, usable_vectors(parts, bundle)),
        artifacts=tuple((artifact.id, standing(artifact.fingerprint, model)) for artifact in manifest.artifacts),
        renamed_ids=renamed,
    )


# --- looking ----------------------------------------------------------------------------------------------------------


def inspect(settings: Settings, path: Path, passphrase_file: Path | None = None) -> CubeFile:
    """What a bundle says of itself, whoever signed it. Raises as `install` where it cannot be read."""
    phrase = None if passphrase_file is None else keys.passphrase(passphrase_file)
    with keys.refusing():
        found = inspect_bundle(
            path, identities=keys.identities(settings), passphrase=phrase, trust=keys.anyone(settings)
        )
    manifest, signature = found.manifest, found.signature
    return CubeFile(
        path=str(path),
        name=manifest.cube.name,
        header=manifest.cube,
        memories=manifest.counts.memories,
        versions=manifest.counts.versions,
        bytes=found.bytes,
        digest=_digest(path),
        signed_by=None if signature is None else signature.key.fingerprint,
        trusted=signature is not None and signature.known,
        encrypted=found.encrypted,
        redacted=None if manifest.redacted is None else manifest.redacted.value,
        embedder=None if manifest.embedder is None else manifest.embedder.fingerprint,
        artifacts=len(manifest.artifacts),
        states=tuple((state.value, count) for state, count in manifest.counts.states),
    )


def listed(parts: Parts, cube: str, caller: Caller, model: str = "") -> tuple[Artifact, ...]:
    """The artifacts of a cube that were derived from nothing that the caller may not see. `model`: as in `install`.

    Raises:
        NotFound: no such cube for this caller.
    """
    (found,) = readable_cubes(parts, [cube], caller)
    with parts.vault.reading() as connection:
        return tuple(_seen(connection, found, caller, model))


def _seen(connection: Connection, cube: MemCube, caller: Caller, model: str) -> Iterator[Artifact]:
    adapters = {row.artifact: row for row in adapters_of(connection, cube.name)}
    for row in artifacts_of(connection, cube.name):
        if caller.principal.owner or _may_see(connection, cube, row, caller):
            version, state = adapters.get(row.id), standing(row.fingerprint, model)
            if version is not None:
                state = version.state.value if state == KEPT else f"{version.state.value}, {state}"
            number = 0 if version is None else version.version
            told = (row.kind, row.fingerprint, row.digest, row.bytes, row.sources, state, row.created_at, number)
            yield Artifact(row.id, row.cube, *told)


def _may_see(connection: Connection, cube: MemCube, row: ArtifactRow, caller: Caller) -> bool:
    seen = clearance(caller.principal, cube)
    places = queries.places_of(connection, [id for id, _ in row.sources])
    return all(id in places and places[id][0] == cube.name and places[id][1] in seen for id, _ in row.sources)


# --- recorded answers -------------------------------------------------------------------------------------------------


def dump(result: Installed) -> dict[str, Any]:
    diff = result.diff
    return {
        "cube": result.cube,
        "revision": result.revision,
        "memories": result.memories,
        "versions": result.versions,
        "signed_by": result.signed_by,
        "trusted": result.trusted,
        "reembedded": result.reembedded,
        "artifacts": [list(item) for item in result.artifacts],
        "renamed_ids": result.renamed_ids,
        "kept_local": list(result.kept_local),
        "diff": None
        if diff is None
        else {
            "before": diff.before,
            "after": diff.after,
            "added": list(diff.added),
            "removed": list(diff.removed),
            "changed": [[item.id, [list(field) for field in item.fields]] for item in diff.changed],
            "header": [list(field) for field in diff.header],
        },
    }


def load(plain: dict[str, Any]) -> Installed:
    diff = plain["diff"]
    return Installed(
        cube=plain["cube"],
        revision=plain["revision"],
        memories=plain["memories"],
        versions=plain["versions"],
        signed_by=plain["signed_by"],
        trusted=plain["trusted"],
        reembedded=plain["reembedded"],
        artifacts=tuple((id, state) for id, state in plain["artifacts"]),
        renamed_ids=plain["renamed_ids"],
        kept_local=tuple(plain["kept_local"]),
        diff=None
        if diff is None
        else CubeDiff(
            diff["before"],
            diff["after"],
            tuple(diff["added"]),
            tuple(diff["removed"]),
            tuple(Changed(id, _fields(fields)) for id, fields in diff["changed"]),
            _fields(diff["header"]),
        ),
    )


def _fields(plain: list[list[Any]]) -> tuple[tuple[str, object, object], ...]:
    return tuple((name, before, after) for name, before, after in plain)
