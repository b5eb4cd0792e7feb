"""KvStore: stored KV caches, found by the tokens that a prompt begins with or by the memory that they are of.

    longest → fill        the stored beginning of a prompt, copied into a request's own cache
    chunk → ready         a memory's own KV cache, to be put anywhere
    keep_prefix, keep_chunk    into RAM at once, onto disk in the background

Safe to use from many threads. Who may see what is decided elsewhere: a prefix is found only by the very tokens that it
was made from, so whoever finds it has the text. What must stay true: what was derived from a memory that was changed or
erased is never given out once that call has returned (`committed`); a stored cache is never written to, it is copied.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from engine.clock import Clock, Ids
from engine.errors import Invalid
from engine.model_operations import ModelInfo, TierRow
from engine.operations import Caller
from engine.settings import Settings
from engine.tiers.kv.entries import CHUNK, KIND, PREFIX, Entry, Scope, Sources, within
from engine.tiers.kv.found import Chunk, Found, Totals, fetch, moved, owned, row_of
from engine.tiers.kv.held import Held
from engine.tiers.kv.prefixes import (
    BLOCK_TOKENS,
    MAX_SEGMENTS,
    Hashes,
    Span,
    chain_before,
    chain_of,
    ids_digest,
    longest,
    matching,
    merged_from,
    root_hash,
)
from engine.tiers.kv.saving import Saver, is_current
from engine.tiers.kv.tensors import Layers, WorkingCache, bytes_of, sliced, tokens_of
from engine.tiers.kv.warming import Warming
from engine.vault import Change, MemVault, Transaction
from engine.vault.artifacts import drop_artifacts
from engine.vault.staging import SHOWN

K = TypeVar("K")

__all__ = ["Chunk", "Found", "KvStore", "Scope", "Totals"]


class KvStore:
    """The KV caches of one store. Making one costs nothing; threads start when there is work for them."""

    def __init__(self, vault: MemVault, settings: Settings, clock: Clock, ids: Ids) -> None:
        self._vault, self._settings, self._clock, self._ids = vault, settings, clock, ids
        self._held = Held(vault, settings, clock)
        self._saver = Saver(self._held)
        self.warming = Warming(self._held)
        self._reader: ThreadPoolExecutor | None = None
        self._closed = False

    # --- prefixes ----------------------------------------------------------------------------------------------

    def longest(
        self,
        info: ModelInfo,
        scopes: Sequence[Scope],
        ids: Sequence[int],
        *,
        vouched: bool = False,
        near: bool = False,
        exact: bool = False,
    ) -> Found | None:
        """The longest stored beginning of `ids`, put together from what any of the scopes holds.

        The model needs one token to go on from: leave out the last one of a prompt. `vouched`: only of what is vouched
        for; anything else is to be checked before it is used (`engine.tiers.kv.checking`). `near`: of compressed ones
        only so many as diverge by no more than the bound, together; `exact`: none of these.
        """
        held = self._held
        held.refresh()
        held.compare(info, scopes)
        chains = {scope: self._chain(info, scope, ids) for scope in scopes}
        with held.changed:
            spans = [span for scope, chain in chains.items() for span in self._matching(scope, chain)]
            spans = [span for span in spans if span.segment.vouched or not vouched]
        if near or exact:
            most = -1.0 if exact else self._settings.kv_bound
            chosen = within(
                longest([span for span in spans if span.segment.loss <= most or not span.segment.lossy]), most
            )
        else:
            chosen = longest(spans)
        return Found(chosen[-1].end, tuple(chosen), info) if chosen else None

    def _chain(self, info: ModelInfo, scope: Scope, ids: Sequence[int]) -> Hashes:
        return chain_of(root_hash(info.fingerprint, scope.salt), ids)

    def _matching(self, scope: Scope, chain: Hashes) -> list[Span[Entry]]:
        return matching(chain, functools.partial(self._held.index.behind, scope))

    def fill(self, found: Found, cache: WorkingCache) -> int:
        """Copy what was found into an empty cache; how many tokens these were.

        They are fewer than `found.tokens` where some was dropped since, or its blob turns out to be damaged: what was
        derived from a memory that changed after it was found is never used.
        """
        held, filled = self._held, 0
        with held.using([span.segment for span in found.spans]):
            for span in found.spans:
                entry = span.segment
                layers = found.read.get(entry.id) or held.layers_of(entry, found.info)
                if layers is None:
                    break
                part = sliced(layers, span.start - entry.start, span.end - entry.start)
                with held.changed:
                    if entry.dead:
                        break
                    cache.append(moved(part, found.info.device))
                    held.use(entry)
                filled = span.end
        return filled

    def keep_prefix(
        self,
        info: ModelInfo,
        scope: Scope,
        cube: str,
        ids: Sequence[int],
        layers: Layers,
        start: int,
        sources: Iterable[tuple[str, int]],
        divergence: float | None = None,
        *,
        holds: Callable[[], bool] = lambda: True,
    ) -> str | None:
        """Keep the KV of a prompt's tokens from `start` on, as far as whole blocks go and none is kept yet.

        `ids` are all tokens from the first one on; `layers` hold those from `start` on, and are the store's from now
        on. `sources` are all memories that stand anywhere in `ids`. Returns the id of what holds the end of it; None:
        nothing is kept, because a source has another version by now, there is no room, or it `holds` no more when it is
        taken in.
        """
        if scope.cube_name != cube:
            raise Invalid(f"a prefix of {scope} is none of cube {cube!r}")
        held, chain = self._held, self._chain(info, scope, ids[: start + tokens_of(layers)])
        held.refresh()
        with held.changed:
            spans = self._matching(scope, chain)
        known = [span for span in spans if span.segment.vouched]
        first = -(-start // BLOCK_TOKENS) * BLOCK_TOKENS
        there, end = longest(known, first), (len(chain) - 1) * BLOCK_TOKENS
        fresh = there[-1].end if there else first
        if fresh >= end:
            return there[-1].segment.id if there else None
        kept = owned(layers, fresh - start, end - start)
        entry = self._prefix_entry(info, scope, chain, ids, fresh, end, tuple(dict.fromkeys(sources)))
        entry.divergence = divergence
        if self._admit(entry, kept, holds) is None:
            return None
        for span in spans:
            if not span.segment.vouched and span.segment.blocks[-1] in entry.blocks:
                self._saver.replace(span.segment, entry)
        if len(chain_before(known, Span(entry, fresh, end))) > MAX_SEGMENTS:
            self._saver.merge(lambda: self._to_merge(info, scope, chain, ids, entry))
        return entry.id

    def _prefix_entry(
        self, info: ModelInfo, scope: Scope, chain: Hashes, ids: Sequence[int], start: int, end: int, sources: Sources
    ) -> Entry:
        return Entry(
            id=self._ids.new("a"),
            scope=scope,
            form=PREFIX,
            fingerprint=info.fingerprint,
            start=start,
            tokens=end - start,
            how=self._settings.kv_compression,
            sources=sources,
            created_at=self._clock.now(),
            parent=chain[start // BLOCK_TOKENS],
            blocks=chain[start // BLOCK_TOKENS + 1 : end // BLOCK_TOKENS + 1],
            ids=ids_digest(ids[start:end]),
        )

    def _to_merge(
        self, info: ModelInfo, scope: Scope, chain: Hashes, ids: Sequence[int], last: Entry
    ) -> tuple[Entry, list[Span[Entry]]] | None:
        """What is to be made one of a chain that is too long, as it is by now, and what it takes the place of."""
        with self._held.changed:
            if last.dead:
                return None
            known = [span for span in self._matching(scope, chain) if span.segment.vouched]
            spans = chain_before(known, Span(last, last.start, last.end))
        number = merged_from([span.end - span.start for span in spans])
        if number is None:
            return None
        spans = spans[number:]
        sources = tuple(dict.fromkeys(source for span in spans for source in span.segment.sources))
        merged = self._prefix_entry(info, scope, chain, ids, spans[0].start, last.end, sources)
        if any(span.segment.lossy for span in spans):
            told = sum(span.segment.loss for span in spans)
            merged.divergence = told if math.isfinite(told) else None
        merged.uses, now = max(span.segment.uses for span in spans), self._clock.now()
        merged.heat, merged.last_use = max(span.segment.heat_at(now) for span in spans), now
        return merged, spans

    # --- chunks ------------------------------------------------------------------------------------------------

    def chunk(
        self, info: ModelInfo, cube: str, id: str, version: int, ids: Sequence[int] | None = None
    ) -> Chunk | None:
        """The KV cache of this version of a memory, if there is one; `ids`: and if it was made from these tokens."""
        held = self._held
        held.refresh()
        held.compare(info, [Scope.cube(cube)])
        with held.changed:
            entry = held.index.chunk(info.fingerprint, id, version)
            if entry is None or entry.scope.cube_name != cube:
                return None
        divergence = entry.known_divergence if entry.share == self._settings.kv_share else None
        told = (entry.id, id, version, entry.start, entry.tokens, entry.how, divergence)
        found = Chunk(*told, entry=entry, info=info, held=held)
        return found if ids is None or found.fits(ids) else None

    def ready(self, chunks: Mapping[K, Chunk]) -> dict[K, Chunk]:
        """Those that can be used now, read into RAM. Ask on the model's thread, when they are about to be used."""
        found = {key: chunk for key, chunk in chunks.items() if chunk.load() is not None}
        with self._held.changed:
            found = {key: chunk for key, chunk in found.items() if not chunk.entry.dead}
            for chunk in found.values():
                self._held.use(chunk.entry)
        return found

    def keep_chunk(
        self,
        info: ModelInfo,
        cube: str,
        id: str,
        version: int,
        ids: Sequence[int],
        layers: Layers,
        divergence: float | None,
        *,
        start: int = 0,
        how: str | None = None,
    ) -> str | None:
        """Keep a memory's own KV, encoded from position `start` on; in place of an older one. As `keep_prefix`.

        Where much waits for being written, this waits too: who builds chunks is in no hurry. `how` it is compressed:
        as the settings say, if it is not said here.
        """
        if len(ids) != tokens_of(layers) or not ids:
            raise Invalid(f"{len(ids)} tokens of {id} do not fit a KV cache of {tokens_of(layers)}")
        held = self._held
        held.refresh()
        with held.changed:
            before = held.index.chunk(info.fingerprint, id, version)
        entry = Entry(
            id=self._ids.new("a"),
            scope=Scope.cube(cube),
            form=CHUNK,
            fingerprint=info.fingerprint,
            start=start,
            tokens=len(ids),
            how=how or self._settings.kv_compression,
            sources=((id, version),),
            created_at=self._clock.now(),
            ids=ids_digest(ids),
            divergence=divergence,
            share=self._settings.kv_share,
        )
        if self._admit(entry, owned(layers, 0, len(ids)), wait=True) is None:
            return None
        if before is not None:
            self._saver.replace(before, entry)
        return entry.id

    # --- checking ----------------------------------------------------------------------------------------------

    def layers_of(self, entry: Entry, info: ModelInfo) -> Layers | None:
        """Its layers; None: it is not to be used."""
        return self._held.layers_of(entry, info)

    def vouch(self, entry: Entry) -> None:
        """It was checked, and is what it says."""
        with self._held.changed:
            entry.vouched = True
        self._saver.vouch(entry.id)

    def refuse(self, entry: Entry, why: str) -> None:
        """It was checked, and is not what it says: it is dropped."""
        self._held.refuse(entry, why)

    # --- keeping -----------------------------------------------------------------------------------------------

    def _admit(
        self, entry: Entry, layers: Layers, holds: Callable[[], bool] = lambda: True, *, wait: bool = False
    ) -> str | None:
        """Take an entry in, if it is still of what the vault holds, and have it written."""
        held, size = self._held, bytes_of(layers)
        with held.changed:
            if wait:
                held.changed.wait_for(lambda: self._closed or self._saver.has_room(size))
            if self._closed or not self._saver.has_room(size) or not holds():
                return None
            # Known before the vault is asked: a change that comes after the answer finds it and kills it.
            entry.waiting = True
            held.index.add(entry)
            held.index.hold(entry, layers, size)
            self._saver.waiting_bytes += size
        if not self._is_current(entry):
            with held.changed:
                held.kill([entry])
                self._saver.waiting_bytes -= size
                held.changed.notify_all()
            return None
        self._saver.save(entry, size)
        with held.changed:
            held.trim()
        return entry.id

    def _is_current(self, entry: Entry) -> bool:
        with self._vault.reading() as connection:
            return is_current(connection, entry)

    # --- looking -----------------------------------------------------------------------------------------------

    def rows(
        self, cube: str, info: ModelInfo | None, sees: Callable[[Collection[str]], bool] = lambda ids: True
    ) -> tuple[TierRow, ...]:
        """The KV caches of a cube. `sees` says of memory ids whether the caller sees them all: else it sees no row."""
        held = self._held
        held.refresh()
        with held.changed:
            found = sorted((e for e in held.index if e.scope.cube_name == cube != ""), key=lambda entry: entry.id)
        return tuple(row_of(entry, info) for entry in found if sees([id for id, _ in entry.sources]))

    def totals(self) -> Totals:
        """How much is stored."""
        held = self._held
        held.refresh()
        with held.changed:
            talks = sum(entry.scope.cube_name == "" for entry in held.index)
            return Totals(len(held.index.by_id), talks, held.index.ram_bytes, held.index.disk_bytes)

    def remarks(self, cubes: Collection[str] | None = None) -> tuple[str, ...]:
        """What was refused or dropped, in words, each told once; of these cubes, or of all."""
        return self._held.remarks(cubes)

    # --- dropping ----------------------------------------------------------------------------------------------

    def drop(self, caller: Caller, cube: str | None = None, ids: Collection[str] | None = None) -> int:
        """Drop KV caches: all, those of a cube, those with these ids; how many. Who may is decided elsewhere."""
        held = self._held
        held.refresh()

        def meant(id: str, of: str) -> bool:
            return (cube is None or of == cube) and (ids is None or id in ids)

        def job(transaction: Transaction) -> list[str]:
            rows = transaction.rows(f"SELECT id, cube FROM artifacts WHERE kind = ? AND {SHOWN}", [KIND])
            stored = [id for id, of in rows if meant(id, of)]
            if stored:
                transaction.audit("drop_tier", cube or "", tier=KIND, artifacts=len(stored))
                drop_artifacts(transaction, stored)
            return stored

        with held.rows:
            with held.changed:
                gone = [entry for entry in held.index if meant(entry.id, entry.scope.cube_name)]
                held.kill(gone)
            try:
                stored = self._vault.write(job, caller)
            except BaseException:
                held.read_again()
                raise
        return len({*stored, *(entry.id for entry in gone)})

    # --- life --------------------------------------------------------------------------------------------------

    def prefetch(self, wanted: Iterable[Chunk | Found]) -> None:
        """Begin to read these, on another thread."""
        with self._held.changed:
            for item in [] if self._closed else wanted:
                if self._reader is None:
                    self._reader = ThreadPoolExecutor(1, "kv-reader")
                self._reader.submit(fetch, self._held, item)

    def committed(self, changes: Sequence[Change], transaction: Transaction) -> None:
        """Before a writing call returns: what was derived from what it changed is not used any more.

        After an erasure no KV cache of any conversation is: what a reply quoted cannot be traced.
        """
        self._held.committed(transaction)

    def sweep(self) -> None:
        """Note uses and keep the budgets, in the background."""
        self._saver.tend()

    def flush(self) -> None:
        """Wait until what was kept so far is on disk."""
        self._saver.flush()

    def close(self) -> None:
        """Write what waits, and end the threads. Before the vault is closed."""
        with self._held.changed:
            self._closed = True
            self._held.changed.notify_all()
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)
        self._saver.close()
