"""The four tools and time travel from a shell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memos_mcp.shell import Shell, shell


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("cli") / "data") as opened:
        yield opened


def test_what_is_remembered_is_recalled_as_a_table_and_as_json(sh: Shell) -> None:
    identity = sh.remember("The lighthouse keeper is called Ottilie.", "--tag", "coast", "--kind", "fact")
    table = sh("recall", "Who keeps the lighthouse?")
    assert table.code == 0
    assert table.out.splitlines()[0].split() == ["id", "kind", "when", "score", "content"]
    assert "The lighthouse keeper is called Ottilie." in table.out
    found = sh.good("recall", "lighthouse", "--tag", "coast", "--limit", "1")["memories"]
    assert [(memory["id"], memory["tags"]) for memory in found] == [(identity, ["coast"])]


def test_a_text_may_come_from_standard_input(sh: Shell) -> None:
    stored = sh.good("remember", "-", stdin="The ferry to Inishmore leaves at nine.\n")["stored"]
    assert stored[0]["status"] == "added"
    assert sh.good("recall", "ferry Inishmore")["memories"][0]["content"].startswith("The ferry to Inishmore")


def test_a_conversation_may_come_from_a_file(sh: Shell, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "My bicycle is a green Gazelle.", "at": "2026-02-03T10:00:00+01:00"},
        {"role": "assistant", "content": "A green Gazelle, noted."},
    ]
    file = tmp_path / "turns.json"
    file.write_text(json.dumps(turns), "utf-8")
    assert len(sh.good("remember", "--messages", str(file), "--cube", "talk")["stored"]) == 2
    found = sh.good("recall", "green Gazelle bicycle", "--cube", "talk")["memories"]
    assert found[0]["content"] == "My bicycle is a green Gazelle."
    assert found[0]["occurred_at"] == "2026-02-03T09:00:00Z"


def test_a_file_that_is_no_conversation_is_refused_in_one_line(sh: Shell, tmp_path: Path) -> None:
    file = tmp_path / "turns.json"
    for content, complaint in (("{", "is not a JSON file"), ('{"role": "user"}', "must hold an array")):
        file.write_text(content, "utf-8")
        done = sh("remember", "--messages", str(file))
        assert (done.code, done.out) == (1, "")
        assert complaint in done.err
        assert done.err.count("\n") == 1


def test_a_refusal_of_the_daemon_is_one_line_and_exit_code_1(sh: Shell) -> None:
    for arguments in (
        ("history", "m_00000000000000000000"),
        ("recall", "x", "--limit", "1000"),
        ("remember", "x", "--occurred-at", "yesterday-ish"),
        ("recall", "x", "--cube", "no such cube!"),
    ):
        done = sh(*arguments)
        assert (done.code, done.out) == (1, ""), arguments
        assert done.err.startswith("memos-mcp: ")
        assert done.err.count("\n") == 1


def test_wrong_usage_is_exit_code_2(sh: Shell) -> None:
    for arguments in (("remember",), ("forget",), ("fuse",), ("fnord",), ("recall",), ("recall", "x", "--limit", "y")):
        assert sh(*arguments).code == 2, arguments


def test_archiving_by_id_can_be_undone(sh: Shell) -> None:
    identity = sh.remember("The spare key hangs behind the barometer.")
    assert sh.good("forget", identity)["forgotten"] == [{"id": identity, "mode": "archive"}]
    assert sh.good("recall", "spare key barometer")["memories"] == []
    sh.good("restore", identity, "--version", "1")
    assert sh.good("recall", "spare key barometer")["memories"][0]["id"] == identity
    changes = [row["change"] for row in sh.good("history", identity)["versions"]]
    assert changes[0] == "remember"
    assert len(changes) == 3


def test_erasing_needs_a_yes(sh: Shell) -> None:
    identity = sh.remember("The password hint is the name of the parrot.")
    without = sh("forget", identity, "--mode", "erase")
    assert without.code == 1
    assert "--yes" in without.err
    assert sh.good("recall", "parrot")["memories"][0]["id"] == identity
    erased = sh.good("forget", identity, "--mode", "erase", "--yes")
    assert erased["forgotten"] == [{"id": identity, "mode": "erase"}]
    assert erased["receipt"]["id"]
    assert sh.good("recall", "parrot")["memories"] == []


def test_the_token_of_a_preview_is_a_yes(sh: Shell) -> None:
    identity = sh.remember("Gunnhild collects thimbles.")
    preview = sh("forget", identity, "--mode", "erase", "--json")
    token = json.loads(preview.out)["confirm"]
    assert sh.good("forget", "--confirm", token)["forgotten"] == [{"id": identity, "mode": "erase"}]


def test_at_a_terminal_erasing_asks_first(sh: Shell) -> None:
    identity = sh.remember("Balthazar is afraid of geese.")
    no = sh.at_a_terminal("forget", identity, "--mode", "erase", types="n\n")
    assert "[y/N]" in no.err
    assert no.code == 1
    assert sh.good("recall", "Balthazar geese")["memories"]
    yes = sh.at_a_terminal("forget", identity, "--mode", "erase", types="y\n")
    assert yes.code == 0
    assert sh.good("recall", "Balthazar geese")["memories"] == []


def test_forgetting_what_is_not_there_fails(sh: Shell) -> None:
    done = sh("forget", "m_00000000000000000000")
    assert done.code == 1
    assert "m_00000000000000000000" in done.err


def test_two_memories_become_one(sh: Shell) -> None:
    first = sh.remember("Ludmila plays the viola.")
    second = sh.remember("Ludmila plays in the town orchestra.")
    dry = sh.good("fuse", first, second, "--dry-run")
    assert dry["fused"] is None
    fused = sh.good("fuse", first, second, "--content", "Ludmila plays the viola in the town orchestra.")
    assert sorted(fused["merged"]) == sorted((first, second))
    found = sh.good("recall", "Ludmila viola")["memories"]
    assert [memory["id"] for memory in found if "Ludmila" in memory["content"]] == [fused["fused"]["id"]]


def test_a_global_option_means_the_same_before_and_after_the_command(sh: Shell) -> None:
    identity = sh.remember("Option order does not matter.")
    before = sh("--json", "--data", str(sh.data), "recall", "option order")
    after = sh("recall", "option order", "--json", "--data", str(sh.data))
    for done in (before, after):
        assert done.json["memories"][0]["id"] == identity
