"""The control mode of the socket, `serve`, and the daemon's log."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Invalid
from memos_mcp import dial, endpoint
from memos_mcp.logs import log_to_file
from memos_mcp.version import VERSION, version_key
from tests.memos_mcp.processes import (
    ROOT,
    Assistant,
    control,
    daemon_gone_after,
    daemons_so_far,
    environment,
    free,
    note,
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


class Line:
    """A control connection, line by line."""

    def __init__(self, data: Path, session: str | None = None) -> None:
        self.link = dial.connect(data, dial.Hello("control", session or dial.new_session(), "test"))

    def send(self, identifier: int, method: str, **params: Any) -> None:
        self.link.sock.sendall(json.dumps({"id": identifier, "method": method, "params": params}).encode() + b"\n")

    def receive(self) -> Any:
        return json.loads(self.link.lines.readline())

    def ask(self, identifier: int, method: str, **params: Any) -> Any:
        self.send(identifier, method, **params)
        while "progress" in (answer := self.receive()):
            pass
        return answer

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()


def records(count: int) -> list[dict[str, Any]]:
    return [{"content": note("imported", n)} for n in range(count)]


def test_tools_run_and_a_request_that_is_sent_again_is_not_done_again(data: Path) -> None:
    remember = {"name": "remember", "arguments": {"content": "the gate opens at nine"}}
    with Line(data, "one-session") as line:
        first = line.ask(1, "tool", **remember)["result"]
    with Line(data, "one-session") as line:
        assert line.ask(1, "tool", **remember)["result"] == first
        assert line.ask(2, "tool", **remember)["result"]["stored"][0]["status"] == "duplicate"
        (id_,) = (entry["id"] for entry in first["stored"])
        versions = line.ask(3, "history", id=id_)["result"]["versions"]
        assert [v["content"] for v in versions] == ["the gate opens at nine"]
        assert [c["name"] for c in line.ask(4, "cubes")["result"]["cubes"]] == ["default"]
        assert line.ask(5, "verify")["result"] == {"problems": []}


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("nonsense", {}, "Unavailable"),
        ("tool", {"name": "nonsense"}, "Invalid"),
        ("tool", {"name": "remember", "arguments": {"content": ""}}, "Invalid"),
        ("tool", {"name": "remember", "arguments": []}, "Invalid"),
        ("history", {"id": "m_unknown"}, "NotFound"),
        ("restore", {"id": "m_unknown", "version": "1"}, "Invalid"),
        ("import", {"records": "no"}, "Invalid"),
    ],
)
def test_what_cannot_be_done_gets_one_error_and_the_connection_goes_on(
    data: Path, method: str, params: dict[str, Any], code: str
) -> None:
    with Line(data) as line:
        assert line.ask(1, method, **params)["error"]["code"] == code
        line.link.sock.sendall(b"{nonsense\n")
        assert line.receive()["error"]["code"] == "Invalid"
        assert line.ask(2, "ping")["result"]["running"] is True


def test_export_sends_each_memory_and_then_how_many_there_were(data: Path) -> None:
    with Line(data) as line:
        assert "result" in line.ask(1, "import", records=records(70))
        line.send(2, "export")
        items = []
        while "item" in (answer := line.receive()):
            items.append(answer["item"]["content"])
    assert answer["result"] == {"memories": 70}
    assert sorted(items) == sorted(record["content"] for record in records(70))


def test_requests_on_one_connection_do_not_wait_for_each_other(data: Path) -> None:
    with Line(data) as line:
        line.send(1, "import", records=records(80))
        line.send(2, "ping")
        while "progress" in (answer := line.receive()):
            pass
        assert answer["id"] == 2
        while "progress" in (answer := line.receive()):
            pass
        assert "result" in answer


def test_stopping_waits_for_what_is_in_flight(data: Path) -> None:
    with Line(data) as line, Line(data) as other:
        line.send(1, "import", records=records(80))
        assert line.receive()  # it is at work
        other.send(1, "stop")
        while "progress" in (answer := line.receive()):
            pass
        assert "result" in answer, answer
    until(lambda: free(data), "the daemon's end")
    with Assistant(data) as assistant:
        assistant.start()
        assert len(stored_contents(data)) == 80


def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def serve(data: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "memos_mcp", "serve", "--port", str(port())]
    return subprocess.Popen(command, env=environment(data), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def foreground(data: Path) -> bool:
    found = endpoint.read_endpoint(data)
    return found is not None and found.foreground


def test_serve_takes_over_from_an_on_demand_daemon_and_refuses_beside_another_serve(data: Path) -> None:
    with Assistant(data) as assistant:
        assistant.start().remember("said before")
        with serve(data) as first:
            until(lambda: foreground(data), "serve to own the folder")
            assert assistant.remember("said before")["status"] == "duplicate"
            assert daemons_so_far(data) == 2
            with serve(data) as second:
                _, told = second.communicate(timeout=60)
                assert second.returncode == 1
                assert f"process {first.pid}" in told.decode()
            assert control(data, "handover", {"version": "99.0.0"})[0] == "NotAllowed"
            newer = dial.connect(data, dial.Hello("control", "s", version="99.0.0"))
            newer.close()
            assert newer.pid == first.pid  # it stays, and may be talked to
            assert owner(data) == first.pid
            first.send_signal(signal.SIGTERM)
            first.communicate(timeout=60)
            assert first.returncode == 0
        assert assistant.remember("said before")["status"] == "duplicate"
        assert not foreground(data)


def test_the_log_names_what_happened_and_quotes_nothing_that_was_kept(tmp_path: Path) -> None:
    secret = " ".join(("my", "secret", "garden"))  # a stack quotes its source lines: they must not hold it
    handler = log_to_file(tmp_path / "daemon.log")
    try:
        assert os.stat(tmp_path / "daemon.log").st_mode & 0o777 == 0o600
        theirs = logging.getLogger("mcp.server")
        theirs.warning("dropped a message: %s", secret)
        try:
            raise ValueError(secret)
        except ValueError:
            theirs.exception("handler failed")
            logging.getLogger("engine.x").exception("request %s failed", "r1")
        try:
            raise Invalid("'limit' must be a number")
        except Invalid:
            logging.getLogger("memos_mcp.x").exception("refused")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    log = (tmp_path / "daemon.log").read_text()
    assert secret not in log
    assert "request r1 failed" in log
    assert "builtins.ValueError" in log
    assert "engine.errors.Invalid: 'limit' must be a number" in log


def test_the_version_that_processes_compare_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert version_key("0.10.0") > version_key("0.9.1rc2") > version_key("0.9")
