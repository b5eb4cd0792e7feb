"""What the KV store gives out, and how layers come to a request and from it.

A `Found` or a `Chunk` says where the layers are; they are looked at again when they are used, because what they were
derived from may have changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.errors import Conflict, MemosError
from engine.model_operations import ModelInfo, TierRow
from engine.tiers.kv.entries import KIND, OTHER, Entry
from engine.tiers.kv.files import NONE
from engine.tiers.kv.held import Held
from engine.tiers.kv.prefixes import Span, ids_digest
from engine.tiers.kv.tensors import Layers, sliced, tokens_of


@dataclass(frozen=True, slots=True)
class Found:
    """The stored beginning of a prompt: whole blocks, `tokens` together."""

    tokens: int
    spans: tuple[Span[Entry], ...]
    info: ModelInfo
    read: dict[str, Layers] = field(default_factory=dict)  # on the model's device already

    def unvouched(self, tokens: int) -> tuple[Span[Entry], ...]:
        """What nobody vouches for of the first `tokens`."""
        return tuple(span for span in self.spans if span.start < tokens and not span.segment.vouched)


@dataclass(eq=False, slots=True)
class Chunk:
    """A memory's own KV cache, encoded from position `start` on. `divergence` as measured when it was built."""

    id: str
    memory: str
    version: int
    start: int
    tokens: int
    how: str  # it is compressed
    divergence: float | None  # None: not known, here and with this share of recomputed tokens
    entry: Entry
    info: ModelInfo
    held: Held
    read: Layers | None = None

    def fits(self, ids: Sequence[int]) -> bool:
        """Whether it was made from these tokens."""
        return len(ids) == self.tokens and ids_digest(ids) == self.entry.ids

    def load(self) -> Layers | None:
        """Its layers on the model's device; None: it is not to be used any more."""
        if self.read is None:
            layers = self.held.layers_of(self.entry, self.info)
            self.read = None if layers is None else moved(layers, self.info.device)
        return None if self.entry.dead else self.read

    @property
    def layers(self) -> Layers:
        """As `load`. Raises Conflict where it is not to be used any more: `KvStore.ready` sorts these out before."""
        layers = self.load()
        if layers is None:
            raise Conflict(f"the KV cache of {self.memory} was dropped meanwhile: ask again")
        return layers


@dataclass(frozen=True, slots=True)
class Totals:
    """What is stored, of all cubes and conversations."""

    caches: int
    conversations: int  # of them, whose tokens are no cube's
    ram_bytes: int
    disk_bytes: int


def fetch(held: Held, item: Chunk | Found) -> None:
    """Read what is to be used soon."""
    try:
        if isinstance(item, Chunk):
            item.load()
            return
        for span in item.spans:
            layers = held.layers_of(span.segment, item.info)
            if layers is None:
                return
            item.read[span.segment.id] = moved(layers, item.info.device)
    except MemosError:
        return  # whoever uses it meets it again


def moved(layers: Layers, device: str) -> Layers:
    """The layers on a device."""
    if not device or layers[0][0].device.type == device.partition(":")[0]:
        return layers
    return tuple((keys.to(device, non_blocking=True), values.to(device, non_blocking=True)) for keys, values in layers)


def owned(layers: Layers, start: int, end: int) -> Layers:
    """These tokens in main memory, without what else the tensors hold."""
    whole = start == 0 and end == tokens_of(layers)
    part = layers if whole else sliced(layers, start, end)
    return tuple(
        (keys.cpu(), values.cpu()) if whole else (keys.cpu().clone(), values.cpu().clone()) for keys, values in part
    )


def row_of(entry: Entry, info: ModelInfo | None) -> TierRow:
    """An entry as it is shown to people."""
    return TierRow(
        id=entry.id,
        cube=entry.scope.cube_name,
        kind=KIND,
        form=entry.form if entry.how == NONE else f"{entry.form}, {entry.how}",
        tokens=entry.tokens,
        bytes=entry.bytes or entry.ram_bytes,
        memories=len({id for id, _ in entry.sources}),
        model=entry.fingerprint,
        usable=info is not None and entry.fingerprint == info.fingerprint and entry.form != OTHER,
        uses=entry.uses,
        divergence=entry.known_divergence,
        created_at=entry.created_at,
        sources=entry.sources,
    )
