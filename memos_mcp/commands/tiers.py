"""`tier show`, `build`, `drop`: what is kept of memories for the model, which saves it from reading them again.

What must stay true: nothing is dropped unless a person said yes, or `--yes` was given. What is dropped can be computed
again; no memory is ever lost by it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from memos_mcp.commands.chatting import model_source
from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Failure, Session, Usage
from memos_mcp.terminal import interactive

HEADINGS = ("id", "cube", "form", "tokens", "size", "memories", "uses", "divergence", "since", "model")
FINGERPRINT_CHARS = len("sha256:") + 8
KV = "kv"
UNITS = ("B", "kB", "MB", "GB", "TB")


def show(session: Session, options: argparse.Namespace) -> int:
    rows = _rows(session, options.cube)
    if session.screen.as_json:
        session.screen.json({"tiers": rows})
        return DONE
    if not rows:
        cube = options.cube or "CUBE"
        session.screen.remark(f"no KV cache is kept: chats make them, and so does memos-mcp tier build {cube}")
        return DONE
    session.screen.table(HEADINGS, [_row(row) for row in rows])
    if options.memories:
        session.screen.line()
        made_of = [(row["id"], f"{item['id']} v{item['version']}") for row in rows for item in row["sources"]]
        session.screen.table(("id", "made from"), made_of)
    session.screen.remark(_sum(rows))
    if not any(row["usable"] for row in rows):
        session.screen.remark("marked - is what no model that is loaded now can use: a chat loads the model")
    elif others := sum(not row["usable"] for row in rows):
        session.screen.remark(f"{others:,} of another model (marked -): kept until room is needed, or tier drop")
    return DONE


def _rows(session: Session, cube: str | None) -> list[dict[str, Any]]:
    return list(session.call("tiers", {"cube": cube})["tiers"])


def _row(row: dict[str, Any]) -> Sequence[object]:
    divergence = "" if row["divergence"] is None else f"{row['divergence']:.4f}"
    model = ("" if row["usable"] else "- ") + row["model"][:FINGERPRINT_CHARS]
    size, since = bytes_in_words(row["bytes"]), row["created_at"][:10]
    return (
        *(row["id"], row["cube"], row["form"], f"{row['tokens']:,}", size, row["memories"], row["uses"]),
        *(divergence, since, model),
    )


def _sum(rows: Sequence[dict[str, Any]]) -> str:
    tokens, size = sum(row["tokens"] for row in rows), sum(row["bytes"] for row in rows)
    caches = sum(row["kind"] == KV for row in rows)
    adapters = len(rows) - caches
    parts = [
        f"{count:,} {name if count == 1 else f'{name}s'}"
        for count, name in ((caches, "KV cache"), (adapters, "adapter"))
        if count
    ]
    if caches:
        parts.append(f"{tokens:,} tokens")
    return ", ".join([*parts, bytes_in_words(size)])


def bytes_in_words(count: int) -> str:
    """`count` bytes in the largest unit of which there is one."""
    size = float(count)
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == UNITS[0] else f"{size:.1f} {unit}"


def memories_in_words(count: int) -> str:
    """`count` memories, in words."""
    return "1 memory" if count == 1 else f"{count:,} memories"


def build(session: Session, options: argparse.Namespace) -> int:
    """Compute them now, and not with the first chats. Ctrl-C keeps what is done by then."""
    model = model_source(options.model or session.settings.model)
    with session.screen.bar("build") as bar:
        built = session.call(
            "build_tier", {"cube": options.cube, "model": model, "offline": session.settings.offline}, bar
        )
    if session.screen.as_json:
        session.screen.json(built)
        return DONE
    chunks = memories_in_words(built["chunks"])
    session.screen.line(
        f"{built['cube']}: a prefix of {built['prefix_tokens']:,} tokens, the KV caches of {chunks}, "
        f"{bytes_in_words(built['bytes'])}"
    )
    if built["skipped"]:
        session.screen.table(("skipped", "why"), [(row["id"], row["why"]) for row in built["skipped"]])
    return DONE


def drop(session: Session, options: argparse.Namespace) -> int:
    if options.adapters or options.version is not None:
        return _drop_adapters(session, options)
    rows = [] if options.yes else [row for row in _rows(session, options.cube) if row["kind"] == KV]
    if rows:
        _agreed(session, _sum(rows))
    return _tell_of_drop(session, session.call("drop_tier", given(options, "cube")))


def _drop_adapters(session: Session, options: argparse.Namespace) -> int:
    if options.cube is None:
        raise Usage("tier drop takes the CUBE whose adapter it is, with --adapters or --version")
    if not options.yes:
        rows = session.call("adapters", {"cube": options.cube})["adapters"]
        there = [row for row in rows if row["state"] != "gone" and options.version in (None, row["version"])]
        if there:
            versions = ", ".join(f"{row['version']} ({row['state']})" for row in there)
            _agreed(session, f"version {versions} of the adapter of {options.cube}")
        elif options.version is None and not session.screen.as_json:
            session.screen.line(f"there is no adapter of {options.cube}: nothing was dropped")
            return DONE
    return _tell_of_drop(session, session.call("drop_adapter", given(options, "cube", "version")))


def _agreed(session: Session, what: str) -> None:
    """Return only where the person says yes."""
    if not interactive():
        raise Failure(f"{what}: nothing was dropped: say --yes to do it")
    if not session.screen.ask(f"Drop {what}?"):
        raise Failure("nothing was dropped")


def _tell_of_drop(session: Session, done: dict[str, Any]) -> int:
    if session.screen.as_json:
        session.screen.json(done)
    else:
        session.screen.line(f"dropped {done['dropped']:,}; the memories themselves are as they were")
    return DONE
