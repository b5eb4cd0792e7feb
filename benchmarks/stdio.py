"""The smallest MCP client that can be timed: one process, one request at a time, no library in between.

The same code talks to every server that is measured, so that what differs is the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

PROTOCOL = "2025-11-25"
END_S = 20.0


class Server:
    """A stdio server process; `start_ms` is the time from its start to its reply to `initialize`."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._ids = 0
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **env},
        )
        client = {"name": "benchmark", "version": "1"}
        self._request("initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": client})
        self.start_ms = (time.perf_counter() - started) * 1000
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, tool: str, arguments: Mapping[str, Any]) -> float:
        """Call a tool; how long it took, in milliseconds.

        Raises:
            RuntimeError: the tool refused.
        """
        started = time.perf_counter()
        result = self._request("tools/call", {"name": tool, "arguments": arguments})
        took_ms = (time.perf_counter() - started) * 1000
        text = " ".join(str(block.get("text", "")) for block in result.get("content", ()))
        if result.get("isError") or text.startswith("Error"):
            raise RuntimeError(f"{tool}: {text[:500]}")
        return took_ms

    def _request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self._ids += 1
        self._send({"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer.get("id") == self._ids and "method" not in answer:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
        raise RuntimeError(f"{method}: the server ended (status {self._process.wait()})")

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
