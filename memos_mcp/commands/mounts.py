"""`mount`, `unmount`, `mounts`: files and folders that are shown as cubes."""

from __future__ import annotations

import argparse
from pathlib import Path

from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Failure, Session


def mount(session: Session, options: argparse.Namespace) -> int:
    path = Path(options.path).expanduser().absolute()
    if not path.exists():
        raise Failure(f"there is nothing at {path}: name a .memcube file or a folder")
    row = session.call("mount", {"path": str(path), **given(options, "name")})
    if session.screen.as_json:
        session.screen.json(row)
    else:
        session.screen.line(f"{row['path']} is shown as cube {row['cube']}: {row['state']}")
        for problem in row["problems"]:
            session.screen.remark(problem)
    return DONE


def unmount(session: Session, options: argparse.Namespace) -> int:
    result = session.call("unmount", {"cube": options.cube})
    if session.screen.as_json:
        session.screen.json(result)
    else:
        session.screen.line(f"{options.cube} is shown no more; its files are as they were")
    return DONE


def mounts(session: Session, options: argparse.Namespace) -> int:
    result = session.call("mounts", {})
    if session.screen.as_json:
        session.screen.json(result)
    else:
        rows = [(row["cube"], row["kind"], row["memories"], row["state"], row["path"]) for row in result["mounts"]]
        session.screen.table(("cube", "kind", "memories", "state", "path"), rows)
        for row in result["mounts"]:
            for problem in row["problems"]:
                session.screen.remark(f"{row['cube']}: {problem}")
    return DONE
