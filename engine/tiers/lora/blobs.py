"""An adapter as one blob: safetensors that PEFT reads as they are, with what they are in their metadata.

    format           "pt"
    adapter_config   JSON, as PEFT's adapter_config.json
    memos            JSON of the card: the base model, the digest of the weights, the memories it was made from by id

No content of a memory is written into it. What must stay true: what is read is what the card says, every number of it;
it is never given to another model than the card's; nothing in a blob is ever executed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from engine.errors import Corrupt
from engine.tiers.lora.files import Card, card_of, checked, config_json
from engine.tiers.lora.fitting import out_of_memory
from engine.tiers.lora.plain import LENGTH_BYTES, metadata, told_by


def encode(config: Any, tensors: Mapping[str, torch.Tensor], card: Card) -> bytes:
    """The blob of these weights. The same weights, configuration and card give the same bytes."""
    weights = {name: tensor.detach().to("cpu").contiguous() for name, tensor in sorted(tensors.items())}
    return _ordered(save(weights, metadata(config_json(config), asdict(card))))


def decode(content: bytes, called: str, model: str) -> tuple[Any, dict[str, torch.Tensor], Card]:
    """The configuration, weights and card in a blob, for the model with the fingerprint `model`.

    Raises:
        Conflict: it was made for another model.
        Corrupt: it is no adapter, or is damaged.
        Invalid: it is no LoRA.
        MemoryError: there is too little of it.
    """
    told = told_by(io.BytesIO(content), called)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise Corrupt(f"the adapter {called} cannot be read ({error}): make it anew") from error
    card = card_of(told.card, called)
    return checked(told.config, tensors, card, called, model), tensors, card


def _ordered(content: bytes) -> bytes:
    """The same, with its header in the order of names: the library draws another order each time."""
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    header = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length])
    told = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    told += b" " * (-len(told) % LENGTH_BYTES)
    return len(told).to_bytes(LENGTH_BYTES, "little") + told + content[LENGTH_BYTES + length :]
