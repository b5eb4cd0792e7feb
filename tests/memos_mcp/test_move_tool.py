"""The tool `move` of the toolset `lifecycle`, with the small trained model, as an MCP client sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import mcp_types as types
import pytest
import torch
from mcp import Client

from engine.memos import MemOS
from engine.operations import Caller, Remember
from engine.settings import NO_EMBEDDER, Settings
from tests.memos_mcp.serving import ERAS, Era, connected_to, text_of
from tests.models.fixtures import LATEST_WINS

ME = Caller()

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("era", ERAS)]


@pytest.fixture
def memos(tmp_path) -> Iterator[MemOS]:
    torch.set_num_threads(1)
    with MemOS.open(Settings(data=tmp_path / "data", embedder=NO_EMBEDDER, model=str(LATEST_WINS))) as opened:
        yield opened


def said(memos: MemOS, *names: str) -> list[str]:
    return [
        memos.remember(Remember(content=f"the city of {name} is paris .", cube="home"), ME).stored[0].id
        for name in names
    ]


async def move(client: Client, **arguments: object) -> types.CallToolResult:
    heard: list[str | None] = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        heard.append(message)

    result = await client.call_tool("move", arguments, progress_callback=on_progress)
    assert not result.is_error, text_of(result)
    assert bool(heard) == bool(result.structured_content["artifacts"] and arguments["to"] == "kv")
    return result


async def test_memories_are_moved_to_caches_and_back(memos: MemOS, era: Era) -> None:
    ids = said(memos, "alice", "bob")
    async with connected_to(memos, ("lifecycle",), era) as client:
        rehearsal = await move(client, to="kv", ids=ids, dry_run=True)
        assert rehearsal.structured_content["moved"] == ids
        assert "Nothing was changed" in text_of(rehearsal)
        assert memos.tiers("home", ME) == ()

        done = await move(client, to="kv", ids=ids)
        assert (done.structured_content["moved"], done.structured_content["skipped"]) == (ids, [])
        assert all(id in text_of(done) for id in ids)
        assert len(memos.tiers("home", ME)) == 2

        back = await move(client, to="plaintext", cube="home")
        assert sorted(back.structured_content["moved"]) == sorted(ids)
        assert back.structured_content["artifacts"] == 2
        assert memos.tiers("home", ME) == ()


async def test_a_training_goes_on_in_the_background_and_is_named(memos: MemOS, era: Era) -> None:
    ids = said(memos, "alice", "bob")
    async with connected_to(memos, ("lifecycle",), era) as client:
        done = await move(client, to="lora", ids=ids, background=True, reason="asked often")
        status = await client.read_resource("memos://status")
    work = done.structured_content["work"]
    assert done.structured_content["moved"] == []
    assert work in text_of(done)
    assert work in status.contents[0].text
    memos.cancel_work(work, ME)


async def test_what_is_skipped_is_said_with_its_reason(memos: MemOS, era: Era) -> None:
    (archived,) = said(memos, "alice")
    async with connected_to(memos, ("core", "lifecycle"), era) as client:
        await client.call_tool("forget", {"ids": [archived]})
        done = await move(client, to="kv", ids=[archived])
    assert done.structured_content["moved"] == []
    assert "archived" in done.structured_content["skipped"][0]["why"]
    assert "archived" in text_of(done)


async def test_a_request_that_is_none_is_refused_with_the_remedy(memos: MemOS, era: Era) -> None:
    async with connected_to(memos, ("lifecycle",), era) as client:
        for arguments, complaint in (
            ({"to": "kv"}, "exactly one of 'ids' and 'cube'"),
            ({"to": "kv", "ids": ["m_1"], "cube": "home"}, "exactly one"),
            ({"to": "disk", "cube": "home"}, "plaintext, kv, lora"),
            ({"to": "lora", "cube": "nowhere"}, "nowhere"),
        ):
            result = await client.call_tool("move", arguments)
            assert result.is_error
            assert complaint in text_of(result)


async def test_a_memory_says_in_which_tiers_it_is(memos: MemOS, era: Era) -> None:
    first, second = said(memos, "alice", "bob")
    async with connected_to(memos, ("lifecycle",), era) as client:
        await move(client, to="kv", ids=[first])
        moved = (await client.read_resource(f"memos://memories/{first}")).contents
        other = (await client.read_resource(f"memos://memories/{second}")).contents
        artifacts = (await client.read_resource("memos://cubes/home/artifacts")).contents
    (held,) = json.loads(moved[0].text)["tiers"]
    assert (held["tier"], held["state"]) == ("kv", "kept")
    assert f"also in: kv ({held['artifact']}: kept)" in moved[1].text
    assert json.loads(other[0].text)["tiers"] == []
    (artifact,) = json.loads(artifacts[0].text)["artifacts"]
    assert (artifact["id"], artifact["sources"]) == (held["artifact"], [{"id": first, "version": 1}])
