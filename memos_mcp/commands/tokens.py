"""`token create`, `token list`, `token revoke`: who may speak to `serve` over HTTP.

The tokens are a file of the data folder, not of the store: no daemon is needed, and a running one sees the change.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass

from engine.clock import SystemClock
from memos_mcp.auth import DEFAULT_SCOPES, Token, create_token, list_tokens, revoke_token
from memos_mcp.commands.session import DONE, Session


def create(session: Session, options: argparse.Namespace) -> int:
    secret = create_token(
        session.settings.data,
        options.name,
        SystemClock().now(),
        scopes=options.scopes or DEFAULT_SCOPES,
        expires_in_days=options.expires_in_days,
    )
    if session.screen.as_json:
        session.screen.json({"name": options.name, "token": secret})
    else:
        session.screen.line(secret)
        session.screen.remark("this is the only time that it is shown")
    return DONE


def show(session: Session, options: argparse.Namespace) -> int:
    tokens = list_tokens(session.settings.data)
    if session.screen.as_json:
        session.screen.json([asdict(token) for token in map(_row, tokens)])
    else:
        cells = [
            (row.name, row.created_at, row.expires_at or "never", " ".join(row.scopes)) for row in map(_row, tokens)
        ]
        session.screen.table(("name", "created", "expires", "scopes"), cells)
    return DONE


@dataclass(frozen=True, slots=True)
class Row:
    """What is shown of a token: never its digest."""

    name: str
    created_at: str
    expires_at: str | None
    scopes: tuple[str, ...]


def _row(token: Token) -> Row:
    ends = None if token.expires_at is None else token.expires_at.isoformat(timespec="seconds")
    return Row(token.name, token.created_at.isoformat(timespec="seconds"), ends, token.scopes)


def revoke(session: Session, options: argparse.Namespace) -> int:
    revoke_token(session.settings.data, options.name)
    if session.screen.as_json:
        session.screen.json({"revoked": options.name})
    else:
        session.screen.line(f"{options.name} has ended")
    return DONE
