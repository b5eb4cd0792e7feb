"""Each format's sample: recognised, read to the last word, and what is left out is counted."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from engine.errors import Invalid
from engine.formats import FORMATS, Report, of_bytes, recognise
from engine.memos import MemOS
from tests.engine.formats.samples_of import SAMPLES, contents, read, records, zipped
from tests.engine.stores import ME, ask
from tests.engine.stores import contents as recalled

# sample -> format, number of records, what is left: what and how many
EXPECTED: dict[str, tuple[str, int, dict[str, int]]] = {
    "server-memory.jsonl": ("server-memory", 10, {}),
    "mcp-memory-service.json": (
        "mcp-memory-service",
        2,
        {"embedding": 1, "memory": 1, "field 'export_metadata'": 1},
    ),
    "mcp-memory-service-backup.json": (
        "mcp-memory-service",
        1,
        {"field 'timestamp'": 1, "field 'total_memories'": 1},
    ),
    "mem0.json": ("mem0", 3, {}),
    "openmemory": (
        "openmemory",
        2,
        {"memory": 1, "'user'": 1, "'apps'": 1, "'status_history'": 1, "'export_meta'": 1},
    ),
    "openmemory-lines.jsonl": ("openmemory", 2, {}),
    "basic-memory": ("basic-memory", 8, {}),
    "chatgpt": (
        "chatgpt",
        15,
        {
            "image": 2,
            "reasoning": 1,
            "call of a tool": 1,
            "tool message": 2,
            "message": 1,
            "conversation": 1,
            "file": 2,
            "account data": 1,
        },
    ),
    "claude": (
        "claude",
        11,
        {
            "attachment": 1,
            "uploaded file": 1,
            "thinking": 1,
            "use of a tool": 2,
            "conversation": 1,
            "account data": 1,
        },
    ),
    "plain.jsonl": ("jsonl", 4, {}),
    "plain.json": ("json", 2, {}),
    "table.csv": ("csv", 4, {"row": 1}),
    "markdown": ("markdown", 2, {"file": 2}),
}
each_sample = pytest.mark.parametrize("sample", EXPECTED)


@each_sample
def test_a_sample_is_recognised_and_all_of_it_is_read_or_reported(sample: str) -> None:
    name, found, left = read(SAMPLES / sample)
    counted: dict[str, int] = {}
    for what, _, count in left:
        counted[what] = counted.get(what, 0) + count
    assert (name, len(found), counted) == EXPECTED[sample]
    assert len({item.where for item in found}) > len(found) // 2
    assert all(item.where for item in found)


@each_sample
def test_a_sample_is_taken_in_whole_and_a_second_time_changes_nothing(memos: MemOS, sample: str) -> None:
    told = records(SAMPLES / sample)
    foreseen = memos.import_memories(told, ME, dry_run=True)
    assert memos.cubes(ME) == ()
    report = memos.import_memories(told, ME)
    assert (report.added, report.duplicates, report.refused) == (len(told), 0, [])
    assert (foreseen.added, foreseen.refused, foreseen.kinds) == (report.added, [], report.kinds)
    kept = [record for record in memos.export_memories(ME) if not is_piece(record)]
    assert sorted(record["content"] for record in kept) == sorted(record["content"] for record in told)
    revision = memos.status(ME).revision
    again = memos.import_memories(told, ME)
    assert (again.added, again.duplicates, again.refused) == (0, len(told), [])
    assert memos.import_memories(told, ME, dry_run=True).duplicates == len(told)
    assert memos.status(ME).revision == revision


def is_piece(record: dict[str, object]) -> bool:
    lineage = record["lineage"]
    assert isinstance(lineage, list)
    return any(edge["relation"] == "part_of" for edge in lineage)


@pytest.mark.parametrize("sample", ["openmemory", "basic-memory", "chatgpt", "claude", "markdown"])
@pytest.mark.parametrize("inside", ["", "export/"])
def test_a_folder_and_the_zip_of_it_are_the_same(tmp_path: Path, sample: str, inside: str) -> None:
    folder = read(SAMPLES / sample)
    packed = read(zipped(SAMPLES / sample, tmp_path / "export.zip", inside))
    assert packed[0] == folder[0]
    assert [found.record["content"] for found in packed[1]] == [found.record["content"] for found in folder[1]]
    assert [(what, count) for what, _, count in packed[2]] == [(what, count) for what, _, count in folder[2]]


@pytest.mark.parametrize("sample", [name for name in EXPECTED if "." in name and not name.endswith(".csv")])
def test_a_pipe_is_recognised_by_its_content(sample: str) -> None:
    source = of_bytes((SAMPLES / sample).read_bytes(), "-")
    found = recognise(source)
    assert found.name == EXPECTED[sample][0]
    assert len(list(found.read(source, Report()))) == EXPECTED[sample][1]


def test_the_backup_of_openmemory_is_read_from_its_lines_where_the_tables_are_missing(tmp_path: Path) -> None:
    lines = tmp_path / "memories.jsonl.gz"
    lines.write_bytes(gzip.compress((SAMPLES / "openmemory-lines.jsonl").read_bytes()))
    assert read(lines)[0] == "openmemory"
    assert contents(lines) == contents(SAMPLES / "openmemory-lines.jsonl") == contents(SAMPLES / "openmemory")


def test_what_a_program_said_besides_is_kept() -> None:
    first, second, relation = records(SAMPLES / "mem0.json")
    assert first["tags"] == ["travel", "preferences"]
    assert first["occurred_at"] == "2025-02-11T09:30:00-08:00"
    assert first["metadata"]["fields"]["metadata"] == {"channel": "travel"}
    assert first["metadata"]["fields"]["hash"] == "2f1a7c9f5b0e4d6ca1b2c3d4e5f60718"
    assert second["actor"] == "alex"
    assert relation["entities"] == ["alex", "north_pier"]
    note = records(SAMPLES / "mcp-memory-service.json")[0]
    assert (note["tags"], note["occurred_at"]) == (["greenhouse", "network"], "2023-08-21T16:00:00+00:00")
    assert note["metadata"]["fields"]["metadata"] == {"source": "example-machine", "project": "greenhouse"}
    assert note["metadata"]["fields"]["memory_type"] == "note"
    work = records(SAMPLES / "openmemory")[0]
    assert (work["tags"], work["metadata"]["fields"]["app"]) == (["work"], "cursor")


def test_notes_of_basic_memory_become_a_document_and_a_memory_for_each_observation_and_relation() -> None:
    note, brewing, tip, fact, tea, learned, anna, black = records(SAMPLES / "basic-memory")
    text = (SAMPLES / "basic-memory" / "coffee.md").read_text("utf-8")
    assert note["content"] == text.partition("rating: 4.5\n---\n")[2]
    assert (note["kind"], note["tags"], note["entities"]) == ("document", ["coffee", "kitchen"], ["Coffee Brewing"])
    assert note["metadata"]["fields"]["rating"] == 4.5
    assert brewing["content"] == "Pour over keeps the oils out #brewing #clarity"
    assert brewing["tags"] == ["brewing", "clarity"]
    assert brewing["metadata"]["fields"]["category"] == "method"
    assert brewing["metadata"]["fields"]["context"] == "tried twice"
    assert (tip["content"], fact["kind"]) == ("Water at 92 degrees is enough", "fact")
    assert tea["entities"] == ["Coffee Brewing", "Tea Ceremony"]
    assert learned["metadata"]["fields"]["relation"] == "learned from"
    assert anna["entities"] == ["Anna Lund"]
    assert black["kind"] == "preference"


def test_columns_are_fields_where_their_names_and_values_fit_and_metadata_elsewhere() -> None:
    oats, anna, ben, lines = records(SAMPLES / "table.csv")
    assert oats["tags"] == ["breakfast", "kitchen"]
    assert (oats["kind"], oats["occurred_at"]) == ("procedure", "2025-03-01T00:00:00+00:00")
    assert anna["metadata"]["fields"] == {"Person": "Anna", "Mood": "calm"}
    assert ben["metadata"]["fields"] == {"Person": "Ben"}
    assert lines["content"] == "Two lines\nin one cell"
    assert lines["metadata"]["fields"] == {"Kind": "opinion", "Date": "someday"}


def test_imported_memories_are_recalled(memos: MemOS) -> None:
    memos.import_memories(records(SAMPLES / "chatgpt"), ME)
    memos.import_memories(records(SAMPLES / "server-memory.jsonl"), ME)
    assert recalled(ask(memos, "the dog called Pim"))[0] == "Has a dog called Pim."
    assert recalled(ask(memos, "who keeps bees?"))[0] == 'Keeps bees — 3 hives, "Top Bar"'


# --- what is broken -------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[str, bytes, str]] = {
    "server-memory": ("g.jsonl", b'{"type": "entity", "name": "A", "entityType": "x"}', "line 1 of"),
    "server-memory, a line": ("g.jsonl", b'{"type": "entity", "name": "A", ', "line 1 of"),
    "mcp-memory-service": ("m.json", b'{"export_metadata": {}, "memories": [{"content": ', "is not JSON"),
    "mem0": ("m.json", b'{"results": [{"memory": "a", "id": "1"}, {"memory": ', "is not JSON"),
    "openmemory": ("m.json", b'{"memories": {}, "memory_categories": []}', "no export of OpenMemory"),
    "basic-memory": ("n.md", b"---\npermalink: [a\n---\ntext", "is not YAML"),
    "chatgpt": ("conversations.json", b'[{"mapping": {}}, {"title": "x"}]', "has no mapping"),
    "chatgpt, cut": ("conversations.json", b'[{"mapping": {"a": ', "is not JSON"),
    "claude": ("conversations.json", b'[{"uuid": "1", "chat_messages": [', "is not JSON"),
    "claude, another": ("conversations.json", b'[{"name": "x"}]', "no export of Claude"),
    "jsonl": ("a.jsonl", b'{"content": "a"}\n[1]\n', "line 2 of"),
    "json": ("a.json", b'[{"content": "a"}, 7]', "item 2 of"),
    "csv": ("a.csv", b"name,mood\nx,y\n", "no column named content"),
    "csv, a row": ("a.csv", b"content,mood\nx,y,z\n", "row 2 of"),
    "csv, bytes": ("a.csv", b"content,mood\n\xff\xfe,y\n", "is no table"),
    "markdown": ("a.md", b"---\na: &x [1]\nb: *x\n---\ntext", "has references"),
    "markdown, bytes": ("a.md", b"text \xff", "is not UTF-8 text"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_gives_one_clear_error(tmp_path: Path, case: str) -> None:
    file, data, complaint = BROKEN[case]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(Invalid) as caught:
        read(tmp_path / file, case.partition(",")[0])
    assert complaint in str(caught.value)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\0\1\2", b"just words", b"[]", b"{}", b"7", b'{"a": 1}'])
def test_what_is_no_known_format_is_said_with_the_formats_that_there_are(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "thing").write_bytes(data)
    with pytest.raises(Invalid, match=", ".join(FORMATS)):
        read(tmp_path / "thing")
