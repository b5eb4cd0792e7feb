"""Keeps one index per cube in step with the vault.

An index is opened from its snapshot and brought up to date with what the vault changed since (replay), or built from
the vault when the snapshot is missing, damaged, of another store, embedder or format, or from the vault's future.
Loading runs in the background; a recall that needs a cube's index waits a bounded time for it, and then says that it is
degraded. After that, every commit is applied on the writer thread before the writer's caller hears of it.

The indexes of an encrypted store are in memory only: there are no snapshots of them, and each is built at the start.

What stays true: an index reflects a revision of the vault, and says which; a recall from it equals a recall from one
that was built anew. Indexes hold nothing that the vault does not.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.embeddings import Embeddings
from engine.governance.access import stricter
from engine.index.cube_index import CubeIndex, Entry
from engine.index.snapshot import SnapshotUnusable
from engine.settings import Settings
from engine.vault import Change, MemVault, Transaction, queries, ranges
from engine.vault.rows import Record

WAIT_S = 10.0  # how long a recall waits for an index that is being loaded
SAVE_AFTER_CHANGES = 2_000  # a snapshot this far behind is written again at the next sweep
Prepared = dict[str, tuple[CubeIndex, int]]  # cube -> an index that is not in use yet, and the revision that it has
Stored = dict[str, NDArray[np.float32] | None]  # id -> the vectors that the vault holds of it
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slot:
    """One cube's index and how far along it is."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    ready: threading.Event = field(default_factory=threading.Event)
    swap: threading.Lock = field(default_factory=threading.Lock)  # held only to exchange index and embedder
    index: CubeIndex | None = None
    embedder: str = ""  # fingerprint of the vectors in it
    revision: int = 0
    unsaved: int = 0
    doing: str = "waiting"


class Indexes:
    """The indexes of all cubes."""

    def __init__(self, vault: MemVault, embeddings: Embeddings, settings: Settings) -> None:
        self._vault = vault
        self._embeddings = embeddings
        self._folder = settings.index_folder
        self._slots: dict[str, _Slot] = {}
        self._guard = threading.Lock()

    # --- loading -----------------------------------------------------------------------------------------------

    def load_all(self, stopped: Callable[[], bool]) -> None:
        """Load the index of every cube that is not loaded yet."""
        with self._vault.reading() as connection:
            names = [cube.name for cube in queries.cubes(connection)]
        self._remove_strangers(names)
        for name in names:
            if stopped():
                return
            self._load(name)

    def ready(self, cube: str, wait_s: float = WAIT_S) -> tuple[CubeIndex, str] | None:
        """The index of `cube` and its vectors' embedder, waiting if it is being loaded; None: it is not there yet."""
        slot = self._slot(cube)
        # Whoever holds the lock may be loading it, or be a writer that leaves it as it is.
        if not slot.ready.is_set() and slot.lock.acquire(timeout=wait_s):
            try:
                self._load(cube)
            finally:
                slot.lock.release()
        with slot.swap:
            return (slot.index, slot.embedder) if slot.index is not None and slot.ready.is_set() else None

    def status(self) -> tuple[tuple[str, str], ...]:
        """What each cube's index is doing."""
        with self._guard:
            return tuple(sorted((name, slot.doing) for name, slot in self._slots.items()))

    def _slot(self, cube: str) -> _Slot:
        with self._guard:
            return self._slots.setdefault(cube, _Slot())

    def _load(self, cube: str) -> None:
        slot = self._slot(cube)
        with slot.lock:
            if slot.ready.is_set():
                return
            slot.doing = "loading"
            try:
                if not self._on_disk:
                    raise SnapshotUnusable("the store is encrypted, so there is none")
                index, revision = CubeIndex.load(self.folder(cube), self._facts(cube, self._active))
                if revision > self._vault.revision:
                    raise SnapshotUnusable("it is from a later state of the vault")
            except SnapshotUnusable as error:
                log.info("building the index of a cube: %s", error)
                slot.doing = "rebuilding"
                index, revision = CubeIndex(self._embeddings.dimension), 0
            self._bring_up(slot, cube, index, revision)

    def _bring_up(self, slot: _Slot, cube: str, index: CubeIndex, revision: int) -> None:
        """Replay, then let readers have it."""
        embedder, target = self._active, self._vault.revision
        slot.unsaved = self._replay(cube, index, revision, embedder, self._embeddings.dimension)
        with slot.swap:
            slot.index, slot.embedder = index, embedder
        slot.revision, slot.doing = max(target, revision), "ready"
        slot.ready.set()

    def _replay(self, cube: str, index: CubeIndex, revision: int, embedder: str, dimension: int | None) -> int:
        """Apply what the vault changed after `revision`; how many changes that were."""
        with self._vault.reading() as connection:
            erased = queries.erased_since(connection, cube, revision)
            for label in erased:
                index.remove(label)
            count = len(erased)
            known = embedder if dimension is not None else ""
            for wholes, part, vectors in ranges.changed_since(connection, cube, revision, known, dimension or 0):
                for label in wholes:
                    index.remove(label)  # it may have been short before
                for record in part:
                    follow(index, record, vectors.get(record.memory.id))
                count += len(wholes) + len(part)
        return count

    @property
    def _on_disk(self) -> bool:
        """Whether there are snapshots: not of a store whose contents are unreadable on disk."""
        return self._vault.sealer.plain

    @property
    def _active(self) -> str:
        return self._embeddings.active or ""

    def temporary(self, records: Iterable[Record]) -> CubeIndex:
        """An index of other versions than the current ones (time travel); vectors where the content is the same."""
        found = list(records)
        index = CubeIndex(self._embeddings.dimension)
        with self._vault.reading() as connection:
            current = queries.records(connection, [record.memory.id for record in found])
            vectors = as_matrices(queries.vectors(connection, self._active, list(current)), self._embeddings.dimension)
        # The others were erased just now. Who may not see what it is now, or was then, does not find it then.
        found = [_guarded(record, current[record.memory.id]) for record in found if record.memory.id in current]
        changed = [r for r in found if r.memory.content != current[r.memory.id].memory.content]
        for record, rows in zip(changed, self._fresh([r.memory.content for r in changed]), strict=True):
            if rows is not None:
                vectors[record.memory.id] = rows
            else:
                vectors.pop(record.memory.id, None)
        for record in found:
            follow(index, record, vectors.get(record.memory.id))
        return index

    def _fresh(self, contents: Sequence[str]) -> Sequence[NDArray[np.float32] | None]:
        if not contents:
            return []
        found = self._embeddings.contents(contents).get(self._active)
        return found if found is not None else [None] * len(contents)

    # --- following the vault -----------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], transaction: Transaction) -> None:
        """Follow one commit. Called on the writer thread, in the order of revisions."""
        for cube in dict.fromkeys(change.cube for change in changes):
            slot = self._slot(cube)
            # One lock for all of them: a snapshot that is written meanwhile has the whole transaction or nothing of it.
            with slot.lock:
                if slot.index is None or not slot.ready.is_set():
                    continue  # whoever loads it will read these changes from the vault
                try:
                    mine = [change for change in changes if change.cube == cube]
                    stored = self._stored_vectors(slot, mine)
                    for change in mine:
                        self._follow_change(slot.index, change, stored)
                        slot.unsaved += 1
                except BaseException:
                    slot.ready.clear()  # half of it is in: the next recall reads it from the vault again
                    raise
                slot.revision = transaction.revision

    def _follow_change(self, index: CubeIndex, change: Change, stored: Stored) -> None:
        if change.record is None:
            index.remove(change.label)
        else:
            follow(index, change.record, stored.get(change.id, change.vectors))

    def _stored_vectors(self, slot: _Slot, changes: Sequence[Change]) -> Stored:
        """For changes that bring no vectors of the embedder that the index has: those that the vault holds.

        The embedder may have become another one while the change was made.
        """
        lacking = [c for c in changes if c.record is not None and (c.vectors is None or c.embedder != slot.embedder)]
        if not lacking:
            return {}
        ids = [change.id for change in lacking]
        with self._vault.reading() as connection:
            stored = queries.vectors(connection, slot.embedder, ids)
        return {**dict.fromkeys(ids), **as_matrices(stored, self._embeddings.dimension)}

    def applied(self, id: str, vectors: NDArray[np.float32]) -> None:
        """A memory got its vectors later than its content."""
        with self._vault.reading() as connection:
            record = queries.records(connection, [id]).get(id)
        if record is None:
            return
        slot = self._slot(record.memory.cube)
        with slot.lock:
            if slot.index is not None and slot.ready.is_set():
                follow(slot.index, record, vectors)
                # A snapshot may already claim this revision without the vectors: it must not be used again.
                slot.unsaved += 1
                shutil.rmtree(self.folder(record.memory.cube), ignore_errors=True)

    def prepare(self, embedder: str, dimension: int, stopped: Callable[[], bool]) -> Prepared | None:
        """Build every index anew for another embedder, aside: until they are adopted, the old ones answer."""
        with self._vault.reading() as connection:
            names = [cube.name for cube in queries.cubes(connection)]
        prepared: Prepared = {}
        for cube in names:
            if stopped():
                return None
            index, revision = CubeIndex(dimension), self._vault.revision
            self._replay(cube, index, 0, embedder, dimension)
            prepared[cube] = (index, revision)
        return prepared

    def adopt(self, prepared: Prepared) -> None:
        """Let prepared indexes answer. Called on the writer thread, once their embedder is the active one."""
        with self._guard:
            names = list(dict.fromkeys([*prepared, *self._slots]))
        for cube in names:
            slot = self._slot(cube)
            with slot.lock:
                shutil.rmtree(self.folder(cube), ignore_errors=True)
                index, revision = prepared.get(cube) or (CubeIndex(self._embeddings.dimension), 0)
                self._bring_up(slot, cube, index, revision)
                slot.unsaved += 1

    def tend(self) -> None:
        """Let each index look after its graph: build it where a cube has grown large, renew it where much is dead."""
        with self._guard:
            slots = list(self._slots.values())
        for slot in slots:
            with slot.swap:
                index = slot.index
            if index is not None:
                index.tend()

    # --- snapshots ---------------------------------------------------------------------------------------------

    def save(self, *, at_least: int = 1) -> None:
        """Write the snapshot of each index that is at least so many changes ahead of it."""
        with self._guard:
            names = list(self._slots)
        for cube in names:
            if self._slot(cube).unsaved >= at_least:
                self.save_cube(cube)

    def save_cube(self, cube: str) -> None:
        """Write one snapshot. After an erasure this is what removes the erased words from disk."""
        slot = self._slot(cube)
        with slot.lock:
            if slot.index is None or not slot.ready.is_set() or not self._on_disk:  # none, or it has half of a change
                shutil.rmtree(self.folder(cube), ignore_errors=True)
                return
            slot.index.save(self.folder(cube), slot.revision, self._facts(cube, slot.embedder))
            slot.unsaved = 0

    def drop(self, cube: str) -> None:
        """Let go of the index of a cube that was removed, and of its snapshot."""
        with self._guard:
            slot = self._slots.pop(cube, None)
        if slot is not None:
            with slot.lock:
                slot.ready.clear()
        shutil.rmtree(self.folder(cube), ignore_errors=True)

    def folder(self, cube: str) -> Path:
        """Named by a digest: cube names may hold characters that a file system does not take."""
        return self._folder / hashlib.sha256(cube.encode()).hexdigest()[:24]

    def _facts(self, cube: str, embedder: str) -> dict[str, object]:
        """What a snapshot must agree with. Vectors that come later than their memory change no revision, but this."""
        with self._vault.reading() as connection:
            lacking = queries.without_vectors(connection, cube, embedder) if embedder else 0
            made = queries.made_under(connection, cube)
        return {
            "lacking": lacking,
            "cube": cube,
            "made": made,  # a cube that was removed and made again is another one
            "store": self._vault.store_id,
            "incarnation": self._vault.incarnation,
            "embedder": embedder,
        }

    def _remove_strangers(self, names: Sequence[str]) -> None:
        if self._folder.is_file():
            self._folder.unlink()
        if not self._folder.exists():
            return
        known = {self.folder(name).name for name in names} if self._on_disk else set()
        for folder in self._folder.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        if not self._on_disk:
            shutil.rmtree(self._folder, ignore_errors=True)


def as_matrices(stored: dict[str, bytes], dimension: int | None) -> dict[str, NDArray[np.float32]]:
    """Stored embeddings as [passages, dimension] each."""
    if dimension is None:
        return {}
    return {id: np.frombuffer(raw, dtype="<f4").reshape(-1, dimension) for id, raw in stored.items()}


def follow(index: CubeIndex, record: Record, vectors: NDArray[np.float32] | None) -> None:
    """Bring one memory up to date in an index. The whole of a long text is not in it: its pieces are."""
    if record.memory.descriptive.parts:
        index.remove(record.label)  # it may have been short before
    else:
        index.apply(entry_of(record), vectors)


def entry_of(record: Record) -> Entry:
    """What an index keeps of a memory."""
    memory, about = record.memory, record.memory.descriptive
    return Entry(
        label=record.label,
        id=memory.id,
        kind=memory.kind,
        state=memory.state,
        tags=about.tags,
        created_at=about.created_at,
        occurred_at=about.occurred_at,
        expires_at=memory.governance.expires_at,
        mentions=about.mentions,
        actor=about.actor,
        role=about.role,
        session=about.session,
        position=about.position,
        content=memory.content,
        sensitivity=memory.governance.sensitivity,
    )


def _guarded(then: Record, now: Record) -> Record:
    """An earlier version, as sensitive as it was then or is now, whichever is more."""
    rules = then.memory.governance
    strict = stricter(rules.sensitivity, now.memory.governance.sensitivity)
    return replace(then, memory=replace(then.memory, governance=replace(rules, sensitivity=strict)))
