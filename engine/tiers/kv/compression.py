"""Stores keys and values in fewer bits: int8 and int4, keys per channel, values per token (KIVI, arXiv 2402.02750).

Keys have channels that are large in every token, so each channel has a scale of its own; values have not, so each token
has one. int8 is symmetric: number = integer × scale, scales in float16. int4 has sixteen steps between a least and a
greatest number, two integers in a byte. What matters most there is that a channel of the keys gets new bounds every few
tokens (the least patient of three small models, .996 as it is: groups of 16 tokens .98, 24 .96, 32 .93), so bounds must
be small: a byte each, in 255ths between the bounds of the whole run. Scales and bounds are counted in every size that
is told. For runs of 128 tokens and more with heads of 64 numbers int8 takes 0.51 × the bytes of bfloat16, int4 0.30;
of 16 tokens 0.54 and 0.35; with heads of 16 numbers, as the test model has, 0.53 and 0.32.

Another way to store less is to keep fewer tokens: those that the questions asked of the cache attend to most (SnapKV,
arXiv 2404.14469).

It knows nothing of files: `Packed.tensors` is what a file holds. What it is given is never written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.tiers.kv.tensors import Layers, WorkingCache

if TYPE_CHECKING:
    from engine.model.loading import Loaded

INT8, INT4 = "int8", "int4"
GROUP_TOKENS = 16  # at most have bounds of their own in each channel of int4 keys
SCALE = torch.float16
LEAST_SCALE = 2.0**-24  # the smallest that float16 has: a channel without any spread divides by it
MOST_SCALE = 65504.0
BOUNDS = 255  # in how many parts what lies between the bounds of a run is parted, for the bounds of its groups
SCALES_AN_OCTAVE = 10  # of int4 values: a byte b is the scale 2 ** (b / 10 - 18), up to 7 % more than was wanted
LEAST_OCTAVE = -18
ZERO = 128  # is the byte that stands for zero 0

_SHARED_NAMES = ("keys", "key_scales", "values", "value_scales")
_NAMES = {INT8: _SHARED_NAMES, INT4: (*_SHARED_NAMES, "key_bounds")}


@dataclass(frozen=True)
class Packed:
    """Compressed layers. `tensors`, for each layer number n, H heads of size D, T tokens:

    - int8: n.keys int8 [1, H, T, D], n.key_scales [1, H, 1, D], n.values int8 [1, H, T, D], n.value_scales [1, H, T, 1]
    - int4: n.keys uint8 [1, H, groups, tokens of a group, D/2], n.key_bounds [2, H, 1, 1, D] (least, greatest of the
      run), n.key_scales uint8 [2, H, groups, 1, D] (least, greatest of the group, in parts between those);
      n.values uint8 [1, H, T, D/2], n.value_scales uint8 [2, H, T, 1] (scale, zero): number = (integer + zero) × scale.
      A byte of keys or values holds number i low and number i + D/2 high.
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
        named = zip(_NAMES[how], pack(keys.float(), values.float()), strict=True)
        tensors |= {f"{number}.{name}": tensor.cpu().contiguous() for name, tensor in named}
    return Packed(how, tensors)


def restored(packed: Packed, dtype: torch.dtype, device: torch.device | str) -> Layers:
    """The layers again, nearly as they were."""
    both: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {INT8: _from_int8, INT4: _from_int4}
    unpack, names = both[packed.how], _NAMES[packed.how]
    return tuple(
        unpack(dtype, *(packed.tensors[f"{number}.{name}"].to(device) for name in names))
        for number in range(len(packed.tensors) // len(names))
    )


def _scale(spread: torch.Tensor, steps: int) -> torch.Tensor:
    """The size of a step, rounded up to float16, so that no number is beyond the last step."""
    wanted = (spread / steps).clamp(LEAST_SCALE, MOST_SCALE)
    near = wanted.to(SCALE)
    return (near.view(torch.int16) + (near.float() < wanted)).view(SCALE)  # one bit more is the next number


def _int8(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    made: list[torch.Tensor] = []
    for tensor, along in ((keys, 2), (values, 3)):
        scale = _scale(tensor.abs().amax(along, keepdim=True), 127)
        made += (tensor / scale.float()).round_().clamp_(-127, 127).to(torch.int8), scale
    return tuple(made)


def _from_int8(
    dtype: torch.dtype, keys: torch.Tensor, key_scales: torch.Tensor, values: torch.Tensor, value_scales: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return keys.to(dtype).mul_(key_scales.to(dtype)), values.to(dtype).mul_(value_scales.to(dtype))


def _int4(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    tokens = keys.shape[2]
    groups = math.ceil(tokens / GROUP_TOKENS)
    size = math.ceil(tokens / groups)
    padding = groups * size - tokens
    if padding:  # the last token once more: it widens no bounds
        keys = torch.cat([keys, keys[:, :, -1:].expand(-1, -1, padding, -1)], 2)
    packed, scales, bounds = _keys_in_steps(keys.unflatten(2, (groups, size)))
    return packed, scales, *_values_in_steps(values), bounds


def _keys_in_steps(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys [1, H, groups, tokens, D]: packed, the groups' bounds in parts, the run's bounds."""
    whole = torch.cat([keys.amin((2, 3), keepdim=True), keys.amax((2, 3), keepdim=True)])
    bounds = whole.clamp_(-MOST_SCALE, MOST_SCALE).to(SCALE)
    least, part = _parts(bounds)
    low = ((keys.amin(3, keepdim=True) - least) / part + 1e-3).floor_()
    high = ((keys.amax(3, keepdim=True) - least) / part - 1e-3).ceil_()
    scales = torch.cat([low, high]).clamp_(0, BOUNDS).to(torch.uint8)
    start, step = _steps(bounds, scales)
    return _paired((keys - start) / step), scales, bounds


def _parts(bounds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    least, most = bounds.float().chunk(2)
    return least, ((most - least) / BOUNDS).clamp_min(LEAST_SCALE)


def _steps(bounds: torch.Tensor, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the sixteen steps of each group and channel begin, and how wide they are."""
    least, part = _parts(bounds)
    low, high = scales.float().chunk(2)
    return least + low * part, ((high - low) * part / 15).clamp_min(LEAST_SCALE / 15)


def _values_in_steps(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    least, most = values.amin(3, keepdim=True), values.amax(3, keepdim=True)
    wanted = torch.maximum((most - least) / 15, least.abs() / (ZERO - 1))
    octave = wanted.clamp_min(2.0**LEAST_OCTAVE).log2() - LEAST_OCTAVE
    code = (octave * SCALES_AN_OCTAVE - 1e-3).ceil_().clamp_(0, 255).to(torch.uint8)
    scale = _scale_of(code)
    zero = (least / scale).round_().clamp_(-ZERO, ZERO - 1)
    return _paired((values / scale).round_() - zero), torch.cat([code, (zero + ZERO).to(torch.uint8)])


def _scale_of(code: torch.Tensor) -> torch.Tensor:
    return torch.exp2(code.float() / SCALES_AN_OCTAVE + LEAST_OCTAVE)


def _paired(steps: torch.Tensor) -> torch.Tensor:
    low, high = steps.round_().clamp_(0, 15).to(torch.uint8).chunk(2, -1)
    return low | (high << 4)


def _unpaired(packed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    half = packed.shape[-1]
    steps = torch.empty((*packed.shape[:-1], 2 * half), dtype=dtype, device=packed.device)
    steps[..., :half] = packed & 15
    steps[..., half:] = packed >> 4
    return steps


def _from_int4(
    dtype: torch.dtype,
    keys: torch.Tensor,
    key_scales: torch.Tensor,
    values: torch.Tensor,
    value_scales: torch.Tensor,
    key_bounds: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    start, step = (tensor.to(dtype) for tensor in _steps(key_bounds, key_scales))
    restored_keys = _unpaired(keys, dtype).mul_(step).add_(start).flatten(2, 3)[:, :, : values.shape[2]]
    code, zero = value_scales.chunk(2)
    return restored_keys, _unpaired(values, dtype).add_(zero.to(dtype) - ZERO).mul_(_scale_of(code).to(dtype))


def attention(loaded: Loaded, cache: WorkingCache, probes: Sequence[Sequence[int]]) -> torch.Tensor:
    """How much probes (token ids that may follow the cache) attend to each of its tokens [tokens], over all layers."""
    held, model = cache.tokens, loaded.model
    decoder = model.get_decoder()
    before = model.config._attn_implementation
    total = torch.zeros(held, device=model.device)
    model.set_attn_implementation("eager")  # the others do not give their weights
    try:
        for probe in probes:
            with torch.no_grad():
                given = torch.tensor([list(probe)], device=model.device)
                out = decoder(input_ids=given, past_key_values=cache, use_cache=True, output_attentions=True)
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
