"""The bridge as a process: what it loads, how it ends, and what it does when things go wrong around it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp import Client, StdioServerParameters

from memos_mcp import endpoint
from memos_mcp.envelope import MAX_LINE_BYTES
from tests.memos_mcp.processes import (
    Assistant,
    alive,
    daemon_gone_after,
    daemons_so_far,
    environment,
    note,
    owner,
    stored_contents,
    until,
)

IMPATIENT = """
import sys
from pathlib import Path
from memos_mcp import bridge, dial
bridge.SILENT_S = bridge.WATCH_S = 0.5
dial.SILENCE_S = 6.0
sys.exit(bridge.Bridge(Path({data!r}), patience_s=6.0).run())
"""


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    with daemon_gone_after(tmp_path / "data") as folder:
        yield folder


def impatient(data: Path) -> Assistant:
    """A bridge that gives up after seconds instead of half a minute."""
    return Assistant(data, [sys.executable, "-c", IMPATIENT.format(data=str(data))])


def test_the_bridge_loads_the_standard_library_and_nothing_else(data: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "memos_mcp"]
    with Assistant(data) as other:
        other.start()
        call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        done = subprocess.run(
            command, input=call + "\n", env=environment(data), capture_output=True, check=True, timeout=60, text=True
        )
    loaded = {name.split(".")[0] for name in re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE)}
    assert "json" in loaded
    at_site_time = {"_distutils_hack", "sitecustomize", "usercustomize", "distutils-precedence"}
    only_tried = {"org"}  # the standard library looks for Jython's
    assert loaded - set(sys.stdlib_module_names) - at_site_time - only_tried == {"memos_mcp", "engine"}
    assert json.loads(done.stdout)["id"] == 1


def test_eight_assistants_writing_at_once_lose_nothing_and_leave_no_process(data: Path) -> None:
    each = 200
    assistants = [Assistant(data) for _ in range(8)]

    def write(number: int, assistant: Assistant) -> list[str]:
        assistant.start()
        texts = [note("assistant", number, n) for n in range(each)]
        assert [assistant.remember(text)["status"] for text in texts] == ["added"] * each
        return texts

    with ThreadPoolExecutor(len(assistants)) as threads:
        acknowledged = [text for texts in threads.map(write, range(8), assistants) for text in texts]
    assert len(acknowledged) == 8 * each
    assert sorted(stored_contents(data)) == sorted(acknowledged)
    assert daemons_so_far(data) == 1
    for assistant in assistants:
        assert assistant.close(limit_s=5.0) == 0


def test_what_was_asked_before_the_input_ended_is_answered_before_the_bridge_ends(data: Path) -> None:
    with Assistant(data) as assistant:
        assistant.start()
        asked = [
            assistant.begin("tools/call", name="remember", arguments={"content": note("last", n)}) for n in range(20)
        ]
        assert assistant.close() == 0
        answered = []
        while (message := assistant.receive()) is not None:
            answered.extend([message["id"]] if "result" in message else [])
    assert sorted(answered) == asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_bridge_at_once_and_leaves_the_daemon_to_others(data: Path, number: signal.Signals) -> None:
    with Assistant(data) as assistant:
        assistant.start()
        pid = owner(data)
        assistant.process.send_signal(number)
        assert assistant.process.wait(5.0) == 128 + number
        assert alive(pid)


def test_a_client_that_goes_without_a_word_takes_the_bridge_with_it(data: Path) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "memos_mcp"], stdin=subprocess.PIPE, stdout=writing, env=environment(data)
    )
    os.close(writing)
    os.close(reading)
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        stdin.flush()
        assert process.wait(60.0) == 0


def test_input_is_read_while_the_client_does_not_read_output(data: Path) -> None:
    count, size = 60, 100_000  # answers of 6 MB in all: far more than pipes and sockets hold
    with Assistant(data) as assistant:
        assistant.start()
        text = "x" * 50 + " word" * (size // 5)
        ids = [assistant.tool("remember", content=f"{n} {text}")["stored"][0]["id"] for n in range(3)]
    held = subprocess.Popen(
        [sys.executable, "-m", "memos_mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(data)
    )
    assert held.stdin is not None
    assert held.stdout is not None
    with held, held.stdin as stdin, held.stdout as stdout:
        stdin.write(_line(0, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=CLIENT))
        for n in range(1, count + 1):  # the client writes all of this before it reads a byte
            stdin.write(_line(n, "resources/read", uri=f"memos://memories/{ids[n % 3]}", _meta={"pad": "p" * 20_000}))
        stdin.flush()
        answered = {json.loads(stdout.readline())["id"] for _ in range(count + 1)}
        assert answered == set(range(count + 1))


CLIENT = {"name": "test", "version": "1"}


def _line(identifier: int, method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}).encode() + b"\n"


def test_what_is_no_message_is_refused_and_the_next_one_is_answered(data: Path) -> None:
    with Assistant(data) as assistant:
        assistant.start()
        assistant.send(b"{nonsense")
        assert assistant.receive()["error"]["code"] == -32700
        assistant.send(b'{"jsonrpc":"2.0","id":77,"method":"ping","params":{"x":"%b"}}' % (b"y" * MAX_LINE_BYTES))
        refused = assistant.receive()
        assert (refused["id"], refused["error"]["code"]) == (77, -32600)
        assistant.send(b'{"jsonrpc":"2.0","id":78,"method":"tools/call","params":{"name":"recall\\ud800"}}')
        refused = assistant.receive()
        assert refused["id"] == 78
        assert "Unicode" in refused["error"]["message"]
        assistant.send(b'[{"jsonrpc":"2.0","id":"a","method":"ping"},{"jsonrpc":"2.0","id":"b","method":"ping"}]')
        assert sorted(m["id"] for m in assistant.receive()) == ["a", "b"]
        assert assistant.ask("ping")["result"] == {}


def test_without_a_daemon_a_request_fails_in_time_with_a_retryable_error_and_a_later_one_works(data: Path) -> None:
    endpoint.prepare_folder(data)
    held = endpoint.take_ownership(data)  # a process that owns the folder and serves nobody: this one
    assert held is not None
    with impatient(data) as assistant:
        answer = assistant.ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=CLIENT)
        assert answer["error"]["data"] == {"code": "Busy", "retryable": True}
        assert f"process {os.getpid()}" in answer["error"]["message"]
        held[0].release()
        assistant.start()


def test_a_daemon_that_stops_answering_is_named_and_when_it_goes_on_all_is_well(data: Path) -> None:
    with Assistant(data) as first:
        first.start()
        pid = owner(data)
        with impatient(data) as assistant:
            assistant.start()
            os.kill(pid, signal.SIGSTOP)
            answer = assistant.ask("ping")
            assert answer["error"]["data"] == {"code": "Busy", "retryable": True}
            assert f"process {pid}" in answer["error"]["message"]
            os.kill(pid, signal.SIGCONT)
            assert assistant.ask("ping")["result"] == {}
            assert [m for m in assistant.seen if m["id"] == answer["id"]] == [answer]  # the late one was dropped
        assert alive(pid)


def test_the_loss_of_the_daemon_goes_unnoticed(data: Path) -> None:
    with Assistant(data) as assistant:
        assistant.start()
        assistant.ask("resources/subscribe", uri="memos://cubes")
        for n in range(3):
            os.kill(owner(data), signal.SIGKILL)
            assert assistant.remember(note("after", n))["status"] == "added"
        until(lambda: daemons_so_far(data) == 4, "the fourth daemon")
        answers = [m for m in assistant.seen if "id" in m]
        assert [m["id"] for m in answers] == [1, 2, 3, 4, 5]
        assert all("result" in m for m in answers)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_clients_of_both_eras_keep_their_session_when_the_daemon_is_lost(data: Path, mode: Any) -> None:
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "memos_mcp"], env=environment(data), cwd="/")

    async def talk() -> None:
        async with Client(parameters, mode=mode) as client:
            for n in range(2):
                result = await client.call_tool("remember", {"content": note(mode, n)})
                assert result.structured_content is not None
                assert result.structured_content["stored"][0]["status"] == "added"
                os.kill(await anyio.to_thread.run_sync(owner, data), signal.SIGKILL)
            assert {tool.name for tool in (await client.list_tools()).tools} >= {"remember", "recall"}

    anyio.run(talk)
    assert daemons_so_far(data) == 3
