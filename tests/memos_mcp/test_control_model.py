"""What the command line asks for about the local model, over a real socket and with a real model, in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from anyio.abc import SocketAttribute, SocketStream

from engine.memos import MemOS
from engine.settings import NO_EMBEDDER, Settings
from memos_mcp.control import ControlSocket
from memos_mcp.lines import Lines
from tests.conftest import LONG_S
from tests.memos_mcp.openai_world import endless
from tests.models.fixtures import LATEST_WINS

WORDS = 60_000  # are prefilled for minutes


class InThisProcess:
    """A daemon without a process of its own."""

    foreground = True

    def __init__(self, memos: MemOS) -> None:
        self._memos = memos

    def facts(self) -> dict[str, Any]:
        return {}

    def end(self, why: str) -> None: ...

    async def engine(self) -> MemOS:
        return self._memos


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    torch.set_num_threads(1)
    folder = endless(LATEST_WINS, tmp_path / "endless")
    with MemOS.open(Settings(data=tmp_path / "data", embedder=NO_EMBEDDER, offline=True, model=str(folder))) as opened:
        yield opened


class Line:
    """A control connection, as the command line holds one."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream, self._lines = stream, Lines(stream)

    async def send(self, method: str, **params: Any) -> None:
        await self._stream.send(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")

    async def receive(self) -> Any:
        line = await self._lines.read()
        assert line is not None
        return json.loads(line)

    async def ask(self, method: str, **params: Any) -> Any:
        await self.send(method, **params)
        while "progress" in (answer := await self.receive()):
            pass
        return answer["result"]


@asynccontextmanager
async def connected(memos: MemOS) -> AsyncIterator[Line]:
    """A connection; at the end it is closed, and what it asked for has ended soon."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await ControlSocket(Lines(stream), "session", "test", InThisProcess(memos)).serve()
        served.set()

    served = anyio.Event()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield Line(stream)
        with anyio.fail_after(LONG_S):
            await served.wait()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_the_owner_sees_the_models_whole_path_and_may_call_it_by_its_last_part(memos: MemOS) -> None:
    async with connected(memos) as line:
        path = (await line.ask("model", load=True))["source"]
        assert Path(path).name == "endless"
        assert (await line.ask("model", model="endless", load=True))["source"] == path
        turns = [{"role": "user", "content": "hello"}]
        await line.send("chat", model="endless", turns=turns, max_tokens=2)
        while (told := await line.receive()).get("item", {}).get("event") != "finished":
            assert told.keys() & {"item", "progress"}
        assert told["item"]["model"] == path


@pytest.mark.anyio
async def test_whoever_leaves_in_the_midst_of_a_long_prefill_ends_it(memos: MemOS) -> None:
    async with connected(memos) as line:
        await line.ask("model", load=True)
        turns = [{"role": "user", "content": "paris " * WORDS}]
        await line.send("chat", turns=turns, max_tokens=100)
        reading = 0
        while reading < 2:
            told = await line.receive()
            assert told.get("item", {}).get("event") in (None, "recalling")
            reading += "reading" in str(told.get("progress"))
    local = memos._answering._local
    assert local is not None
    assert not local.host.runner().busy
