"""Chat completions as the official client has them: whole, streamed, cancelled; from memory or without."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.memos_mcp.model_server import model_server
from tests.memos_mcp.openai_world import ANSWER, FACTS, ME, QUESTION, World, endless, no_reply_is_made, served, user
from tests.memos_mcp.processes import until

AT_ONCE = 8
ENDLESS_TOKENS = 30_000  # a minute or more
PREFILLED_FOR_MINUTES = 60_000  # words
DRAWN: dict[str, Any] = {"temperature": 2, "seed": 1}  # many different words
FOREVER: dict[str, Any] = {"max_tokens": ENDLESS_TOKENS, **DRAWN}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, latest_wins: Path) -> Iterator[World]:
    with served(tmp_path_factory.mktemp("openai") / "data", str(latest_wins)) as opened:
        for fact in FACTS.values():
            opened.remember(fact)
        opened.remember("the city of alice is tokyo", cube="other")
        yield opened


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory, latest_wins: Path) -> Iterator[World]:
    """Served with a model that goes on and on."""
    folder = tmp_path_factory.mktemp("endless")
    with served(folder / "data", str(endless(latest_wins, folder / "model"))) as opened:
        yield opened


def chunks(reply: str) -> list[Any]:
    events = [line.removeprefix("data: ") for line in reply.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


# --- from memory, or without ----------------------------------------------------------------------------------------


def test_a_reply_comes_from_memory_and_names_what_it_was_made_from(world: World) -> None:
    reply = world.client().chat.completions.create(**world.asked(), extra_body={"memory": {"cube": "default"}})
    assert reply.choices[0].message.content == ANSWER
    assert reply.choices[0].finish_reason == "stop"
    memory = reply.model_extra["memory"]
    assert {"used", "tier", "ttft_ms", "prompt_tokens", "reused_tokens", "recomputed_tokens", "remarks"} <= set(memory)
    contents = {id: world.memos.memory(id, ME).memory.content for id in memory["used"]}
    assert FACTS["alice"] in contents.values()
    assert set(memory["forms"]) == set(memory["used"])
    assert memory["ttft_ms"] > 0
    assert reply.usage.prompt_tokens == memory["prompt_tokens"] > 0
    assert reply.usage.prompt_tokens_details.cached_tokens == memory["reused_tokens"]
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_without_the_field_memory_is_not_used(world: World) -> None:
    reply = world.client().chat.completions.create(**world.asked())
    assert reply.choices[0].message.content == "unknown"
    assert reply.model_extra["memory"]["used"] == []
    assert reply.model_extra["memory"]["tier"] == "none"


def test_the_cubes_that_are_named_are_those_that_are_used(world: World) -> None:
    reply = world.client().chat.completions.create(**world.asked(), extra_body={"memory": {"cubes": ["other"]}})
    assert reply.choices[0].message.content == "tokyo"


def test_only_so_many_memories_are_recalled_as_asked_for(world: World) -> None:
    memory = {"cube": "default", "limit": 1, "tiers": ["text"]}
    reply = world.client().chat.completions.create(**world.asked(), extra_body={"memory": memory})
    assert len(reply.model_extra["memory"]["used"]) == 1
    assert reply.model_extra["memory"]["tier"] == "text"


def test_what_the_conversation_says_is_read_with_all_its_roles_and_parts(world: World) -> None:
    parts = [{"type": "text", "text": "the city of"}, {"type": "text", "text": "alice is rome"}]
    messages = [
        {"role": "system", "content": ""},
        {"role": "developer", "content": parts},
        {"role": "user", "content": "hello", "name": "me"},
        {"role": "assistant", "content": "hi", "refusal": None, "annotations": [], "tool_calls": None},
        user(QUESTION),
    ]
    reply = world.client().chat.completions.create(**{**world.asked(), "messages": messages})
    assert reply.choices[0].message.content == "rome"


def test_a_reply_ends_at_its_bound_and_at_stop_strings(talker: World) -> None:
    client = talker.client()
    cut = client.chat.completions.create(**talker.asked(max_completion_tokens=3))
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 3)
    words = client.chat.completions.create(**talker.asked(max_tokens=40, **DRAWN)).choices[0].message.content.split(" ")
    stop = next(word for word in words[2:] if word not in words[:2])
    for given in (stop, ["zzz", stop]):
        ended = client.chat.completions.create(**talker.asked(max_tokens=40, stop=given, **DRAWN))
        assert ended.choices[0].finish_reason == "stop"
        assert stop not in ended.choices[0].message.content
        assert " ".join(words).startswith(ended.choices[0].message.content)


def test_a_seed_makes_a_drawn_reply_come_again(talker: World) -> None:
    drawn = [
        talker.client().chat.completions.create(**talker.asked(max_tokens=12, temperature=2, seed=seed))
        for seed in (1, 1, 2)
    ]
    first, again, other = (reply.choices[0].message.content for reply in drawn)
    assert first == again != other


# --- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_is_the_whole_reply_in_openais_chunks(world: World) -> None:
    reply = world.post("/chat/completions", world.asked(stream=True, memory={"cube": "default"}))
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, *said, last = chunks(reply.text)
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    assert first["choices"] == [{**choice, "delta": {"role": "assistant", "content": "", "refusal": None}}]
    assert [chunk["choices"] for chunk in said] == [[{**choice, "delta": {"content": ANSWER}}]]
    assert last["choices"] == [{**choice, "delta": {}, "finish_reason": "stop"}]
    assert last["memory"]["used"]
    assert all("usage" not in chunk for chunk in (first, *said, last))
    assert not any("memory" in chunk for chunk in (first, *said))
    kinds = {(chunk["object"], chunk["id"], chunk["created"], chunk["model"]) for chunk in (first, *said, last)}
    assert len(kinds) == 1
    assert first["object"] == "chat.completion.chunk"
    assert first["system_fingerprint"].startswith("fp_")


def test_usage_comes_last_when_it_is_asked_for(world: World) -> None:
    asked = world.asked(stream=True, stream_options={"include_usage": True})
    *earlier, last = world.client().chat.completions.create(**asked)
    assert [chunk.usage for chunk in earlier] == [None] * len(earlier)
    assert earlier[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens > 0
    assert last.model_extra["memory"]["prompt_tokens"] == last.usage.prompt_tokens


@pytest.mark.anyio
async def test_the_asynchronous_client_streams_too(world: World) -> None:
    async with world.async_client() as client:
        stream = await client.chat.completions.create(**world.asked(stream=True, extra_body={"memory": {}}))
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(said) in (ANSWER, "tokyo")  # both cubes are read, and tell different things


def test_the_clients_own_helper_for_streams_puts_the_reply_together(world: World) -> None:
    with world.client().chat.completions.stream(**world.asked(extra_body={"memory": {"cube": "default"}})) as stream:
        whole = stream.get_final_completion()
    assert whole.choices[0].message.content == ANSWER


# --- leaving --------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_closed_ends_its_reply(talker: World) -> None:
    stream = talker.client().chat.completions.create(**talker.asked(stream=True, **FOREVER))
    assert len(list(islice(stream, 5))) == 5
    left = time.monotonic()
    stream.close()
    no_reply_is_made()
    assert time.monotonic() - left < ENDLESS_TOKENS * 0.5e-3  # no model here makes a token in less than half a ms
    assert talker.client().chat.completions.create(**talker.asked(max_tokens=2)).usage.completion_tokens == 2


def test_a_client_that_does_not_wait_for_its_whole_reply_ends_it(talker: World) -> None:
    with pytest.raises(openai.APITimeoutError):
        talker.client().with_options(timeout=1).chat.completions.create(**talker.asked(max_tokens=ENDLESS_TOKENS))
    no_reply_is_made()


def test_a_client_that_leaves_in_the_midst_of_a_long_prefill_ends_it(talker: World) -> None:
    with pytest.raises(openai.APITimeoutError):
        talker.client().with_options(timeout=1).chat.completions.create(
            **talker.asked("paris " * PREFILLED_FOR_MINUTES)
        )
    no_reply_is_made()


def test_a_reply_of_a_server_elsewhere_is_left_too(tmp_path: Path) -> None:
    with model_server() as remote, served(tmp_path / "data", remote.url) as world:
        stream = world.client().chat.completions.create(**world.asked("go on", stream=True))
        assert len(list(islice(stream, 5))) == 5
        stream.close()
        until(remote.left.is_set, "the end of the request to the model")
        no_reply_is_made()


def test_who_waits_for_a_reply_when_the_server_ends_is_told_so(tmp_path: Path, latest_wins: Path) -> None:
    with ExitStack() as closed_later:
        with served(tmp_path / "data", str(endless(latest_wins, tmp_path / "model"))) as world:
            client = closed_later.enter_context(openai.OpenAI(base_url=f"{world.web.url}/v1", api_key="any"))
            stream = client.chat.completions.create(**world.asked(stream=True, **FOREVER))
            next(stream)
        with pytest.raises(openai.APIError, match="the server is ending"):
            list(stream)


def test_memory_reaches_a_model_by_url_as_text_and_that_is_said(tmp_path: Path) -> None:
    with model_server() as remote, served(tmp_path / "data", remote.url) as world:
        kept = world.remember(FACTS["alice"])
        reply = world.client().chat.completions.create(**world.asked(), extra_body={"memory": {}})
        assert FACTS["alice"] in reply.choices[0].message.content
        assert reply.model_extra["memory"]["used"] == [kept]
        assert reply.model_extra["memory"]["tier"] == "text"
        assert any("text only" in remark for remark in reply.model_extra["memory"]["remarks"])
        assert FACTS["alice"] in remote.last_prompt


# --- many at once ---------------------------------------------------------------------------------------------------


def test_many_replies_at_once_are_all_right_and_hold_nothing_else_up(world: World) -> None:
    questions = {"what is the city of alice ?": "paris", "what is the pet of bob ?": "cat"}
    asked = [list(questions)[number % 2] for number in range(AT_ONCE)]

    def ask(question: str) -> str:
        client = world.client()
        stream = client.chat.completions.create(
            **world.asked(question, stream=True), extra_body={"memory": {"cube": "default"}}
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        replies = list(threads.map(ask, asked))
    assert replies == [questions[question] for question in asked]


def test_other_requests_are_answered_while_long_replies_are_made(talker: World) -> None:
    client = talker.client()
    asked = talker.asked(stream=True, **FOREVER)
    streams = [client.chat.completions.create(**asked) for _ in range(AT_ONCE)]
    assert talker.web.send("GET", "/health").status == 200
    assert client.models.list().data[0].id == talker.model
    for stream in streams:
        stream.close()
    no_reply_is_made()
