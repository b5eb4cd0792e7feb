"""Every example runs, does what it shows, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.memos_mcp.processes import Assistant, daemon_gone_after, environment
from tests.models.fixtures import LATEST_WINS

EXAMPLES = Path(__file__).resolve().parents[1] / "client_examples"
CONFIGURATIONS = sorted((EXAMPLES / "configurations").glob("*.json"))
SCRIPTS = Path(sys.executable).parent
LONG_S = 240.0


def run(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MEMOS_")}
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONG_S,
        env={**kept, "TMPDIR": str(folder)},
        check=False,
    )


def left_running(folder: Path) -> list[str]:
    """Command lines of processes that work in the folder."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes()
        except OSError:  # it has just ended
            continue
        if os.fsencode(folder) in line:
            lines.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return lines


def test_the_demo_ends_with_what_two_assistants_shared(tmp_path: Path) -> None:
    done = run("demo.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 questions of 6" in done.stdout
    assert "a search of the whole data folder for its text: 0 hits" in done.stdout
    assert left_running(tmp_path) == []
    assert list(tmp_path.glob("memos-example-*")) == []


def test_the_python_client_uses_all_four_tools_and_reads_a_resource(tmp_path: Path) -> None:
    done = run("python_client.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("remember:", "recall:", "fuse:", "resource: memos://cubes", "read:", "forget:"):
        assert word in done.stdout
    assert left_running(tmp_path) == []


def test_the_agent_answers_from_memory_and_forgets_when_told(tmp_path: Path) -> None:
    done = run("agent_loop.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [line.removeprefix("agent   ") for line in done.stdout.splitlines() if line.startswith("agent")]
    assert answers[2] == "Kirsten is allergic to sesame."
    assert answers[4] == "The bakery order for Saturday is 55 sourdough loaves."
    assert answers[5] == "I no longer use it (1 archived)."
    assert "sesame" not in answers[6]
    assert left_running(tmp_path) == []


def test_the_local_chat_answers_from_memory_and_does_not_read_it_twice(tmp_path: Path) -> None:
    done = run("local_chat.py", tmp_path, "--model", str(LATEST_WINS), "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("model ")] == [
        "model  paris",
        "model  sushi",
        "model  paris",
    ]
    reused = [int(count) for count in re.findall(r"prompt tokens, (\d+) of them reused", done.stdout)]
    assert reused[0] == 0
    assert min(reused[1:]) > 0
    assert "  prefix  The city of Alice is Paris." in done.stdout
    assert list(tmp_path.glob("memos-example-*")) == []


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_what_a_configuration_starts_answers(path: Path, tmp_path: Path) -> None:
    (entry,) = servers(json.loads(path.read_text("utf-8"))).values()
    with daemon_gone_after(tmp_path / "data") as data:
        command = [entry["command"], *entry["args"]]
        path_with_us = os.pathsep.join([str(SCRIPTS), os.environ.get("PATH", "")])
        command[0] = str(SCRIPTS / command[0])
        assistant = Assistant(data, command, PATH=path_with_us)
        try:
            assistant.start()
            names = {tool["name"] for tool in assistant.ask("tools/list")["result"]["tools"]}
            assert names == {"remember", "recall", "forget", "fuse"}
        finally:
            assistant.process.stdin.close()  # type: ignore[union-attr]
            assert assistant.process.wait(LONG_S) == 0


def servers(configuration: dict[str, Any]) -> dict[str, Any]:
    (found,) = (configuration[key] for key in ("mcpServers", "servers", "context_servers") if key in configuration)
    return dict(found)


def test_the_sample_conversation_has_sessions_in_order() -> None:
    sessions = json.loads((EXAMPLES / "conversation.json").read_text("utf-8"))["sessions"]
    times = [turn["at"] for session in sessions for turn in session["messages"]]
    assert len(sessions) == 4
    assert 40 <= len(times) <= 60
    assert times == sorted(times)


def test_examples_start_the_installed_command() -> None:
    done = subprocess.run(
        [str(SCRIPTS / "memos-mcp"), "--version"],
        capture_output=True,
        text=True,
        env=environment(Path("/nonexistent")),
        check=True,
    )
    assert done.stdout.startswith("memos-mcp ")
