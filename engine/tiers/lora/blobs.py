"""An adapter as one blob: safetensors with the names that PEFT gives the weights, and what they are in its metadata.

    adapter_config   JSON, as PEFT's adapter_config.json
    memos            JSON of the card: the base model, the digest of the weights, the memories it was made from by id

No content of a memory is written into it. What must stay true: what is read is what the card says, every number of it;
it is never given to another model than the card's; nothing in a blob is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from engine.errors import Corrupt
from engine.tiers.lora.files import Card, card_of, checked, config_json

FORMAT, CONFIG, CARD = "memos-lora 1", "adapter_config", "memos"
HEAD_BYTES = 8  # the length of the header, before it


def encode(config: Any, tensors: Mapping[str, torch.Tensor], card: Card) -> bytes:
    """The blob of these weights. The same weights, configuration and card give the same bytes."""
    about = {
        "format": FORMAT,
        CONFIG: json.dumps(config_json(config), sort_keys=True),
        CARD: json.dumps(asdict(card), sort_keys=True),
    }
    weights = {name: tensor.detach().to("cpu").contiguous() for name, tensor in sorted(tensors.items())}
    return _ordered(save(weights, about))


def decode(content: bytes, called: str, model: str) -> tuple[Any, dict[str, torch.Tensor], Card]:
    """The configuration, weights and card in a blob, for the model with the fingerprint `model`.

    Raises:
        Conflict: it was made for another model.
        Corrupt: it is no adapter, or is damaged.
        Invalid: it is no LoRA.
    """
    told = metadata_of(content, called)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise Corrupt(f"the adapter {called} cannot be read ({error}): make it anew") from error
    card = card_of(json.loads(told[CARD]), called)
    return checked(json.loads(told[CONFIG]), tensors, card, called, model), tensors, card


def _ordered(content: bytes) -> bytes:
    """The same, with its header in the order of names: the library draws another order each time."""
    length = int.from_bytes(content[:HEAD_BYTES], "little")
    header = json.loads(content[HEAD_BYTES : HEAD_BYTES + length])
    told = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    told += b" " * (-len(told) % HEAD_BYTES)
    return len(told).to_bytes(HEAD_BYTES, "little") + told + content[HEAD_BYTES + length :]


def metadata_of(content: bytes, called: str) -> dict[str, str]:
    """What a blob says of itself.

    Raises:
        Corrupt: it is no adapter.
    """
    try:
        length = int.from_bytes(content[:HEAD_BYTES], "little")
        told = json.loads(content[HEAD_BYTES : HEAD_BYTES + length])["__metadata__"]
        if told["format"] != FORMAT or not all(isinstance(json.loads(told[name]), dict) for name in (CONFIG, CARD)):
            raise ValueError("it is something else")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"the adapter {called} cannot be read ({error}): make it anew") from error
    return dict(told)
