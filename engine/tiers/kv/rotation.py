"""Moves keys to other positions: what was encoded at one place of a prompt is used at another.

Rotary embeddings turn each pair of a key's numbers by position times a frequency (RoFormer, arXiv 2104.09864), so a key
is moved by turning it by the difference. Values carry no position and are shared. Angles are formed as the model forms
them, each position's product rounded to float32, and subtracted in float64: a moved key then equals the key that the
model would have computed there, however far it is moved. What a model's `attention_scaling` multiplied is in the keys
already and is not applied again.

It knows nothing of what the tokens say. Layers that are given are never written to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.tiers.kv.tensors import Layers, WorkingCache, tokens_of

if TYPE_CHECKING:
    from engine.model.layouts import Rope

Turns = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, each [tokens, rotated numbers / 2], float32


@dataclass(frozen=True, slots=True)
class Part:
    """A run of tokens as it was encoded; its first token stood at position `start`."""

    layers: Layers
    start: int = 0


def rotated(layers: Layers, rope: Rope | None, shift_tokens: int, start: int = 0) -> Layers:
    """Tokens that were encoded from position `start` on, as if they had been `shift_tokens` later (or earlier)."""
    was = torch.arange(start, start + tokens_of(layers))
    return moved(layers, rope, was, was + shift_tokens)


def moved(layers: Layers, rope: Rope | None, was: torch.Tensor, to: torch.Tensor) -> Layers:
    """Tokens that were encoded at the positions `was` [tokens], as if they had been at `to` [tokens]."""
    turning = _Turning(rope, was, to)
    made = []
    for number, (keys, values) in enumerate(layers):
        turns = turning.of(number, keys.device)
        if turns is not None:
            target = torch.empty_like(keys)
            turning.turn(keys, target, turns)
            keys = target
        made.append((keys, values))
    return tuple(made)


def place(cache: WorkingCache, parts: Sequence[Part], rope: Rope | None) -> None:
    """Append runs of tokens one behind another, each with its keys turned to where it comes to stand.

    All parts of a layer are turned at once, straight into the cache. Where that begins empty it lies where they do.
    """
    if not parts:
        return
    was = torch.cat([torch.arange(part.start, part.start + tokens_of(part.layers)) for part in parts])
    start = cache.tokens
    turning = _Turning(rope, was, torch.arange(start, start + len(was)))
    for number, layer in enumerate(cache.layers):
        keys, values = (_one([part.layers[number][which] for part in parts]) for which in (0, 1))
        if start:  # what is kept may lie elsewhere than where the model computes
            keys, values = keys.to(layer.keys.device), values.to(layer.keys.device)
        layer.update(keys, values)
        turns = turning.of(number, keys.device)
        if turns is not None:
            turning.turn(keys, layer.keys[:, :, start:], turns)


def _one(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), 2)


class _Turning:
    """By how much the tokens are turned, computed once for all layers of the same frequencies."""

    def __init__(self, rope: Rope | None, was: torch.Tensor, to: torch.Tensor) -> None:
        self._rope = None if rope is None or torch.equal(was, to) else rope
        self._was, self._to = was.float(), to.float()
        self._known: dict[tuple[int, torch.device], Turns] = {}

    def of(self, layer: int, device: torch.device) -> Turns | None:
        """None: this layer's keys carry no position, or nothing moves."""
        frequencies = None if self._rope is None else self._rope.inv_freq[layer]
        if frequencies is None:
            return None
        key = id(frequencies), device
        if key not in self._known:
            each = frequencies.to("cpu", torch.float32)
            angles = (self._to[:, None] * each).double() - (self._was[:, None] * each).double()
            self._known[key] = angles.cos().float().to(device), angles.sin().float().to(device)
        return self._known[key]

    def turn(self, keys: torch.Tensor, target: torch.Tensor, turns: Turns) -> None:
        """Write `keys` [1, heads, tokens, head size], turned, to `target`; they must not overlap."""
        cos, sin = turns
        assert self._rope is not None
        size = 2 * cos.shape[-1]
        if size < keys.shape[-1]:
            target[..., size:] = keys[..., size:]
        first, second = _halves(keys, size, self._rope.interleaved)
        to_first, to_second = _halves(target, size, self._rope.interleaved)
        if keys.dtype == torch.float32:
            torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-1)
            torch.mul(second, cos, out=to_second).addcmul_(first, sin)
            return
        first, second = first.float(), second.float()
        to_first.copy_((first * cos).addcmul_(second, sin, value=-1))
        to_second.copy_((second * cos).addcmul_(first, sin))


def _halves(keys: torch.Tensor, size: int, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second number of each pair that is turned together, as views."""
    if interleaved:
        return keys[..., 0:size:2], keys[..., 1:size:2]
    return keys[..., : size // 2], keys[..., size // 2 : size]
