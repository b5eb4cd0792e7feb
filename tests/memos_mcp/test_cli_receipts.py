"""Receipts of erasures from a shell: listed, shown, verified, and refused where they are not true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memos_mcp.commands.receipts import tiers
from tests.memos_mcp.shell import Shell, shell


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("receipts") / "data") as opened:
        yield opened


@pytest.fixture(scope="module")
def erased(sh: Shell) -> dict[str, Any]:
    """The answer to an erasure."""
    identity = sh.remember("The password hint is the name of the parrot.")
    return dict(sh.good("forget", identity, "--mode", "erase", "--yes"))


def test_an_erasure_names_its_receipt_and_that_is_listed_and_shown(sh: Shell, erased: dict[str, Any]) -> None:
    receipt = erased["receipt"]
    assert sh.good("receipt", "list")["receipts"] == [receipt]
    assert sh.good("receipt", "show", receipt["id"]) == {"receipt": receipt, "since": []}
    shown = sh("receipt", "show", receipt["id"])
    assert shown.code == 0
    assert receipt["signature"]["key"] in shown.out
    assert receipt["id"] in sh("receipt", "list").out
    assert "parrot" not in shown.out
    unknown = sh("receipt", "show", "r_nowhere")
    assert (unknown.code, "receipt list" in unknown.err) == (1, True)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_receipt_in_a_file_is_verified(sh: Shell, erased: dict[str, Any], tmp_path: Path, wrapped: bool) -> None:
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(erased if wrapped else erased["receipt"]), "utf-8")
    found = sh.good("receipt", "verify", str(file))
    assert (found["id"], found["known_as"]) == (erased["receipt"]["id"], "this store")
    assert "is as it was signed by this store" in sh("receipt", "verify", str(file)).out


def test_what_is_no_true_receipt_is_refused_in_one_line(sh: Shell, erased: dict[str, Any], tmp_path: Path) -> None:
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps({**erased["receipt"], "erased": ["m_other"]}), "utf-8")
    junk = tmp_path / "junk.json"
    junk.write_text("[1]", "utf-8")
    wrong = {str(forged): "was changed after it was signed", str(tmp_path / "none.json"): "cannot be read"}
    wrong[str(junk)] = f"{junk}: that is no receipt"
    for name, why in wrong.items():
        refused = sh("receipt", "verify", name)
        assert refused.code == 1
        assert why in refused.err
        assert refused.err.count("\n") == 1


def test_elsewhere_a_receipt_counts_once_its_key_is_trusted(
    erased: dict[str, Any], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(erased["receipt"]), "utf-8")
    with shell(tmp_path_factory.mktemp("elsewhere") / "data") as there:
        refused = there("receipt", "verify", str(file))
        key = json.loads(there("receipt", "verify", str(file), "--json").out)["key"]
        assert refused.code == 1
        assert f"cube key trust {key}" in refused.err
        there.good("cube", "key", "trust", key)
        assert there.good("receipt", "verify", str(file))["known_as"] is not None


def test_a_bundle_that_was_taken_off_its_shelf_is_said_and_shown(sh: Shell, tmp_path: Path) -> None:
    identity = sh.remember("The lifeboat is painted orange.", "--cube", "harbour")
    sh.good("cube", "publish", "harbour", str(tmp_path / "shelf"))
    done = sh("forget", identity, "--mode", "erase", "--yes")
    assert f"taken off its shelf: {tmp_path / 'shelf'}#harbour@" in done.err
    last = sh.good("receipt", "list")["receipts"][-1]
    assert "withdrawn" in sh("receipt", "show", last["id"]).out
    assert sh.good("cube", "shelf", "list", str(tmp_path / "shelf"))["bundles"] == []


def test_what_went_from_the_deeper_tiers_is_said_in_words() -> None:
    gone = [{"cube": "home", "version": 2, "served": True}, {"cube": "home", "version": 1, "served": False}]
    assert tiers({"kv": {"": 2, "home": 1}, "lora": gone}) == [
        ("kv", "2 of conversations, 1 of home"),
        ("lora", "adapter home 2 (it served), home 1"),
    ]
    assert tiers({"kv": {}, "lora": []}) == []
