"""What lies in a watched folder: notes, bundles, and what is passed over, with why.

Only names and stats are read here, and files' bytes where they are asked for; nothing is decided about memory. Hidden
files and folders are passed over in silence, and so is every file that is no note. A folder behind a symbolic link is
never entered, and a link to a file counts only where the file lies in the folder too: what is shown as a cube is what
was put into the folder. Whatever cannot be read is a problem of that file, and never an error.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine.operations import MAX_SOURCE_CHARS

NOTE_ENDINGS = (".md", ".markdown", ".txt")
BUNDLE_ENDING = ".memcube"
MAX_FILES = 50_000  # of one folder
MAX_NOTE_BYTES = 4_000_000
RACY_NS = 60_000_000  # a file that was changed less than this before it was looked at may change without other times
READ_BYTES = 1 << 16


class Stopped(Exception):
    """Raised out of a scan that is to end."""


class Unreadable(Exception):
    """A file that cannot be read now; the message says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Look:
    """A file as its stat shows it: what is equal is unchanged, unless it is `racy`."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    racy: bool = field(default=False, compare=False)


@dataclass(slots=True)
class Scan:
    """Paths are relative to the folder, with `/` between their parts."""

    notes: dict[str, Look] = field(default_factory=dict)
    bundles: dict[str, Look] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)  # files and folders that could not be looked at ("": all others)

    def could_hold(self, path: str) -> bool:
        """Whether a path that was not found may be there all the same."""
        return any(not place or path == place or path.startswith(f"{place}/") for place in self.unseen)


def scan(root: Path, now_ns: int, stopped: Callable[[], bool]) -> Scan:
    """Everything in `root`, nested folders too.

    Raises:
        OSError: the folder itself is gone, also if it went meanwhile: files that went with it were not removed.
        Stopped: `stopped` said so.
    """
    found = Scan()
    real = os.path.realpath(root)
    pending = [("", os.fspath(real))]
    before = os.stat(real)
    first = True
    while pending:
        under, folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    _look(entry, under, real, now_ns, found, pending)
        except OSError as error:
            if first or not os.path.isdir(real):
                raise
            if not isinstance(error, FileNotFoundError):
                found.problems[_shown(under)] = _why(error)
                found.unseen.add(under)
        first = False
        if stopped():
            raise Stopped
        if len(found.notes) + len(found.bundles) > MAX_FILES:
            found.problems[_shown(under) or "."] = f"there are more than {MAX_FILES} files: the rest is not read"
            found.unseen.add("")
            break
    if not os.path.samestat(before, os.stat(real)):
        raise FileNotFoundError(errno.ENOENT, "another folder is there now", real)
    return found


def _look(
    entry: os.DirEntry[str], under: str, real: str, now_ns: int, found: Scan, pending: list[tuple[str, str]]
) -> None:
    name = entry.name
    if name.startswith("."):
        return
    path = f"{under}/{name}" if under else name
    ending = os.path.splitext(name)[1].lower()
    try:
        if entry.is_dir(follow_symlinks=False):
            pending.append((path, entry.path))
            return
        if ending not in NOTE_ENDINGS and ending != BUNDLE_ENDING:
            return
        if (wrong := _wrong_name(path)) is not None:
            found.problems[_shown(path)] = wrong
            return
        if entry.is_symlink() and not _is_inside(entry.path, real):
            found.problems[path] = "it is a link that leaves the folder"
            return
        seen = entry.stat()
        if not stat.S_ISREG(seen.st_mode):
            if not stat.S_ISDIR(seen.st_mode):
                found.problems[path] = "it is no ordinary file"
            return
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            found.problems[_shown(path)] = _why(error)
            found.unseen.add(path)
        return
    (found.bundles if ending == BUNDLE_ENDING else found.notes)[path] = look_of(seen, now_ns)


def look_of(seen: os.stat_result, now_ns: int) -> Look:
    newest = max(seen.st_mtime_ns, seen.st_ctime_ns)
    return Look(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, racy=abs(now_ns - newest) < RACY_NS)


def read_file(root: Path, path: str, max_bytes: int) -> bytes:
    """The bytes of a file in the folder, which `scan` found there.

    Raises:
        FileNotFoundError: it is gone by now.
        Unreadable: it cannot be read, is too large, or has become something else than a file.
    """
    real = os.path.realpath(root)
    place = os.path.join(real, *path.split("/"))
    if os.path.islink(place):
        if not _is_inside(place, real):
            raise Unreadable("it is a link that leaves the folder")
        place = os.path.realpath(place)
    try:
        descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(_why(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise Unreadable("it is no ordinary file")
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise Unreadable(_why(error)) from error
    if len(data) > max_bytes:
        raise Unreadable(f"it is larger than {max_bytes / 1e6:.0f} MB")
    return data


def _is_inside(place: str, real: str) -> bool:
    target = os.path.realpath(place)
    parts = os.path.relpath(target, real).split(os.sep)
    return os.path.isfile(target) and not any(part.startswith(".") for part in parts)


def _wrong_name(path: str) -> str | None:
    if len(path) > MAX_SOURCE_CHARS:
        return "its path is too long"
    return None if path.isprintable() else "its name holds characters that are not printable"


def _shown(path: str) -> str:
    """A path that can be shown and stored, whatever the file system holds."""
    return "".join(char if char.isprintable() else "?" for char in path[:MAX_SOURCE_CHARS])


def _why(error: OSError) -> str:
    return f"it cannot be read: {(error.strerror or type(error).__name__).lower()}"
