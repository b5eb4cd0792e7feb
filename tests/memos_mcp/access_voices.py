"""Those who ask in the tests of access: each on its own connection, with its own token, checked at every answer."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.memos import MemOS
from memos_mcp.auth import TokenFile, create_token
from memos_mcp.server import build_server
from memos_mcp.tools.table import TOOLSETS
from memos_mcp.transports import LOOPBACK, HttpSettings, http_app
from tests.memos_mcp.access_world import PRINCIPALS, World, build, words_of
from tests.memos_mcp.serving import START, VERSION, HandClock, store
from tests.memos_mcp.web import BOTH, MODERN, Web, serving_app


@dataclass
class Served:
    """A world behind a server where everybody needs a token."""

    memos: MemOS
    web: Web
    world: World
    folder: Path
    tokens: dict[str, str]


@dataclass
class Voice:
    """One principal on one connection: what it asked, and every word that it was told without having said it."""

    served: Served
    name: str
    heard: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection(LOOPBACK, self.served.web.port, timeout=60)
        self.hidden = self.served.world.hidden_from(self.name)

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, **params: Any) -> str:
        """The whole answer, headers too, in which there must be no word that this principal may not be told."""
        meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        headers = {
            "Content-Type": "application/json",
            "Accept": BOTH,
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": method,
            "Authorization": f"Bearer {self.served.tokens[self.name]}",
        }
        if {"name", "uri"} & set(params):
            headers["Mcp-Name"] = str(params.get("name") or params.get("uri"))
        self._connection.request("POST", "/mcp", json.dumps(message).encode(), headers)
        response = self._connection.getresponse()
        body = response.read().decode()
        told = words_of(f"{response.getheaders()} {body}")
        leaked = (told & self.hidden) - words_of(json.dumps(params))
        assert not leaked, (self.name, method, params, sorted(leaked), body[:2_000])
        self.heard |= told - words_of(json.dumps(params))
        return body

    def call(self, tool: str, **arguments: Any) -> str:
        return self.ask("tools/call", name=tool, arguments=arguments)


@contextmanager
def serving_world(folder: Path) -> Iterator[Served]:
    """A store full of words, behind a server where everybody needs a token."""
    data = folder / "data"
    with store(data) as memos:
        world = build(memos, folder)
        tokens = {name: create_token(data, name, START, scopes=scopes) for name, (scopes, _) in PRINCIPALS.items()}
        settings = HttpSettings(port=0, require_token=True)
        server = build_server(memos, toolsets=tuple(TOOLSETS), version=VERSION)
        app = http_app(server, version=VERSION, tokens=TokenFile(data), settings=settings, clock=HandClock())
        with serving_app(app, settings) as web:
            yield Served(memos, web, world, data, tokens)


def one_of_each(world: World) -> list[str]:
    """Of every cube and level a few memories: what is plain, and what stands in relations."""
    kept: dict[tuple[str, str], list[str]] = {}
    for id, place in world.ids.items():
        kept.setdefault(place, []).append(id)
    return [id for found in kept.values() for id in dict.fromkeys((*found[:2], found[-1]))]
