"""Memory as resources: what is listed, what an address holds, and what completes it."""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types
import pytest
from mcp import Client, MCPError

from engine.memos import MemOS
from engine.operations import Caller, Remember
from memos_mcp.uris import OF_A_CUBE, OF_A_MEMORY, Address, Place, canonical, parse, spell
from tests.memos_mcp.serving import ERAS, Era, connected, remember

NOT_FOUND = {"legacy": -32002, "auto": types.INVALID_PARAMS}


async def body(client: Client, uri: str) -> dict[str, Any]:
    content = (await client.read_resource(uri)).contents[0]
    assert isinstance(content, types.TextResourceContents)
    assert content.mime_type == "application/json"
    read: dict[str, Any] = json.loads(content.text)
    return read


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
class TestOverMcp:
    async def test_cubes_are_listed_and_hold_what_was_stored(self, memos: MemOS, era: Era) -> None:
        async with connected(memos, era) as client:
            kept = await remember(client, "The bridge opens at 8.", cube="Zürich notes", kind="event")
            listed = [resource.uri for resource in (await client.list_resources()).resources]
            assert spell(Place.CUBE, "Zürich notes") == "memos://cubes/Z%C3%BCrich%20notes"
            assert set(listed) == {
                "memos://cubes",
                "memos://status",
                "memos://cubes/Z%C3%BCrich%20notes",
                "memos://cubes/Z%C3%BCrich%20notes/memories",
                "memos://cubes/Z%C3%BCrich%20notes/snapshots",
                "memos://cubes/Z%C3%BCrich%20notes/history",
                "memos://cubes/Z%C3%BCrich%20notes/artifacts",
            }
            cubes = (await body(client, "memos://cubes"))["cubes"]
            assert [(cube["name"], cube["memories"], cube["kinds"]) for cube in cubes] == [
                ("Zürich notes", 1, {"event": 1})
            ]
            memories = await body(client, cubes[0]["uri"] + "/memories")
            assert [memory["id"] for memory in memories["memories"]] == [kept]
            assert memories["next"] is None
            assert (await body(client, cubes[0]["uri"] + "/artifacts"))["artifacts"] == []
            status = await body(client, "memos://status")
            assert (status["cubes"], status["counts"]) == (1, {"generated": 1})
            assert status["scheduler"]["levels"]["text"] == 1
            assert status["scheduler"]["parts"]["archive"] == "on"

    async def test_a_memory_is_json_and_markdown(self, memos: MemOS, era: Era) -> None:
        async with connected(memos, era) as client:
            kept = await remember(client, "First line.\n# not a heading", source="notes.md")
            read = await client.read_resource(f"memos://memories/{kept}")
            history = await body(client, f"memos://memories/{kept}/history")
        plain, marked = read.contents
        assert isinstance(plain, types.TextResourceContents)
        assert isinstance(marked, types.TextResourceContents)
        assert json.loads(plain.text)["descriptive"]["source"] == "notes.md"
        assert marked.mime_type == "text/markdown"
        assert "> First line.\n> # not a heading" in marked.text
        assert [(version["version"], version["content"]) for version in history["versions"]] == [
            (1, "First line.\n# not a heading")
        ]

    async def test_a_cube_s_memories_come_in_pages_and_can_be_filtered(self, memos: MemOS, era: Era) -> None:
        for number in range(101):
            memos.remember(Remember(content=f"Locker {number} belongs to team {number}.", tags=("locker",)), Caller())
        async with connected(memos, era) as client:
            await remember(client, "Ida prefers tea.", kind="preference", cube="default")
            first = await body(client, "memos://cubes/default/memories?tag=locker")
            second = await body(client, first["next"])
            preferences = await body(client, "memos://cubes/default/memories?kind=preference&state=generated")
        assert (len(first["memories"]), len(second["memories"]), second["next"]) == (100, 1, None)
        assert [memory["content"] for memory in preferences["memories"]] == ["Ida prefers tea."]

    async def test_many_cubes_are_listed_in_pages(self, memos: MemOS, era: Era) -> None:
        for number in range(60):
            memos.remember(Remember(content="A note.", cube=f"cube-{number:02}"), Caller())
        uris: list[str] = []
        async with connected(memos, era) as client:
            page = await client.list_resources()
            uris += [resource.uri for resource in page.resources]
            while page.next_cursor:
                page = await client.list_resources(cursor=page.next_cursor)
                uris += [resource.uri for resource in page.resources]
        assert len(uris) == len(set(uris)) == 2 + len(OF_A_CUBE) * 60

    @pytest.mark.parametrize(
        "uri",
        [
            "memos://memories/m_unknown",
            "memos://memories/m_unknown/history",
            "memos://cubes/unknown",
            "memos://cubes/unknown/memories",
            "memos://cubes/unknown/artifacts",
            "memos://nowhere",
            "memos://cubes/a/b/c",
            "memos://",
            "file:///etc/passwd",
            "http://127.0.0.1/",
            "memos://cubes/" + "x" * 5_000,
            "memos://memories/%00",
            "memos://cubes/%2e%2e%2f",
        ],
    )
    async def test_what_is_not_there_is_not_found(self, memos: MemOS, era: Era, uri: str) -> None:
        async with connected(memos, era) as client:
            with pytest.raises(MCPError, match="Resource not found") as refusal:
                await client.read_resource(uri)
        assert refusal.value.code == NOT_FOUND[era]
        assert refusal.value.error.data["uri"] == uri[:200]

    @pytest.mark.parametrize(
        ("query", "complaint"),
        [
            ("kind=poem", "must be one of fact"),
            ("state=asleep", "must be one of generated"),
            ("colour=red", "unknown filter 'colour'"),
            ("kind=fact&kind=event", "names a filter twice"),
            ("tag=", "empty"),
            ("cursor=nonsense", "cursor"),
            ("&".join(f"f{n}=1" for n in range(20)), "cannot be read"),
        ],
    )
    async def test_a_wrong_filter_is_named(self, memos: MemOS, era: Era, query: str, complaint: str) -> None:
        memos.remember(Remember(content="A note."), Caller())
        async with connected(memos, era) as client:
            with pytest.raises(MCPError, match=complaint) as refusal:
                await client.read_resource(f"memos://cubes/default/memories?{query}")
        assert refusal.value.code == types.INVALID_PARAMS

    async def test_a_cursor_of_somebody_else_is_refused(self, memos: MemOS, era: Era) -> None:
        async with connected(memos, era) as client:
            for cursor in ("%%%", "ÿ", "x"):
                with pytest.raises(MCPError, match="none of ours"):
                    await client.list_resources(cursor=cursor)

    async def test_every_template_is_listed_and_completes(self, memos: MemOS, era: Era) -> None:
        async with connected(memos, era) as client:
            kept = await remember(client, "A note.", cube="work")
            await remember(client, "Another note.", cube="home")
            templates = [
                template.uri_template for template in (await client.list_resource_templates()).resource_templates
            ]
            assert templates == [
                *(place.value for place in OF_A_CUBE.values()),
                *(place.value for place in OF_A_MEMORY.values()),
            ]

            async def complete(template: str, name: str, value: str) -> list[str]:
                ref = types.ResourceTemplateReference(uri=template)
                return (await client.complete(ref, {"name": name, "value": value})).completion.values

            assert await complete(Place.CUBE.value, "cube", "w") == ["work"]
            assert await complete(Place.MEMORIES.value, "cube", "") == ["home", "work"]
            assert await complete(Place.SNAPSHOTS.value, "cube", "h") == ["home"]
            assert await complete(Place.CUBE_HISTORY.value, "cube", "x") == []
            assert kept in await complete(Place.MEMORY.value, "id", kept[:8])
            assert await complete(Place.MEMORIES.value, "kind", "p") == ["preference", "procedure"]
            assert await complete(Place.MEMORIES.value, "state", "arch") == ["archived"]
            assert await complete(Place.MEMORIES.value, "tag", "x") == []
            prompt = types.PromptReference(name="reflect")
            assert (await client.complete(prompt, {"name": "cube", "value": "h"})).completion.values == ["home"]
            with pytest.raises(MCPError, match="no resource template"):
                await complete("memos://elsewhere/{cube}", "cube", "")


@pytest.mark.parametrize("place", Place)
def test_an_address_that_is_spelled_can_be_parsed(place: Place) -> None:
    name = "" if place in (Place.CUBES, Place.STATUS) else "m_1" if "{id}" in place.value else "a b/é".replace("/", "-")
    assert parse(spell(place, name)) == Address(place, name)


def test_one_thing_has_one_canonical_address() -> None:
    assert canonical("memos://cubes/a%20b/memories?kind=fact") == "memos://cubes/a%20b/memories"
    assert canonical("memos://cubes/a b") == "memos://cubes/a%20b"
    assert canonical("memos://cubes/x?kind=fact") is None
    assert canonical("other://cubes") is None
