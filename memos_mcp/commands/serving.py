"""`serve`: the daemon in the foreground, with HTTP beside the socket.

The port is taken before anything else happens, so that one that is in use, or that would need a token, is told at
once and nothing is opened. A daemon that was started on demand hands over.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
from dataclasses import replace
from typing import Any, cast

import anyio

from engine.model.remote import RemoteModel, is_remote
from engine.model.sources import located
from engine.settings import Settings
from memos_mcp import daemon, dial
from memos_mcp.auth import TokenFile
from memos_mcp.commands.session import Failure, Session
from memos_mcp.host import Host, Opened
from memos_mcp.openai_api import PREFIX, Replies, openai_routes
from memos_mcp.server import MemoryServer
from memos_mcp.tools import in_toolsets
from memos_mcp.transports import HEALTH_PATH, MCP_PATH, SSE_PATH, HttpSettings, check_bind, http_app, http_server
from memos_mcp.version import VERSION


def serve(session: Session, options: argparse.Namespace) -> int:
    settings = _settings(options)
    tokens = TokenFile(session.settings.data)
    check_bind(settings.host, tokens.tokens())
    toolsets = dial.toolsets(getattr(options, "toolsets", None)) or ("core",)
    in_toolsets(toolsets)  # a wrong name is told before anything is opened
    store = _store(session, options)
    with contextlib.closing(_port(settings)) as sock:
        host, port = sock.getsockname()[:2]

        async def http(daemon_host: Host, opened: Opened, lifespan: Any) -> None:
            memory = cast(MemoryServer, opened.server)
            replies = Replies()
            routes = openai_routes(opened.memos, store.model, replies=replies)
            app = http_app(memory, version=VERSION, tokens=tokens, settings=settings, routes=routes)
            server = http_server(app, settings, replies.end)
            place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            session.screen.remark(
                f"serving {session.settings.data} at {place}{MCP_PATH}, {SSE_PATH}, {PREFIX}, {HEALTH_PATH}"
            )
            try:
                await server.serve(sockets=[sock])
            finally:  # whether a signal or `memos-mcp stop` ends it
                server.should_exit = True
                with anyio.CancelScope(shield=True):
                    await server.shutdown(sockets=[])

        return daemon.serve(store, http, toolsets=toolsets)


def _store(session: Session, options: argparse.Namespace) -> Settings:
    """The settings of the store, with the model that was named here: a wrong place is told before anything is opened.

    Raises:
        MemosError: it is a URL that cannot be used, or a folder that holds no model.
    """
    if options.model is None:
        return session.settings
    store = replace(session.settings, model=options.model.strip() or None)
    if store.model is not None and is_remote(store.model):
        RemoteModel(store.model, store)
    elif store.model is not None and store.model.startswith((".", "~", "/")):
        located(store.model, store, session.screen.remark)
    return store


def _settings(options: argparse.Namespace) -> HttpSettings:
    usual = HttpSettings()
    return HttpSettings(
        host=usual.host if options.host is None else options.host,
        port=usual.port if options.port is None else options.port,
        hosts=tuple(options.allow_host or ()),
        origins=tuple(options.allow_origin or ()),
        require_token=options.require_token,
    )


def _port(settings: HttpSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host.strip("[]"), settings.port), family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise Failure(f"cannot listen on {settings.host} port {settings.port}: {why}; choose another --port") from error
