"""Builds the KV tier: by hand for a whole cube, and by itself for memories that replies went without.

A chunk is worth building for what is used again: the second time that a reply would have used one, it is built, when
the model has nothing else to do. What was built is kept chunk by chunk, so that stopping loses only what is in work.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import TypeVar

from cubes import Memory
from engine.answering.gathering import Gathering
from engine.answering.notes import note_of
from engine.errors import MemosError, Unavailable
from engine.lifecycle.states import is_expired
from engine.model.loading import Loaded
from engine.model.prompts import Note
from engine.model.runner import Results, Runner
from engine.model_operations import TierBuilt
from engine.operations import Caller, Progress
from engine.parts import Parts, readable_cubes, seen_in
from engine.tiers.kv.building import (
    TOGETHER,
    BuiltChunk,
    block_probe,
    build_chunks,
    build_prefix,
    lossy_divergence,
    pinned_block,
)
from engine.tiers.kv.entries import Scope
from engine.tiers.kv.files import NONE
from engine.tiers.kv.store import KvStore
from engine.tiers.kv.tensors import Layers
from engine.vault import queries

WANTED_KEPT = 4_096  # memories of which it is remembered that a chunk would have served
WAITING = 256  # memories that wait for being built
TOO_LONG = "it does not fit into the model's context beside the others"
TIMES = 2  # a memory is wanted before its chunk is built
T = TypeVar("T")
log = logging.getLogger(__name__)


class Builder:
    """Builds in the background, on a thread that waits for the model's."""

    def __init__(self, parts: Parts, gathering: Gathering, store: KvStore) -> None:
        self._parts, self._gathering, self._store = parts, gathering, store
        self.when_built: Callable[[Sequence[Memory]], None] = lambda memories: None  # told of what was built by itself
        self._by_itself = "kv" in parts.vault.settings.scheduler
        self._share, self._how = parts.vault.settings.kv_share, parts.vault.settings.kv_compression
        self._wanted: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._waiting: queue.Queue[tuple[Runner, Memory] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._lock = threading.Lock()

    # --- by itself -----------------------------------------------------------------------------------------------

    def want(self, runner: Runner, memories: Sequence[Memory], *, at_once: bool = False) -> None:
        """A reply would have used chunks of these. `at_once`: they were asked for as such."""
        if not (self._by_itself or at_once):
            return
        with self._lock:
            for memory in memories:
                key = (memory.id, memory.version)
                times = self._wanted[key] = self._wanted.pop(key, 0) + 1
                if times == TIMES or (at_once and times == 1):
                    self._enqueue(runner, memory)
            while len(self._wanted) > WANTED_KEPT:
                self._wanted.popitem(last=False)

    def soon(self, runner: Runner, memories: Sequence[Memory]) -> None:
        """Build these when the model has nothing else to do."""
        with self._lock:
            for memory in memories:
                self._enqueue(runner, memory)

    def _enqueue(self, runner: Runner, memory: Memory) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="memos-kv-building", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((runner, memory))
        except queue.Full:
            log.info("%s is built another time: enough is waiting", memory.id)

    def _run(self) -> None:
        while self._build_waiting():
            pass

    def _build_waiting(self) -> bool:
        """Build what waits, a few together; False: nothing is built any more.

        A method of its own, so that nothing here holds a model while there is nothing to do: it may be unloaded then.
        """
        first = self._waiting.get()
        if first is None or self._closed.is_set():
            return False
        runner, memories = first[0], [first[1]]
        while len(memories) < TOGETHER and not self._waiting.empty():
            another = self._waiting.get()
            if another is None:
                return False
            memories.append(another[1])
        try:
            made = {chunk.note.id for chunk, stays in self._chunks(runner, memories) if stays}
            if built := [memory for memory in memories if memory.id in made]:
                self.when_built(built)
        except MemosError as error:
            log.warning("KV caches were not built: %s", error)
        except Exception as error:  # noqa: BLE001 - the outermost edge of this thread: the next may succeed
            log.error("KV caches were not built: %s", type(error).__qualname__)
        return True

    def close(self) -> None:
        """Build nothing any more. After the host is closed: what is being built waits for the model's turn."""
        self._closed.set()
        if self._thread is not None:
            while True:
                try:
                    self._waiting.put_nowait(None)
                    break
                except queue.Full:
                    self._waiting.get_nowait()
            self._thread.join()

    # --- by hand -------------------------------------------------------------------------------------------------

    def build(
        self, runner: Runner, cube: str, caller: Caller, progress: Progress, only: Collection[str] | None = None
    ) -> TierBuilt:
        """Build the pinned block of a cube and a chunk of each memory that the caller sees. See `engine.answering`.

        `only`: chunks of these memories, and the pinned block if one of them is pinned.
        """
        info = runner.loaded.info
        if not self._parts.vault.settings.kv:
            raise Unavailable("the KV tier is switched off: start the daemon without MEMOS_KV=0 to build it")
        if info.kv_refusal is not None:
            raise Unavailable(f"{info.source} has no KV tier: {info.kv_refusal}")
        (header,) = readable_cubes(self._parts, [cube], caller)
        pinned = self._gathering.pinned(header, caller)
        memories = self._live(cube, caller)
        if only is not None:
            pinned = pinned if any(memory.id in only for memory in pinned) else ()
            memories = [memory for memory in memories if memory.id in only]
        total = len(memories) + 1
        progress(0, total, "building the pinned block")
        prefix, size = self._prefix(runner, cube, pinned, lambda: progress(0, total, "building the pinned block"))
        skipped: list[tuple[str, str]] = []
        chunks = 0
        refusal = runner.loaded.layout.chunk_refusal
        if refusal is not None:
            skipped = [(memory.id, refusal) for memory in memories]
            memories = []
        for start in range(0, len(memories), TOGETHER):
            progress(1 + start, total, "building chunks")
            done, few = 1 + start, memories[start : start + TOGETHER]
            made = self._chunks(runner, few, lambda done=done: progress(done, total, "building chunks"))  # type: ignore[misc]
            kept = [built for built, stays in made if stays]
            chunks += len(kept)
            size += sum(t.numel() * t.element_size() for built in kept for layer in built.layers for t in layer)
            reasons = {built.note.id: "it was changed meanwhile, or there is no room for it" for built, _ in made}
            there = {built.note.id for built in kept}
            skipped += [(m.id, reasons.get(m.id, TOO_LONG)) for m in few if m.id not in there]
        progress(total, total, "built")
        return TierBuilt(cube, prefix, chunks, size, tuple(skipped))

    def _live(self, cube: str, caller: Caller) -> list[Memory]:
        seen, now = seen_in(self._parts, cube, caller), self._parts.clock.now()
        with self._parts.vault.reading() as connection:
            found = [record.memory for record in queries.live(connection, cube)]
        return [
            memory
            for memory in found
            if memory.governance.sensitivity in seen and not is_expired(memory, now) and not memory.descriptive.parts
        ]

    def _prefix(self, runner: Runner, cube: str, pinned: Sequence[Memory], tell: Callable[[], None]) -> tuple[int, int]:
        """Tokens and bytes of the pinned block that was kept."""
        if not pinned:
            return 0, 0
        notes = [note_of(memory) for memory in pinned]

        def job(loaded: Loaded) -> Generator[tuple[int, int] | None, None, None]:
            ids = pinned_block(loaded, notes)
            layers = yield from build_prefix(loaded, ids)
            sources = [(memory.id, memory.version) for memory in pinned]
            measured = self._measured(loaded, ids, layers, notes)
            yield None
            self._store.keep_prefix(loaded.info, Scope.cube(cube), cube, ids, layers, 0, sources, measured)
            yield len(ids), sum(t.numel() * t.element_size() for layer in layers for t in layer)

        found = [item for item in self._stepping(runner.stream(job), tell) if item is not None]
        return found[-1]

    def _measured(self, loaded: Loaded, ids: Sequence[int], layers: Layers, notes: Sequence[Note]) -> float | None:
        """How far a pinned block diverges once it was stored; None: it is stored as it is."""
        if self._how == NONE:
            return None
        return lossy_divergence(loaded, ids, layers, 0, self._how, block_probe(loaded, notes))

    def _chunks(
        self, runner: Runner, memories: Sequence[Memory], tell: Callable[[], None] | None = None
    ) -> list[tuple[BuiltChunk, bool]]:
        """Build and keep chunks of a few memories: each with whether it was kept.

        `tell` is called at each step, and may raise `Cancelled`; without it this waits for the model to be idle.
        """
        notes = [note_of(memory) for memory in memories]
        cubes = {memory.id: memory.cube for memory in memories}

        def job(loaded: Loaded) -> Generator[list[BuiltChunk] | None, None, None]:
            built = yield from build_chunks(loaded, notes, self._share, self._how)
            yield built

        info, kept = runner.loaded.info, []
        for built in self._stepping(runner.stream(job, background=tell is None), tell):
            for chunk in built or ():
                id = self._store.keep_chunk(
                    info, cubes[chunk.note.id], chunk.note.id, chunk.note.version, chunk.ids, chunk.layers,
                    chunk.divergence, start=chunk.start,
                )  # fmt: skip
                kept.append((chunk, id is not None))
        return kept

    def _stepping(self, results: Results[T], tell: Callable[[], None] | None) -> Iterator[T]:
        """What a job yields; it is given up when `tell` raises."""
        with results:
            for result in results:
                if tell is not None:
                    tell()
                yield result
