"""Which models let their KV cache be kept, and how their keys carry positions.

`FAMILIES` is the table: a family stands in it only if a test shows, with a model of it, that a kept prefix gives what
full prefill gives, and (unless its row says why not) that a chunk can be moved. All others are refused by name, with
the reason; they still serve conversations, with memory as text. Configurations of a family that change its cache
(latent attention, state-space layers, shared caches) are refused as well. It knows nothing of files, prompts or how
caches are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

BY_LENGTH = ("dynamic", "longrope")  # RoPE types whose frequencies change when a text passes a length
KEPT_WHOLE = frozenset({"full_attention", "sliding_attention"})  # layers whose keys and values of all tokens are kept


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table."""

    interleaved: bool = False  # a key's pairs stand side by side, not half a key apart
    turns_windowed: bool = False  # where some layers see a window only, the others' keys carry no position
    chunk_refusal: str | None = None


_PLAIN, _PAIRS = Family(), Family(interleaved=True)
_ADDED = Family(chunk_refusal="its positions are not in the keys alone and cannot be moved: only prefixes are kept")
FAMILIES: Mapping[str, Family] = {
    "apertus": _PLAIN,
    "arcee": _PLAIN,
    "bloom": _ADDED,
    "cohere": _PAIRS,
    "cohere2": Family(interleaved=True, turns_windowed=True),
    "ernie4_5": _PAIRS,
    "exaone4": Family(turns_windowed=True),
    "gemma": _PLAIN,
    "gemma2": _PLAIN,
    "gemma3": _PLAIN,
    "gemma3_text": _PLAIN,
    "glm": _PAIRS,
    "glm4": _PAIRS,
    "gpt2": _ADDED,
    "gpt_neo": _ADDED,
    "gpt_neox": _PLAIN,
    "gpt_oss": _PLAIN,
    "granite": _PLAIN,
    "internlm3": _PLAIN,
    "llama": _PLAIN,
    "mistral": _PLAIN,
    "mixtral": _PLAIN,
    "nemotron": _PLAIN,
    "olmo": _PLAIN,
    "olmo2": _PLAIN,
    "olmo3": _PLAIN,
    "opt": _ADDED,
    "phi": _PLAIN,
    "phi3": _PLAIN,
    "qwen2": _PLAIN,
    "qwen2_moe": _PLAIN,
    "qwen3": _PLAIN,
    "qwen3_moe": _PLAIN,
    "seed_oss": _PLAIN,
    "smollm3": _PLAIN,
    "stablelm": _PLAIN,
    "starcoder2": _PLAIN,
}


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """How keys carry their position. Layers of the same frequencies share one tensor."""

    inv_freq: tuple[torch.Tensor | None, ...]  # for each layer [rotary_dim / 2], float32; None: keys without position
    rotary_dim: int  # the first so many numbers of a key are rotated
    interleaved: bool  # pairs stand side by side (2i, 2i + 1), else half apart (i, i + rotary_dim / 2)
    attention_scaling: float = 1.0  # what the model multiplies cosines and sines by: it is in kept keys already


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What a model's KV cache looks like, and what can be done with it."""

    refusal: str | None  # why nothing of it can be kept; None: it can
    chunk_refusal: str | None  # why chunks cannot be moved: `refusal`, or a reason of its own
    rope: Rope | None  # None: keys carry no position that could be moved
    layers: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    windows: tuple[int | None, ...] = ()  # for each layer: how many tokens back it sees; None: all

    def bytes_per_token(self, element_bytes: int) -> int:
        """What a token takes in a cache of elements of this size."""
        return 2 * self.layers * self.kv_heads * self.head_dim * element_bytes


def layout_of(config: Any, model: Any) -> Layout:
    """The layout of a loaded model; `config` is its configuration."""
    text = config.get_text_config(decoder=True)
    refusal = _refusal(config, text)
    if refusal is not None:
        return Layout(refusal, refusal, None)
    family = FAMILIES[config.model_type]
    layers = int(text.num_hidden_layers)
    heads = int(text.num_attention_heads)
    layout = Layout(
        refusal=None,
        chunk_refusal=family.chunk_refusal,
        rope=None,
        layers=layers,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        windows=_windows(text, layers),
    )
    if family.chunk_refusal is not None:
        return layout
    rope = _rope(text, model, family)
    if rope is None:
        return replace(layout, chunk_refusal=f"how {config.model_type} turns its keys was not found in this model")
    return replace(layout, rope=rope)


def steady_tokens(config: Any) -> int | None:
    """Up to how many tokens the RoPE frequencies stay as they are. None: always."""
    text = config.get_text_config(decoder=True)
    bounds = []
    for parameters in _rope_parameters(text):
        if parameters.get("rope_type") in BY_LENGTH:
            original = parameters.get("original_max_position_embeddings")
            if parameters["rope_type"] == "dynamic":  # the library changes them beyond this number alone
                original = text.max_position_embeddings
            bounds.append(int(original or getattr(text, "original_max_position_embeddings", 0) or 0))
    return min(bounds, default=None)


def _rope_parameters(text: Any) -> Iterator[Mapping[str, Any]]:
    """The RoPE parameters, of each kind of layer where a model has several."""
    parameters = getattr(text, "rope_parameters", None) or {}
    if parameters and all(isinstance(one, Mapping) for one in parameters.values()):
        yield from parameters.values()
    elif parameters:
        yield parameters


def _refusal(config: Any, text: Any) -> str | None:
    """Why nothing of the cache can be kept."""
    family = config.model_type
    kinds = sorted(set(getattr(text, "layer_types", None) or ()) - KEPT_WHOLE)
    if getattr(config, "is_encoder_decoder", False):
        return f"{family} is an encoder with a decoder: its cache depends on the whole input"
    if getattr(text, "kv_lora_rank", None):
        return f"{family} has latent attention, whose cache is compressed"
    if kinds:
        return f"{family} has layers without a key and value for each token ({', '.join(kinds)})"
    if getattr(text, "num_kv_shared_layers", 0):
        return f"{family} has layers that share a cache"
    if family not in FAMILIES:
        return f"its family {family} is not among those that were tested with kept caches"
    return None


def _windows(text: Any, layers: int) -> tuple[int | None, ...]:
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    if window is None or not kinds:
        return (window,) * layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _rope(text: Any, model: Any, family: Family) -> Rope | None:
    """What the model itself rotates by; None if it is not found where the tested families have it."""
    decoder = model.get_decoder()
    embedding = getattr(decoder, "rotary_emb", None)
    blocks = getattr(decoder, "layers", None)
    if embedding is None or blocks is None or len(blocks) != text.num_hidden_layers:
        return None
    kinds = getattr(text, "layer_types", None) or ("",) * len(blocks)
    windows = _windows(text, len(blocks))
    some_windowed = family.turns_windowed and any(windows)
    known: dict[str, torch.Tensor] = {}
    found: list[torch.Tensor | None] = []
    for block, kind, window in zip(blocks, kinds, windows, strict=True):
        attention = getattr(block, "self_attn", None) or getattr(block, "attention", None)
        if attention is None:
            return None
        if not getattr(attention, "use_rope", True) or (some_windowed and window is None):
            found.append(None)
            continue
        name = "inv_freq" if hasattr(embedding, "inv_freq") else f"{kind}_inv_freq"
        if name not in known:
            frequencies = getattr(embedding, name, None)
            if frequencies is None:
                return None
            known[name] = frequencies.detach().to("cpu", torch.float32)
        found.append(known[name])
    sizes = {len(frequencies) for frequencies in known.values()}
    if len(sizes) > 1:
        return None
    scaling = getattr(embedding, "attention_scaling", 1.0)
    return Rope(tuple(found), 2 * max(sizes, default=0), family.interleaved, float(scaling))
