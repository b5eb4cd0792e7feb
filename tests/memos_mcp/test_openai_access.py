"""Who may use the OpenAI-compatible endpoint, and whose memory a reply is made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
import pytest

from engine.operations import Caller
from memos_mcp.auth import create_token, revoke_token
from memos_mcp.transports import HttpSettings
from tests.memos_mcp.openai_world import ANSWER, World, served

NOW = datetime.now(UTC)
PEOPLE = {"ann": "rome", "ben": "berlin", "cleo": "london", "dan": "tokyo"}  # what each was told of alice
ASKED_EACH = 2


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, latest_wins: Path) -> Iterator[World]:
    """Served as on an address that other machines reach; each person has a cube."""
    settings = HttpSettings(port=0, require_token=True)
    with served(tmp_path_factory.mktemp("openai") / "data", str(latest_wins), settings=settings) as opened:
        for person, city in PEOPLE.items():
            opened.remember(f"the city of alice is {city}", cube=person)
        yield opened


@pytest.fixture(scope="module")
def keys(guarded: World) -> dict[str, str]:
    """A token for each person, which reads that person's cube alone."""
    return {person: create_token(guarded.folder, person, NOW, scopes=[f"read:{person}"]) for person in PEOPLE}


@pytest.fixture(scope="module")
def open_world(tmp_path_factory: pytest.TempPathFactory, latest_wins: Path) -> Iterator[World]:
    with served(tmp_path_factory.mktemp("openai") / "data", str(latest_wins)) as opened:
        opened.remember(f"the city of alice is {ANSWER}")
        yield opened


def said(world: World, key: str, **memory: Any) -> Any:
    return world.client(key).chat.completions.create(**world.asked(), extra_body={"memory": memory})


# --- the gate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/models", "/chat/completions", "/embeddings", "/anything"])
@pytest.mark.parametrize("sent", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic abc"}])
def test_without_a_token_nobody_is_let_in_and_is_told_so_in_openais_shape(
    guarded: World, path: str, sent: dict[str, str]
) -> None:
    reply = guarded.post(path, guarded.asked(), **sent)
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    fault = json.loads(reply.text)["error"]
    assert (fault["type"], fault["code"], fault["param"]) == ("authentication_error", "invalid_api_key", None)
    assert "nonsense" not in reply.text


def test_the_client_knows_that_its_key_is_wrong(guarded: World) -> None:
    for ask in (lambda client: client.models.list(), lambda client: client.chat.completions.create(**guarded.asked())):
        with pytest.raises(openai.AuthenticationError, match="access token"):
            ask(guarded.client("memos_wrong"))


def test_other_paths_are_refused_as_ever(guarded: World) -> None:
    assert json.loads(guarded.web.send("POST", "/mcp", b"{}").text)["error"]["code"] == "NotAllowed"


@pytest.mark.parametrize(("headers", "status"), [({"Host": "evil.example"}, 421), ({"Origin": "http://evil"}, 403)])
def test_another_host_or_origin_is_refused_in_openais_shape(
    open_world: World, headers: dict[str, str], status: int
) -> None:
    reply = open_world.web.send("GET", "/v1/models", **headers)
    assert (reply.status, json.loads(reply.text)["error"]["type"]) == (status, "invalid_request_error")


def test_on_this_machine_any_key_will_do_as_clients_insist_on_one(open_world: World) -> None:
    assert said(open_world, "sk-none", cube="default").choices[0].message.content == ANSWER


def test_a_token_counts_on_this_machine_too(open_world: World) -> None:
    key = create_token(open_world.folder, "narrow", NOW, scopes=["read:elsewhere"])
    with pytest.raises(openai.NotFoundError, match="default"):
        said(open_world, key, cube="default")
    revoke_token(open_world.folder, "narrow")
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        said(open_world, key, cube="default")


# --- the model's name -----------------------------------------------------------------------------------------------


def test_a_folders_path_is_shown_to_the_owner_alone_and_both_names_are_taken(
    guarded: World, open_world: World, keys: dict[str, str]
) -> None:
    path, short = guarded.model, Path(guarded.model).name
    bearer = {"Authorization": f"Bearer {keys['ann']}"}
    for name in (path, short):
        answers = [
            guarded.web.send("GET", "/v1/models", **bearer),
            guarded.web.send("GET", f"/v1/models/{quote(name, safe='')}", **bearer),
            guarded.web.send("GET", "/v1/models/other", **bearer),
            guarded.post("/chat/completions", {**guarded.asked(), "model": name}, **bearer),
            guarded.post("/chat/completions", {**guarded.asked(), "model": name, "stream": True}, **bearer),
            guarded.post("/chat/completions", {**guarded.asked(), "model": "other"}, **bearer),
            guarded.post("/chat/completions", {**guarded.asked("paris " * 9_000), "model": name}, **bearer),
        ]
        assert [answer.status for answer in answers] == [200, 200, 404, 200, 200, 404, 400]
        assert all(short in answer.text and str(Path(path).parent) not in answer.text for answer in answers)
        client = open_world.client()
        assert client.models.retrieve(name).id == path
        assert client.chat.completions.create(**{**open_world.asked(), "model": name}).model == name
    assert [model.id for model in open_world.client().models.list()] == [path]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_cube_that_a_token_may_not_read_is_as_one_that_is_not_there(guarded: World, keys: dict[str, str]) -> None:
    messages = []
    for cube in ("ben", "attic"):
        with pytest.raises(openai.NotFoundError) as refusal:
            said(guarded, keys["ann"], cubes=["ann", cube])
        messages.append(refusal.value.message.replace(cube, "…"))
    assert messages[0] == messages[1]


def test_many_people_at_once_hear_each_of_their_own_memory_only(guarded: World, keys: dict[str, str]) -> None:
    def ask(person: str) -> tuple[str, str, set[str]]:
        reply = said(guarded, keys[person])  # all that this token may read
        cubes = {guarded.memos.memory(id, Caller()).memory.cube for id in reply.model_extra["memory"]["used"]}
        return person, reply.choices[0].message.content or "", cubes

    with ThreadPoolExecutor(len(PEOPLE) * ASKED_EACH) as threads:
        replies = list(threads.map(ask, list(PEOPLE) * ASKED_EACH))
    assert replies == [(person, PEOPLE[person], {person}) for person in list(PEOPLE) * ASKED_EACH]


def test_a_token_of_the_whole_store_reads_what_its_grants_allow(guarded: World) -> None:
    key = create_token(guarded.folder, "reader", NOW, scopes=["read"])
    assert said(guarded, key, cube="ann").choices[0].message.content == PEOPLE["ann"]
