"""What a caller may do with the versions of adapters: see them, let them serve, drop them, take them out.

An adapter says what its memories say, so a caller who does not see all of them sees no adapter. What must stay true: a
version serves only if it passed the gate here; one that came with a file is judged before it serves. Imports no torch:
what needs tensors is done by the store of adapters, once somebody asks for that.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cubes import Action, Memory
from engine.answering.answering import Answering
from engine.distilling.comparing import judge_adapter
from engine.distilling.opening import manages, sees, version_of
from engine.erasing import lasting_in
from engine.errors import Conflict, Invalid
from engine.governance.access import require
from engine.operations import Caller, InTier, Progress
from engine.parts import Parts, readable_cubes, visible
from engine.tier_operations import AdapterState, AdapterView
from engine.tiers.lora.headers import judged_of, known_pairs, source_pairs, view_of
from engine.vault.adapters import AdapterRow, adapters_of
from engine.vault.artifacts import artifacts_with


class Adapters:
    """The adapters of one store, as callers meet them."""

    def __init__(self, parts: Parts, answering: Answering) -> None:
        self._parts, self._answering = parts, answering

    def views(self, cube: str | None, caller: Caller) -> tuple[AdapterView, ...]:
        """The versions of a cube's adapter, or of all cubes that the caller may read, oldest first.

        Raises:
            NotFound: no such cube for this caller.
        """
        names = {found.name for found in readable_cubes(self._parts, None if cube is None else [cube], caller)}
        with self._parts.vault.reading() as connection:
            rows = [row for row in adapters_of(connection, cube) if row.cube in names]
        return tuple(view_of(row, self._answering.fingerprint) for row in rows if sees(self._parts, row, caller))

    def row(self, cube: str, version: int, caller: Caller, action: Action) -> AdapterRow:
        """A version (0: the one that serves) with which the caller may do `action`.

        Raises:
            NotFound: there is none for this caller.
            NotAllowed: the caller may see it, but not do this.
        """
        self._may(cube, caller, action)
        return version_of(self._parts, self._answering.adapters, cube, version, caller)

    def tiers_of(self, memory: Memory, caller: Caller) -> tuple[InTier, ...]:
        """In which deeper tiers a memory that the caller was given is; what others share with it must be seen, too."""
        with self._parts.vault.reading() as connection:
            found = artifacts_with(connection, [memory.id])
            versions = {row.artifact: row for row in adapters_of(connection, memory.cube)} if found else {}
            seen = visible(connection, {id for row in found for id, _ in row.sources}, caller)
        return tuple(
            InTier(row.kind, row.id, _standing(versions.get(row.id), memory))
            for row in found
            if seen.issuperset(id for id, _ in row.sources)
        )

    def in_words(self, cubes: Collection[str], caller: Caller) -> tuple[tuple[str, str], ...]:
        """Which version of each cube's adapter serves the caller, and how much it knows."""
        with self._parts.vault.reading() as connection:
            rows = [row for row in adapters_of(connection) if row.state is AdapterState.SERVING and row.cube in cubes]
        return tuple((row.cube, _known(row)) for row in rows if sees(self._parts, row, caller))

    def _may(self, cube: str, caller: Caller, action: Action) -> None:
        (found,) = readable_cubes(self._parts, [cube], caller)
        require(caller.principal, found, action)

    def activate(
        self, cube: str, version: int | None, caller: Caller, reason: str | None, progress: Progress
    ) -> AdapterView | None:
        """Let a version serve in place of the one that does; None: none serves any more. Activating can be undone.

        Raises:
            NotFound, NotAllowed: as `row`.
            Conflict: it did not pass the gate here, or was made for another model than the one that is loaded.
            Unavailable: it is to be judged, and there is no model to do it.
        """
        store, reason = self._answering.adapters, lasting_in(self._parts, cube, reason)
        if version is None:
            self._may(cube, caller, Action.WRITE)
            if any(row.state is AdapterState.SERVING for row in self._managed(cube, caller)):
                store.activate(cube, None, caller, reason)
            return None
        row = self.row(cube, version, caller, Action.WRITE)
        self._refuse_other_model(row)
        if judged_of(row.header) is None:
            judge_adapter(self._parts, self._answering, row, caller, progress)
        now = store.activate(cube, row.version, caller, reason)
        return None if now is None else view_of(now, self._answering.fingerprint)

    def _refuse_other_model(self, row: AdapterRow) -> None:
        loaded = self._answering.fingerprint
        if loaded and row.header["model"] != loaded:
            raise Conflict(
                f"version {row.version} of the adapter of cube {row.cube!r} was made for another model than the one "
                f"that is loaded, which would not use it: load that model, or `memos-mcp tier train {row.cube}`"
            )

    def drop(self, cube: str, version: int | None, caller: Caller, reason: str | None) -> int:
        """Drop a version, or all of a cube that are there for the caller; how many there were. The memories stay."""
        store, reason = self._answering.adapters, lasting_in(self._parts, cube, reason)
        if version is not None:
            return store.drop(cube, self.row(cube, version, caller, Action.WRITE).version, caller, reason)
        self._may(cube, caller, Action.WRITE)
        mine = self._managed(cube, caller)
        if len(mine) < len(self.serving_or_kept(cube)):
            return sum(store.drop(cube, row.version, caller, reason) for row in mine)
        return store.drop(cube, None, caller, reason) if mine else 0

    def _managed(self, cube: str, caller: Caller) -> list[AdapterRow]:
        """The versions that are there for the caller to take out of service; to others they are not there."""
        return [row for row in self.serving_or_kept(cube) if manages(self._parts, row, caller)]

    def serving_or_kept(self, cube: str) -> list[AdapterRow]:
        """The versions of a cube that are there."""
        with self._parts.vault.reading() as connection:
            return [row for row in adapters_of(connection, cube) if row.state is not AdapterState.GONE]

    def export(self, cube: str, version: int, folder: Path, caller: Caller) -> Path:
        """Write a version as a folder that PEFT loads.

        Raises:
            NotFound, NotAllowed: as `row`; taking it out is sharing what it knows.
            Conflict: there is something in that place.
            Invalid: nothing can be written there.
        """
        row = self.row(cube, version, caller, Action.SHARE)
        ids, path = [id for id, _ in source_pairs(row)], str(folder)
        # Noted first: an erasure that comes in between must know of the folder.
        self._parts.vault.write(
            lambda transaction: transaction.audit("export_adapter", cube, ids, version=row.version, path=path), caller
        )
        try:
            return self._answering.adapters.export(row, folder)
        except OSError as error:
            why = error.strerror or str(error)
            raise Invalid(f"the adapter cannot be written to {folder} ({why}): choose another folder") from error


def _standing(row: AdapterRow | None, memory: Memory) -> str:
    """How an artifact stands to a memory that it was derived from; `row`: of an adapter."""
    if row is None:
        return "kept"
    return f"{row.state.value}, {'known' if (memory.id, memory.version) in known_pairs(row) else 'missed'}"


def _known(row: AdapterRow) -> str:
    return f"version {row.version} knows {len(known_pairs(row))} of {len(source_pairs(row))} memories"
