"""MCP over HTTP: Streamable HTTP for both eras, the old SSE transport, and a health check.

This module decides who may speak to the server over a network address: only hosts and origins that are expected, only
bodies of a bounded size, and everywhere but on loopback only who holds a token. What is said is the server's affair.

What stays true: a bind that other machines can reach never starts without a token, and the health check tells nobody
more than that the server is up, and its version.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.clock import Clock, SystemClock
from engine.errors import Expired, Invalid, MemosError, NotAllowed
from engine.operations import OWNER
from memos_mcp.auth import PREFIX as TOKEN_PREFIX
from memos_mcp.auth import Token, TokenFile
from memos_mcp.openai_api import PREFIX, said_by_the_gate
from memos_mcp.server import MemoryServer
from memos_mcp.service import ADMITTED_KEY, PRINCIPAL_KEY

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
MCP_PATH, SSE_PATH, MESSAGES_PATH, HEALTH_PATH = "/mcp", "/sse", "/messages/", "/health"
MAX_BODY_BYTES = 16 << 20  # the longest turn there may be fits, even with every character escaped (12 bytes for each)
MAX_SESSIONS = 1_000
SESSION_IDLE_S = 1_800.0
SHUTDOWN_S = 3
NOT_A_MESSAGE = (
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":'
    b'"Invalid request: the body must be one JSON-RPC 2.0 request, notification or response"}}'
)
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where HTTP is served, and to whom. `hosts` and `origins` are accepted besides the obvious ones."""

    host: str = LOOPBACK
    port: int = 8765
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    require_token: bool = False  # on loopback too
    max_body_bytes: int = MAX_BODY_BYTES


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, tokens: Sequence[Token]) -> None:
    """Refuse an address that other machines can reach when nobody needs a token to speak to it.

    Raises:
        Invalid: the message names the remedy.
    """
    if not is_loopback(host) and not tokens:
        raise Invalid(
            f"binding to {host or 'every address'} would open memory to other machines, and there is no access token: "
            f"create one first (memos-mcp token create NAME), or bind to {LOOPBACK}"
        )


def http_app(
    server: MemoryServer,
    *,
    version: str,
    tokens: TokenFile,
    settings: HttpSettings = HttpSettings(),
    clock: Clock | None = None,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The ASGI application. `routes` are further ones, behind the same checks.

    Raises:
        Invalid: the bind needs a token and there is none.
    """
    check_bind(settings.host, tokens.tokens())
    sessions = StreamableHTTPSessionManager(
        app=server,
        max_request_body_size=settings.max_body_bytes,
        session_idle_timeout=SESSION_IDLE_S,
        max_sessions=MAX_SESSIONS,
    )
    sse = SseServerTransport(MESSAGES_PATH, max_request_body_size=settings.max_body_bytes)

    async def on_sse(request: Request) -> Response:
        logger.warning("a client uses SSE, which is deprecated: configure Streamable HTTP at %s instead", MCP_PATH)
        async with sse.connect_sse(request.scope, request.receive, _deprecated(request._send)) as (read, write):
            await server.run(read, write, server.create_initialization_options())
        return Response()

    async def on_health(request: Request) -> Response:
        return JSONResponse({"ok": True, "version": version})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with sessions.run():
            yield

    return Starlette(
        routes=[
            Route(MCP_PATH, PlainRefusals(StreamableHTTPASGIApp(sessions))),
            Route(SSE_PATH, on_sse, methods=["GET"]),
            Mount(MESSAGES_PATH, sse.handle_post_message),
            Route(HEALTH_PATH, on_health, methods=["GET"]),
            *routes,
        ],
        middleware=[
            Middleware(Gate, settings=settings, tokens=tokens, clock=clock or SystemClock()),
            Middleware(AuthContextMiddleware),
        ],
        lifespan=lifespan,
    )


class Server(uvicorn.Server):
    """Says that it ends before it waits for requests that are being answered."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._ending is not None:
            self._ending()
        await super().shutdown(sockets)


def http_server(app: Starlette, settings: HttpSettings, ending: Callable[[], None] | None = None) -> uvicorn.Server:
    """What serves the application; `serve()` runs it until `should_exit` is set. It leaves logs alone.

    `ending` is called on the event loop when it begins to end, perhaps more than once.
    """
    return Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        ),
        ending,
    )


class Gate:
    """Host and Origin of every request; then its token, where one is needed or was presented."""

    def __init__(self, app: ASGIApp, settings: HttpSettings, tokens: TokenFile, clock: Clock) -> None:
        self._app, self._tokens, self._clock = app, tokens, clock
        self._security = TransportSecurityMiddleware(_expected(settings))
        self._needs_token = settings.require_token or not is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        refusal = await self._security.validate_request(request)
        # The path that the router goes by: the one of `request.url` is put together with what the Host header says.
        if refusal is None and scope["path"] != HEALTH_PATH:
            refusal = self._admit(request, scope)
        if refusal is not None and _is_openai(scope):
            refusal = _in_openais_shape(refusal)
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _admit(self, request: Request, scope: Scope) -> Response | None:
        """Note in the scope who asks; or the refusal."""
        header = request.headers.get("authorization")
        if header is not None and not self._needs_token and _is_openai(scope) and not _may_be_ours(header):
            header = None  # OpenAI's clients insist on sending some key
        if header is None:
            if self._needs_token:
                return _unauthorized(None)
            scope[PRINCIPAL_KEY] = OWNER  # whoever reaches this loopback is on this machine
            return None
        scheme, _, presented = header.partition(" ")
        if scheme.lower() != "bearer" or not presented.strip():
            return _unauthorized(NotAllowed("only bearer tokens are known here: send 'Authorization: Bearer TOKEN'"))
        try:
            token = self._tokens.check(presented.strip(), self._clock.now())
            principal = token.principal
        except (NotAllowed, Expired, Invalid) as error:
            return _unauthorized(error)
        known = AccessToken(token="", client_id=token.name, scopes=list(token.scopes), subject=token.name)
        scope["user"] = AuthenticatedUser(known)  # sessions are bound to who opened them
        scope[PRINCIPAL_KEY] = principal
        scope[ADMITTED_KEY] = lambda: self._tokens.holds(token, self._clock.now())
        return None


class PlainRefusals:
    """A message that is no JSON-RPC is refused in one sentence: the SDK repeats its parser's findings at length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None

        async def plain(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] == 400:
                start = message
            elif start is None:
                await send(message)
            elif message["type"] == "http.response.body":
                body = NOT_A_MESSAGE if b"alidation error" in message.get("body", b"") else message.get("body", b"")
                headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
                await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
                await send({**message, "body": body})
                start = None

        await self._app(scope, receive, plain)


def _expected(settings: HttpSettings) -> TransportSecuritySettings:
    names = {"127.0.0.1", "localhost", "[::1]", *settings.hosts}
    if settings.host in ANY_ADDRESS:
        names |= {socket.gethostname(), *_own_addresses()}
    else:
        names.add(_in_url(settings.host))
    hosts = [spelled for name in sorted(names) for spelled in (name, f"{name}:*")]
    origins = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[*origins, *settings.origins])


def _own_addresses() -> set[str]:
    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return set()
    return {_in_url(str(address[0]).partition("%")[0]) for *_, address in found}


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _unauthorized(error: MemosError | None) -> Response:
    """RFC 6750: without any credentials there is a challenge and no error code."""
    if error is None:
        said, challenge = "an access token is needed: send 'Authorization: Bearer TOKEN'", 'Bearer realm="memos-mcp"'
        code = "NotAllowed"
    else:
        said, code = str(error), error.code
        quoted = said.replace("\\", "").replace('"', "'").encode("ascii", "replace").decode()
        challenge = f'Bearer realm="memos-mcp", error="invalid_token", error_description="{quoted}"'
    return JSONResponse(
        {"error": {"code": code, "message": said}}, status_code=401, headers={"WWW-Authenticate": challenge}
    )


def _is_openai(scope: Scope) -> bool:
    path = str(scope["path"])
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def _may_be_ours(header: str) -> bool:
    """Whether a key was meant as an access token, which says what its holder may do: then that is what counts."""
    return TOKEN_PREFIX in header


def _in_openais_shape(refusal: Response) -> Response:
    """A refusal as OpenAI's clients read it."""
    said = bytes(refusal.body).decode()
    if refusal.headers.get("content-type") == "application/json":
        said = json.loads(said)["error"]["message"]
    kept = {name: value for name, value in refusal.headers.items() if name == "www-authenticate"}
    return said_by_the_gate(refusal.status_code, said, kept)


def _deprecated(send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: list[Any] = list(message.get("headers", []))
            message = {**message, "headers": [*headers, (b"deprecation", b"@1743033600")]}  # since 2025-03-26
        await send(message)

    return marked
