"""KV caches that follow from their tokens without a model, and stores that keep them, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import Qwen2Config

from engine.memos import MemOS
from engine.model_operations import ModelInfo
from engine.settings import Settings
from engine.tiers.kv.store import KvStore, Scope
from engine.tiers.kv.tensors import Layers, WorkingCache
from tests.conftest import HandClock
from tests.engine.stores import opened

LAYERS, HEADS, SIZE = 2, 2, 8
TOKEN_BYTES = LAYERS * 2 * HEADS * SIZE * 4
CONFIG = Qwen2Config(
    vocab_size=64, hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=HEADS
)


def model(fingerprint: str = "sha256:one") -> ModelInfo:
    return ModelInfo("tiny", "qwen2", fingerprint, "cpu", "float32", 1, 4096, kv_bytes_per_token=TOKEN_BYTES)


def tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 60, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def layers_for(ids: Sequence[int], dtype: torch.dtype = torch.float32) -> Layers:
    """Layers that follow from the tokens alone, each from those before it too, as with a model."""
    mixed, state = [], 0
    for id in ids:
        state = (state * 31 + id + 1) % (1 << 30)
        mixed.append(state)
    flat = torch.tensor(mixed, dtype=torch.float64)[:, None] * torch.arange(1, 2 * LAYERS * HEADS * SIZE + 1)
    numbers = torch.sin(flat).to(dtype).reshape(len(ids), LAYERS, 2, HEADS, SIZE).permute(1, 2, 3, 0, 4)
    return tuple((layer[0][None].contiguous(), layer[1][None].contiguous()) for layer in numbers)


def part(layers: Layers, start: int, end: int) -> Layers:
    return tuple((keys[:, :, start:end].clone(), values[:, :, start:end].clone()) for keys, values in layers)


def equal(one: Layers, other: Layers) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True)
    )


def nearly_equal(one: Layers, other: Layers, most: float = 0.02) -> bool:
    pairs = [pair for layers in zip(one, other, strict=True) for pair in zip(*layers, strict=True)]
    return all(float((a - b).abs().max()) < most for a, b in pairs)


def working() -> WorkingCache:
    return WorkingCache(CONFIG)


@dataclass
class Kept:
    """An open store with a KV store, wired as the engine does it."""

    memos: MemOS
    kv: KvStore

    def filled(self, info: ModelInfo, scopes: Sequence[object], ids: Sequence[int]) -> int:
        """How many tokens of a prompt are reused; what is reused is checked number by number."""
        found = self.kv.longest(info, scopes, ids)  # type: ignore[arg-type]
        if found is None:
            return 0
        cache = working()
        count = self.kv.fill(found, cache)
        if count:
            assert cache.tokens == count
            assert equal(cache.taken(0, count), layers_for(ids[:count]))
        return count


@contextmanager
def kept(settings: Settings, clock: HandClock | None = None) -> Iterator[Kept]:
    with opened(settings, clock) as memos:
        parts = memos._parts
        kv = KvStore(parts.vault, parts.vault.settings, parts.clock, parts.ids)
        before = parts.vault.on_commit

        def committed(changes, transaction) -> None:  # type: ignore[no-untyped-def]
            kv.committed(changes, transaction)
            before(changes, transaction)

        parts.vault.on_commit = committed
        try:
            yield Kept(memos, kv)
        finally:
            kv.close()


INFO = model()
HOME, MINE = Scope.cube("home"), Scope.talk("owner")
Sources = Sequence[tuple[str, int]]


def keep(store: Kept, ids: Sequence[int], start: int = 0, scope: Scope = MINE, sources: Sources = ()) -> str | None:
    layers = part(layers_for(ids), start, len(ids))
    return store.kv.keep_prefix(INFO, scope, scope.cube_name, ids, layers, start, sources)


def keep_chunk(store: Kept, id: str, ids: Sequence[int], version: int = 1, **more: object) -> str | None:
    return store.kv.keep_chunk(INFO, "home", id, version, ids, layers_for(ids), 0.01, **more)  # type: ignore[arg-type]


def blobs(settings: Settings) -> int:
    return len(list(settings.blobs_folder.iterdir())) if settings.blobs_folder.exists() else 0
