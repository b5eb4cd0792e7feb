"""The OpenAI-compatible endpoint on a real socket: with the small trained model, or with one that never ends."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from engine.memos import MemOS
from engine.operations import Caller, Remember
from engine.settings import NO_EMBEDDER, Settings
from memos_mcp.auth import TokenFile
from memos_mcp.openai_api import Replies, openai_routes
from memos_mcp.transports import HttpSettings, http_app
from tests.memos_mcp.processes import LONG_S, until
from tests.memos_mcp.serving import VERSION, server_of
from tests.memos_mcp.web import Reply, Web, serving_app

ME = Caller()
FACTS = {
    "alice": "the city of alice is paris",
    "bob": "the pet of bob is cat",
    "carol": "the food of carol is sushi",
}
QUESTION, ANSWER = "what is the city of alice ?", "paris"


@dataclass(frozen=True)
class World:
    """A store whose model is served, and how to speak to it."""

    memos: MemOS
    web: Web
    model: str
    folder: Path
    opened: ExitStack  # what is closed at the end

    def client(self, key: str = "any") -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{self.web.url}/v1", api_key=key, timeout=LONG_S, max_retries=0)
        return self.opened.enter_context(client)

    def async_client(self, key: str = "any") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.web.url}/v1", api_key=key, timeout=LONG_S, max_retries=0)

    def remember(self, content: str, cube: str = "default") -> str:
        return self.memos.remember(Remember(content=content, cube=cube), ME).stored[0].id

    def post(self, path: str, body: object, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.web.send("POST", f"/v1{path}", data, **{"Content_Type": "application/json", **headers})

    def asked(self, question: str = QUESTION, **more: Any) -> dict[str, Any]:
        """What a chat completion is asked with."""
        return {"model": self.model, "messages": [user(question)], "temperature": 0, "max_tokens": 8, **more}


def user(text: str) -> Any:
    return {"role": "user", "content": text}


@contextmanager
def served(
    data: Path, model: str | None, *, settings: HttpSettings | None = None, embedder: str = NO_EMBEDDER
) -> Iterator[World]:
    """A new store in `data`, served with `model`."""
    http = settings or HttpSettings(port=0)
    store = Settings(data=data, embedder=embedder, offline=True, backup_every_h=0, model=model, model_dtype="float32")
    with MemOS.open(store) as memos:
        replies = Replies()
        routes = openai_routes(memos, model, replies=replies)
        app = http_app(server_of(memos), version=VERSION, tokens=TokenFile(data), settings=http, routes=routes)
        with serving_app(app, http, replies.end) as web, ExitStack() as opened:
            yield World(memos, web, model or "none", data, opened)


def endless(trained: Path, folder: Path) -> Path:
    """A model that nothing ends but the number of tokens: random weights, the words of the trained one."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    shutil.copytree(trained, folder)
    config = {**json.loads((folder / "config.json").read_text()), "max_position_embeddings": 100_000}
    AutoModelForCausalLM.from_config(Qwen2Config(**{**config, "eos_token_id": None})).save_pretrained(folder)
    words = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**words, "eos_token": None}))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}")
    return folder


def no_reply_is_made() -> None:
    """Wait until nothing is generated any more."""
    until(lambda: not any(t.name == "memos-reply" for t in threading.enumerate()), "the end of every reply")
