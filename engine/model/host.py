"""Holds the one model that is loaded: loads it when it is first needed, unloads it when nobody uses it.

States: unloaded → loading → ready → unloaded, or failed with the reason, which the next request tries again. Another
model is loaded only when the one that is there is idle, and has all of its memory: there are never two. Until its files
are here, the one that is there goes on answering. Every method may be called from any thread, and the state can be seen
while a model is loading. It imports no torch until a model is asked for, and does not know what runs on it.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from engine.errors import Busy, MemosError, Unavailable
from engine.model.remote import is_remote
from engine.model.sources import located, require_local
from engine.model_operations import ModelInfo, shown_source
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.model.runner import Runner

log = logging.getLogger(__name__)


class Stage(StrEnum):
    """What the host is at."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class State:
    """How the host stands, as it is shown to people."""

    stage: Stage = Stage.UNLOADED
    source: str | None = None
    reason: str = ""  # why it failed


class ModelHost:
    """One model at a time, for a whole daemon."""

    def __init__(self, settings: Settings, announce: Callable[[str], None]) -> None:
        self._settings, self._announce = settings, announce
        self._unloading = threading.Lock()  # held, before `_changed`, until an unloaded model's memory is given back
        self._changed = threading.Condition()
        self._state = State()
        self._failure: MemosError | None = None
        self._runner: Runner | None = None
        self._info: ModelInfo | None = None
        self._users = 0
        self._last_used = time.monotonic()
        self._closed = False

    @property
    def info(self) -> ModelInfo | None:
        """The model that was loaded last, whether or not it still is."""
        with self._changed:
            return self._info

    @property
    def at_work(self) -> bool:
        """Whether anybody uses the model right now."""
        with self._changed:
            return self._at_work()

    @property
    def state(self) -> State:
        with self._changed:
            return self._state

    def runner(self, source: str | None = None) -> Runner:
        """What runs jobs on the model `source` (None: that of the settings); it is loaded if need be.

        Raises:
            Unavailable, NotFound, Invalid, Corrupt: it cannot be loaded; the message says what to do.
            Busy: another model is at work or being loaded.
        """
        source = source or self._settings.model
        if not source:
            raise Unavailable("no model is configured: name one with --model, or set MEMOS_MODEL")
        if is_remote(source):
            raise Unavailable(f"{source} is a remote server: it is not loaded here")
        require_local()
        with self._changed:
            ready = self._ready_or_claimed(source)
        if ready is not None:
            return ready
        return self._loaded(source)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the model while it is worked with: it is neither unloaded nor exchanged."""
        with self._changed:
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._last_used = time.monotonic()

    def unload_if_idle(self, now: float) -> bool:
        """Unload a model that nobody has used for as long as the settings say; `now` as of `time.monotonic`."""
        with self._unloading:
            with self._changed:
                if self._at_work() or now - self._last_used < self._settings.model_idle_s:
                    return False
                runner = self._taken()
            return self._ended(runner)

    def unload(self) -> bool:
        """Unload the model now, unless it is at work; whether there was one.

        Raises:
            Busy: it is at work.
        """
        with self._unloading:
            with self._changed:
                self._refuse_at_work("unload it")
                runner = self._taken()
            return self._ended(runner)

    def close(self) -> None:
        """End what runs, and load nothing any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._unloading:
            with self._changed:
                runner = self._taken()
            self._ended(runner)

    # --- loading -------------------------------------------------------------------------------------------------

    def _ready_or_claimed(self, source: str) -> Runner | None:
        """The runner of `source`; None: the caller is the one to load it, and the state says so."""
        waited = False
        while not self._closed:
            if self._runner is not None and self._there() == source:
                self._last_used = time.monotonic()
                return self._runner
            if self._state.stage is not Stage.LOADING:
                break
            if self._state.source != source:
                raise Busy(
                    f"the model {_name(self._state.source)} is being loaded: ask for {_name(source)} when it is there"
                )
            self._changed.wait()
            waited = True
        if self._closed:
            raise _closing()
        if waited and self._failure is not None:
            raise type(self._failure)(str(self._failure))
        if self._runner is not None:
            self._refuse_at_work(f"ask for {_name(source)}")
        self._state, self._failure = State(Stage.LOADING, source), None
        return None

    def _loaded(self, source: str) -> Runner:
        """Load the model that was claimed. The one that is there serves until the files of the other one are there."""
        try:
            located(source, self._settings, self._announce)
            self._make_room(source)
            runner = self._made(source)
        except BaseException as error:
            self._failed(source, error)
            raise
        with self._changed:
            closed = self._closed
            if not closed:
                self._runner, self._info = runner, runner.loaded.info
                self._state, self._last_used = State(Stage.READY, source), time.monotonic()
            self._changed.notify_all()
        if closed:
            self._ended(runner)
            raise _closing()
        return runner

    def _make_room(self, source: str) -> None:
        """Unload the model that is there; also wait for one that is being unloaded: there are never two in memory.

        Raises:
            Busy: it is at work, and stays.
        """
        with self._unloading:
            with self._changed:
                if self._closed:
                    raise _closing()
                if self._runner is not None:
                    self._refuse_at_work(f"ask for {_name(source)}")
                runner = self._taken()
            self._ended(runner)

    def _made(self, source: str) -> Runner:
        from engine.model.loading import load  # loads torch
        from engine.model.runner import Runner

        return Runner(load(source, self._settings, self._announce))

    def _failed(self, source: str, error: BaseException) -> None:
        known = error if isinstance(error, MemosError) else Unavailable(f"{source} was not loaded: {error!r}")
        failure = type(known)(str(known))  # without the frames of `error`, which may hold a model
        log.warning("the model %s was not loaded: %s", source, failure)
        with self._changed:
            self._failure = failure
            if self._runner is not None:
                self._state = State(Stage.READY, self._there())
            else:
                self._state = State(Stage.FAILED, source, str(failure))
            self._changed.notify_all()

    # --- unloading -----------------------------------------------------------------------------------------------

    def _at_work(self) -> bool:
        return self._users > 0 or (self._runner is not None and self._runner.busy)

    def _there(self) -> str | None:
        """The source of the model that is there, if one is."""
        return self._info.source if self._runner is not None and self._info is not None else None

    def _refuse_at_work(self, what: str) -> None:
        if self._at_work():
            raise Busy(f"the model {_name(self._there())} is at work: {what} when it is idle")

    def _taken(self) -> Runner | None:
        """The runner, which is nobody's any more."""
        runner, self._runner = self._runner, None
        if self._state.stage is Stage.READY:
            self._state = State()
        return runner

    def _ended(self, runner: Runner | None) -> bool:
        """Close a runner, which lets go of its model whoever still holds the runner; give back what the model took."""
        if runner is None:
            return False
        info = runner.loaded.info
        log.info("unloading %s", info.source)
        runner.close()
        gc.collect()
        if info.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()
        return True


def _name(source: str | None) -> str:
    """As anyone may read it."""
    return shown_source(source or "", owner=False)


def _closing() -> Unavailable:
    return Unavailable("the daemon is ending: ask again, and another one answers")
