"""The words of the commands about the local model and the KV tier.

As `arguments`, which puts them together: no daemon, and none of the modules that do the work.
"""

from __future__ import annotations

import argparse

from memos_mcp.commands.command import Command

MODEL_HELP = (
    "a Hugging Face name, a folder, or the URL of an OpenAI-compatible server (default: MEMOS_MODEL, or the one that "
    "the daemon serves)"
)


def _model(p: argparse.ArgumentParser) -> None:
    p.add_argument("--model", metavar="NAME", help=MODEL_HELP)


def _chat(p: argparse.ArgumentParser) -> None:
    _model(p)
    p.add_argument("--cube", default="default", help="whose memories it has, and where it remembers (default: default)")
    p.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    p.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest words (default 0.7)")
    p.add_argument("--max-tokens", type=int, metavar="N", help="of a reply, at most (default 512)")
    p.add_argument("--remember", action="store_true", help="keep what you say, turn by turn, in the cube")


def _tier_show(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", nargs="?", metavar="CUBE", help="only of this cube")


def _tier_build(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE")
    _model(p)


def _tier_drop(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", nargs="?", metavar="CUBE", help="only of this cube (default: of all)")
    p.add_argument("--yes", action="store_true", help="do not ask")


CHAT = Command("chat", "talk with a local model that remembers", "chat:chat", _chat)
TIER = Command(
    "tier",
    "see and manage the KV caches of memories",
    parts=(
        Command("show", "list the KV caches that are kept", "tiers:show", _tier_show),
        Command("build", "compute the KV caches of a cube now", "tiers:build", _tier_build),
        Command("drop", "delete KV caches; they are computed again when needed", "tiers:drop", _tier_drop),
    ),
)
