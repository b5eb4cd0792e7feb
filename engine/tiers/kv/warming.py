"""What the scheduler may do with the KV caches of memories: see them, hold them ready in RAM, let them go, drop them.

A chunk that is held ready is the last to leave RAM when room is needed for something else (`Held.trim`): the plan knows
what is needed next, the store only what was used last. The plan keeps to its own share of RAM, so that conversations
always find room beside it.

Knows no plan. What must stay true: nothing here reads what is dead, and what is dropped is dropped in one transaction
with what says why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from engine.model_operations import ModelInfo
from engine.operations import Caller
from engine.tiers.kv.entries import CHUNK, Entry
from engine.tiers.kv.held import Held
from engine.vault import Transaction
from engine.vault.artifacts import drop_artifacts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept:
    """The KV cache of one memory. `ram_bytes`: what it takes once it is loaded."""

    id: str
    memory: str
    version: int
    cube: str
    disk_bytes: int
    ram_bytes: int
    in_ram: bool


class Warming:
    """Acts on what a store holds. Safe to use from any thread."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def kept(self, info: ModelInfo) -> tuple[Kept, ...]:
        """The KV caches of memories that the model can use and that lie on disk."""
        held = self._held
        held.refresh()
        with held.changed:
            found = [entry for entry in held.index if _usable(entry, info)]
            return tuple(
                Kept(
                    entry.id,
                    *entry.sources[0],
                    entry.scope.cube_name,
                    entry.bytes,
                    entry.ram_bytes or entry.tokens * info.kv_bytes_per_token,
                    entry.layers is not None,
                )
                for entry in found
            )

    def taken(self, info: ModelInfo) -> tuple[int, int]:
        """Bytes in RAM and on disk of everything else: prefixes, conversations, caches of other models."""
        held = self._held
        held.refresh()
        with held.changed:
            others = [entry for entry in held.index if not _usable(entry, info)]
            return sum(entry.ram_bytes for entry in others), sum(entry.bytes for entry in others)

    def hold(self, ids: Collection[str], info: ModelInfo) -> set[str]:
        """Read these into RAM, and keep them there as long as anything else can go; those that are there now."""
        held, there = self._held, set[str]()
        for id in ids:
            with held.changed:
                entry = held.index.by_id.get(id)
                if entry is not None:
                    entry.wanted = True
            if entry is not None and held.layers_of(entry, info) is not None:
                there.add(id)
        with held.changed:
            return {id for id in there if (entry := held.index.by_id.get(id)) is not None and entry.layers is not None}

    def let_go(self, ids: Collection[str]) -> set[str]:
        """Take these out of RAM, but for what a reply is reading; those that are out now."""
        held, out = self._held, set[str]()
        with held.changed:
            for id in ids:
                entry = held.index.by_id.get(id)
                if entry is None:
                    continue
                entry.wanted = False
                if not entry.busy and not entry.waiting and entry.digest:
                    held.index.let_go(entry)
                    out.add(id)
        return out

    def drop(self, ids: Collection[str], caller: Caller, told: Callable[[Transaction], T]) -> T:
        """Delete these, in one transaction with what `told` writes of it."""
        held = self._held

        def job(transaction: Transaction) -> T:
            drop_artifacts(transaction, list(ids))
            return told(transaction)

        with held.rows:
            with held.changed:
                held.kill([entry for id in ids if (entry := held.index.by_id.get(id)) is not None])
            try:
                return held.vault.write(job, caller)
            except BaseException:
                held.read_again()
                raise


def _usable(entry: Entry, info: ModelInfo) -> bool:
    return entry.form == CHUNK and entry.fingerprint == info.fingerprint and bool(entry.digest) and not entry.dead
