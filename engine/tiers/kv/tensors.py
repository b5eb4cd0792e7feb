"""KV caches as values: the keys and values of a run of tokens, and the working cache of one generation.

`Layers` are never changed once made: they may be views into a mapped file or be shared by requests. A `WorkingCache` is
the one thing that is written to, by one request, and is filled by copying.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""For each layer keys and values, each [1, KV heads, tokens, head size]. Keys are rotated to the positions at which the
tokens stood when they were encoded."""

GROW_TOKENS = 256  # room that a working cache is given at least when it is full


def tokens_of(layers: Layers) -> int:
    """How many tokens they hold."""
    return int(layers[0][0].shape[2]) if layers else 0


def sliced(layers: Layers, start: int, end: int) -> Layers:
    """The tokens `start` to `end`, without copying."""
    return tuple((keys[:, :, start:end], values[:, :, start:end]) for keys, values in layers)


def joined(parts: Sequence[Layers]) -> Layers:
    """Runs of tokens one after another, copied."""
    return tuple(
        (torch.cat([keys for keys, _ in layer], 2), torch.cat([values for _, values in layer], 2))
        for layer in zip(*parts, strict=True)
    )


def bytes_of(layers: Layers) -> int:
    """How many bytes the tensors have."""
    return sum(tensor.numel() * tensor.element_size() for layer in layers for tensor in layer)


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer whose tensors have room: appending copies what is new, and not, as in DynamicLayer, what is there."""

    def __init__(self, room_tokens: int) -> None:
        super().__init__()
        self._room, self._filled = room_tokens, 0
        self._all_keys: torch.Tensor | None = None
        self._all_values: torch.Tensor | None = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self._make_room(keys, values)
        assert self._all_keys is not None
        assert self._all_values is not None
        end = self._filled + keys.shape[2]
        self._all_keys[:, :, self._filled : end] = keys
        self._all_values[:, :, self._filled : end] = values
        self._show(end)
        return self.keys, self.values

    def overwrite(self, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace the tokens at `places` [n]."""
        assert self._all_keys is not None
        assert self._all_values is not None
        self._all_keys[:, :, places] = keys
        self._all_values[:, :, places] = values

    def cut(self, tokens: int) -> None:
        """Keep the first `tokens`."""
        self._show(tokens)

    def crop(self, tokens_to_remove: int) -> None:
        self._show(self._filled + min(0, tokens_to_remove))

    def _show(self, end: int) -> None:
        assert self._all_keys is not None
        assert self._all_values is not None
        self._filled = end
        self.keys, self.values = self._all_keys[:, :, :end], self._all_values[:, :, :end]

    def _make_room(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        needed = self._filled + keys.shape[2]
        if self._all_keys is not None and self._all_keys.shape[2] >= needed:
            return
        room = max(self._room, needed, 2 * self._filled if self._all_keys is not None else 0)
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        for name, like in (("_all_keys", keys), ("_all_values", values)):
            old: torch.Tensor | None = getattr(self, name)
            new = like.new_empty((*like.shape[:2], room, like.shape[3]))
            if old is not None:
                new[:, :, : self._filled] = old[:, :, : self._filled]
            setattr(self, name, new)


class WorkingCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """The cache of one request: tokens are appended by the model, or copied in from `Layers`."""

    def __init__(self, config: PretrainedConfig, room_tokens: int = GROW_TOKENS) -> None:
        count = config.get_text_config(decoder=True).num_hidden_layers
        super().__init__(layers=[_GrowingLayer(room_tokens) for _ in range(count)])

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return int(self.layers[0].get_seq_length())

    def append(self, layers: Layers) -> None:
        """Copy tokens in behind those that are there. Their keys must be rotated to these positions."""
        for mine, (keys, values) in zip(self.layers, layers, strict=True):
            mine.update(keys, values)

    def overwrite(self, places: torch.Tensor, layers: Layers) -> None:
        """Replace the tokens at `places` [n]."""
        for mine, (keys, values) in zip(self.layers, layers, strict=True):
            mine.overwrite(places, keys, values)

    def cut(self, tokens: int) -> None:
        """Show the first `tokens`. What is behind them can be shown again until others are written there."""
        for layer in self.layers:
            layer.cut(tokens)

    def taken(self, start: int, end: int) -> Layers:
        """A copy of the tokens `start` to `end`, which the request goes on without."""
        return tuple(
            (layer.keys[:, :, start:end].clone(), layer.values[:, :, start:end].clone()) for layer in self.layers
        )


def finite(layers: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    """Whether every number is one."""
    return all(bool(torch.isfinite(tensor).all()) for layer in layers for tensor in layer)
