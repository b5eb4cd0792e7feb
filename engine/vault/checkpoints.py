"""Checkpoints: the bytes from which a training that was killed goes on, in files of their own, sealed as the vault is.

A checkpoint holds what was learned from memories, so it goes as they do: once it was dropped, nothing is written in its
place any more, however far the training is. A name is that of the work that it belongs to. Nothing here knows what the
bytes are.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection
from pathlib import Path

from engine.errors import Corrupt, Unavailable
from engine.files import sync_folder
from engine.settings import Settings
from engine.vault.sealing import UNSEALED, Sealer

SUFFIX = ".safetensors"
PARTIAL = ".partial"


class Checkpoint:
    """The file of one training. Safe to use from any thread."""

    def __init__(self, path: Path, sealer: Sealer = UNSEALED) -> None:
        self.path = path
        self.stays = False  # at the end of the training: the process ends, and another one is to go on
        self._sealer, self._place = sealer, f"checkpoint:{path.name}"
        self._lock = threading.Lock()
        self._dropped = False

    def read(self) -> bytes | None:
        """What was written last; None: nothing, or nothing that can be read."""
        try:
            return self._sealer.read_blob(self.path.read_bytes(), self._place)
        except (OSError, Corrupt):
            return None

    def write(self, content: bytes) -> None:
        """Put this in place of what was written before, if it was not dropped.

        Raises:
            Unavailable: it cannot be written.
        """
        partial = self.path.with_name(self.path.name + PARTIAL)
        with self._lock:
            if self._dropped:
                return
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(self._sealer.blob(content, self._place))
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self.path)
                sync_folder(self.path.parent)
            except OSError as error:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise Unavailable(f"the checkpoint {self.path.name} cannot be written: {error.strerror}") from error

    def end(self) -> None:
        """The training is over, one way or the other."""
        if not self.stays:
            self.drop()

    def drop(self) -> None:
        """Remove it, for good."""
        with self._lock:
            self._dropped = True
            self.path.unlink(missing_ok=True)


def checkpoint_of(settings: Settings, work: str, sealer: Sealer) -> Checkpoint:
    return Checkpoint(settings.checkpoints_folder / (work + SUFFIX + sealer.suffix), sealer)


def sweep_checkpoints(settings: Settings, sealer: Sealer, needed: Collection[str]) -> frozenset[str]:
    """Remove all but those of the work with these ids; the ids of those that are there."""
    folder, found = settings.checkpoints_folder, set[str]()
    for path in folder.iterdir() if folder.is_dir() else ():
        id = path.name.removesuffix(SUFFIX + sealer.suffix)
        if id in needed and path.name.endswith(SUFFIX + sealer.suffix):
            found.add(id)
        else:
            path.unlink(missing_ok=True)
    return frozenset(found)
