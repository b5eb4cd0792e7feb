"""The words of a conversation that begin with a slash: /remember, /forget, /why and the others.

A table of them, and a function for each. What must stay true: a line that merely begins like a path is no command, and
nothing is forgotten unless a person was asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memos_mcp.commands.chat_display import cost, model_line
from memos_mcp.commands.chatting import Chatting, model_source
from memos_mcp.commands.session import Failure
from memos_mcp.terminal import interactive

COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?\Z", re.DOTALL)
SWITCH = {"on": True, "off": False}
SEARCHED = 20


class Quit(Exception):
    """The person wants to leave."""


@dataclass(frozen=True, slots=True)
class Word:
    usage: str
    summary: str
    does: Callable[[Chatting, str], None]


def carried_out(chat: Chatting, line: str) -> bool:
    """Do what the line asks for, if it is a command.

    Raises:
        Failure: it is one, and was refused; the message says why.
        Quit: it asks for the end.
    """
    found = COMMAND.match(line.strip())
    if found is None:
        return False
    name, rest = found[1], (found[2] or "").strip()
    if name not in WORDS:
        raise Failure(f"there is no command /{name}: /help shows those that there are")
    WORDS[name].does(chat, rest)
    return True


def _remember(chat: Chatting, rest: str) -> None:
    if rest in SWITCH:
        chat.remembers = SWITCH[rest]
    if not rest or rest in SWITCH:
        kept = "is kept" if chat.remembers else "is not kept: /remember TEXT keeps one thing, /remember on everything"
        chat.display.told({"event": "remembering", "on": chat.remembers}, f"  what you say {kept}")
        return
    chat.remember(content=rest)


def _forget(chat: Chatting, rest: str) -> None:
    ids = rest.split()
    if not ids:
        raise Failure("/forget takes the id of a memory, as /memories and /why show it")
    for id in ids:
        versions = chat.session.call("history", {"id": id})["versions"]
        chat.display.note(f"  {id}  {versions[-1]['content']}", whole=True)
    those = "this memory" if len(ids) == 1 else f"these {len(ids)} memories"
    if not interactive():
        raise Failure(f"/forget asks a person, and nobody is there: memos-mcp forget {' '.join(ids)} does not ask")
    if not chat.session.screen.ask(f"Archive {those}?"):
        raise Failure("nothing was archived")
    result = chat.session.call("tool", {"name": "forget", "arguments": {"ids": ids}})
    done = ", ".join(entry["id"] for entry in result["forgotten"]) or "nothing"
    chat.display.told({"event": "forgotten", **result}, f"  archived {done}; memos-mcp restore brings it back")


def _memories(chat: Chatting, rest: str) -> None:
    if rest:
        arguments: dict[str, Any] = {"query": rest, "cubes": [chat.cube], "limit": SEARCHED}
        found = chat.session.call("tool", {"name": "recall", "arguments": arguments})["memories"]
        rows = [(row["id"], row["kind"], f"{row['score']:.2f}", row["content"]) for row in found]
        chat.display.table({"event": "memories", "memories": found}, ("id", "kind", "score", "content"), rows)
        return
    result = chat.session.call("newest", {"cube": chat.cube})
    rows = [(row["id"], row["kind"], row["created_at"][:10], row["content"]) for row in result["newest"]]
    chat.display.table({"event": "memories", "memories": result["newest"]}, ("id", "kind", "since", "content"), rows)
    if result["memories"] > len(rows):
        chat.display.note(f"  of {result['memories']:,} in all: /memories QUERY searches them", whole=True)


def _cube(chat: Chatting, rest: str) -> None:
    views = chat.session.call("cubes", {})["cubes"]
    if rest:
        chat.cube = rest
        there = next((view for view in views if view["name"] == rest), None)
        holds = "which does not exist yet: /remember makes it" if there is None else f"{there['memories']:,} memories"
        chat.display.told({"event": "cube", "name": rest, "exists": there is not None}, f"  cube {rest}, {holds}")
        return
    rows = [("*" if view["name"] == chat.cube else "", view["name"], f"{view['memories']:,}") for view in views]
    names = [view["name"] for view in views]
    chat.display.table({"event": "cubes", "cubes": names, "chosen": chat.cube}, ("", "cube", "memories"), rows)


def _why(chat: Chatting, rest: str) -> None:
    last = chat.last
    if last is None:
        raise Failure("there is no reply yet")
    rows = [
        (
            used["id"],
            used["version"],
            used["cube"],
            used["form"] + (", pinned" if used["pinned"] else ""),
            used["content"],
        )
        for used in last["used"]
    ]
    event = {**last, "event": "why", "stopped": last["event"] == "recalling"}
    chat.display.table(event, ("id", "version", "cube", "tier", "content"), rows or [("-", "", "", "", "no memory")])
    if chat.session.screen.as_json:
        return
    if last["event"] == "recalling":
        chat.display.note("  the reply was stopped before it was counted", whole=True)
    else:
        chat.display.note(f"  {cost(last)} · {last['model']}", whole=True)
    for said in last["remarks"]:
        chat.display.note(f"  {said}", whole=True)


def _model(chat: Chatting, rest: str) -> None:
    before = chat.model
    if rest:
        chat.model = model_source(rest)
    try:
        info = chat.load()
    except Failure:
        chat.model = before
        raise
    chat.display.told({"event": "model", **info}, f"  {model_line(info)}")


def _new(chat: Chatting, rest: str) -> None:
    chat.begin()
    chat.display.told({"event": "new"}, "  a new conversation; memory stays")


def _help(chat: Chatting, rest: str) -> None:
    rows = [(word.usage, word.summary) for word in WORDS.values()]
    event = {"event": "help", "commands": [{"usage": usage, "summary": summary} for usage, summary in rows]}
    chat.display.table(event, ("command", "does"), rows)


def _quit(chat: Chatting, rest: str) -> None:
    raise Quit


WORDS: dict[str, Word] = {
    "remember": Word(
        "/remember TEXT", "keep TEXT; /remember on keeps all that you say, /remember off no more", _remember
    ),
    "forget": Word("/forget ID", "archive a memory, after a question", _forget),
    "memories": Word("/memories [QUERY]", "the newest memories of the cube, or those that QUERY finds", _memories),
    "cube": Word("/cube [NAME]", "talk with another cube, or show which there are", _cube),
    "why": Word("/why", "what the last reply was made from: memories, tiers, tokens, time", _why),
    "model": Word("/model [NAME]", "show the model, or talk with another one", _model),
    "new": Word("/new", "begin a new conversation", _new),
    "help": Word("/help", "this list", _help),
    "quit": Word("/quit", "leave; Ctrl-D does too", _quit),
}
