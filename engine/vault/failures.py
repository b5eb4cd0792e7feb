"""What the database and the file system refuse, as the engine's errors.

Damaged bytes are `Corrupt`; what the machine lacks (space, memory, a right, a folder) is `Unavailable` and says which;
what passes by itself is `Busy`. A statement that DuckDB does not understand is a mistake of ours and stays what it is.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import duckdb

from engine.errors import Busy, Corrupt, Invalid, Unavailable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_SIGNS = ("no space left", "could not write", "quota exceeded", "file too large")
_DENIED_SIGNS = ("permission denied", "read-only file system", "operation not permitted", "too many open files")
_DAMAGE_SIGNS = (
    "corrupt",
    "checksum",
    "not a valid duckdb database",
    "deserialize",
    "serialization error",
    "failed to replay",
    "could not read enough bytes",
)
_DISK_FULL = "the disk is full: nothing was changed; free some space, then try again"


@contextlib.contextmanager
def explaining() -> Iterator[None]:
    """Raise what fails inside as one of the engine's errors."""
    try:
        yield
    except (OSError, duckdb.Error) as error:
        told = explained(error)
        if told is error:
            raise
        raise told from error


def explained(error: Exception) -> Exception:
    """A failure of the database or of the file system as one of the engine's errors; anything else as it is."""
    if isinstance(error, OSError):
        return _of_system(error)
    return _of_database(error) if isinstance(error, duckdb.Error) else error


def _of_system(error: OSError) -> Exception:
    if error.errno in _FULL:
        return Unavailable(_DISK_FULL)
    where = f"{error.filename}: " if error.filename else ""
    return Unavailable(f"{where}{error.strerror or type(error).__name__}: make it usable, then try again")


def _of_database(error: duckdb.Error) -> Exception:
    lacking = what_lacks(error)
    if lacking is not None:
        return lacking
    if is_damage(error):
        return Corrupt(
            "the vault's database file is damaged: nothing was changed; "
            "stop the daemon and run `memos-mcp doctor`, which names the last good backup"
        )
    if "cannot encode str as UTF-8" in str(error):
        return Invalid("a text of the request holds a lone surrogate: take it out and send it again")
    if isinstance(error, (duckdb.TransactionException, duckdb.InterruptException)):
        return Busy("the database was interrupted: nothing was changed; try again")
    if isinstance(error, duckdb.ConnectionException):
        return Unavailable("the database is closed: stop the daemon with `memos-mcp stop`, then try again")
    if isinstance(error, duckdb.IOException):
        return Unavailable("the database's files cannot be used: run `memos-mcp doctor`, which says what is wrong")
    return error


def what_lacks(error: duckdb.Error) -> Unavailable | None:
    """What the machine lacks, if that is why DuckDB failed (it may have given up on the database because of it)."""
    text = str(error).lower()
    if any(sign in text for sign in _FULL_SIGNS):
        return Unavailable(_DISK_FULL)
    if isinstance(error, duckdb.OutOfMemoryException) or "out of memory error" in text:
        return Unavailable("there is not enough memory for this: nothing was changed; close something, then try again")
    for sign in _DENIED_SIGNS:
        if sign in text:
            return Unavailable(f"the database's files cannot be used: {sign}; put that right, then try again")
    return None


def is_damage(error: duckdb.Error) -> bool:
    """Whether a DuckDB error says that stored bytes are not what was written."""
    text = str(error).lower()
    return isinstance(error, (duckdb.InternalException, duckdb.FatalException)) or any(
        sign in text for sign in _DAMAGE_SIGNS
    )
