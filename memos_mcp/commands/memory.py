"""The four tools and time travel from a shell: arguments in, one request to the daemon, a table out.

Validates nothing that the daemon validates; only what is a matter of the shell (files, standard input, asking a
person) is decided here. What must stay true: nothing is erased unless a person said yes at a terminal, or `--yes` or
a preview's token was given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from memos_mcp.commands.session import DONE, Failure, Session, Usage
from memos_mcp.terminal import interactive

ERASE = "erase"
STANDARD_STREAM = "-"


def remember(session: Session, options: argparse.Namespace) -> int:
    if (options.content is None) == (options.messages is None):
        raise Usage("remember takes exactly one of TEXT and --messages FILE")
    arguments = given(
        options,
        *("cube", "kind", "tags", "occurred_at", "expires_in_days", "source", "supersedes", "sensitivity", "facts"),
    )
    if options.messages is not None:
        arguments["messages"] = _json_file(options.messages)
    else:
        arguments["content"] = _text(options.content)
    result = session.tool("remember", arguments, "remember")
    if session.screen.as_json:
        session.screen.json(result)
        return DONE
    rows = [(entry["id"], entry["version"], entry["status"], _about(entry)) for entry in result["stored"]]
    rows += [
        (entry["id"], entry["version"], f"drawn: {entry['status']}", _about(entry)) for entry in result.get("facts", ())
    ]
    session.screen.table(("id", "version", "status", ""), rows)
    for remark in result.get("remarks", ()):
        session.screen.remark(remark)
    return DONE


def facts(session: Session, options: argparse.Namespace) -> int:
    result = session.call("draw_facts", {"cube": options.cube})
    if session.screen.as_json:
        session.screen.json(result)
    elif result["work"] is None:
        session.screen.line(f"there is no turn in {options.cube} that nothing was drawn from")
    else:
        session.screen.line(f"facts are drawn in the background ({result['work']['id']}): memos-mcp tier work")
    return DONE


def _about(entry: dict[str, Any]) -> str:
    parts = []
    if entry.get("conflicts_with"):
        parts.append("in conflict with " + ", ".join(entry["conflicts_with"]))
    if entry.get("superseded"):
        parts.append("instead of " + ", ".join(entry["superseded"]))
    return "; ".join(parts)


def recall(session: Session, options: argparse.Namespace) -> int:
    arguments = given(
        options,
        *("query", "cubes", "limit", "max_tokens", "kinds", "tags", "after", "before", "as_of"),
        *("include_archived", "response_format"),
    )
    result = session.tool("recall", arguments, "recall")
    if session.screen.as_json:
        session.screen.json(result)
        return DONE
    if result["memories"]:
        rows = [
            (entry["id"], entry["kind"], _day(entry), f"{entry['score']:.2f}", _content(entry))
            for entry in result["memories"]
        ]
        session.screen.table(("id", "kind", "when", "score", "content"), rows)
    if result["omitted"]:
        session.screen.remark(f"{result['omitted']} more did not fit: raise --max-tokens or --limit")
    if result["nothing_relevant"]:
        session.screen.remark("nothing relevant was found" if not result["memories"] else "these may not be relevant")
    if result["degraded"]:
        session.screen.remark(f"degraded: {result['degraded']}")
    return DONE


def _content(entry: dict[str, Any]) -> str:
    why = entry.get("why")  # only in the detailed form
    return f"{entry['content']}\n  found by: {', '.join(why)}" if why else str(entry["content"])


def _day(entry: dict[str, Any]) -> str:
    return str(entry.get("occurred_at") or entry.get("created_at") or "")[:10]


def forget(session: Session, options: argparse.Namespace) -> int:
    _exactly_one("forget", ("ID", options.ids), ("--query", options.query), ("--confirm", options.confirm))
    arguments = given(options, "ids", "query", "cube", "confirm", "mode", "reason")
    result = session.tool("forget", arguments, "forget")
    if result.get("confirm") and (options.yes or _agreed(session, result, options.mode == ERASE)):
        kept = {name: value for name, value in arguments.items() if name in ("mode", "reason")}
        result = session.tool("forget", {"confirm": result["confirm"], **kept}, "forget")
    _show_forgotten(session, result)
    if result["not_found"]:
        raise Failure(f"not found: {', '.join(result['not_found'])}")
    if options.ids and not result["forgotten"]:
        raise Failure("nothing was erased: say --yes, or --confirm with the token of the preview")
    return DONE


def _agreed(session: Session, result: dict[str, Any], erases: bool) -> bool:
    """Show a person what it is about, and ask. Where there is no person, the answer is no."""
    if not interactive():
        return False
    for entry in result["preview"]:
        session.screen.remark(f"{entry['id']}  {entry['content']}")
    count = len(result["preview"])
    those = "this memory" if count == 1 else f"these {count} memories"
    return session.screen.ask(f"Erase {those} for good?" if erases else f"Archive {those}?")


def _show_forgotten(session: Session, result: dict[str, Any]) -> None:
    screen = session.screen
    if screen.as_json:
        screen.json(result)
        return
    if result["forgotten"]:
        screen.table(("id", "done"), [(entry["id"], f"{entry['mode']}d") for entry in result["forgotten"]])
    elif result["preview"]:
        screen.table(("id", "would be forgotten"), [(entry["id"], entry["content"]) for entry in result["preview"]])
        screen.line(f"nothing was changed; to do it: memos-mcp forget --confirm {result['confirm']}")
    elif not result["not_found"]:
        screen.remark("nothing matches; nothing was changed")
    if receipt := result["receipt"]:
        screen.line(f"receipt {receipt['id']}: memos-mcp receipt show {receipt['id']}")
        for gone in (row for row in receipt["lora"] if row["served"]):
            screen.remark(
                f"adapter version {gone['version']} of cube {gone['cube']} is out of service, and is trained anew "
                "without it: memos-mcp tier work"
            )
        for place in receipt["withdrawn"]:
            screen.remark(f"taken off its shelf: {place}")
        for path in receipt["out_of_reach"]:
            screen.remark(f"a copy may remain in {path}: delete it yourself")


def fuse(session: Session, options: argparse.Namespace) -> int:
    _exactly_one("fuse", ("ID", options.ids), ("--cubes", options.cubes), ("--cube", options.cube))
    if (options.cubes is None) != (options.into is None):
        raise Usage("fuse takes --cubes and --into together")
    arguments = given(options, "ids", "cubes", "into", "cube", "dry_run")
    if options.content is not None:
        arguments["content"] = _text(options.content)
    result = session.tool("fuse", arguments, "fuse")
    screen = session.screen
    if screen.as_json:
        screen.json(result)
        return DONE
    fused = result.get("fused") or {}
    if options.cubes:
        _show_fused_cubes(session, result)
    if fused.get("id"):
        screen.line(f"{', '.join(result['merged'])} became {fused['id']}")
    if result.get("content"):
        screen.line(str(result["content"]))
    if result.get("conflicts"):
        rows = [(", ".join(entry["ids"]), entry["about"]) for entry in result["conflicts"]]
        screen.table(("these disagree", "about"), rows)
    if options.cube and not options.ids:
        groups = result.get("groups") or []
        screen.table(("", "worth fusing"), [(n, " ".join(group)) for n, group in enumerate(groups, 1)])
    return DONE


def _show_fused_cubes(session: Session, result: dict[str, Any]) -> None:
    done = "holds" if result["fused"] else "would hold"
    session.screen.line(f"{result['into']} {done} {result['memories']:,} memories; {result['joined']:,} were the same")
    for entry in result["before"]:
        session.screen.line(f"to undo it: memos-mcp cube rollback {entry['cube']} --to {entry['snapshot']}")


def history(session: Session, options: argparse.Namespace) -> int:
    result = session.call("history", {"id": options.id})
    if session.screen.as_json:
        session.screen.json(result)
        return DONE
    rows = [
        (entry["version"], str(entry["at"])[:19], entry["change"], entry["state"], entry["author"], entry["content"])
        for entry in _versions(result)
    ]
    session.screen.table(("version", "at", "change", "state", "by", "content"), rows)
    return DONE


def _versions(result: Any) -> Iterable[dict[str, Any]]:
    versions: Iterable[dict[str, Any]] = result["versions"] if isinstance(result, dict) else result
    return versions


def restore(session: Session, options: argparse.Namespace) -> int:
    arguments = {"id": options.id, "version": options.to_version, **given(options, "reason")}
    result = session.call("restore", arguments)
    if session.screen.as_json:
        session.screen.json(result)
    else:
        session.screen.line(f"{options.id} says again what it said in version {options.to_version}")
    return DONE


# --- arguments ------------------------------------------------------------------------------------------------------


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What was said on the command line; the rest is left to the daemon's defaults."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value != []}


def _exactly_one(command: str, *alternatives: tuple[str, Any]) -> None:
    if sum(1 for _, value in alternatives if value) != 1:
        *names, last = (name for name, _ in alternatives)
        raise Usage(f"{command} takes exactly one of {', '.join(names)} and {last}")


def _text(argument: str) -> str:
    return sys.stdin.read() if argument == STANDARD_STREAM else argument


def _json_file(path: str) -> Sequence[Any]:
    try:
        text = sys.stdin.read() if path == STANDARD_STREAM else Path(path).read_text("utf-8")
        value = json.loads(text)
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise Failure(f"{path} is not a JSON file: {error}") from error
    if not isinstance(value, list):
        raise Failure(f"{path} must hold an array of messages {{role, content, name?, at?}}")
    return value
