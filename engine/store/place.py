"""Where a shelf lies: a folder or a URL that fsspec understands, opened, and its failures put into our words.

Places are folders (`/srv/shelf`, `file:///srv/shelf`), S3 and what speaks its protocol (`s3://bucket/path`), web
servers (`https://host/path`, read-only), and this process's memory (`memory://path`, for tests). Nothing else that
fsspec knows is opened: chained URLs and remote shells are no shelves. A name and password in a URL are used and never
shown.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import fsspec

from engine.errors import Invalid, NotAllowed, NotFound, Unavailable

FILE, MEMORY, S3, HTTP = "file", "memory", "s3", "http"
SCHEMES = {"file": FILE, "memory": MEMORY, "s3": S3, "s3a": S3, "http": HTTP, "https": HTTP}
EXTRAS = {S3: ("s3", "s3fs"), HTTP: ("http", "aiohttp")}
MAX_URL_CHARS = 2_048
CONNECT_S, SILENCE_S = 15.0, 60.0
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL = re.compile(r"[\x00-\x20\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Place:
    """A shelf's address. `shown` names it in messages and in the audit log: it holds no credentials."""

    kind: str
    root: str  # what comes before `/bundles`, as the file system takes it
    shown: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def remote(self) -> bool:
        return self.kind in (S3, HTTP)

    def of(self, *parts: str) -> str:
        """The path of something on the shelf."""
        return "/".join((self.root, *parts))


def place_of(url: str) -> Place:
    """The place that a URL or path names.

    Raises:
        Invalid: it names none that a shelf may lie at.
    """
    if not url or len(url) > MAX_URL_CHARS:
        raise Invalid(f"a shelf's address has 1 to {MAX_URL_CHARS:,} characters")
    found = _SCHEME.match(url)
    if found is None:
        if "::" in url or not url.isprintable():
            raise Invalid("that is neither a folder nor a URL of a shelf: give a path, s3://…, or https://…")
        return _folder(url)
    kind = SCHEMES.get(found[1].lower())
    if kind is None or "::" in url.partition("]")[2] + url.partition("[")[0] or _CONTROL.search(url):
        raise Invalid(f"a shelf is a folder, s3://…, or http(s)://…: {found[1]} URLs and chained ones are none")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Invalid("that is no URL: its host or port cannot be read") from error
    if kind == FILE:
        if parts.netloc not in ("", "localhost"):
            raise Invalid("a file URL names no other machine: file:///path")
        return _folder(unquote(parts.path))
    if parts.query or parts.fragment:
        raise Invalid("a shelf's URL has no `?…` and no `#…`: they would not reach what lies on it")
    path = parts.path.strip("/")
    if any(part in (".", "..") for part in path.split("/")):
        raise Invalid("a shelf's URL has no `.` and `..` in it")
    if kind == MEMORY:
        root = "/".join(part for part in (parts.netloc, path) if part)
        return Place(kind, f"/{root}", f"memory://{root}")
    if not host:
        raise Invalid("that URL names no host: https://host/path, or s3://bucket/path")
    if kind == S3:
        if parts.username is not None or parts.password is not None or port is not None:
            raise Invalid("keys do not belong into an s3 URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
        root = "/".join(part for part in (parts.netloc, path) if part)
        return Place(kind, root, f"s3://{root}")
    netloc = parts.netloc.rpartition("@")[2]
    root = urlunsplit((parts.scheme.lower(), netloc, f"/{path}".rstrip("/"), "", ""))
    user = None if parts.username is None else unquote(parts.username)
    return Place(kind, root, root, user, unquote(parts.password or "") if user is not None else None)


def _folder(path: str) -> Place:
    if not path:
        raise Invalid("that URL names no folder")
    folder = os.path.abspath(os.path.expanduser(path))
    return Place(FILE, folder.rstrip(os.sep) or folder, folder)


def is_url(text: str) -> bool:
    """Whether it names its place by a scheme."""
    return _SCHEME.match(text) is not None


# --- opening --------------------------------------------------------------------------------------------------------


def open_place(place: Place) -> Any:
    """The file system of a place.

    Raises:
        Unavailable: the package that reads such places is not installed; the message says how to get it.
    """
    try:
        if place.kind == S3:
            return fsspec.filesystem(
                "s3",
                use_listings_cache=False,
                config_kwargs={"connect_timeout": CONNECT_S, "read_timeout": SILENCE_S, "retries": {"max_attempts": 2}},
            )
        if place.kind == HTTP:
            return fsspec.filesystem("http", use_listings_cache=False, client_kwargs=_client(place))
    except ImportError as error:
        extra, package = EXTRAS[place.kind]
        raise Unavailable(
            f"shelves at {place.kind} need the package {package} (the extra {extra}): pip install {package}"
        ) from error
    return fsspec.filesystem(place.kind)


def _client(place: Place) -> dict[str, Any]:
    import aiohttp

    headers = {}
    if place.user is not None:
        said = base64.b64encode(f"{place.user}:{place.password or ''}".encode()).decode()
        headers["Authorization"] = f"Basic {said}"  # aiohttp leaves it out where it is sent on to another host
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    return {"timeout": timeout, "headers": headers, "trust_env": True}


def _failures(place: Place) -> tuple[type[Exception], ...]:
    """What the file system of a place raises when it fails."""
    if place.kind == S3:
        from botocore.exceptions import BotoCoreError, ClientError

        return OSError, BotoCoreError, ClientError
    if place.kind == HTTP:
        import aiohttp

        return OSError, aiohttp.ClientError, fsspec.exceptions.FSTimeoutError
    return (OSError,)


@contextmanager
def reaching(place: Place, what: str) -> Iterator[None]:
    """Put failures of the place into our words; `what` is looked for or written there.

    Raises:
        NotFound: it is not there.
        NotAllowed: the place refuses.
        Unavailable: it cannot be reached, or fails.
    """
    try:
        yield
    except _failures(place) as error:
        told = _told(error) if place.kind == HTTP else error
        status = getattr(told, "status", None)
        if status == 404 or (status is None and isinstance(told, FileNotFoundError)):
            raise NotFound(f"there is no {what} at {place.shown}") from error
        if status in (401, 403) or isinstance(told, PermissionError):
            raise NotAllowed(f"{place.shown} does not let you at its {what}: check its rights, or your keys") from error
        why = f"it answered {status}" if status else _why(told)
        raise Unavailable(f"{place.shown} cannot be used: {why}; try again, or check the address") from error


def _told(error: Exception) -> Exception:
    """What really failed: fsspec says of a web server that does not answer that it lacks the file."""
    cause = error.__cause__
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) else error


def _why(error: Exception) -> str:
    """In few words, and without what the error quotes: that may be a URL with a password."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, OSError) and error.strerror and error.errno:
        return os.strerror(error.errno).lower() if error.errno > 0 else "it cannot be reached"
    return f"it cannot be reached ({type(error).__name__})"


def local_folder(place: Place) -> Path | None:
    """The folder of a shelf on this machine."""
    return Path(place.root) if place.kind == FILE else None
