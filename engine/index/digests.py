"""SHA-256 of large files, computed once for as long as the file stays the same.

A model of 90 MB takes 45 ms to digest, which each start would pay. What was found is kept beside the data, keyed by
path, size and modification time in nanoseconds. The record only saves time: unreadable or lost, it is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path


class Digests:
    """Digests of files, remembered in the JSON file `record`."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def sha256(self, path: Path) -> str:
        """The file's SHA-256 in hex.

        Raises:
            OSError: the file cannot be read.
        """
        path = path.resolve(strict=True)
        status = path.stat()
        known = self._load()
        stored = known.get(str(path))
        if isinstance(stored, list) and stored[:2] == [status.st_size, status.st_mtime_ns] and len(stored) == 3:
            return str(stored[2])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        kept = {name: entry for name, entry in known.items() if Path(name).exists()}
        self._save({**kept, str(path): [status.st_size, status.st_mtime_ns, digest]})
        return digest

    def _load(self) -> dict[str, object]:
        try:
            known = json.loads(self._record.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}

    def _save(self, known: dict[str, object]) -> None:
        temporary = self._record.with_name(f"{self._record.name}.{os.getpid()}.new")
        with contextlib.suppress(OSError):  # a folder that cannot be written costs 45 ms a start, no more
            self._record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_text(json.dumps(known, indent=1, sort_keys=True))
            temporary.replace(self._record)
