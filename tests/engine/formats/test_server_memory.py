"""The official memory server's graph: the same after a round trip, also in the eyes of that server."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters

from engine.formats import FORMATS, Report, of_bytes
from engine.memos import MemOS
from engine.operations import Remember, Turn
from tests.conformance.node import MEMORY_SERVER, installed
from tests.engine.formats.samples_of import SAMPLES, records
from tests.engine.stores import ME, archive, opened, say, settings_for

GRAPH = FORMATS["server-memory"]
NAMES = st.sampled_from(["Anna", "Ben", "Skagen", "日本", "a b", "x" * 70])
WORDS = st.sampled_from(
    ["likes tea", "does not like tea", "Lives in Oslo.", "Lives in Bergen.", "øl — 3 kr", "a\nb", "🚢"]
)
ENTITIES = st.fixed_dictionaries(
    {"type": st.just("entity"), "name": NAMES, "entityType": NAMES, "observations": st.lists(WORDS, max_size=4)}
)
RELATIONS = st.fixed_dictionaries(
    {"type": st.just("relation"), "from": NAMES, "to": NAMES, "relationType": st.sampled_from(["knows", "is in"])}
)


def exported(memos: MemOS, report: Report | None = None) -> str:
    assert GRAPH.write is not None
    return "".join(GRAPH.write(memos.export_memories(ME), report or Report()))


def graph_lines(entities: list[dict[str, Any]], relations: list[dict[str, Any]]) -> str:
    keys = ("type", "name", "entityType", "observations", "from", "to", "relationType")  # as the server writes them
    lines = [{key: line[key] for key in keys if key in line} for line in [*entities, *relations]]
    return "\n".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in lines)


def test_a_graph_that_was_imported_is_exported_byte_for_byte(memos: MemOS) -> None:
    memos.import_memories(records(SAMPLES / "server-memory.jsonl"), ME)
    assert exported(memos) == (SAMPLES / "server-memory.jsonl").read_text("utf-8")


@profile(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ENTITIES, max_size=5), st.lists(RELATIONS, max_size=4))
def test_any_graph_survives(
    tmp_path_factory: pytest.TempPathFactory, entities: list[dict[str, Any]], relations: list[dict[str, Any]]
) -> None:
    """Also one with equal entities, observations and relations, which the server itself would not make."""
    text = graph_lines(entities, relations)
    told = [found.record for found in GRAPH.read(of_bytes(text.encode(), "-"), Report())]
    with opened(settings_for(tmp_path_factory.mktemp("graph") / "data")) as memos:
        assert memos.import_memories(told, ME).refused == []
        assert exported(memos) == text
        assert memos.import_memories(told, ME).added == 0
        assert exported(memos) == text


def test_memories_that_never_were_a_graph_become_one_and_what_has_no_place_there_is_reported(memos: MemOS) -> None:
    say(memos, "Anna Lund lives in Skagen.")
    say(memos, "the lamp is green", cube="home")
    memos.remember(Remember(messages=(Turn("user", "Ahoy!", "Ben"), Turn("assistant", "Yes?")), source="talk 1"), ME)
    say(memos, "# The lighthouse\n\n" + "It has a keeper, and the keeper has a name. " * 60)
    archive(memos, say(memos, "The gate is shut on Mondays."))
    report = Report()
    entities = [json.loads(line) for line in exported(memos, report).splitlines()]
    assert [(entity["name"], entity["entityType"], len(entity["observations"])) for entity in entities] == [
        ("Anna Lund", "subject", 1),
        ("talk 1", "conversation", 2),
        ("The lighthouse", "document", 1),
        ("home", "cube", 1),
    ]
    assert entities[1]["observations"] == ["Ben: Ahoy!", "assistant: Yes?"]
    assert [(entry.what, entry.why, entry.count) for entry in report.left] == [
        ("memory", "it is archived: the graph holds what counts now", 1)
    ]


def test_what_the_server_passes_over_is_reported_and_unknown_fields_are_kept(memos: MemOS) -> None:
    lines = [
        {"type": "entity", "name": "A", "entityType": "x", "observations": ["one", "  "], "colour": "red"},
        {"type": "note", "text": "?"},
        {"type": "relation", "from": "A", "to": "A", "relationType": "is", "weight": 2},
    ]
    report = Report()
    text = "\n".join(json.dumps(line) for line in lines)
    told = [found.record for found in GRAPH.read(of_bytes(text.encode(), "-"), report)]
    memos.import_memories(told, ME)
    assert [(entry.what, entry.where) for entry in report.left] == [
        ("observation", ["line 1, observation 2"]),
        ("line", ["line 2"]),
    ]
    kept = [json.loads(line) for line in exported(memos).splitlines()]
    assert kept == [{**lines[0], "observations": ["one"]}, lines[2]]


async def asked(file: Path) -> dict[str, Any]:
    """What the server itself says is in the graph."""
    node = shutil.which("node", path=installed()["PATH"])
    assert node is not None
    server = StdioServerParameters(
        command=node, args=[str(MEMORY_SERVER)], env={"MEMORY_FILE_PATH": str(file), "PATH": os.environ["PATH"]}
    )
    async with Client(server) as client:
        result = await client.call_tool("read_graph", {})
    assert not result.is_error
    assert result.structured_content is not None
    return dict(result.structured_content)


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("conformance")
def test_the_official_server_reads_what_we_export_as_what_it_wrote(memos: MemOS, tmp_path: Path) -> None:
    installed()
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    shutil.copy(SAMPLES / "server-memory.jsonl", first)
    memos.import_memories(records(first), ME)
    second.write_text(exported(memos), "utf-8")
    ours, theirs = anyio.run(asked, second), anyio.run(asked, first)
    assert ours == theirs
    assert [entity["name"] for entity in ours["entities"]] == ["Anna_Lund", "Ben", "Skagen", "日本語クラブ"]
    assert (len(ours["relations"]), sum(len(entity["observations"]) for entity in ours["entities"])) == (3, 6)
    say(memos, "Anna Lund bought a lamp.")
    second.write_text(exported(memos), "utf-8")
    assert anyio.run(asked, second)["entities"][-1]["observations"] == ["Anna Lund bought a lamp."]
