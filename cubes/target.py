"""A file that is there whole or not at all: written without a name or under a partial one, made durable, then named."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, cast

from cubes.errors import UnusableFile

PARTIAL = ".partial"  # ends the name of a file that is not finished


@dataclass(frozen=True, slots=True)
class WrittenFile:
    bytes: int
    digest: str  # sha256:<hex>


def scratch(folder: Path | None) -> BinaryIO:
    """A private file without a name: it is gone when it is closed, or the process ends in whatever way."""
    usable = folder if folder is not None and os.access(folder, os.W_OK) else None
    with writing(folder or Path(tempfile.gettempdir())):
        return cast(BinaryIO, tempfile.TemporaryFile(dir=usable, buffering=0))


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn what the system says against writing into `UnusableFile`."""
    try:
        yield
    except OSError as error:
        raise UnusableFile(f"{path} cannot be written: {error.strerror}") from error


def check_target(path: Path, replace: bool) -> None:
    """Refuse a target before work is spent on it.

    Raises:
        UnusableFile: it is in the way, or its folder is not there.
    """
    if not path.parent.is_dir():
        raise UnusableFile(f"{path.parent} is no folder: make it first")
    if path.is_dir():
        raise UnusableFile(f"{path} is a folder: name a file")
    if not replace and os.path.lexists(path):
        raise UnusableFile(f"{path} is there already: say that it may be replaced, or take another name")


def write_target(path: Path, chunks: Iterable[bytes], replace: bool) -> WrittenFile:
    """Write the file of mode 0600; when anything is raised, also out of `chunks`, nothing is left of it.

    Raises:
        UnusableFile: it is in the way, or cannot be written.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}{PARTIAL}")
    hashed, size = hashlib.sha256(), 0
    with writing(path):
        descriptor = _unfinished(path.parent, partial)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for chunk in chunks:
                write_all(file, chunk, path)
                hashed.update(chunk)
                size += len(chunk)
            with writing(path):
                os.fsync(file.fileno())
                if not partial.exists():  # it has no name yet: only now it gets one
                    # A directory handle makes it linkat(2), which follows the link that stands in /proc.
                    os.link(f"/proc/self/fd/{file.fileno()}", partial, src_dir_fd=file.fileno())
        with writing(path):
            _publish(partial, path, replace)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return WrittenFile(size, f"sha256:{hashed.hexdigest()}")


def _unfinished(folder: Path, partial: Path) -> int:
    """A file to be written: without a name where the system can do that, so that a killed process leaves nothing."""
    nameless = getattr(os, "O_TMPFILE", 0)
    if nameless and os.path.isdir("/proc/self/fd"):
        try:
            return os.open(folder, os.O_WRONLY | nameless, 0o600)
        except OSError:  # a file system that has none
            pass
    return os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)


def write_all(file: RawIOBase | BinaryIO, chunk: bytes, path: Path | str) -> None:
    """Write all of the chunk to a file for `path`. Raises `UnusableFile`, as where the disk is full."""
    rest = memoryview(chunk)
    with writing(path):
        while rest:
            rest = rest[file.write(rest) or 0 :]


def _publish(partial: Path, path: Path, replace: bool) -> None:
    if replace:
        os.replace(partial, path)
        return
    try:
        os.link(partial, path)  # unlike a rename, it never writes over what came there meanwhile
    except FileExistsError:
        check_target(path, replace)
    except OSError:  # a file system without links
        check_target(path, replace)
        os.rename(partial, path)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
