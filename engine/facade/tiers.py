"""The part of the facade for models and tiers: chats, caches, adapters, moves between tiers, long work, the scheduler.

Thin calls, as the rest of the facade. What must stay true: no module with tensors in it is loaded before it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.distilling import comparing, fusing, recovering
from engine.facade.wiring import Wired
from engine.model_operations import Chat, ChatEvent, ModelInfo, TierBuilt, TierRow
from engine.operations import Caller, Progress, silent
from engine.tier_operations import (
    AdapterView,
    Distil,
    FuseAdapters,
    FusedAdapter,
    Move,
    Moved,
    Probed,
    Recovered,
    WorkView,
)


class Tiers(Wired):
    """What can be done with the local model and the deeper tiers."""

    def chat(self, request: Chat, caller: Caller) -> Iterator[ChatEvent]:
        """The events of a reply from memory; closing the iterator cancels it. See `engine.answering`."""
        return self._answering.chat(request, caller)

    def model(
        self, caller: Caller, source: str | None = None, load: bool = False, offline: bool = False
    ) -> ModelInfo | None:
        """The model that is served, as far as it is known. See `engine.answering`."""
        return self._answering.model(caller, source, load, offline)

    def tiers(self, cube: str | None, caller: Caller) -> tuple[TierRow, ...]:
        """The KV caches that are kept of a cube, or of all that the caller may read. See `engine.answering`."""
        return self._answering.tiers(cube, caller)

    def build_tier(self, cube: str, caller: Caller, progress: Progress = silent) -> TierBuilt:
        """Build the KV caches of a cube. See `engine.answering`."""
        return self._answering.build_tier(cube, caller, progress)

    def drop_tier(self, cube: str | None, caller: Caller) -> int:
        """Drop the KV caches of a cube, or all of them; how many there were. See `engine.answering`."""
        return self._answering.drop_tier(cube, caller)

    def embed(self, texts: Sequence[str], caller: Caller) -> tuple[tuple[tuple[float, ...], ...], str]:
        """The vector of each text, and the name of the embedder. Raises `Unavailable` where there is none."""
        vectors, name = self._parts.embeddings.of_texts(texts)
        return tuple(tuple(vector.tolist()) for vector in vectors), name

    # --- adapters ----------------------------------------------------------------------------------------------

    def distil(self, request: Distil, caller: Caller, progress: Progress = silent) -> AdapterView | WorkView:
        """Train an adapter of a cube, now or in the background. See `engine.distilling`."""
        return self._distilling.distil(request, caller, progress)

    def adapters(self, cube: str | None, caller: Caller) -> tuple[AdapterView, ...]:
        """The versions of a cube's adapter, or of all that the caller may see. See `engine.moving.adapters`."""
        return self._adapters.views(cube, caller)

    def activate_adapter(
        self, cube: str, version: int | None, caller: Caller, reason: str | None = None, progress: Progress = silent
    ) -> AdapterView | None:
        """Let a version serve, or none. See `engine.moving.adapters`."""
        return self._adapters.activate(cube, version, caller, reason, progress)

    def drop_adapter(self, cube: str, version: int | None, caller: Caller, reason: str | None = None) -> int:
        """Drop a version of a cube's adapter, or all; how many there were. See `engine.moving.adapters`."""
        return self._adapters.drop(cube, version, caller, reason)

    def export_adapter(self, cube: str, version: int, folder: Path, caller: Caller) -> Path:
        """Write a version (0: the one that serves) as a folder that PEFT loads. See `engine.moving.adapters`."""
        return self._adapters.export(cube, version, folder, caller)

    def fuse_adapters(self, request: FuseAdapters, caller: Caller, progress: Progress = silent) -> FusedAdapter:
        """Make one adapter of several. See `engine.distilling.fusing`."""
        return fusing.fuse_adapters(self._parts, self._answering, self._distilling, request, caller, progress)

    def compare_adapters(
        self, cube: str, a: int, b: int, caller: Caller, progress: Progress = silent
    ) -> tuple[Probed, ...]:
        """Ask two versions (0: the base model) the same. See `engine.distilling.comparing`."""
        return comparing.compare_adapters(self._parts, self._answering, cube, a, b, caller, progress)

    def probe_adapter(
        self, cube: str, version: int, ids: Sequence[str], caller: Caller, progress: Progress = silent
    ) -> tuple[Probed, ...]:
        """Ask a version (0: the one that serves) and the base, closed book. See `engine.distilling.comparing`."""
        return comparing.probe_adapter(self._parts, self._answering, cube, version, ids, caller, progress)

    def recover_texts(
        self,
        cube: str,
        version: int,
        caller: Caller,
        progress: Progress = silent,
        *,
        keep: bool = False,
        into: str | None = None,
    ) -> tuple[Recovered, ...]:
        """What a version (0: the one that serves) asserts, in words. See `engine.distilling.recovering`."""
        found = recovering.recover_texts(
            self._parts, self._answering, cube, version, caller, progress, keep=keep, into=into
        )
        self._work.set()  # what was kept is to be embedded
        return found

    # --- moves and work ----------------------------------------------------------------------------------------

    def move(self, request: Move, caller: Caller, progress: Progress = silent) -> Moved:
        """Take memories, or a whole cube, to another tier. See `engine.moving`."""
        return self._moving.move(request, caller, progress)

    def work(self, caller: Caller) -> tuple[WorkView, ...]:
        """Long work of the cubes that the caller may change, oldest first. See `engine.distilling.working`."""
        return self._distilling.work(caller)

    @property
    def at_work(self) -> bool:
        """Whether long work is under way: who serves the store does not end for idleness meanwhile."""
        return self._distilling.working.busy

    def cancel_work(self, id: str, caller: Caller) -> WorkView:
        """Stop work, or have it never begin. See `engine.distilling.working`."""
        return self._distilling.cancel(id, caller)
