"""Toolsets: which tools a connection gets, how it asks for them, and what listing them costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.memos import MemOS
from memos_mcp.server import Servers
from memos_mcp.tools import TOOLSETS
from tests.memos_mcp.processes import Assistant, daemon_gone_after, daemons_so_far, environment
from tests.memos_mcp.serving import ERAS, VERSION, Era, connected_to

CORE = ["remember", "recall", "forget", "fuse"]
LIFECYCLE = ["history", "restore", "snapshot", "govern", "move"]
CUBES = ["create_cube", "share_cube", "pack_cube", "install_cube"]
LOCAL = ["ask"]
MAX_CORE_BYTES = 7_000
MAX_TOOLSET_BYTES = 6_000  # of each of the others: what every conversation that has it pays


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    with daemon_gone_after(tmp_path / "data") as folder:
        yield folder


def tools_of(assistant: Assistant) -> list[str]:
    return [tool["name"] for tool in assistant.ask("tools/list")["result"]["tools"]]


def test_each_connection_to_one_daemon_has_the_toolsets_that_it_asked_for(data: Path) -> None:
    with (
        Assistant(data) as plain,
        Assistant(data, MEMOS_TOOLSETS="core, lifecycle") as by_variable,
        Assistant(data, [sys.executable, "-m", "memos_mcp", "--toolsets", "cubes,core"]) as by_option,
    ):
        assert tools_of(plain.start()) == CORE
        assert tools_of(by_variable.start()) == CORE + LIFECYCLE
        assert tools_of(by_option.start()) == CORE + CUBES
        kept = by_option.remember("The tower clock is ten minutes slow.")["id"]
        history = by_variable.tool("history", id=kept)
        assert [row["content"] for row in history["versions"]] == ["The tower clock is ten minutes slow."]
        assert daemons_so_far(data) == 1


def test_a_connection_keeps_its_toolsets_when_the_daemon_is_replaced(data: Path) -> None:
    with Assistant(data, MEMOS_TOOLSETS="lifecycle") as assistant:
        assert tools_of(assistant.start()) == LIFECYCLE
        subprocess.run([sys.executable, "-m", "memos_mcp", "stop"], env=environment(data), check=True)
        assert tools_of(assistant) == LIFECYCLE
    assert daemons_so_far(data) == 2


def test_a_toolset_that_does_not_exist_is_named_to_the_client(data: Path) -> None:
    with Assistant(data, MEMOS_TOOLSETS="core,everything") as assistant:
        answer = assistant.ask(
            "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "t", "version": "1"}
        )
        assert "no toolset 'everything': use one or more of core, lifecycle, cubes, local" in answer["error"]["message"]


def test_serving_with_a_toolset_that_does_not_exist_ends_at_once(data: Path) -> None:
    command = [sys.executable, "-m", "memos_mcp", "serve", "--port", "0", "--toolsets", "everything"]
    done = subprocess.run(command, env=environment(data), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no toolset 'everything'" in done.stderr


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
class TestTools:
    async def test_every_tool_has_a_title_hints_and_schemas_that_name_its_arguments(
        self, memos: MemOS, era: Era
    ) -> None:
        async with connected_to(memos, tuple(TOOLSETS), era) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == CORE + LIFECYCLE + CUBES + LOCAL
        for toolset in TOOLSETS.values():
            for tool in toolset:
                listed = tools[tool.name]
                assert listed.title
                assert listed.output_schema is not None
                assert listed.annotations is not None
                hints = listed.annotations
                assert None not in (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint)
                assert hints.open_world_hint is False
                assert list(listed.input_schema["properties"]) == list(tool.input_model.model_fields)
                assert listed.input_schema["additionalProperties"] is False

    async def test_listing_a_toolset_stays_within_its_bytes(self, memos: MemOS, era: Era) -> None:
        for name in TOOLSETS:
            async with connected_to(memos, (name,), era) as client:
                listed = (await client.list_tools()).model_dump(by_alias=True, exclude_none=True, mode="json")
            size = len(json.dumps({"tools": listed["tools"]}, separators=(",", ":")).encode())
            assert size <= (MAX_CORE_BYTES if name == "core" else MAX_TOOLSET_BYTES), name


def test_servers_are_made_once_for_each_set_of_toolsets(memos: MemOS) -> None:
    servers = Servers(memos, ("core",), version=VERSION)
    assert servers.with_toolsets(()) is servers.usual
    assert servers.with_toolsets(("cubes", "core")) is servers.with_toolsets(("core", "cubes"))
