"""What is written into the vault where a person's words would stand: the words themselves, or sealed ones.

Everything that the vault stores of contents, headers, reasons and vectors goes through one `Sealer`. The plain one
changes nothing. `place` names the row and column that a value stands in: a sealed value that is moved elsewhere by
somebody who can write the file does not open there. Files beside the database (blobs) go through it as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol

CHUNK_BYTES = 64 * 1024
SEALING = "sealing"  # the row of `meta` with the wrapped key: a vault that has it is sealed


class Sealer(Protocol):
    """Seals what is stored and opens what was stored.

    Raises (when opening):
        Corrupt: the value was changed, moved to another place, or sealed under another key.
    """

    @property
    def plain(self) -> bool:
        """Whether stored values are readable without a key."""

    def text(self, value: str, place: str) -> str: ...

    def read_text(self, stored: str, place: str) -> str: ...

    def blob(self, value: bytes, place: str) -> bytes: ...

    def read_blob(self, stored: bytes, place: str) -> bytes: ...

    def name(self, value: str) -> str:
        """As `text`, but equal values give equal results: for columns that are compared."""

    def read_name(self, stored: str) -> str: ...

    @property
    def suffix(self) -> str:
        """What the names of sealed files end in, so that a sealed and a plain one can stand side by side."""

    def seal_file(self, content: Iterable[bytes], target: BinaryIO, place: str) -> None:
        """Write `content` to an open file, in bounded memory."""

    def open_file(self, source: BinaryIO, place: str) -> Iterator[bytes]:
        """What `seal_file` wrote, piece by piece. Nothing of it counts before the last piece was given."""


class Unsealed:
    """Stores everything as it is."""

    plain = True
    suffix = ""

    def text(self, value: str, place: str) -> str:
        return value

    def read_text(self, stored: str, place: str) -> str:
        return stored

    def blob(self, value: bytes, place: str) -> bytes:
        return value

    def read_blob(self, stored: bytes, place: str) -> bytes:
        return stored

    def name(self, value: str) -> str:
        return value

    def read_name(self, stored: str) -> str:
        return stored

    def seal_file(self, content: Iterable[bytes], target: BinaryIO, place: str) -> None:
        for piece in content:
            target.write(piece)

    def open_file(self, source: BinaryIO, place: str) -> Iterator[bytes]:
        while piece := source.read(CHUNK_BYTES):
            yield piece


UNSEALED = Unsealed()
