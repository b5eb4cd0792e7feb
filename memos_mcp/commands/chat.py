"""`chat`: talk with the local model, which remembers.

For a person a prompt; for a pipe one turn a line. Ctrl-C stops the reply and not the chat; a second one ends it, and so
does Ctrl-D. What was typed is kept for the arrow keys while the chat lasts, and nowhere else. What must stay true: a
pipe's first failure ends the chat with exit code 1; a person's is one line, and the chat goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Iterator

from memos_mcp.commands.chat_display import Display, model_line
from memos_mcp.commands.chat_words import Quit, carried_out
from memos_mcp.commands.chatting import Chatting, model_source
from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Failure, Session
from memos_mcp.terminal import interactive

PROMPT = "> "
AGAIN = "Ctrl-C again, Ctrl-D or /quit ends the chat"


def chat(session: Session, options: argparse.Namespace) -> int:
    person = interactive() and not session.screen.as_json
    chatting = Chatting(
        session,
        Display(session.screen, person),
        model=model_source(options.model or session.settings.model),
        cube=options.cube,
        system=options.system,
        remembers=options.remember,
        sampling=given(options, "temperature", "max_tokens"),
    )
    info = chatting.load()
    if session.screen.as_json:
        chatting.display.event({"event": "model", **info})
    with contextlib.suppress(Quit):
        if person:
            chatting.display.note(model_line(info), whole=True)
            remembering = "what you say is kept" if options.remember else "/remember TEXT keeps something"
            chatting.display.note(f"cube {options.cube}; {remembering}; /help shows more, Ctrl-D ends", whole=True)
            _with_a_person(chatting)
        else:
            for line in _lines():
                _take(chatting, line)
    return DONE


def _take(chatting: Chatting, line: str) -> None:
    if line.strip() and not carried_out(chatting, line):
        chatting.reply(line.strip())


# --- a pipe ---------------------------------------------------------------------------------------------------------


def _lines() -> Iterator[str]:
    """The lines of standard input, each when it comes."""
    if sys.stdin is None:
        return
    for number, line in enumerate(iter(sys.stdin.buffer.readline, b""), 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise Failure(f"line {number} of standard input is not UTF-8") from None


# --- a person -------------------------------------------------------------------------------------------------------


def _with_a_person(chatting: Chatting) -> None:
    with contextlib.suppress(ImportError):  # there is none on Windows
        importlib.import_module("readline")  # from now on `input` edits lines and remembers them
    stopped = asking = False  # whether Ctrl-C was the last that came from the person; whether the prompt stands there
    while True:
        try:
            asking = True
            line = _asked(chatting)
            stopped = asking = False
            _take(chatting, line)
        except EOFError:
            chatting.session.screen.remark("")
            return
        except KeyboardInterrupt:
            chatting.session.close()  # whatever was asked of the daemon is not waited for any more
            if asking:
                chatting.session.screen.remark("")  # the line that was begun
            if stopped:
                return
            stopped = True
            chatting.display.note(f"  {'' if asking else 'stopped; '}{AGAIN}", whole=True)
        except Failure as failure:
            chatting.session.screen.remark(f"memos-mcp: {failure}")
        except UnicodeDecodeError:
            chatting.session.screen.remark("memos-mcp: what was typed is not in the terminal's encoding: type it again")


def _asked(chatting: Chatting) -> str:
    """A line from the person. Where standard output goes elsewhere, the prompt does not go along."""
    screen = chatting.session.screen
    if screen.out.isatty():
        return input(PROMPT)
    screen.err.write(PROMPT)
    screen.err.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
