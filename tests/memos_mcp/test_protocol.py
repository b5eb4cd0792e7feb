"""What holds for every request: capabilities, progress, cancellation, subscriptions, and no detail of a failure."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client, MCPError

from engine.errors import Busy, Cancelled
from engine.memos import MemOS
from engine.operations import Action, Caller, Forget, Principal, Progress, Remember
from memos_mcp.connection import Connection, current_connection
from memos_mcp.server import INSTRUCTIONS, MemoryServer
from memos_mcp.service import Context
from tests.memos_mcp.serving import ERAS, SOON_S, VERSION, Era, Heard, connected, remember, server_of, store, text_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning"),  # handshake era
]

MAX_INSTRUCTIONS_BYTES = 2_048


def with_slow_tool(memos: MemOS, work: Callable[[Progress], None]) -> MemoryServer:
    """The real server, with one more tool that runs `work` as the real ones are run."""
    server = server_of(memos)

    async def call(ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        await ctx.lifespan_context.run(ctx, work)
        return types.CallToolResult(content=[types.TextContent(text="done")])

    server.add_request_handler("tools/call", types.CallToolRequestParams, call)
    return server


@pytest.mark.parametrize("era", ERAS)
async def test_the_server_says_what_it_is_and_what_changes_while_it_runs(memos: MemOS, era: Era) -> None:
    async with connected(memos, era) as client:
        capabilities, info = client.server_capabilities, client.server_info
        assert client.instructions == INSTRUCTIONS
    assert info is not None
    assert (info.name, info.version) == ("memos-mcp", VERSION)
    assert capabilities.tools == types.ToolsCapability(list_changed=False)
    assert capabilities.prompts == types.PromptsCapability(list_changed=False)
    assert capabilities.resources == types.ResourcesCapability(subscribe=True, list_changed=True)
    assert capabilities.completions is not None
    assert capabilities.logging is None


def test_the_instructions_fit_where_clients_cut_them() -> None:
    assert len(INSTRUCTIONS.encode()) <= MAX_INSTRUCTIONS_BYTES


@pytest.mark.parametrize("era", ERAS)
async def test_progress_comes_back_from_the_engine_s_thread_and_rises(memos: MemOS, era: Era) -> None:
    def work(progress: Progress) -> None:
        for done in range(1, 1_001):
            progress(done, 1_000, "counting")

    seen: list[tuple[float, float | None, str | None]] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total, message))

    async with Client(with_slow_tool(memos, work), mode=era) as client:
        await client.call_tool("slow", progress_callback=note)
    assert seen[0] == (1, 1_000, "counting")
    assert seen[-1] == (1_000, 1_000, "counting")
    assert [done for done, _, _ in seen] == sorted({done for done, _, _ in seen})
    assert len(seen) < 100


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancelled_call_ends_in_the_engine_s_thread_too(memos: MemOS, era: Era) -> None:
    started, ended = threading.Event(), threading.Event()

    def work(progress: Progress) -> None:
        try:
            while True:
                progress(0, None, "working")
                started.set()
        except Cancelled:
            ended.set()
            raise

    async with Client(with_slow_tool(memos, work), mode=era) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "slow")
            assert await anyio.to_thread.run_sync(started.wait, SOON_S)
            tasks.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(ended.wait, SOON_S)
        assert (await client.list_tools()).tools


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_leaves_stops_its_call(memos: MemOS, era: Era) -> None:
    started, ended = threading.Event(), threading.Event()

    def work(progress: Progress) -> None:
        try:
            while True:
                progress(0, None, "working")
                started.set()
        except Cancelled:
            ended.set()
            raise

    with anyio.CancelScope() as leaving:
        async with Client(with_slow_tool(memos, work), mode=era) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "slow")
            assert await anyio.to_thread.run_sync(started.wait, SOON_S)
            leaving.cancel()
    assert await anyio.to_thread.run_sync(ended.wait, SOON_S)


@pytest.mark.parametrize("era", ERAS)
async def test_an_unexpected_failure_shows_a_report_number_and_logs_the_rest(
    memos: MemOS, era: Era, caplog: pytest.LogCaptureFixture
) -> None:
    def work(progress: Progress) -> None:
        raise RuntimeError("the secret inner state")

    async with Client(with_slow_tool(memos, work), mode=era) as client:
        with caplog.at_level(logging.ERROR), pytest.raises(MCPError) as failure:
            await client.call_tool("slow")
        assert (await client.list_tools()).tools
    assert failure.value.code == types.INTERNAL_ERROR
    assert "secret" not in str(failure.value.error)
    report = failure.value.error.message.split()[2].strip(":")
    assert report in caplog.text
    assert "the secret inner state" in caplog.text


async def test_a_refusal_outside_tools_keeps_its_code(memos: MemOS) -> None:
    def work(progress: Progress) -> None:
        raise Busy("try again in a moment")

    async with Client(with_slow_tool(memos, work)) as client:
        with pytest.raises(MCPError, match="Busy: try again in a moment") as failure:
            await client.call_tool("slow")
    assert failure.value.error.data == {"code": "Busy"}


async def test_a_request_that_a_bridge_sends_again_is_answered_from_the_record(memos: MemOS) -> None:
    answers = []
    for _ in range(2):
        token = current_connection.set(Connection(session="session-1", client="editor"))
        try:
            async with connected(memos, "legacy") as client:
                answers.append(await client.call_tool("remember", {"content": "The door code is on the fridge."}))
        finally:
            current_connection.reset(token)
    assert answers[0].structured_content == answers[1].structured_content
    assert answers[0].structured_content["stored"][0]["status"] == "added"


@pytest.mark.parametrize("operation", ["", "x" * 500, "a\nb", 5, ["x"]])
async def test_an_operation_id_that_is_none_is_refused(memos: MemOS, operation: Any) -> None:
    async with connected(memos) as client:
        result = await client.call_tool("recall", {"query": "x"}, meta={"io.memos/operation": operation})
    assert result.is_error
    assert text_of(result).startswith("Invalid: 'io.memos/operation'")


# --- subscriptions ----------------------------------------------------------------------------------------------


async def test_a_legacy_subscriber_hears_of_its_addresses_and_of_new_cubes(memos: MemOS) -> None:
    heard = Heard()
    async with connected(memos, "legacy", message_handler=heard) as client:
        kept = await remember(client, "The red bicycle is in the shed.")
        await heard.until(lambda: heard.lists_changed == 1)
        memory, memories = f"memos://memories/{kept}", "memos://cubes/default/memories?kind=fact"
        await client.subscribe_resource(memory)
        await client.subscribe_resource(memories)
        memos.remember(Remember(content="The blue bicycle is lent out.", cube="other"), Caller())
        await heard.until(lambda: heard.lists_changed == 2)
        assert heard.updated == []
        memos.forget(Forget(ids=(kept,)), Caller())
        await heard.until(lambda: len(heard.updated) == 2)
        assert heard.updated == [memories, memory]
        await client.unsubscribe_resource(memory)
        memos.remember(Remember(content="The red bicycle is sold."), Caller())
        await heard.until(lambda: len(heard.updated) == 3)
    assert heard.updated == [memories, memory, memories]


async def test_subscribing_to_what_is_no_address_is_an_error(memos: MemOS) -> None:
    async with connected(memos, "legacy") as client:
        with pytest.raises(MCPError, match="Resource not found"):
            await client.subscribe_resource("file:///etc/passwd")


async def test_a_modern_listener_hears_only_what_it_asked_for(memos: MemOS) -> None:
    async with connected(memos) as client:
        kept = await remember(client, "The red bicycle is in the shed.")
        memory = f"memos://memories/{kept}"
        async with client.listen(resource_subscriptions=[memory]) as events:
            memos.remember(Remember(content="Something else.", cube="other"), Caller())
            memos.forget(Forget(ids=(kept,)), Caller())
            with anyio.fail_after(SOON_S):
                async for event in events:
                    assert event.uri == memory
                    break
        async with client.listen(resources_list_changed=True) as events:
            memos.remember(Remember(content="A third cube.", cube="third"), Caller())
            with anyio.fail_after(SOON_S):
                async for event in events:
                    assert "ListChanged" in type(event).__name__
                    break


async def test_nobody_hears_of_cubes_that_they_may_not_read(memos: MemOS) -> None:
    guest = Principal("guest", grants=(("team", (Action.READ,)),))
    memos.remember(Remember(content="Lunch is on Monday.", cube="team"), Caller())
    heard = Heard()
    token = current_connection.set(Connection(principal=guest))
    try:
        async with connected(memos, "legacy", message_handler=heard) as client:
            await client.subscribe_resource("memos://cubes/private/memories")
            await client.subscribe_resource("memos://cubes/team/memories")
            memos.remember(Remember(content="The safe is open.", cube="private"), Caller())
            memos.remember(Remember(content="Lunch is on Tuesday.", cube="team"), Caller())
            await heard.until(lambda: bool(heard.updated))
    finally:
        current_connection.reset(token)
    assert heard.updated == ["memos://cubes/team/memories"]
    assert heard.lists_changed == 0


async def test_ten_thousand_changes_are_told_as_few(tmp_path: Path) -> None:
    heard = Heard()
    with store(tmp_path / "busy") as memos:
        async with connected(memos, "legacy", message_handler=heard) as client:
            await client.subscribe_resource("memos://cubes/default/memories")

            def burst() -> None:
                for number in range(200):
                    memos.remember(Remember(content=f"Parcel {number} weighs {number} grams."), Caller())

            await anyio.to_thread.run_sync(burst)
            await heard.until(lambda: bool(heard.updated))
    assert 1 <= len(heard.updated) <= 200
