"""MCP over HTTP: both eras and SSE on one address, and who is let in."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.routing import Route

from engine.errors import Conflict, Corrupt, Expired, Invalid, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import MAX_TURN_CHARS, Caller, Remember
from memos_mcp.auth import FILE, TokenFile, create_token, list_tokens, revoke_token
from memos_mcp.transports import LOOPBACK, HttpSettings, check_bind, is_loopback
from tests.memos_mcp.serving import ERAS, SOON_S, START, VERSION, Era, HandClock, Heard, remember, server_of
from tests.memos_mcp.web import BOTH, LATEST_LEGACY, Reply, Web, serving_app, serving_http

MAX_LIST_BYTES = 7_000
INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": LATEST_LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def web(memos: MemOS, folder: Path, clock: HandClock) -> Iterator[Web]:
    with serving_http(memos, folder, clock=clock) as served:
        yield served


@pytest.fixture
def guarded(memos: MemOS, folder: Path, clock: HandClock) -> Iterator[Web]:
    """Served as on an address that other machines reach."""
    with serving_http(memos, folder, HttpSettings(port=0, require_token=True), clock) as served:
        yield served


def initialize(web: Web, **headers: str) -> Reply:
    usual = {"Content_Type": "application/json", "Accept": BOTH}
    return web.send("POST", "/mcp", json.dumps(INITIALIZE).encode(), **{**usual, **headers})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- what is served ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_both_eras_remember_and_recall_on_one_address(web: Web, era: Era) -> None:
    async with Client(f"{web.url}/mcp", mode=era) as client:
        kept = await remember(client, "The kiln reaches 1,280 degrees.")
        found = await client.call_tool("recall", {"query": "How hot is the kiln?"})
    assert [memory["id"] for memory in found.structured_content["memories"]] == [kept]


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_a_person_is_asked_over_http_too(web: Web, era: Era) -> None:
    questions = []

    async def agree(context: Any, params: Any) -> types.ElicitResult:
        questions.append(params.message)
        return types.ElicitResult(action="accept", content={})

    async with Client(f"{web.url}/mcp", mode=era, elicitation_callback=agree) as client:
        kept = await remember(client, "The spare key is under the third stone.")
        result = await client.call_tool("forget", {"ids": [kept], "mode": "erase"})
    assert result.structured_content["forgotten"] == [{"id": kept, "mode": "erase"}]
    assert len(questions) == 1


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_legacy_subscriber_hears_over_http(web: Web) -> None:
    heard = Heard()
    async with Client(f"{web.url}/mcp", mode="legacy", message_handler=heard) as client:
        await client.subscribe_resource("memos://cubes/default/memories")
        # The standing stream opens beside the session: what happens before it is there is not told.
        with anyio.fail_after(SOON_S):
            while not heard.updated:
                await remember(client, f"Note number {len(heard.updated)} of {anyio.current_time()}.")
                await anyio.lowlevel.checkpoint()
    assert set(heard.updated) == {"memos://cubes/default/memories"}


@pytest.mark.anyio
async def test_a_modern_listener_hears_over_http(memos: MemOS, web: Web) -> None:
    gate = "memos://cubes/default/memories"
    async with Client(f"{web.url}/mcp") as client, client.listen(resource_subscriptions=[gate]) as events:
        await anyio.to_thread.run_sync(memos.remember, Remember(content="The gate is painted."), Caller())
        with anyio.fail_after(SOON_S):
            async for event in events:
                assert event.uri == gate
                break


@pytest.mark.anyio
async def test_the_old_sse_transport_works_and_is_marked_deprecated(web: Web) -> None:
    async with sse_client(f"{web.url}/sse") as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        result = await session.call_tool("remember", {"content": "The attic is dry."})
    assert not result.is_error

    def headers() -> dict[str, str]:
        import http.client

        connection = http.client.HTTPConnection(LOOPBACK, web.port, timeout=60)
        try:
            connection.request("GET", "/sse")
            return {name.lower(): value for name, value in connection.getresponse().getheaders()}
        finally:
            connection.close()

    assert "deprecation" in await anyio.to_thread.run_sync(headers)


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
def test_every_handshake_version_is_spoken(web: Web, version: str) -> None:
    hello = {**INITIALIZE, "params": {**INITIALIZE["params"], "protocolVersion": version}}
    usual = {"Content_Type": "application/json", "Accept": BOTH}
    reply = web.send("POST", "/mcp", json.dumps(hello).encode(), **usual)
    assert reply.message["result"]["protocolVersion"] == version
    session = {"Mcp_Session_Id": reply.headers["mcp-session-id"], "MCP_Protocol_Version": version}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "recall", "arguments": {}}}
    answer = web.send("POST", "/mcp", json.dumps(call).encode(), **usual, **session).message
    assert answer["result"]["content"][0]["text"] == "Invalid: 'query' is required"


def test_health_tells_that_it_is_up_and_its_version_and_nothing_else(guarded: Web) -> None:
    reply = guarded.send("GET", "/health")
    assert (reply.status, json.loads(reply.text)) == (200, {"ok": True, "version": VERSION})


def test_what_is_not_served_is_not_found(web: Web) -> None:
    assert web.send("GET", "/elsewhere").status == 404


def test_the_list_of_core_tools_is_small_on_the_wire_in_both_eras(web: Web) -> None:
    modern = web.modern("tools/list")
    session = initialize(web).headers["mcp-session-id"]
    usual = {"Content_Type": "application/json", "Accept": BOTH, "Mcp_Session_Id": session}
    legacy = web.send("POST", "/mcp", b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}', **usual)
    for reply in (modern, legacy):
        assert [tool["name"] for tool in reply.message["result"]["tools"]] == ["remember", "recall", "forget", "fuse"]
        assert len(reply.text.encode()) <= MAX_LIST_BYTES
        assert len(json.dumps(reply.message["result"]["tools"]).encode()) <= MAX_LIST_BYTES


# --- hosts, origins, sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mcp", "/sse", "/messages/", "/health"])
def test_a_host_that_is_not_expected_is_refused_everywhere(web: Web, path: str) -> None:
    assert web.send("GET", path, Host="evil.example").status == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1.evil.example"])
def test_an_origin_that_is_not_expected_is_refused(web: Web, origin: str) -> None:
    assert initialize(web, Origin=origin).status == 403


def test_a_local_origin_is_let_in(web: Web) -> None:
    assert initialize(web, Origin=f"http://localhost:{web.port}").status == 200


def test_a_body_over_the_limit_is_refused_before_it_is_read(memos: MemOS, folder: Path) -> None:
    with serving_http(memos, folder, HttpSettings(port=0, max_body_bytes=10_000)) as web:
        assert web.modern("tools/call", {"name": "recall", "arguments": {"query": "x" * 20_000}}).status == 413
        assert initialize(web).status == 200


def test_the_longest_turn_comes_through_even_when_every_character_is_escaped(web: Web) -> None:
    longest = "\N{SEEDLING}" * MAX_TURN_CHARS  # escaped, each is twelve bytes
    arguments = {"messages": [{"role": "user", "content": longest}], "cube": "*"}  # read whole, then refused
    reply = web.modern("tools/call", {"name": "remember", "arguments": arguments})
    assert reply.status == 200
    assert "is not '*'" in reply.message["result"]["content"][0]["text"]


# --- who is let in is never decided by what the client says of itself ---------------------------------------------

HOSTILE_HOSTS = [
    "127.0.0.1:8765/health?",
    "127.0.0.1:8765/health#",
    "127.0.0.1:/health?",
    "localhost:1/health?x=",
    "127.0.0.1:1@127.0.0.1/health?",
]


def raw_status(web: Web, target: str, host: str) -> int:
    body = json.dumps(INITIALIZE)
    head = f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAccept: {BOTH}\r\n"
    with socket.create_connection((LOOPBACK, web.port), timeout=60) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        return int(client.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_a_host_header_that_names_the_health_check_does_not_open_the_door(guarded: Web, host: str) -> None:
    assert raw_status(guarded, "/mcp", host) in {400, 401, 421}


@pytest.mark.parametrize("target", ["/mcp?/health", "/mcp#/health", "//health/../mcp", "/health/../mcp", "/mcp/health"])
def test_a_target_that_mentions_the_health_check_does_not_open_the_door(guarded: Web, target: str) -> None:
    assert raw_status(guarded, target, f"{LOOPBACK}:{guarded.port}") in {400, 401}


def test_a_request_that_no_gate_has_seen_is_refused(memos: MemOS) -> None:
    memos.remember(Remember(content="The cellar key hangs behind the clock."), Caller())
    sessions = StreamableHTTPSessionManager(app=server_of(memos))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with sessions.run():
            yield

    bare = Starlette(routes=[Route("/mcp", StreamableHTTPASGIApp(sessions))], lifespan=lifespan)
    with serving_app(bare, HttpSettings(port=0)) as web:
        reply = web.modern("tools/call", {"name": "recall", "arguments": {"query": "the cellar key"}})
        read = web.modern("resources/read", {"uri": "memos://cubes"})
    assert "NotAllowed: " in reply.text
    assert "NotAllowed: " in read.text
    assert "clock" not in reply.text


# --- tokens -----------------------------------------------------------------------------------------------------


def test_without_a_token_there_is_a_challenge(guarded: Web) -> None:
    reply = initialize(guarded)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == 'Bearer realm="memos-mcp"'
    assert "Authorization: Bearer" in reply.text


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Basic dXNlcjpwYXNz", "Bearer " + "x" * 5_000])
def test_a_wrong_token_is_refused_on_loopback_too(web: Web, guarded: Web, header: str) -> None:
    for served in (web, guarded):
        reply = initialize(served, Authorization=header)
        assert reply.status == 401
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]


def test_a_token_lets_in_until_it_expires_and_the_refusal_says_so(guarded: Web, folder: Path, clock: HandClock) -> None:
    token = create_token(folder, "laptop", clock.now(), expires_in_days=1)
    assert initialize(guarded, **bearer(token)).status == 200
    clock.pass_by(days=1)
    reply = initialize(guarded, **bearer(token))
    assert reply.status == 401
    assert "'laptop' expired at 2026-11-21" in reply.headers["www-authenticate"]
    assert json.loads(reply.text)["error"]["code"] == "Expired"


def test_a_revoked_token_ends_at_once(guarded: Web, folder: Path) -> None:
    token = create_token(folder, "phone", START)
    assert initialize(guarded, **bearer(token)).status == 200
    revoke_token(folder, "phone")
    assert initialize(guarded, **bearer(token)).status == 401


@asynccontextmanager
async def client_with(web: Web, token: str, **options: Any) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers=bearer(token), timeout=SOON_S) as http:
        transport = streamable_http_client(f"{web.url}/mcp", http_client=http, terminate_on_close=False)
        async with Client(transport, **options) as client:
            yield client


NOTES = "memos://cubes/default/memories"


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["revoked", "expired", "made anew"])
async def test_the_stream_of_a_listener_ends_with_its_token(
    memos: MemOS, guarded: Web, folder: Path, clock: HandClock, how: str
) -> None:
    token = create_token(folder, "phone", clock.now(), expires_in_days=1)
    async with client_with(guarded, token) as client, client.listen(resource_subscriptions=[NOTES]) as events:
        await anyio.to_thread.run_sync(memos.remember, Remember(content="The gate is painted."), Caller())
        heard = await anext(events)
        if how == "expired":
            clock.pass_by(days=1)
        else:
            revoke_token(folder, "phone")
        if how == "made anew":
            create_token(folder, "phone", clock.now())
        await anyio.to_thread.run_sync(memos.remember, Remember(content="The gate is locked."), Caller())
        with anyio.fail_after(SOON_S):
            assert [event async for event in events] == []
    assert heard.uri == NOTES


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_legacy_subscriber_whose_token_is_revoked_hears_no_more(guarded: Web, folder: Path) -> None:
    heard = {"phone": Heard(), "laptop": Heard()}
    tokens = {name: create_token(folder, name, START) for name in heard}

    async def notes_until(client: Client, who: str, more: int) -> None:
        before = len(heard[who].updated)
        with anyio.fail_after(SOON_S):
            while len(heard[who].updated) < before + more:
                await remember(client, f"Note of {anyio.current_time()}.")
                await anyio.lowlevel.checkpoint()

    async with (
        client_with(guarded, tokens["laptop"], mode="legacy", message_handler=heard["laptop"]) as laptop,
        client_with(guarded, tokens["phone"], mode="legacy", message_handler=heard["phone"]) as phone,
    ):
        for client in (laptop, phone):
            await client.subscribe_resource(NOTES)
        await notes_until(laptop, "phone", 1)
        revoke_token(folder, "phone")
        await notes_until(laptop, "laptop", 1)  # what was on its way before has arrived with this
        told = len(heard["phone"].updated)
        await notes_until(laptop, "laptop", 5)
        assert len(heard["phone"].updated) == told


def test_a_token_sees_and_changes_only_what_its_scopes_allow(memos: MemOS, guarded: Web, folder: Path) -> None:
    memos.remember(Remember(content="The vault code is known to Ida.", cube="private"), Caller())
    memos.remember(Remember(content="The team lunch is on Monday.", cube="team"), Caller())
    token = bearer(create_token(folder, "colleague", START, scopes=["read:team"]))

    def call(name: str, **arguments: Any) -> dict[str, Any]:
        message = guarded.modern("tools/call", {"name": name, "arguments": arguments}, **token).message
        result: dict[str, Any] = message["result"]
        return result

    found = call("recall", query="the vault code or the team lunch")["structuredContent"]["memories"]
    assert {memory["cube"] for memory in found} == {"team"}
    assert call("recall", query="code", cubes=["private"])["isError"]
    refused = call("remember", content="A note.", cube="team")
    assert refused["content"][0]["text"].startswith("NotAllowed: ")
    assert call("remember", content="A note.", cube="private")["isError"]
    read = guarded.modern("resources/read", {"uri": "memos://cubes"}, **token).message
    assert [cube["name"] for cube in json.loads(read["result"]["contents"][0]["text"])["cubes"]] == ["team"]


def test_a_session_belongs_to_the_token_that_opened_it(guarded: Web, folder: Path) -> None:
    ours, theirs = (bearer(create_token(folder, name, START)) for name in ("ours", "theirs"))
    session = initialize(guarded, **ours).headers["mcp-session-id"]
    ping = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "ping"}).encode()
    usual = {"Content_Type": "application/json", "Accept": BOTH, "Mcp_Session_Id": session}
    assert guarded.send("POST", "/mcp", ping, **usual, **theirs).status == 404
    assert guarded.send("POST", "/mcp", ping, **usual, **ours).status == 200


def test_nobody_is_shown_what_another_s_confirm_token_stands_for(memos: MemOS, guarded: Web, folder: Path) -> None:
    memos.remember(Remember(content="The safe behind the painting opens with 17-04-88.", cube="home"), Caller())
    home, stranger = (bearer(create_token(folder, name, START, scopes=[f"write:{name}"])) for name in ("home", "work"))
    asks = {"_meta": {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}}
    query = {"name": "forget", "arguments": {"query": "safe behind the painting", "mode": "erase"}}
    token = guarded.modern("tools/call", query, **home).message["result"]["structuredContent"]["confirm"]
    confirm = {"name": "forget", "arguments": {"confirm": token}, **asks}
    strange = guarded.modern("tools/call", confirm, **stranger).text
    assert "Forget the memories of this preview?" in strange
    assert "painting" not in strange
    assert "painting" in guarded.modern("tools/call", confirm, **home).text


def test_one_token_s_operation_is_not_another_s(guarded: Web, folder: Path) -> None:
    params = {
        "name": "remember",
        "arguments": {"content": "The boat is green.", "cube": "shared"},
        "_meta": {"io.memos/operation": "op-1"},
    }
    statuses = []
    for name in ("one", "two"):
        token = bearer(create_token(folder, name, START))
        message = guarded.modern("tools/call", params, **token).message
        statuses.append(message["result"]["structuredContent"]["stored"][0]["status"])
    assert statuses == ["added", "duplicate"]


def test_the_file_holds_no_token_and_is_readable_by_the_owner_alone(tmp_path: Path) -> None:
    token = create_token(tmp_path, "laptop", START, scopes=["read", "write:work"], expires_in_days=30)
    path = tmp_path / FILE
    assert token.removeprefix("memos_") not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (listed,) = list_tokens(tmp_path)
    assert (listed.name, listed.scopes, listed.created_at) == ("laptop", ("read", "write:work"), START)
    assert TokenFile(tmp_path).check(token, START) == listed
    assert not listed.principal.owner


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("owner", {}),
        ("memos", {}),
        ("Memos", {}),
        ("ok", {"scopes": ["read:*"]}),
        ("", {}),
        ("a b", {}),
        ("x" * 65, {}),
        ("ok", {"scopes": []}),
        ("ok", {"scopes": ["everything"]}),
        ("ok", {"scopes": ["read:"]}),
        ("ok", {"scopes": ["read:a/b"]}),
        ("ok", {"expires_in_days": 0}),
        ("ok", {"expires_in_days": float("nan")}),
    ],
)
def test_a_token_that_breaks_a_rule_is_not_made(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        create_token(tmp_path, name, START, **options)
    assert list_tokens(tmp_path) == ()


def test_tokens_that_are_changed_at_once_are_all_kept(tmp_path: Path) -> None:
    names = [f"laptop-{number}" for number in range(16)]
    for name in names[:8]:
        create_token(tmp_path, name, START)
    with ThreadPoolExecutor(16) as threads:
        made = [threads.submit(create_token, tmp_path, name, START) for name in names[8:]]
        gone = [threads.submit(revoke_token, tmp_path, name) for name in names[:8]]
        for change in (*made, *gone):
            change.result()
    assert sorted(token.name for token in list_tokens(tmp_path)) == sorted(names[8:])


def test_a_scope_that_an_older_version_took_opens_nothing(guarded: Web, folder: Path) -> None:
    token = create_token(folder, "old", START, scopes=["read:x"])
    (folder / FILE).write_text((folder / FILE).read_text().replace("read:x", "read:*"))
    assert initialize(guarded, **bearer(token)).status == 401


def test_tokens_have_one_name_each_and_damage_is_told(tmp_path: Path) -> None:
    create_token(tmp_path, "laptop", START)
    with pytest.raises(Conflict, match="'laptop' exists"):
        create_token(tmp_path, "laptop", START)
    with pytest.raises(NotFound, match="there are laptop"):
        revoke_token(tmp_path, "phone")
    with pytest.raises(NotAllowed):
        TokenFile(tmp_path).check("memos_guess", START)
    late = create_token(tmp_path, "late", START, expires_in_days=1)
    with pytest.raises(Expired):
        TokenFile(tmp_path).check(late, START.replace(year=2027))
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(Corrupt, match="create the tokens anew"):
        list_tokens(tmp_path)


# --- where to bind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.10", "memory.example", "127.0.0.1.example"])
def test_other_machines_are_let_in_only_when_there_are_tokens(tmp_path: Path, host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(Invalid, match="create one first"):
        check_bind(host, ())
    create_token(tmp_path, "laptop", START)
    check_bind(host, list_tokens(tmp_path))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_loopback_needs_no_token(host: str) -> None:
    check_bind(host, ())


def test_no_cube_is_named_like_every_cube(web: Web) -> None:
    call = {"name": "remember", "arguments": {"content": "A note.", "cube": "*"}}
    assert "is not '*'" in web.modern("tools/call", call).message["result"]["content"][0]["text"]
