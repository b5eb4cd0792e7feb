"""Loads a Hugging Face causal model with its tokenizer and chat template, and says what it is.

What stays true: no code of a model's own is run, weights come from safetensors alone, every weight comes from the
files (a model with missing ones is refused), and the tokenizer is what `tokenizer.json` says. Device and dtype are
chosen once and shown. It does not know who asks, nor how long a model is kept.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as library_logging

from engine.errors import Corrupt, Invalid, Unavailable
from engine.model.caches import continuation_fault
from engine.model.fingerprint import digests_of, fingerprint
from engine.model.layouts import Layout, layout_of, steady_tokens
from engine.model.sources import located, weight_files
from engine.model_operations import ModelInfo
from engine.settings import Settings

RECORD = "fingerprints.json"
UNKNOWN_CONTEXT_TOKENS = 4_096  # for models that do not say what they were made for
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "max_sequence_length")
TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # as safetensors calls them
LIBRARY_FAILURES = (OSError, ValueError, RuntimeError, ImportError, LookupError, TypeError, AttributeError, MemoryError)
"""What the library raises for a model that it cannot load; it has no error of its own for that."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model that is ready. Used on the model's thread only, but for `info`, `layout` and `template`."""

    model: Any
    tokenizer: Any
    info: ModelInfo
    layout: Layout
    template: str | None  # of its chat; None: it has none, and `engine.model.templates.PLAIN` is used


def load(source: str, settings: Settings, announce: Callable[[str], None]) -> Loaded:
    """Load the model `source`: a folder, or a Hugging Face name, which is downloaded if it is nowhere here.

    Raises:
        Unavailable: it cannot be loaded; the message says what is missing and how to get it.
        NotFound: there is no such folder or name.
        Invalid: a device that this machine does not have.
        Corrupt: its files are damaged.
    """
    library_logging.disable_progress_bar()
    folder = located(source, settings, announce)
    device = chosen_device(settings.model_device)
    record = settings.models_folder / RECORD
    before = digests_of(folder, record)
    config = _config(source, folder)
    dtype = chosen_dtype(settings.model_dtype, device, _kept_dtype(config, folder))
    _lower_threads(device)
    tokenizer = _tokenizer(source, folder)
    template = _template(tokenizer, folder)
    if template is None:
        announce(f"{source} has no chat template: its turns are shown to it as plain lines, User: and Assistant:")
    model = _model(source, folder, config, dtype, device)
    if digests_of(folder, record) != before:
        raise Unavailable(f"the files of {source} changed while they were loaded: ask again")
    layout = layout_of(model.config, model)
    fault = continuation_fault(model) if layout.refusal is not None else None
    if fault is not None:
        raise Unavailable(f"{source} ({model.config.model_type}) cannot be served: {fault}; choose another model")
    kind = str(dtype).removeprefix("torch.")
    identity = fingerprint(folder, model.config, tokenizer, template, kind, layout.rope, record=record)
    info = ModelInfo(
        source=source,
        family=model.config.model_type,
        fingerprint=identity,
        device=str(model.device),
        dtype=kind,
        parameters=int(model.num_parameters()),
        context_tokens=_context(source, model.config, settings.model_context_tokens, announce),
        kv_bytes_per_token=layout.bytes_per_token(dtype.itemsize),
        kv_refusal=layout.refusal,
    )
    log.info("loaded %s: %s, %s, %d parameters", source, info.device, info.dtype, info.parameters)
    return Loaded(model, tokenizer, info, layout, template)


def chosen_device(wanted: str) -> torch.device:
    """The device of the settings; `auto` takes a GPU where there is one.

    Raises:
        Invalid: there is no such device here.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise Invalid(f"MEMOS_MODEL_DEVICE is {wanted!r}: use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda:0")
    there = {
        "cpu": True,
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
    }
    if not there.get(device.type, False):
        raise Invalid(f"MEMOS_MODEL_DEVICE is {wanted!r}, which this machine (or its torch) does not have: use auto")
    return device


def chosen_dtype(wanted: str, device: torch.device, kept: torch.dtype) -> torch.dtype:
    """The dtype of the settings. `auto` is that of the weights where the device computes in it, else float32.

    So weights are never rounded unasked, and float32 ones stay as they are.
    """
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
    return kept if kept in _native(device) else torch.float32


def _native(device: torch.device) -> frozenset[torch.dtype]:
    """The 16-bit dtypes in which a device computes without detours."""
    if device.type == "cuda":
        new = torch.cuda.get_device_capability(device) >= (8, 0)
        return frozenset({torch.float16, torch.bfloat16} if new else {torch.float16})
    if device.type == "mps":
        new = torch.backends.mps.is_macos_or_newer(14, 0)
        return frozenset({torch.float16, torch.bfloat16} if new else {torch.float16})
    can = torch.cpu.get_capabilities()
    return frozenset({torch.bfloat16} if any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else ())


def _lower_threads(device: torch.device) -> None:
    """Compute on the CPU with half of its threads at most.

    The other half stays with the daemon, and threads that wait by spinning do not hold up each other. Whoever chose
    fewer, by OMP_NUM_THREADS or in the program, keeps them.
    """
    if device.type == "cpu":
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(min(torch.get_num_threads(), max(1, usable // 2)))


def _config(source: str, folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except LIBRARY_FAILURES as error:
        if "auto_map" in _json(folder / "config.json"):
            raise Unavailable(f"{source} brings code of its own, which is never run: choose another model") from error
        raise _not_loaded(source, error) from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise Unavailable(f"{source} ({config.model_type}) is not a causal language model: choose another model")
    return config


def _kept_dtype(config: Any, folder: Path) -> torch.dtype:
    """The dtype of the weights in the files."""
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    path = weight_files(folder)[-1]
    try:
        with safe_open(path, framework="pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except (OSError, SafetensorError) as error:
        raise Corrupt(f"{path} cannot be read ({error}): fetch the model again") from error
    return next((dtype for name, dtype in TORCH_DTYPES.items() if name in kinds), torch.float32)


def _tokenizer(source: str, folder: Path) -> Any:
    """The tokenizer as it lies there. AutoTokenizer would replace it for some families by the family's own."""
    whole = (folder / "tokenizer.json").is_file()
    try:
        kind = PreTrainedTokenizerFast if whole else AutoTokenizer
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except LIBRARY_FAILURES as error:
        raise Unavailable(
            f"the tokenizer of {source} cannot be loaded ({_line(error)}): fetch the model again"
        ) from error


def _template(tokenizer: Any, folder: Path) -> str | None:
    """The chat template: a file of its own, or in the tokenizer's configuration; of several the default one."""
    template = getattr(tokenizer, "chat_template", None) or _json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), None)
    return template if isinstance(template, str) and template.strip() else None


def _model(source: str, folder: Path, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    placed = {} if device.type == "cpu" else {"device_map": {"": device}}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **placed,
        )
    except SafetensorError as error:
        raise Corrupt(f"the weights of {source} in {folder} are damaged ({error}): fetch the model again") from error
    except LIBRARY_FAILURES as error:
        raise _not_loaded(source, error) from error
    lacking = sorted([*found["missing_keys"], *(str(item[0]) for item in found["mismatched_keys"])])
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise Corrupt(f"the weights of {source} in {folder} lack {lacking[0]}{more}: fetch the model again")
    return model.eval().requires_grad_(False)


def _context(source: str, config: Any, wanted: int, announce: Callable[[str], None]) -> int:
    """How many tokens the model takes: what it was made for, fewer if the settings say so.

    Where its RoPE frequencies change beyond a length, it is that length: within it they, and all that is kept, hold.
    """
    text = config.get_text_config(decoder=True)
    named = [getattr(text, name, None) for name in CONTEXT_NAMES]
    most = next((int(one) for one in named if isinstance(one, int) and one > 0), UNKNOWN_CONTEXT_TOKENS)
    most = min(most, steady_tokens(config) or most)
    if wanted > most:
        announce(f"{source} takes at most {most} tokens: MEMOS_MODEL_CONTEXT={wanted} is more than that")
    return min(most, wanted) if wanted else most


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _not_loaded(source: str, error: BaseException) -> Unavailable:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Unavailable(f"there is not enough memory to load {source}: choose a smaller model or another device")
    return Unavailable(f"{source} could not be loaded ({_line(error)}): see the log, or choose another model")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
