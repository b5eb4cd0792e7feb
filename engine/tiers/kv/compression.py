"""Stores keys and values in fewer bits: int8 and int4, keys per channel, values per token (KIVI, arXiv 2402.02750).

Keys have channels that are large in every token, so each channel has a scale of its own; values have not, so each token
has one. int8 is symmetric: number = integer × scale. int4 has sixteen steps above a least number: number = integer ×
scale + least; each channel of the keys gets new ones every `GROUP_TOKENS` tokens, and two integers share a byte. Scales
are float16 and counted in every size that is told.

Another way to store less is to keep fewer tokens: those that the questions asked of the cache attend to most (SnapKV,
arXiv 2404.14469).

It knows nothing of files: `Packed.tensors` is what a file holds. What it is given is never written to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.tiers.kv.tensors import Layers, WorkingCache

if TYPE_CHECKING:
    from engine.model.loading import Loaded

INT8, INT4 = "int8", "int4"
GROUP_TOKENS = 64  # with heads of 64 numbers 0.28 × the bytes of bfloat16; 32 would make it 0.30
SCALE = torch.float16
LEAST_SCALE = 2.0**-24  # the smallest that float16 has: a channel without any spread divides by it
MOST_SCALE = 65504.0


@dataclass(frozen=True)
class Packed:
    """Compressed layers. `tensors`, for each layer number n, H heads of size D, T tokens:

    - int8: n.keys int8 [1, H, T, D], n.key_scales [1, H, 1, D], n.values int8 [1, H, T, D], n.value_scales [1, H, T, 1]
    - int4: n.keys uint8 [1, H, groups, tokens of a group, D/2], n.key_scales [2, H, groups, 1, D] (scale, least),
      n.values uint8 [1, H, T, D/2], n.value_scales [2, H, T, 1]; a byte holds number i low and number i + D/2 high
    """

    how: str
    tensors: dict[str, torch.Tensor]

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def tokens(self) -> int:
        return int(self.tensors["0.values"].shape[2])


def compressed(layers: Layers, how: str) -> Packed:
    """The layers in fewer bits. `how` is int8 or int4; int4 wants an even head size."""
    pack = {INT8: _int8, INT4: _int4}[how]
    tensors: dict[str, torch.Tensor] = {}
    for number, (keys, values) in enumerate(layers):
        named = zip(("keys", "key_scales", "values", "value_scales"), pack(keys.float(), values.float()), strict=True)
        tensors |= {f"{number}.{name}": tensor.cpu().contiguous() for name, tensor in named}
    return Packed(how, tensors)


def restored(packed: Packed, dtype: torch.dtype, device: torch.device | str) -> Layers:
    """The layers again, nearly as they were."""
    unpack = {INT8: _from_int8, INT4: _from_int4}[packed.how]
    layers = []
    for number in range(len(packed.tensors) // 4):
        names = ("keys", "key_scales", "values", "value_scales")
        layers.append(unpack(*(packed.tensors[f"{number}.{name}"].to(device) for name in names), dtype))
    return tuple(layers)


def _scale(spread: torch.Tensor, steps: int) -> torch.Tensor:
    return (spread / steps).clamp(LEAST_SCALE, MOST_SCALE).to(SCALE)


def _int8(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    made: list[torch.Tensor] = []
    for tensor, along in ((keys, 2), (values, 3)):
        scale = _scale(tensor.abs().amax(along, keepdim=True), 127)
        made += (tensor / scale.float()).round_().clamp_(-127, 127).to(torch.int8), scale
    return tuple(made)


def _from_int8(
    keys: torch.Tensor, key_scales: torch.Tensor, values: torch.Tensor, value_scales: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    return keys.to(dtype).mul_(key_scales.to(dtype)), values.to(dtype).mul_(value_scales.to(dtype))


def _int4(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    tokens = keys.shape[2]
    groups = max(1, math.ceil(tokens / GROUP_TOKENS))
    size = math.ceil(tokens / groups)
    padding = groups * size - tokens
    if padding:  # the last token once more: it widens no group's spread
        keys = torch.cat([keys, keys[:, :, -1:].expand(-1, -1, padding, -1)], 2)
    grouped = keys.unflatten(2, (groups, size))
    return *_in_steps(grouped, 3), *_in_steps(values, 3)


def _in_steps(tensor: torch.Tensor, along: int) -> tuple[torch.Tensor, torch.Tensor]:
    """In sixteen steps between the least and the greatest number along a dimension: packed, (scale, least)."""
    least = tensor.amin(along, keepdim=True).clamp(-MOST_SCALE, MOST_SCALE).to(SCALE)
    scale = _scale(tensor.amax(along, keepdim=True) - least.float(), 15)
    steps = ((tensor - least.float()) / scale.float()).round_().clamp_(0, 15).to(torch.uint8)
    low, high = steps.chunk(2, -1)
    return low | (high << 4), torch.cat([scale, least])


def _from_int4(
    keys: torch.Tensor, key_scales: torch.Tensor, values: torch.Tensor, value_scales: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = values.shape[2]
    return _from_steps(keys, key_scales, dtype).flatten(2, 3)[:, :, :tokens], _from_steps(values, value_scales, dtype)


def _from_steps(packed: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    half = packed.shape[-1]
    steps = torch.empty((*packed.shape[:-1], 2 * half), dtype=dtype, device=packed.device)
    steps[..., :half] = packed & 15
    steps[..., half:] = packed >> 4
    scale, least = scales.to(dtype).chunk(2)
    return steps.mul_(scale).add_(least)


def attention(loaded: Loaded, cache: WorkingCache, probes: Sequence[Sequence[int]]) -> torch.Tensor:
    """How much probes (token ids that may follow the cache) attend to each of its tokens [tokens], over all layers."""
    held, model = cache.tokens, loaded.model
    before = model.config._attn_implementation
    total = torch.zeros(held, device=model.device)
    model.set_attn_implementation("eager")  # the others do not give their weights
    try:
        for probe in probes:
            with torch.no_grad():
                given = torch.tensor([list(probe)], device=model.device)
                out = model.base_model(input_ids=given, past_key_values=cache, use_cache=True, output_attentions=True)
            total += sum(layer[..., :held].float().sum((0, 1, 2)) for layer in out.attentions)
            cache.cut(held)
    finally:
        model.set_attn_implementation(before)
        cache.cut(held)
    return total


def keep_tokens(layers: Layers, scores: torch.Tensor, share: float) -> tuple[Layers, torch.Tensor]:
    """The `share` of the tokens with the highest `scores` [tokens], and where they stood [kept].

    Their keys stay as they were rotated: who puts them side by side turns them with `rotation.moved`.
    """
    count = max(1, math.ceil(share * len(scores)))
    places = scores.topk(count).indices.sort().values
    return tuple((keys[:, :, places], values[:, :, places]) for keys, values in layers), places
