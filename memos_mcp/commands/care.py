"""Running it: status, stop, serve."""

from __future__ import annotations

import argparse
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
    session.screen.table(("", ""), [(name.replace("_", " "), _words(value)) for name, value in state.items()])
    return DONE


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


def stop(session: Session, options: argparse.Namespace) -> int:
    pid = session.stop_daemon()
    if session.screen.as_json:
        session.screen.json({"stopped": pid is not None, "pid": pid})
    else:
        session.screen.line("no daemon runs" if pid is None else f"the daemon (process {pid}) has ended")
    return DONE
