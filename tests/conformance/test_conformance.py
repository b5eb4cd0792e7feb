"""The official conformance suite, the inspector and the TypeScript SDK, against the real server.

The suite's fixtures stand in front of the real handlers (see `fixtures`); the inspector and the TypeScript client speak
to the real `memos-mcp` and its daemon too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.node import CONFORMANCE, FOLDER, MODULES, installed, run_node
from tests.memos_mcp.processes import ROOT, daemon_gone_after, environment

REQUIRED = {"2025-11-25": 30, "2026-07-28": 37}  # scenarios for servers
INSPECTOR = MODULES / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
COMMAND = Path(sys.executable).parent / "memos-mcp"
ERAS = ["legacy", "auto"]

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("conformance")]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The server with the suite's fixtures, over HTTP."""
    installed()
    command = [sys.executable, "-m", "tests.conformance.server", str(tmp_path / "data")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "the server did not start"
        yield f"http://localhost:{port}/mcp"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose daemon is gone after the test."""
    with daemon_gone_after(tmp_path / "data") as folder:
        yield folder


def scored(revision: str) -> list[str]:
    """The scenarios that a revision requires of servers, from the suite's own list."""
    text = (CONFORMANCE / "requirements" / f"{revision}.yaml").read_text()
    section = re.split(r"^\w+:$", text.partition("\nserver:\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^  - (\S+)$", section, flags=re.MULTILINE)


@pytest.mark.parametrize("revision", sorted(REQUIRED))
def test_every_scenario_that_a_revision_requires_passes(url: str, revision: str) -> None:
    script = CONFORMANCE / "dist" / "index.js"
    done = run_node(script, "server", "--url", url, "--requirements", revision)
    passed = set(re.findall(r"^✓ ([\w-]+): \d+ passed, 0 failed", done.stdout, flags=re.MULTILINE))
    required = scored(revision)
    assert len(required) == REQUIRED[revision]
    assert [name for name in required if name not in passed] == [], done.stdout[-5_000:] + done.stderr[-2_000:]
    assert done.returncode == 0


def inspected(*target: str) -> list[dict[str, Any]]:
    done = run_node(INSPECTOR, "--cli", *target, "--method", "tools/list", "--strict", "--format", "json")
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith(("Warning: tool", "Error: tool"))]
    assert complaints == [], done.stderr
    tools: list[dict[str, Any]] = json.loads(done.stdout)["result"]["tools"]
    return tools


@pytest.mark.parametrize("protocol_era", ["legacy", "modern"])
def test_the_inspector_finds_nothing_to_complain_about(data: Path, protocol_era: str) -> None:
    installed()
    settings = [part for name in ("MEMOS_DATA", "MEMOS_EMBEDDER", "MEMOS_IDLE_S") for part in ("-e", pair(data, name))]
    tools = inspected(str(COMMAND), *settings, "--protocol-era", protocol_era)
    assert [tool["name"] for tool in tools] == ["remember", "recall", "forget", "fuse"]


def pair(data: Path, name: str) -> str:
    return f"{name}={environment(data)[name]}"


def check_visit(done: subprocess.CompletedProcess[str], era: str, kind: str) -> None:
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    text = f"The {era} kettle over {kind} whistles in F sharp."
    assert seen["tools"][:4] == ["remember", "recall", "forget", "fuse"]
    assert (seen["found"], seen["read"]) == ([text], text)
    assert seen["refused"].startswith("Invalid: unknown argument 'top_k': use only query, ")
    assert seen["prompts"][:3] == ["recall_context", "save_session", "reflect"]


@pytest.mark.parametrize("era", ERAS)
def test_a_typescript_client_remembers_and_recalls_over_stdio(data: Path, era: str) -> None:
    installed()
    done = run_node(FOLDER / "client.mjs", era, "stdio", str(COMMAND), **environment(data))
    check_visit(done, era, "stdio")


@pytest.mark.parametrize("era", ERAS)
def test_a_typescript_client_remembers_and_recalls_over_http(url: str, era: str) -> None:
    check_visit(run_node(FOLDER / "client.mjs", era, "http", url), era, "http")
