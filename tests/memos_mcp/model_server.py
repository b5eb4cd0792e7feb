"""A server that speaks as OpenAI's does and says what a test wants to hear: a model by URL, without a model.

The last turn decides. `repeat: TEXT` is repeated, word by word; `go on` goes on until the client leaves; anything else
is answered by the last line of what was sent that holds the question's last word, else by "unknown". What stands in
`replies` is said first, once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPEAT, GO_ON = "repeat: ", "go on"
NAME = "parrot"


class ModelServer:
    """What was asked of it, and whether it was left in the middle of a reply."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.replies: list[str] = []
        self.left = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._whole({"object": "list", "data": [{"id": NAME, "object": "model"}]})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(asked)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                count = 0
                try:
                    for piece in server.replies or pieces(asked["messages"]):
                        count += 1
                        self._event({"index": 0, "delta": {"content": piece}, "finish_reason": None})
                    usage = {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}
                    self._event({"index": 0, "delta": {}, "finish_reason": "stop"}, usage)
                    self.wfile.write(b"data: [DONE]\n\n")
                    server.replies.clear()
                except (BrokenPipeError, ConnectionResetError):
                    server.left.set()

            def _event(self, choice: dict[str, Any], usage: dict[str, int] | None = None) -> None:
                chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": NAME, "choices": [choice]}
                body = json.dumps({**chunk, "usage": usage} if usage else chunk)
                self.wfile.write(f"data: {body}\n\n".encode())

            def _whole(self, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    @property
    def last_prompt(self) -> str:
        """All that was sent with the last request."""
        return "\n".join(message["content"] for message in self.asked[-1]["messages"])


def pieces(messages: list[dict[str, str]]) -> Iterator[str]:
    """The reply, piece by piece."""
    turn = messages[-1]["content"].strip().splitlines()[-1]
    if turn == GO_ON:
        pause = threading.Event()
        while True:
            yield "on "
            pause.wait(0.01)  # as fast as a model would be
    if turn.startswith(REPEAT):
        yield from (f"{word} " for word in turn.removeprefix(REPEAT).split(" "))
        return
    word = turn.rstrip(" ?.").rpartition(" ")[2]
    lines = [line for message in messages for line in message["content"].splitlines() if word in line and line != turn]
    yield lines[-1] if lines else "unknown"


@contextmanager
def model_server() -> Iterator[ModelServer]:
    server = ModelServer()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
