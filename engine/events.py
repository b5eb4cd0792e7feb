"""What is told of a commit: one event for each cube and for each degree of sensitivity that it touched.

An event names the memories that changed and how sensitive they are, so that who may not see such memories hears
nothing, neither ids nor that something happened. It carries the cube's header, before and now, by which
`engine.governance.access.hears_of` decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cubes import MemCube, Sensitivity
from engine.operations import Event
from engine.vault import Change, MemVault, Transaction


class Events:
    """The events of one vault. Used on its writer thread."""

    def __init__(self, vault: MemVault) -> None:
        self._vault = vault
        self._headers: dict[str, MemCube] = {cube.name: cube for cube in vault.cubes()}

    def of(self, changes: Sequence[Change], transaction: Transaction) -> Iterator[Event]:
        """What a committed transaction is told as."""
        before = self._headers
        if transaction.cubes_changed:
            self._headers = {cube.name: cube for cube in self._vault.cubes()}
        by_cube: dict[str, dict[Sensitivity, dict[str, None]]] = {}
        for change in changes:
            by_cube.setdefault(change.cube, {}).setdefault(change.sensitivity, {})[change.id] = None
        for name in transaction.cubes:
            if name in transaction.headers or before.get(name) != self._headers.get(name):
                by_cube.setdefault(name, {}).setdefault(Sensitivity.NORMAL, {})  # of the cube itself: readers see it
            elif name not in by_cube:
                by_cube[name] = {Sensitivity.SECRET: {}}  # such as what retention let go: of which memories is unknown
        for name, levels in by_cube.items():
            known = dict.fromkeys(headers[name] for headers in (before, self._headers) if name in headers)
            for sensitivity, ids in levels.items():
                yield Event(
                    revision=transaction.revision,
                    cube=name,
                    ids=tuple(ids),
                    change="changed",
                    cubes_changed=transaction.cubes_changed and before.get(name) != self._headers.get(name),
                    sensitivity=sensitivity,
                    headers=tuple(known),
                )
