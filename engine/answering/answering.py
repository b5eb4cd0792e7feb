"""Answering: conversations with the model that is configured, from the memory that the caller may use.

This module checks, gathers, and hands over to the local model or to a remote server. It imports no torch: what needs
tensors, or the network, is imported with the first request that needs it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cubes import Action, Memory
from engine.answering.checks import check
from engine.answering.gathering import Gathering
from engine.errors import Busy, Invalid, MemosError, NotAllowed, Unavailable
from engine.governance.access import granted, require
from engine.model.remote import is_remote, shown_server
from engine.model.sources import located, require_local
from engine.model_operations import Chat, ChatEvent, ModelInfo, TierBuilt, TierRow, is_called, shown_source
from engine.operations import Caller, Progress
from engine.parts import Parts, readable_cubes
from engine.recalling import Recalling
from engine.vault import Change, Transaction

if TYPE_CHECKING:
    from engine.answering.local import LocalModel
    from engine.model.remote import RemoteModel
    from engine.model.runner import Runner
    from engine.tiers.lora.store import AdapterStore

NO_MODEL = (
    "no model is configured: name one with --model (a Hugging Face name, a folder, or the URL of an OpenAI-compatible "
    "server), or set MEMOS_MODEL before the daemon starts (one that runs: memos-mcp stop)"
)
log = logging.getLogger(__name__)


class Answering:
    """The model of one store, loaded when it is first asked."""

    def __init__(self, parts: Parts, recalling: Recalling, announce: Callable[[str], None]) -> None:
        self._parts, self._settings, self._announce = parts, parts.vault.settings, announce
        self._gathering = Gathering(parts, recalling)
        self._source = self._settings.model
        self._lock = threading.Lock()
        self._local: LocalModel | None = None
        self._closed = False
        self._remote: RemoteModel | None = None
        self.when_built: Callable[[Sequence[Memory]], None] = lambda memories: None  # of these, in the background
        self.when_ended: Callable[[], None] = lambda: None  # a reply of the local model

    # --- the model -----------------------------------------------------------------------------------------------

    def model(
        self, caller: Caller, source: str | None = None, load: bool = False, offline: bool = False
    ) -> ModelInfo | None:
        """The model that is served, as far as it is known; with `load` it is loaded first, if `offline` from here only.

        Raises:
            NotAllowed: only the owner may choose another one.
            Unavailable: it cannot be loaded, with what to do; or none is configured, with `load`.
        """
        chosen = self._chosen(source, caller)
        if chosen is None:
            if load:
                raise Unavailable(NO_MODEL)
            return None
        if is_remote(chosen):
            return self._remote_model(chosen).info
        if load:
            if offline:
                located(chosen, replace(self._settings, offline=True), self._announce)  # refuses what is not here
            info = self._loaded(self._local_model(), chosen, caller)
            self._source = chosen
            return info
        with self._lock:
            local = self._local
        return local.known if local is not None else None

    def untrainable(self) -> str | None:
        """Why nothing can be trained, as far as is known without loading anything; None: something can."""
        if not self._settings.lora:
            return "the LoRA tier is switched off: start the daemon without MEMOS_LORA=0"
        if self._source is None:
            return NO_MODEL
        if is_remote(self._source):
            return f"{self._source} is a remote server: only a local model has adapters"
        return None

    def for_training(self, caller: Caller) -> tuple[LocalModel, Runner]:
        """The local model, loaded, and what runs jobs on it.

        Raises:
            Unavailable: there is none, or it cannot be loaded, with what to do.
            Busy: another one is at work.
        """
        if (refusal := self.untrainable()) is not None:
            raise Unavailable(refusal)
        return self.for_work(caller)

    def for_work(self, caller: Caller) -> tuple[LocalModel, Runner]:
        """As `for_training`, for work that makes no adapter."""
        source = self._source
        if source is None:
            raise Unavailable(NO_MODEL)
        if is_remote(source):
            raise Unavailable(f"{source} is a remote server: name a local model, or give its URL as what does the work")
        local = self._local_model()
        self._loaded(local, source, caller)
        return local, local.host.runner(source)

    def _chosen(self, source: str | None, caller: Caller) -> str | None:
        if source is not None and self._source is not None and is_called(self._source, source):
            return self._source
        if source is not None:
            if not granted(caller.principal, "*", Action.ADMIN):
                raise NotAllowed("only the owner of the store chooses the model: leave it out")
            if not source.strip():
                raise Invalid("the model's name is empty: give a Hugging Face name, a folder or a URL")
            return source
        return self._source

    def _loaded(self, local: LocalModel, source: str, caller: Caller) -> ModelInfo:
        """The model, loaded. Why it cannot be says where it lies, which is for the owner."""
        try:
            return local.info(source)
        except Busy:
            raise
        except MemosError as error:
            if caller.principal.owner:
                raise
            log.error("the model %s cannot be loaded: %s", source, error)
            name = shown_source(source, owner=False)
            raise Unavailable(f"the model {name} cannot be loaded: the log of whoever serves it says why") from None

    def _local_model(self) -> LocalModel:
        require_local()
        from engine.answering.local import LocalModel

        with self._lock:
            if self._closed:
                raise Unavailable("the store is being closed: ask again in a moment")
            if self._local is None:
                self._local = LocalModel(self._parts, self._gathering, self._announce)
                self._local.tell_built(lambda memories: self.when_built(memories))
                self._local.when_ended = lambda: self.when_ended()
            return self._local

    @property
    def at_hand(self) -> LocalModel | None:
        """The local model, if anything asked for one since the store was opened: looking loads nothing."""
        with self._lock:
            return self._local

    def _remote_model(self, url: str) -> RemoteModel:
        from engine.model.remote import RemoteModel

        with self._lock:
            if self._remote is None or self._remote.info.source != url:
                self._remote = RemoteModel(url, self._settings)
            return self._remote

    def standing(self) -> str | None:
        """The model that is configured and how it stands, in words; None: none is."""
        source = self._source
        if source is None:
            return None
        if is_remote(source):
            return f"{shown_server(source)} (a server)"
        with self._lock:
            local = self._local
        return f"{source} ({local.standing if local is not None else 'loaded when it is asked'})"

    # --- chat ----------------------------------------------------------------------------------------------------

    def chat(self, request: Chat, caller: Caller) -> Iterator[ChatEvent]:
        """The events of one reply. Closing the iterator cancels it.

        Raises:
            Invalid, TooLarge: the request is outside the bounds; NotFound: a cube that the caller may not read.
            Unavailable: there is no model, with what to do.
        """
        started = time.perf_counter()
        check(request)
        chosen = self._chosen(request.model, caller)
        if chosen is None:
            raise Unavailable(NO_MODEL)
        if request.memory is not None:
            readable_cubes(self._parts, request.memory.cubes, caller)  # refused before anything is loaded
        if is_remote(chosen):
            from engine.answering.remote_reply import remote_reply

            return remote_reply(self._remote_model(chosen), self._gathering, request, caller, started)
        local = self._local_model()
        self._loaded(local, chosen, caller)  # here, so that what is wrong with it is told before the first event
        self._source = chosen
        return local.reply(chosen, request, caller, started)

    # --- the KV tier ---------------------------------------------------------------------------------------------

    def tiers(self, cube: str | None, caller: Caller) -> tuple[TierRow, ...]:
        """What is kept in the KV tier, of the cubes that the caller may read."""
        cubes = readable_cubes(self._parts, [cube] if cube is not None else None, caller)
        return self._local_model().rows(cubes, caller) if self._anything_kept() else ()

    def build_tier(
        self, cube: str, caller: Caller, progress: Progress, only: Collection[str] | None = None
    ) -> TierBuilt:
        """Build the KV caches of a cube: its pinned block and a chunk of each memory, or of those in `only`.

        Raises:
            NotFound, NotAllowed: a cube that the caller may not read, or not change.
            Unavailable: there is no local model, or it does not let its cache be kept.
        """
        chosen = self._may_change(cube, caller)
        if chosen is None:
            raise Unavailable(NO_MODEL)
        if is_remote(chosen):
            raise Unavailable(f"{chosen} is a remote server with a cache of its own: only a local model has a KV tier")
        return self._local_model().build(chosen, cube, caller, progress, only)

    def drop_tier(self, cube: str | None, caller: Caller) -> int:
        """Drop the KV caches of a cube, or of all; how many there were."""
        if cube is not None:
            self._may_change(cube, caller)
        elif not granted(caller.principal, "*", Action.ADMIN):
            raise NotAllowed("dropping every KV cache is for the owner of the store: name a cube")
        return self._local_model().drop(cube, caller) if self._anything_kept() else 0

    def drop_caches(self, cube: str, ids: Collection[str], caller: Caller) -> int:
        """Drop these KV caches of a cube that the caller may change; how many there were."""
        self._may_change(cube, caller)
        return self._local_model().store.drop(caller, cube, ids) if ids else 0

    @property
    def adapters(self) -> AdapterStore:
        """The versions of adapters. Who may do what with them is decided elsewhere.

        Raises:
            Unavailable: what runs a local model is not installed.
        """
        return self._local_model().adapters

    def _anything_kept(self) -> bool:
        """Whether there is a KV cache at all: looking at none needs no tensors."""
        return self._local is not None or bool(self._parts.vault.rows("SELECT 1 FROM artifacts LIMIT 1"))

    def _may_change(self, cube: str, caller: Caller) -> str | None:
        (found,) = readable_cubes(self._parts, [cube], caller)
        require(caller.principal, found, Action.WRITE)
        return self._source

    @property
    def fingerprint(self) -> str:
        """Of the local model, once it was loaded; else empty."""
        with self._lock:
            local = self._local
        return local.known.fingerprint if local is not None and local.known is not None else ""

    def flush(self) -> None:
        """Wait until what replies left is stored."""
        with self._lock:
            local = self._local
        if local is not None:
            local.store.flush()

    # --- life ----------------------------------------------------------------------------------------------------

    def committed(self, changes: Sequence[Change], transaction: Transaction) -> None:
        """Called before a writing call returns: nothing derived from what it changed is used any more."""
        self._gathering.committed(transaction.cubes)
        with self._lock:
            local = self._local
        if local is not None:
            local.committed(changes, transaction)

    def sweep(self) -> None:
        """Unload an idle model, keep the budgets."""
        with self._lock:
            local = self._local
        if local is not None:
            local.sweep()

    def close(self) -> None:
        """End what runs and write what is to be kept."""
        with self._lock:
            local, self._local, self._closed = self._local, None, True
        if local is not None:
            local.close()
