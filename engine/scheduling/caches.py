"""The KV tier as the scheduler uses it: what is kept, what is held ready, what is built and dropped.

Everything goes through the local model that is at hand: nothing here loads one. What must stay true: no tensor is
touched here, and without a model each of these does nothing or says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from engine.answering.answering import Answering
from engine.embeddings import SYSTEM
from engine.errors import Unavailable
from engine.lifecycle.states import LIVE
from engine.model_operations import ModelInfo
from engine.parts import Parts
from engine.scheduling.state import Caches
from engine.vault import Transaction, queries

if TYPE_CHECKING:
    from engine.answering.local import LocalModel
    from engine.tiers.kv.warming import Kept

T = TypeVar("T")
NO_MODEL = "no local model is loaded: a chat, or `memos-mcp tier build CUBE`, loads it"


class CacheTier:
    """What is kept of memories by the model that was loaded last."""

    def __init__(self, parts: Parts, answering: Answering) -> None:
        self._parts, self._answering = parts, answering
        self._built: Callable[[Sequence[str]], None] = lambda ids: None

    def when_built(self, told: Callable[[Sequence[str]], None]) -> None:
        """`told` hears of memories whose caches were built in the background."""
        self._built = told
        self._answering.when_built = lambda memories: self._built([memory.id for memory in memories])

    @property
    def ready(self) -> bool:
        """Whether there is a model whose caches can be held ready."""
        return self._at_hand() is not None

    @property
    def at_work(self) -> bool:
        """Whether the model is in the midst of a reply."""
        local = self._answering.at_hand
        return local is not None and local.host.at_work

    def _at_hand(self) -> tuple[LocalModel, ModelInfo] | None:
        local = self._answering.at_hand
        info = None if local is None else local.known
        if local is None or info is None or local.refusal(info) is not None:
            return None
        return local, info

    def _needed(self) -> tuple[LocalModel, ModelInfo]:
        found = self._at_hand()
        if found is None:
            raise Unavailable(NO_MODEL)
        return found

    def look(self) -> Caches | None:
        """What is kept; None: there is no model by which anything is."""
        found = self._at_hand()
        if found is None:
            return None
        local, info = found
        _, others = local.store.warming.taken(info)
        made = info.kv_bytes_per_token if local.loaded else 0
        return Caches({kept.memory: kept for kept in local.store.warming.kept(info)}, others, made)

    def _of(self, local: LocalModel, info: ModelInfo, ids: Iterable[str]) -> dict[str, Kept]:
        wanted = set(ids)
        return {kept.memory: kept for kept in local.store.warming.kept(info) if kept.memory in wanted}

    def hold(self, ids: Sequence[str]) -> list[str]:
        """Read the caches of these memories into RAM; those that are there now."""
        local, info = self._needed()
        kept = {one.id: id for id, one in self._of(local, info, ids).items()}
        return sorted(kept[id] for id in local.store.warming.hold(list(kept), info))

    def let_go(self, ids: Sequence[str]) -> list[str]:
        """Take these out of RAM; those that are out now."""
        local, info = self._needed()
        kept = {one.id: id for id, one in self._of(local, info, ids).items()}
        return sorted(kept[id] for id in local.store.warming.let_go(list(kept)))

    def drop(self, ids: Sequence[str], told: Callable[[Transaction], T]) -> T:
        """Delete the caches of these memories, in one transaction with what `told` writes."""
        local, info = self._needed()
        return local.store.warming.drop([kept.id for kept in self._of(local, info, ids).values()], SYSTEM, told)

    def build(self, ids: Sequence[str]) -> None:
        """Have caches of these memories built when the model has nothing else to do."""
        local, _ = self._needed()
        with self._parts.vault.reading() as connection:
            found = [record.memory for record in queries.records(connection, list(ids)).values()]
        if not local.build_soon([memory for memory in found if memory.state in LIVE]):
            raise Unavailable(NO_MODEL)
