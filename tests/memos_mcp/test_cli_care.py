"""Running it: status, doctor, stop, serve, tokens, and what a terminal sees first."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from memos_mcp.commands.arguments import COMMANDS
from memos_mcp.version import VERSION
from tests.memos_mcp.processes import LONG_S, alive, environment, free, until
from tests.memos_mcp.shell import COMMAND, Shell, shell

PROMISED = {"running", "pid", "version", "data", "revision", "counts", "embedder", "degraded"}


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path / "data") as opened:
        yield opened


def test_at_a_terminal_without_arguments_it_prints_help(sh: Shell) -> None:
    done = sh.at_a_terminal()
    assert done.code == 0
    for command in COMMANDS:
        assert command.name in done.out
    assert not sh.data.exists()


def test_every_command_has_its_function() -> None:
    waiting = list(COMMANDS)
    while waiting:
        command = waiting.pop()
        waiting += command.parts
        assert command.parts or callable(command.load()), command.name


def test_help_loads_nothing_heavy() -> None:
    probe = (
        "import sys; from memos_mcp.commands.arguments import parser; parser().format_help();"
        "print(sorted({'mcp', 'duckdb', 'numpy', 'pydantic', 'anyio', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_of_the_shell_loads_no_engine(tmp_path: Path) -> None:
    probe = (
        f"import sys; from memos_mcp.cli import main; main(['status', '--data', {str(tmp_path / 'd')!r}]);"
        "print(sorted({'mcp', 'duckdb', 'numpy', 'onnxruntime'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_status_starts_nothing_and_keeps_its_promise(sh: Shell) -> None:
    idle = sh.good("status")
    assert set(idle) >= PROMISED
    assert idle["running"] is False
    assert idle["counts"] is None
    assert idle["data"] == str(sh.data)
    assert not sh.data.exists()


def test_status_of_a_running_daemon_names_it(sh: Shell) -> None:
    sh.remember("One memory.")
    state = sh.good("status")
    assert set(state) >= PROMISED
    assert state["running"] is True
    assert alive(state["pid"])
    assert state["version"] == VERSION
    assert sum(state["counts"].values()) == 1
    assert state["embedder"] is None
    assert state["degraded"].startswith("lexical only")


def test_stop_waits_until_the_daemon_is_gone(sh: Shell) -> None:
    sh.remember("One memory.")
    pid = sh.good("status")["pid"]
    assert sh.good("stop") == {"stopped": True, "pid": pid}
    assert free(sh.data)
    assert sh.good("stop") == {"stopped": False, "pid": None}
    assert sh.good("recall", "memory")["memories"][0]["content"] == "One memory."


def test_doctor_finds_a_healthy_store_healthy(sh: Shell) -> None:
    sh.remember("One memory.")
    done = sh("doctor", "--json")
    assert done.code == 0, done.out
    assert done.json["healthy"] is True
    about = {finding["about"] for finding in done.json["findings"]}
    assert about >= {"python", "data folder", "disk", "daemon", "store", "audit, indexes", "embedder", "hnswlib"}


def test_doctor_looks_at_a_machine_without_a_store_and_makes_none(sh: Shell) -> None:
    assert sh("doctor").code == 0
    assert not sh.data.exists()


def test_doctor_says_what_to_do_about_an_open_file(sh: Shell) -> None:
    sh.remember("One memory.")
    (sh.data / "vault.duckdb").chmod(0o644)
    done = sh("doctor")
    assert done.code == 1
    assert "chmod go-rwx" in done.out
    assert done.err == "1 problem found\n"


def test_doctor_says_how_to_get_a_missing_embedder(sh: Shell) -> None:
    done = sh("doctor", "--json", MEMOS_EMBEDDER=str(sh.data / "no-such-model"))
    assert done.code == 1
    (problem,) = (finding for finding in done.json["findings"] if finding["level"] == "problem")
    assert problem["about"] == "embedder"
    assert "no-such-model" in problem["text"]


def test_doctor_names_the_backup_to_go_back_to_when_the_store_does_not_open(sh: Shell) -> None:
    sh.remember("One memory.")
    sh.good("stop")
    backups = sh.data / "backups"
    backups.mkdir(exist_ok=True)
    sh.good("backup", str(backups / "20990101T000000.000000Z-mine.duckdb"))
    sh.good("stop")
    database = sh.data / "vault.duckdb"
    database.write_bytes(b"\0" * database.stat().st_size)
    (sh.data / "vault.duckdb.wal").unlink(missing_ok=True)
    done = sh("doctor")
    assert done.code == 1
    assert "20990101T000000.000000Z-mine.duckdb" in done.out


def test_serve_answers_over_http_until_it_is_stopped(sh: Shell) -> None:
    serving = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment(sh.data)
    )
    assert serving.stderr is not None
    with serving.stderr as lines:
        place = lines.readline().split(" at ")[1].split("/mcp")[0]
        with urllib.request.urlopen(f"{place}/health", timeout=LONG_S) as answer:
            assert json.load(answer) == {"ok": True, "version": VERSION}
        sh.remember("Through the same daemon.")
        assert sh.good("status")["foreground"] is True
        assert sh.good("stop")["pid"] == serving.pid
        assert serving.wait(LONG_S) == 0


def test_serve_ends_at_a_signal(sh: Shell) -> None:
    serving = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment(sh.data)
    )
    assert serving.stderr is not None
    with serving.stderr as lines:
        lines.readline()
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(LONG_S) == 0
    until(lambda: free(sh.data), "the end of the daemon")


def test_serve_refuses_an_address_of_others_without_a_token(sh: Shell) -> None:
    done = sh("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.code == 1
    assert "token create" in done.err
    assert not (sh.data / "vault.duckdb").exists()


def test_a_token_is_shown_once_and_can_be_revoked(sh: Shell) -> None:
    made = sh.good("token", "create", "laptop", "--scope", "read:work", "--expires-in-days", "30")
    assert made["token"].startswith("memos_")
    (listed,) = sh.good("token", "list")
    assert (listed["name"], listed["scopes"]) == ("laptop", ["read:work"])
    assert made["token"] not in (sh.data / "tokens.json").read_text("utf-8")
    assert sh("token", "create", "laptop").code == 1
    sh.good("token", "revoke", "laptop")
    assert sh.good("token", "list") == []
    assert sh("token", "revoke", "laptop").code == 1
