"""What a training that was killed goes on from: its weights, its optimiser and how far it was.

A checkpoint belongs to one plan, one material and one base model; of anything else it is not taken. One that cannot be
read is passed over: training begins anew. Where it lies, and how it is sealed, is `engine.vault.checkpoints`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpacked
from safetensors.torch import save as packed

from engine.vault.checkpoints import Checkpoint

if TYPE_CHECKING:
    from engine.tiers.lora.distil import Plan
    from engine.tiers.lora.material import Material

STATE, KEY = "state", "key"
PARTS = ("weights", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Progress:
    done: int
    last: int
    cooling_from: int | None
    losses: Sequence[float]
    held: Sequence[float]


def key_of(plan: Plan, material: Material, model: str) -> str:
    """What a checkpoint is for."""
    made = hashlib.sha256(json.dumps([asdict(plan), model], sort_keys=True).encode())
    for kind, rows in sorted(material.rows.items()):
        for row in rows:
            made.update(repr((kind, row.prompt, row.answer)).encode())
    return made.hexdigest()


def save(place: Checkpoint, key: str, parameters: Sequence[Any], optimizer: Any, progress: Progress) -> None:
    tensors = {}
    for number, parameter in enumerate(parameters):
        kept = optimizer.state[parameter]
        parts = (parameter.detach(), kept["exp_avg"], kept["exp_avg_sq"])
        tensors.update({f"{number}.{name}": part.to("cpu") for name, part in zip(PARTS, parts, strict=True)})
    place.write(packed(tensors, {KEY: key, STATE: json.dumps(asdict(progress))}))


def restore(place: Checkpoint, key: str, parameters: Sequence[Any], optimizer: Any) -> Progress | None:
    """Put weights and optimiser as they were, if there is a checkpoint of this very training."""
    content = place.read()
    if content is None:
        return None
    try:
        told = _told(content)
        if told.get(KEY) != key:
            return None
        tensors = unpacked(content)
        state = Progress(**json.loads(told[STATE]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None
    if set(tensors) != {f"{number}.{name}" for number in range(len(parameters)) for name in PARTS}:
        return None
    with torch.inference_mode(False), torch.no_grad():
        for number, parameter in enumerate(parameters):
            weights, first, second = (tensors[f"{number}.{name}"].clone().to(parameter.device) for name in PARTS)
            parameter.copy_(weights)
            step = torch.tensor(float(state.done))
            optimizer.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
    return state


def _told(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: its header is JSON behind 8 bytes that say how long it is."""
    length = int.from_bytes(content[:8], "little")
    told: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return told
