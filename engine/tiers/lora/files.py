"""An adapter as a folder: a plain PEFT folder, and a card that says for which model and from which memories it is.

    adapter_config.json · adapter_model.safetensors · memos_adapter.json

PEFT itself loads such a folder; the card is ours, and PEFT passes it over. What must stay true: a folder is whole or
not there (it is written beside its place and renamed), its weights are what the card says, and it is never given to
another model than the one whose fingerprint the card carries. No path of this machine is written into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from engine.errors import Conflict, Corrupt, Invalid, NotFound
from engine.files import sync_folder
from engine.tiers.lora.plain import CARD_FILE as CARD
from engine.tiers.lora.plain import CONFIG_FILE as CONFIG
from engine.tiers.lora.plain import VERSION
from engine.tiers.lora.plain import WEIGHTS_FILE as WEIGHTS

APPLIED = ("r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "rank_pattern", "alpha_pattern")
SERVED = (*APPLIED, "lora_dropout", "task_type")
INERT = (  # of no effect here; how weights began is not asked, as they are in the file
    *("base_model_name_or_path", "revision", "inference_mode", "peft_type", "peft_version", "auto_mapping"),
    "init_lora_weights",
)
MAX_CARD_BYTES = 64_000_000
MOST_RANK = 256  # memory is taken by rank before weights are compared; what is made here has 8, fused ones their sum
MOST_ALPHA = 1_000_000
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")  # PEFT takes what a pattern is for as a regular expression


@dataclass(frozen=True, slots=True)
class Source:
    """A memory that an adapter was made from. `known`: a gate found that the adapter answers for it."""

    id: str
    version: int
    known: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of an adapter. `model` is the fingerprint of the base; `digest` is over the weights and how they
    are applied."""

    model: str
    digest: str
    sources: tuple[Source, ...] = ()
    seed: int = 0
    steps: int = 0
    made: str = "distilled"  # or how it was fused
    parents: tuple[str, ...] = ()  # digests


def digest_of(config: Any, tensors: Mapping[str, torch.Tensor]) -> str:
    """`sha256:…` over the weights and how they are applied."""
    made = hashlib.sha256(json.dumps(_applied(config), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().to("cpu").contiguous()
        made.update(f"\n{name} {plain.dtype} {tuple(plain.shape)} ".encode())
        made.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return "sha256:" + made.hexdigest()


def write_adapter(folder: Path, config: Any, tensors: Mapping[str, torch.Tensor], card: Card) -> None:
    """Write a folder that PEFT loads.

    Raises:
        Conflict: there is something in that place.
    """
    if folder.exists():
        raise Conflict(f"{folder.name} is there already: adapters are never written over, give another folder")
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    partial.mkdir(mode=0o700, parents=True)
    try:
        weights = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        _write(partial / WEIGHTS, save(weights, {"format": "pt"}))
        _write(partial / CONFIG, _json(config_json(config)))
        _write(partial / CARD, _json({"version": VERSION, **asdict(card)}))
        sync_folder(partial)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_card(folder: Path) -> Card:
    """What a folder says of itself.

    Raises:
        NotFound: there is no adapter.
        Corrupt: its card cannot be read.
    """
    path = folder / CARD
    if not path.is_file():
        raise NotFound(f"{folder.name} has no {CARD}, so nobody knows for which model it is: train or import it anew")
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise ValueError("it is too large")
        told = json.loads(path.read_bytes())
        if told.pop("version", None) != VERSION:
            raise ValueError("another version wrote it")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Corrupt(f"{CARD} of {folder.name} cannot be read ({error}): make the adapter anew") from error
    return card_of(told, folder.name)


def card_of(told: Mapping[str, Any], called: str) -> Card:
    """A card out of JSON.

    Raises:
        Corrupt: it is none.
    """
    try:
        sources = tuple(Source(**one) for one in told["sources"])
        return Card(**{**told, "sources": sources, "parents": tuple(told["parents"])})
    except (TypeError, KeyError, ValueError) as error:
        raise Corrupt(f"the card of {called} cannot be read ({error}): make the adapter anew") from error


def read_adapter(folder: Path, model: str) -> tuple[LoraConfig, dict[str, torch.Tensor], Card]:
    """The adapter in a folder, for the model with the fingerprint `model`.

    Raises:
        NotFound: there is no adapter.
        Conflict: it was made for another model.
        Corrupt: its files are damaged, or are not those of the card.
        Invalid: it is no LoRA.
    """
    card = read_card(folder)
    _refuse_other_model(card, folder.name, model)
    try:
        told = json.loads((folder / CONFIG).read_bytes())
        if not isinstance(told, dict):
            raise ValueError("it is not a table")
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except (OSError, ValueError, SafetensorError) as error:
        raise Corrupt(f"the adapter {folder.name} cannot be read ({error}): make it anew") from error
    return checked(told, tensors, card, folder.name, model), tensors, card


def checked(
    told: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], card: Card, called: str, model: str
) -> LoraConfig:
    """The configuration of an adapter, if it and the weights are those of the card, and the card is of this model.

    Raises:
        Conflict, Corrupt, Invalid: as `read_adapter`.
    """
    _refuse_other_model(card, called, model)
    if told.get("peft_type") != "LORA":
        raise Invalid(f"{called} is a {told.get('peft_type')} adapter: only LoRA is served")
    config = _config_of(told, called)
    if digest_of(config, tensors) != card.digest:
        raise Corrupt(f"the weights of the adapter {called} are not those it was made with: make it anew")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise Corrupt(f"the adapter {called} holds numbers that are none: make it anew")
    return config


def _config_of(told: Mapping[str, Any], called: str) -> LoraConfig:
    """The configuration, of what plain LoRA has; how weights began is of no matter, and may change the base model."""
    usual = LoraConfig()
    plain = {one.name: getattr(usual, one.name) for one in fields(LoraConfig)}
    odd = [name for name, value in told.items() if name in plain and name not in (*SERVED, *INERT) and value]
    odd = [name for name in odd if told[name] != json.loads(json.dumps(plain[name], default=_listed))]
    if odd:
        raise Invalid(f"the adapter {called} uses {', '.join(sorted(odd))}: only plain LoRA is served")
    targets = told.get("target_modules")
    if targets != "all-linear" and not (
        isinstance(targets, list | set | tuple) and all(isinstance(one, str) for one in targets)
    ):
        raise Invalid(f"the adapter {called} does not list the modules that it changes: only such ones are served")
    _refuse_odd_ranks(told, called)
    try:
        return LoraConfig(**{name: value for name, value in told.items() if name in SERVED})
    except (TypeError, ValueError) as error:
        raise Corrupt(f"the adapter {called} cannot be read ({error}): make it anew") from error


def _refuse_odd_ranks(told: Mapping[str, Any], called: str) -> None:
    """Refuse what PEFT would take memory or time for without asking."""
    ranks, scalings = (told.get(name) or {} for name in ("rank_pattern", "alpha_pattern"))
    patterns = (ranks, scalings)
    if not all(isinstance(one, dict) and all(PLAIN_NAME.fullmatch(name) for name in one) for one in patterns):
        raise Invalid(f"the adapter {called} has ranks for more than plain names of modules: only such ones are served")
    asked = (told.get("r", LoraConfig().r), *ranks.values())
    if not all(type(rank) is int and 1 <= rank <= MOST_RANK for rank in asked):
        raise Invalid(f"the adapter {called} asks for a rank that is none from 1 to {MOST_RANK}: make a smaller one")
    alphas = (told.get("lora_alpha", 1), *scalings.values())
    if not all(type(alpha) in (int, float) and abs(alpha) <= MOST_ALPHA for alpha in alphas):
        raise Invalid(f"the adapter {called} has a scaling that is none up to {MOST_ALPHA}: make it anew")


def _refuse_other_model(card: Card, called: str, model: str) -> None:
    if card.model != model:
        raise Conflict(
            f"the adapter {called} was made for the model {card.model[:19]}…, the one that is loaded is "
            f"{model[:19]}…: load that model, or train on the memories anew for this one"
        )


def remove_adapter(folder: Path) -> None:
    """Take an adapter's folder away; first its name, so that what is left of a stop is never taken for an adapter."""
    gone = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    if folder.exists():
        folder.rename(gone)
        sync_folder(folder.parent)
        shutil.rmtree(gone)


def sweep_partial(parent: Path) -> int:
    """Remove what was being written or removed when the process ended; how many there were."""
    left = [path for path in parent.glob(".*.partial") if path.is_dir()]
    for path in left:
        shutil.rmtree(path)
    return len(left)


def known_ids(sources: Sequence[Source]) -> frozenset[tuple[str, int]]:
    """The memories, with their versions, that an adapter is proven to know."""
    return frozenset((one.id, one.version) for one in sources if one.known)


def config_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON, without a path of this machine."""
    told: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=_listed, sort_keys=True))
    return told | {"base_model_name_or_path": None, "inference_mode": True}


def _applied(config: Any) -> dict[str, Any]:
    told = config_json(config)
    return {name: sorted(told[name]) if isinstance(told[name], list) else told[name] for name in APPLIED}


def _listed(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
