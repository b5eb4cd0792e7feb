"""A small configuration of every family whose KV cache is kept, in each of its shapes; and of some that are refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

VOCABULARY = 512
WINDOW = 24
_WINDOWED: dict[str, Any] = {"sliding_window": WINDOW}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LAST_FULL = ["sliding_attention", "sliding_attention", "full_attention"]
_LINEAR: dict[str, Any] = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16
}  # fmt: skip
_MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 2}
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2_048,
    "initializer_range": 0.1,  # attention that looks somewhere
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 512}
_LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}  # fmt: skip
_LINEARLY = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 512,
}  # fmt: skip
TWO_LENGTHS: dict[str, Any] = {"rope_parameters": LONG, "original_max_position_embeddings": 512}
_EVEN_HEADS = frozenset({"bloom", "gpt2", "gpt_neo", "gpt_neox", "opt"})  # know nothing of shared KV heads

KEPT: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        family: (family, {})
        for family in (
            "apertus",
            "arcee",
            "bloom",
            "cohere",
            "ernie4_5",
            "gemma",
            "glm",
            "glm4",
            "gpt2",
            "gpt_neox",
            "granite",
            "internlm3",
            "llama",
            "mistral",
            "nemotron",
            "olmo",
            "olmo2",
            "phi",
            "phi3",
            "qwen2",
            "seed_oss",
            "stablelm",
            "starcoder2",
        )
    },
    "cohere2": ("cohere2", _WINDOWED),
    "exaone4": ("exaone4", _WINDOWED),
    "exaone4 without windows": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "gemma2": ("gemma2", _WINDOWED | {"head_dim": 16}),
    "gemma3_text": ("gemma3_text", _WINDOWED | {"head_dim": 16, "layer_types": _LAST_FULL}),
    "gpt_neo": ("gpt_neo", {"attention_types": [[["global", "local", "local"], 1]], "window_size": WINDOW}),
    "gpt_oss": ("gpt_oss", _WINDOWED | {"head_dim": 16, "num_local_experts": 4}),
    "llama with linear frequencies": ("llama", {"rope_parameters": _LINEARLY}),
    "llama with llama3 frequencies": ("llama", {"rope_parameters": _LLAMA_3}),
    "mistral with a window": ("mistral", _WINDOWED),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "olmo3": ("olmo3", _WINDOWED),
    "opt": ("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "phi3 with a window": ("phi3", _WINDOWED),
    "phi3 that turns a part": ("phi3", {"partial_rotary_factor": 0.5}),
    "phi3 of two lengths": ("phi3", TWO_LENGTHS),
    "qwen2 with windows": ("qwen2", _WINDOWED | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen2 with yarn frequencies": ("qwen2", {"rope_parameters": _YARN}),
    "qwen2_moe": ("qwen2_moe", _EXPERTS | {"shared_expert_intermediate_size": 32}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3_moe": ("qwen3_moe", _EXPERTS | {"head_dim": 16}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 1, 0]}),
    "starcoder2 with a window": ("starcoder2", _WINDOWED),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {  # with a word of the reason
    "state-space layers": ("granitemoehybrid", _MAMBA | {
        "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 0, "shared_intermediate_size": 64,
    }, "linear_attention"),
    "linear attention": ("qwen3_next", _EXPERTS | _LINEAR | {
        "head_dim": 16, "shared_expert_intermediate_size": 32,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    }, "linear_attention"),
    "layers that share": ("gemma3n_text", {
        "head_dim": 16, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 1, "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"], "intermediate_size": [128] * 3,
        "hidden_size_per_layer_input": 16, "activation_sparsity_pattern": [0.0] * 3,
    }, "share"),
    "not tested": ("persimmon", {}, "persimmon"),
}  # fmt: skip
CONTINUED_WRONGLY: tuple[str, dict[str, Any]] = ("bamba", _MAMBA | {"attn_layer_indices": [1]})


def config_of(family: str, more: dict[str, Any]) -> PretrainedConfig:
    shape = _SHAPE | more
    if family in _EVEN_HEADS:
        del shape["num_key_value_heads"]
    return AutoConfig.for_model(family, **shape)


def kept_config(name: str) -> PretrainedConfig:
    """One of `KEPT`, or `gemma3`, which has the text model inside."""
    if name == "gemma3":
        text = _SHAPE | KEPT["gemma3_text"][1]
        vision = {
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        }  # fmt: skip
        del text["bos_token_id"], text["eos_token_id"]
        marks = {"image_token_index": 500, "boi_token_index": 501, "eoi_token_index": 502}
        return AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, **marks)
    return config_of(*KEPT[name])


@cache
def random_model(name: str) -> Any:
    """The model of `kept_config(name)` with the same random weights each time."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(kept_config(name), dtype=torch.float32).eval()
