"""`memos-mcp tier show`, `build`, `drop`, and chats with the small trained model: one daemon, real KV caches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memos_mcp.model_server import model_server
from tests.memos_mcp.shell import Shell, shell
from tests.memos_mcp.terminals import CTRL_C, CTRL_D, terminal
from tests.models.fixtures import LATEST_WINS

MANY = 100  # memories: a build that takes long enough to be stopped
MODEL = ("--model", str(LATEST_WINS))
FACTS = tuple(
    f"the food of {name} is {food} ." for name, food in (("alice", "soup"), ("bob", "rice"), ("dave", "curry"))
)


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell whose daemon has loaded the model once one of the tests has asked for it."""
    with shell(tmp_path_factory.mktemp("tiers") / "data") as opened:
        yield opened


def test_a_person_who_chats_hears_that_the_model_is_loaded_and_what_was_not_read_again(sh: Shell) -> None:
    ids = [sh.remember(f"the pet of {name} is cat .", "--cube", "pets") for name in ("alice", "bob", "carol")]
    sh.good("govern", *ids, "--pin")
    reused: list[int] = []
    with terminal(sh.data, "chat", *MODEL, "--cube", "pets", "--temperature", "0") as chat:
        chat.until(f"loading {LATEST_WINS}")
        chat.until("parameters, float32 on cpu")
        for _ in range(2):
            chat.until("> ")
            chat.types("what is the pet of bob ?\n")
            shown = chat.until("prompt tokens reused")
            assert "cat\n" in shown
            assert all(f"{id} text, pinned  the pet of " in shown for id in ids)
            (count,) = re.findall(r"(\d+) of \d+ prompt tokens reused", shown)
            reused.append(int(count))
            chat.until("> ")
            chat.types("/new\n")
            chat.until("a new conversation")
        assert reused[0] == 0 < reused[1]
        assert chat.end(CTRL_D) == 0


def test_the_tier_is_built_used_shown_and_dropped(sh: Shell) -> None:
    ids = [sh.remember(fact, "--cube", "kitchen") for fact in FACTS]
    sh.good("govern", *ids[:2], "--pin")
    assert sh.good("tier", "show", "kitchen") == {"tiers": []}
    assert "no KV cache is kept" in sh("tier", "show", "kitchen").err

    built = sh.good("tier", "build", "kitchen", *MODEL)
    assert built["cube"] == "kitchen"
    assert built["prefix_tokens"] > 0
    assert built["chunks"] >= 1
    assert built["bytes"] > 0

    turns = "what is the food of alice ?\nwhat is the food of bob ?\n"
    done = sh("chat", *MODEL, "--cube", "kitchen", "--temperature", "0", "--json", stdin=turns)
    assert done.code == 0, done.err
    replies = [event for event in map(json.loads, done.out.splitlines()) if event["event"] == "finished"]
    assert [reply["text"].strip() for reply in replies] == ["soup", "rice"]
    assert all(reply["reused_tokens"] > 0 for reply in replies)
    assert all("prefix" in reply["tier"] for reply in replies)
    assert {used["id"] for used in replies[0]["used"] if used["pinned"]} == set(ids[:2])

    rows = sh.good("tier", "show", "kitchen")["tiers"]
    assert {row["form"].split()[0].split("-")[0] for row in rows} == {"prefix", "chunk"}
    assert all(row["usable"] and row["bytes"] > 0 and row["tokens"] > 0 for row in rows)
    table = sh("tier", "show", "kitchen")
    assert table.out.splitlines()[0].split()[:4] == ["id", "cube", "form", "tokens"]
    assert all(row["id"] in table.out for row in rows)
    assert f"{len(rows)} KV caches" in table.err

    refused = sh("tier", "drop", "kitchen")
    assert (refused.code, refused.out) == (1, "")
    assert "nothing was dropped: say --yes" in refused.err
    with terminal(sh.data, "tier", "drop", "kitchen") as asked:
        asked.until("[y/N]")
        asked.types("n\n")
        asked.until("nothing was dropped")
        assert asked.end() == 1
    assert sh.good("tier", "show", "kitchen")["tiers"] == rows

    assert sh.good("tier", "drop", "kitchen", "--yes") == {"dropped": len(rows)}
    assert sh.good("tier", "show", "kitchen")["tiers"] == []
    assert len(sh.good("recall", "food", "--cube", "kitchen")["memories"]) == len(FACTS)


def test_building_can_be_stopped_and_done_again(sh: Shell) -> None:
    notes = [{"cube": "large", "content": f"note : code of alice = {number} ."} for number in range(MANY)]
    sh.good("import", "jsonl", "-", stdin="".join(json.dumps(note) + "\n" for note in notes))
    with terminal(sh.data, "tier", "build", "large", *MODEL) as build:
        build.until("building chunks")
        build.types(CTRL_C)
        assert build.end() == 1
    assert "memos-mcp: interrupted" in build.plain
    made = sh.good("tier", "show", "large")["tiers"]
    assert len(made) < MANY
    assert sh.good("tier", "build", "large", *MODEL)["chunks"] == MANY
    assert len(sh.good("tier", "show", "large")["tiers"]) == MANY


def test_what_has_no_kv_tier_is_refused_in_one_line(tmp_path: Path) -> None:
    with model_server() as server, shell(tmp_path / "data") as sh:
        sh.remember(FACTS[0], "--cube", "kitchen")
        cases = (
            (("tier", "build", "kitchen"), "no model is configured"),
            (("tier", "build", "kitchen", "--model", server.url), "remote server"),
            (("tier", "build", "nowhere"), "nowhere"),
            (("tier", "show", "nowhere"), "nowhere"),
        )
        for words, complaint in cases:
            done = sh(*words)
            assert (done.code, done.out) == (1, ""), words
            assert complaint in done.err
            assert done.err.count("\n") == 1
