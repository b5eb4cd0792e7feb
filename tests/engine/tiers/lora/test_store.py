"""Versions of adapters in a real store: one serves, none outlives a memory that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from engine.errors import Conflict, NotFound
from engine.memos import MemOS
from engine.model.loading import Loaded
from engine.operations import Forget, Mode
from engine.tier_operations import AdapterState, Judged
from engine.tiers.lora.asking import answers, prompt_ids
from engine.tiers.lora.files import Source, digest_of, read_adapter
from engine.tiers.lora.headers import known_pairs, source_pairs
from engine.tiers.lora.store import AdapterStore, Made
from engine.vault.blobs import blob_path
from tests.conftest import START, HandClock
from tests.engine.stores import ME, opened, say, settings_for
from tests.engine.tiers.lora.conftest import Trained

PASSED = Judged(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.01)
SERVING, RESTING, FAILED, GONE = AdapterState.SERVING, AdapterState.RESTING, AdapterState.FAILED, AdapterState.GONE


@dataclass
class Kept:
    """A store with the memories of an adapter, and the adapter as it is kept."""

    memos: MemOS
    adapters: AdapterStore
    loaded: Loaded
    trained: Trained
    ids: dict[str, str]  # of the trained notes, the ids here

    def made(self, **more) -> Made:
        config, tensors, card = read_adapter(self.trained.folder, self.loaded.info.fingerprint)
        sources = tuple(Source(self.ids[one.id], 1, known=True) for one in card.sources)
        told = {"judged": PASSED, "caller": ME, **more}
        return Made("default", config, tensors, replace(card, sources=sources), **told)

    def keep(self, **more):
        return self.adapters.keep(self.made(**more))

    def states(self) -> list[AdapterState]:
        return [row.state for row in self.adapters.rows("default")]

    def blobs(self) -> list[Path]:
        folder = self.memos._parts.vault.settings.blobs_folder
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def said(self, loaded: Loaded) -> int:
        """How many of its memories the model answers for, closed book."""
        asked = [(note, self.trained.questions.study(note)[0].text) for note in self.trained.notes]
        said = answers(loaded, [prompt_ids(loaded, question) for _, question in asked])
        values = [self.trained.questions.by_id[note.id].value for note, _ in asked]
        return sum(one.text == value for one, value in zip(said, values, strict=True))


@pytest.fixture
def kept(loaded: Loaded, first: Trained, tmp_path: Path, latest_wins: Path) -> Iterator[Kept]:
    settings = replace(settings_for(tmp_path / "data"), model=str(latest_wins), lora_kept=3)
    with opened(settings, HandClock(START)) as memos:
        local = memos._answering._local_model()
        ids = {note.id: say(memos, note.text) for note in first.notes}
        yield Kept(memos, local.adapters, loaded, first, ids)
        local.adapters.resident(loaded).close()


def test_an_adapter_that_passed_serves_and_answers(kept: Kept):
    row = kept.keep()
    assert row is not None
    assert (row.version, row.state) == (1, SERVING)
    assert kept.adapters.serving("default") == row
    worn = kept.adapters.worn(kept.loaded, row)
    assert kept.said(worn) >= 7
    assert kept.said(kept.loaded) == 0
    assert worn.info.fingerprint != kept.loaded.info.fingerprint
    assert kept.memos.audit(ME)[-1].action == "distil"


def test_one_version_serves_at_a_time_and_another_can_be_made_to(kept: Kept):
    for _ in range(2):
        kept.keep()
    assert kept.states() == [RESTING, SERVING]
    back = kept.adapters.activate("default", 1, ME, "the second says less")
    assert back is not None
    assert back.version == 1
    assert kept.states() == [SERVING, RESTING]
    assert kept.adapters.serving("default").version == kept.adapters.row("default").version == 1
    assert kept.memos.audit(ME)[-1].reason == "the second says less"
    assert kept.adapters.activate("default", None, ME) is None
    assert kept.states() == [RESTING, RESTING]
    assert kept.adapters.serving("default") is None


def test_a_version_that_did_not_pass_here_never_serves(kept: Kept):
    failed = kept.keep(judged=replace(PASSED, learned=0.2, why=("it knows 20 % of the memories",)))
    unjudged = kept.keep(judged=None, made="installed")
    assert kept.states() == [FAILED, RESTING]
    with pytest.raises(Conflict, match="20 %"):
        kept.adapters.activate("default", failed.version, ME)
    with pytest.raises(Conflict, match="never judged"):
        kept.adapters.activate("default", unjudged.version, ME)
    judged = kept.adapters.judge(unjudged, PASSED, list(kept.ids.values())[:3], ME)
    assert len(known_pairs(judged)) == 3
    assert kept.adapters.activate("default", unjudged.version, ME) is not None
    assert kept.states() == [FAILED, SERVING]


def test_older_versions_go_but_never_the_one_that_serves(kept: Kept):
    kept.keep()
    for _ in range(4):
        kept.keep(activate=False)
    assert kept.states() == [SERVING, GONE, GONE, RESTING, RESTING]
    assert len(kept.blobs()) == 1  # all have the same weights, and so the same blob
    with pytest.raises(NotFound, match="1, 4, 5"):
        kept.adapters.row("default", 2)


@pytest.mark.parametrize("mode", [Mode.ERASE, Mode.ARCHIVE])
def test_a_version_goes_with_any_memory_it_was_made_from(kept: Kept, mode: Mode):
    row = kept.keep()
    worn = kept.adapters.worn(kept.loaded, row)
    assert kept.said(worn) >= 7
    one = next(iter(kept.ids.values()))
    kept.memos.forget(Forget(ids=(one,), mode=mode, confirmed=True), ME)
    assert kept.states() == [GONE]
    assert kept.adapters.rows("default")[0].header == {}
    assert kept.adapters.serving("default") is None
    assert kept.blobs() == []
    with pytest.raises(Conflict, match="taken out of service"):
        kept.said(worn)
    assert kept.adapters.worn(kept.loaded, row) is None
    assert kept.adapters.resident(kept.loaded).adapters == ()


def test_nothing_is_kept_of_memories_that_changed_while_it_was_made(kept: Kept):
    made = kept.made()
    kept.memos.forget(Forget(ids=(next(iter(kept.ids.values())),), mode=Mode.ERASE, confirmed=True), ME)
    assert kept.adapters.keep(made) is None
    assert kept.adapters.rows() == []
    assert kept.blobs() == []


def test_dropping_a_version_leaves_the_others(kept: Kept):
    kept.keep()
    kept.keep()
    assert kept.adapters.drop("default", 2, ME) == 1
    assert kept.states() == [RESTING, GONE]
    assert kept.adapters.drop("default", None, ME) == 1
    assert kept.states() == [GONE, GONE]
    assert kept.adapters.drop("default", None, ME) == 0
    with pytest.raises(NotFound, match="train one first"):
        kept.adapters.drop("default", 1, ME)


def test_an_adapter_for_another_model_is_refused_and_said_once(kept: Kept):
    made = kept.made()
    row = kept.adapters.keep(replace(made, card=replace(made.card, model="sha256:" + "0" * 64)))
    assert kept.adapters.worn(kept.loaded, row) is None
    assert kept.adapters.worn(kept.loaded, row) is None
    (remark,) = kept.adapters.remarks(["default"])
    assert "another model" in remark
    assert kept.adapters.remarks() == ()
    assert kept.adapters.views("default", kept.loaded.info.fingerprint)[0].usable is False


def test_damaged_weights_are_refused_and_the_base_answers(kept: Kept):
    row = kept.keep()
    path = blob_path(kept.memos._parts.vault.settings, row.header["blob"], kept.memos._parts.vault.sealer)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert kept.adapters.worn(kept.loaded, row) is None
    assert "damaged" in kept.adapters.remarks(["default"])[0]


def test_what_is_said_of_a_version_outlives_the_process(kept: Kept, tmp_path: Path):
    row = kept.keep(parents=("a_parent",), subjects=("eda arnez",), seconds=12.5, peak_bytes=7, reason="for later")
    (view,) = kept.adapters.views("default", kept.loaded.info.fingerprint)
    assert view.usable
    assert view.judged == PASSED
    assert view.parents == ("a_parent",)
    assert view.sources == view.known == source_pairs(row)
    folder = kept.adapters.export(row, tmp_path / "exported")
    _config, _tensors, card = read_adapter(folder, kept.loaded.info.fingerprint)
    assert card.sources == kept.made().card.sources
    assert not any(note.text.encode() in path.read_bytes() for note in kept.trained.notes for path in folder.iterdir())


def test_the_base_model_is_bit_for_bit_what_it_was_after_adapters(kept: Kept):
    before = {name: tensor.clone() for name, tensor in kept.loaded.model.state_dict().items()}
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        logits = kept.loaded.model(input_ids=ids).logits
        kept.adapters.worn(kept.loaded, kept.keep())
        assert torch.equal(kept.loaded.model(input_ids=ids).logits, logits)
        kept.adapters.drop("default", None, ME)
        kept.adapters.resident(kept.loaded)
    after = kept.loaded.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("changed", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}])
def test_how_the_weights_of_a_foreign_adapter_began_never_touches_the_base(kept: Kept, changed: dict[str, str]):
    made = kept.made()
    before = {name: tensor.clone() for name, tensor in kept.loaded.model.state_dict().items()}
    for name, value in changed.items():
        setattr(made.config, name, value)
    worn = kept.adapters.worn(kept.loaded, kept.adapters.keep(made))
    assert kept.said(worn) >= 7
    kept.adapters.drop("default", None, ME)
    kept.adapters.resident(kept.loaded)
    after = kept.loaded.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"modules_to_save": ["lm_head"]}, "only plain LoRA"),
        ({"layer_replication": [[0, 1]]}, "only plain LoRA"),
        ({"target_modules": "(a+)+b"}, "does not list"),
        ({"rank_pattern": {"q_proj": 4}}, "does not fit"),
        ({"rank_pattern": {"q_proj": 300_000}}, "from 1 to 256"),
        ({"rank_pattern": {"(.*)*(.*)*x": 8}}, "plain names"),
        ({"r": 300_000}, "from 1 to 256"),
        ({"r": -3}, "from 1 to 256"),
        ({"alpha_pattern": {"q_proj": 10**400}}, "scaling"),
    ],
)
def test_a_foreign_adapter_that_is_more_than_plain_lora_is_refused(kept: Kept, changed: dict, why: str):
    made = kept.made()
    for name, value in changed.items():
        setattr(made.config, name, value)
    card = replace(made.card, digest=digest_of(made.config, made.tensors))
    assert kept.adapters.worn(kept.loaded, kept.adapters.keep(replace(made, card=card))) is None
    assert why in kept.adapters.remarks(["default"])[0]
    assert kept.said(kept.loaded) == 0
    kept.adapters.drop("default", None, ME)
    assert kept.said(kept.adapters.worn(kept.loaded, kept.keep())) >= 7  # the next one finds the model as it was
