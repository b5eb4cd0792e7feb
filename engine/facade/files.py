"""The part of the facade for what comes in and goes out: exports, backups, mounts, shelves, bundles.

Thin calls, as the rest of the facade.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cubes import Action
from engine import dumper, loader, transfer, upkeep
from engine.cube_operations import Artifact, CubeFile, Install, Installed, Mount, Pack, Packed, Publish, Shelved
from engine.errors import Invalid, NotAllowed
from engine.facade.wiring import Wired
from engine.governance.access import granted
from engine.operations import Caller, Progress, silent
from engine.store import publishing


class Files(Wired):
    """What can be brought in and taken out."""

    # --- in, out, upkeep -----------------------------------------------------------------------------------------

    def export_memories(self, caller: Caller, cubes: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """One plain object a memory. See `engine.transfer`."""
        return transfer.export_memories(self._parts, caller, cubes)

    def import_memories(
        self,
        records: Iterable[Mapping[str, Any]],
        caller: Caller,
        progress: Progress = silent,
        *,
        dry_run: bool = False,
        facts: bool = False,
    ) -> transfer.ImportReport:
        """Put in what was given out. See `engine.transfer`. `facts`: have the reader draw them from turns, afterwards.

        Raises:
            Unavailable: `facts`, and there is no reader.
        """
        noting = self._drawing.noting_asked(caller) if facts else None
        return transfer.import_memories(self._parts, records, caller, progress, dry_run=dry_run, noting=noting)

    def backup(self, path: Path, caller: Caller, progress: Progress = silent) -> Path:
        """Write a copy of the whole store to `path`, which must not exist.

        Raises:
            NotAllowed: the caller is not the owner.
            Invalid: there is something at `path`, or it cannot be written.
        """
        if not granted(caller.principal, "*", Action.ADMIN):
            raise NotAllowed("backups are for the owner of the store")
        progress(0, 1, "copying")
        path = path.absolute()
        try:
            taken = path.exists()
        except OSError as error:
            raise Invalid(f"a backup cannot be written there: {error.strerror}") from error
        if taken:
            raise Invalid(f"{path} exists: a backup never replaces a file; choose another name")
        if not path.parent.is_dir() and path.parent != self._parts.vault.settings.backups_folder:
            raise Invalid(f"{path.parent} is no folder: make it first, or choose another place for the backup")
        # Noted first: an erasure that comes in between must know of the copy.
        self._parts.vault.write(lambda transaction: transaction.audit("backup", "", path=str(path)), caller)
        made = self._parts.vault.backup(path)
        progress(1, 1, "done")
        return made

    def verify(self, caller: Caller) -> tuple[str, ...]:
        """What is wrong with the store; empty: nothing that this program can find."""
        if not granted(caller.principal, "*", Action.ADMIN):
            raise NotAllowed("checking the store is for its owner")
        return upkeep.problems(self._parts)

    # --- mounts and shelves ------------------------------------------------------------------------------------

    def mount(self, path: Path, caller: Caller, name: str | None = None) -> Mount:
        """Show a folder of notes or bundles, or a bundle, as a read-only cube. See `engine.watcher`."""
        return self._watcher.mount(path, caller, name)

    def unmount(self, name: str, caller: Caller) -> None:
        """Take a mount away, by the name of its cube or by its path; its files stay."""
        self._watcher.unmount(name, caller)

    def mounts(self, caller: Caller) -> tuple[Mount, ...]:
        """What is mounted, and how each mount does."""
        return self._watcher.mounts(caller)

    def publish(self, request: Publish, caller: Caller, progress: Progress = silent) -> Packed:
        """Put a cube or a bundle onto a shelf. See `engine.store`."""
        return publishing.publish(self._parts, request, caller, progress)

    def shelf(self, url: str, caller: Caller, query: str | None = None) -> tuple[Shelved, ...]:
        """The bundles on a shelf, or those that a query finds. See `engine.store`."""
        return publishing.listed(url, caller, query)

    # --- bundles -------------------------------------------------------------------------------------------------

    def pack(self, request: Pack, caller: Caller, progress: Progress = silent) -> Packed:
        """Write a cube into one file. See `engine.dumper`."""
        self._recalling.write_uses()
        self._answering.flush()
        return dumper.pack(self._parts, request, caller, progress)

    def install(self, request: Install, caller: Caller, progress: Progress = silent) -> Installed:
        """Make a bundle a cube of this store, or bring a cube up to it. See `engine.loader`."""
        with publishing.bundle_of(self._parts, request.source, caller, progress) as (path, shown):
            asked = replace(request, source=shown)
            installed = loader.install(self._parts, path, asked, caller, progress, model=self._answering.fingerprint)
        self._work.set()  # its index is made, and vectors that it lacks
        return installed

    def inspect(self, path: Path, passphrase_file: Path | None = None) -> CubeFile:
        """What a bundle says of itself. See `engine.loader`."""
        return loader.inspect(self._parts.vault.settings, path, passphrase_file)

    def artifacts(self, cube: str, caller: Caller) -> tuple[Artifact, ...]:
        """What was derived from memories of a cube. See `engine.loader`."""
        return loader.listed(self._parts, cube, caller, self._answering.fingerprint)
