"""An adapter's blob as what PEFT itself reads, without a tensor: what it says of itself, and its files in a folder.

    adapter_config.json · adapter_model.safetensors · memos_adapter.json

The blob is a whole `adapter_model.safetensors`; the two others stand in its metadata. Nothing that a blob says decides
where a file is written, and nothing of it is executed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cubes import CubeError
from cubes.tensors import blob_header_bytes
from engine.errors import Corrupt

CARD_FILE, CONFIG_FILE, WEIGHTS_FILE = "memos_adapter.json", "adapter_config.json", "adapter_model.safetensors"
CONFIG, CARD, VERSION = "adapter_config", "memos", 1
LENGTH_BYTES = 8  # of the header, before it
MOST_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Told:
    """What a blob says of itself. `head` are its bytes before the weights."""

    head: bytes
    config: Mapping[str, Any]
    card: Mapping[str, Any]  # without its version


def told_by(stream: BinaryIO, called: str) -> Told:
    """What the blob says that a stream begins with; the stream stands behind its header then.

    Raises:
        Corrupt: it is no adapter that was written here.
    """
    try:
        start = stream.read(LENGTH_BYTES)
        head = start + stream.read(blob_header_bytes(start, MOST_BYTES) - LENGTH_BYTES)
        about = json.loads(head[LENGTH_BYTES:])["__metadata__"]
        config, card = json.loads(about[CONFIG]), json.loads(about[CARD])
        if not isinstance(config, dict) or card.pop("version") != VERSION:
            raise ValueError("another version wrote it")
    except (CubeError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"the adapter {called} cannot be read ({error}): make it anew") from error
    return Told(head, config, card)


def metadata(config: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, str]:
    """What a blob says of itself, as safetensors have it."""
    told = {"version": VERSION, **card}
    return {"format": "pt", CONFIG: json.dumps(config, sort_keys=True), CARD: json.dumps(told, sort_keys=True)}


def write_folder(stream: BinaryIO, folder: Path, called: str) -> None:
    """Write the adapter whose blob a stream holds to a folder that is there. Only its owner may read the files.

    Raises:
        Corrupt: as `told_by`.
    """
    told = told_by(stream, called)
    _write(folder / CONFIG_FILE, _json(told.config))
    _write(folder / CARD_FILE, _json({"version": VERSION, **told.card}))
    with _new(folder / WEIGHTS_FILE) as file:
        file.write(told.head)
        shutil.copyfileobj(stream, file)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with _new(path) as file:
        file.write(content)


def _new(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
