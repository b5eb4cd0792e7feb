"""What can be asked of whole cubes and what is answered: requests and results as immutable values.

As `engine.operations`, for the operations that look at, change, pack, install or share a cube. Bounds stand here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cubes import Action, CubePolicy, MemCube, Scope, Sensitivity
from engine.operations import Difference

MAX_SNAPSHOT_NAME_CHARS = 64
MAX_DESCRIPTION_CHARS = 2_000
MAX_LICENCE_CHARS = 200
MAX_SNAPSHOTS = 1_000  # of one cube

# --- versions and time ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named moment of a cube."""

    cube: str
    name: str
    at: datetime
    author: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class CubeVersion:
    """One version of a cube's header, oldest first."""

    cube: MemCube
    at: datetime
    author: str
    change: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Changed:
    """A memory that both sides have, and the fields in which it differs: name -> (before, after), as plain values."""

    id: str
    fields: tuple[tuple[str, object, object], ...]


@dataclass(frozen=True, slots=True)
class CubeDiff:
    """What was added to, removed from (archived, merged, expired, erased or not there), and changed in a cube."""

    before: str
    after: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[Changed, ...] = ()
    header: tuple[tuple[str, object, object], ...] = ()


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback did: ids by what became of them. `before` is the snapshot that undoes it."""

    cube: str
    to: datetime
    revision: int
    before: str
    restored: tuple[str, ...] = ()  # say again what they said then
    archived: tuple[str, ...] = ()  # did not exist then
    kept: tuple[str, ...] = ()  # frozen: left as they are
    gone: tuple[str, ...] = ()  # erased since, or let go by retention: they do not come back
    expired: tuple[str, ...] = ()  # lived then, but their time has passed since: they are expired again
    unfused: tuple[str, ...] = ()  # parents in other cubes that live again, as what they were fused into went
    header: tuple[str, ...] = ()  # fields of the cube's header that are as they were then


# --- governance ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Govern:
    """Set governance attributes of memories; None leaves one as it is. `expires_in_days=0` takes the end away."""

    ids: tuple[str, ...]
    pinned: bool | None = None
    frozen: bool | None = None
    priority: int | None = None
    sensitivity: Sensitivity | None = None
    expires_in_days: float | None = None
    tags: tuple[str, ...] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SetCube:
    """Create a cube or change its header; None leaves a field as it is."""

    name: str
    description: str | None = None
    licence: str | None = None
    policy: CubePolicy | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """Open a cube (scopes) or let one principal in (grant). An empty `actions` takes a principal's grant away."""

    cube: str
    read: Scope | None = None
    write: Scope | None = None
    share: Scope | None = None
    principal: str | None = None
    actions: tuple[Action, ...] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    seq: int
    at: datetime
    actor: str
    client: str
    action: str
    cube: str
    ids: tuple[str, ...]
    reason: str | None
    detail: dict[str, object] = field(default_factory=dict)


# --- bundles ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pack:
    """Pack a cube into a bundle at `path`, which must not exist unless `replace`."""

    cube: str
    path: Path
    replace: bool = False
    history: bool = True
    embeddings: bool = True
    redact: Sensitivity | None = None  # leave out memories that are at least this sensitive
    snapshot: str | None = None  # as the cube was then
    sign: bool = True  # with the store's own key, where there is one
    recipients: tuple[str, ...] = ()  # age public keys
    passphrase_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    cube: str
    path: str
    memories: int
    versions: int
    bytes: int
    digest: str  # of the file
    signed_by: str | None  # fingerprint
    redacted: str | None
    remarks: tuple[str, ...] = ()  # which adapters are not in it, and why


@dataclass(frozen=True, slots=True)
class Install:
    """Put a bundle into the store. `source` is a file or a URL of a shelf."""

    source: str
    name: str | None = None  # under which name; None: its own
    upgrade: bool = False  # bring a cube that came from the same origin up to this bundle
    dry_run: bool = False
    keep_policy: bool = False  # take over the scopes and grants that it offers; else it is private here
    passphrase_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Installed:
    cube: str
    revision: int
    memories: int
    versions: int
    signed_by: str | None
    trusted: bool
    reembedded: bool  # its vectors are of another embedder: they are made anew in the background
    artifacts: tuple[tuple[str, str], ...] = ()  # (id, "kept" or why it waits)
    renamed_ids: int = 0  # ids that were taken here and got new ones
    diff: CubeDiff | None = None  # for an upgrade and a dry run of one
    kept_local: tuple[str, ...] = ()  # changed here as well: left as they are


@dataclass(frozen=True, slots=True)
class Artifact:
    """A KV cache or an adapter that was derived from memories of a cube."""

    id: str
    cube: str
    kind: str
    fingerprint: str
    digest: str
    bytes: int
    sources: tuple[tuple[str, int], ...]  # (memory id, version)
    state: str  # kept, stale, …; of an adapter, what its version does (serving, resting, failed)
    created_at: datetime
    version: int = 0  # of an adapter


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder that is shown as a cube, and how that goes."""

    path: str
    kind: str  # "bundle", "notes" or "drop"
    cube: str
    state: str  # ready, or what is wrong
    memories: int = 0
    problems: tuple[str, ...] = ()  # "file: what is wrong with it, or what became of it"


# --- shelves ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publish:
    """Put a cube, or a bundle that is there as a file, onto the shelf at `url`. What is secret stays here."""

    source: str  # a cube's name, or a path that ends in .memcube
    url: str
    history: bool = True
    embeddings: bool = True
    redact: Sensitivity | None = Sensitivity.SECRET
    snapshot: str | None = None
    sign: bool = True
    recipients: tuple[str, ...] = ()
    passphrase_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Shelved:
    """A bundle on a shelf, as the shelf describes it: only the bundle itself says who signed it."""

    name: str
    digest: str  # of the file
    bytes: int
    memories: int
    versions: int
    artifacts: int
    description: str
    licence: str
    encrypted: bool  # then counts and description are not told
    redacted: str | None
    signed_by: str | None
    published_at: datetime
    origin: str  # the cube's name in the store in which it was made


# --- fuse for cubes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FuseCubes:
    cubes: tuple[str, ...]
    into: str
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class FusedCubes:
    cube: str | None  # None in a dry run
    version: int | None
    revision: int
    memories: int  # in the fused cube
    joined: int  # memories that were the same as another
    merged: tuple[str, ...] = ()
    conflicts: tuple[Difference, ...] = ()
    before: tuple[tuple[str, str], ...] = ()  # (cube, snapshot) that undo it
    adapters: tuple[int, ...] = ()  # versions of the fused cube's adapter: what those of the cubes knew
    work: str | None = None  # id of the work in the background that makes one adapter of them


@dataclass(frozen=True, slots=True)
class CubeFile:
    """What a bundle says of itself."""

    path: str
    name: str
    header: MemCube
    memories: int
    versions: int
    bytes: int
    digest: str
    signed_by: str | None
    trusted: bool
    encrypted: bool
    redacted: str | None
    embedder: str | None
    artifacts: int
    states: tuple[tuple[str, int], ...] = ()
