"""What other programs wrote, taken in from the command line: recognised, rehearsed, reported, and given back."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.formats import FORMATS
from memos_mcp.commands.arguments import EXPORTED, IMPORTED
from tests.engine.formats.samples_of import SAMPLES, zipped
from tests.memos_mcp.shell import Shell, shell


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path / "data") as opened:
        yield opened


def exported(sh: Shell) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sh("export", "jsonl", "-").out.splitlines()]


def test_the_command_line_names_the_formats_that_there_are() -> None:
    assert tuple(FORMATS) == IMPORTED
    written = {name for name, known in FORMATS.items() if known.write is not None or known.write_files is not None}
    assert set(EXPORTED) == written


def test_a_download_is_recognised_rehearsed_taken_in_and_known_afterwards(sh: Shell, tmp_path: Path) -> None:
    download = str(zipped(SAMPLES / "chatgpt", tmp_path / "download.zip"))
    foreseen = sh.good("import", download, "--dry-run")
    assert not sh.data.exists()
    report = sh.good("import", "auto", download)
    assert {**foreseen, "dry_run": False} == report
    assert (report["format"], report["read"], report["added"]) == ("chatgpt", 15, 15)
    assert report["kinds"] == {"message": 9, "fact": 5, "preference": 1}
    left = {(entry["what"], entry["why"]): entry["count"] for entry in report["not_carried"]}
    assert left[("image", "only words are kept")] == 2
    assert sum(left.values()) == 11
    before = exported(sh)
    assert sh.good("import", "--dry-run", download)["duplicates"] == 15
    again = sh.good("import", "chatgpt", download)
    assert (again["added"], again["duplicates"]) == (0, 15)
    assert exported(sh) == before


def test_people_are_told_what_was_taken_in_and_what_was_not(sh: Shell) -> None:
    done = sh("import", str(SAMPLES / "claude"), "--cube", "chats")
    assert done.code == 0
    assert "Claude's data export" in done.out
    assert [line.split() for line in done.out.splitlines() if line.startswith(("added", "not carried"))] == [
        ["added", "11"],
        ["not", "carried", "7"],
    ]
    assert "not carried: 2 × use of a tool: it is not part of what was said (conversation c1000000-" in done.err
    assert {record["cube"] for record in exported(sh)} == {"chats"}
    rehearsed = sh("import", str(SAMPLES / "mem0.json"), "--dry-run")
    assert "would be added" in rehearsed.out
    assert "nothing was changed" in rehearsed.out
    assert len(exported(sh)) == 11


def test_a_rehearsal_counts_what_a_file_repeats_once(sh: Shell) -> None:
    lines = '{"content": "one"}\n{"content": "two"}\n{"content": "one"}\n{"content": ""}\n'
    foreseen = sh("import", "jsonl", "-", "--dry-run", "--json", stdin=lines)
    done = sh("import", "jsonl", "-", "--json", stdin=lines)
    for outcome in (foreseen, done):
        assert outcome.code == 1
        assert "line 4: content is empty" in outcome.err
        assert (outcome.json["added"], outcome.json["duplicates"], len(outcome.json["refused"])) == (2, 1, 1)


def test_what_is_in_no_known_format_and_what_is_not_there_is_said_in_one_line(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "thing").write_bytes(b"\0\1")
    for path, complaint in (("thing", "in none of the formats"), ("nowhere", "cannot read")):
        done = sh("import", str(tmp_path / path))
        assert done.code == 1
        assert complaint in done.err
        assert done.err.count("\n") == 1
    assert not sh.data.exists()


def test_a_file_that_breaks_off_leaves_in_what_stood_before_and_is_completed_later(sh: Shell, tmp_path: Path) -> None:
    whole = [{"content": f"Memory number {number} of a large file."} for number in range(700)]
    text = json.dumps(whole)
    file = tmp_path / "all.json"
    file.write_text(text[:-40], "utf-8")
    done = sh("import", str(file))
    assert done.code == 1
    assert "is not JSON" in done.err
    assert "(500 memories that stand before it are in)" in done.err
    file.write_text(text, "utf-8")
    report = sh.good("import", str(file))
    assert (report["added"], report["duplicates"]) == (200, 500)


def test_the_official_servers_graph_goes_in_and_out_unchanged(sh: Shell, tmp_path: Path) -> None:
    sample = SAMPLES / "server-memory.jsonl"
    assert sh.good("import", str(sample))["format"] == "server-memory"
    out = tmp_path / "memory.jsonl"
    assert sh.good("export", "server-memory", str(out)) == {
        "format": "server-memory",
        "exported": 10,
        "not_carried": [],
    }
    assert out.read_bytes() == sample.read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_a_folder_of_markdown_is_written_whole_and_comes_back_whole(sh: Shell, tmp_path: Path) -> None:
    sh.good("import", str(SAMPLES / "claude"))
    sh.remember("The oboe is in the attic.", "--tag", "music", "--cube", "home")
    out = tmp_path / "notes"
    assert sh("export", "markdown", str(out)).code == 0
    files = sorted(path for path in out.rglob("*") if path.is_file())
    assert len(files) == 13  # twelve memories and the mark
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (out, out / "home")} == {0o700}
    with shell(tmp_path / "other") as other:
        report = other.good("import", str(out))
        assert (report["format"], report["added"], report["refused"]) == ("markdown", 12, [])
        assert sorted(exported(other), key=by_id) == sorted(exported(sh), key=by_id)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "notes", "other"]


def by_id(record: dict[str, Any]) -> str:
    return str(record["id"])


def test_only_a_folder_that_an_export_wrote_is_replaced_and_only_when_told(sh: Shell, tmp_path: Path) -> None:
    sh.remember("Something.")
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious.md").write_text("precious", "utf-8")
    assert sh("export", "markdown", str(mine)).code == 0
    first = {path.name for path in mine.rglob("*")}
    sh.remember("Something else.")
    assert sh("export", "markdown", str(mine)).code == 1
    assert {path.name for path in mine.rglob("*")} == first
    assert sh("export", "markdown", str(mine), "--force").code == 0
    assert len({path.name for path in mine.rglob("*")}) == len(first) + 1
    done = sh("export", "markdown", str(theirs), "--force")
    assert done.code == 1
    assert "was not written by an export" in done.err
    assert (theirs / "precious.md").read_text("utf-8") == "precious"
    assert sh("export", "markdown", "-").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mine", "theirs"]


def test_a_folder_that_cannot_be_finished_leaves_nothing(sh: Shell, tmp_path: Path) -> None:
    sh.remember("Something.")
    done = sh("export", "markdown", str(tmp_path / "out"), "--cube", "nowhere")
    assert done.code == 1
    assert "nowhere" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_cube_is_only_for_memories_that_name_none(sh: Shell, tmp_path: Path) -> None:
    file = tmp_path / "copy.jsonl"
    shutil.copy(SAMPLES / "plain.jsonl", file)
    assert sh.good("import", str(file), "--cube", "pantry")["added"] == 4
    assert [record["cube"] for record in exported(sh)].count("kitchen") == 1
    assert [record["cube"] for record in exported(sh)].count("pantry") == 3
