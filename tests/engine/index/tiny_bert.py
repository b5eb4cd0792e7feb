"""A BERT sentence encoder small enough to be made in a test: random weights, real files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

HIDDEN, HEADS, LAYERS, INNER, POSITIONS = 16, 2, 2, 32, 24
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat", "and", "slept", "in", "Oslo")
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": POSITIONS,
    "layer_norm_eps": 1e-12,
}


@dataclass(frozen=True)
class TinyBert:
    """What varies between the folders that tests need."""

    seed: int = 1
    element: str = "F32"
    prefix: str = ""

    def save(self, folder: Path, **config: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(self._safetensors())
        (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
        save_tokenizer(folder / "tokenizer.json")
        return folder

    def _safetensors(self) -> bytes:
        chance = np.random.default_rng(self.seed)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        body = b""
        for name, shape in _shapes().items():
            values = (chance.standard_normal(shape) * 0.3 + name.endswith("Norm.weight")).astype(np.float32)
            content = _encode(values, self.element)
            place = [len(body), len(body) + len(content)]
            header[self.prefix + name] = {"dtype": self.element, "shape": list(shape), "data_offsets": place}
            body += content
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + body


def save_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))]
    )
    tokenizer.save(str(path))


def _encode(values: Any, element: str) -> bytes:
    if element == "BF16":
        return bytes((values.view(np.uint32) >> 16).astype("<u2").tobytes())
    return bytes(values.astype("<f4" if element == "F32" else "<f2").tobytes())


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms: list[str] = ["embeddings.LayerNorm"]
    linears: dict[str, tuple[int, int]] = {}
    for layer in (f"encoder.layer.{number}" for number in range(LAYERS)):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        linears |= {f"{layer}.attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        linears[f"{layer}.attention.output.dense"] = (HIDDEN, HIDDEN)
        linears[f"{layer}.intermediate.dense"] = (INNER, HIDDEN)
        linears[f"{layer}.output.dense"] = (HIDDEN, INNER)
    shapes |= {f"{name}.{part}": (HIDDEN,) for name in norms for part in ("weight", "bias")}
    shapes |= {f"{name}.weight": shape for name, shape in linears.items()}
    return shapes | {f"{name}.bias": shape[:1] for name, shape in linears.items()}
