"""What one client and the daemon have said to each other, as far as a new daemon must know it.

A daemon may die at any moment; the conversation outlives it. This keeps the handshake, the standing requests
(subscriptions, log level) and what is in flight, and says what to tell the next daemon. No sockets, no threads, no
clock: lines go in, lines come out, so that every order of events can be tried.

What stays true: the client gets exactly one answer to each request that it did not cancel; it never sees the answer
to a replayed handshake; a request is sent again only under the operation id that it had (same session, same id, same
count of uses); an answer of the client never reaches a daemon other than the one that asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from engine.errors import Busy, MemosError
from memos_mcp.envelope import (
    INVALID_REQUEST,
    SERVER_ERROR,
    Batch,
    Malformed,
    Message,
    answered_key,
    compact,
    error_line,
    read_line,
    with_id,
)

REUSE = "memos/reuse"  # tells the daemon that an id was used before, and how often
STOPPED = "memos/stopped"  # the daemon's last words when a person stopped it
REPLAY = "memos-replay-"  # ids of requests that the bridge repeats on its own account
ASKED = "memos-asked-"  # ids that daemons after the first one put their own questions under
STREAMS = frozenset({"subscriptions/listen"})  # requests that are answered when the stream ends, perhaps never
MAX_IN_FLIGHT_BYTES = 64 << 20
MAX_USED_IDS = 50_000
MAX_DEATHS = 5  # a request that so many daemons did not survive is not handed to the next


@dataclass(slots=True)
class Answers:
    """The answers to a batch, gathered until it is whole."""

    missing: int
    lines: list[bytes] = field(default_factory=list)

    def add(self, line: bytes | None) -> list[bytes]:
        """One answer came, or (None) will not come: the whole batch, once nothing of it is missing."""
        self.missing -= 1
        if line is not None:
            self.lines.append(line)
        return [b"[%b]" % b",".join(self.lines)] if self.missing == 0 and self.lines else []


@dataclass(slots=True)
class Pending:
    """A request that has no answer yet."""

    line: bytes
    method: str
    use: int
    answers: Answers | None = None
    deaths: int = 0  # daemons that were lost while they worked on it


@dataclass(frozen=True, slots=True)
class Step:
    """What a line leads to: lines to `send` to the daemon, lines to `answer` the client with."""

    send: list[bytes]
    answer: list[bytes]


class Conversation:
    """One client's side of things. Not thread-safe: the bridge holds a lock."""

    def __init__(self) -> None:
        self.generation = 0  # which daemon we talk to: 0 until the first
        self.dismissed = False  # the daemon was stopped on purpose: another is started only when there is work
        self._initialize: Message | None = None
        self._initialized: bytes | None = None
        self._handshaken = False
        self._standing: dict[str, Message] = {}
        self._in_flight: dict[str, Pending] = {}
        self._in_flight_bytes = 0
        self._used: dict[str, int] = {}
        self._highest = -1
        self._asked: set[str] = set()  # questions of the present daemon that the client has not answered
        self._replays = 0

    @property
    def waiting(self) -> int:
        """Requests whose answer somebody waits for."""
        return sum(p.method not in STREAMS for p in self._in_flight.values())

    @property
    def needs_daemon(self) -> bool:
        """Whether a daemon is needed now, not only at the next request."""
        return self.waiting > 0 or (not self.dismissed and bool(self._standing or self._in_flight))

    # --- from the client ---

    def from_client(self, line: bytes) -> Step:
        read = read_line(line)
        if isinstance(read, Malformed):
            return Step([], [error_line(read.key, read.code, read.text)])
        if isinstance(read, Message):
            return self._take(read, None)
        return self._take_batch(read)

    def _take_batch(self, batch: Batch) -> Step:
        requests = sum(m is None or m.is_nothing or (m.key is not None and m.method is not None) for m in batch.members)
        answers = Answers(requests)
        step = Step([], [])
        for member in batch.members:
            if member is None:
                invalid = error_line("null", INVALID_REQUEST, "Invalid request: a JSON-RPC message is an object")
                step.answer.extend(answers.add(invalid))
            else:
                part = self._take(member, answers)
                step.send.extend(part.send)
                step.answer.extend(part.answer)
        return step

    def _take(self, message: Message, answers: Answers | None) -> Step:
        if message.is_nothing:
            refused = error_line(message.key or "null", INVALID_REQUEST, "Invalid request: not a JSON-RPC 2.0 message")
            return Step([], answers.add(refused) if answers else [refused])
        if message.method is None:
            return Step(self._answer_of_client(message), [])
        if message.key is None:
            return Step([message.line], self._note(message))
        if self._in_flight_bytes + len(message.line) > MAX_IN_FLIGHT_BYTES:
            text = f"Busy: more than {MAX_IN_FLIGHT_BYTES >> 20} MiB of requests wait for an answer; try again"
            refused = busy_line(message.key, Busy(text))
            return Step([], answers.add(refused) if answers else [refused])
        use = self._count_use(message.key)
        pending = Pending(message.line, message.method, use, answers)
        self._drop(message.key)
        self._in_flight[message.key] = pending
        self._in_flight_bytes += len(message.line)
        self._remember(message)
        return Step(_request_lines(message.key, pending), [])

    def _note(self, message: Message) -> list[bytes]:
        if message.method == "notifications/initialized":
            self._initialized = message.line
        elif message.method == "notifications/cancelled":
            params = message.body.get("params")
            target = json.dumps(params.get("requestId")) if isinstance(params, dict) else None
            if target in self._in_flight and self._in_flight[target].method != "initialize":
                pending = self._drop(target)  # it gets no answer any more, and one that crosses this is dropped
                return pending.answers.add(None) if pending is not None and pending.answers is not None else []
        return []

    def _remember(self, message: Message) -> None:
        params = message.body.get("params")
        uri = params.get("uri") if isinstance(params, dict) else None
        if message.method == "initialize":
            self._initialize, self._handshaken, self._initialized = message, False, None
            self._standing.clear()
        elif message.method == "logging/setLevel":
            self._standing["logging/setLevel"] = message
        elif message.method == "resources/subscribe":
            self._standing[f"resources/subscribe {uri}"] = message
        elif message.method == "resources/unsubscribe":
            self._standing.pop(f"resources/subscribe {uri}", None)

    def _count_use(self, key: str) -> int:
        """How often this id was used before. Ids that only grow, as nearly all do, need no memory."""
        if key.lstrip("-").isdecimal():
            number = int(key)
            if number > self._highest:
                self._highest = number
                return 0
            use = self._used.get(key, 0) + 1
        else:
            use = self._used.get(key, -1) + 1
        self._used.pop(key, None)  # to the end: the oldest goes first
        self._used[key] = use
        if len(self._used) > MAX_USED_IDS:
            del self._used[next(iter(self._used))]
        return use

    def _answer_of_client(self, message: Message) -> list[bytes]:
        if message.key is None or message.key not in self._asked:
            return []  # the daemon that asked is gone
        self._asked.discard(message.key)
        prefix = f'"{ASKED}{self.generation}-'
        if message.key.startswith(prefix):
            return [with_id(message.body, json.loads(json.loads(message.key).split("-", 3)[3]))]
        return [message.line]

    # --- from the daemon ---

    def from_daemon(self, line: bytes) -> list[bytes]:
        """What the client gets to see of a line of the daemon."""
        key = answered_key(line)
        if key is not None:
            return self._answered(key, line, failed=False)
        read = read_line(line)
        if not isinstance(read, Message):
            return []
        if read.method is None:
            return self._answered(read.key, line, failed="error" in read.body)
        if read.method == STOPPED:
            self.dismissed = True
            return []
        return [line] if read.key is None else [self._question(read)]

    def _answered(self, key: str | None, line: bytes, *, failed: bool) -> list[bytes]:
        if key is None:
            return [line]  # an error without an id: the client's to read
        if key.startswith(f'"{REPLAY}'):
            return []
        pending = self._drop(key)
        if pending is None:
            return []  # it came twice: before the old daemon died, and again
        if pending.method == "initialize":
            self._handshaken = not failed and b'"error":' not in line[:64]
        return pending.answers.add(line) if pending.answers is not None else [line]

    def _question(self, message: Message) -> bytes:
        """A request of the daemon to the client. Later daemons count from the start again: their ids are renamed."""
        if self.generation > 1:
            renamed = f"{ASKED}{self.generation}-{message.key}"
            self._asked.add(json.dumps(renamed))
            return with_id(message.body, renamed)
        self._asked.add(str(message.key))
        return message.line

    def _drop(self, key: str) -> Pending | None:
        pending = self._in_flight.pop(key, None)
        if pending is not None:
            self._in_flight_bytes -= len(pending.line)
        return pending

    # --- when the daemon changes ---

    def lost(self) -> list[bytes]:
        """The daemon is gone. Answers the requests that have seen too many go: they may be what ends them."""
        lines: list[bytes] = []
        for key, pending in list(self._in_flight.items()):
            pending.deaths += pending.method not in STREAMS
            if pending.deaths >= MAX_DEATHS:
                text = f"the daemon was lost {MAX_DEATHS} times while it worked on this request: see its log"
                lines.extend(self._refuse(key, Busy(text)))
        return lines

    def replay(self) -> list[bytes]:
        """What to tell a new daemon, before anything else."""
        self.generation += 1
        self.dismissed = False
        self._asked.clear()
        lines = []
        if self._initialize is not None and self._handshaken:
            lines.append(self._repeated(self._initialize))
            if self._initialized is not None:
                lines.append(self._initialized)
            lines.extend(self._repeated(m) for m in self._standing.values())
        for key, pending in self._in_flight.items():
            lines.extend(_request_lines(key, pending))
            if pending.method == "initialize" and self._initialized is not None:
                lines.append(self._initialized)  # the client did not wait for the answer
        return lines

    def _repeated(self, message: Message) -> bytes:
        self._replays += 1
        return with_id(message.body, f"{REPLAY}{self._replays}")

    def give_up(self, error: MemosError) -> list[bytes]:
        """Answer everything that waits with `error`; nothing of it is sent again."""
        return [line for key in list(self._in_flight) for line in self._refuse(key, error)]

    def _refuse(self, key: str, error: MemosError) -> list[bytes]:
        pending = self._drop(key)
        line = busy_line(key, error)
        return pending.answers.add(line) if pending is not None and pending.answers is not None else [line]


def _request_lines(key: str, pending: Pending) -> list[bytes]:
    if pending.use == 0:
        return [pending.line]
    params = {"key": key, "use": pending.use}
    return [compact({"jsonrpc": "2.0", "method": REUSE, "params": params}), pending.line]


def busy_line(key: str, error: MemosError) -> bytes:
    """An engine error as the answer to a request that never reached the engine."""
    text = str(error) if str(error).startswith(error.code) else f"{error.code}: {error}"
    return error_line(key, SERVER_ERROR, text, {"code": error.code, "retryable": error.retryable})
