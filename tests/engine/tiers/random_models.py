"""Small models of random weights in every manner of rotary positions, and what tests of caches ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from engine.model.layouts import layout_of
from engine.model.loading import Loaded
from engine.model_operations import ModelInfo
from engine.tiers.kv.tensors import Layers, WorkingCache

VOCABULARY = 512
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.1,  # attention that looks somewhere
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_FAR = {"original_max_position_embeddings": 1024}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0}

CONFIGS: dict[str, PretrainedConfig] = {
    "plain": Qwen2Config(**_SHAPE),
    "llama3 frequencies": LlamaConfig(**_SHAPE, rope_parameters=_LLAMA3 | _FAR),
    "yarn frequencies": Qwen2Config(**_SHAPE, rope_parameters=_YARN | _FAR),
    "normalised keys": Qwen3Config(**_SHAPE, head_dim=16),
    "half of each key": PhiConfig(**_SHAPE, partial_rotary_factor=0.5),
    "pairs side by side": CohereConfig(**_SHAPE),
    "every other layer without positions": SmolLM3Config(**_SHAPE, no_rope_layers=[1, 0, 1, 0]),
}
WINDOWED: dict[str, PretrainedConfig] = {
    "one window": MistralConfig(**_SHAPE, sliding_window=24),
    "a window in every other layer": Gemma2Config(**_SHAPE, sliding_window=24, head_dim=16),
}


def random_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> Loaded:
    """The same weights each time. What is asked of it here is token ids: its tokenizer knows but numbers."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    info = ModelInfo("random", config.model_type, "sha256:0", "cpu", str(dtype), model.num_parameters(), 8192)
    words = Tokenizer(models.WordLevel({str(number): number for number in range(VOCABULARY)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0")
    return Loaded(model=model, tokenizer=tokenizer, info=info, layout=layout_of(config, model), template=None)


def some_ids(count: int, seed: int) -> list[int]:
    drawn = torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))
    return [int(number) for number in drawn]


def encoded_at(loaded: Loaded, ids: Sequence[int], position: int) -> Layers:
    """What the model itself makes of a run of tokens that begins at `position`, with nothing before it."""
    cache = WorkingCache(loaded.model.config)
    size = len(ids)
    hidden = torch.ones(size, size, dtype=torch.bool).triu(1)
    least = torch.finfo(loaded.model.dtype).min
    mask = torch.zeros(1, 1, size, size, dtype=loaded.model.dtype).masked_fill(hidden, least)
    positions = torch.arange(position, position + size)[None]
    with torch.no_grad():
        loaded.model.base_model(
            input_ids=torch.tensor([list(ids)]),
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
    return cache.taken(0, size)


def filled(loaded: Loaded, layers: Layers) -> WorkingCache:
    cache = WorkingCache(loaded.model.config)
    cache.append(layers)
    return cache


def distance(one: Layers, other: Layers) -> float:
    """The largest difference of any number."""
    return max(
        float((mine.float() - its.float()).abs().max())
        for pair, its_pair in zip(one, other, strict=True)
        for mine, its in zip(pair, its_pair, strict=True)
    )
