"""What a bundle holds on its way into the vault: staged in small transactions, under ids that are free here.

A memory keeps its id where that is free. Where it is taken, or was erased and never comes back, it gets another one,
which follows from the store, the cube and the old id alone; lineage and artifacts within the bundle follow. What is
staged counts for nothing until one transaction shows it (`engine.vault.staging`), and is gone when that does not come.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from cubes.bundle import Bundle
from cubes.container import CHUNK_BYTES
from cubes.manifest import ArtifactHeader, ArtifactKind
from cubes.records import PackedMemory, PackedVersion
from engine.clock import ALPHABET
from engine.cube_operations import MAX_SNAPSHOTS
from engine.embeddings import SYSTEM
from engine.errors import Conflict, Corrupt, MemosError
from engine.operations import Progress
from engine.parts import Parts, memory_key
from engine.tier_operations import AdapterState
from engine.tiers.lora.headers import installed_header
from engine.tiers.lora.plain import told_by
from engine.vault import Transaction, past, staging
from engine.vault.adapters import AdapterRow, next_version, put_adapter
from engine.vault.artifacts import ArtifactRow, put_artifacts
from engine.vault.blobs import keep_blob, open_blob
from engine.vault.connection import Connection
from engine.vault.ranges import FullRecord
from engine.vault.rows import Record

BATCH_BYTES = 4 << 20  # of contents in one transaction
BATCH_MEMORIES = 1_000
RENAME_TOGETHER = 5_000
ID_CHARS = 20  # as `engine.clock` makes them
TRIES = 16  # ids that are tried for a memory whose own is taken
KEPT, WAITS = "kept", "waiting for its model"
log = logging.getLogger(__name__)


def standing(fingerprint: str, model: str) -> str:
    """How an artifact for the model `fingerprint` stands here, where `model` is served (empty: none is known)."""
    return KEPT if model and fingerprint == model else WAITS


def free_id(parts: Parts, cube: str, id: str, attempt: int) -> str:
    """The id that a memory (or artifact) of a bundle gets in this cube where its own is taken."""
    prefix = id.partition("_")[0] if id[:2] in ("m_", "a_") else "m"
    told = "\0".join((parts.vault.store_id, cube, id, str(attempt)))
    number = int.from_bytes(hashlib.sha256(told.encode()).digest(), "big")
    chars = []
    for _ in range(ID_CHARS):
        number, index = divmod(number, len(ALPHABET))
        chars.append(ALPHABET[index])
    return f"{prefix}_{''.join(chars)}"


def taken(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that a memory has, or had before it was erased."""
    among = "IN (SELECT unnest(?::VARCHAR[]))"
    rows = connection.execute(
        f"SELECT id FROM memories WHERE id {among} UNION SELECT id FROM tombstones WHERE id {among}", [list(ids)] * 2
    ).fetchall()
    return {row[0] for row in rows}


def batches(memories: Iterable[PackedMemory]) -> Iterator[list[PackedMemory]]:
    """A few memories at a time, bounded by number and by how much they say."""
    batch: list[PackedMemory] = []
    size = 0
    for memory in memories:
        batch.append(memory)
        size += sum(len(version.content) for version in (memory.current, *memory.history))
        if len(batch) >= BATCH_MEMORIES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def usable_vectors(parts: Parts, bundle: Bundle) -> str:
    """The embedder whose vectors the bundle has, if the vault can use them as they are; else empty."""
    header = bundle.manifest.embedder
    known = (parts.embeddings.active, parts.embeddings.wanted)
    if header is None or header.fingerprint not in known or header.dimension != parts.embeddings.dimension:
        return ""
    return header.fingerprint


@dataclass(slots=True)
class Staged:
    """What is staged of one bundle for the cube `cube`, under `name`."""

    parts: Parts
    bundle: Bundle
    cube: str
    name: str
    embedder: str  # of the vectors that are kept; empty: none are
    model: str = ""  # fingerprint of the model that is served, as far as it is known
    memories: int = 0
    versions: int = 0
    embedded: int = 0  # memories that need no vectors any more
    renamed: list[str] = field(default_factory=list)  # old ids of those that got another one
    unusual: dict[str, str] = field(default_factory=dict)  # old id -> its new one, where the first choice was taken
    adapters: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # (id, header), in the order of versions

    def new_id(self, id: str) -> str:
        """The new id of one that was renamed."""
        return self.unusual.get(id) or free_id(self.parts, self.cube, id, 0)

    def settle(self, transaction: Transaction, lacking: int) -> None:
        """What goes with showing: whose vectors these are, how many lack any, and that the index is made anew."""
        parts, name = self.parts, self.cube
        for id, header in self.adapters:
            version = next_version(transaction, name)
            put_adapter(transaction, AdapterRow(id, name, version, AdapterState.RESTING, header, transaction.now))
        if self.embedder:
            parts.embeddings.claim(transaction)
        transaction.after(lambda: parts.indexes.drop(name))
        transaction.after(lambda: parts.embeddings.awaits(lacking))

    # --- memories ----------------------------------------------------------------------------------------------

    def stage(self, batch: Sequence[PackedMemory]) -> None:
        """Store some memories, in one transaction."""

        def job(transaction: Transaction) -> tuple[dict[str, str], int]:
            new = self._free_ids(transaction.connection, [memory.id for memory in batch])
            full = [self._full(transaction, memory, new.get(memory.id, memory.id)) for memory in batch]
            staging.store(transaction, full, self.embedder)
            return new, sum(item.vectors is not None for item in full)

        new, embedded = self.parts.vault.write(job, SYSTEM)
        self.memories += len(batch)
        self.versions += sum(1 + len(memory.history) for memory in batch)
        self.embedded += embedded
        self.renamed += new
        self.unusual.update({old: id for old, id in new.items() if id != free_id(self.parts, self.cube, old, 0)})

    def _free_ids(self, connection: Connection, ids: Sequence[str]) -> dict[str, str]:
        """New ids for those that are taken."""
        found: dict[str, str] = {}
        waiting = taken(connection, ids)
        for attempt in range(TRIES):
            if not waiting:
                return found
            tried = {id: free_id(self.parts, self.cube, id, attempt) for id in waiting}
            again = taken(connection, list(tried.values()))
            found.update({id: new for id, new in tried.items() if new not in again})
            waiting = {id for id in waiting if id not in found}
        raise Conflict(
            f"{min(waiting)} was installed and erased {TRIES} times in cube {self.cube!r}: take another name with --as"
        )

    def _full(self, transaction: Transaction, memory: PackedMemory, id: str) -> FullRecord:
        label, seq = transaction.new_label(), transaction.head.seq
        record = record_of_packed(self.parts, memory.current, self.name, id, label, seq)
        earlier = tuple(record_of_packed(self.parts, old, self.name, id, label, seq) for old in memory.history)
        return with_beside(FullRecord(record, earlier), memory, self)

    def rename_sources(self) -> None:
        """Let the lineage of what is staged follow to the new ids."""
        for start in range(0, len(self.renamed), RENAME_TOGETHER):
            pairs = [(old, self.new_id(old)) for old in self.renamed[start : start + RENAME_TOGETHER]]
            self.parts.vault.write(
                lambda transaction, pairs=pairs: staging.rename_sources(transaction, self.name, pairs),  # type: ignore[misc]
                SYSTEM,
            )

    # --- artifacts ---------------------------------------------------------------------------------------------

    def stage_artifacts(
        self, progress: Callable[[], None], is_wanted: Callable[[ArtifactHeader], bool] = lambda header: True
    ) -> tuple[tuple[str, str], ...]:
        """Store the artifacts and their blobs: (id here, how it stands)."""
        if not self.bundle.manifest.artifacts:
            return ()
        wanted = {id for header in self.bundle.manifest.artifacts for id, _ in header.sources}
        new = {old: self.new_id(old) for old in self.renamed if old in wanted}
        vault, told = self.parts.vault, []
        for header, stream in self.bundle.artifacts():
            if not is_wanted(header):
                continue
            row = vault.write(lambda transaction, header=header: self._put(transaction, header, new), SYSTEM)  # type: ignore[misc]

            def chunks(stream: object = stream) -> Iterator[bytes]:
                while chunk := stream.read(CHUNK_BYTES):  # type: ignore[attr-defined]
                    progress()
                    yield chunk

            keep_blob(vault.settings, header.digest, chunks(), vault.sealer)
            told.append((row.id, standing(header.fingerprint, self.model)))
            if header.kind is ArtifactKind.LORA:
                self._add_adapter(row)
        self.adapters.sort(key=lambda item: (item[1]["created_at"], item[0]))
        return tuple(told)

    def _add_adapter(self, row: ArtifactRow) -> None:
        """Make a version of what was staged, if it was written as ours are; others are kept, and of no use here."""
        vault = self.parts.vault
        with open_blob(vault.settings, row.digest, vault.sealer) as blob:
            try:
                self.adapters.append((row.id, installed_header(told_by(blob, row.id), row)))
            except Corrupt as error:
                log.info("%s", error)

    def _put(self, transaction: Transaction, header: ArtifactHeader, new: dict[str, str]) -> ArtifactRow:
        id = header.id
        for attempt in range(TRIES):
            if not transaction.rows("SELECT id FROM artifacts WHERE id = ?", [id]):
                break
            id = free_id(self.parts, self.cube, header.id, attempt)
        signature = self.bundle.signature
        row = ArtifactRow(
            id=id,
            cube=self.name,
            kind=header.kind.value,
            fingerprint=header.fingerprint,
            digest=header.digest,
            bytes=header.bytes,
            sources=tuple((new.get(source, source), version) for source, version in header.sources),
            metadata=header.metadata,
            created_at=header.created_at,
            vouched=signature is not None and signature.known,  # else what it computed may be anything
        )
        put_artifacts(transaction, [row], transaction.head.seq)
        return row


def record_of_packed(parts: Parts, version: PackedVersion, cube: str, id: str, label: int, revision: int) -> Record:
    """A version as a record of the vault, under the id that it has here."""
    memory = version.memory(cube)
    if memory.id != id:
        memory = replace(memory, descriptive=replace(memory.descriptive, id=id))
    key = memory_key(parts.vault, memory)
    return Record(memory, label, key, version.author, version.change, version.reason, revision)


def with_beside(full: FullRecord, memory: PackedMemory, staged: Staged) -> FullRecord:
    """The record with the lineage, usage and vectors that the bundle has of it."""
    usage, vectors = memory.usage, memory.vectors if staged.embedder else None
    if usage.access_count and usage.last_access is None:
        usage = replace(usage, last_access=memory.current.descriptive.updated_at)
    if staged.embedder and vectors is None and memory.current.descriptive.parts:
        vectors = staged.parts.embeddings.no_vectors()  # the whole of a long text is not embedded: none are to come
    return replace(full, lineage=memory.lineage, usage=usage, vectors=vectors)


@contextmanager
def staging_of(parts: Parts, bundle: Bundle, cube: str, model: str = "") -> Iterator[Staged]:
    """A place for what the bundle holds. What has not been shown when this ends is removed."""
    name = staging.staged_name(parts.ids.new("i"))
    staged = Staged(parts, bundle, cube, name, usable_vectors(parts, bundle), model)
    try:
        yield staged
    finally:
        try:
            parts.vault.discard_staged(staged.name)
        except (MemosError, OSError) as error:
            log.error("what was staged is removed at the next start: %s", type(error).__name__)


def stage_all(staged: Staged, progress: Progress) -> None:
    """Stage every memory of the bundle. `progress` counts memories."""
    total = staged.bundle.manifest.counts.memories
    for batch in batches(staged.bundle.memories(vectors=bool(staged.embedder))):
        staged.stage(batch)
        progress(staged.memories, total + 1, "installing")
    staged.rename_sources()


def take_snapshots(transaction: Transaction, cube: str, bundle: Bundle) -> None:
    """Name the moments of the cube's past that the bundle names."""
    known = {found.name for found in past.snapshots(transaction.connection, cube)}
    for moment in bundle.manifest.snapshots:
        if moment.name not in known and len(known) < MAX_SNAPSHOTS:
            known.add(moment.name)
            transaction.put_snapshot(cube, moment.name, moment.at, 0, reason=moment.reason, author=moment.author)
