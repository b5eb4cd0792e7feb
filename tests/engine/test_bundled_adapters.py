"""Adapters in files: they go with all of their memories or not at all, and nothing that they claim is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cubes import Sensitivity
from cubes.bundle import open_bundle
from engine.cube_operations import Govern, Install, Pack
from engine.errors import Conflict
from engine.memos import MemOS
from engine.model.loading import Loaded
from engine.operations import Forget, Mode
from engine.settings import Settings
from engine.tier_operations import AdapterState, Judged
from engine.tiers.lora.asking import answers, prompt_ids
from engine.tiers.lora.files import Source, read_adapter
from engine.tiers.lora.headers import known_pairs, source_pairs
from engine.tiers.lora.store import AdapterStore, Made
from memos_mcp.commands.unpacking import unpack
from tests.conftest import START, HandClock
from tests.engine.stores import ME, opened, say, settings_for
from tests.engine.tiers.lora.conftest import Trained, first, loaded

__all__ = ["first", "loaded"]

PASSED = Judged(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.01)


def settings_of(place: Path, model: Path) -> Settings:
    return replace(settings_for(place), model=str(model), model_device="cpu")


def adapters_of(memos: MemOS) -> AdapterStore:
    return memos._answering._local_model().adapters


@pytest.fixture
def packing(loaded: Loaded, first: Trained, tmp_path: Path, latest_wins: Path) -> Iterator[MemOS]:
    """A store whose cube has memories, an adapter that serves, and one that failed."""
    with opened(settings_of(tmp_path / "data", latest_wins), HandClock(START)) as memos:
        ids = {note.id: say(memos, note.text) for note in first.notes}
        config, tensors, card = read_adapter(first.folder, loaded.info.fingerprint)
        card = replace(card, sources=tuple(Source(ids[one.id], 1, True) for one in card.sources))
        made = Made("default", config, tensors, card, PASSED, ME)
        adapters_of(memos).keep(made)
        adapters_of(memos).keep(replace(made, judged=replace(PASSED, why=("it knows too little",))))
        yield memos


def bundled(memos: MemOS, path: Path, **more) -> Path:
    memos.pack(Pack("default", path, sign=False, **more), ME)
    return path


def right(loaded: Loaded, trained: Trained) -> int:
    asked = [(note, trained.questions.study(note)[0].text) for note in trained.notes]
    said = answers(loaded, [prompt_ids(loaded, question) for _, question in asked])
    return sum(one.text == trained.questions.by_id[note.id].value for one, (note, _) in zip(said, asked, strict=True))


def test_an_adapter_comes_as_a_version_that_rests_until_it_was_judged(
    packing: MemOS, tmp_path: Path, latest_wins: Path, loaded: Loaded, first: Trained
):
    path = bundled(packing, tmp_path / "cube.memcube")
    with opened(settings_of(tmp_path / "other", latest_wins), HandClock(START)) as memos:
        memos.install(Install(str(path)), ME)
        adapters = adapters_of(memos)
        (row,) = adapters.rows("default")
        assert (row.version, row.state, row.header["made"]) == (1, AdapterState.RESTING, "installed")
        assert known_pairs(row) == ()
        with pytest.raises(Conflict, match="never judged"):
            adapters.activate("default", 1, ME)
        assert [(artifact.kind, artifact.version) for artifact in memos.artifacts("default", ME)] == [("lora", 1)]
        row = adapters.judge(row, PASSED, [id for id, _ in source_pairs(row)], ME)
        adapters.activate("default", 1, ME)
        assert right(adapters.worn(loaded, row), first) >= 7
        (artifact,) = memos.artifacts("default", ME)
        assert artifact.state.startswith("serving")
        adapters.drop("default", None, ME)
        adapters.resident(loaded).close()


def test_an_installed_adapter_follows_memories_that_got_other_ids(packing: MemOS, tmp_path: Path, loaded: Loaded):
    path = bundled(packing, tmp_path / "cube.memcube")
    installed = packing.install(Install(str(path), name="copy"), ME)
    assert installed.renamed_ids == 8
    (row,) = adapters_of(packing).rows("copy")
    mine = {memory for memory, _ in source_pairs(adapters_of(packing).row("default"))}
    assert mine.isdisjoint(memory for memory, _ in source_pairs(row))
    folder = adapters_of(packing).export(row, tmp_path / "exported")
    card = read_adapter(folder, loaded.info.fingerprint)[2]
    assert {(one.id, one.version) for one in card.sources} == set(source_pairs(row))
    packing.forget(Forget(ids=(source_pairs(row)[0][0],), mode=Mode.ERASE, confirmed=True), ME)
    assert [one.state for one in adapters_of(packing).rows("copy")] == [AdapterState.GONE]
    assert adapters_of(packing).serving("default") is not None


def test_the_same_cube_gives_the_same_bytes_after_it_was_installed(packing: MemOS, tmp_path: Path, latest_wins: Path):
    path = bundled(packing, tmp_path / "cube.memcube")
    with opened(settings_of(tmp_path / "other", latest_wins), HandClock(START)) as memos:
        memos.install(Install(str(path)), ME)
        assert bundled(memos, tmp_path / "again.memcube").read_bytes() == path.read_bytes()


def test_no_adapter_goes_where_anything_is_left_out(packing: MemOS, tmp_path: Path):
    secret = say(packing, "the vault opens with 9184")
    packing.govern(Govern(ids=(secret,), sensitivity=Sensitivity.SECRET), ME)
    with open_bundle(bundled(packing, tmp_path / "all.memcube")) as whole:
        assert len(whole.manifest.artifacts) == 1
    with open_bundle(bundled(packing, tmp_path / "less.memcube", redact=Sensitivity.SECRET)) as less:
        assert less.manifest.artifacts == ()


def test_which_versions_are_left_out_is_said_with_the_reason(packing: MemOS, tmp_path: Path):
    def remarks(**more) -> list[str]:
        path = tmp_path / "cube.memcube"
        return list(packing.pack(Pack("default", path, sign=False, replace=True, **more), ME).remarks)

    assert remarks() == ["version 2 of the adapter is left out: it did not pass the gate"]
    secret = say(packing, "the vault opens with 9184")
    packing.govern(Govern(ids=(secret,), sensitivity=Sensitivity.SECRET), ME)
    first, second = remarks(redact=Sensitivity.SECRET)
    assert first.startswith("version 1 of the adapter is left out: memories of the cube are left out")
    assert second.startswith("version 2")


def test_an_unpacked_adapter_is_loaded_by_peft_itself(
    packing: MemOS, tmp_path: Path, latest_wins: Path, loaded: Loaded, first: Trained
):
    with open_bundle(bundled(packing, tmp_path / "cube.memcube")) as bundle:
        counts = unpack(bundle, tmp_path / "plain", lambda *_: None)
    assert counts["adapters"] == 1
    (folder,) = (tmp_path / "plain" / "adapters").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "memos_adapter.json",
    }
    assert not any(note.text in path.read_text("latin-1") for note in first.notes for path in folder.iterdir())
    assert json.loads((folder / "memos_adapter.json").read_text())["model"] == loaded.info.fingerprint
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(latest_wins), folder)
    with torch.inference_mode():
        assert right(replace(loaded, model=plain.eval()), first) >= 7
    assert right(loaded, first) == 0
