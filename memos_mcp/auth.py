"""Access tokens for HTTP: named, with scopes and an end, kept as digests in one file of the data folder.

The file is readable by the owner of the folder alone and holds no token, only its SHA-256: a token is 256 random bits,
so that a plain digest of it tells nothing. It is read again whenever it has changed: a revoked token ends at once.
Who holds a token is a principal with the token's name and scopes, never the owner.

A scope is an action, `read`, `write`, `share` or `admin`, on every cube; or on one cube: `read:work`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cubes import Action
from engine.errors import Busy, Conflict, Corrupt, Expired, Invalid, MemosError, NotAllowed, NotFound
from engine.operations import OWNER, Principal
from memos_mcp.endpoint import take_lock
from memos_mcp.wire import EVERY_CUBE, is_cube_name, shown

FILE = "tokens.json"
PREFIX = "memos_"  # lets secret scanners, and our own reader, know one when they see it
TOKEN_BYTES = 32
MAX_PRESENTED_CHARS = 256
MAX_DAYS = 3_650
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
RESERVED = ("memos", OWNER.name)  # who may do everything: the engine itself, and the owner
LOCK_FILE = "tokens.lock"
LOCK_S = 10.0
LOCK_AGAIN_S = 0.01
DEFAULT_SCOPES = ("read", "write")


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token."""

    name: str
    sha256: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None

    @property
    def principal(self) -> Principal:
        grants: dict[str, list[Action]] = {}
        for scope in self.scopes:
            action, cube = _grant(scope)
            grants.setdefault(cube, []).append(action)
        return Principal(self.name, grants=tuple((cube, tuple(actions)) for cube, actions in grants.items()))


def create_token(
    data: Path,
    name: str,
    now: datetime,
    *,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    expires_in_days: float | None = None,
) -> str:
    """A new token; this is the only time that it is seen whole.

    Raises:
        Invalid: the name, a scope or the number of days breaks its rule.
        Conflict: a token of that name exists.
        Busy: another process holds the tokens, and goes on holding them.
    """
    if not NAME.match(name) or name.lower() in RESERVED:
        raise Invalid(
            f"{shown(name)!r} cannot name a token: use letters, digits, '.', '_' and '-', but not "
            f"{' or '.join(map(repr, RESERVED))}"
        )
    if not scopes:
        raise Invalid("a token needs at least one scope: read, write, share or admin, or one of these for a cube")
    for scope in scopes:
        _grant(scope)
    if expires_in_days is not None and not 0 < expires_in_days <= MAX_DAYS:
        raise Invalid(f"a token can last for more than 0 and at most {MAX_DAYS} days, or without end")
    secret = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    ends = None if expires_in_days is None else now + timedelta(days=expires_in_days)
    with _changing(data) as tokens:
        if any(token.name == name for token in tokens):
            raise Conflict(f"a token {name!r} exists: revoke it first, or choose another name")
        _write(data, (*tokens, Token(name, _digest(secret), tuple(dict.fromkeys(scopes)), now, ends)))
    return secret


def list_tokens(data: Path) -> tuple[Token, ...]:
    """The tokens that there are, expired ones too.

    Raises:
        Corrupt: the file cannot be read.
    """
    path = data / FILE
    try:
        content = json.loads(path.read_bytes())
        return tuple(_token(entry) for entry in content["tokens"])
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{path} holds no list of tokens: delete it, then create the tokens anew") from error


def revoke_token(data: Path, name: str) -> None:
    """End a token at once.

    Raises:
        NotFound: there is no token of that name.
        Busy: another process holds the tokens, and goes on holding them.
    """
    with _changing(data) as tokens:
        kept = tuple(token for token in tokens if token.name != name)
        if len(kept) == len(tokens):
            known = ", ".join(token.name for token in tokens)
            raise NotFound(f"there is no token {shown(name)!r}: there are {known or 'none'}")
        _write(data, kept)


class TokenFile:
    """The tokens of a data folder, read again when the file changes."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def tokens(self) -> tuple[Token, ...]:
        """The tokens as they are now."""
        try:
            facts = (self._data / FILE).stat()
        except FileNotFoundError:
            self._seen, self._tokens = None, ()
            return ()
        seen = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
        if seen != self._seen:
            self._tokens, self._seen = list_tokens(self._data), seen
        return self._tokens

    def check(self, presented: str, now: datetime) -> Token:
        """The token that was presented. Every known digest is compared, in constant time.

        Raises:
            NotAllowed: it is none of ours, or was revoked.
            Expired: its time has passed.
        """
        digest = _digest(presented[:MAX_PRESENTED_CHARS])
        found = None
        for token in self.tokens():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is None:
            raise NotAllowed("this access token is not known here, or was revoked: ask for a new one")
        if found.expires_at is not None and found.expires_at <= now:
            raise Expired(
                f"the access token {found.name!r} expired at {found.expires_at.isoformat()}: ask for a new one"
            )
        return found

    def holds(self, token: Token, now: datetime) -> bool:
        """Whether a token that was presented before still lets in. One of the same name made since is another."""
        try:
            known = self.tokens()
        except (MemosError, OSError):  # a file that cannot be read lets nobody in
            return False
        return token in known and (token.expires_at is None or token.expires_at > now)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _grant(scope: str) -> tuple[Action, str]:
    action, _, cube = scope.partition(":")
    actions = {action.value: action for action in Action}
    if action not in actions or (":" in scope and not is_cube_name(cube)):
        raise Invalid(f"{shown(scope)!r} is no scope: use {', '.join(actions)}, alone or for a cube, as in read:work")
    return actions[action], cube or EVERY_CUBE


def _token(entry: dict[str, Any]) -> Token:
    ends = entry["expires_at"]
    return Token(
        name=str(entry["name"]),
        sha256=str(entry["sha256"]),
        scopes=tuple(str(scope) for scope in entry["scopes"]),
        created_at=_instant(entry["created_at"]),
        expires_at=None if ends is None else _instant(ends),
    )


def _instant(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


@contextmanager
def _changing(data: Path) -> Iterator[tuple[Token, ...]]:
    """The tokens, while nobody else changes them: else two changes at once, and a revoked token might come back."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_S
    while (lock := take_lock(data / LOCK_FILE)) is None:
        if time.monotonic() > deadline:
            raise Busy(f"another process is changing the tokens in {data}: try again in a moment")
        time.sleep(LOCK_AGAIN_S)
    try:
        yield list_tokens(data)
    finally:
        lock.release()


def _write(data: Path, tokens: Sequence[Token]) -> None:
    entries = [
        {
            "name": token.name,
            "sha256": token.sha256,
            "scopes": list(token.scopes),
            "created_at": token.created_at.isoformat(),
            "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
        }
        for token in tokens
    ]
    handle, temporary = tempfile.mkstemp(dir=data, prefix=f".{FILE}.")  # 0600 from the start
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"tokens": entries}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, data / FILE)
