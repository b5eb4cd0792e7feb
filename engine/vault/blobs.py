"""Blobs: the bytes of KV caches and adapters, in files named by their digest and sealed as the vault is.

A blob is there whole or not at all, and its bytes are those of its digest. The vault's table `artifacts` says which are
needed: a row is written before its blob, and a blob goes after its last row, so what no row names may be removed.
Knows nothing of what a blob is good for.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Generator, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from engine.errors import Corrupt, Unavailable
from engine.files import sync_folder
from engine.settings import Settings
from engine.vault.backup import PARTIAL
from engine.vault.remains import place_of_blob, write_blob
from engine.vault.sealing import CHUNK_BYTES, Sealer

DIGEST_PREFIX = "sha256:"


def blob_path(settings: Settings, digest: str, sealer: Sealer) -> Path:
    """Where the blob of that digest lies."""
    return settings.blobs_folder / (digest.removeprefix(DIGEST_PREFIX) + sealer.suffix)


def keep_blob(settings: Settings, digest: str, chunks: Iterable[bytes], sealer: Sealer) -> None:
    """Store a blob, if it is not there yet.

    Raises:
        Corrupt: the bytes are not those of the digest; nothing was stored.
        Unavailable: it cannot be written.
    """
    path = blob_path(settings, digest, sealer)
    if path.exists():
        for _ in _checked(chunks, digest):
            pass
        return
    try:
        write_blob(path, _checked(chunks, digest), sealer, place_of_blob(settings, path))
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(f"the blob {path.name} cannot be written: {error.strerror}") from error


def read_blob(settings: Settings, digest: str, sealer: Sealer) -> Iterator[bytes]:
    """The bytes of a blob, a piece at a time; they are known to be good when all were read.

    Raises:
        Corrupt: it is missing, or its bytes are not those of its digest.
    """
    with open_blob(settings, digest, sealer) as blob:
        while piece := blob.read(CHUNK_BYTES):
            yield piece


def open_blob(settings: Settings, digest: str, sealer: Sealer) -> BinaryIO:
    """As `read_blob`, as an open file: one that is removed meanwhile can be read to its end."""
    path = blob_path(settings, digest, sealer)
    try:
        source = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    return cast(BinaryIO, io.BufferedReader(_Pieces(_opened(source, path, settings, digest, sealer)), CHUNK_BYTES))


def missing_blobs(settings: Settings, digests: Collection[str], sealer: Sealer) -> set[str]:
    """Those of the digests whose blobs are not there."""
    folder = settings.blobs_folder
    there = {path.name for path in folder.iterdir()} if digests and folder.is_dir() else set()
    return {digest for digest in digests if blob_path(settings, digest, sealer).name not in there}


def _opened(
    source: BinaryIO, path: Path, settings: Settings, digest: str, sealer: Sealer
) -> Generator[bytes, None, None]:
    try:
        yield b""  # so that closing this closes the file, even if nothing was read
        yield from _checked(sealer.open_file(source, place_of_blob(settings, path)), digest)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        source.close()


def _unreadable(path: Path, error: OSError) -> Corrupt:
    return Corrupt(
        f"the blob {path.name} cannot be read ({error.strerror}): what it was derived from is still there, "
        "build it again"
    )


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file that is read once from front to back."""

    def __init__(self, pieces: Generator[bytes, None, None]) -> None:
        self._pieces, self._rest = pieces, next(pieces)

    def close(self) -> None:
        self._pieces.close()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        while not self._rest:
            try:
                self._rest = next(self._pieces)
            except StopIteration:
                return 0
        found = self._rest[: len(buffer)]
        buffer[: len(found)] = found
        self._rest = self._rest[len(found) :]
        return len(found)


def _checked(chunks: Iterable[bytes], digest: str) -> Iterator[bytes]:
    hashed = hashlib.sha256()
    for chunk in chunks:
        hashed.update(chunk)
        yield chunk
    if DIGEST_PREFIX + hashed.hexdigest() != digest:
        raise Corrupt(f"a blob is not what its digest {digest} says: it was changed or damaged")


def remove_blobs(settings: Settings, digests: Iterable[str], sealer: Sealer) -> None:
    """Remove blobs that nothing needs any more."""
    for digest in digests:
        blob_path(settings, digest, sealer).unlink(missing_ok=True)


def collect_blobs(settings: Settings, needed: Collection[str], sealer: Sealer) -> None:
    """Remove what no row names, and what a killed process left unfinished. Only when nobody writes blobs."""
    folder = settings.blobs_folder
    if not folder.is_dir():
        return
    names = {blob_path(settings, digest, sealer).name for digest in needed}
    for path in folder.iterdir():
        if path.is_file() and (path.name not in names or path.name.endswith(PARTIAL)):
            path.unlink(missing_ok=True)
