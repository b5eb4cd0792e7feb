"""The outside of a bundle: a ZIP file of which every byte follows from the names, sizes and CRCs of its members.

Any unzip reads it, but there is only one way to write it: members are stored one after another from byte 0, with fixed
dates, flags and attributes, no comments and no extra fields but the 64-bit sizes where a value needs them, then the
central directory, then nothing. A reader rebuilds every header and compares the bytes, so a changed bit is found
anywhere, and no two programs can see different members. Knows nothing of what the members hold.
The format of the headers is that of APPNOTE.TXT 6.3.10 by PKWARE.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cubes.errors import DamagedBundle, TooLargeBundle, UnusableFile

CHUNK_BYTES = 1 << 20
MAX_NAME_BYTES = 128  # the longest name of the format has 87

_LOCAL, _CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
_END64, _LOCATOR, _END = b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"
_LOCAL_BYTES = 30
_PLAIN_VERSION, _ZIP64_VERSION = 20, 45
_UNIX = 3 << 8
_TIME, _DATE = 0, 33  # 1980-01-01 00:00: the first moment that a ZIP can name
_ATTRIBUTES = 0o100600 << 16  # a regular file that only its owner reads
_FULL = 0xFFFFFFFF  # a 32-bit field that says: see the extra field
_NAME = re.compile(rb"[a-z0-9]+(?:[./][a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Entry:
    """A member as the headers describe it."""

    name: str
    bytes: int
    crc32: int


def local_header(entry: Entry) -> bytes:
    name = entry.name.encode("ascii")
    large = entry.bytes >= _FULL
    extra = struct.pack("<HHQQ", 1, 16, entry.bytes, entry.bytes) if large else b""
    size = _FULL if large else entry.bytes
    version = _ZIP64_VERSION if large else _PLAIN_VERSION
    fixed = struct.pack(
        "<4sHHHHHIIIHH", _LOCAL, version, 0, 0, _TIME, _DATE, entry.crc32, size, size, len(name), len(extra)
    )
    return fixed + name + extra


def _central_header(entry: Entry, offset: int) -> bytes:
    name = entry.name.encode("ascii")
    large, far = entry.bytes >= _FULL, offset >= _FULL
    wide = struct.pack("<QQ", entry.bytes, entry.bytes) if large else b""
    wide += struct.pack("<Q", offset) if far else b""
    extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
    size = _FULL if large else entry.bytes
    version = _ZIP64_VERSION if wide else _PLAIN_VERSION
    fixed = struct.pack(
        "<4sHHHHHHIIIHHHHHII",
        *(_CENTRAL, _UNIX | version, version, 0, 0, _TIME, _DATE, entry.crc32, size, size, len(name), len(extra)),
        *(0, 0, 0, _ATTRIBUTES, _FULL if far else offset),
    )
    return fixed + name + extra


def _end(count: int, size: int, offset: int) -> bytes:
    """The end records. `count` never reaches what 16 bits cannot hold: see `Layout`."""
    wide = b""
    if size >= _FULL or offset >= _FULL:
        wide = struct.pack(
            "<4sQHHIIQQQQ", _END64, 44, _UNIX | _ZIP64_VERSION, _ZIP64_VERSION, 0, 0, count, count, size, offset
        )
        wide += struct.pack("<4sIQI", _LOCATOR, 0, offset + size, 1)
    return wide + struct.pack("<4sHHHHIIH", _END, 0, 0, count, count, min(size, _FULL), min(offset, _FULL), 0)


class Layout:
    """Where everything stands in the file that has these members in this order."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        if len(entries) >= 0xFFFF:
            raise TooLargeBundle(f"{len(entries)} members are too many for one file")
        self.entries = tuple(entries)
        offset, starts = 0, []
        central = bytearray()
        for entry in entries:
            central += _central_header(entry, offset)
            starts.append(offset + len(local_header(entry)))
            offset = starts[-1] + entry.bytes
        self.starts = tuple(starts)  # of the contents
        self.tail = bytes(central) + _end(len(entries), len(central), offset)
        self.tail_start = offset
        self.bytes = offset + len(self.tail)

    def check(self, file: BinaryIO) -> None:
        """Compare all that is not content with what a writer would have written.

        Raises:
            DamagedBundle: the first difference.
        """
        size = file_bytes(file)
        if size < self.bytes:
            raise DamagedBundle(f"it is cut short: {self.bytes - size} of {self.bytes} bytes are missing")
        if size > self.bytes:
            raise DamagedBundle(f"there are {size - self.bytes} bytes that do not belong to it")
        for entry, start in zip(self.entries, self.starts, strict=True):
            header = local_header(entry)
            if read_at(file, start - len(header), len(header)) != header:
                raise DamagedBundle(f"the header of {entry.name} is not what its manifest says")
        if read_at(file, self.tail_start, len(self.tail)) != self.tail:
            raise DamagedBundle("the directory at its end is not what its manifest says")


def file_bytes(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    """`count` bytes from there, less where the file ends.

    Raises:
        UnusableFile: the file cannot be read.
    """
    try:
        file.seek(offset)
        found = file.read(count)
        while len(found) < count and (more := file.read(count - len(found))):
            found += more
    except OSError as error:
        raise UnusableFile(f"it cannot be read: {error.strerror}") from error
    return found


def read_first(file: BinaryIO, offset: int, limit: int) -> tuple[Entry, bytes, int]:
    """The member whose header stands at `offset`, its whole content, and where it ends.

    Raises:
        DamagedBundle: there is no such header, or the content is not what its CRC says.
        TooLargeBundle: the content has more than `limit` bytes.
    """
    entry, start = read_header(file, offset)
    if entry.bytes > limit:
        raise TooLargeBundle(f"{entry.name} has {entry.bytes} bytes: at most {limit} are allowed")
    content = read_at(file, start, entry.bytes)
    if len(content) < entry.bytes:
        raise DamagedBundle(f"it is cut short within {entry.name}")
    if zlib.crc32(content) != entry.crc32:
        raise DamagedBundle(f"{entry.name} was changed: its checksum is another one")
    return entry, content, start + entry.bytes


def read_header(file: BinaryIO, offset: int) -> tuple[Entry, int]:
    """The member whose header stands at `offset`, and where its content starts. Raises as `read_first`."""
    fixed = read_at(file, offset, _LOCAL_BYTES)
    if len(fixed) < _LOCAL_BYTES or not fixed.startswith(_LOCAL):
        raise DamagedBundle(f"no member starts at byte {offset}")
    method, crc32, size, name_bytes, extra_bytes = (
        *struct.unpack_from("<H", fixed, 8),
        *struct.unpack_from("<I4xIHH", fixed, 14),
    )
    if name_bytes > MAX_NAME_BYTES or extra_bytes > 20:
        raise DamagedBundle(f"the header at byte {offset} is none of this format")
    rest = read_at(file, offset + _LOCAL_BYTES, name_bytes + extra_bytes)
    name = rest[:name_bytes]
    if not _NAME.fullmatch(name):
        raise DamagedBundle(f"a member at byte {offset} has a name that this format does not use")
    if method:
        raise DamagedBundle(f"{name.decode()} is compressed: members are stored as they are")
    if size == _FULL and len(rest) == name_bytes + 20:
        (size,) = struct.unpack_from("<Q", rest, name_bytes + 4)
    entry = Entry(name.decode("ascii"), size, crc32)
    if local_header(entry) != fixed + rest:
        raise DamagedBundle(f"the header of {entry.name} is none of this format")
    return entry, offset + len(fixed) + len(rest)


def starts_like_zip(start: bytes) -> bool:
    return start.startswith(_LOCAL)


def chunks_of(file: BinaryIO, offset: int, count: int) -> Iterator[bytes]:
    """The bytes there, a part at a time.

    Raises:
        DamagedBundle: the file ends before.
    """
    end = offset + count
    while offset < end:
        chunk = read_at(file, offset, min(CHUNK_BYTES, end - offset))
        if not chunk:
            raise DamagedBundle(f"it is cut short: {end - offset} bytes are missing")
        yield chunk
        offset += len(chunk)


def file_chunks(layout: Layout, contents: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """The whole file, a part at a time, from the contents of its members in order."""
    for entry, content in zip(layout.entries, contents, strict=True):
        yield local_header(entry)
        yield from content
    yield layout.tail
