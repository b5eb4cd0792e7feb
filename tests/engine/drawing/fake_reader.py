"""A server that speaks as OpenAI's does and reads conversations as a test has written down."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.engine.model.scripted_server import stream

NAME = "scholar"
Statement = dict[str, Any]


def fact(text: str, kind: str = "fact", when: str = "", sure: str = "high", turns: tuple[int, ...] = ()) -> Statement:
    """A statement as a reader writes it. `turns` (): the turn that it is written down for."""
    return {"turns": list(turns), "text": text, "kind": kind, "when": when, "sure": sure}


class FakeReader:
    """What it draws from which turn stands in `knows`; each pair of statements it finds `view`."""

    def __init__(self) -> None:
        self.knows: dict[str, list[Statement]] = {}
        self.view = "different"
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.status = 200
        self.says: list[str] = []  # these first, whatever was asked
        self.takes_schemas = True
        self.most_turns = 1_000  # more do not fit into it
        self.goes_on = threading.Event()  # not set: it is asked and does not answer
        self.goes_on.set()
        self.holds_after: int | None = None  # from the reading after so many on it does not answer
        reader = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(200, json.dumps({"data": [{"id": NAME}]}).encode(), "application/json")

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reader.asked.append(asked)
                reader.keys.append(self.headers.get("Authorization", ""))
                if reader.holds_after is not None and len(reader.readings) > reader.holds_after:
                    reader.goes_on.clear()
                reader.goes_on.wait()
                status, body = reader.answer(asked)
                kind = "text/event-stream" if status == 200 else "application/json"
                self._send(status, body, kind)

            def _send(self, status: int, body: bytes, kind: str) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    reader.left = True

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.left = False
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    @property
    def readings(self) -> list[dict[str, Any]]:
        """The requests to read turns, without those to compare statements."""
        return [asked for asked in self.asked if "facts" in asked["messages"][0]["content"]]

    def turns_of(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """The turns of a request, those before the window too."""
        return [json.loads(line) for line in asked["messages"][1]["content"].splitlines()]

    def answer(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        if self.status != 200:
            return self.status, b'{"error": {"message": "I am not well"}}'
        if "response_format" in asked and not self.takes_schemas:
            return 400, b'{"error": {"message": "response_format is not known here"}}'
        if self.says:
            return 200, stream(self.says.pop(0))
        if "facts" not in asked["messages"][0]["content"]:
            pairs = json.loads(asked["messages"][1]["content"])
            return 200, stream(json.dumps({"views": [self.view] * len(pairs)}))
        turns = [turn for turn in self.turns_of(asked) if turn["turn"] != "before"]
        if len(turns) > self.most_turns:
            return 400, b'{"error": {"message": "this is longer than my context", "type": "context_length"}}'
        found = [
            {**statement, "turns": statement["turns"] or [turn["turn"]]}
            for turn in turns
            for statement in self.knows.get(turn["says"], ())
        ]
        return 200, stream(json.dumps({"facts": found}, ensure_ascii=False))


@contextmanager
def fake_reader() -> Iterator[FakeReader]:
    reader = FakeReader()
    thread = threading.Thread(target=reader.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        reader.goes_on.set()
        reader.http.shutdown()
        reader.http.server_close()
        thread.join()
