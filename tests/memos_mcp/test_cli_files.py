"""Memories in and out of files: nothing lost, nothing twice, nothing half."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.memos_mcp.shell import Shell, shell


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path / "data") as opened:
        yield opened


def exported(sh: Shell) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sh("export", "jsonl", "-").out.splitlines()]


def test_what_is_exported_can_be_imported_elsewhere_and_is_the_same(sh: Shell, tmp_path: Path) -> None:
    first = sh.remember("The oboe is in the attic.", "--tag", "music", "--cube", "home", "--source", "diary")
    second = sh.remember("The attic ladder creaks.")
    sh.good("forget", second)
    file = tmp_path / "all.jsonl"
    assert sh("export", "jsonl", str(file)).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert {record["id"]: record["state"] for record in records}[second] == "archived"
    assert all({"id", "cube", "content", "state"} <= set(record) for record in records)
    with shell(tmp_path / "other") as other:
        report = other.good("import", "jsonl", str(file))
        assert (report["read"], report["added"]) == (2, 2)
        assert sorted(exported(other), key=lambda r: r["id"]) == sorted(records, key=lambda r: r["id"])
        again = other.good("import", "jsonl", str(file))
        assert (again["added"], again["duplicates"]) == (0, 2)
        assert first in {record["id"] for record in exported(other)}


def test_plain_contents_are_taken_in_from_standard_input(sh: Shell) -> None:
    lines = '{"content": "Rosehip jam needs three hours."}\n\n{"content": "Quince needs four.", "cube": "kitchen"}\n'
    assert sh.good("import", "jsonl", "-", stdin=lines)["added"] == 2
    assert {record["cube"] for record in exported(sh)} == {"default", "kitchen"}


def test_a_dry_run_changes_nothing(sh: Shell) -> None:
    done = sh("import", "jsonl", "-", "--dry-run", stdin='{"content": "one"}\n{"content": "two"}\n')
    assert done.code == 0
    assert "nothing was changed" in done.out
    assert not sh.data.exists()


def test_a_line_that_cannot_be_read_is_named(sh: Shell) -> None:
    for line, complaint in (("{oops", "line 2 of - is not JSON"), ("[1]", "line 2 of - is not a JSON object")):
        done = sh("import", "jsonl", "-", stdin=f'{{"content": "fine"}}\n{line}\n')
        assert done.code == 1
        assert complaint in done.err


def test_a_record_that_is_refused_is_named_by_its_line_and_the_others_are_in(sh: Shell) -> None:
    done = sh("import", "jsonl", "-", "--json", stdin='{"content": "fine"}\n\n{"cube": "no content"}\n')
    assert done.code == 1
    assert "line 3: " in done.err
    assert done.json["added"] == 1


def test_an_export_replaces_no_file_unless_told_to(sh: Shell, tmp_path: Path) -> None:
    sh.remember("Something.")
    file = tmp_path / "there.jsonl"
    file.write_text("precious", "utf-8")
    assert sh("export", "jsonl", str(file)).code == 1
    assert file.read_text("utf-8") == "precious"
    assert sh("export", "jsonl", str(file), "--force").code == 0
    assert "Something." in file.read_text("utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "there.jsonl"]


def test_an_export_that_fails_leaves_no_file(sh: Shell, tmp_path: Path) -> None:
    sh.remember("Something.")
    done = sh("export", "jsonl", str(tmp_path / "x.jsonl"), "--cube", "nowhere")
    assert done.code == 1
    assert "nowhere" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_backup_brings_back_what_was(sh: Shell, tmp_path: Path) -> None:
    kept = sh.remember("Before the backup.")
    copy = tmp_path / "copy.duckdb"
    assert sh.good("backup", str(copy))["path"] == str(copy)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sh("backup", str(copy)).code == 1
    sh.remember("After the backup.")
    assert len(exported(sh)) == 2
    restored = sh.good("restore-backup", str(copy))
    assert (Path(restored["kept"]) / "vault.duckdb").is_file()
    assert [record["id"] for record in exported(sh)] == [kept]


def test_a_file_that_is_no_backup_changes_nothing(sh: Shell, tmp_path: Path) -> None:
    kept = sh.remember("Still here.")
    wrong = tmp_path / "wrong.duckdb"
    wrong.write_bytes(b"not a database" * 1000)
    done = sh("restore-backup", str(wrong))
    assert done.code == 1
    assert str(wrong) in done.err
    assert [record["id"] for record in exported(sh)] == [kept]
