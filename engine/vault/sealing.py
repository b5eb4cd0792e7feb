"""What is written into the vault where a person's words would stand: the words themselves, or sealed ones.

Everything that the vault stores of contents, headers, reasons and vectors goes through one `Sealer`. The plain one
changes nothing. `place` names the row and column that a value stands in: a sealed value that is moved elsewhere by
somebody who can write the file does not open there.
"""

from __future__ import annotations

from typing import Protocol


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


class Unsealed:
    """Stores everything as it is."""

    plain = True

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


UNSEALED = Unsealed()
