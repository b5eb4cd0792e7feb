"""Reading a bundle: who signed it, what it says of itself, and its memories and blobs one by one.

Opening it checks all that is not content (container, manifest, signature, trust); reading checks each member against
its digest before anything of it is given out. At most a shard is in memory. What is encrypted is decrypted to a file
without a name first. A bundle is hostile until it has been through here, and nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from cubes import manifest as manifests
from cubes.container import CHUNK_BYTES, Entry, Layout, file_bytes, read_at, read_first, read_header, starts_like_zip
from cubes.encryption import AGE_START, ARMOR_START, IDENTITY, Identity, decrypt, open_envelope
from cubes.errors import DamagedBundle, MalformedCube, UnsupportedBundle, UnusableFile, named
from cubes.limits import MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES
from cubes.manifest import MANIFEST, SIGNATURE, ArtifactHeader, Manifest, Member, shard_names
from cubes.packing import Progress, silent
from cubes.records import PackedMemory
from cubes.shards import Tally, read_lines, read_vectors
from cubes.signing import ANYONE, PublicKey, Signature, Trust, verify
from cubes.target import scratch
from cubes.tensors import blob_header_bytes, check_blob


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a bundle says of itself. `bytes` is the size of the file as it lies there."""

    manifest: Manifest
    signature: Signature | None
    encrypted: bool
    bytes: int


class Bundle:
    """An open bundle. `name` stands before each message; `signature` is None where nobody signed it."""

    def __init__(self, file: BinaryIO, name: str, trust: Trust) -> None:
        """Check everything but contents. Raises as `open_bundle`."""
        self.name = name
        self._file = file
        raw, signature, entries = _read_front(file)
        self.manifest: Manifest = manifests.from_bytes(raw)
        layout = Layout([*entries, *(member.entry for member in self.manifest.members)])
        layout.check(file)
        signer: PublicKey | None = None if signature is None else verify(raw, signature)
        self.signature = trust.judge(signer)
        starts = layout.starts[len(entries) :]
        self._starts = {member.name: (member, at) for member, at in zip(self.manifest.members, starts, strict=True)}

    def memories(self, *, vectors: bool = True) -> Iterator[PackedMemory]:
        """Each memory in order; with `vectors=False` without vectors, which are then not read.

        Raises:
            DamagedBundle: a member is not what its digest says. Nothing of it, nor after it, is given out.
            MalformedCube, TooLargeBundle: a memory breaks a rule, is there twice, or there are not as many as counted.
        """
        tally = Tally()
        for number in range(self.manifest.shards):
            for memory in self.shard(number, vectors=vectors):
                with named(self.name):
                    tally.add(memory)
                yield memory
        with named(self.name):
            self._check_counts(tally, vectors)

    def shard(self, number: int, *, vectors: bool = True) -> list[PackedMemory]:
        """The memories of one shard. Raises as `memories`."""
        lines, embeddings = shard_names(number)
        with named(self.name):
            raw = self._content(lines)
            with named(lines):
                found = read_lines(raw)
            if not vectors or self.manifest.embedder is None:
                return found
            raw = self._content(embeddings)
            with named(embeddings):
                rows = read_vectors(raw, len(found), self.manifest.embedder.dimension)
        return [
            PackedMemory(memory.current, memory.lineage, memory.usage, memory.history, its)
            for memory, its in zip(found, rows, strict=True)
        ]

    def artifacts(self) -> Iterator[tuple[ArtifactHeader, BinaryIO]]:
        """Each artifact and a stream of its blob, which is good until the next one is asked for. Raises as `blob`."""
        for header in self.manifest.artifacts:
            with self.blob(header) as stream:
                yield header, stream

    def blob(self, header: ArtifactHeader) -> BinaryIO:
        """The bytes of an artifact. They are known to be good when the stream has been read to its end.

        Raises:
            DamagedBundle: from the last `read`, where the bytes are not those of the digest.
            MalformedCube, TooLargeBundle: it is no safetensors file.
        """
        member, start = self._starts[header.member]
        with named(self.name), named(f"artifact {header.id}"):
            head = read_at(self._file, start, blob_header_bytes(read_at(self._file, start, 8), member.bytes))
            check_blob(head, member.bytes)
        return cast(BinaryIO, io.BufferedReader(_Blob(self._file, member, start, self.name), CHUNK_BYTES))

    def verify(self, progress: Progress = silent) -> None:
        """Read all of it. Raises as `memories` and `blob`; `progress` counts bytes of the contents."""
        total = sum(member.bytes for member in self.manifest.members)
        done, tally = 0, Tally()
        for number in range(self.manifest.shards):
            for memory in self.shard(number):
                with named(self.name):
                    tally.add(memory)
            done += sum(self._starts[name][0].bytes for name in shard_names(number) if name in self._starts)
            progress(done, total, "verifying")
        with named(self.name):
            self._check_counts(tally, True)
        for _, stream in self.artifacts():
            while chunk := stream.read(CHUNK_BYTES):
                done += len(chunk)
                progress(min(done, total), total, "verifying")

    def _content(self, name: str) -> bytes:
        member, start = self._starts[name]
        raw = read_at(self._file, start, member.bytes)
        _check_digest(member, hashlib.sha256(raw).hexdigest(), zlib.crc32(raw))
        return raw

    def _check_counts(self, tally: Tally, vectors: bool) -> None:
        said, found = self.manifest.counts, tally.counts
        names = ("memories", "versions", "edges", "states") + (("passages",) if vectors else ())
        for name in names:
            if getattr(said, name) != getattr(found, name):
                raise MalformedCube(f"the manifest counts other {name} than there are")


def _check_digest(member: Member, sha256: str, crc32: int) -> None:
    if (sha256, crc32) != (member.sha256, member.crc32):
        raise DamagedBundle(f"{member.name} was changed: its digest is another one")


def _read_front(file: BinaryIO) -> tuple[bytes, bytes | None, list[Entry]]:
    """Manifest, signature if there is one, and their entries."""
    first, _ = read_header(file, 0)
    if first.name != MANIFEST:
        raise DamagedBundle(f"it is no bundle: its first member is {first.name} and not {MANIFEST}")
    first, manifest, end = read_first(file, 0, MAX_MANIFEST_BYTES)
    if starts_like_zip(read_at(file, end, 4)) and read_header(file, end)[0].name == SIGNATURE:
        second, signature, _ = read_first(file, end, MAX_SIGNATURE_BYTES)
        return manifest, signature, [first, second]
    return manifest, None, [first]


class _Blob(io.RawIOBase):
    """A member as a stream that raises at its end where it is not what its digest says."""

    def __init__(self, file: BinaryIO, member: Member, start: int, name: str) -> None:
        self._file, self._member, self._name = file, member, name
        self._at, self._end = start, start + member.bytes
        self._hash, self._crc32 = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        found = read_at(self._file, self._at, min(len(buffer), self._end - self._at))
        if not found:
            with named(self._name):
                _check_digest(self._member, self._hash.hexdigest(), self._crc32)
            return 0
        buffer[: len(found)] = found
        self._at += len(found)
        self._hash.update(found)
        self._crc32 = zlib.crc32(found, self._crc32)
        return len(found)


# --- opening --------------------------------------------------------------------------------------------------------


@contextmanager
def open_bundle(
    source: Path | BinaryIO,
    *,
    identities: Sequence[Identity] = (),
    passphrase: str | None = None,
    trust: Trust = ANYONE,
) -> Iterator[Bundle]:
    """Open a bundle, plain or encrypted, out of a file or of an open binary file that can be sought in.

    Raises:
        UnusableFile: it is missing, a folder, or cannot be read.
        DamagedBundle: it is no bundle, or not as its maker wrote it.
        UnsupportedBundle: it is of another version of the format.
        TooLargeBundle, MalformedCube: its manifest breaks a bound or a rule.
        WrongKey: it is encrypted, and what was given does not open it.
        UntrustedBundle: its signature is false, or `trust` refuses it.
    """
    with _opened(source, identities, passphrase) as (file, name, _, _):
        with named(name):
            bundle = Bundle(file, name, trust)
        yield bundle


def inspect(
    source: Path | BinaryIO,
    *,
    identities: Sequence[Identity] = (),
    passphrase: str | None = None,
    trust: Trust = ANYONE,
) -> Inspection:
    """What a bundle says of itself, without reading its contents. Raises as `open_bundle`."""
    with _opened(source, identities, passphrase) as (file, name, encrypted, size), named(name):
        bundle = Bundle(file, name, trust)
    return Inspection(bundle.manifest, bundle.signature, encrypted, size)


@contextmanager
def _opened(
    source: Path | BinaryIO, identities: Sequence[Identity], passphrase: str | None
) -> Iterator[tuple[BinaryIO, str, bool, int]]:
    """The plain file of a bundle, what to call it, whether it was encrypted, and the size of the outer file."""
    name = source.name if isinstance(source, Path) else _name_of(source)
    folder = source.parent if isinstance(source, Path) else None
    with ExitStack() as stack:
        with named(name):
            file = stack.enter_context(_open_file(source)) if isinstance(source, Path) else source
            size = file_bytes(file)
            start = read_at(file, 0, max(len(AGE_START), len(ARMOR_START)))
            _check_start(start, size)
            encrypted = True
            if start.startswith(AGE_START):
                plain = stack.enter_context(scratch(folder))
                decrypt(file, plain, identities)
            elif read_header(file, 0)[0].name == IDENTITY:
                plain = stack.enter_context(scratch(folder))
                open_envelope(file, plain, identities, passphrase)
            else:
                plain, encrypted = file, False
        yield plain, name, encrypted, size


def _check_start(start: bytes, size: int) -> None:
    if not size:
        raise DamagedBundle("it is empty")
    if start.startswith(ARMOR_START):
        raise UnsupportedBundle("it is an age file in text form: decrypt it with `age -d` first")
    if not start.startswith(AGE_START) and not starts_like_zip(start):
        raise DamagedBundle("it is no bundle: it starts neither as a ZIP nor as an age file")


def _open_file(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnusableFile("it is no file")
        return path.open("rb")
    except OSError as error:
        raise UnusableFile(f"it cannot be read: {error.strerror}") from error


def _name_of(file: BinaryIO) -> str:
    name = getattr(file, "name", None)
    return os.path.basename(name) if isinstance(name, str) else "bundle"
