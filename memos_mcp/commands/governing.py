"""`govern`, `audit verify`, `audit show`: how memories are treated, and the log of every change.

`audit verify FILE` reads a copy of the database by itself, without a daemon and without changing a byte of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Failure, Session, Usage

RULES = ("pinned", "frozen", "sensitivity", "priority", "expires_in_days", "tags")


def govern(session: Session, options: argparse.Namespace) -> int:
    if options.no_tags and options.tags:
        raise Usage("govern takes --tag or --no-tags")
    arguments = given(options, *RULES)
    if options.no_tags:
        arguments["tags"] = []
    if not arguments:
        raise Usage("govern takes at least one thing to set")
    result = session.tool("govern", {"ids": options.ids, **arguments, **given(options, "reason")}, "govern")
    if session.screen.as_json:
        session.screen.json(result)
        return DONE
    rows = [
        (
            row["id"],
            row["version"],
            "yes" if row["pinned"] else "",
            "yes" if row["frozen"] else "",
            row["sensitivity"],
            row["priority"],
            (row["expires_at"] or "")[:19],
            ", ".join(row["tags"]),
        )
        for row in result["memories"]
    ]
    session.screen.table(("id", "version", "pinned", "frozen", "sensitivity", "priority", "expires", "tags"), rows)
    return DONE


def verify(session: Session, options: argparse.Namespace) -> int:
    """Where the log was tampered with; exit code 1 if it was."""
    if options.file is None:
        problems = session.call("verify_audit", {})["problems"]
    else:
        from engine.vault.copies import audit_problems_in  # only here: the database is not loaded for other commands

        problems = audit_problems_in(Path(options.file).expanduser().absolute(), session.settings)
    if session.screen.as_json:
        session.screen.json({"problems": problems})
    for problem in problems:
        session.screen.remark(problem)
    if problems:
        raise Failure(f"the audit log is not what was written: {len(problems)} problem{'s' * (len(problems) > 1)}")
    if not session.screen.as_json:
        session.screen.line("the audit log is whole")
    return DONE


def show(session: Session, options: argparse.Namespace) -> int:
    result = session.call("audit", given(options, "cube", "since", "limit"))
    if session.screen.as_json:
        session.screen.json(result)
        return DONE
    rows = [
        (
            row["seq"],
            row["at"][:19],
            row["actor"] if row["actor"] == row["client"] or not row["client"] else f"{row['actor']} ({row['client']})",
            row["action"],
            row["cube"],
            " ".join([*row["ids"], *([row["reason"]] if row["reason"] else []), *_detail(row["detail"])]),
        )
        for row in result["entries"]
    ]
    session.screen.table(("seq", "at", "by", "action", "cube", "memories, reason, details"), rows)
    return DONE


def _detail(detail: dict[str, object]) -> list[str]:
    return [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in detail.items()]
