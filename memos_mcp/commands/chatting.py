"""A conversation with the local model: its turns, what it remembers, and the requests to the daemon.

The daemon keeps no conversation: all turns are held here and sent each time. What must stay true: a turn that failed
leaves no trace in the conversation, one that was stopped keeps what was said; what was recalled is never stored again,
only what the person said, and only when told to or set so.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.model_operations import MAX_CHAT_CHARS, MAX_CHAT_TURNS
from memos_mcp.commands.chat_display import Display
from memos_mcp.commands.session import Failure, Session

Turn = dict[str, str]
PATHS = ("/", "./", "../", "~")  # how a name begins that can only be that of a folder


def model_source(name: str | None) -> str | None:
    """A model's name as the daemon understands it: a folder by its whole path, since it works in another folder.

    Raises:
        Failure: it is the path of a folder that is not there.
    """
    if not name or "://" in name:
        return name or None
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.absolute())
    if name.startswith(PATHS):
        raise Failure(f"{name} is no folder: give that of a model, its name on Hugging Face, or the URL of a server")
    return name


@dataclass
class Chatting:
    """One conversation after another, with one model and one cube at a time."""

    session: Session
    display: Display
    model: str | None
    cube: str
    system: str | None = None
    remembers: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)
    last: dict[str, Any] | None = None  # the last event about the last reply: recalling, or finished
    turns: list[Turn] = field(default_factory=list)
    _source: str = ""

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new conversation."""
        self.turns = [{"role": "system", "content": self.system}] if self.system else []
        self.last = None
        self._source = f"chat:{secrets.token_hex(6)}"

    def load(self) -> dict[str, Any]:
        """Have the model loaded; what it is.

        Raises:
            Failure: there is none, or it cannot be loaded; the message says what to do.
        """
        try:
            wanted = {"model": self.model, "load": True, "offline": self.session.settings.offline}
            info = self.session.call("model", wanted, self.display.loading)
        finally:
            self.display.clear()
        return dict(info)

    # --- replies -----------------------------------------------------------------------------------------------------

    def reply(self, text: str) -> None:
        """Answer one turn of the person, as it comes.

        Raises:
            Failure: there is no answer; the message says why.
            KeyboardInterrupt: the person stopped it; what was said until then stands in the conversation.
        """
        self.turns.append({"role": "user", "content": text})
        self._keep_within_bounds()
        said: list[str] = []
        try:
            self._hear(said)
        except KeyboardInterrupt:
            self.session.close()  # which ends the reply in the daemon
            self._note_what_was_said(text, "".join(said))
            raise
        except Failure:
            self.turns.pop()
            raise
        finally:
            self.display.clear()
            self.display.end_line()
        self._note_what_was_said(text, "".join(said))

    def _hear(self, said: list[str]) -> None:
        request = {"turns": self.turns, "cubes": [self.cube], "model": self.model, **self.sampling}
        for event in self.session.items("chat", request, self.display.loading):
            if event["event"] == "said":
                said.append(event["text"])
            elif event["event"] in ("recalling", "finished"):
                self.last = event
            self.display.event(event)

    def _note_what_was_said(self, text: str, reply: str) -> None:
        if kept := sendable(reply):
            self.turns.append({"role": "assistant", "content": kept})
        else:
            self.turns.pop()
        if self.remembers:
            at = datetime.now(UTC).isoformat()
            self.remember(messages=[{"role": "user", "content": text, "at": at}])

    def _keep_within_bounds(self) -> None:
        """Of a conversation too long for any request the oldest turns go; the model's context ends far below."""
        first = 1 if self.system else 0
        gone = 0
        while len(self.turns) > MAX_CHAT_TURNS or sum(len(turn["content"]) for turn in self.turns) > MAX_CHAT_CHARS:
            if len(self.turns) <= first + 1:
                break
            del self.turns[first]
            gone += 1
        if gone:
            self.display.note(f"{gone} oldest turns were let go: the conversation is too long", whole=True)

    # --- memory ------------------------------------------------------------------------------------------------------

    def remember(self, **what: Any) -> None:
        """Keep `content` or `messages` in the cube, as from this conversation."""
        arguments = {**what, "cube": self.cube, "source": self._source}
        result = self.session.call("tool", {"name": "remember", "arguments": arguments})
        for entry in result["stored"]:
            told = f"remembered {entry['id']} ({entry['status']})"
            if entry["conflicts_with"]:
                told += f", in conflict with {', '.join(entry['conflicts_with'])}"
            self.display.told({"event": "remembered", **entry}, f"  {told}")


def sendable(text: str) -> str:
    """A reply as it may be sent back: without the control characters that no request may hold."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs")).strip()
