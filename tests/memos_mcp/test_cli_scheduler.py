"""`memos-mcp scheduler show`, `run`, `log`, `undo`, and the scheduler in the status: one daemon, a real store."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.memos_mcp.shell import Shell, shell

COPY = "The car is parked behind the old mill."


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("scheduler") / "data") as opened:
        yield opened


def test_a_person_sees_what_would_be_moved_has_it_moved_and_takes_it_back(sh: Shell) -> None:
    ids = [sh.remember(COPY, "--cube", "cars"), "m_COPY"]
    sh("export", "jsonl", str(sh.data.parent / "one.jsonl"))
    (record,) = map(json.loads, (sh.data.parent / "one.jsonl").read_text("utf-8").splitlines())
    copy = {**record, "id": "m_COPY", "content": COPY.replace(".", "!")}
    (sh.data.parent / "copy.jsonl").write_text(json.dumps(copy) + "\n", "utf-8")
    assert sh("import", "jsonl", str(sh.data.parent / "copy.jsonl")).code == 0
    planned = sh.good("scheduler", "run", "--dry-run")["moves"]
    assert [(move["number"], move["part"], move["outcome"]) for move in planned] == [(0, "consolidate", "planned")]
    (made,) = sh.good("scheduler", "run")["moves"]
    assert made["undo"] == f"memos-mcp scheduler undo {made['number']}"
    assert set(made["ids"]) == set(ids)
    table = sh("scheduler", "log")
    assert table.code == 0
    assert "says all that the others say" in table.out.replace("\n", " ")
    undone = sh("scheduler", "undo", str(made["number"]))
    assert undone.code == 0, undone.err
    assert f"undid row {made['number']}" in undone.out
    rows = sh.good("scheduler", "log")["moves"]
    assert [row["outcome"].split(" (")[0] for row in rows] == [f"undid row {made['number']}", "undone"]
    again = sh("scheduler", "undo", str(made["number"]))
    assert again.code == 1
    assert "undone already" in again.err


def test_what_was_never_moved_cannot_be_taken_back(sh: Shell) -> None:
    done = sh("scheduler", "undo", "999999")
    assert done.code == 1
    assert "made no move 999999" in done.err


def test_the_parts_that_are_on_are_shown_here_and_in_the_status(sh: Shell) -> None:
    shown = sh("scheduler", "show")
    assert shown.code == 0
    assert "part archive" in shown.out
    assert "no local model is loaded" in shown.err
    state = sh.good("status")["scheduler"]
    assert state["parts"] == dict.fromkeys(("archive", "kv", "preload", "lora", "consolidate"), "on")
