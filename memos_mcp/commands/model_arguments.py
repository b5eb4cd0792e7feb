"""The words of the command `chat`, and what every command about the local model may say.

As `arguments`, which puts them together: no daemon, and none of the modules that do the work.
"""

from __future__ import annotations

import argparse

from memos_mcp.commands.command import Command

MODEL_HELP = (
    "a Hugging Face name, a folder, or the URL of an OpenAI-compatible server (default: MEMOS_MODEL, or the one that "
    "the daemon serves)"
)


def model(p: argparse.ArgumentParser) -> None:
    p.add_argument("--model", metavar="NAME", help=MODEL_HELP)


def _chat(p: argparse.ArgumentParser) -> None:
    model(p)
    p.add_argument("--cube", default="default", help="whose memories it has, and where it remembers (default: default)")
    p.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    p.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest words (default 0.7)")
    p.add_argument("--max-tokens", type=int, metavar="N", help="of a reply, at most (default 512)")
    p.add_argument("--remember", action="store_true", help="keep what you say, turn by turn, in the cube")


CHAT = Command("chat", "talk with a local model that remembers", "chat:chat", _chat)
