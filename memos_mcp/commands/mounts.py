"""`mount`, `unmount`, `mounts`: files and folders that are shown as cubes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Failure, Session

BUNDLES = "drop"  # the kind of a folder of bundles, which is no cube itself


def mount(session: Session, options: argparse.Namespace) -> int:
    path = Path(options.path).expanduser().absolute()
    if not path.exists():
        raise Failure(f"there is nothing at {path}: name a .memcube file or a folder")
    row = session.call("mount", {"path": str(path), **given(options, "name")})
    if session.screen.as_json:
        session.screen.json(row)
    else:
        session.screen.line(f"{_shown(row)}: {row['state']}")
        for problem in row["problems"]:
            session.screen.remark(problem)
    return DONE


def _shown(row: Mapping[str, Any]) -> str:
    if row["kind"] == BUNDLES:
        return f"the bundles in {row['path']} are shown as read-only cubes"
    return f"{row['path']} is shown as cube {row['cube']}"


def _called(row: Mapping[str, Any]) -> str:
    """What a mount is called: its path where it has no cube of its own."""
    return str(row["cube"] or row["path"])


def _asked(session: Session, name: str) -> str:
    """The name of a mounted cube as it is, a path absolute: the daemon is in another folder."""
    if any(name == row["cube"] for row in session.call("mounts", {})["mounts"]):
        return name
    if name and (os.sep in name or name.startswith("~") or Path(name).exists()):
        return os.path.abspath(Path(name).expanduser())
    return name


def unmount(session: Session, options: argparse.Namespace) -> int:
    result = session.call("unmount", {"cube": _asked(session, options.cube)})
    if session.screen.as_json:
        session.screen.json(result)
    else:
        session.screen.line(f"{result['unmounted']} is shown no more; its files are as they were")
    return DONE


def mounts(session: Session, options: argparse.Namespace) -> int:
    result = session.call("mounts", {})
    if session.screen.as_json:
        session.screen.json(result)
    else:
        rows = [(_called(row), row["kind"], row["memories"], row["state"], row["path"]) for row in result["mounts"]]
        session.screen.table(("cube", "kind", "memories", "state", "path"), rows)
        for row in result["mounts"]:
            for problem in row["problems"]:
                session.screen.remark(f"{_called(row)}: {problem}")
    return DONE
