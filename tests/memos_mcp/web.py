"""The HTTP application on a real socket of this machine, and requests as raw as tests need them."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from engine.clock import Clock
from engine.memos import MemOS
from memos_mcp.auth import TokenFile
from memos_mcp.transports import LOOPBACK, HttpSettings, http_app, http_server
from tests.memos_mcp.processes import until
from tests.memos_mcp.serving import VERSION, server_of

LATEST_LEGACY, MODERN = "2025-11-25", "2026-07-28"
BOTH = "application/json, text/event-stream"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def message(self) -> dict[str, Any]:
        """The JSON-RPC message of the body, be it JSON or the last event of a stream."""
        lines = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: {")]
        parsed: dict[str, Any] = json.loads(lines[-1] if lines else self.text)
        return parsed


@dataclass(frozen=True)
class Web:
    port: int

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One request. Headers are given with underscores; None leaves the usual one out."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=60)
        try:
            spelled = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, spelled)
            response = connection.getresponse()
            lowered = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, lowered, response.read().decode())
        finally:
            connection.close()

    def modern(self, method: str, params: dict[str, Any] | None = None, **headers: str) -> Reply:
        """One request of the 2026 era."""
        params = dict(params or {})
        meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
        params["_meta"] = {**meta, **params.get("_meta", {})}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        named = {"Mcp_Name": str(params.get("name") or params.get("uri"))} if {"name", "uri"} & set(params) else {}
        usual = {
            "Content_Type": "application/json",
            "Accept": BOTH,
            "MCP_Protocol_Version": MODERN,
            "Mcp_Method": method,
        }
        return self.send("POST", "/mcp", body, **{**usual, **named, **headers})


@contextmanager
def serving_http(
    memos: MemOS, folder: Path, settings: HttpSettings | None = None, clock: Clock | None = None
) -> Iterator[Web]:
    """Serve `memos` over HTTP from a thread until the block ends."""
    settings = settings or HttpSettings(port=0)
    app = http_app(server_of(memos), version=VERSION, tokens=TokenFile(folder), settings=settings, clock=clock)
    with serving_app(app, settings) as served:
        yield served


@contextmanager
def serving_app(app: Starlette, settings: HttpSettings, ending: Callable[[], None] | None = None) -> Iterator[Web]:
    """Serve `app` from a thread until the block ends."""
    web = http_server(app, settings, ending)
    thread = threading.Thread(target=lambda: asyncio.run(web.serve()), name="http")
    thread.start()
    try:
        until(lambda: web.started or not thread.is_alive(), "the HTTP server")
        yield Web(web.servers[0].sockets[0].getsockname()[1])
    finally:
        web.should_exit = True
        thread.join()
