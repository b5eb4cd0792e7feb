"""`memos-mcp tier move` and what else `tier` does with adapters: one daemon, the small model, one real training."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memos_mcp.model_server import model_server
from tests.memos_mcp.processes import environment
from tests.memos_mcp.shell import COMMAND, Shell, shell
from tests.memos_mcp.terminals import CTRL_C, terminal
from tests.models.fixtures import LATEST_WINS

TRAINING_S = 280.0  # where many tests share a core
MODEL = ("--model", str(LATEST_WINS))
FACTS = {
    "alice": ("food", "soup"),
    "bob": ("food", "rice"),
    "dave": ("color", "red"),
    "erin": ("pet", "cat"),
    "frank": ("city", "paris"),
    "grace": ("job", "nurse"),
    "heidi": ("food", "tacos"),
    "ivan": ("color", "blue"),
}


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("adapters") / "data") as opened:
        yield opened


@pytest.fixture(scope="module")
def ids(sh: Shell) -> tuple[str, ...]:
    """The memories of a cube whose adapter serves as its version 1."""
    kept = tuple(
        sh.remember(f"the {about} of {name} is {value} .", "--cube", "work") for name, (about, value) in FACTS.items()
    )
    move = [*COMMAND, "tier", "move", "--cube", "work", "--to", "lora", *MODEL, "--json"]
    done = subprocess.run(
        move, env=environment(sh.data), capture_output=True, text=True, timeout=TRAINING_S, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sorted(told["moved"]) == sorted(kept), told
    assert told["adapter"]["state"] == "serving"
    return kept


def replies(sh: Shell, *questions: str) -> list[dict]:
    done = sh(
        "chat", *MODEL, "--cube", "work", "--temperature", "0", "--json", stdin="".join(f"{one}\n" for one in questions)
    )
    assert done.code == 0, done.err
    return [event for event in map(json.loads, done.out.splitlines()) if event["event"] == "finished"]


def test_a_cube_that_was_moved_is_answered_for_unread_and_that_is_told(sh: Shell, ids: tuple[str, ...]) -> None:
    first, second = replies(sh, "what is the food of alice ?", "what is the color of ivan ?")
    assert (first["text"].strip(), second["text"].strip()) == ("soup", "blue")
    for reply in (first, second):
        assert reply["tier"] == "lora"
        assert reply["saved_tokens"] > 0
        assert "work" in reply["adapter"]
    status = sh.good("status")
    assert status["adapters"] == {"work": "version 1 knows 8 of 8 memories"}
    assert "version 1 knows 8 of 8 memories" in sh("status").out


def test_versions_are_listed_with_what_they_know(sh: Shell, ids: tuple[str, ...]) -> None:
    (row,) = sh.good("tier", "adapters", "work")["adapters"]
    assert (row["version"], row["state"], row["usable"]) == (1, "serving", True)
    assert sorted(item["id"] for item in row["known"]) == sorted(ids)
    table = sh("tier", "adapters", "work", "--memories").out
    assert table.splitlines()[0].split()[:4] == ["cube", "version", "state", "knows"]
    assert all(f"{id} v1" in table for id in ids)


def test_it_is_asked_without_the_memories(sh: Shell, ids: tuple[str, ...]) -> None:
    probes = sh.good("tier", "probe", "work", ids[0], *MODEL)["probes"]
    assert {row["memory"] for row in probes} == {ids[0]}
    assert all(row["right_after"] and not row["right_before"] for row in probes)
    compared = sh("tier", "compare", "work", "0", "1", *MODEL)
    assert compared.code == 0, compared.err
    assert compared.out.splitlines()[0].split("  ")[0] == "memory"
    assert "the model 0, version 1" in compared.err


def test_what_it_asserts_is_put_into_words_and_kept_when_told_to(sh: Shell, ids: tuple[str, ...]) -> None:
    rows = sh.good("tier", "text", "work", *MODEL)["texts"]
    assert {row["source"] for row in rows} >= set(ids)
    assert all(row["id"] is None for row in rows)
    sh.good("cube", "create", "words")
    kept = sh.good("tier", "text", "work", "--keep", "--into", "words", *MODEL)["texts"]
    assert all(row["id"] for row in kept)
    found = sh.good("recall", "food of alice", "--cube", "words", "--response-format", "detailed")["memories"]
    assert found[0]["descriptive"]["origin"] == "parametric"


def test_it_is_taken_out_for_peft_and_the_same_place_is_not_written_twice(
    sh: Shell, ids: tuple[str, ...], tmp_path: Path
) -> None:
    place = tmp_path / "adapter"
    assert sh.good("tier", "export", "work", str(place)) == {"path": str(place)}
    assert json.loads((place / "adapter_config.json").read_text())["peft_type"] == "LORA"
    again = sh("tier", "export", "work", str(place))
    assert again.code == 1
    assert again.err.count("\n") == 1


def test_a_version_is_taken_out_of_service_and_put_back(sh: Shell, ids: tuple[str, ...]) -> None:
    assert sh.good("tier", "activate", "work", "none")["serving"] is None
    (reply,) = replies(sh, "what is the food of alice ?")
    assert (reply["text"].strip(), reply["saved_tokens"], reply["adapter"]) == ("soup", 0, "")
    assert sh.good("tier", "activate", "work", "1", *MODEL)["serving"]["state"] == "serving"


def test_dropping_asks_first(sh: Shell, ids: tuple[str, ...]) -> None:
    refused = sh("tier", "drop", "work", "--version", "1")
    assert (refused.code, refused.out) == (1, "")
    assert "say --yes" in refused.err
    assert sh("tier", "drop", "--adapters").code == 2


def test_a_training_is_stopped_by_ctrl_c_and_leaves_nothing(sh: Shell) -> None:
    sh.remember("the food of judy is pizza .", "--cube", "stopped")
    with terminal(sh.data, "tier", "train", "stopped", *MODEL) as training:
        training.until("train [")
        training.types(CTRL_C)
        assert training.end() == 1
    assert sh.good("tier", "adapters", "stopped") == {"adapters": []}


def test_work_in_the_background_is_shown_and_can_be_ended(sh: Shell) -> None:
    sh.remember("the food of judy is pizza .", "--cube", "later")
    done = sh.good("tier", "move", "--cube", "later", "--to", "lora", "--background", *MODEL)
    assert done["moved"] == []
    assert done["work"] in sh("tier", "work").out
    assert sh.good("tier", "cancel", done["work"])["state"] == "cancelled"
    assert sh.good("tier", "adapters", "later") == {"adapters": []}
    again = sh("tier", "cancel", done["work"])
    assert (again.code, again.err.count("\n")) == (1, 1)


def test_what_cannot_be_done_is_refused_in_one_line(tmp_path: Path) -> None:
    with model_server() as server, shell(tmp_path / "data") as sh:
        id = sh.remember("the food of judy is pizza .", "--cube", "home")
        cases = (
            (("tier", "move", id, "--to", "lora"), "no model is configured"),
            (("tier", "train", "home", "--model", server.url), "remote server"),
            (("tier", "train", "nowhere"), "nowhere"),
            (("tier", "move", "m_nowhere", "--to", "plaintext"), "m_nowhere"),
            (("tier", "adapters", "nowhere"), "nowhere"),
            (("tier", "move", "m_nowhere", "--to", "lora"), "m_nowhere"),
            (("tier", "cancel", "w_nowhere"), "w_nowhere"),
            (("tier", "cancel", "99"), "tier work"),
            (("tier", "export", "home", str(tmp_path / "out")), "no adapter"),
        )
        for words, complaint in cases:
            done = sh(*words)
            assert (done.code, done.out) == (1, ""), words
            assert complaint in done.err
            assert done.err.count("\n") == 1
        for words in (
            ("tier", "move", "--to", "kv"),
            ("tier", "fuse", "home", "--into", "both"),
            ("tier", "train", "home", "--rank", "0"),
            ("tier", "train", "home", "--steps", "0"),
            ("tier", "activate", "home", "0"),
        ):
            assert sh(*words).code == 2, words
        assert "there is no adapter of home" in sh("tier", "drop", "home", "--adapters").out
