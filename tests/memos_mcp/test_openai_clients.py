"""Clients that others wrote, with a real `memos-mcp serve`: the official one and that of huggingface_hub."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from engine.settings import DEFAULT_EMBEDDER
from memos_mcp.cli import main
from tests.memos_mcp.openai_world import ANSWER, QUESTION, user
from tests.memos_mcp.processes import LONG_S, environment
from tests.memos_mcp.shell import COMMAND, Shell, shell


@contextmanager
def serving(sh: Shell, *options: str, **env: str) -> Iterator[str]:
    """`memos-mcp serve` on a free port; its address."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *options], stderr=subprocess.PIPE, text=True, env=environment(sh.data, **env)
    )
    assert process.stderr is not None
    with process.stderr as lines:
        place = lines.readline().split(" at ")[1].split("/mcp")[0]
        threading.Thread(target=lines.read, daemon=True).start()
        try:
            yield place
        finally:
            process.terminate()
            assert process.wait(LONG_S) == 0


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("clients") / "data") as opened:
        yield opened


@pytest.fixture(scope="module")
def place(sh: Shell, latest_wins: Path) -> Iterator[str]:
    kept = sh.remember(f"the city of alice is {ANSWER}")
    assert kept
    with serving(sh, "--model", str(latest_wins), OMP_NUM_THREADS="1", MEMOS_EMBEDDER=DEFAULT_EMBEDDER) as address:
        yield address


@pytest.fixture(scope="module")
def official(place: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{place}/v1", api_key="any", timeout=LONG_S, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def other(place: str) -> InferenceClient:
    return InferenceClient(base_url=f"{place}/v1", api_key="any", timeout=LONG_S)


def test_the_official_client_lists_what_is_served_and_hears_from_memory(
    official: openai.OpenAI, latest_wins: Path
) -> None:
    listed = [model.id for model in official.models.list()]
    assert listed == [str(latest_wins), DEFAULT_EMBEDDER]
    raw = official.chat.completions.with_raw_response.create(
        model=listed[0], messages=[user(QUESTION)], temperature=0, extra_body={"memory": {"cube": "default"}}
    )
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["cache-control"] == "no-store"
    assert raw.parse().choices[0].message.content == ANSWER


def test_the_client_of_huggingface_hub_chats_streams_and_knows_refusals(
    other: InferenceClient, latest_wins: Path
) -> None:
    def ask(**more: object) -> object:
        body = {"memory": {"cube": "default"}, **more}
        return other.chat_completion([user(QUESTION)], model=str(latest_wins), temperature=0, extra_body=body)

    assert ask().choices[0].message.content == ANSWER  # type: ignore[attr-defined]
    pieces = other.chat_completion(
        [user(QUESTION)],
        model=str(latest_wins),
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"memory": {"cube": "default"}},
    )
    told = list(pieces)
    assert "".join(piece.choices[0].delta.content or "" for piece in told if piece.choices) == ANSWER
    assert told[-1].usage.total_tokens > 0
    with pytest.raises(HfHubHTTPError, match="'n' is not supported"):
        ask(n=2)


def test_embeddings_are_the_same_as_floats_and_as_base64_and_tell_meanings_apart(official: openai.OpenAI) -> None:
    texts = ["The cat sleeps on the mat.", "A kitten naps on a rug.", "Interest rates rose again."]

    def embedded(given: str | list[str], form: str) -> np.ndarray:
        reply = official.embeddings.create(model=DEFAULT_EMBEDDER, input=given, encoding_format=form)  # type: ignore[arg-type]
        assert reply.usage.prompt_tokens > 0
        assert [item.index for item in reply.data] == list(range(len(reply.data)))
        return np.array([item.embedding for item in reply.data], dtype=np.float32)

    vectors = embedded(texts, "float")
    usual = official.embeddings.create(model=DEFAULT_EMBEDDER, input=texts)  # asks for base64, and decodes it
    assert np.array_equal(vectors, np.array([item.embedding for item in usual.data], dtype=np.float32))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    assert np.allclose(embedded(texts[0], "float")[0], vectors[0], atol=1e-5)


def test_other_dimensions_and_other_embedders_are_refused(official: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="has 384"):
        official.embeddings.create(model=DEFAULT_EMBEDDER, input="x", dimensions=256)
    assert len(official.embeddings.create(model=DEFAULT_EMBEDDER, input="x", dimensions=384).data[0].embedding) == 384
    with pytest.raises(openai.NotFoundError, match="not served here"):
        official.embeddings.create(model="text-embedding-3-small", input="x")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("./no-such-folder", "does not exist"),
        ("http://user:secret-word@127.0.0.1:1/v1", "MEMOS_MODEL_KEY"),
        ("http://", "the model's URL is none"),
    ],
)
def test_a_model_that_cannot_be_is_told_before_anything_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, why: str
) -> None:
    assert main(["--data", str(tmp_path / "data"), "serve", "--port", "0", "--model", model]) == 1
    said = capsys.readouterr().err
    assert why in said
    assert len(said.splitlines()) == 1
    assert "secret-word" not in said
    assert not (tmp_path / "data").exists()
