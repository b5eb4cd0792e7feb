"""`cube publish`, `cube shelf list`, `cube shelf search`: shelves of bundles, in folders and behind URLs.

The daemon does the work; where a shelf lies is what the person typed, with folders made absolute.
"""

from __future__ import annotations

import argparse

from memos_mcp.commands.bundles import absolute, asked_passphrase, packing, say_packed
from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Session

URL_MARK = "://"
BUNDLE = ".memcube"


def publish(session: Session, options: argparse.Namespace) -> int:
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
    return str(absolute(text)) if text.lower().endswith(BUNDLE) else text


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
