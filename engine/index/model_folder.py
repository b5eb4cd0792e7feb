"""Reads a folder with a sentence-embedding model, as Hugging Face and sentence-transformers lay it out.

    config.json                  the encoder's shape
    tokenizer.json               the tokenizer, as the `tokenizers` library reads it
    model.onnx | onnx/model.onnx the encoder as ONNX; or
    model.safetensors            a BERT encoder's weights
    1_Pooling/config.json        mean (as when absent) or first token
    modules.json                 which steps there are; any but encoder, pooling and normalising is refused
    sentence_bert_config.json    the longest text in tokens

The outcome is a `Recipe`: everything that decides which vector a text gets, and a fingerprint of exactly that. Nothing
is loaded or run here. A model that would be computed wrongly is refused, never approximated.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import Corrupt, Unavailable
from engine.index.bert_graph import BertShape, bert_shape
from engine.index.digests import Digests

Pooling = Literal["mean", "cls"]
ONNX_FILES = ("model.onnx", "onnx/model.onnx")
SAFETENSORS_FILE = "model.safetensors"
KNOWN_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})
DEFAULT_MAX_TOKENS = 512
RECIPE_VERSION = 1  # grows when the same files would give other vectors; old vectors are then made anew


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides which vector a text gets."""

    name: str
    weights: Path
    tokenizer: Path
    shape: BertShape | None  # None: `weights` is an ONNX file
    dimension: int
    pooling: Pooling
    max_tokens: int
    fingerprint: str


def fingerprint(name: str, digests: tuple[str, ...], pooling: Pooling, max_tokens: int) -> str:
    """`<short name>:<16 hex digits>`; the same model found in two places has one fingerprint."""
    text = json.dumps([RECIPE_VERSION, digests, pooling, max_tokens])
    return f"{name.rpartition('/')[2]}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read_recipe(folder: Path, name: str, digests: Digests) -> Recipe:
    """The recipe of the model in `folder`.

    Raises:
        Unavailable: a file is missing, or the model has steps or a shape that cannot be computed here.
        Corrupt: a file is there and cannot be read.
    """
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise Unavailable(f"{folder} has no tokenizer.json: save the model with a fast tokenizer")
    config = _json(folder / "config.json", dict)
    if config is None or not isinstance(config.get("hidden_size"), int):
        raise Unavailable(f"{folder} has no config.json with a hidden_size: fetch the whole model folder")
    _check_modules(folder)
    weights, shape = _weights(folder, config)
    pooling, max_tokens = _pooling(folder), _max_tokens(folder, config)
    files = [weights, tokenizer, *(path for path in [weights.with_name(f"{weights.name}_data")] if path.is_file())]
    try:
        found = tuple(digests.sha256(path) for path in files)
    except OSError as error:
        raise Corrupt(f"{folder} cannot be read: {error}") from error
    print_of_it = fingerprint(name, found, pooling, max_tokens)
    return Recipe(name, weights, tokenizer, shape, config["hidden_size"], pooling, max_tokens, print_of_it)


def _weights(folder: Path, config: dict[str, Any]) -> tuple[Path, BertShape | None]:
    for name in ONNX_FILES:
        if (folder / name).is_file():
            return folder / name, None
    weights, shape = folder / SAFETENSORS_FILE, bert_shape(config)
    if weights.is_file() and shape is not None:
        return weights, shape
    if weights.is_file():
        kind = config.get("model_type")
        raise Unavailable(f"{folder} holds a {kind!r} encoder: add an ONNX export of it as {ONNX_FILES[1]}")
    raise Unavailable(f"{folder} has neither {' nor '.join((*ONNX_FILES, SAFETENSORS_FILE))}: fetch one of them")


def _check_modules(folder: Path) -> None:
    for module in _json(folder / "modules.json", list) or []:
        kind = str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""
        if kind not in KNOWN_MODULES:
            raise Unavailable(f"{folder} has a step {kind!r} after the encoder, which is not supported")


def _pooling(folder: Path) -> Pooling:
    config = _json(folder / "1_Pooling" / "config.json", dict) or {"pooling_mode_mean_tokens": True}
    modes = {name for name, chosen in config.items() if name.startswith("pooling_mode_") and chosen is True}
    if modes == {"pooling_mode_mean_tokens"}:
        return "mean"
    if modes == {"pooling_mode_cls_token"}:
        return "cls"
    raise Unavailable(f"{folder} pools by {', '.join(sorted(modes))}: only mean and first token are supported")


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    sentence = _json(folder / "sentence_bert_config.json", dict) or {}
    limits = [sentence.get("max_seq_length"), config.get("max_position_embeddings")]
    return min((limit for limit in limits if isinstance(limit, int) and limit > 2), default=DEFAULT_MAX_TOKENS)


def _json(path: Path, kind: type) -> Any:
    """The value in a JSON file, or None when there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"{path} cannot be read: {error}") from error
    if not isinstance(value, kind):
        raise Corrupt(f"{path} does not hold a JSON {kind.__name__}")
    return value
