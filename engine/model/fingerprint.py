"""Identity of a loaded model: equal fingerprints promise equal keys and values for equal tokens.

It covers the weights (by the content of their files, wherever these lie), the configuration, the tokenizer, the chat
template, the dtype, the RoPE frequencies and the adapters. A KV cache is used only under the fingerprint that it was
made under. Files are digested once, for as long as path, size, times and inode stay the same; that record only saves
time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.errors import Unavailable
from engine.model.layouts import Rope
from engine.model.sources import weight_files

KIND = "memos-model-1"  # changes when what is covered changes
NOT_IDENTITY = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "_attn_implementation")


def fingerprint(
    weights: Path | Any,
    config: Any,
    tokenizer: Any,
    template: str | None,
    dtype: str,
    rope: Rope | None,
    adapters: Sequence[str] = (),
    *,
    record: Path | None = None,
) -> str:
    """`sha256:…` of a model. `weights` is its folder, or the model itself; `adapters` are digests of those in use.

    Raises:
        Unavailable: a file of weights cannot be read.
    """
    parts = {
        "kind": KIND,
        "weights": digests_of(weights, record) if isinstance(weights, Path) else _tensors(weights),
        "config": _identity(config.to_dict()),
        "tokenizer": _tokenizer(tokenizer),
        "template": template,
        "dtype": dtype,
        "rope": _rope(rope),
        "adapters": sorted(adapters),
    }
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def with_adapters(base: str, adapters: Sequence[str]) -> str:
    """The fingerprint of the model with fingerprint `base` as it is seen through adapters, given their digests."""
    if not adapters:
        return base
    text = json.dumps({"kind": KIND, "base": base, "adapters": sorted(adapters)}, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def digests_of(folder: Path, record: Path | None = None) -> dict[str, str]:
    """SHA-256 in hex of each file of weights, by name. `record` is where known ones are kept.

    Raises:
        Unavailable: a file is missing or cannot be read.
        Corrupt: their index cannot be read.
    """
    known = _load(record)
    found, fresh = dict[str, str](), dict[str, list[Any]]()
    for path in weight_files(folder):
        try:
            real = path.resolve(strict=True)
            status = real.stat()
            mark = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            entry = known.get(str(real))
            if isinstance(entry, list) and entry[:-1] == mark and isinstance(entry[-1], str):
                found[path.name] = entry[-1]
                continue
            with real.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Unavailable(
                f"{path} cannot be read ({error.strerror}): correct its rights, or fetch it again"
            ) from error
        fresh[str(real)] = [*mark, found[path.name]]
    if fresh:
        _save(record, {**{name: entry for name, entry in known.items() if Path(name).exists()}, **fresh})
    return found


def _identity(value: Any) -> Any:
    """A configuration without what says nothing about the model."""
    if isinstance(value, Mapping):
        return {str(key): _identity(one) for key, one in value.items() if key not in NOT_IDENTITY}
    return [_identity(one) for one in value] if isinstance(value, list | tuple) else value


def _tokenizer(tokenizer: Any) -> Any:
    """All that decides which ids a text has. Padding and truncation, which are set in passing, do not."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [
            type(tokenizer).__name__,
            hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest(),
        ]
    layout = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    digest = hashlib.sha256(json.dumps(layout, sort_keys=True).encode()).hexdigest()
    return [digest, {name: str(token) for name, token in tokenizer.special_tokens_map.items()}]


def _rope(rope: Rope | None) -> Any:
    if rope is None:
        return None
    known: dict[int, str] = {}
    for one in rope.inv_freq:
        if one is not None and id(one) not in known:
            known[id(one)] = _digest(one)
    frequencies = [None if one is None else known[id(one)] for one in rope.inv_freq]
    return [frequencies, rope.rotary_dim, rope.interleaved, rope.attention_scaling]


def _tensors(model: Any) -> dict[str, str]:
    return {name: _digest(tensor) for name, tensor in sorted(model.state_dict().items())}


def _digest(tensor: torch.Tensor) -> str:
    plain = tensor.detach().to("cpu").contiguous().flatten()
    head = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.sha256(head + plain.view(torch.uint8).numpy().tobytes()).hexdigest()


def _load(record: Path | None) -> dict[str, Any]:
    if record is None:
        return {}
    try:
        known = json.loads(record.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _save(record: Path | None, known: Mapping[str, Any]) -> None:
    if record is None:
        return
    temporary = record.with_name(f"{record.name}.{os.getpid()}.new")
    with contextlib.suppress(OSError):  # a folder that cannot be written costs a few seconds a start, no more
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(known, file, indent=1, sort_keys=True)
        temporary.replace(record)
