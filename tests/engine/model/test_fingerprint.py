"""Equal fingerprints mean equal caches: the same model anywhere has one, and any change gives another."""

from __future__ import annotations

import copy
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import Corrupt, Unavailable
from engine.model.fingerprint import digests_of, fingerprint
from tests.engine.model.families import random_model
from tests.engine.model.saved import opened, saved
from tests.engine.model.small import tokenizer_of

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


def print_of(folder: Path, data: Path, **more: object) -> str:
    return opened(folder, data, **more).info.fingerprint


def test_the_same_model_in_another_folder_has_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "elsewhere")
    os.utime(other / "model.safetensors", (1, 1))
    first = print_of(folder, tmp_path)
    assert first.startswith("sha256:")
    assert len(first) == len("sha256:") + 64
    assert print_of(other, tmp_path) == first == print_of(folder, tmp_path / "another store")


def _other_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "k_proj.weight" in name)
    weights[name][0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _changed(file: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")

    return change


def _other_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    layout = json.loads(path.read_text("utf-8"))
    layout["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(layout), "utf-8")


def _other_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text("utf-8") + " ", "utf-8")


CHANGES: dict[str, Callable[[Path], None]] = {
    "one weight": _other_weight,
    "the configuration": _changed("config.json", rms_norm_eps=1e-5),
    "the frequencies": _changed("config.json", rope_parameters={"rope_type": "default", "rope_theta": 20_000.0}),
    "the tokenizer": _other_token,
    "a special token": _changed("tokenizer_config.json", eos_token="</s>"),
    "the template": _other_template,
    "no template": lambda folder: (folder / "chat_template.jinja").unlink(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_gives_another_fingerprint(what: str, folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "changed")
    CHANGES[what](other)
    assert print_of(other, tmp_path) != print_of(folder, tmp_path)


def test_another_dtype_is_another_model_and_the_context_or_device_setting_is_not(folder: Path, tmp_path: Path) -> None:
    first = print_of(folder, tmp_path)
    assert print_of(folder, tmp_path, model_dtype="bfloat16") != first
    assert print_of(folder, tmp_path, model_context_tokens=99, model_device="cpu") == first


def test_what_says_nothing_about_the_model_changes_nothing(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "renamed")
    _changed("config.json", transformers_version="5.0.0", _name_or_path="somebody/else")(other)
    (other / "README.md").write_text("a model")
    assert print_of(other, tmp_path) == print_of(folder, tmp_path)


def test_adapters_and_each_part_of_the_frequencies_are_covered(folder: Path, tmp_path: Path) -> None:
    loaded = opened(folder, tmp_path)
    rope = loaded.layout.rope
    assert rope is not None

    def made(rope: object, adapters: tuple[str, ...] = ()) -> str:
        return fingerprint(folder, loaded.model.config, loaded.tokenizer, "t", "float32", rope, adapters)  # type: ignore[arg-type]

    first = rope.inv_freq[0]
    prints = [
        made(rope),
        made(rope, ("a",)),
        made(rope, ("a", "b")),
        made(None),
        made(replace(rope, interleaved=True)),
        made(replace(rope, attention_scaling=1.2)),
        made(replace(rope, inv_freq=(None, *rope.inv_freq[1:]))),
        made(replace(rope, inv_freq=(first * 2, *rope.inv_freq[1:]))),
    ]
    assert len(set(prints)) == len(prints)
    assert made(rope, ("b", "a")) == made(rope, ("a", "b"))


def test_a_model_in_memory_has_a_fingerprint_of_its_tensors() -> None:
    tokenizer = tokenizer_of("bytes")

    def made(model: Any) -> str:
        return fingerprint(model, model.config, tokenizer, None, "float32", None)

    model = random_model("llama")
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.model.layers[0].self_attn.k_proj.weight[0, 0] += 1
    assert made(changed) != made(model) == made(copy.deepcopy(model))


def test_truncation_or_padding_that_was_set_in_passing_is_no_other_tokenizer(folder: Path, tmp_path: Path) -> None:
    loaded = opened(folder, tmp_path)
    before = fingerprint(folder, loaded.model.config, loaded.tokenizer, None, "float32", None)
    loaded.tokenizer("a b c", truncation=True, max_length=2)
    assert fingerprint(folder, loaded.model.config, loaded.tokenizer, None, "float32", None) == before


def test_files_are_digested_once_and_again_when_they_change(folder: Path, tmp_path: Path) -> None:
    other, record = shutil.copytree(folder, tmp_path / "model"), tmp_path / "store" / "fingerprints.json"
    first = digests_of(other, record)
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    known = json.loads(record.read_text())
    (path,) = known
    known[path][-1] = "remembered"
    record.write_text(json.dumps(known))
    assert digests_of(other, record) == {"model.safetensors": "remembered"}
    weights = other / "model.safetensors"
    times = weights.stat()
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")  # the same size, and the same time set by hand
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests_of(other, record)["model.safetensors"] not in ("remembered", first["model.safetensors"])


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"x": "y"}', b"\xff", b"[" * 100_000])
def test_a_damaged_record_only_costs_time(content: bytes, folder: Path, tmp_path: Path) -> None:
    record = tmp_path / "fingerprints.json"
    record.write_bytes(content)
    assert digests_of(folder, record) == digests_of(folder)


def test_a_record_forgets_files_that_are_gone(folder: Path, tmp_path: Path) -> None:
    other, record = shutil.copytree(folder, tmp_path / "model"), tmp_path / "fingerprints.json"
    digests_of(other, record)
    shutil.rmtree(other)
    digests_of(folder, record)
    assert list(json.loads(record.read_text())) == [str((folder / "model.safetensors").resolve())]


def test_weights_in_parts_are_all_digested_and_a_broken_index_is_said(tmp_path: Path) -> None:
    parts = saved(tmp_path / "parts", shard_size="100KB")
    assert set(digests_of(parts)) == {path.name for path in parts.glob("*.safetensors")}
    assert len(digests_of(parts)) > 1
    (parts / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(Corrupt, match="fetch the model again"):
        digests_of(parts)
    (parts / "model.safetensors.index.json").unlink()
    with pytest.raises(Unavailable, match="safetensors"):
        digests_of(parts)
