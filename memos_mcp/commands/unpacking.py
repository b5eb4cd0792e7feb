"""A bundle as plain files that people read: Markdown for each memory, its earlier versions, the manifest.

    DIR/manifest.json                         what the bundle says of itself, byte for byte
    DIR/memories/000/000000-m_….md            front matter with the whole header, then what the memory says
    DIR/history/000/000000-m_….json           its earlier versions, where there are any
    DIR/adapters/a_…/                         an adapter as a plain folder, which PEFT itself loads

What must stay true: the folder is there whole or not at all; nothing in a bundle decides where a file is written; one
memory is in memory at a time. Nothing here is read back: `cube install` takes the bundle itself.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cubes.bundle import Bundle
from cubes.manifest import ArtifactKind, to_bytes
from cubes.records import PackedMemory, to_plain
from engine.errors import Corrupt
from engine.files import sync_folder
from engine.tiers.lora.plain import write_folder
from memos_mcp.commands.session import Failure

A_FOLDER = 1_000  # memories in one
SAFE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
NOT_IN_FRONT = ("content", "history")
Watch = Callable[[float, float | None, str], None]


def unpack(bundle: Bundle, folder: Path, watch: Watch) -> dict[str, int]:
    """Write all of it to `folder`, which must not exist; how many files of each kind there are.

    Raises:
        Failure: the folder is there, or cannot be written.
        CubeError: the bundle is not whole; nothing is left of the folder.
    """
    if os.path.lexists(folder):
        raise Failure(f"{folder} is there already: choose another name")
    if not folder.parent.is_dir():
        raise Failure(f"{folder.parent} is no folder: make it first")
    partial = folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(4)}.partial")
    try:
        counts = _write(bundle, partial, watch)
        if hasattr(os, "sync"):
            os.sync()  # once for all of them: one by one would take minutes
        os.rename(partial, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise Failure(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _write(bundle: Bundle, folder: Path, watch: Watch) -> dict[str, int]:
    folder.mkdir(mode=0o700)
    _file(folder / "manifest.json", to_bytes(bundle.manifest))
    total, histories, number = bundle.manifest.counts.memories, 0, -1
    for number, memory in enumerate(bundle.memories(vectors=False)):
        name = f"{number // A_FOLDER:03}/{number:06}{f'-{memory.id}' if SAFE.match(memory.id) else ''}"
        record = to_plain(memory)
        _file(folder / "memories" / f"{name}.md", _markdown(memory, record))
        if memory.history:
            histories += 1
            earlier = json.dumps(record["history"], ensure_ascii=False, indent=2) + "\n"
            _file(folder / "history" / f"{name}.json", earlier.encode())
        watch(number + 1, total, "memories")
    counts = {"memories": number + 1, "histories": histories}
    return counts | ({"adapters": adapters} if (adapters := _adapters(bundle, folder)) else {})


def _adapters(bundle: Bundle, folder: Path) -> int:
    """Write the adapters that memos-mcp made; how many. Those of other programs are left out: their form is unknown."""
    count = 0
    for number, (header, stream) in enumerate(bundle.artifacts()):
        if header.kind is not ArtifactKind.LORA:
            continue
        place = folder / "adapters" / (header.id if SAFE.match(header.id) else f"{number:06}")
        for made in (place.parent, place):
            made.mkdir(mode=0o700, exist_ok=True)
        try:
            write_folder(stream, place, header.id)
        except Corrupt:
            place.rmdir()
            continue
        count += 1
    if not count:
        shutil.rmtree(folder / "adapters", ignore_errors=True)
    return count


def _markdown(memory: PackedMemory, record: dict[str, Any]) -> bytes:
    header = {name: value for name, value in record.items() if name not in NOT_IN_FRONT and value not in (None, [], {})}
    front = yaml.safe_dump(header, allow_unicode=True, sort_keys=True, default_flow_style=False)
    return f"---\n{front}---\n\n{memory.current.content}\n".encode("utf-8", "replace")


def _file(path: Path, content: bytes) -> None:
    for folder in (path.parent.parent, path.parent):  # parents that are made by the way get another mode
        folder.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
