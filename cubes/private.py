"""Files that hold secrets: made so that only their owner reads them, and refused where others can."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cubes.errors import UnusableFile
from cubes.limits import MAX_KEY_FILE_BYTES

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write_private(path: Path, content: bytes) -> None:
    """Make a new file of mode 0600 with this content.

    Raises:
        UnusableFile: something is there already, or the folder cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UnusableFile(f"{path} is there already: a key is never written over, move it away first") from None
    except OSError as error:
        raise UnusableFile(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def read_private(path: Path) -> bytes:
    """What a file of keys holds.

    Raises:
        UnusableFile: it is missing, no file, too large, or others may read it.
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise UnusableFile(f"{path} is no file")
            if os.name != "nt" and about.st_mode & _OTHERS:
                raise UnusableFile(f"{path} can be read by others: run chmod 600 on it, and make a new key if in doubt")
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_KEY_FILE_BYTES:
        raise UnusableFile(f"{path} is too large for a file of keys")
    return content
