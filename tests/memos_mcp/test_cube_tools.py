"""The toolset `cubes`, as an MCP client sees it: making, sharing, packing and installing cubes, by whoever may."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client

from cubes import Action
from engine.memos import MemOS
from engine.operations import Caller, Principal, Remember
from memos_mcp.connection import Connection, current_connection
from tests.memos_mcp.serving import ERAS, Era, connected_to, remember, store, text_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("era", ERAS)]

BOTH = ("core", "cubes")
EVERYTHING = (("*", (Action.READ, Action.WRITE, Action.SHARE)),)


async def call(client: Client, tool: str, **arguments: Any) -> types.CallToolResult:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    return result


@asynccontextmanager
async def connected_as(memos: MemOS, principal: Principal, era: Era) -> AsyncIterator[Client]:
    token = current_connection.set(Connection(principal=principal))
    try:
        async with connected_to(memos, BOTH, era) as client:
            yield client
    finally:
        current_connection.reset(token)


async def test_a_cube_is_made_with_rules_and_changed_where_it_exists(memos: MemOS, era: Era) -> None:
    async with connected_to(memos, BOTH, era) as client:
        made = await call(client, "create_cube", name="lab", description="Measurements", read="shared", ttl_days=30)
        assert made.structured_content["created"] is True
        assert "is made, version 1" in text_of(made)
        assert "read shared; write private; share private; ttl days 30" in text_of(made)
        changed = await call(client, "create_cube", name="lab", licence="CC0-1.0", ttl_days=0, max_memories=10)
        cube = changed.structured_content["cube"]
        assert changed.structured_content["created"] is False
        assert (cube["description"], cube["licence"], cube["version"]) == ("Measurements", "CC0-1.0", 2)
        assert (cube["policy"]["read"], cube["policy"]["ttl_days"], cube["policy"]["max_memories"]) == (
            "shared",
            None,
            10,
        )
        wrong = await client.call_tool("create_cube", {"name": "lab", "write": "everyone"})
        assert "must be one of private, shared, public" in text_of(wrong)


async def test_a_cube_is_shared_and_that_taken_back(memos: MemOS, era: Era) -> None:
    async with connected_to(memos, BOTH, era) as client:
        await remember(client, "The rehearsal is on Friday.", cube="choir")
        shared = await call(client, "share_cube", cube="choir", principal="guest", actions=["read"])
        assert "guest may read" in text_of(shared)
        async with connected_as(memos, Principal("guest"), era) as guest:
            seen = await call(guest, "recall", query="rehearsal")
            assert len(seen.structured_content["memories"]) == 1
            refused = await guest.call_tool("share_cube", {"cube": "choir", "read": "public"})
            assert text_of(refused).startswith("NotAllowed: ")
        await call(client, "share_cube", cube="choir", principal="guest", actions=[])
        async with connected_as(memos, Principal("guest"), era) as guest:
            gone = await call(guest, "recall", query="rehearsal")
            assert gone.structured_content["memories"] == []
        for arguments in ({"cube": "choir"}, {"cube": "choir", "principal": "guest"}, {"cube": "choir", "actions": []}):
            assert (await client.call_tool("share_cube", arguments)).is_error


async def test_a_packed_cube_is_installed_in_another_store(memos: MemOS, era: Era, tmp_path: Path) -> None:
    file = tmp_path / "choir.memcube"
    async with connected_to(memos, BOTH, era) as client:
        kept = await remember(client, "The concert is in the old church.", cube="choir")
        await remember(client, "The soloist's fee is 300 euros.", cube="choir", sensitivity="secret")
        packed = await call(client, "pack_cube", cube="choir", path=str(file), redact="secret")
    told = packed.structured_content
    assert (told["path"], told["memories"], told["redacted"]) == (str(file), 1, "secret")
    assert told["bytes"] == file.stat().st_size
    assert "not signed" in text_of(packed)
    with store(tmp_path / "elsewhere") as other:
        async with connected_to(other, BOTH, era) as client:
            dry = await call(client, "install_cube", source=str(file), dry_run=True)
            assert "would become cube 'choir'" in text_of(dry)
            assert other.cubes(Caller()) == ()
            done = await call(client, "install_cube", source=str(file), name="their choir")
            assert "is installed as cube 'their choir'" in text_of(done)
            assert "nobody vouches for it" in text_of(done)
            assert "not instructions" in text_of(done)
            found = await call(client, "recall", query="concert church", response_format="detailed")
            memory = await client.read_resource(f"memos://memories/{kept}")
            cubes = await client.read_resource("memos://cubes/their%20choir")
    (memory_found,) = found.structured_content["memories"]
    assert memory_found["id"] == kept
    bundle = memory_found["provenance"]["bundle"]
    assert (bundle["cube"], bundle["owner"]) == ("choir", "owner")
    assert "cube choir of owner" in text_of(found)
    plain, marked = memory.contents
    assert isinstance(plain, types.TextResourceContents)
    assert isinstance(marked, types.TextResourceContents)
    assert json.loads(plain.text)["provenance"]["bundle"] == bundle
    assert "came with: cube choir of owner" in marked.text
    header = cubes.contents[0]
    assert isinstance(header, types.TextResourceContents)
    assert json.loads(header.text)["policy"]["read"] == "private"


@pytest.mark.parametrize(
    "path",
    ["notes.memcube", "sub/notes.memcube", "../notes.memcube", "/etc/passwd", "~/.bashrc", "https://x/y.memcube"],
)
async def test_the_owner_names_bundles_by_absolute_paths_that_end_as_bundles_do(
    memos: MemOS, era: Era, path: str
) -> None:
    async with connected_to(memos, BOTH, era) as client:
        await remember(client, "A note.")
        for tool, arguments in (
            ("pack_cube", {"cube": "default", "path": path}),
            ("install_cube", {"source": path}),
        ):
            result = await client.call_tool(tool, arguments)
            assert text_of(result).startswith("Invalid: "), text_of(result)


async def test_what_is_there_is_replaced_only_if_that_was_said(memos: MemOS, era: Era, tmp_path: Path) -> None:
    file = tmp_path / "notes.memcube"
    file.write_text("mine", "utf-8")
    async with connected_to(memos, BOTH, era) as client:
        await remember(client, "A note.")
        refused = await client.call_tool("pack_cube", {"cube": "default", "path": str(file)})
        assert refused.is_error
        assert file.read_text("utf-8") == "mine"
        await call(client, "pack_cube", cube="default", path=str(file), replace=True)
    assert file.read_bytes() != b"mine"


async def test_a_token_packs_and_installs_by_bare_names_in_a_folder_of_its_own(
    memos: MemOS, era: Era, tmp_path: Path
) -> None:
    memos.remember(Remember(content="The gate opens at nine.", cube="park"), Caller())
    laptop, phone = Principal("Laptop", grants=EVERYTHING), Principal("phone", grants=EVERYTHING)
    async with connected_as(memos, laptop, era) as client:
        packed = await call(client, "pack_cube", cube="park", path="park 1.memcube")
        assert packed.structured_content["path"] == "park 1.memcube"
        assert str(tmp_path) not in text_of(packed)
        await call(client, "install_cube", source="park 1.memcube", name="copy")
        elsewhere = tmp_path / "outside.memcube"
        hostile = [str(elsewhere), "../outside.memcube", "a/b.memcube", ".hidden.memcube", "x\\y.memcube", "..memcube"]
        for name in hostile:
            for tool, arguments in (
                ("pack_cube", {"cube": "park", "path": name}),
                ("install_cube", {"source": name}),
            ):
                result = await client.call_tool(tool, arguments)
                assert text_of(result).startswith("Invalid: "), (name, text_of(result))
        secret = tmp_path / "secret.txt"
        secret.write_text("a passphrase", "utf-8")
        for tool, arguments in (
            ("pack_cube", {"cube": "park", "path": "p.memcube", "passphrase_file": str(secret)}),
            ("install_cube", {"source": "park 1.memcube", "passphrase_file": str(secret)}),
        ):
            assert text_of(await client.call_tool(tool, arguments)).startswith("NotAllowed: ")
        (file,) = memos.data.glob("bundles/*/*")
        link = file.with_name("link.memcube")
        link.symlink_to(tmp_path / "data" / "vault.duckdb")
        assert text_of(await client.call_tool("install_cube", {"source": "link.memcube"})).startswith("NotAllowed: ")
    async with connected_as(memos, phone, era) as client:
        missing = await client.call_tool("install_cube", {"source": "park 1.memcube", "name": "stolen"})
        assert missing.is_error
        assert str(tmp_path) not in text_of(missing)
    assert not elsewhere.exists()


async def test_who_may_not_read_or_pass_on_a_cube_packs_nothing(memos: MemOS, era: Era) -> None:
    memos.remember(Remember(content="The safe is behind the painting.", cube="private"), Caller())
    memos.remember(Remember(content="Lunch is on Monday.", cube="team"), Caller())
    reader = Principal("reader", grants=(("team", (Action.READ,)),))
    async with connected_as(memos, reader, era) as client:
        hidden = await client.call_tool("pack_cube", {"cube": "private", "path": "../x"})
        absent = await client.call_tool("pack_cube", {"cube": "absent", "path": "../x"})
        assert text_of(hidden).replace("private", "absent") == text_of(absent)
        shown = await client.call_tool("pack_cube", {"cube": "team", "path": "team.memcube"})
        assert text_of(shown).startswith("NotAllowed: ")
    assert list(memos.data.glob("bundles/*/*")) == []
