"""Facts from conversations as a person asks for them in a shell: remembering, importing, stored ones; and kill -9."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.drawing.fake_reader import FakeReader, fact, fake_reader
from tests.memos_mcp.processes import owner, until
from tests.memos_mcp.shell import Shell, shell

LIVES = "I live in Porto these days."


@pytest.fixture
def reader() -> Iterator[FakeReader]:
    with fake_reader() as made:
        made.knows[LIVES] = [fact("Anna lives in Porto.")]
        yield made


@pytest.fixture
def sh(tmp_path: Path, reader: FakeReader, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    with shell(tmp_path / "data") as opened:
        started = opened("remember", "The daemon runs.", MEMOS_READER=reader.url)
        assert started.code == 0, started.err
        yield opened


def said(*texts: str) -> str:
    return json.dumps([{"role": "user", "name": "Anna", "content": text} for text in texts])


def contents(sh: Shell, cube: str = "default") -> list[str]:
    done = sh("export", "jsonl", "-", "--cube", cube)
    assert done.code == 0, done.err
    return [record["content"] for record in map(json.loads, done.out.splitlines()) if record["origin"] == "inference"]


def drawn(sh: Shell, cube: str = "default") -> Any:
    return until(lambda: contents(sh, cube), "facts are there")


def test_who_waits_is_shown_what_was_drawn(sh: Shell) -> None:
    done = sh("remember", "--messages", "-", "--facts", "wait", stdin=said(LIVES))
    assert done.code == 0, done.err
    assert "drawn: added" in done.out
    assert "1 facts were drawn from 1 turns" in done.err
    asked = sh.good("remember", "--messages", "-", "--facts", "wait", stdin=said(f"Hm. {LIVES}", "Good night."))
    assert len(asked["stored"]) == 2
    assert asked["remarks"] == ["0 facts were drawn from 2 turns"]
    assert contents(sh) == ["Anna lives in Porto."]
    assert "(a server)" in sh.good("status")["reader"]


def test_the_reply_that_does_not_wait_names_the_work(sh: Shell, reader: FakeReader) -> None:
    answer = sh.good("remember", "--messages", "-", stdin=said(LIVES))
    assert answer["work"].startswith("w_")
    assert drawn(sh) == ["Anna lives in Porto."]


def test_imported_conversations_are_read_only_if_that_is_asked_for(
    sh: Shell, reader: FakeReader, tmp_path: Path
) -> None:
    record = {"content": LIVES, "role": "user", "actor": "Anna", "session": "s1", "position": 0, "cube": "talks"}
    (tmp_path / "talk.jsonl").write_text(json.dumps(record) + "\n", "utf-8")
    assert sh.good("import", "jsonl", str(tmp_path / "talk.jsonl"))["added"] == 1
    assert not reader.asked
    other = {**record, "session": "s2", "cube": "more"}
    (tmp_path / "other.jsonl").write_text(json.dumps(other) + "\n", "utf-8")
    assert sh.good("import", "jsonl", str(tmp_path / "other.jsonl"), "--facts")["to_read"] == 1
    assert drawn(sh, "more") == ["Anna lives in Porto."]
    assert not contents(sh, "talks")


def test_stored_conversations_are_read_when_that_is_asked_for_and_once(sh: Shell) -> None:
    assert sh("remember", "--messages", "-", "--facts", "none", stdin=said(LIVES)).code == 0
    assert not contents(sh)
    assert sh.good("facts")["work"]["what"] == "read"
    assert drawn(sh) == ["Anna lives in Porto."]
    again = sh("facts")
    assert "no turn in default that nothing was drawn from" in again.out


def test_a_daemon_that_is_killed_while_it_reads_loses_nothing_and_draws_nothing_twice(
    sh: Shell, reader: FakeReader
) -> None:
    texts = [f"My jar number {number} holds cherry jam from the garden." for number in range(45)]
    for number, text in enumerate(texts):
        reader.knows[text] = [fact(f"Anna's jar number {number} holds cherry jam.")]
    reader.holds_after = 2  # the third window is asked for, and not answered
    work = sh.good("remember", "--messages", "-", stdin=said(*texts))["work"]
    until(lambda: len(reader.readings) == 3, "the third window is asked for")
    assert len(contents(sh)) == 40
    pid = owner(sh.data)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    reader.holds_after = None
    reader.goes_on.set()
    started = sh("status", "--json", MEMOS_READER=reader.url)
    assert started.code == 0
    first = sh("recall", "cherry jam", MEMOS_READER=reader.url)
    assert first.code == 0, first.err
    until(
        lambda: [row["state"] for row in sh.good("tier", "work")["work"] if row["id"] == work] == ["done"], "it is done"
    )
    assert sorted(contents(sh)) == sorted(f"Anna's jar number {number} holds cherry jam." for number in range(45))


def test_without_a_reader_asking_for_facts_says_what_to_set(tmp_path: Path) -> None:
    with shell(tmp_path / "plain") as plain:
        answer = plain.good("remember", "--messages", "-", "--facts", "wait", stdin=said(LIVES))
        assert set(answer) == {"cube", "revision", "stored"}
        refused = plain("facts")
        assert refused.code == 1
        assert "MEMOS_READER" in refused.err
