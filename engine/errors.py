"""The errors of the engine. Codes are stable: clients may rely on them.

MemosError
├── NotFound      no such memory, cube or version
├── NotAllowed    the caller's grants do not cover it
├── Invalid       the request breaks a rule; nothing was changed
│   └── TooLarge  a bound was passed
├── Conflict      it changed in the meantime, or its state does not allow the move
├── Frozen        the memory or cube is held against change
├── Expired       a token or memory whose time has passed
├── Unavailable   something needed is missing: the message says what, and how to get it
├── Corrupt       stored data is damaged: the message says what was kept, and where
├── Busy          another process owns the store, or there is too much at once: try again
└── Cancelled     the caller stopped it; nothing was changed

A message names the id and the remedy and holds no memory content.
"""

from __future__ import annotations

from typing import ClassVar


class MemosError(Exception):
    """Base of every failure that a caller is expected to handle."""

    code: ClassVar[str] = "Error"
    retryable: ClassVar[bool] = False


class NotFound(MemosError):
    code = "NotFound"


class NotAllowed(MemosError):
    code = "NotAllowed"


class Invalid(MemosError):
    code = "Invalid"


class TooLarge(Invalid):
    code = "TooLarge"


class Conflict(MemosError):
    code = "Conflict"


class Frozen(MemosError):
    code = "Frozen"


class Expired(MemosError):
    code = "Expired"


class Unavailable(MemosError):
    code = "Unavailable"


class Corrupt(MemosError):
    code = "Corrupt"


class Busy(MemosError):
    code = "Busy"
    retryable = True


class Cancelled(MemosError):
    code = "Cancelled"
