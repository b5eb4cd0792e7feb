"""Where an import is read from: a file, a folder, a zip or a pipe, seen as named members that are streams of bytes.

Nothing is extracted to disk, so a member's name is only a name. Whatever a file claims about its size, reading is
bounded: what expands too far is refused with one clear error. Hidden files of a folder are not members. Symbolic links
are not followed.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from engine.errors import Invalid, TooLarge

HEAD_BYTES = 64 * 1024  # what a format is recognised by
MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 64 << 30
MAX_EXPANSION = 500  # text shrinks to a tenth, and machine-made text to a hundredth: more is made to harm
BOMB_FROM_BYTES = 64 << 20  # below, expansion harms nobody
ZIP_MARK, GZIP_MARK = b"PK\x03\x04", b"\x1f\x8b"
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, OSError)


class _Bytes(io.RawIOBase):
    """A stream that counts what is read, bounds it, and names the member when it is damaged."""

    def __init__(self, stream: BinaryIO, name: str, most: int, read: Callable[[int], None]) -> None:
        self._stream, self._name, self._left, self._read = stream, name, most, read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except DAMAGE as error:
            raise Invalid(f"{self._name} is damaged or cannot be read: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(f"{self._name} expands far beyond what such a file holds: it is not read on")
        buffer[: len(data)] = data
        self._read(len(data))
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Store(Protocol):
    """Where the members are: their names, and each as a stream with the most bytes that it may give."""

    names: tuple[str, ...]

    def open(self, name: str) -> tuple[BinaryIO, int]: ...


@dataclass(slots=True)
class Source:
    """`name` is what the person called it; `size` its bytes, None where nobody knows."""

    name: str
    size: int | None
    is_collection: bool
    _store: _Store
    read: Callable[[int], None] = field(default=lambda count: None)
    hidden: int = 0  # hidden files that are not looked at
    packed: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        return self._store.names

    def called(self, member: str) -> str:
        """The member, as messages name it."""
        return f"{member} in {self.name}" if self.is_collection else self.name

    @contextlib.contextmanager
    def open(self, member: str) -> Iterator[BinaryIO]:
        """The member's bytes; gzip is opened.

        Raises:
            Invalid, TooLarge: also while reading: it is damaged, encrypted, or expands too far.
        """
        stream, most = self._opened(member)
        called = self.called(member)
        with io.BufferedReader(_Bytes(stream, called, most, self.read)) as raw:
            if raw.peek(2)[:2] != GZIP_MARK:
                yield cast(BinaryIO, raw)
                return
            expanded = cast(BinaryIO, gzip.GzipFile(fileobj=raw))
            most = max(BOMB_FROM_BYTES, min(MAX_MEMBER_BYTES, most * MAX_EXPANSION))
            with io.BufferedReader(_Bytes(expanded, called, most, lambda count: None)) as inside:
                yield cast(BinaryIO, inside)

    def head(self, member: str) -> bytes:
        """How the member begins; empty where that cannot be read."""
        watching, self.read = self.read, lambda count: None
        try:
            with self.open(member) as stream:
                return stream.read(HEAD_BYTES)
        except Invalid:
            return b""
        finally:
            self.read = watching

    def _opened(self, member: str) -> tuple[BinaryIO, int]:
        try:
            return self._store.open(member)
        except DAMAGE as error:
            raise Invalid(f"{self.called(member)} cannot be read: {error}") from error


@dataclass(slots=True)
class _Files:
    root: Path
    names: tuple[str, ...]

    def open(self, name: str) -> tuple[BinaryIO, int]:
        path = self.root / name
        return path.open("rb"), MAX_MEMBER_BYTES


@dataclass(slots=True)
class _Zip:
    archive: zipfile.ZipFile
    names: tuple[str, ...]

    def open(self, name: str) -> tuple[BinaryIO, int]:
        about = self.archive.getinfo(name)
        if about.flag_bits & 1:
            raise Invalid(f"{name} is locked with a password: unpack it first, and import the folder")
        expands = about.file_size / max(about.compress_size, 1)
        if about.file_size > MAX_MEMBER_BYTES or (about.file_size > BOMB_FROM_BYTES and expands > MAX_EXPANSION):
            raise TooLarge(f"{name} expands to {about.file_size} bytes, {expands:.0f} times its size: it is not read")
        return cast(BinaryIO, self.archive.open(about)), about.file_size


@dataclass(slots=True)
class _Pipe:
    """Standard input: it is read once, but how it begins may be looked at first."""

    stream: BinaryIO
    names: tuple[str, ...]
    begun: bytes = b""

    def open(self, name: str) -> tuple[BinaryIO, int]:
        self.begun = self.begun or self.stream.read(HEAD_BYTES)
        return cast(BinaryIO, io.BufferedReader(_Again(self))), MAX_MEMBER_BYTES


class _Again(io.RawIOBase):
    """The beginning that is kept, and then the rest of the pipe."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe, self._at = pipe, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        begun = self._pipe.begun
        if self._at < len(begun):
            data = begun[self._at : self._at + len(buffer)]
            self._at += len(data)
        else:
            data = self._pipe.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def only(source: Source) -> str:
    """The one file that there is.

    Raises:
        Invalid: there are several, or none.
    """
    if len(source.members) != 1:
        raise Invalid(f"{source.name} holds {len(source.members)} files: name the one to import")
    return source.members[0]


# --- opening --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Source]:
    """The file, folder or zip at `path`.

    Raises:
        Invalid: it is not there or cannot be read.
    """
    try:
        if path.is_dir():
            names, hidden = _walked(path)
            size = sum((path / name).stat().st_size for name in names)
            yield Source(str(path), size, True, _Files(path, names), hidden=hidden)
            return
        size = path.stat().st_size
        with path.open("rb") as file:
            is_zip = file.read(4) == ZIP_MARK
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}") from error
    if not is_zip:
        yield Source(str(path), size, False, _Files(path.parent, (path.name,)))
        return
    with _archive(path) as archive:
        names = tuple(dict.fromkeys(name for name in archive.namelist() if not _is_clutter(name)))
        yield Source(str(path), None, True, _Zip(archive, names), packed=True)


def piped(stream: BinaryIO, name: str) -> Source:
    """What comes through a pipe; `name` is how messages call it."""
    return Source(name, None, False, _Pipe(stream, (name,)))


def of_bytes(data: bytes, name: str) -> Source:
    return piped(io.BytesIO(data), name)


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (*DAMAGE, ValueError) as error:
        raise Invalid(f"{path} is not a whole zip file: {error}") from error
    with archive:
        if len(archive.infolist()) > MAX_MEMBERS:
            raise TooLarge(f"{path} holds more than {MAX_MEMBERS} files")
        yield archive


def _is_clutter(name: str) -> bool:
    """Folders, and what systems leave in zips."""
    return name.endswith("/") or name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith(".")


def _walked(root: Path) -> tuple[tuple[str, ...], int]:
    """Names below `root`, in order, and how many hidden ones there are."""
    names: list[str] = []
    hidden = 0
    for folder, folders, files in os.walk(root):
        kept = sorted(name for name in folders if not name.startswith("."))
        hidden += len(folders) - len(kept)
        folders[:] = kept
        for name in sorted(files):
            path = Path(folder, name)
            if name.startswith("."):
                hidden += 1
            elif path.is_file() and not path.is_symlink():
                names.append(path.relative_to(root).as_posix())
        if len(names) > MAX_MEMBERS:
            raise TooLarge(f"{root} holds more than {MAX_MEMBERS} files")
    return tuple(names), hidden
