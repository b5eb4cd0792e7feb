"""The words of `tier`: caches and adapters of memories, moves between tiers, and the work that goes on for them.

As `arguments`, which puts them together: no daemon, and none of the modules that do the work.
"""

from __future__ import annotations

import argparse

from memos_mcp.commands.command import Command
from memos_mcp.commands.model_arguments import model

HELD = ("plaintext", "kv", "lora")
NO_VERSION = "none"
REASON_HELP = "goes into the audit log"


def version(text: str) -> int:
    """The number of an adapter's version, as a person writes it: 3, or v3."""
    digits = text.removeprefix("v")
    if not digits.isascii() or not digits.isdigit():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no version of an adapter: use a number, as tier adapters shows it"
        )
    return int(digits)


def _version_or_none(text: str) -> int | None:
    number = None if text == NO_VERSION else version(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f"versions begin with 1; {NO_VERSION} lets no version serve")
    return number


def _at_least_one(text: str) -> int:
    """A number of which there must be some; without it, it is chosen."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is too few: use 1 or more, or leave it out to have it chosen")
    return int(text)


def _part(text: str) -> tuple[str, int]:
    """CUBE, or CUBE@VERSION."""
    cube, mark, number = text.rpartition("@")
    return (cube, version(number)) if mark else (text, 0)


def _show(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", nargs="?", metavar="CUBE", help="only of this cube")
    p.add_argument("--memories", action="store_true", help="also say of each which memories it was made from")


def _build(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE")
    model(p)


def _drop(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", nargs="?", metavar="CUBE", help="only of this cube (default: of all)")
    p.add_argument(
        "--adapters", action="store_true", help="all versions of the cube's adapter, instead of its KV caches"
    )
    p.add_argument("--version", type=version, metavar="N", help="this version of its adapter, instead of its KV caches")
    p.add_argument("--yes", action="store_true", help="do not ask")


def _move(p: argparse.ArgumentParser) -> None:
    p.add_argument("ids", nargs="*", metavar="ID", help="memories; or a whole cube, with --cube")
    p.add_argument("--cube", help="all memories of this cube")
    p.add_argument(
        "--to",
        choices=HELD,
        required=True,
        help="lora: train them into an adapter; kv: keep their attention caches; plaintext: neither, text alone",
    )
    p.add_argument("--dry-run", action="store_true", default=None, help="say what would be moved")
    p.add_argument("--background", action="store_true", default=None, help="do not wait for a training")
    p.add_argument("--reason", help=REASON_HELP)
    model(p)


def _train(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE")
    p.add_argument("ids", nargs="*", metavar="ID", help="only these memories (default: all that may be trained on)")
    p.add_argument("--rank", type=_at_least_one, metavar="R", help="of the adapter's matrices")
    p.add_argument("--steps", type=_at_least_one, metavar="N", help="of training, at most")
    p.add_argument("--seed", type=int, metavar="N", help="the same seed and memories give the same adapter")
    p.add_argument("--no-activate", dest="activate", action="store_false", default=None, help="do not let it serve yet")
    p.add_argument("--background", action="store_true", default=None, help="do not wait for it")
    p.add_argument("--reason", help=REASON_HELP)
    model(p)


def _adapters(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", nargs="?", metavar="CUBE", help="only of this cube")
    p.add_argument("--memories", action="store_true", help="also say of each what it knows and what it missed")
    p.add_argument("--all", action="store_true", help="also versions that are gone")


def _activate(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE")
    p.add_argument("version", type=_version_or_none, metavar="VERSION", help=f"or {NO_VERSION}: no version serves")
    p.add_argument("--reason", help=REASON_HELP)
    model(p)


def _of_version(p: argparse.ArgumentParser) -> None:
    p.add_argument("--version", type=version, metavar="N", help="of the cube's adapter (default: the one that serves)")


def _compare(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE")
    p.add_argument("a", type=version, metavar="A", help="a version of its adapter; 0: the model without any")
    p.add_argument("b", type=version, metavar="B")
    p.add_argument("--all", action="store_true", help="also the probes that both answer alike")
    model(p)


def _probe(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE")
    p.add_argument("ids", nargs="*", metavar="ID", help="only these memories")
    _of_version(p)
    model(p)


def _fuse(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "parts",
        nargs="+",
        type=_part,
        metavar="CUBE",
        help="two or more adapters: CUBE is the one that serves, CUBE@N its version N",
    )
    p.add_argument("--into", required=True, metavar="CUBE", help="whose adapter it becomes")
    p.add_argument("--no-activate", dest="activate", action="store_false", default=None, help="do not let it serve yet")
    p.add_argument("--reason", help=REASON_HELP)
    model(p)


def _export(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE")
    p.add_argument("path", metavar="DIR", help="a folder that is not there yet")
    _of_version(p)


def _text(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE")
    _of_version(p)
    p.add_argument("--keep", action="store_true", default=None, help="remember what it asserts")
    p.add_argument("--into", metavar="CUBE", help="with --keep: where (default: the adapter's cube)")
    model(p)


def _cancel(p: argparse.ArgumentParser) -> None:
    p.add_argument("id", metavar="ID", help="as tier work shows it")


TIER = Command(
    "tier",
    "see and manage in which form memories are kept for the local model",
    parts=(
        Command("show", "list the KV caches and adapters that are kept", "tiers:show", _show),
        Command("build", "compute the KV caches of a cube now", "tiers:build", _build),
        Command("drop", "delete KV caches or adapters; the memories stay", "tiers:drop", _drop),
        Command("move", "move memories, or a whole cube, to a tier", "moving:move", _move),
        Command("train", "train an adapter of a cube", "moving:train", _train),
        Command("adapters", "list the versions of adapters", "adapters:show", _adapters),
        Command("activate", "let a version of a cube's adapter serve, or none", "adapters:activate", _activate),
        Command("compare", "ask two versions of an adapter the same", "adapters:compare", _compare),
        Command("probe", "ask an adapter what it was trained on, without the memories", "adapters:probe", _probe),
        Command("fuse", "make one adapter of several", "adapters:fuse", _fuse),
        Command("export", "write an adapter as a folder that PEFT loads", "adapters:export", _export),
        Command("text", "say in words what an adapter asserts", "adapters:text", _text),
        Command("work", "list long work: what waits, what runs, what became of it", "moving:work", None),
        Command("cancel", "end work that waits or runs", "moving:cancel", _cancel),
    ),
)
