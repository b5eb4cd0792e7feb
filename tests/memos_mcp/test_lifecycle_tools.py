"""The toolset `lifecycle`, as an MCP client sees it, in both eras."""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types
import pytest
from mcp import Client

from engine.memos import MemOS
from engine.operations import Caller
from engine.text.recalled import take_out
from tests.memos_mcp.serving import ERAS, Era, HandClock, connected_to, remember, text_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("era", ERAS)]

BOTH = ("core", "lifecycle")


async def call(client: Client, tool: str, **arguments: Any) -> types.CallToolResult:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    return result


async def contents(client: Client, query: str) -> list[str]:
    found = await call(client, "recall", query=query)
    return [memory["content"] for memory in found.structured_content["memories"]]


async def test_history_has_every_version_with_author_reason_and_content(memos: MemOS, era: Era) -> None:
    async with connected_to(memos, BOTH, era) as client:
        kept = await remember(client, "The gate code is on the fridge.")
        await call(client, "forget", ids=[kept], reason="the fridge was sold")
        result = await call(client, "history", id=kept)
    versions = result.structured_content["versions"]
    assert [(row["version"], row["author"], row["change"]) for row in versions] == [
        (1, "owner", "remember"),
        (2, "owner", "archive"),
    ]
    assert versions[1]["reason"] == "the fridge was sold"
    assert (result.structured_content["older"], result.structured_content["omitted"]) == (0, 0)
    rest, ids = take_out(text_of(result))
    assert (rest.strip(), ids) == ("", (kept,))
    assert "the fridge was sold" in text_of(result)


async def test_history_keeps_to_its_budget_and_says_what_it_left_out(memos: MemOS, era: Era) -> None:
    long = "The minutes of the meeting. " * 100
    async with connected_to(memos, BOTH, era) as client:
        kept = await remember(client, long.strip())
        await call(client, "forget", ids=[kept])
        await call(client, "restore", id=kept, version=1)
        tight = await call(client, "history", id=kept, max_tokens=1_000)
        newest = await call(client, "history", id=kept, limit=1)
    rows = tight.structured_content["versions"]
    assert [row["content"] is None for row in rows] == [True, True, False]
    assert tight.structured_content["omitted"] == 2
    assert "2 contents did not fit: raise max_tokens" in text_of(tight)
    assert [row["version"] for row in newest.structured_content["versions"]] == [3]
    assert newest.structured_content["older"] == 2


async def test_a_memory_is_restored_at_once(memos: MemOS, era: Era) -> None:
    async with connected_to(memos, BOTH, era) as client:
        kept = await remember(client, "The cellar key hangs by the door.")
        await call(client, "forget", ids=[kept])
        result = await call(client, "restore", id=kept, version=1, reason="it is needed after all")
        assert await contents(client, "cellar key") == ["The cellar key hangs by the door."]
    assert result.structured_content["restored"]["version"] == 3
    assert "it is version 3 now" in text_of(result)


async def test_a_cube_is_rolled_back_in_two_steps_and_that_can_be_undone(memos: MemOS, era: Era) -> None:
    async with connected_to(memos, BOTH, era) as client:
        before = await remember(client, "The choir meets on Mondays.")
        named = await call(client, "snapshot", cube="default", name="autumn", reason="before the new season")
        assert named.structured_content["made"]["name"] == "autumn"
        later = await remember(client, "The orchestra meets on Fridays.")
        await call(client, "forget", ids=[before])

        preview = await call(client, "restore", cube="default", to="autumn")
        assert preview.structured_content["rollback"]["done"] is False
        assert preview.structured_content["rollback"]["archived"] == [later]
        token = preview.structured_content["confirm"]
        assert token in text_of(preview)
        assert await contents(client, "orchestra") == ["The orchestra meets on Fridays."]

        done = await call(client, "restore", cube="default", to="autumn", confirm=token)
        assert done.structured_content["rollback"]["done"] is True
        assert await contents(client, "choir") == ["The choir meets on Mondays."]
        assert await contents(client, "orchestra") == []

        undo = done.structured_content["rollback"]["before"]
        assert undo in text_of(done)
        again = await call(client, "restore", cube="default", to=undo)
        await call(client, "restore", cube="default", to=undo, confirm=again.structured_content["confirm"])
        assert await contents(client, "orchestra") == ["The orchestra meets on Fridays."]


async def test_a_token_does_nothing_once_the_cube_has_changed_or_its_time_is_over(
    memos: MemOS, era: Era, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memos_mcp.tools import restore

    async with connected_to(memos, BOTH, era) as client:
        await remember(client, "The lake is frozen.")
        await call(client, "snapshot", cube="default", name="winter")
        await remember(client, "The ice is ten centimetres thick.")
        token = (await call(client, "restore", cube="default", to="winter")).structured_content["confirm"]
        await remember(client, "Skating is allowed again.")
        stale = await client.call_tool("restore", {"cube": "default", "to": "winter", "confirm": token})
        assert stale.is_error
        assert text_of(stale).startswith("Conflict: ")
        assert "nothing was changed" in text_of(stale)
        for wrong in ("r_0_00", "nonsense", token + "0", token.replace("r_", "x_")):
            refused = await client.call_tool("restore", {"cube": "default", "to": "winter", "confirm": wrong})
            assert text_of(refused).startswith("Conflict: ")
        monkeypatch.setattr(restore, "CONFIRM_MINUTES", -1)
        old = (await call(client, "restore", cube="default", to="winter")).structured_content["confirm"]
        late = await client.call_tool("restore", {"cube": "default", "to": "winter", "confirm": old})
        assert text_of(late).startswith("Expired: ")
        assert await contents(client, "skating") == ["Skating is allowed again."]


async def test_a_rollback_that_is_sent_again_gets_the_answer_that_it_had(memos: MemOS, era: Era) -> None:
    again = {"io.memos/operation": "op-1"}
    async with connected_to(memos, BOTH, era) as client:
        await remember(client, "The pond is deep.")
        await call(client, "snapshot", cube="default", name="summer")
        await remember(client, "The pond was drained.")
        token = (await call(client, "restore", cube="default", to="summer")).structured_content["confirm"]
        arguments = {"cube": "default", "to": "summer", "confirm": token}
        first = await client.call_tool("restore", arguments, meta=again)
        second = await client.call_tool("restore", arguments, meta=again)
        snapshots = (await call(client, "snapshot", cube="default")).structured_content["snapshots"]
    assert isinstance(first, types.CallToolResult)
    assert isinstance(second, types.CallToolResult)
    assert not second.is_error, text_of(second)
    assert first.structured_content == second.structured_content
    assert len(snapshots) == 2


async def test_a_dry_run_gives_no_token(memos: MemOS, era: Era) -> None:
    async with connected_to(memos, BOTH, era) as client:
        await remember(client, "The fair is in June.")
        await call(client, "snapshot", cube="default", name="spring")
        await remember(client, "The fair moved to July.")
        result = await call(client, "restore", cube="default", to="spring", dry_run=True)
    assert result.structured_content["confirm"] is None
    assert "Nothing was changed" in text_of(result)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"id": "m_1"}, "send 'id' with 'version'"),
        ({"cube": "default"}, "send 'id' with 'version'"),
        ({"id": "m_1", "version": 1, "cube": "default", "to": "x"}, "send 'id' with 'version'"),
        ({"id": "m_1", "version": 1, "dry_run": True}, "'dry_run' and 'confirm' go with 'cube'"),
        ({"cube": "default", "to": "no such moment"}, "NotFound"),
        ({"cube": "elsewhere", "to": "2026-11-01"}, "NotFound"),
    ],
)
async def test_what_cannot_be_restored_is_refused(
    memos: MemOS, era: Era, arguments: dict[str, Any], complaint: str
) -> None:
    async with connected_to(memos, BOTH, era) as client:
        await remember(client, "A note.")
        result = await client.call_tool("restore", arguments)
    assert result.is_error
    assert complaint in text_of(result)


async def test_snapshots_are_listed_and_their_names_let_go(memos: MemOS, era: Era, clock: HandClock) -> None:
    async with connected_to(memos, BOTH, era) as client:
        await remember(client, "A note.")
        for name in ("one", "two"):
            clock.pass_by(hours=1)
            await call(client, "snapshot", cube="default", name=name)
        listed = await call(client, "snapshot", cube="default")
        assert [row["name"] for row in listed.structured_content["snapshots"]] == ["one", "two"]
        dropped = await call(client, "snapshot", cube="default", name="one", drop=True)
        assert dropped.structured_content["dropped"] == "one"
        assert [row["name"] for row in dropped.structured_content["snapshots"]] == ["two"]
        for arguments in ({"cube": "default", "drop": True}, {"cube": "default", "reason": "why"}):
            assert (await client.call_tool("snapshot", arguments)).is_error
        resource = await client.read_resource("memos://cubes/default/snapshots")
    content = resource.contents[0]
    assert isinstance(content, types.TextResourceContents)
    assert json.loads(content.text)["snapshots"][0]["name"] == "two"


async def test_govern_sets_what_is_given_and_leaves_the_rest(memos: MemOS, era: Era) -> None:
    async with connected_to(memos, BOTH, era) as client:
        kept = await remember(client, "The will is with the notary.", tags=["papers"])
        held = await call(client, "govern", ids=[kept], pinned=True, sensitivity="secret", priority=3)
        (row,) = held.structured_content["memories"]
        assert (row["pinned"], row["frozen"], row["sensitivity"], row["priority"]) == (True, False, "secret", 3)
        assert row["tags"] == ["papers"]
        assert f"{kept} v{row['version']}: pinned; secret; priority 3; tags papers" in text_of(held)
        frozen = await call(client, "govern", ids=[kept], frozen=True, expires_in_days=30, tags=["law"])
        (row,) = frozen.structured_content["memories"]
        assert (row["pinned"], row["frozen"], row["tags"]) == (True, True, ["law"])
        assert row["expires_at"].startswith("2026-12-20")
        refused = await client.call_tool("forget", {"ids": [kept]})
        assert text_of(refused).startswith("Frozen: ")
        nothing = await client.call_tool("govern", {"ids": [kept]})
        assert "say what is to hold" in text_of(nothing)
    assert memos.memory(kept, Caller()).memory.governance.frozen


async def test_the_history_of_a_cube_is_that_of_its_header(memos: MemOS, era: Era) -> None:
    async with connected_to(memos, (*BOTH, "cubes"), era) as client:
        await call(client, "create_cube", name="lab", description="Measurements")
        await call(client, "create_cube", name="lab", description="Measurements of 2026", reason="a new year")
        result = await call(client, "history", cube="lab")
    assert [row["description"] for row in result.structured_content["versions"]] == [
        "Measurements",
        "Measurements of 2026",
    ]
    assert "because 'a new year'" in text_of(result)
