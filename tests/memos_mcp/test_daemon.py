"""The daemon as a process: elected, found, idle, stopped, replaced, hung."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Busy, Unavailable
from memos_mcp import dial, endpoint
from memos_mcp.version import VERSION
from tests.memos_mcp.processes import (
    ROOT,
    Assistant,
    alive,
    control,
    daemon_gone_after,
    daemons_so_far,
    environment,
    free,
    owner,
    stored_contents,
    until,
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, value in environment(tmp_path / "data").items():
        monkeypatch.setenv(name, value)
    with daemon_gone_after(tmp_path / "data") as folder:
        yield folder


def hello(mode: str = "control", version: str = VERSION) -> dial.Hello:
    return dial.Hello(mode, dial.new_session(), "test", version)


def test_assistants_that_start_at_the_same_instant_share_one_daemon(data: Path) -> None:
    assistants = [Assistant(data) for _ in range(8)]
    try:
        for assistant in assistants:
            assistant.start()
        for number, assistant in enumerate(assistants):
            assert assistant.remember(f"assistant {number} was here")["status"] == "added"
        assert daemons_so_far(data) == 1
        assert sorted(stored_contents(data)) == [f"assistant {n} was here" for n in range(8)]
    finally:
        for assistant in assistants:
            assert assistant.close() == 0


def test_what_the_daemon_writes_is_private_and_holds_no_content(data: Path) -> None:
    with Assistant(data) as assistant:
        assistant.start().remember("the launch word is heliotrope")
        private = [data / name for name in ("owner.lock", "endpoint.json", "daemon.sock", "daemon.log", "vault.duckdb")]
        assert {path.name: stat.S_IMODE(path.lstat().st_mode) for path in private} == {p.name: 0o600 for p in private}
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        found = endpoint.read_endpoint(data)
        assert found is not None
        log = (data / "daemon.log").read_text()
        assert "owns" in log
        assert "heliotrope" not in log
        assert found.token not in log


def test_an_idle_daemon_ends_and_leaves_nothing_to_connect_to(data: Path) -> None:
    with Assistant(data, MEMOS_IDLE_S="0") as assistant:
        assistant.start().remember("kept over the end of the daemon")
        pid = owner(data)
        assistant.close()
        until(lambda: free(data) and not alive(pid), "the idle daemon's end")
    assert endpoint.read_endpoint(data) is None
    assert not (data / "daemon.sock").exists()
    with Assistant(data) as assistant:
        assert assistant.start().remember("kept over the end of the daemon")["status"] == "duplicate"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_in_order_and_the_next_request_starts_another(
    data: Path, number: signal.Signals
) -> None:
    with Assistant(data) as assistant:
        assistant.start().remember("before the signal")
        pid = owner(data)
        os.kill(pid, number)
        until(lambda: free(data), "the daemon's end")
        assert "closed" in (data / "daemon.log").read_text()
        assert assistant.remember("before the signal")["status"] == "duplicate"
        assert owner(data) != pid


def test_stopping_on_purpose_lasts_until_there_is_work(data: Path) -> None:
    with Assistant(data) as assistant:
        assistant.start()
        assistant.ask("resources/subscribe", uri="memos://cubes")
        (stopped,) = control(data, "stop", {})
        until(lambda: free(data) and not alive(stopped["pid"]), "the stopped daemon's end")
        assert assistant.ask("ping")["result"] == {}
        assert daemons_so_far(data) == 2


def test_status_says_who_serves(data: Path) -> None:
    with Assistant(data) as assistant:
        assistant.start().remember("one memory")
        (status,) = control(data, "status", {})
    expected = {"running": True, "version": VERSION, "data": str(data), "connections": 1, "foreground": False}
    assert {name: status[name] for name in expected} == expected
    assert sum(status["counts"].values()) == 1


def test_what_a_dead_daemon_left_behind_is_no_hindrance(data: Path) -> None:
    endpoint.prepare_folder(data)
    server, address = endpoint.listen(data, tcp=False)
    server.close()
    stale = endpoint.Endpoint(address, "old", 4_000_000, 7, VERSION)
    endpoint.publish(data, stale)
    (data / "endpoint.json.new").write_text("torn")
    (data / "daemon.sock.new").write_text("torn")
    with Assistant(data) as assistant:
        assistant.start()
        assert owner(data) != stale.pid


def test_a_wrong_token_is_refused_and_a_stale_one_is_read_again(data: Path) -> None:
    dial.connect(data, hello()).close()
    found = endpoint.read_endpoint(data)
    assert found is not None
    with pytest.raises(dial.Stale):
        dial.dial(replace(found, token="guessed"), hello(), 10.0)
    for greeting in (b"{}\n", b"nonsense\n", b"[]\n", b"\n"):
        with endpoint.call(found.address, 10.0) as sock, sock.makefile("rb") as lines:
            sock.sendall(greeting)
            assert b'"ok"' not in lines.readline()


def test_another_protocol_is_refused_with_what_to_do(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dial.connect(data, hello()).close()
    monkeypatch.setattr(dial, "PROTOCOL", (99, 99))
    with pytest.raises(Unavailable, match="same version of memos-mcp"):
        dial.connect(data, hello("mcp"), patience_s=5.0)


def test_a_stopped_owner_is_named_and_not_ended(data: Path) -> None:
    with Assistant(data) as assistant:
        assistant.start()
        pid = owner(data)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(Busy, match=f"process {pid}"):
                dial.connect(data, hello("mcp"), patience_s=0.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert assistant.ask("ping")["result"] == {}
        assert owner(data) == pid


def test_a_store_that_does_not_open_is_reported_to_the_client(data: Path) -> None:
    endpoint.prepare_folder(data)
    (data / "vault.duckdb").write_bytes(b"this is not a database" * 1000)
    with Assistant(data) as assistant:
        answer = assistant.ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})
        assert answer["error"]["data"] == {"code": "Corrupt", "retryable": False}
        assert str(data) in answer["error"]["message"]


def test_loopback_tcp_serves_as_well(data: Path) -> None:
    with Assistant(data, MEMOS_SOCKET="tcp") as assistant:
        assert assistant.start().remember("over loopback")["status"] == "added"
        found = endpoint.read_endpoint(data)
        assert found is not None
        assert found.address[0] == "tcp"
        with socket.create_connection(("127.0.0.1", int(found.address[2]))) as sock, sock.makefile("rb") as lines:
            sock.sendall(b'{"memos":1,"mode":"control","token":"guessed"}\n')
            assert json.loads(lines.readline())["error"]["code"] == "Token"


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A copy of the code whose version is higher."""
    root = tmp_path / "newer"
    for package in ("memos_mcp", "engine", "cubes"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    path = root / "memos_mcp" / "version.py"
    path.write_text(path.read_text().replace(f'"{VERSION}"', '"99.0.0"'))
    return root


def test_a_newer_bridge_has_the_older_daemon_hand_over_and_the_older_bridge_goes_on(data: Path, newer: Path) -> None:
    with Assistant(data) as old, Assistant(data) as other:
        old.start().remember("said to the old daemon")
        other.start()
        with Assistant(data, PYTHONPATH=str(newer)) as new:
            new.start()
            assert new.remember("said to the old daemon")["status"] == "duplicate"
            found = endpoint.read_endpoint(data)
            assert found is not None
            assert found.version == "99.0.0"
            assert old.remember("said by the old bridge")["status"] == "added"
            assert other.remember("said by the old bridge")["status"] == "duplicate"
            assert owner(data) == found.pid
    assert daemons_so_far(data) == 2


def test_a_removed_data_folder_ends_its_daemon_and_the_next_request_makes_a_new_one(data: Path) -> None:
    with Assistant(data) as assistant:
        assistant.start().remember("in the folder that is removed")
        pid = owner(data)
        shutil.rmtree(data)
        until(lambda: not alive(pid), "the end of the daemon without a folder")
        assert assistant.remember("in the folder that is removed")["status"] == "added"
        assert daemons_so_far(data) == 1


def test_the_daemon_ends_quietly_when_another_owns_the_folder(data: Path) -> None:
    dial.connect(data, hello()).close()
    pid = owner(data)
    command = [sys.executable, "-m", "memos_mcp", "daemon", "--data", str(data)]
    done = subprocess.run(command, env=environment(data), capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert owner(data) == pid
