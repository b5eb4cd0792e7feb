"""The documentation says what is there: commands, make targets, files, variables and versions."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from memos_mcp.commands.arguments import COMMANDS, parser
from memos_mcp.commands.command import Command
from memos_mcp.version import VERSION
from tests.memos_mcp.processes import LONG_S, daemon_gone_after, environment

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("client_examples/*.md")])
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PLACEHOLDERS = {"…": "", "TEXT": "x", "FILE": "f", "PATH": "p", "N": "1"}


def shown_commands() -> list[str]:
    """Every `memos-mcp …` in code, in a block or in a line of a table."""
    commands = []
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        commands += re.findall(r"^\$ (memos-mcp .+)$", text, re.MULTILINE)
        commands += re.findall(r"`(memos-mcp [a-z].*?)`", text)
    return commands


@pytest.mark.parametrize("command", shown_commands())
def test_a_shown_command_is_one_that_there_is(command: str) -> None:
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)[1:]]
    try:
        parser().parse_args([word for word in words if word])
    except SystemExit as end:  # argparse's way to say that it does not know it
        pytest.fail(f"{command}: exit code {end.code}")


NEEDS_MORE = {  # what a shown command needs that a test does not have
    "serve": "runs until somebody ends it",
    "encrypt --keyring": "the platform's keyring",
    "chat": "a model from the network",
    "tier move": "a model from the network",
    "facts": "a reader",
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_in_a_document_s_blocks_work_in_their_order(document: Path, tmp_path: Path) -> None:
    commands = re.findall(r"^\$ memos-mcp (.+)$", document.read_text("utf-8"), re.MULTILINE)
    if not commands:
        return
    for folder in ("media/disk", "srv/shelf", "here"):
        (tmp_path / folder).mkdir(parents=True)
    key = tmp_path / "memories.key"
    key.write_text("a passphrase of a few words\n", "utf-8")
    key.chmod(0o600)
    with daemon_gone_after(tmp_path / "data") as data:
        env = {**environment(data), "HOME": str(tmp_path)}

        def run(words: list[str]) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "memos_mcp", *words],
                cwd=tmp_path / "here",
                env=env,
                capture_output=True,
                text=True,
                timeout=LONG_S,
                check=False,
            )

        for cube in ("default", "handbook", "work", "private"):
            made = run(["remember", f"What {cube} is about stands here.", "--cube", cube])
            assert made.returncode == 0, made.stderr
        for command in commands:
            if any(command.startswith(words) for words in NEEDS_MORE):
                continue
            for place in ("/media/disk", "/srv/shelf", "~/memories.key"):
                command = command.replace(place, f"{tmp_path}/{place.lstrip('~/')}")
            done = run(shlex.split(command))
            assert done.returncode == 0, f"{command}: {done.stderr}"


def test_every_command_is_in_the_readme() -> None:
    for command in COMMANDS:
        assert f"| `memos-mcp {command.name}" in README, command.name


def test_every_part_of_a_command_is_in_a_table_of_the_documentation() -> None:
    tables = "\n".join(
        line for document in DOCUMENTS for line in document.read_text("utf-8").splitlines() if line.startswith("|")
    )
    for words in parts_of(COMMANDS):
        assert re.search(rf"`(memos-mcp )?{re.escape(words)}\b", tables), words


def parts_of(commands: tuple[Command, ...], before: str = "") -> list[str]:
    """`cube pack`, `cube key create`, …"""
    found = []
    for command in commands:
        if before and not command.parts:
            found.append(f"{before}{command.name}")
        found += parts_of(command.parts, f"{before}{command.name} ")
    return found


def test_every_make_target_that_is_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    shown = set(re.findall(r"make ([a-z-]+)", README)) | set(re.findall(r"^make ([a-z-]+)", _ci(), re.MULTILINE))
    assert {"demo", "test", "check", "bench"} <= shown
    assert shown <= targets


def test_continuous_integration_runs_the_tests_and_the_checks() -> None:
    assert re.findall(r"^make .+$", _ci(), re.MULTILINE) == ["make test", "make check"]


def test_every_link_to_a_file_leads_to_one() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_setting_is_in_a_table_of_the_documentation() -> None:
    settings = (ROOT / "engine" / "settings.py").read_text("utf-8")
    tables = [
        line
        for document in DOCUMENTS
        for line in document.read_text("utf-8").splitlines()
        if line.startswith("| `MEMOS")
    ]
    for name in sorted(set(re.findall(r'"(MEMOS_[A-Z_]+)"', settings))):
        assert any(f"`{name}`" in line.split(" | ")[0] for line in tables), name


def test_the_configuration_in_the_readme_is_the_one_in_the_examples() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    example = ROOT / "client_examples" / "configurations" / "claude_desktop_config.json"
    assert json.loads(block) == json.loads(example.read_text("utf-8"))


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert project["version"] == VERSION == newest[1]


def _ci() -> str:
    return (ROOT / ".ci" / "run").read_text("utf-8")
