"""`memos-mcp tier show`, `build`, `drop`, and chats with the small trained model: one daemon, real KV caches."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.memos_mcp.model_server import model_server
from tests.memos_mcp.shell import Shell, shell
from tests.memos_mcp.terminals import terminal
from tests.models.fixtures import LATEST_WINS

MODEL = ("--model", str(LATEST_WINS))
FACTS = tuple(
    f"the food of {name} is {food} ." for name, food in (("alice", "soup"), ("bob", "rice"), ("dave", "curry"))
)


@pytest.fixture
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("tiers") / "data") as opened:
        yield opened


def test_the_tier_is_built_used_shown_and_dropped(sh: Shell) -> None:
    ids = [sh.remember(fact, "--cube", "kitchen") for fact in FACTS]
    sh.good("govern", *ids[:2], "--pin")
    assert sh.good("tier", "show") == {"tiers": []}
    assert "no KV cache is kept" in sh("tier", "show").err

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


def test_what_has_no_kv_tier_is_refused_in_one_line(sh: Shell) -> None:
    sh.remember(FACTS[0], "--cube", "kitchen")
    with model_server() as server:
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
