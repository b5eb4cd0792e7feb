"""The KV caches that are held: which there are, which of them lie in RAM, and which must not be used any more.

The vault's rows are the truth; the index follows them. Layers are read from blobs when they are asked for, and stay in
RAM within its budget. A committed change kills what was derived from it here before its caller hears of it.

Knows nothing of prompts, and writes nothing. What must stay true: nothing that is dead is given out; while `changed` is
held nobody waits for the vault, whose writer thread comes in through `committed`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from engine.clock import Clock
from engine.errors import Corrupt
from engine.model_operations import ModelInfo
from engine.settings import Settings
from engine.tiers.kv import files
from engine.tiers.kv.entries import KIND, Entry, Index, Scope, entry_of
from engine.tiers.kv.tensors import Layers, bytes_of
from engine.vault import MemVault, Transaction
from engine.vault.artifacts import CONVERSATION, artifacts_of_kind

log = logging.getLogger(__name__)


class Held:
    """The entries, and the lock that guards them. `dropped` is told of ids whose rows are of no use."""

    def __init__(self, vault: MemVault, settings: Settings, clock: Clock) -> None:
        self.vault, self.settings, self.clock = vault, settings, clock
        self.index = Index()
        self.changed = threading.Condition()
        self.rows = threading.Lock()  # held while rows are read into the index, or removed with what is in it
        self.used: set[Entry] = set()  # since uses were noted
        self.leaving: set[str] = set()  # ids of rows that are not finished, or about to go: not to be read
        self.dropped: Callable[[Sequence[str]], None] = lambda ids: None
        self._stale = True
        self._generation = 0  # of changes that may have taken rows away
        self._remarks: dict[str, list[str]] = {}  # by cube
        self._compared: set[tuple[str, str]] = set()  # (cube, fingerprint): said what of other models lies there

    # --- which there are ---------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the rows that are not known yet, if there may be any."""
        if not self._stale:
            return
        with self.rows:
            while self._read_rows():
                pass

    def _read_rows(self) -> bool:
        """Whether they have to be read again: a change came in between."""
        with self.changed:
            if not self._stale:
                return False
            self._stale = False
            generation, known = self._generation, [*self.index.by_id, *self.leaving]
        try:
            with self.vault.reading() as connection:
                found = [entry_of(row) for row in artifacts_of_kind(connection, KIND, known)]
        except Corrupt as error:
            self.remark("", f"stored KV caches cannot be read and are not used: {error}")
            return False
        except BaseException:
            self._stale = True
            raise
        with self.changed:
            if generation != self._generation:
                self._stale = True
                return True
            for entry in found:
                self.index.add(entry)
            self._compared.clear()
        return False

    def compare(self, info: ModelInfo, scopes: Iterable[Scope]) -> None:
        """Say, once, where there are KV caches of another model only; those of an adapter's base are none."""
        for cube in {scope.cube_name for scope in scopes} - {CONVERSATION}:
            if (cube, info.fingerprint) in self._compared:
                continue
            with self.changed:
                self._compared.add((cube, info.fingerprint))
                models = {entry.fingerprint for entry in self.index if entry.scope.cube_name == cube}
            if models and info.fingerprint not in models and info.base not in models:
                self.remark(
                    cube,
                    f"KV caches in cube {cube!r} were made by another model and are not used: they are built again "
                    "from text",
                )

    def remark(self, cube: str, text: str) -> None:
        log.info("%s", text)
        with self.changed:
            said = self._remarks.setdefault(cube, [])
            if text not in said:
                said.append(text)

    def remarks(self, cubes: Collection[str] | None) -> tuple[str, ...]:
        """What was remarked about these cubes, or all, since it was last asked."""
        with self.changed:
            wanted = [cube for cube in self._remarks if cubes is None or cube in cubes or not cube]
            return tuple(text for cube in wanted for text in self._remarks.pop(cube))

    # --- what lies in RAM --------------------------------------------------------------------------------------

    @contextmanager
    def using(self, entries: Sequence[Entry]) -> Iterator[None]:
        """Meanwhile these are not evicted."""
        with self.changed:
            for entry in entries:
                entry.busy += 1
        try:
            yield
        finally:
            with self.changed:
                for entry in entries:
                    entry.busy -= 1

    def layers_of(self, entry: Entry, info: ModelInfo | None = None) -> Layers | None:
        """Its layers, from RAM or from its blob; None: it is not to be used. A damaged one is dropped."""
        with entry.reading:
            with self.changed:
                if entry.dead or entry.layers is not None:
                    return entry.layers
                digest, size, checked = entry.digest, entry.bytes, entry.checked
            try:
                layers, identity = files.read(self.settings, digest, size, self.vault.sealer, entry.expected, checked)
                _check_size(layers, entry, info)
            except Corrupt as error:
                self.refuse(entry, str(error))
                return None
            with self.changed:
                if entry.dead:
                    return None
                entry.checked = identity
                needed = bytes_of(layers)
                if needed <= self.settings.kv_ram_bytes:
                    self.index.hold(entry, layers, needed)
                    self.trim()
            return layers

    def refuse(self, entry: Entry, why: str) -> None:
        """Drop an entry that turned out not to be what it says."""
        with self.changed:
            gone = entry.dead  # dropped while it was read: that its blob is missing is no damage
            self.index.kill(entry)
            self.leaving.add(entry.id)
        if not gone:
            self.remark(entry.scope.cube_name, f"a KV cache was dropped and is built again: {why}")
            self.dropped([entry.id])

    def trim(self) -> None:
        """Let go of what is worth least, what the scheduler holds ready last. Called with the lock."""
        surplus = self.index.ram_bytes - self.settings.kv_ram_bytes
        if surplus <= 0:
            return
        now = self.clock.now()
        free = [entry for entry in self.index if entry.layers is not None and not entry.busy and not entry.waiting]
        for entry in sorted(free, key=lambda entry: (entry.wanted, entry.worth(entry.ram_bytes, now), -entry.start)):
            if surplus <= 0:
                return
            surplus -= entry.ram_bytes
            if entry.digest:
                self.index.let_go(entry)
            else:
                self.index.kill(entry)

    def use(self, entry: Entry) -> None:
        """It saved a prefill. Called with the lock."""
        entry.use(self.clock.now())
        self.used.add(entry)

    # --- what must not be used any more ------------------------------------------------------------------------

    def committed(self, transaction: Transaction) -> None:
        """Kill what a committed change outdated, and see to it that nothing of that is written any more."""
        outdated, removed = transaction.invalidated, transaction.unneeded
        if not (outdated or removed or transaction.erasing or transaction.artifacts_shown):
            return
        with self.changed:
            self._generation += 1
            gone = {
                entry
                for id, now in outdated.items()
                for entry in self.index.derived(id)
                if any(source == id and version != now for source, version in entry.sources)
            }
            if transaction.erasing:
                gone |= {entry for entry in self.index if entry.scope.cube_name == CONVERSATION}
            others = self.index.of_blobs(removed)
            if others or transaction.artifacts_shown:
                self._stale = True  # rows that are still there, or are new, are read again
            self.kill(gone.union(others))

    def kill(self, entries: Collection[Entry]) -> None:
        """Kill entries, and wait until no blob of theirs is being written. Called with the lock."""
        for entry in entries:
            self.index.kill(entry)
            self.used.discard(entry)
        self.changed.wait_for(lambda: not any(entry.writing for entry in entries))

    def read_again(self) -> None:
        """Rows may be there whose entries were killed."""
        with self.changed:
            self._stale = True


def _check_size(layers: Layers, entry: Entry, info: ModelInfo | None) -> None:
    """Refuse layers that the model cannot have made."""
    if info is not None and info.kv_bytes_per_token and bytes_of(layers) != entry.tokens * info.kv_bytes_per_token:
        raise Corrupt(f"the blob {entry.digest} holds tensors of another shape than the model's")
