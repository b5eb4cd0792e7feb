"""`cube publish`, `cube shelf list`, `cube shelf search`: shelves of bundles, in folders and behind URLs.

The daemon does the work; where a shelf lies is what the person typed, with folders made absolute.
"""

from __future__ import annotations

import argparse

from memos_mcp.commands.bundles import BUNDLE, absolute, asked_passphrase, packing, say_packed, takes_passphrase
from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Session, Usage

URL_MARK = "://"


def publish(session: Session, options: argparse.Namespace) -> int:
    if _is_file(options.cube):
        _refuse_packing(options)
    with asked_passphrase(session, options) as passphrase_file:
        wanted = {**packing(options, passphrase_file), "url": _place(options.url)}
        wanted["source"] = _source(wanted.pop("cube"))
        with session.screen.bar("publish") as bar:
            result = session.call("publish", wanted, bar)
    if session.screen.as_json:
        session.screen.json(result)
    else:
        say_packed(session, result)
    return DONE


def _source(text: str) -> str:
    return str(absolute(text)) if _is_file(text) else text


def _is_file(text: str) -> bool:
    return text.lower().endswith(BUNDLE)


def _refuse_packing(options: argparse.Namespace) -> None:
    """What says how to pack has no meaning for a file; a passphrase has one where it opens the file.

    Raises:
        Usage: something was asked for that would not be done.
    """
    path = absolute(options.cube)
    opens = path.is_file() and takes_passphrase(path)
    asked = {
        "--no-history": not options.history,
        "--no-embeddings": not options.embeddings,
        "--redact": options.redact is not None,
        "--snapshot": options.snapshot is not None,
        "--no-sign": not options.sign,
        "--recipient": options.recipients is not None,
        "--encrypt": options.encrypt,
        "--passphrase-file": options.passphrase_file is not None and not opens,
    }
    if told := [name for name, given in asked.items() if given]:
        raise Usage(f"a file is published as it is: leave out {', '.join(told)}, or publish the cube instead")


def shelf(session: Session, options: argparse.Namespace) -> int:
    wanted = {"url": _place(options.url)}
    if "query" in options:
        wanted |= given(options, "query")
    result = session.call("shelf", wanted)
    if session.screen.as_json:
        session.screen.json(result)
        return DONE
    rows = [
        (
            entry["name"],
            entry["published_at"][:10],
            "" if entry["encrypted"] else entry["memories"],
            entry["signed_by"] or "nobody",
            entry["digest"].removeprefix("sha256:")[:12],
            "encrypted" if entry["encrypted"] else entry["description"],
        )
        for entry in result["bundles"]
    ]
    session.screen.table(("bundle", "published", "memories", "says signed by", "digest", "about"), rows)
    if result["bundles"]:
        session.screen.remark(f"to install one: memos-mcp cube install '{options.url}#NAME'")
    return DONE


def _place(text: str) -> str:
    return text if URL_MARK in text else str(absolute(text))
