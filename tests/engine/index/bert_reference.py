"""BERT's forward pass in plain numpy and float64: what the embedder's graph is compared with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def load_safetensors(path: Path) -> dict[str, Floats]:
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name == "__metadata__" or entry["dtype"] not in ("F32", "F16", "BF16"):
            continue
        begin, end = entry["data_offsets"]
        content = raw[start + begin : start + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(content, "<f4" if entry["dtype"] == "F32" else "<f2")
        tensors[name] = values.reshape(entry["shape"]).astype(np.float64)
    return tensors


def last_hidden_state(tensors: dict[str, Floats], config: dict[str, Any], ids: list[int], prefix: str = "") -> Floats:
    """States [tokens, hidden] of one unpadded text."""
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]

    def weight(name: str) -> Floats:
        return tensors[prefix + name]

    def linear(states: Floats, name: str) -> Floats:
        return states @ weight(f"{name}.weight").T + weight(f"{name}.bias")

    def norm(states: Floats, name: str) -> Floats:
        centred = states - states.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        normed: Floats = scaled * weight(f"{name}.weight") + weight(f"{name}.bias")
        return normed

    words = weight("embeddings.word_embeddings.weight")[ids]
    places = weight("embeddings.position_embeddings.weight")[: len(ids)]
    states = norm(words + places + weight("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            linear(states, f"{layer}.attention.self.{part}").reshape(len(ids), heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True) @ value).transpose(1, 0, 2).reshape(states.shape)
        attended = linear(mixed, f"{layer}.attention.output.dense")
        states = norm(states + attended, f"{layer}.attention.output.LayerNorm")
        inner = linear(states, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + _erf(inner / math.sqrt(2)))
        states = norm(states + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return states


def unit(vector: Floats) -> Floats:
    result: Floats = vector / np.linalg.norm(vector)
    return result
