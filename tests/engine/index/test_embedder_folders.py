"""Any folder with a sentence encoder can be the embedder; one that would be computed wrongly is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from engine.errors import Corrupt, Unavailable
from engine.index.bert_graph import bert_shape, build
from engine.index.embedder import Embedder, open_embedder
from engine.settings import Settings
from tests.engine.index.bert_reference import last_hidden_state, load_safetensors, unit
from tests.engine.index.tiny_bert import CONFIG, HIDDEN, POSITIONS, TinyBert
from tests.engine.stores import ask, contents, opened, say, settings_for

TEXTS = ("the cat sat on a mat", "", "Oslo", "unknown words here", "the cat and the mat and a cat " * 9)


def open_folder(folder: Path, tmp_path: Path) -> Embedder:
    return open_embedder(Settings(data=tmp_path / "data", embedder=str(folder)), pytest.fail, {})


def reference(folder: Path, prefix: str = "", max_tokens: int = POSITIONS) -> list[np.ndarray]:
    """States [tokens, hidden] of each text."""
    tensors = load_safetensors(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    return [last_hidden_state(tensors, CONFIG, tokenizer.encode(text).ids, prefix) for text in TEXTS]


def pool_by(folder: Path, **modes: bool) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": HIDDEN, **modes}))


@pytest.mark.parametrize(("element", "prefix"), [("F32", ""), ("F32", "bert."), ("F16", ""), ("BF16", "")])
def test_bert_weights_of_any_precision_and_naming_are_computed_right(element: str, prefix: str, tmp_path: Path) -> None:
    folder = TinyBert(element=element, prefix=prefix).save(tmp_path / "model")
    embedder = open_folder(folder, tmp_path)
    wanted = np.array([unit(states.mean(0)) for states in reference(folder, prefix)])
    assert embedder.dimension == HIDDEN
    assert np.abs(embedder.embed(TEXTS) - wanted).max() < 1e-5


def test_first_token_pooling_and_a_shorter_limit_are_followed(tmp_path: Path) -> None:
    folder = TinyBert().save(tmp_path / "model")
    pool_by(folder, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    wanted = np.array([unit(states[0]) for states in reference(folder, max_tokens=8)])
    assert np.abs(open_folder(folder, tmp_path).embed(TEXTS) - wanted).max() < 1e-5


def test_an_onnx_export_is_run_as_it_is(tmp_path: Path) -> None:
    folder = TinyBert().save(tmp_path / "model", model_type="distilbert")
    shape = bert_shape(CONFIG)
    assert shape is not None
    (folder / "model.onnx").write_bytes(build(folder / "model.safetensors", shape))
    wanted = np.array([unit(states.mean(0)) for states in reference(folder)])
    assert np.abs(open_folder(folder, tmp_path).embed(TEXTS) - wanted).max() < 1e-5


def test_the_fingerprint_changes_with_everything_that_changes_a_vector(tmp_path: Path) -> None:
    prints = [open_folder(TinyBert().save(tmp_path / "a"), tmp_path).fingerprint]
    assert open_folder(TinyBert().save(tmp_path / "again" / "a"), tmp_path).fingerprint == prints[0]
    prints.append(open_folder(TinyBert(seed=2).save(tmp_path / "b" / "a"), tmp_path).fingerprint)
    shorter = TinyBert().save(tmp_path / "c" / "a")
    (shorter / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    prints.append(open_folder(shorter, tmp_path).fingerprint)
    pooled = TinyBert().save(tmp_path / "d" / "a")
    pool_by(pooled, pooling_mode_cls_token=True)
    prints.append(open_folder(pooled, tmp_path).fingerprint)
    other = TinyBert().save(tmp_path / "e" / "a")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text().replace("Oslo", "Rome"))
    prints.append(open_folder(other, tmp_path).fingerprint)
    assert len(set(prints)) == len(prints)
    assert all(each.startswith("a:") for each in prints)


def test_a_model_in_the_hubs_cache_is_found_by_its_name(tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--someone--tiny"
    TinyBert().save(repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123\n")
    settings = Settings(data=tmp_path / "data", embedder="someone/tiny")
    embedder = open_embedder(settings, pytest.fail, {"HF_HUB_CACHE": str(tmp_path / "cache")})
    assert (embedder.name, embedder.embed(TEXTS).shape) == ("someone/tiny", (len(TEXTS), HIDDEN))


@pytest.mark.parametrize("name", ["someone/not-here", "/no/such/folder", "none", "..", "someone/../x"])
def test_an_embedder_that_is_not_there_is_unavailable_with_a_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"MEMOS_EMBEDDER|tokenizer"):
        open_embedder(Settings(data=tmp_path, embedder=name), pytest.fail, {"HF_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "mpnet"}, "'mpnet' encoder"),
        ({"hidden_act": "gelu_new"}, "'bert' encoder"),
        ({"position_embedding_type": "relative_key"}, "'bert' encoder"),
        ({"num_hidden_layers": "many"}, "'bert' encoder"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_another_architecture_is_refused_rather_than_computed_wrongly(
    config: dict[str, object], why: str, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match=why):
        open_folder(TinyBert().save(tmp_path / "model", **config), tmp_path)


def test_steps_and_poolings_that_are_not_known_are_refused(tmp_path: Path) -> None:
    dense = TinyBert().save(tmp_path / "dense")
    (dense / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]')
    with pytest.raises(Unavailable, match="'Dense'"):
        open_folder(dense, tmp_path)
    by_maximum = TinyBert().save(tmp_path / "max")
    pool_by(by_maximum, pooling_mode_max_tokens=True)
    with pytest.raises(Unavailable, match="pooling_mode_max_tokens"):
        open_folder(by_maximum, tmp_path)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_that_lacks_a_file_names_it(missing: str, tmp_path: Path) -> None:
    folder = TinyBert().save(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(Unavailable, match=missing.replace(".", r"\.")):
        open_folder(folder, tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "modules.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe nonsense", b"[1, 2", b'"text"'])
def test_a_damaged_file_is_reported_by_its_path(name: str, content: bytes, tmp_path: Path) -> None:
    folder = TinyBert().save(tmp_path / "model")
    (folder / name).write_bytes(content)
    with pytest.raises(Corrupt, match=name.replace(".", r"\.")):
        open_folder(folder, tmp_path).embed(["the cat"])


def test_weights_cut_short_or_of_another_shape_are_never_run(tmp_path: Path) -> None:
    cut = TinyBert().save(tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-64])
    with pytest.raises(Corrupt, match="cut short"):
        open_folder(cut, tmp_path).embed(["the cat"])
    deeper = TinyBert().save(tmp_path / "deeper", num_hidden_layers=3)
    with pytest.raises(Unavailable, match=r"encoder\.layer\.2"):
        open_folder(deeper, tmp_path).embed(["the cat"])
    bad = TinyBert().save(tmp_path / "bad", model_type="xyz")
    (bad / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(Corrupt, match=r"model\.onnx"):
        open_folder(bad, tmp_path).embed(["the cat"])


def unknown_to_the_weights(folder: Path, word: str) -> None:
    """Give the tokenizer a word that the model has no embedding of: onnxruntime then refuses to run it."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][word] = 5_000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def test_a_model_that_fails_while_it_runs_is_unavailable_and_named(tmp_path: Path) -> None:
    folder = TinyBert().save(tmp_path / "model")
    unknown_to_the_weights(folder, "zebra")
    embedder = open_folder(folder, tmp_path)
    with pytest.raises(Unavailable, match=r"model\.safetensors cannot be run by onnxruntime"):
        embedder.embed(["the zebra sat"])
    assert embedder.embed(["the cat sat"]).shape == (1, HIDDEN)


def test_an_export_with_vectors_of_another_size_than_it_says_is_unavailable(tmp_path: Path) -> None:
    folder = TinyBert().save(tmp_path / "model")
    shape = bert_shape(CONFIG)
    assert shape is not None
    (folder / "model.onnx").write_bytes(build(folder / "model.safetensors", shape))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "distilbert", "hidden_size": HIDDEN // 2}))
    with pytest.raises(Unavailable, match="no vectors of 8 numbers"):
        open_folder(folder, tmp_path).embed(["the cat"])


def test_recall_goes_on_by_words_and_says_so_when_the_model_fails(tmp_path: Path) -> None:
    folder = TinyBert().save(tmp_path / "model")
    unknown_to_the_weights(folder, "zebra")
    with opened(settings_for(tmp_path / "data", str(folder))) as memos:
        say(memos, "The cat slept in Oslo.")
        assert ask(memos, "the cat").degraded is None
        found = ask(memos, "zebra or cat in Oslo")
        assert contents(found) == ["The cat slept in Oslo."]
        assert found.degraded is not None
        assert found.degraded.startswith("lexical only")
