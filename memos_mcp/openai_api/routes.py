"""The routes of `/v1`: models, chat completions, embeddings.

They read a request, ask the engine on another thread, and answer in OpenAI's shape, refusals too. Who asks was decided
before (`memos_mcp.transports.Gate`); what they may read is the engine's to decide. What must stay true: nobody is
served whom the gate did not name; when a client goes, its reply ends at its next step.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from engine.clock import Clock, SystemClock
from engine.errors import MemosError, NotAllowed
from engine.model_operations import ChatEvent, Finished, Said, is_called, shown_source
from engine.operations import Caller, Principal
from memos_mcp.connection import client_name
from memos_mcp.openai_api import replies
from memos_mcp.openai_api.bodies import body_of, parsed
from memos_mcp.openai_api.errors import PREFIX, Refused, refused, response_of, unexpected
from memos_mcp.openai_api.replies import Chunks, Head
from memos_mcp.openai_api.requests import ChatRequest, EmbeddingsRequest, chat_request, embeddings_request
from memos_mcp.openai_api.running import Replies, Running, unless_gone
from memos_mcp.service import PRINCIPAL_KEY
from memos_mcp.wire import shown

if TYPE_CHECKING:
    from engine.memos import MemOS

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

REPORT_BYTES = 4
THREADS = 8  # for what is quick; replies have their own
EMBEDDING_THREADS = 2
MODELS, CHAT, EMBEDDINGS = f"{PREFIX}/models", f"{PREFIX}/chat/completions", f"{PREFIX}/embeddings"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NO_STORE = {"Cache-Control": "no-store"}
STREAM_HEADERS = {**NO_STORE, "X-Accel-Buffering": "no"}
GONE = 499  # nobody reads it: the client is gone
logger = logging.getLogger(__name__)


def openai_routes(
    memos: MemOS, model: str | None, *, replies: Replies | None = None, clock: Clock | None = None
) -> list[BaseRoute]:
    """The routes. `model` is the source of the model that is configured, by which it is called until it is loaded.

    Who wants to end what runs keeps `replies`.
    """
    api = _Api(memos, model, replies or Replies(), clock or SystemClock())
    return [
        Route(MODELS, _edge(api.models), methods=["GET"]),
        Route(MODELS + "/{id:path}", _edge(api.one_model), methods=["GET"]),
        Route(CHAT, _edge(api.chat), methods=["POST"]),
        Route(EMBEDDINGS, _edge(api.embeddings), methods=["POST"]),
        Route(PREFIX + "{rest:path}", _edge(_nothing_here), methods=list(METHODS)),
    ]


def _edge(handler: Handler) -> Handler:
    """The outermost edge: whatever happens, the client is told in OpenAI's shape."""

    async def endpoint(request: Request) -> Response:
        try:
            response = await handler(request)
        except Refused as refusal:
            response = response_of(refusal)
        except MemosError as error:
            response = response_of(refused(error))
        except ClientDisconnect:
            response = Response(status_code=GONE)
        except Exception:
            report = secrets.token_hex(REPORT_BYTES)
            logger.exception("internal error %s while serving %s", report, PREFIX)
            response = response_of(unexpected(report))
        response.headers["X-Request-Id"] = f"req_{secrets.token_hex(12)}"
        return response

    return endpoint


async def _nothing_here(request: Request) -> Response:
    known = {MODELS: "GET", CHAT: "POST", EMBEDDINGS: "POST"}
    path = request.scope["path"]
    if path in known:
        raise Refused(f"{path} is for {known[path]}, not {request.method}", status=405, code="method_not_allowed")
    raise Refused(
        f"Unknown request URL: {request.method} {shown(path)}: there are {', '.join(known)}",
        status=404,
        code="unknown_url",
    )


class _Api:
    def __init__(self, memos: MemOS, model: str | None, running: Replies, clock: Clock) -> None:
        self._memos, self._model, self._running, self._clock = memos, model, running, clock
        self._threads = anyio.CapacityLimiter(THREADS)
        self._embedding_threads = anyio.CapacityLimiter(EMBEDDING_THREADS)
        self._since = self._now()

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

    async def _quickly(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)

    # --- models --------------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        caller = _caller(request)
        served = await self._quickly(lambda: self._served(caller))
        listed = [replies.model(_shown(source, caller), self._since) for source in served]
        return JSONResponse(replies.listed(listed), headers=NO_STORE)

    async def one_model(self, request: Request) -> Response:
        caller, wanted = _caller(request), request.path_params["id"]
        served = await self._quickly(lambda: self._served(caller))
        for source in served:
            if is_called(source, wanted):
                return JSONResponse(replies.model(_shown(source, caller), self._since), headers=NO_STORE)
        raise _not_served(wanted, served, caller)

    def _served(self, caller: Caller) -> list[str]:
        return [name for name in (self._chats_with(caller), self._embeds_with(caller)) if name is not None]

    def _chats_with(self, caller: Caller) -> str | None:
        known = self._memos.model(caller)
        return self._model if known is None else known.source

    def _embeds_with(self, caller: Caller) -> str | None:
        return self._memos.status(caller).embedder

    # --- chat ----------------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        caller, body = _caller(request), await body_of(request)
        asked = await self._quickly(lambda: self._chat_request(body, caller))
        running = self._running.begin(lambda: self._memos.chat(asked.chat, caller))
        head = Head(f"chatcmpl-{secrets.token_hex(14)}", self._now(), _shown(asked.model, caller))
        if asked.stream:
            return await self._streamed(request, asked, head, caller, running)
        finished: list[Finished] = []

        async def read() -> None:
            finished.extend([event async for event in running if isinstance(event, Finished)])

        await _while_there(request.receive, running, read)
        if not finished:
            raise ClientDisconnect
        made = Head(head.id, head.created, head.model, replies.fingerprint_of(finished[0].model))
        return JSONResponse(replies.completion(made, finished[0]), headers=NO_STORE)

    def _chat_request(self, body: bytes, caller: Caller) -> ChatRequest:
        asked, served = chat_request(parsed(body)), self._chats_with(caller)
        if served is not None and not is_called(served, asked.model):
            raise _not_served(asked.model, [served], caller)
        return asked

    async def _streamed(
        self, request: Request, asked: ChatRequest, head: Head, caller: Caller, running: Running[ChatEvent]
    ) -> Response:
        """A stream, once its reply has begun: until then a refusal is still an answer of its own."""
        events = aiter(running)
        begun = False

        async def begin() -> None:
            nonlocal begun
            await anext(events)
            begun = True

        await _while_there(request.receive, running, begin, leave_running=True)
        if not begun:
            raise ClientDisconnect
        try:
            info = await self._quickly(lambda: self._memos.model(caller))
        except BaseException:
            running.stop()
            raise
        named = Head(head.id, head.created, head.model, replies.fingerprint_of(info))
        return _Stream(running, Chunks(named, include_usage=asked.include_usage))

    # --- embeddings ----------------------------------------------------------------------------------------------

    async def embeddings(self, request: Request) -> Response:
        caller, body = _caller(request), await body_of(request)
        asked = await self._quickly(lambda: embeddings_request(parsed(body)))
        content = await anyio.to_thread.run_sync(lambda: self._embedded(asked, caller), limiter=self._embedding_threads)
        return JSONResponse(content, headers=NO_STORE)

    def _embedded(self, asked: EmbeddingsRequest, caller: Caller) -> dict[str, object]:
        served = self._embeds_with(caller)
        if served is not None and asked.model != served:
            raise _not_served(asked.model, [served], caller)
        vectors, name = self._memos.embed(asked.texts, caller)
        dimensions = len(vectors[0])
        if asked.dimensions not in (None, dimensions):
            raise Refused(
                f"'dimensions' is {asked.dimensions}, and {name} has {dimensions}: leave it out", param="dimensions"
            )
        return replies.embeddings(vectors, asked.texts, name, as_base64=asked.base64)


class _Stream(Response):
    """Server-sent events, as long as the client listens."""

    def __init__(self, running: Running[ChatEvent], chunks: Chunks) -> None:
        super().__init__(headers=STREAM_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._running, self._chunks = running, chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async def tell() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await write(self._chunks.first())
            try:
                async for event in self._running:
                    if isinstance(event, Said) and event.text:
                        await write(self._chunks.said(event.text))
                    elif isinstance(event, Finished):
                        for data in self._chunks.last(event):
                            await write(data)
            except MemosError as error:
                await write(replies.event(refused(error).body))
            except Exception:  # as in `_edge`, too late for a status
                report = secrets.token_hex(REPORT_BYTES)
                logger.exception("internal error %s in a stream of %s", report, PREFIX)
                await write(replies.event(unexpected(report).body))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await _while_there(receive, self._running, tell)


async def _while_there(
    receive: Receive, running: Running[T], work: Callable[[], Awaitable[None]], *, leave_running: bool = False
) -> None:
    """Do `work` with a reply while the client is there. Then the reply is stopped, unless it is to go on."""
    done = False

    async def noted() -> None:
        nonlocal done
        await work()
        done = True

    try:
        await unless_gone(receive, noted)
    except BaseExceptionGroup as group:  # of the task group: there is one error at most
        raise group.exceptions[0] from None
    finally:
        if not (done and leave_running):
            running.stop()


def _caller(request: Request) -> Caller:
    """Who asks, as the gate has it.

    Raises:
        NotAllowed: nobody said who asks.
    """
    principal = request.scope.get(PRINCIPAL_KEY)
    if not isinstance(principal, Principal):
        raise NotAllowed("nobody knows who sent this request, so it is refused: this server is not set up right")
    return Caller(principal=principal, client=client_name(request.headers.get("user-agent", "")))


def _shown(source: str, caller: Caller) -> str:
    return shown_source(source, owner=caller.principal.owner)


def _not_served(wanted: str, served: list[str], caller: Caller) -> Refused:
    there = ", ".join(repr(_shown(source, caller)) for source in served) or "none: start `memos-mcp serve` with --model"
    return Refused(
        f"The model {shown(wanted)!r} is not served here: there is {there}",
        status=404,
        param="model",
        code="model_not_found",
    )
