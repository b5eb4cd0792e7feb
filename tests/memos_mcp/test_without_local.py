"""Without the extra `local`, text memory is whole, and what needs a model says what to install; with it, torch waits.

Real processes, in which torch and its companions cannot be imported, as on a machine that does not have them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.memos_mcp.model_server import model_server
from tests.memos_mcp.processes import LONG_S, ROOT, Assistant, daemon_gone_after, environment
from tests.memos_mcp.shell import COMMAND, Done, Shell, shell
from tests.models.fixtures import LATEST_WINS

HEAVY = ("torch", "transformers", "peft", "accelerate")
BLOCKER = f"""\
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""
INSTALL = "pip install torch transformers peft accelerate"


@dataclass(frozen=True)
class Bare:
    """A shell on a machine without the extra."""

    data: Path
    path: str

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Done:
        return Shell(self.data)(*arguments, stdin=stdin, PYTHONPATH=self.path, **env)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    folder = tmp_path_factory.mktemp("bare")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(BLOCKER, "utf-8")
    with daemon_gone_after(folder / "data") as data:
        yield Bare(data, os.pathsep.join([str(ROOT), str(folder / "site")]))


def python(bare: Bare, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(bare.data, PYTHONPATH=bare.path),
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG_S,
    )


def test_nothing_of_the_extra_can_be_imported_here_and_every_package_of_ours_can(bare: Bare) -> None:
    for name in HEAVY:
        assert "No module named" in python(bare, f"import {name}").stderr
    done = python(bare, "import cubes, engine.memos, memos_mcp.cli, memos_mcp.server, memos_mcp.tools")
    assert done.returncode == 0, done.stderr


def test_the_four_tools_work_from_a_shell(bare: Bare) -> None:
    first = bare("remember", "The slipway is free on Mondays.", "--json").json["stored"][0]["id"]
    second = bare("remember", "The slipway is free on Tuesdays too.", "--json").json["stored"][0]["id"]
    assert "free on Mondays" in bare("recall", "When is the slipway free?").out
    assert bare("fuse", first, second, "--json").json["merged"] == [first, second]
    third = bare("remember", "The fog horn is broken.", "--json").json["stored"][0]["id"]
    assert bare("forget", third, "--json").json["forgotten"] == [{"id": third, "mode": "archive"}]


def test_chat_and_building_say_what_to_install(bare: Bare) -> None:
    bare("remember", "The slipway is free on Mondays.")
    model = ("--model", str(LATEST_WINS))
    assert bare("tier", "show", "--json").json["tiers"] == []
    for words in (("chat", *model), ("tier", "build", "default", *model)):
        done = bare(*words, stdin="When is the slipway free?\n")
        assert (done.code, done.out) == (1, ""), words
        assert INSTALL in done.err
        assert done.err.count("\n") == 1


def test_an_assistant_has_the_tools_and_ask_says_what_to_install(bare: Bare) -> None:
    command = [*COMMAND, "--toolsets", "core,local"]
    with Assistant(bare.data, command, PYTHONPATH=bare.path, MEMOS_MODEL=str(LATEST_WINS)) as assistant:
        assistant.start()
        assistant.remember("The chandler closes at six.")
        assert assistant.tool("recall", query="When does the chandler close?")["memories"]
        answer = assistant.ask("tools/call", name="ask", arguments={"question": "When does the chandler close?"})
    assert answer["result"]["isError"] is True
    text = answer["result"]["content"][0]["text"]
    assert text.startswith("Unavailable: ")
    assert INSTALL in text or "MEMOS_MODEL" in text


def test_a_model_by_url_needs_none_of_it(bare: Bare) -> None:
    bare("remember", "The lock keeper is called Jorun.")
    with model_server() as server:
        done = bare("chat", "--model", server.url, stdin="Who is the lock keeper?\n")
    assert done.out == "- The lock keeper is called Jorun.\n", done.err


# --- with the extra ---------------------------------------------------------------------------------------------------


def imported_by_the_daemon(data: Path) -> set[str]:
    """The packages that it has imported so far, by its log, to which `-X importtime` writes."""
    lines = (data / "daemon.log").read_text("utf-8", "replace").splitlines()
    found = (re.match(r"import time:\s+\d+ \|\s+\d+ \| +([\w.]+)$", line) for line in lines)
    return {match[1].partition(".")[0] for match in found if match}


def test_the_daemon_imports_torch_with_the_first_model_and_not_before(tmp_path: Path) -> None:
    with shell(tmp_path / "data") as sh:
        traced = {"PYTHONPROFILEIMPORTTIME": "1"}
        assert sh("remember", "the city of alice is paris .", **traced).code == 0
        assert sh("recall", "city of alice", **traced).code == 0
        assert sh("chat", **traced, stdin="hello\n").code == 1  # no model is configured
        before = imported_by_the_daemon(sh.data)
        assert "engine" in before
        assert before.isdisjoint(HEAVY)
        done = sh("chat", "--model", str(LATEST_WINS), "--temperature", "0", stdin="what is the city of alice ?\n")
        assert done.out == "paris\n", done.err
        assert "torch" in imported_by_the_daemon(sh.data)
