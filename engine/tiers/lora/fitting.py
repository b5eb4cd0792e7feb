"""Whether an adapter's weights are those that its configuration asks for, and how much memory it takes in this model.

PEFT makes all weights that a configuration asks for before anything is compared, so this is asked first: what a file
says of itself never decides how much memory is taken. Nothing is made or changed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key

from engine.errors import Corrupt

PREFIX, PART = "base_model.model.", ".lora_"  # of PEFT's names of weights
ALL_LINEAR = "all-linear"
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"


def needed_bytes(model: Any, config: Any, tensors: Mapping[str, torch.Tensor], called: str) -> int:
    """What PEFT will take for an adapter, if its weights have the modules and ranks of its configuration.

    Raises:
        Corrupt: they have others.
    """
    widths = dict(_changed(model, config))
    if {name.removeprefix(PREFIX).split(PART)[0] for name in tensors} != widths.keys():
        raise Corrupt(f"the adapter {called} does not fit the model (it names other modules than it has): make it anew")
    ranks: dict[str, int] = {
        name: config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r) for name in widths
    }
    for name, tensor in tensors.items():
        module, _, part = name.removeprefix(PREFIX).partition(PART)
        found = {"A": tensor.shape[:1], "B": tensor.shape[1:2]}.get(part.removeprefix("embedding_")[:1])
        if found is not None and tuple(found) != (ranks[module],):
            raise Corrupt(
                f"the adapter {called} does not fit the model (the weights of {module} have another rank than "
                f"{ranks[module]}, which it asks for): make it anew"
            )
    return int(sum(rank * widths[name] for name, rank in ranks.items()) * torch.float32.itemsize)


def out_of_memory(error: BaseException) -> bool:
    """Whether something failed for want of memory, and so may do another time. On a CPU torch says so in words only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in str(error)


def _changed(model: Any, config: Any) -> Iterator[tuple[str, int]]:
    """The modules that PEFT would give weights, and how wide they are: inputs and outputs together."""
    targets, head = config.target_modules, model.get_output_embeddings()
    for name, module in model.named_modules():
        if "lora_" in name or name.endswith(".base_layer"):
            continue  # of adapters that are in the model already
        plain = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if targets == ALL_LINEAR:
            asked = isinstance(plain, torch.nn.Linear) and plain is not head
        else:
            asked = any(name == target or name.endswith(f".{target}") for target in targets)
        weight = getattr(plain, "weight", None)
        if asked and isinstance(weight, torch.Tensor):
            yield name, sum(weight.shape)
