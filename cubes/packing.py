"""Writing a bundle, in bounded memory and all or nothing.

Members are spooled to a file without a name, since the manifest that stands first says their digests; then the file is
written in one go, signed and encrypted on its way. One shard is in memory at a time. Stopping it at any point, by what
the caller's iterators or `progress` raise, leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from cubes import manifest as manifests
from cubes.container import CHUNK_BYTES, Entry, Layout, chunks_of, file_chunks
from cubes.cube import MemCube, Sensitivity
from cubes.encryption import check_recipients, encrypt, envelope
from cubes.errors import DamagedBundle, MalformedCube, TooLargeBundle, WrongKey, named
from cubes.limits import MAX_ARTIFACTS
from cubes.manifest import MANIFEST, SIGNATURE, ArtifactHeader, Counts, EmbedderHeader, Manifest, Member, NamedMoment
from cubes.records import PackedMemory
from cubes.shards import Tally, cut
from cubes.signing import PublicKey, SigningKey
from cubes.target import WrittenFile, check_target, scratch, write_all, write_target
from cubes.tensors import blob_header_bytes, check_blob

Progress = Callable[[float, float | None, str], None]
"""`progress(done, total, message)`: what it raises stops the work, and leaves a whole state."""


def silent(done: float, total: float | None, message: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class PackedArtifact:
    """A blob to be packed: its header, and how to read it from the start."""

    header: ArtifactHeader
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class WrittenBundle:
    """`bytes` and `digest` are of the file as it lies there, encrypted or not."""

    manifest: Manifest
    signed_by: PublicKey | None
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class _Spooled:
    """What the manifest says of the members that were spooled."""

    cube: MemCube
    counts: Counts
    artifacts: tuple[ArtifactHeader, ...]
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class _Seal:
    """To whom the file is encrypted; to nobody, it stays plain."""

    recipients: Sequence[str]
    passphrase: str | None


def write_bundle(
    path: Path,
    header: MemCube,
    memories: Iterable[PackedMemory],
    *,
    embedder: EmbedderHeader | None = None,
    artifacts: Iterable[PackedArtifact] = (),
    redacted: Sensitivity | None = None,
    snapshots: Sequence[NamedMoment] = (),
    signing_key: SigningKey | None = None,
    recipients: Sequence[str] = (),
    passphrase: str | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> WrittenBundle:
    """Pack a cube into the file `path`.

    `header.policy` is what the bundle offers and `header.provenance` its watermark; owner, offered and mounted are not
    written. `memories` are written in the order in which they come. Without `embedder` no memory may have vectors.
    `snapshots` name moments of the past that the memories' history tells.

    Raises:
        UnusableFile: `path` is in the way (and not `replace`), or cannot be written.
        WrongKey: a recipient is none, or the passphrase is empty.
        MalformedCube, TooLargeBundle: no bundle may hold what was given; the message names the memory or field.
        DamagedBundle: an artifact's bytes are not what its header says.
    """
    if header.provenance is None:
        raise MalformedCube(f"{header.name} has no provenance: a bundle says where its cube was made")
    if passphrase is not None and not passphrase:
        raise WrongKey("the passphrase is empty")
    check_recipients(recipients)
    check_target(path, replace)
    with scratch(path.parent) as file:
        spool = _Spool(file, path)
        found = _spooled(spool, header, memories, embedder, artifacts, progress)
        manifest = Manifest(
            found.cube, found.counts, embedder, redacted, tuple(snapshots), found.artifacts, found.members
        )
        raw = manifests.to_bytes(manifest)
        signed = None if signing_key is None else signing_key.sign(raw)
        chunks = _reported(spool.bundle_chunks(raw, signed), spool.bytes, progress)
        written = _write(path, chunks, _Seal(recipients, passphrase), replace)
    return WrittenBundle(manifest, None if signing_key is None else signing_key.public, written.bytes, written.digest)


def _spooled(
    spool: _Spool,
    header: MemCube,
    memories: Iterable[PackedMemory],
    embedder: EmbedderHeader | None,
    artifacts: Iterable[PackedArtifact],
    progress: Progress,
) -> _Spooled:
    """Spool all members."""
    tally, dimension = Tally(), None if embedder is None else embedder.dimension
    for lines_name, lines, vectors_name, vectors in cut(memories, dimension, tally):
        spool.add(lines_name, [lines])
        if vectors is not None:
            spool.add(vectors_name, [vectors])
        progress(tally.memories, None, "packing memories")
    headers: list[ArtifactHeader] = []
    for artifact in artifacts:
        _spool_artifact(spool, artifact, progress)
        headers.append(artifact.header)
        if len(headers) > MAX_ARTIFACTS:
            raise TooLargeBundle(f"more than {MAX_ARTIFACTS} artifacts do not fit into one bundle")
    cube = replace(header, owner=header.provenance.owner if header.provenance else "", offered=None, mounted=None)
    return _Spooled(cube, tally.counts, tuple(headers), tuple(spool.members))


def _spool_artifact(spool: _Spool, artifact: PackedArtifact, progress: Progress) -> None:
    header = artifact.header
    if header.member in spool.names:
        return
    with named(f"artifact {header.id}"), artifact.open() as blob:

        def chunks() -> Iterator[bytes]:
            head = blob.read(8)
            head += blob.read(blob_header_bytes(head, header.bytes) - 8)
            check_blob(head, header.bytes)
            yield head
            while chunk := blob.read(CHUNK_BYTES):
                progress(spool.bytes, None, "packing artifacts")
                yield chunk

        member = spool.add(header.member, chunks())
        if (member.bytes, f"sha256:{member.sha256}") != (header.bytes, header.digest):
            raise DamagedBundle("its bytes are not those of its digest: it was changed")


def _reported(chunks: Iterator[bytes], total: int, progress: Progress) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        progress(min(done, total), total, "writing")


def _write(path: Path, chunks: Iterator[bytes], seal: _Seal, replace: bool) -> WrittenFile:
    if seal.passphrase is not None:
        sealed = envelope(chunks, seal.recipients, seal.passphrase, lambda: scratch(path.parent))
        return write_target(path, sealed, replace)
    if not seal.recipients:
        return write_target(path, chunks, replace)
    with scratch(path.parent) as file:
        encrypt(chunks, file, seal.recipients)
        return write_target(path, chunks_of(file, 0, file.tell()), replace)


class _Spool:
    """The members, one after another in a scratch file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.members: list[Member] = []
        self.names: set[str] = set()
        self.bytes = 0
        self._file, self._path = file, path

    def add(self, name: str, chunks: Iterable[bytes]) -> Member:
        hashed, crc32, size = hashlib.sha256(), 0, 0
        for chunk in chunks:
            write_all(self._file, chunk, self._path)
            hashed.update(chunk)
            crc32 = zlib.crc32(chunk, crc32)
            size += len(chunk)
            self.bytes += len(chunk)
        member = Member(name, size, hashed.hexdigest(), crc32)
        self.members.append(member)
        self.names.add(name)
        return member

    def bundle_chunks(self, manifest: bytes, signature: bytes | None) -> Iterator[bytes]:
        """The whole bundle, a part at a time."""
        first = {MANIFEST: manifest} | ({} if signature is None else {SIGNATURE: signature})
        entries = [Entry(name, len(raw), zlib.crc32(raw)) for name, raw in first.items()]
        layout = Layout([*entries, *(member.entry for member in self.members)])
        return file_chunks(layout, self._contents(list(first.values())))

    def _contents(self, first: list[bytes]) -> Iterator[Iterable[bytes]]:
        for raw in first:
            yield [raw]
        offset = 0
        for member in self.members:
            yield chunks_of(self._file, offset, member.bytes)
            offset += member.bytes
