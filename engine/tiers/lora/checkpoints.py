"""What a training that was killed goes on from: its weights, its optimiser and how far it was.

A checkpoint belongs to one plan, one material and one base model; of anything else it is not taken. It is written
beside its place and renamed. One that cannot be read is passed over: training begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed

from engine.files import sync_folder

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


def save(path: Path, key: str, parameters: Sequence[Any], optimizer: Any, progress: Progress) -> None:
    tensors = {}
    for number, parameter in enumerate(parameters):
        kept = optimizer.state[parameter]
        parts = (parameter.detach(), kept["exp_avg"], kept["exp_avg_sq"])
        tensors.update({f"{number}.{name}": part.to("cpu") for name, part in zip(PARTS, parts, strict=True)})
    content = packed(tensors, {KEY: key, STATE: json.dumps(asdict(progress))})
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def restore(path: Path, key: str, parameters: Sequence[Any], optimizer: Any) -> Progress | None:
    """Put weights and optimiser as they were, if there is a checkpoint of this very training."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get(KEY) != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
        state = Progress(**json.loads(told[STATE]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
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
