"""The folder lock: one process at a time has a vault open.

The lock is an advisory lock on a file of its own, which is never removed (removing it would let two processes hold
"the" lock on two inodes) and never the database file itself (DuckDB's own lock is dropped when any descriptor of the
file is closed in the process that holds it). The holder writes its process id into the file, for messages only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.errors import Busy

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class FolderLock:
    """Holds `path` locked until `release`.

    Raises:
        Busy: another process holds it; the message names that process.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        if not _try_lock(self._descriptor):
            holder = os.pread(self._descriptor, 32, 1).decode("ascii", "replace").strip() if os.name != "nt" else ""
            os.close(self._descriptor)
            who = f"process {holder}" if holder else "another process"
            raise Busy(f"the store in {path.parent} is open in {who}: stop it with `memos-mcp stop`, then try again")
        os.ftruncate(self._descriptor, 0)
        # Byte 0 is the locked one on Windows; the text stands behind it.
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, f" {os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._descriptor)
