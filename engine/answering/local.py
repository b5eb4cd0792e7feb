"""The local model at work: memory in the form that fits, the reply, and what is kept of it for the next one.

The model runs on a thread of its own (`engine.model.runner`); what is done there is written as generators, so that
replies take turns. Memory is gathered and prefetched before a reply gets its first turn.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from cubes import MemCube, Memory
from engine.answering.building import Builder
from engine.answering.gathering import Gathered, Gathering
from engine.answering.replying import Reply
from engine.answering.wearing import Wearing
from engine.errors import Busy, Unavailable
from engine.governance.access import clearance
from engine.model.fingerprint import with_adapters
from engine.model.host import ModelHost, Stage
from engine.model_operations import (
    Chat,
    ChatEvent,
    Finished,
    MemoryUse,
    ModelInfo,
    Said,
    Tier,
    TierBuilt,
    TierRow,
)
from engine.operations import Caller, Progress
from engine.parts import Parts
from engine.tiers.kv.checking import Checker
from engine.tiers.kv.entries import PREFIX
from engine.tiers.kv.found import Chunk
from engine.tiers.kv.store import KvStore
from engine.tiers.lora.store import AdapterStore
from engine.vault import Change, Transaction, queries
from engine.vault.artifacts import CONVERSATION

CONTEXT_SHARE = 4  # recalled memories take at most one in so many tokens of the context
MOST_RECALLED_TOKENS = 8_000
NOTHING_YET = Said("")  # a step was done that brought no text: whoever listens may stop here
log = logging.getLogger(__name__)


class LocalModel:
    """The model host and the KV store of one memory store."""

    def __init__(self, parts: Parts, gathering: Gathering, announce: Callable[[str], None]) -> None:
        self._parts, self.gathering = parts, gathering
        self.erasures = 0
        self.when_ended: Callable[[], None] = lambda: None  # told when a reply has ended, however it did
        self.settings = parts.vault.settings
        self.host = ModelHost(self.settings, announce)
        self.store = KvStore(parts.vault, self.settings, parts.clock, parts.ids)
        self.adapters = AdapterStore(parts.vault, self.settings, parts.clock, parts.ids)
        self.wearing = Wearing(parts, self.adapters)
        self._builder = Builder(parts, gathering, self.store)
        self._checker = Checker(self.store)

    @property
    def known(self) -> ModelInfo | None:
        """The model, as far as it was loaded."""
        return self.host.info

    @property
    def standing(self) -> str:
        """How it stands, in words."""
        state, info = self.host.state, self.host.info
        if state.stage is Stage.READY and info is not None:
            return f"{info.dtype} on {info.device}"
        return f"{state.stage.value}: {state.reason}" if state.reason else state.stage.value

    def info(self, source: str) -> ModelInfo:
        """The model, loaded if need be."""
        return self.host.runner(source).loaded.info

    # --- replies -------------------------------------------------------------------------------------------------

    def reply(self, source: str, request: Chat, caller: Caller, started: float) -> Iterator[ChatEvent]:
        """The events of one reply. See `engine.answering.answering`."""
        runner = self.host.runner(source)
        info = runner.loaded.info
        budget = min(MOST_RECALLED_TOKENS, info.context_tokens // CONTEXT_SHARE)
        gathered = self.gathering.gather(request, caller, budget)
        worn = self.wearing.serving(request.memory, caller)
        chunks = self._chunks(info, request.memory, gathered) if not worn else {}
        reply = Reply(self, request, caller, gathered, chunks, started)
        try:
            with self.host.in_use(), runner.stream(reply.steps) as results:
                for event in results:
                    if isinstance(event, Finished):
                        self._builder.want(runner, reply.wanted, at_once=reply.forced)
                        self._checker.begin(runner, reply.ids, reply.unvouched, reply.through)
                    yield event if event is not None else NOTHING_YET
        finally:
            self.when_ended()

    def _chunks(self, info: ModelInfo, use: MemoryUse | None, gathered: Gathered) -> Mapping[str, Chunk]:
        """The chunks of the recalled memories that are there; reading them begins, while the prompt is laid out."""
        if use is None or Tier.KV not in use.tiers or self.refusal(info) is not None:
            return {}
        memories = [memory for memory, _ in gathered.recalled]
        found = {memory.id: self.store.chunk(info, memory.cube, memory.id, memory.version) for memory in memories}
        there = {id: chunk for id, chunk in found.items() if chunk is not None}
        self.store.prefetch(list(there.values()))
        return there

    def refusal(self, info: ModelInfo) -> str | None:
        """Why there is no KV tier, in words."""
        return info.kv_refusal if self.settings.kv else "the KV tier is switched off (MEMOS_KV)"

    # --- the tier ------------------------------------------------------------------------------------------------

    def build(
        self, source: str, cube: str, caller: Caller, progress: Progress, only: Collection[str] | None = None
    ) -> TierBuilt:
        """Build the KV caches of a cube, or of some memories of it."""
        runner = self.host.runner(source)
        with self.host.in_use():
            built = self._builder.build(runner, cube, caller, progress, only)
        self.store.flush()
        rows = [row for row in self.store.rows(cube, self.known) if row.usable]
        prefix = sum(row.tokens for row in rows if row.form.startswith(PREFIX))
        return replace(built, prefix_tokens=prefix, bytes=sum(row.bytes for row in rows))  # as they are kept

    @property
    def loaded(self) -> bool:
        """Whether the model is there, and can be used at once."""
        return self.host.state.stage is Stage.READY

    def build_soon(self, memories: Sequence[Memory]) -> bool:
        """Build KV caches of these when the model has nothing else to do; False: the model is not loaded."""
        state = self.host.state
        if state.stage is not Stage.READY:
            return False
        self._builder.soon(self.host.runner(state.source), memories)
        return True

    def tell_built(self, told: Callable[[Sequence[Memory]], None]) -> None:
        """Have `told` hear of memories whose KV caches were built in the background."""
        self._builder.when_built = told

    def rows(self, cubes: Sequence[MemCube], caller: Caller) -> tuple[TierRow, ...]:
        """What is kept, of these cubes, of what the caller may see: KV caches, then adapters."""
        return tuple(row for cube in cubes for row in (*self._caches(cube, caller), *self._adapters(cube, caller)))

    def _caches(self, cube: MemCube, caller: Caller) -> Iterator[TierRow]:
        serving, seen = self.adapters.serving(cube.name), ""
        if serving is not None and self.known is not None:
            seen = with_adapters(self.known.fingerprint, [str(serving.header["digest"])])
        for row in self.store.rows(cube.name, self.known, lambda ids: self._sees(ids, cube, caller)):
            yield replace(row, usable=row.usable or row.model == seen)

    def _adapters(self, cube: MemCube, caller: Caller) -> Iterator[TierRow]:
        for row in self.adapters.tier_rows(cube.name, self.known):
            if caller.principal.owner or self._sees([id for id, _ in row.sources], cube, caller):
                yield row

    def _sees(self, ids: Collection[str], cube: MemCube, caller: Caller) -> bool:
        """Whether the caller sees all these memories of a cube."""
        seen = clearance(caller.principal, cube)
        with self._parts.vault.reading() as connection:
            places = queries.places_of(connection, list(ids))
        return all(id in places and places[id][0] == cube.name and places[id][1] in seen for id in ids)

    def drop(self, cube: str | None, caller: Caller) -> int:
        """Drop what is kept; with a cube's also what is kept of conversations, which begin with its pinned block."""
        dropped = self.store.drop(caller, cube)
        if cube is not None:
            self.store.drop(caller, CONVERSATION)
        return dropped

    # --- life ----------------------------------------------------------------------------------------------------

    def committed(self, changes: Sequence[Change], transaction: Transaction) -> None:
        """See `engine.answering.answering`."""
        self.erasures += transaction.erasing  # before what is kept of conversations goes
        self.adapters.committed(changes, transaction)
        self.store.committed(changes, transaction)

    def sweep(self) -> None:
        """Unload an idle model, keep the budgets."""
        self.host.unload_if_idle(time.monotonic())
        state = self.host.state
        if self.adapters.has_dead and state.stage is Stage.READY:
            with contextlib.suppress(Busy, Unavailable):  # unloaded meanwhile, and they with it
                self.host.runner(state.source).call(self.adapters.resident)  # drops their weights
        self.adapters.note_uses()
        self.store.sweep()

    def close(self) -> None:
        """End what runs and write what is to be kept."""
        self.host.close()  # first, so that no build waits for replies to end
        self._builder.close()
        self.store.close()
