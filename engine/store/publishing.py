"""Between this store and a shelf: publish a cube or bundle, see what is there, get a bundle to install.

Shelves are reached with the files, rights and keys of whoever owns the store, so only who may administer all of it does
so. Nothing is fetched or sent but to the address that was given in the same call. What a bundle is, is read from the
bundle; the audit log says what went where, without credentials.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cubes import Action
from cubes.bundle import inspect
from engine import keys
from engine.cube_operations import Pack, Packed, Publish, Shelved
from engine.dumper import pack
from engine.errors import Conflict, Invalid, NotAllowed
from engine.governance.access import EVERY_CUBE, granted
from engine.operations import Caller, Progress
from engine.parts import Parts
from engine.settings import Settings
from engine.store.entries import Entry
from engine.store.place import is_url, place_of
from engine.store.shelf import CHUNK_BYTES, MemStore
from engine.vault import queries

ENDING = ".memcube"
FETCHED = "fetched"  # in the data folder: bundles on their way, each gone when its work is done
_NAMED = re.compile(r"(?P<name>.+?)(?:@(?P<sha256>[0-9a-f]{6,64}))?\Z", re.DOTALL)


def publish(parts: Parts, request: Publish, caller: Caller, progress: Progress) -> Packed:
    """Put a cube or a bundle onto a shelf; what was put there.

    Raises:
        NotFound, NotAllowed: as packing, or the shelf says so.
        Invalid: the address, or the bundle.
        Unavailable: the shelf cannot be reached, or what reads it is not installed.
        Conflict: something was erased meanwhile; nothing is on the shelf.
    """
    _require(caller)
    shelf, since = MemStore(place_of(request.url)), parts.vault.revision
    shelf.check_writable()
    folder = parts.vault.settings.data / FETCHED
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if request.source.lower().endswith(ENDING):
        path = Path(request.source).expanduser().absolute()
        packed, encrypted = _described(parts, path, request.passphrase_file)
        return _put(parts, shelf, path, packed, encrypted, since, caller, progress)
    with tempfile.TemporaryDirectory(dir=folder) as private:
        wanted = Pack(
            cube=request.source,
            path=Path(private) / f"packed{ENDING}",
            history=request.history,
            embeddings=request.embeddings,
            redact=request.redact,
            snapshot=request.snapshot,
            sign=request.sign,
            recipients=request.recipients,
            passphrase_file=request.passphrase_file,
        )
        encrypted = bool(request.recipients) or request.passphrase_file is not None
        packed = pack(parts, wanted, caller, progress)
        return _put(parts, shelf, wanted.path, packed, encrypted, since, caller, progress)


def _described(parts: Parts, path: Path, passphrase_file: Path | None) -> tuple[Packed, bool]:
    """A bundle that is there already, as packing would have told of it, and whether it is encrypted."""
    settings = parts.vault.settings
    phrase = None if passphrase_file is None else keys.passphrase(passphrase_file)
    with keys.refusing():
        found = inspect(path, identities=keys.identities(settings), passphrase=phrase, trust=keys.judge(settings))
    manifest, signature = found.manifest, found.signature
    packed = Packed(
        cube=manifest.cube.name,
        path=str(path),
        memories=manifest.counts.memories,
        versions=manifest.counts.versions,
        bytes=found.bytes,
        digest=_digest(path),
        signed_by=None if signature is None else signature.key.fingerprint,
        redacted=manifest.redacted,
    )
    return packed, found.encrypted


def _put(
    parts: Parts,
    shelf: MemStore,
    path: Path,
    packed: Packed,
    encrypted: bool,
    since: int,
    caller: Caller,
    progress: Progress,
) -> Packed:
    policy = keys.trusted(parts.vault.settings).policy
    if packed.signed_by is None and policy != "any":
        raise NotAllowed(
            f"{packed.cube!r} is not signed, and this store's trust policy is {policy!r}: make a key with "
            "`memos-mcp cube key create`, and publish it again"
        )
    entry, shown = _entry(parts, path, packed, encrypted), shelf.place.shown
    # Noted first: an erasure that comes in between must know of the shelf.
    parts.vault.write(
        lambda transaction: transaction.audit("publish", packed.cube, shelf=shown, digest=entry.sha256), caller
    )
    shelf.publish(path, entry, progress)
    _refuse_erased(parts, shelf, entry, since)
    where = "/".join((shown.rstrip("/"), *entry.bundle))
    return Packed(
        entry.name,
        where,
        packed.memories,
        packed.versions,
        entry.size_bytes,
        f"sha256:{entry.sha256}",
        packed.signed_by,
        packed.redacted,
        packed.remarks,
    )


def _refuse_erased(parts: Parts, shelf: MemStore, entry: Entry, since: int) -> None:
    """Take a bundle off again where something of its cube was erased while it was made.

    Raises:
        Conflict: it was.
    """
    with parts.vault.reading() as connection:
        erased = [row for row in queries.audited(connection, "erase") if row.seq > since]
    if any(entry.name in row.detail.get("cubes", ()) for row in erased):
        shelf.withdraw(entry.name, entry.sha256)
        raise Conflict(f"something was erased from cube {entry.name!r} while it was published: publish it again")


def remove_fetched(settings: Settings) -> None:
    """Remove the bundles on their way that a process which was killed left. When a store is opened: none is, then."""
    shutil.rmtree(settings.data / FETCHED, ignore_errors=True)


def _entry(parts: Parts, path: Path, packed: Packed, encrypted: bool) -> Entry:
    """What the shelf will say: of an encrypted bundle nothing that it hides."""
    sha256, size_bytes = _digest(path).removeprefix("sha256:"), path.stat().st_size
    now, signed_by = parts.clock.now(), packed.signed_by
    if encrypted:
        return Entry(
            name=packed.cube,
            sha256=sha256,
            size_bytes=size_bytes,
            encrypted=True,
            signed_by=signed_by,
            published_at=now,
        )
    with keys.opened(parts.vault.settings, path) as bundle:
        manifest = bundle.manifest
    cube, counts, origin = manifest.cube, manifest.counts, manifest.cube.provenance
    return Entry(
        name=cube.name,
        sha256=sha256,
        size_bytes=size_bytes,
        memories=counts.memories,
        versions=counts.versions,
        artifacts=len(manifest.artifacts),
        description=cube.description,
        licence=cube.licence,
        embedder=None if manifest.embedder is None else manifest.embedder.fingerprint[:256],
        redacted=None if manifest.redacted is None else manifest.redacted.value,
        signed_by=signed_by,
        origin_store="" if origin is None else origin.store,
        origin_cube="" if origin is None else origin.cube,
        published_at=now,
    )


def listed(url: str, caller: Caller, query: str | None) -> tuple[Shelved, ...]:
    """The bundles on a shelf, or those that a query finds, by name and the newest first. Raises as `MemStore`."""
    _require(caller)
    return tuple(
        Shelved(
            name=entry.name,
            digest=f"sha256:{entry.sha256}",
            bytes=entry.size_bytes,
            memories=entry.memories,
            versions=entry.versions,
            artifacts=entry.artifacts,
            description=entry.description,
            licence=entry.licence,
            encrypted=entry.encrypted,
            redacted=entry.redacted,
            signed_by=entry.signed_by,
            published_at=entry.published_at,
            origin=entry.origin_cube,
        )
        for entry in MemStore(place_of(url)).search(query)
    )


@contextmanager
def bundle_of(parts: Parts, source: str, caller: Caller, progress: Progress) -> Iterator[tuple[Path, str]]:
    """The file that is to be installed, and how its source is told: a file that is here, or one that is fetched.

    `SHELF#NAME`, `SHELF#NAME@DIGEST` and the URL of a `.memcube` file are fetched, and kept as long as needed.

    Raises:
        NotAllowed, Invalid: it is not for this caller to fetch it, or it names no bundle. Otherwise as `MemStore`.
    """
    if is_url(source):
        url, _, wanted = source.partition("#")
    elif "#" in source and not Path(source).expanduser().exists():
        url, _, wanted = source.rpartition("#")
    else:
        yield Path(source), source
        return
    _require(caller)
    place, folder = place_of(url), parts.vault.settings.data / FETCHED
    shelf = MemStore(place)
    if not wanted:
        if not place.root.lower().endswith(ENDING):
            raise Invalid("a bundle on a shelf is named SHELF#NAME, and one by itself by a URL that ends in .memcube")
        with shelf.fetched_file(folder, progress) as path:
            yield path, place.shown
        return
    found = _NAMED.match(wanted)
    assert found is not None  # the pattern takes any text
    with shelf.fetched(shelf.find(found["name"], found["sha256"]), folder, progress) as path:
        yield path, f"{place.shown}#{wanted}"


def _require(caller: Caller) -> None:
    if not granted(caller.principal, EVERY_CUBE, Action.ADMIN):
        raise NotAllowed("shelves are reached with the rights of the store's owner: it is for the owner to use them")


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return f"sha256:{found.hexdigest()}"
