"""What one may not see, over the older transports, in notifications of both eras, and on the owner's own ways in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from cubes import Sensitivity
from engine.cube_operations import Govern, SetCube
from engine.operations import Forget, Mode, Remember
from memos_mcp.uris import OF_A_CUBE, OF_A_MEMORY, Place, spell
from tests.memos_mcp.access_voices import Served, one_of_each, serving_world
from tests.memos_mcp.access_world import COMMON, CUBES, LEVELS, ME, OPEN_TO_ALL, PRIVATE, word, words_of
from tests.memos_mcp.processes import Assistant, control, daemon_gone_after
from tests.memos_mcp.serving import SOON_S, Heard, store


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_world(tmp_path_factory.mktemp("matrix")) as found:
        yield found


# --- the older transports -------------------------------------------------------------------------------------------

LEGACY_NAMES = ("visitor", "sharer", "clerk")


@asynccontextmanager
async def legacy(served: Served, name: str, transport: str, heard: Heard | None = None) -> AsyncIterator[Any]:
    headers = {"Authorization": f"Bearer {served.tokens[name]}"}
    if transport == "sse":
        async with (
            sse_client(f"{served.web.url}/sse", headers=headers) as (read, write),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            yield session
    else:
        async with httpx2.AsyncClient(headers=headers, timeout=SOON_S) as web:
            streams = streamable_http_client(f"{served.web.url}/mcp", http_client=web, terminate_on_close=False)
            options = {} if heard is None else {"message_handler": heard}
            async with Client(streams, mode="legacy", **options) as client:
                yield client


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
@pytest.mark.parametrize("name", LEGACY_NAMES)
@pytest.mark.parametrize("transport", ["sse", "http"])
async def test_the_handshake_era_tells_no_more(served: Served, name: str, transport: str) -> None:
    hidden, heard = served.world.hidden_from(name), set[str]()
    async with legacy(served, name, transport) as client:
        answers: list[Any] = [await client.list_resources(), await client.list_tools(), await client.list_prompts()]
        for query in (COMMON, *(word(cube, "secret", "plain") for cube in CUBES)):
            asked = {"query": query, "limit": 50, "max_tokens": 50_000, "response_format": "detailed"}
            answers.append((query, await client.call_tool("recall", asked)))
        for uri in ("memos://cubes", "memos://status", *(spell(Place.MEMORIES, cube) for cube in CUBES)):
            try:
                answers.append((uri, await client.read_resource(uri)))
            except MCPError as error:
                answers.append((uri, error))
    for answer in answers:
        asked, told = answer if isinstance(answer, tuple) else ("", answer)
        leaked = (words_of(str(told)) & hidden) - words_of(str(asked))
        assert not leaked, (asked, leaked)
        heard |= words_of(str(told))
    assert {said for said in served.world.seen_by(name) if said.startswith("zz")} & heard


# --- notifications ----------------------------------------------------------------------------------------------------


def _commotion(served: Served, cube: str) -> list[str]:
    """Changes of all kinds that a principal who sees only normal memories must not hear of; their ids."""
    memos = served.memos
    secret = Sensitivity.SECRET
    new = memos.remember(Remember("A new secret.", cube=cube, sensitivity=secret), ME).stored[0].id
    memos.govern(Govern((new,), pinned=True), ME)
    memos.forget(Forget(ids=(new,)), ME)
    memos.restore(new, 1, ME)
    memos.forget(Forget(ids=(new,), mode=Mode.ERASE, confirmed=True), ME)
    private = memos.remember(Remember("A private note.", cube=PRIVATE), ME).stored[0].id
    memos.forget(Forget(ids=(private,), mode=Mode.ERASE, confirmed=True), ME)
    memos.set_cube(SetCube("zzhidden", description="Nobody is told."), ME)
    memos.delete_cube("zzhidden", ME)
    return [new, private]


def _every_address(served: Served) -> list[str]:
    cubes = [spell(place, cube) for cube in (*CUBES, "zzhidden") for place in OF_A_CUBE.values()]
    memories = [spell(place, id) for id in one_of_each(served.world) for place in OF_A_MEMORY.values()]
    return ["memos://cubes", "memos://status", *cubes, *memories]


SHOWN, SENTINEL = sorted(OPEN_TO_ALL)[:2]


@pytest.mark.anyio
async def test_a_modern_listener_hears_nothing_of_what_it_may_not_see(served: Served) -> None:
    headers = {"Authorization": f"Bearer {served.tokens['visitor']}"}
    async with httpx2.AsyncClient(headers=headers, timeout=SOON_S) as web:
        streams = streamable_http_client(f"{served.web.url}/mcp", http_client=web, terminate_on_close=False)
        async with (
            Client(streams) as client,
            client.listen(resource_subscriptions=_every_address(served), resources_list_changed=True) as events,
        ):
            await anyio.to_thread.run_sync(_commotion, served, SHOWN)
            (seen,) = (await anyio.to_thread.run_sync(_remember_openly, served)).stored
            told: list[str] = []
            with anyio.fail_after(SOON_S):
                async for event in events:
                    told.append(str(getattr(event, "uri", event)))
                    if told[-1] == spell(Place.MEMORIES, SENTINEL):
                        break
    served.memos.forget(Forget(ids=(seen.id,), mode=Mode.ERASE, confirmed=True), ME)
    mine = {spell(place, SENTINEL) for place in OF_A_CUBE.values()} | {"memos://cubes", "memos://status"}
    assert set(told) <= mine, told


def _remember_openly(served: Served) -> Any:
    return served.memos.remember(Remember("Everybody may know.", cube=SENTINEL), ME)


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_subscriber_of_the_handshake_era_hears_nothing_of_what_it_may_not_see(served: Served) -> None:
    heard, made = Heard(), []
    async with legacy(served, "visitor", "http", heard) as client:
        for uri in _every_address(served)[:80]:
            await client.subscribe_resource(uri)
        sentinel = spell(Place.MEMORIES, SENTINEL)
        # The standing stream opens beside the session: what happens before it is there is told to nobody.
        while sentinel not in heard.updated:
            made.append((await anyio.to_thread.run_sync(_remember_openly, served)).stored[0].id)
            with anyio.move_on_after(0.5):
                await heard.until(lambda: sentinel in heard.updated)
        heard.updated.clear()
        heard.lists_changed = 0
        await anyio.to_thread.run_sync(_commotion, served, SHOWN)
        served.memos.govern(Govern((made[0],), priority=2), ME)
        await heard.until(lambda: sentinel in heard.updated)
    for id in dict.fromkeys(made):
        served.memos.forget(Forget(ids=(id,), mode=Mode.ERASE, confirmed=True), ME)
    mine = {spell(place, SENTINEL) for place in OF_A_CUBE.values()} | {"memos://cubes", "memos://status"}
    assert set(heard.updated) <= mine
    assert heard.lists_changed == 0


# --- the owner --------------------------------------------------------------------------------------------------------


def test_the_owner_sees_everything_over_stdio_and_the_control_socket(tmp_path: Path) -> None:
    said = {level: word("stdio", level) for level in LEVELS}
    with store(tmp_path / "data") as memos:
        for level, mine in said.items():
            memos.remember(Remember(f"It is {mine}.", cube=PRIVATE, sensitivity=Sensitivity(level)), ME)
    with daemon_gone_after(tmp_path / "data") as data, Assistant(data) as assistant:
        assistant.start()
        read = assistant.ask("resources/read", uri=spell(Place.MEMORIES, PRIVATE))["result"]["contents"][0]["text"]
        found = json.dumps(assistant.tool("recall", query=" ".join(said.values())))
        for told in (read, found, json.dumps(control(data, "export", {}))):
            assert set(said.values()) <= words_of(told)
