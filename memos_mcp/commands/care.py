"""Running it: status, stop, serve."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from memos_mcp.commands.session import DONE, Session
from memos_mcp.version import VERSION

# What a program may rely on, whether or not a daemon runs.
NOT_RUNNING: dict[str, Any] = {
    "running": False,
    "pid": None,
    "version": VERSION,
    "data": None,
    "revision": None,
    "counts": None,
    "embedder": None,
    "degraded": None,
    "adapters": None,
    "work": None,
}


def status(session: Session, options: argparse.Namespace) -> int:
    """What runs and what it holds. It starts nothing."""
    data = str(session.settings.data)
    state = {**NOT_RUNNING, "data": data}
    if session.daemon_runs():
        state |= {**session.call("status", {}, start=False), "running": True}
    if session.screen.as_json:
        session.screen.json(state)
        return DONE
    rows = [(name.replace("_", " "), IN_WORDS.get(name, _words)(value)) for name, value in state.items()]
    session.screen.table(("", ""), rows)
    return DONE


def _adapters(serving: dict[str, str] | None) -> str:
    return "\n".join(f"{cube}: {words}" for cube, words in (serving or {}).items()) or "-"


def _scheduler(state: dict[str, Any] | None) -> str:
    """What is on, how many memories are in which tier, and what is to be said of it."""
    if state is None:
        return "-"
    switches = {word: [part for part, value in state["parts"].items() if value == word] for word in ("on", "off")}
    parts = [f"{', '.join(named)} {word}" for word, named in switches.items() if named]
    levels = [f"{level} {count:,}" for level, count in state["levels"].items() if count]
    expected = [f"{state['predicted']:,} expected next"] if state["predicted"] else []
    return "\n".join(["; ".join([*parts, *expected]), *([", ".join(levels)] if levels else []), *state["remarks"]])


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list):
        return "\n".join(_words(inner) for inner in value) or "-"
    return str(value)


IN_WORDS: dict[str, Callable[[Any], str]] = {"adapters": _adapters, "scheduler": _scheduler}


def stop(session: Session, options: argparse.Namespace) -> int:
    pid = session.stop_daemon()
    if session.screen.as_json:
        session.screen.json({"stopped": pid is not None, "pid": pid})
    else:
        session.screen.line("no daemon runs" if pid is None else f"the daemon (process {pid}) has ended")
    return DONE
