"""What the OpenAI-compatible endpoint refuses: by name, in OpenAI's shape, with the status that its client expects."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from engine.errors import Busy
from memos_mcp.openai_api.bodies import MAX_BODY_BYTES
from memos_mcp.openai_api.running import Replies
from tests.engine.model.scripted_server import STREAM, Answer, scripted_server, stream
from tests.memos_mcp.model_server import model_server
from tests.memos_mcp.openai_world import QUESTION, World, served, user

SECRET = "sesame-opens-nothing"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Served with a model by URL, which is never reached: everything here is refused before."""
    with model_server() as remote, served(tmp_path_factory.mktemp("openai") / "data", remote.url) as opened:
        opened.remember("the city of alice is paris")
        yield opened
    assert remote.asked == []


def fault(reply: Any) -> dict[str, Any]:
    content = json.loads(reply.text)
    assert set(content) == {"error"}
    assert set(content["error"]) == {"message", "type", "param", "code"}
    assert content["error"]["message"]
    assert reply.headers["x-request-id"].startswith("req_")
    return content["error"]  # type: ignore[no-any-return]


# --- parameters -----------------------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", **TOOL}]}

NOT_SUPPORTED: dict[str, Any] = {
    "n": 2,
    "tools": [TOOL],
    "tool_choice": "required",
    "functions": [TOOL["function"]],
    "function_call": {"name": "f"},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"50256": -100},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "reasoning_effort": "high",
    "verbosity": "low",
}


@pytest.mark.parametrize("name", NOT_SUPPORTED)
def test_what_is_not_supported_is_refused_by_its_name(world: World, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        world.client().chat.completions.create(**world.asked(), extra_body={name: NOT_SUPPORTED[name]})
    assert refusal.value.param == name
    assert refusal.value.code == "unsupported_parameter"
    assert refusal.value.type == "invalid_request_error"
    assert f"'{name}'" in refusal.value.message


@pytest.mark.parametrize(("name", "value"), [("n", True), ("logprobs", 0), ("top_logprobs", False)])
def test_a_yes_or_no_is_not_taken_for_a_number_nor_a_number_for_it(world: World, name: str, value: object) -> None:
    told = fault(world.post("/chat/completions", world.asked(**{name: value})))
    assert (told["param"], told["code"]) == (name, "unsupported_parameter")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown name": ({"min_p": 0.1}, "min_p"),
    "a temperature beyond the bounds": ({"temperature": 2.5}, "temperature"),
    "a temperature in words": ({"temperature": "hot"}, "temperature"),
    "no room for a reply": ({"max_tokens": 0}, "max_tokens"),
    "more room than there is": ({"max_completion_tokens": 10_000_000}, "max_completion_tokens"),
    "half a token": ({"max_tokens": 1.5}, "max_tokens"),
    "a seed that is none": ({"seed": 1 << 70}, "seed"),
    "a penalty beyond the bounds": ({"presence_penalty": -3}, "presence_penalty"),
    "an empty stop string": ({"stop": [""]}, "stop[0]"),
    "too many stop strings": ({"stop": ["x"] * 17}, "stop"),
    "options of a stream without a stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "a stream in words": ({"stream": "yes"}, "stream"),
    "no messages": ({"messages": []}, "messages"),
    "a message that is none": ({"messages": ["hello"]}, "messages[0]"),
    "a message without a role": ({"messages": [{"content": "hello"}]}, "messages[0].role"),
    "a role that nobody knows": ({"messages": [{"role": "king", "content": "hello"}]}, "messages[0].role"),
    "a message without content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "content that is no text": ({"messages": [user(17)]}, "messages[0].content"),
    "an image": ({"messages": [user([{"type": "text", "text": "see"}, IMAGE])]}, "messages[0].content[1]"),
    "sound": ({"messages": [user([AUDIO])]}, "messages[0].content[0]"),
    "a part without its text": ({"messages": [user([{"type": "text"}])]}, "messages[0].content[0].text"),
    "a part that is none": ({"messages": [user(["hello"])]}, "messages[0].content[0]"),
    "what a tool said": ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "4"}]}, "messages[0]"),
    "what tools were called": ({"messages": [user("go"), CALLED, user("and?")]}, "messages[1]"),
    "a control character": ({"messages": [user("a\x00b")]}, "messages[0].content"),
    "half a character": ({"messages": [user("\ud800")]}, "messages[0].content"),
    "memory that is a word": ({"memory": True}, "memory"),
    "memory of an unknown name": ({"memory": {"cubs": ["default"]}}, "memory.cubs"),
    "memory of a cube and of cubes": ({"memory": {"cube": "a", "cubes": ["b"]}}, "memory.cubes"),
    "memory of a tier that is none": ({"memory": {"tiers": ["disk"]}}, "memory.tiers[0]"),
    "memory of no tier": ({"memory": {"tiers": []}}, "memory.tiers"),
    "memory without bounds": ({"memory": {"limit": 1_000}}, "memory.limit"),
    "memory of a cube with no name": ({"memory": {"cube": "a/b"}}, "memory.cube"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_with_its_place(world: World, what: str) -> None:
    more, param = WRONG[what]
    reply = world.post("/chat/completions", {**world.asked(), **more})
    assert (reply.status, fault(reply)["param"], fault(reply)["type"]) == (400, param, "invalid_request_error")


def test_a_conversation_ends_with_the_user(world: World) -> None:
    messages: Any = [user("hello"), {"role": "assistant", "content": "hi"}]
    with pytest.raises(openai.BadRequestError, match="the last turn must be the user's"):
        world.client().chat.completions.create(**{**world.asked(), "messages": messages})


def test_what_is_required_is_asked_for(world: World) -> None:
    for name in ("model", "messages"):
        asked = {key: value for key, value in world.asked().items() if key != name}
        assert fault(world.post("/chat/completions", asked))["param"] == name


def test_what_changes_nothing_is_taken(tmp_path: Path) -> None:
    harmless = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": False,
        "n": 1,
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "logprobs": False,
        "modalities": ["text"],
        "logit_bias": {},
        "top_p": None,
        "stop": None,
        "memory": None,
        "safety_identifier": "x",
        "prompt_cache_key": "x",
    }
    with model_server() as remote, served(tmp_path / "data", remote.url) as world:
        reply = world.client().chat.completions.create(**world.asked("repeat: hello"), extra_body=harmless)
        assert reply.choices[0].message.content == "hello "
        assert set(remote.asked[0]) == {
            *("model", "messages", "stream", "stream_options", "max_tokens", "temperature"),
        }


# --- models and cubes -----------------------------------------------------------------------------------------------


def test_a_model_that_is_not_served_is_not_found(world: World) -> None:
    client = world.client()
    with pytest.raises(openai.NotFoundError) as refusal:
        client.chat.completions.create(**{**world.asked(), "model": "gpt-4o"})
    assert (refusal.value.code, refusal.value.param) == ("model_not_found", "model")
    assert world.model in refusal.value.message
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' is not served here"):
        client.models.retrieve("gpt-4o")
    assert client.models.retrieve(world.model).id == world.model
    assert [model.id for model in client.models.list()] == [world.model]


def test_a_cube_that_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(openai.NotFoundError, match="attic"):
        world.client().chat.completions.create(**world.asked(), extra_body={"memory": {"cube": "attic"}})


def test_without_a_model_the_refusal_says_what_to_do_and_is_not_tried_again(tmp_path: Path) -> None:
    with served(tmp_path / "data", None) as world:
        reply = world.post("/chat/completions", {**world.asked(), "model": "any"})
        assert (reply.status, fault(reply)["code"]) == (503, "unavailable")
        assert "--model" in fault(reply)["message"]
        assert reply.headers["x-should-retry"] == "false"
        assert list(world.client().models.list()) == []
        with pytest.raises(openai.InternalServerError):
            world.client().chat.completions.create(**{**world.asked(), "model": "any"})


def test_a_model_that_does_not_load_is_said_before_a_stream_begins(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    with served(tmp_path / "data", str(folder)) as world:
        reply = world.post("/chat/completions", world.asked(stream=True))
        assert (reply.status, fault(reply)["code"]) == (404, "not_found")
        assert str(folder) in fault(reply)["message"]


def test_a_reply_that_breaks_off_ends_its_stream_with_an_error(tmp_path: Path) -> None:
    with scripted_server() as remote, served(tmp_path / "data", remote.url) as world:
        remote.answers = [Answer(stream("a ", "b ", reason=None, done=False), kind=STREAM)]
        chunks = iter(world.client().chat.completions.create(**world.asked(stream=True)))
        said = [next(chunks).choices[0].delta.content for _ in range(3)]
        with pytest.raises(openai.APIError, match="broke off"):
            next(chunks)
        assert said == ["", "a ", "b "]


@pytest.mark.anyio
async def test_more_replies_than_can_be_made_are_told_to_come_again() -> None:
    replies, may_go_on = Replies(1), threading.Event()

    def slow() -> Iterator[str]:
        may_go_on.wait()
        yield "a"

    first = replies.begin(slow)
    with pytest.raises(Busy, match="ask again"):
        replies.begin(lambda: iter(["b"]))
    may_go_on.set()
    assert [item async for item in first] == ["a"]
    assert [item async for item in replies.begin(lambda: iter(["c"]))] == ["c"]


# --- bodies and addresses -------------------------------------------------------------------------------------------

BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is none"),
    "no JSON": (b"{", "is none"),
    "no object": (b"[]", "one JSON object"),
    "no UTF-8": (b'{"model": "\xff"}', "is none"),
    "no number": (b'{"model": NaN}', "is none"),
    "a number without end": (b'{"model": ' + b"1" * 10_000 + b"}", "is none"),
    "a nest": (b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    "a smaller nest": (b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}", "required"),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_that_is_no_request_is_refused(world: World, what: str) -> None:
    body, words = BODIES[what]
    reply = world.post("/chat/completions", body)
    assert (reply.status, words in fault(reply)["message"]) == (400, True)


def test_a_body_without_end_is_refused(world: World) -> None:
    reply = world.post("/chat/completions", b" " * (MAX_BODY_BYTES + 1))
    assert (reply.status, "bytes" in fault(reply)["message"]) == (413, True)


def test_a_body_that_is_not_called_json_is_refused(world: World) -> None:
    reply = world.post("/chat/completions", world.asked(), Content_Type="text/plain")
    assert (reply.status, "Content-Type" in fault(reply)["message"]) == (415, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/completions", 404),
        ("GET", "/v1", 404),
        ("DELETE", "/v1/models/x", 404),
    ],
)
def test_an_address_or_a_method_that_is_not_there_is_refused(world: World, method: str, path: str, status: int) -> None:
    assert world.web.send(method, path).status == status
    assert fault(world.web.send(method, path))["code"] == ("method_not_allowed" if status == 405 else "unknown_url")


def test_an_unexpected_failure_goes_to_the_log_and_tells_the_client_its_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import anyio
    import httpx2

    from memos_mcp.openai_api.routes import _edge

    async def fails(request: Any) -> Any:
        raise ZeroDivisionError(SECRET)

    app = Starlette(routes=[Route("/v1/x", _edge(fails))])

    async def ask() -> Any:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://here") as client:
            return await client.get("/v1/x")

    reply = anyio.run(ask)
    assert reply.status_code == 500
    assert SECRET not in reply.text
    (report,) = [word for word in reply.json()["error"]["message"].split() if word.endswith(":")]
    assert report.rstrip(":") in caplog.text


# --- embeddings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2, 3]]}, "input"),
        ({"input": ["a", " "]}, "input"),
        ({"input": "x" * 200_001}, "input"),
        ({"input": ["a"] * 2_049}, "input"),
        ({"input": "\ud800"}, "input[0]"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_embedded_is_refused(world: World, more: dict[str, Any], param: str) -> None:
    reply = world.post("/embeddings", {"model": "any", "input": QUESTION, **more})
    assert (reply.status, fault(reply)["param"]) == (400, param)


def test_without_an_embedder_there_are_no_embeddings(world: World) -> None:
    reply = world.post("/embeddings", {"model": "any", "input": QUESTION})
    assert (reply.status, fault(reply)["code"]) == (503, "unavailable")
