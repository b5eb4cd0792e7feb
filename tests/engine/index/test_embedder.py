"""The default embedder gives the vectors that its published weights and recipe define."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from engine.errors import Invalid
from engine.index.embedder import Embedder, open_embedder
from engine.index.weights import ALL_MINILM
from engine.settings import Settings
from tests.engine.index.bert_reference import last_hidden_state, load_safetensors, unit

TEXTS = (
    "",
    " ",
    ".",
    "a",
    "Hello, world!",
    "What did she say about the trip to Norway last summer?",
    "I moved from Berlin to Oslo in March 2024 and work at a small bakery now.",
    "Ich wohne seit drei Jahren in München und fahre jeden Tag mit dem Fahrrad.",
    "Она любит чай с лимоном.",
    "彼女は来週東京に行きます。",
    "مرحبا بالعالم",
    "naïve café – “quoted” … ½ ≠ ⅓",
    "👩‍👩‍👧‍👦 🎉🎉🎉 family party!!!",
    "e\u0301 is not é, and \u00a0 is a space\tor\na line\r\nbreak",
    "https://example.org/a/very/long/path?with=query&and=more#fragment",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "0123456789 3.14159 -42 1e-9 €1,234.56 +47 22 12 34 56",
    "antidisestablishmentarianism " * 3,
    "\x00\x01 control \x7f characters",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "Every paragraph that goes on past the longest text the model reads is cut there, and nowhere before. " * 40,
)


@pytest.fixture(scope="module")
def model_folder() -> Path:
    spec = importlib.util.find_spec(ALL_MINILM.package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the default model is not installed: {ALL_MINILM.install}")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def embedder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return open_embedder(Settings(data=tmp_path_factory.mktemp("data"), offline=True), pytest.fail)


def test_vectors_equal_a_forward_pass_in_float64(embedder: Embedder, model_folder: Path) -> None:
    tensors = load_safetensors(model_folder / "model.safetensors")
    config = json.loads((model_folder / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.loads((model_folder / "sentence_bert_config.json").read_text())["max_seq_length"])
    wanted = [unit(last_hidden_state(tensors, config, tokenizer.encode(text).ids).mean(0)) for text in TEXTS]
    vectors = embedder.embed(TEXTS)
    cosines = [float(vector @ reference) for vector, reference in zip(vectors, wanted, strict=True)]
    assert min(cosines) >= 0.99999, dict(zip(TEXTS, cosines, strict=True))
    assert np.abs(vectors - np.array(wanted)).max() < 1e-5


def test_a_text_has_the_same_vector_alone_and_in_any_company(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS)
    backwards = embedder.embed(TEXTS[::-1])[::-1]
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    assert np.abs(together - backwards).max() < 1e-5
    assert np.abs(together - alone).max() < 1e-5


def test_vectors_are_float32_of_unit_length_in_the_order_of_the_texts(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.dimension) == (len(TEXTS), 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert embedder.embed([]).shape == (0, 384)


def test_near_meanings_are_nearer_than_far_ones(embedder: Embedder) -> None:
    query, near, far = embedder.embed(["Where does she live?", "Her home is in Oslo.", "The invoice is due on Monday."])
    assert query @ near > query @ far + 0.1


def test_a_caller_may_change_the_vector_of_a_repeated_text(embedder: Embedder) -> None:
    first = embedder.embed(["asked twice"])
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(embedder.embed(["asked twice"]), kept)


def test_a_lone_surrogate_is_refused_and_not_embedded_as_something_else(embedder: Embedder) -> None:
    for texts in (["\ud800"], ["fine", "not \udfff fine"]):
        with pytest.raises(Invalid, match="lone surrogate"):
            embedder.embed(texts)


def test_many_threads_get_the_same_vectors(embedder: Embedder) -> None:
    wanted = embedder.embed(TEXTS[:12])
    found: list[bool] = []

    def work() -> None:
        found.extend(np.abs(embedder.embed(TEXTS[:12]) - wanted).max() < 1e-5 for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 18


def test_opening_loads_no_runtime_and_reads_the_weights_only_once(model_folder: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from engine.index.embedder import open_embedder
from engine.settings import Settings
embedder = open_embedder(Settings(data=Path({str(tmp_path)!r})), print)
assert embedder.fingerprint.startswith("all-MiniLM-L6-v2:"), embedder.fingerprint
print([name for name in ("onnxruntime", "tokenizers", "torch", "{ALL_MINILM.package}") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    verified = json.loads((tmp_path / "models" / "verified.json").read_text())
    assert verified[str((model_folder / "model.safetensors").resolve())][2] == ALL_MINILM.sha256["model.safetensors"]


def test_the_same_model_in_a_folder_of_the_users_has_the_same_fingerprint(
    embedder: Embedder, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for name in ALL_MINILM.sha256:
        (tmp_path / "mine" / name).symlink_to(model_folder / name)
    same = open_embedder(Settings(data=tmp_path, embedder=str(tmp_path / "mine")), pytest.fail)
    assert (same.name, same.fingerprint) == (embedder.name, embedder.fingerprint)
    assert np.abs(same.embed(["Hello"]) - embedder.embed(["Hello"])).max() < 1e-6
