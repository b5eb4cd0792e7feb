"""Bundles for few eyes: the age format, to X25519 recipients or to a passphrase, in bounded memory.

To recipients a bundle becomes an age file, as the `age` tool writes it. To a passphrase it becomes a ZIP of two age
files: `identity.age`, a fresh identity under the passphrase, and `cube.age`, the bundle to that identity (and to the
recipients, if there are any). Plain bytes only ever lie in files that have no name, so nothing is left of them.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pyrage

from cubes.container import CHUNK_BYTES, Entry, Layout, chunks_of, file_chunks, read_at, read_first, read_header
from cubes.errors import DamagedBundle, UnusableFile, WrongKey
from cubes.limits import MAX_AGE_HEADER_BYTES, MAX_IDENTITY_BYTES, MAX_RECIPIENTS
from cubes.passphrase import lock, unlock
from cubes.private import read_private, write_private
from cubes.target import write_all

AGE_START = b"age-encryption.org/v1\n"
ARMOR_START = b"-----BEGIN AGE"
IDENTITY, CUBE = "identity.age", "cube.age"
_SECRET = re.compile(r"^AGE-SECRET-KEY-1[0-9A-Z]+$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Identity:
    """A secret X25519 key that opens what was encrypted to its recipient. It never shows itself."""

    _secret: pyrage.x25519.Identity = field(repr=False)

    @property
    def recipient(self) -> str:
        """The public key, `age1…`."""
        return str(self._secret.to_public())

    @classmethod
    def generate(cls) -> Identity:
        return cls(pyrage.x25519.Identity.generate())

    @classmethod
    def parse(cls, text: str) -> Identity:
        """The first identity of an age identity file. Raises `WrongKey` where there is none."""
        found = _SECRET.search(text.replace("\r\n", "\n"))
        try:
            if found:
                return cls(pyrage.x25519.Identity.from_str(found[0]))
        except pyrage.IdentityError:
            pass
        raise WrongKey("no age identity (AGE-SECRET-KEY-1…) is in it")

    def file_text(self) -> str:
        """As an age identity file: it holds the secret."""
        return f"# public key: {self.recipient}\n{self._secret}\n"


def create_identity(path: Path) -> Identity:
    """Make an identity and keep it in a new file of mode 0600.

    Raises:
        UnusableFile: something is there already, or it cannot be written.
    """
    identity = Identity.generate()
    write_private(path, identity.file_text().encode("ascii"))
    return identity


def load_identity(path: Path) -> Identity:
    """The identity in that file.

    Raises:
        UnusableFile: it is missing, or others may read it.
        WrongKey: it holds no identity.
    """
    try:
        return Identity.parse(read_private(path).decode("utf-8", "replace"))
    except WrongKey as error:
        raise WrongKey(f"{path}: {error}") from None


def check_recipients(recipients: Sequence[str]) -> None:
    """Raises `WrongKey` where one is no age recipient, or there are too many."""
    if len(recipients) > MAX_RECIPIENTS:
        raise WrongKey(f"{len(recipients)} recipients: at most {MAX_RECIPIENTS} are allowed")
    for recipient in recipients:
        _recipient(recipient)


def _recipient(text: str) -> pyrage.x25519.Recipient:
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise WrongKey(f"{text[:80]!a} is no age recipient: one looks like age1…") from None


# --- writing --------------------------------------------------------------------------------------------------------


def encrypt(chunks: Iterator[bytes], out: BinaryIO, recipients: Sequence[str]) -> None:
    """Write an age file of these bytes to these recipients. What `chunks` raises comes through."""
    source, target = _Source(chunks), _Target(out)
    try:
        pyrage.encrypt_io(source, target, [_recipient(text) for text in recipients])
    except (pyrage.EncryptError, OSError):
        _raise_first(source, target)
        raise


def envelope(
    chunks: Iterator[bytes], recipients: Sequence[str], passphrase: str, scratch: Callable[[], BinaryIO]
) -> Iterator[bytes]:
    """The bytes of a ZIP that the passphrase (and the recipients) open; `scratch` makes a file without a name."""
    fresh = Identity.generate()
    locked = lock(fresh.file_text().encode("ascii"), passphrase)
    with scratch() as sealed:
        encrypt(chunks, sealed, [fresh.recipient, *recipients])
        size = sealed.seek(0, io.SEEK_END)
        crc32 = 0
        for chunk in chunks_of(sealed, 0, size):
            crc32 = zlib.crc32(chunk, crc32)
        layout = Layout([Entry(IDENTITY, len(locked), zlib.crc32(locked)), Entry(CUBE, size, crc32)])
        yield from file_chunks(layout, ([locked], chunks_of(sealed, 0, size)))


# --- reading --------------------------------------------------------------------------------------------------------


def decrypt(source: BinaryIO, out: BinaryIO, identities: Sequence[Identity]) -> None:
    """Write what the age file `source` holds to `out`.

    Raises:
        WrongKey: none of the identities opens it.
        DamagedBundle: it is no whole age file as its maker wrote it.
    """
    _decrypt(_Region(source, 0, source.seek(0, io.SEEK_END)), out, identities)


def open_envelope(file: BinaryIO, out: BinaryIO, identities: Sequence[Identity], passphrase: str | None) -> None:
    """Write what the ZIP of `envelope` holds to `out`. Raises as `decrypt` and `unlock`."""
    identity, locked, end = read_first(file, 0, MAX_IDENTITY_BYTES)
    cube, start = read_header(file, end)
    layout = Layout([identity, cube])
    if (identity.name, cube.name) != (IDENTITY, CUBE):
        raise DamagedBundle(f"it has other members than {IDENTITY} and {CUBE}")
    layout.check(file)
    if passphrase is not None:
        identities = [Identity.parse(unlock(locked, passphrase).decode("ascii", "replace")), *identities]
    region = _Region(file, start, cube.bytes)
    _decrypt(region, out, identities, "it is encrypted with a passphrase: give that")
    if region.crc32 != cube.crc32:
        raise DamagedBundle(f"{CUBE} was changed: its checksum is another one")


def _decrypt(region: _Region, out: BinaryIO, identities: Sequence[Identity], wanted: str | None = None) -> None:
    _check_header(region.start())
    if not identities:
        raise WrongKey(wanted or "it is encrypted: give an identity that opens it")
    source, target = io.BufferedReader(region, CHUNK_BYTES), _Target(out)
    try:
        pyrage.decrypt_io(source, target, [identity._secret for identity in identities])
        region.drain()
    except (pyrage.DecryptError, OSError) as error:
        _raise_first(region, target)
        if "No matching keys" in str(error):
            raise WrongKey("none of the identities that were given opens it") from None
        raise DamagedBundle("it cannot be decrypted: it was changed or cut short") from None


def _check_header(start: bytes) -> None:
    """An age header is read whole, so it must end soon."""
    if not start.startswith(AGE_START) or b"\n--- " not in start:
        raise DamagedBundle("it has no age header of a sane length")
    if start.startswith(AGE_START + b"-> scrypt "):
        raise WrongKey("age itself encrypted it with a passphrase: decrypt it with `age -d` first")


def _raise_first(*sides: _Source | _Target | _Region) -> None:
    """Raise what a side of ours raised: pyrage only passes its text on."""
    for side in sides:
        if side.failure is not None:
            raise side.failure


class _Source(io.RawIOBase):
    """Chunks as a file to be read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.failure: BaseException | None = None
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            while not self._rest:
                self._rest = memoryview(next(self._chunks))
        except StopIteration:
            return b""
        except BaseException as error:
            self.failure = error
            raise
        found = bytes(self._rest if size < 0 else self._rest[:size])
        self._rest = self._rest[len(found) :]
        return found


class _Target(io.RawIOBase):
    """A file to be written, that remembers why it could not be."""

    def __init__(self, out: BinaryIO) -> None:
        self.failure: BaseException | None = None
        self._out = out

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        try:
            write_all(self._out, data, "a scratch file")
        except BaseException as error:
            self.failure = error
            raise
        return len(data)


class _Region(io.RawIOBase):
    """A part of a file, read once from front to back; `crc32` is that of what was read."""

    def __init__(self, file: BinaryIO, offset: int, count: int) -> None:
        self.failure: BaseException | None = None
        self.crc32 = 0
        self._file, self._at, self._end = file, offset, offset + count

    def start(self) -> bytes:
        return read_at(self._file, self._at, min(MAX_AGE_HEADER_BYTES, self._end - self._at))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = min(len(buffer), self._end - self._at)
        try:
            found = read_at(self._file, self._at, count)
        except UnusableFile as error:
            self.failure = error
            raise
        buffer[: len(found)] = found
        self._at += len(found)
        self.crc32 = zlib.crc32(found, self.crc32)
        return len(found)

    def drain(self) -> None:
        """Read what is left."""
        while self.read(CHUNK_BYTES):
            pass
