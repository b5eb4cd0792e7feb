"""`cube list`, `create`, `show`, `set`, `share`, `delete`: cubes as things in the store.

One request to the daemon each, and a table out. What must stay true: a cube is deleted only when a person said yes at
a terminal, or `--yes` was given.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Failure, Session, Usage
from memos_mcp.terminal import interactive

HEADER = ("description", "licence", "read", "write", "share", "reason")
LIMITS = ("ttl_days", "decay_days", "keep_versions", "keep_days", "max_memories", "max_bytes")
SCOPES = ("read", "write", "share")

Cube = Mapping[str, Any]


def show_all(session: Session, options: argparse.Namespace) -> int:
    result = session.call("cubes", {})
    if session.screen.as_json:
        session.screen.json(result)
        return DONE
    rows = [
        (cube["name"], cube["memories"], cube["version"], cube["policy"]["read"], cube["owner"], _about(cube))
        for cube in result["cubes"]
    ]
    session.screen.table(("cube", "memories", "version", "read", "owner", "about"), rows)
    return DONE


def _about(cube: Cube) -> str:
    shows = f"shows {cube['mounted']}" if cube["mounted"] else ""
    return "; ".join(part for part in (cube["description"], shows) if part)


def create(session: Session, options: argparse.Namespace) -> int:
    if options.cube in _names(session):
        raise Failure(f"there is a cube {options.cube!r} already: `memos-mcp cube set` changes it")
    return _set(session, options)


def change(session: Session, options: argparse.Namespace) -> int:
    if options.cube not in _names(session):
        raise Failure(f"there is no cube {options.cube!r}: `memos-mcp cube create` makes one")
    if not given(options, *HEADER[:-1], *LIMITS):
        raise Usage("cube set takes at least one thing to set")
    return _set(session, options)


def _names(session: Session) -> set[str]:
    return {cube["name"] for cube in session.call("cubes", {})["cubes"]}


def _set(session: Session, options: argparse.Namespace) -> int:
    arguments = {"name": options.cube, **given(options, *HEADER, *LIMITS)}
    result = session.tool("create_cube", arguments, "cube")
    if session.screen.as_json:
        session.screen.json(result)
    else:
        _print(session, result["cube"])
    return DONE


def share(session: Session, options: argparse.Namespace) -> int:
    arguments = {"cube": options.cube, **given(options, *SCOPES, "reason")}
    if options.revoke is not None:
        if options.principal is not None or options.actions is not None:
            raise Usage("cube share takes --revoke, or --principal with --action")
        arguments |= {"principal": options.revoke, "actions": []}
    elif options.principal is not None:
        arguments |= {"principal": options.principal, "actions": options.actions or ["read"]}
    elif options.actions is not None:
        raise Usage("cube share takes --action with --principal")
    if not set(arguments) - {"cube", "reason"}:
        raise Usage("cube share takes a scope (--read, --write, --share), --principal or --revoke")
    result = session.tool("share_cube", arguments, "share")
    if session.screen.as_json:
        session.screen.json(result)
    else:
        _print(session, result["cube"])
    return DONE


def show(session: Session, options: argparse.Namespace) -> int:
    cube = session.call("cube", {"cube": options.cube})
    if session.screen.as_json:
        session.screen.json(cube)
    else:
        _print(session, cube)
    return DONE


def _print(session: Session, cube: Cube) -> None:
    session.screen.table(("cube", cube["name"]), [row for row in _facts(cube) if row[1] not in (None, "")])


def _facts(cube: Cube) -> list[tuple[str, object]]:
    policy, origin = cube["policy"], cube["provenance"]
    rows = [
        ("about", cube["description"]),
        ("version", f"{cube['version']}, since {cube['updated_at'][:19]}"),
        ("owner", cube["owner"]),
        ("licence", cube["licence"]),
        ("came from", origin and f"cube {origin['cube']!r} of {origin['owner']}, store {origin['store']}"),
        ("shows", cube["mounted"]),
        *((name, policy[name]) for name in SCOPES),
        *((f"{grant['principal']} may", ", ".join(grant["actions"])) for grant in policy["grants"]),
        *((name.replace("_", " "), policy[name]) for name in LIMITS),
    ]
    rows += [
        (name, ", ".join(f"{count:,} {what}" for what, count in cube[name].items()))
        for name in ("states", "kinds")
        if cube.get(name)
    ]
    rows += [(f"snapshot {row['name']}", f"{row['at'][:19]} by {row['author']}") for row in cube.get("snapshots", ())]
    rows += [
        (f"artifact {row['id']}", f"{row['kind']}, {row['bytes']:,} bytes, {row['state']}")
        for row in cube.get("artifacts", ())
    ]
    return rows


def delete(session: Session, options: argparse.Namespace) -> int:
    """Show what it is about, ask, and erase the whole."""
    cube = session.call("cube", {"cube": options.cube})
    if not options.yes:
        if not interactive():
            raise Failure(f"nothing was deleted: say --yes to erase {options.cube!r} for good")
        memories = f"{cube['memories']:,} {'memory' if cube['memories'] == 1 else 'memories'}"
        if not session.screen.ask(f"Erase cube {options.cube!r} with {memories} for good?"):
            raise Failure("nothing was deleted")
    with session.screen.bar("delete") as bar:
        result = session.call("delete_cube", {"cube": options.cube}, bar)
    if session.screen.as_json:
        session.screen.json(result)
    else:
        session.screen.line(f"{result['deleted']} is gone, with {result['memories']:,} memories")
    return DONE
