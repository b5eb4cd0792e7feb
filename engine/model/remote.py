"""An OpenAI-compatible server (vLLM, Ollama, llama.cpp, `transformers serve`) as the model, by its URL.

It keeps a cache of its own, so memory reaches it as text only: `with_memory` puts the same blocks into the turns that a
local prompt has. What a server leaves out is done here: stop strings are cut, and a reply that breaks off is an error
and no reply. Closing a reply closes its connection, which is how such a server is told to stop.

It knows the standard library's HTTP client alone, and no tensor. What must stay true: the key goes to the server that
was named and nowhere else, neither into a message nor, by a redirect, to another host; nothing that a server says is
quoted, as that may be what it was told.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

from engine.errors import Busy, Invalid, MemosError, TooLarge, Unavailable
from engine.model.prompts import AFTER_SYSTEM, MEMORY_END, MEMORY_LEAD, Note, line_of
from engine.model.remote_events import Events, Said, said_in
from engine.model.stop_strings import StopStrings
from engine.model_operations import ChatTurn, ModelInfo, Sampling
from engine.settings import Settings

CONNECT_S = 10.0
READ_S = 600.0  # until the first token: a server may load its model only then
MAX_ANSWER_BYTES = 4 << 20  # of an answer that is no stream
MAX_REPLY_CHARS = 2_000_000
MAX_NAME_CHARS = 512
KV_REFUSAL = "a remote server keeps its own cache: text tier only"
_KEY = re.compile(r"[!-~]{0,4096}\Z")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
_CONTEXT = re.compile(r"context|too (?:long|large|many tokens)|max(?:imum)?_model_len", re.IGNORECASE)
# What servers take for the borders of turns even inside a turn's text.
_CONTROL = re.compile(
    r"<(?=\||/?s>|(?:bos|eos|pad)>|/?(?:start|end)_of_turn>|/?SYS>|<SYS>>|[｜▁])|\[(?=/?(?:INST|SYSTEM_PROMPT)\])"
)


UNNAMED = "a URL that is none"


def is_remote(source: str) -> bool:
    """Whether a model's source is the URL of a server."""
    return source.lower().startswith(("http://", "https://"))


def shown_server(url: str) -> str:
    """A URL as it is shown: scheme and host. What stands before '@', in the path or behind '?' may be a secret."""
    try:
        place = urlsplit(url)
        host, port = place.hostname or UNNAMED, place.port
    except ValueError:
        return UNNAMED
    return f"{place.scheme}://{f'[{host}]' if ':' in host else host}{'' if port is None else f':{port}'}"


# --- memory in the turns ------------------------------------------------------------------------------------------


def with_memory(turns: Sequence[ChatTurn], pinned: Sequence[Note], recalled: Sequence[Note]) -> tuple[ChatTurn, ...]:
    """`turns` with the pinned block behind the system text and the recalled one before the last turn's, oldest first.

    A server reads turns as text, control tokens included: those of a note are broken up by a blank.
    """
    told = list(turns)
    known = {note.id for note in pinned}
    recalled = [note for note in recalled if note.id not in known]
    if recalled:
        told[-1] = replace(told[-1], content=_block(recalled) + told[-1].content)
    if pinned and told and told[0].role == "system":
        between = AFTER_SYSTEM if told[0].content else ""
        told[0] = replace(told[0], content=told[0].content + between + _block(pinned))
    elif pinned:
        told.insert(0, ChatTurn("system", _block(pinned)))
    return tuple(told)


def _block(notes: Iterable[Note]) -> str:
    lines = (_CONTROL.sub(r"\g<0> ", line_of(note)) for note in sorted(notes, key=lambda note: (note.at, note.id)))
    return MEMORY_LEAD + "".join(lines) + MEMORY_END


# --- the server ---------------------------------------------------------------------------------------------------


class RemoteModel:
    """One server. Any number of replies at once; threads may share it.

    Raises:
        Invalid: the URL or the key cannot be used.
    """

    def __init__(self, url: str, settings: Settings, variable: str = "MEMOS_MODEL") -> None:
        """`variable`: the beginning of the names of the settings that its key and its name come from."""
        self._place, self._path = _parts(url, variable)
        self._source, self._url, self._variable = url, shown_server(url), variable  # the second for messages
        if not _KEY.match(settings.model_key):
            raise Invalid(f"{variable}_KEY holds characters that no key has: set it to printable ASCII without blanks")
        self._key, self._named = settings.model_key, settings.model_name
        self._found: str | None = None
        self._lock = threading.Lock()

    @property
    def info(self) -> ModelInfo:
        """What is known of it without asking."""
        return ModelInfo(
            source=self._source,
            family=self._named or self._found or "",
            fingerprint="",
            device="",
            dtype="",
            parameters=0,
            context_tokens=0,
            kv_refusal=KV_REFUSAL,
            remote=True,
        )

    @property
    def on_this_machine(self) -> bool:
        """Whether what is sent there stays on this machine."""
        host = self._place.hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def stream(
        self, turns: Sequence[ChatTurn], sampling: Sampling, schema: Mapping[str, Any] | None = None
    ) -> RemoteReply:
        """A reply to `turns`, as it comes; with a `schema`, JSON of it. Close it, or use it in a `with`.

        Raises:
            Unavailable: the server cannot be reached, wants another key, has no such model, or failed.
            Busy, TooLarge, Invalid: it has too much to do, too little room, or refuses the request.
        """
        name = self._named or self._first_model()
        asked = json.dumps({**_request(turns, sampling, name), **_formed(schema)}).encode("utf-8", "replace")
        connection = self._connection()
        try:
            response = self._response(connection, "POST", "/chat/completions", asked)
            if response.status != http.client.OK:
                raise _refused(
                    self._url, name, response.status, _read(self._url, response, self._variable), self._variable
                )
        except BaseException:
            connection.close()
            raise
        return RemoteReply(self._url, connection, response, StopStrings(sampling.stop), self._variable)

    def _first_model(self) -> str:
        """The first model that the server lists; none, where it lists none: it has one, and takes no name."""
        with self._lock:
            if self._found is None:
                connection = self._connection()
                try:
                    response = self._response(connection, "GET", "/models", None)
                    if response.status != http.client.OK:  # some cannot list what they serve well
                        return ""
                    self._found = _first_id(_read(self._url, response, self._variable))
                finally:
                    connection.close()
            return self._found

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._place.scheme == "https" else http.client.HTTPConnection
        return kind(self._place.hostname or "", self._place.port, timeout=CONNECT_S)

    def _response(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "text/event-stream, application/json", "User-Agent": "memos-mcp"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection.connect()
            connection.sock.settimeout(READ_S)
            connection.request(method, self._path + path, body, headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self._url, error, self._variable) from None


class RemoteReply(Iterator[str]):
    """The text of a reply, piece by piece. The counts and `reason` are known at its end, as far as the server says.

    Raises:
        Unavailable: the server failed, or the reply broke off.
    """

    def __init__(
        self,
        url: str,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        stops: StopStrings,
        variable: str,
    ) -> None:
        self.reason = "stop"  # or length
        self.prompt_tokens = self.completion_tokens = self.reused_tokens = 0
        self._url, self._variable = url, variable
        self._connection, self._response, self._stops = connection, response, stops
        self._pieces = self._read()

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> RemoteReply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the reply, if it is not over, and let go of the connection."""
        self._pieces.close()
        self._response.close()
        self._connection.close()

    def _read(self) -> Generator[str, None, None]:
        left = MAX_REPLY_CHARS
        try:
            for said in self._said():
                self._note(said)
                text, stopped = self._stops.add(said.text[:left])
                left -= len(said.text)
                if text:
                    yield text
                if stopped:
                    self.reason = "stop"
                    return
                if left <= 0:
                    self.reason = "length"
                    return
            if rest := self._stops.rest():
                yield rest
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self._url, error, self._variable) from None

    def _said(self) -> Iterator[Said]:
        if not (self._response.getheader("Content-Type") or "").startswith("text/event-stream"):
            whole = said_in(self._response.read(MAX_ANSWER_BYTES))
            if whole is None or whole.reason is None:
                raise Unavailable(f"{self._url} answered with something else than a reply: is it OpenAI-compatible?")
            yield whole
            return
        events = Events(self._response)
        for said in events:
            if said.failed:
                raise Unavailable(f"the model at {self._url} failed in the middle of its reply: see its log, ask again")
            yield said
        if not events.ended:
            raise Unavailable(f"the reply of {self._url} broke off: ask again")

    def _note(self, said: Said) -> None:
        self.reason = said.reason or self.reason
        self.prompt_tokens = said.prompt_tokens or self.prompt_tokens
        self.completion_tokens = said.completion_tokens or self.completion_tokens
        self.reused_tokens = said.reused_tokens or self.reused_tokens


# --- requests and refusals ----------------------------------------------------------------------------------------


def _parts(url: str, variable: str) -> tuple[SplitResult, str]:
    """The URL in parts, and the path that requests begin with."""
    try:
        place = urlsplit(url)
        known = bool(place.hostname) and (place.port is None or place.port > 0)
    except ValueError:
        known = False
    if not known or not is_remote(url) or not url.isascii() or any(char <= " " for char in url):
        raise Invalid("the model's URL is none: give one such as http://127.0.0.1:8000/v1")
    if place.username is not None or place.password is not None or place.query or place.fragment:
        raise Invalid(
            f"the URL of the model at {place.hostname} holds more than a place: put its key into {variable}_KEY, and "
            "leave out what stands before '@' and behind '?' or '#'"
        )
    return place, place.path.rstrip("/") or "/v1"


def _request(turns: Sequence[ChatTurn], sampling: Sampling, name: str) -> dict[str, Any]:
    """The body of a request. What is left at its default is left out: some servers refuse names they do not know."""
    usual = Sampling()
    asked: dict[str, Any] = {
        **({"model": name} if name else {}),
        "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    for field in ("top_p", "top_k", "presence_penalty", "frequency_penalty", "seed"):
        if getattr(sampling, field) != getattr(usual, field):
            asked[field] = getattr(sampling, field)
    if sampling.stop:
        asked["stop"] = list(sampling.stop)
    return asked


def _formed(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {}
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    }


def _read(url: str, response: http.client.HTTPResponse, variable: str) -> bytes:
    try:
        return response.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(url, error, variable) from None


def _first_id(answer: bytes) -> str:
    try:
        listed = json.loads(answer)["data"]
        name = str(listed[0]["id"]) if listed else ""
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return ""
    return name if len(name) <= MAX_NAME_CHARS and name.isprintable() else ""


def _refused(url: str, name: str, status: int, answer: bytes, variable: str) -> MemosError:
    """What a status means, in words. Of the server's own, only names of a kind are repeated."""
    fault = _fault(answer)
    if status in (401, 403):
        return Unavailable(f"{url} wants another key ({status}): set {variable}_KEY to one that it accepts")
    if status == 404:
        return Unavailable(
            f"{url} has no model {name!r}, or is no OpenAI-compatible server (404): set {variable}_NAME to one of "
            "its models, and check the URL, which most often ends in /v1"
        )
    if status in (408, 429, 503):
        return Busy(f"{url} has too much to do, or is still starting ({status}): ask again in a moment")
    if status == 413 or (status in (400, 422) and _CONTEXT.search(str(fault.get("message")) + str(fault.get("type")))):
        return TooLarge(f"the conversation does not fit into the model at {url}: leave out old turns, or ask for less")
    if status in (400, 422):
        kinds = [str(fault[key]) for key in ("type", "code", "param") if _WORD.match(str(fault.get(key) or ""))]
        return Invalid(
            f"{url} refuses the request ({', '.join([str(status), *kinds])}): see its log; if it has several models, "
            f"set {variable}_NAME"
        )
    if 300 <= status < 400:
        return Unavailable(f"{url} sends on to another place ({status}), where nothing is sent: give that URL itself")
    return Unavailable(f"{url} failed ({status}): see its log, then ask again")


def _fault(answer: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    fault = (said.get("error") or said.get("detail") or said) if isinstance(said, dict) else said
    return fault if isinstance(fault, dict) else {"message": str(fault)}


def _unreachable(url: str, error: Exception, variable: str) -> Unavailable:
    """The system's own words are safe: they name no header."""
    if isinstance(error, TimeoutError):
        why = "it did not answer in time"
    else:
        why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    other = "--model" if variable == "MEMOS_MODEL" else variable
    return Unavailable(f"the model at {url} cannot be reached ({why}): start it, or name another one with {other}")
