"""Who sees what, through every surface: no word of what one may not see is in the bytes of any answer.

Principals × cubes × memories × surfaces, generated from the table in `access_world`. Tools are taken from the table of
toolsets, and resources from the grammar of addresses, as they are when this runs: what is added later is asked as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cubes import Action, CubePolicy, Grant, Origin
from engine.governance.policy import check_policy
from engine.operations import Forget, Mode
from engine.text.recalled import delimit
from memos_mcp.auth import TokenFile, create_token, revoke_token
from memos_mcp.server import build_server
from memos_mcp.tools.table import TOOLSETS
from memos_mcp.tools.tool import Tool
from memos_mcp.transports import HttpSettings, http_app
from memos_mcp.uris import OF_A_CUBE, OF_A_MEMORY, Place, spell
from tests.memos_mcp.access_voices import Served, Voice, one_of_each, serving_world
from tests.memos_mcp.access_world import (
    COMMON,
    CUBES,
    LEVELS,
    ME,
    NOWHERE,
    OPEN_TO_ALL,
    PRINCIPALS,
    PRIVATE,
    levels,
    may_write,
    word,
    words_of,
)
from tests.memos_mcp.serving import START, VERSION, HandClock
from tests.memos_mcp.web import BOTH, serving_app

TOOLS = {tool.name: tool for tools in TOOLSETS.values() for tool in tools}


def absent(name: str) -> str:
    """A name of the same length that nothing has."""
    return f"{name[:2]}{'q' * (len(name) - 2)}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_world(tmp_path_factory.mktemp("matrix")) as found:
        yield found


@pytest.fixture(params=PRINCIPALS)
def voice(served: Served, request: pytest.FixtureRequest) -> Iterator[Voice]:
    speaking = Voice(served, request.param)
    yield speaking
    speaking.close()


# --- resources, completions, prompts ---------------------------------------------------------------------------------


def test_resources_completions_and_prompts_tell_what_one_may_see_and_nothing_else(voice: Voice) -> None:
    world, name = voice.served.world, voice.name
    listed = voice.ask("resources/list")
    assert voice.ask("resources/templates/list")
    assert voice.ask("prompts/list")
    assert voice.ask("tools/list")
    overview = json.loads(json.loads(voice.ask("resources/read", uri="memos://cubes"))["result"]["contents"][0]["text"])
    counts = {view["name"]: view["memories"] for view in overview["cubes"]}
    assert counts == {cube: world.count(name, cube) for cube in CUBES if levels(name, cube)}
    status = json.loads(json.loads(voice.ask("resources/read", uri="memos://status"))["result"]["contents"][0]["text"])
    assert sum(status["counts"].values()) == sum(counts.values())
    assert status["cubes"] == len(counts)
    for cube in CUBES:
        assert (cube in words_of(listed)) == bool(levels(name, cube))
        for place in OF_A_CUBE.values():
            voice.ask("resources/read", uri=spell(place, cube))
        for filters in ({"tag": word(cube, "secret", "tag")}, {"state": "archived"}):
            voice.ask("resources/read", uri=spell(Place.MEMORIES, cube, filters))
        voice.ask("prompts/get", name="reflect", arguments={"cube": cube})
        _complete(voice, Place.CUBE, "cube", cube)
    for id in one_of_each(world):
        for place in OF_A_MEMORY.values():
            voice.ask("resources/read", uri=spell(place, id))
    for id in one_of_each(world)[::3]:
        _complete(voice, Place.MEMORY, "id", id)
    for id, place in world.ids.items():
        if place[1] == "secret" and id.lower() not in voice.hidden:
            voice.ask("resources/read", uri=spell(Place.HISTORY, id))
    for prefix in ("", "m_", "zz"):
        _complete(voice, Place.MEMORY, "id", prefix)
        _complete(voice, Place.CUBE, "cube", prefix)
    voice.ask("prompts/get", name="recall_context", arguments={"topic": COMMON})
    everything = {said for said in world.seen_by(name) if said.startswith("zz")}
    assert everything <= voice.heard | {"zz"}, sorted(everything - voice.heard)


def _complete(voice: Voice, place: Place, argument: str, prefix: str) -> None:
    reference = {"type": "ref/resource", "uri": place.value}
    voice.ask("completion/complete", ref=reference, argument={"name": argument, "value": prefix})


@pytest.mark.parametrize("place", [*OF_A_CUBE.values(), *OF_A_MEMORY.values()], ids=lambda place: place.name)
def test_what_one_may_not_see_reads_like_what_is_not_there(voice: Voice, place: Place) -> None:
    for target in CUBES if place in OF_A_CUBE.values() else one_of_each(voice.served.world)[::3]:
        if target.lower() in voice.hidden:
            nothing = voice.ask("resources/read", uri=spell(place, absent(target)))
            assert voice.ask("resources/read", uri=spell(place, target)).replace(target, absent(target)) == nothing


# --- tools ------------------------------------------------------------------------------------------------------------


def arguments_for(tool: Tool, cube: str, id: str, query: str) -> dict[str, Any]:
    """Something for every argument that the tool takes, by the argument's name and type: what it needs, and targets."""
    values: dict[str, Any] = {
        **dict.fromkeys(("cube", "name", "into"), cube),
        **dict.fromkeys(("id", "a", "from"), id),
        **dict.fromkeys(("version", "b"), 1),
        **dict.fromkeys(("query", "content", "reason", "text"), query),
        "ids": [id, id[:-1] + "0"],
        "cubes": [cube, cube],
        "path": "bundle.memcube",
        "source": "bundle.memcube",
        "messages": [{"role": "user", "content": query}],
        "supersedes": [id],
        "action": "list",
        "confirm": "c_unknown",
    }
    schema = tool.input_schema["properties"]
    by_type = {"string": "x", "integer": 1, "number": 1, "boolean": False, "array": [], "object": {}}
    known = {name: values.get(name, by_type[schema[name].get("type", "string")]) for name in schema}
    for name, spelled in schema.items():
        if "enum" in spelled and name not in values:
            known[name] = spelled["enum"][0]
    return known


def calls(tool: Tool, cube: str, id: str, query: str) -> Iterator[dict[str, Any]]:
    """Calls of a tool that name a cube or a memory: each argument alone with what is required, and some together."""
    known = arguments_for(tool, cube, id, query)
    required = tool.input_schema.get("required", [])
    targets = [name for name in ("cube", "cubes", "into", "name", "id", "ids", "supersedes", "query") if name in known]
    for target in targets:
        yield {name: known[name] for name in dict.fromkeys((*required, target))}
    yield {name: known[name] for name in dict.fromkeys((*required, *targets))}
    if "content" in known and "cube" in known:
        yield {"content": query, "cube": cube}
        yield {"content": query, "cube": cube, "supersedes": [id]}
    if "pinned" in known:
        yield {"ids": [id], "pinned": True}
    if "read" in known and "cube" in known:
        yield {"cube": cube, "read": "public"}
        yield {"cube": cube, "principal": "friend", "actions": ["read"]}
    if "mode" in known:
        yield {"ids": [id], "mode": "erase"}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_tools_tell_nothing_of_what_one_may_not_see(voice: Voice, tool: Tool) -> None:
    memos = voice.served.memos
    before, unknown, tried = memos.status(ME).revision, dict[str, str](), set[object]()
    for cube in CUBES:
        level = next((level for level in LEVELS if level not in levels(voice.name, cube)), None)
        found = [id for id, place in voice.served.world.ids.items() if place == (cube, level)]
        alike = (level, bool(levels(voice.name, cube)), may_write(voice.name, cube))
        if not found or level is None or alike in tried:
            continue  # what it may see, it may also change: that is tested elsewhere
        tried.add(alike)
        target = NOWHERE if levels(voice.name, cube) else cube
        for arguments in calls(tool, target, found[0], f"{COMMON} {word(cube, level, 'plain')}"):
            told = voice.call(tool.name, **arguments)
            asked = json.dumps(arguments).replace(found[0][:-1], absent(found[0])[:-1]).replace(cube, NOWHERE)
            if asked not in unknown:
                unknown[asked] = voice.call(tool.name, **json.loads(asked))
            assert _same(told, found[0], cube) == _same(unknown[asked], found[0], cube), (arguments, told)
    assert {row.actor for row in memos.audit(ME, since=before)} <= {"memos"}  # the engine itself notes what was used


def _same(body: str, id: str, cube: str) -> str:
    """An answer without the names that it was asked for."""
    for name in (id[:-1], absent(id)[:-1], cube, NOWHERE):
        body = body.replace(name, "?")
    return body


def test_recall_finds_what_one_may_see_in_every_way_of_asking(voice: Voice) -> None:
    world, name = voice.served.world, voice.name
    now = voice.served.memos.snapshots(PRIVATE, ME)[0].at.isoformat()
    visible = {id for id, (cube, level) in world.ids.items() if level in levels(name, cube)}
    secrets = [word(cube, "secret", "plain") for cube in CUBES]
    ways = ({}, {"response_format": "detailed"}, {"include_archived": True}, {"as_of": now})
    asked = [(COMMON, way) for way in ways] + [(f"{COMMON} quota 57 litres", {"include_archived": True})]
    asked += [(secret, {"include_archived": True, "response_format": "detailed"}) for secret in secrets]
    asked += [(word(cube, "second"), {}) for cube in CUBES]
    for query, more in asked:
        answer = json.loads(voice.call("recall", query=query, limit=100, max_tokens=100_000, **more))
        found = {memory["id"] for memory in answer["result"]["structuredContent"]["memories"]}
        assert found <= visible
        if query == COMMON and "include_archived" in more:
            wholes = {id for id in visible if voice.served.memos.memory(id, ME).memory.descriptive.parts}
            assert len(found) == min(100, len(visible - wholes))
    for cube in CUBES:
        voice.call("recall", query=COMMON, cubes=[cube])
        voice.call("recall", query=COMMON, tags=[word(cube, "secret", "tag")])
        voice.call("fuse", cube=cube)
        voice.call("forget", query=f"{COMMON} {word(cube, 'secret', 'plain')}")
        voice.call("forget", query=COMMON, cube=cube)


def test_nobody_learns_from_writing_what_a_hidden_memory_says(served: Served) -> None:
    open_cube = next(cube for cube in OPEN_TO_ALL if may_write("visitor", cube))
    voice = Voice(served, "visitor")
    hidden = [id for id, place in served.world.ids.items() if place == (open_cube, "secret")]
    made: dict[str, None] = {}
    for id in hidden:
        content = served.memos.memory(id, ME).memory.content
        block = delimit(id, {"cube": open_cube}, content)
        for said in (content, content.replace("57", "58"), block) if len(content) < 1_000 else ():
            answer = json.loads(voice.call("remember", content=said, cube=open_cube))["result"]["structuredContent"]
            for stored in answer["stored"]:
                assert stored["id"] not in served.world.ids
                assert not set(stored["conflicts_with"]) & set(hidden)
                assert served.memos.memory(stored["id"], ME).memory.descriptive.origin is Origin.USER
                made[stored["id"]] = None
    assert len(made) > len(LEVELS)
    served.memos.forget(Forget(ids=tuple(made), mode=Mode.ERASE, confirmed=True), ME)
    voice.close()


# --- who is not let in ------------------------------------------------------------------------------------------------


def test_without_a_good_token_nothing_is_told(served: Served) -> None:
    expired = create_token(served.folder, "late", START, scopes=["admin"], expires_in_days=0.000001)
    revoked = create_token(served.folder, "gone", START, scopes=["admin"])
    revoke_token(served.folder, "gone")
    clock = HandClock()
    clock.pass_by(days=1)
    settings = HttpSettings(port=0, require_token=True)
    server = build_server(served.memos, toolsets=tuple(TOOLSETS), version=VERSION)
    app = http_app(server, version=VERSION, tokens=TokenFile(served.folder), settings=settings, clock=clock)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "memos://cubes"}})
    with serving_app(app, settings) as web:
        for token in (None, "memos_unknown", expired, revoked, "Bearer", ""):
            for method, path in (
                ("POST", "/mcp"),
                ("GET", "/mcp"),
                ("GET", "/sse"),
                ("POST", "/messages/?session_id=1"),
            ):
                sent = {} if token is None else {"Authorization": f"Bearer {token}"}
                reply = web.send(method, path, body.encode(), Content_Type="application/json", Accept=BOTH, **sent)
                assert reply.status == 401
                told = words_of(f"{reply.headers} {reply.text}")
                assert not told & set(served.world.told)
        assert web.send("GET", "/health").text == json.dumps({"ok": True, "version": VERSION}, separators=(",", ":"))


def test_every_name_that_a_token_can_have_can_be_granted_something(tmp_path: Path) -> None:
    for name in ("a", "Laptop-2", "x.y_z", "9", "n" * 64):
        create_token(tmp_path, name, START)
        check_policy(CubePolicy(grants=(Grant(name, (Action.READ,)),)))
