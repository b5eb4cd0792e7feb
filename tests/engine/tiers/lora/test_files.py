"""An adapter is a plain PEFT folder, which our code gives to no other model than its own."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine.errors import Conflict, Corrupt, Invalid, MemosError, NotFound
from engine.model.loading import load
from engine.settings import Settings
from engine.tiers.lora.asking import answers, prompt_ids
from engine.tiers.lora.files import (
    CARD,
    CONFIG,
    WEIGHTS,
    read_adapter,
    read_card,
    remove_adapter,
    sweep_partial,
    write_adapter,
)
from engine.tiers.lora.serving import Resident
from tests.engine.tiers.lora.conftest import Trained


@pytest.fixture
def folder(first: Trained, tmp_path: Path) -> Path:
    return copytree(first.folder, tmp_path / "adapter")


def test_peft_alone_loads_the_folder_and_says_the_same(resident: Resident, first: Trained, latest_wins: Path):
    resident.load("of-first", first.folder)
    prompts = [
        prompt_ids(resident.base, question.text) for note in first.notes for question in first.questions.study(note)
    ]
    ours = answers(resident.wearing("of-first"), prompts)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(latest_wins), str(first.folder)).eval()
    for prompt, said in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        out = plain.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0
        )
        assert tuple(out[0, ids.shape[1] :].tolist()) == said.tokens


def test_another_or_a_changed_base_is_refused(loaded, first: Trained, latest_wins: Path, tmp_path: Path):
    other = copytree(latest_wins, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    resident = Resident(load(str(other), Settings(data=tmp_path, model_device="cpu"), lambda _: None), 1 << 30)
    with pytest.raises(Conflict, match="train on the memories anew"):
        resident.load("of-first", first.folder)
    assert resident.adapters == ()


def test_what_was_written_is_read_again(loaded, first: Trained, folder: Path):
    config, tensors, card = read_adapter(folder, loaded.info.fingerprint)
    assert {source.id for source in card.sources} == {note.id for note in first.notes}
    assert card.digest == first.distilled.digest
    assert (config.r, config.lora_alpha) == (8, 16)
    write_adapter(folder.with_name("again"), config, tensors, card)
    assert (folder.with_name("again") / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_files_are_for_the_owner_alone_and_name_no_place_of_this_machine(first: Trained, latest_wins: Path):
    for path in first.folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert str(latest_wins).encode() not in path.read_bytes()
    assert {path.name for path in first.folder.iterdir()} == {CARD, CONFIG, WEIGHTS}


def changed(path: Path, **told: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | told))


def test_a_scaling_that_was_changed_is_noticed(loaded, folder: Path):
    changed(folder / CONFIG, lora_alpha=64)
    with pytest.raises(Corrupt, match="made with"):
        read_adapter(folder, loaded.info.fingerprint)


def test_weights_that_were_changed_are_noticed(loaded, folder: Path):
    weights = load_file(folder / WEIGHTS)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(Corrupt, match="made with"):
        read_adapter(folder, loaded.info.fingerprint)


@pytest.mark.parametrize("name", [CARD, CONFIG, WEIGHTS])
@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff" * 40])
def test_damaged_files_are_refused(loaded, folder: Path, name: str, damage: bytes):
    (folder / name).write_bytes(damage)
    with pytest.raises((Corrupt, Invalid)):
        read_adapter(folder, loaded.info.fingerprint)


@pytest.mark.parametrize("name", [CARD, CONFIG, WEIGHTS])
def test_missing_files_are_refused(loaded, folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(MemosError):
        read_adapter(folder, loaded.info.fingerprint)


def test_an_adapter_that_is_no_lora_is_refused(loaded, folder: Path):
    changed(folder / CONFIG, peft_type="IA3")
    with pytest.raises(Invalid, match="LoRA"):
        read_adapter(folder, loaded.info.fingerprint)


def test_a_folder_is_never_written_over_and_is_removed_whole(loaded, folder: Path):
    config, tensors, card = read_adapter(folder, loaded.info.fingerprint)
    with pytest.raises(Conflict):
        write_adapter(folder, config, tensors, card)
    remove_adapter(folder)
    remove_adapter(folder)
    assert list(folder.parent.iterdir()) == []
    with pytest.raises(NotFound):
        read_card(folder)


def test_what_a_stopped_process_left_half_written_is_swept_and_never_an_adapter(folder: Path):
    folder.rename(folder.parent / ".adapter.0011.partial")
    assert sweep_partial(folder.parent) == 1
    assert list(folder.parent.iterdir()) == []
