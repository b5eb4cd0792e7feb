"""Fetches the files of a pinned model once, over https, into the data folder.

The only place of the engine that opens a network connection to the outside. It runs when the caller decided that a
download is wanted, says so before it begins, and keeps nothing that does not have the pinned digest: files arrive in
a temporary folder, which is renamed into place when all are there and right.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from engine.errors import Corrupt, Unavailable

HUB = "https://huggingface.co"
TIMEOUT_S = 30.0  # for a connection, and for each read of it
CHUNK_BYTES = 1 << 20
FILE_MAX_BYTES = 1 << 30
ANNOUNCED_STEP_BYTES = 16 << 20


def fetch(
    name: str,
    revision: str,
    sha256: Mapping[str, str],
    into: Path,
    announce: Callable[[str], None],
    hub: str = HUB,
) -> None:
    """Download the files named in `sha256` (file -> digest) of one revision, so that `into` is there whole or not.

    Raises:
        Unavailable: the hub cannot be reached, or does not have a file.
        Corrupt: a file arrived with another digest; nothing was kept.
        OSError: the data folder cannot be written.
    """
    announce(f"Downloading the embedder {name} ({revision[:8]}, about 90 MB) from {hub}, once, into {into}")
    arriving = into.with_name(f".{into.name}.arriving")
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir(mode=0o700, parents=True)
    try:
        for file, digest in sha256.items():
            _fetch_file(f"{hub}/{name}/resolve/{revision}/{file}", arriving / file, digest, announce)
        shutil.rmtree(into, ignore_errors=True)
        os.replace(arriving, into)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    announce(f"The embedder {name} is ready")


def _fetch_file(url: str, path: Path, sha256: str, announce: Callable[[str], None]) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, path.open("wb") as file:
            found = _copy(response, file, lambda total: announce(f"{path.name}: {total >> 20} MB"))
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise Unavailable(f"{url} could not be downloaded: {error}") from error
    if found != sha256:
        raise Corrupt(f"{url} arrived with another content than pinned (sha256 {found[:12]}…); nothing was kept")


def _copy(source: IO[bytes], target: IO[bytes], arrived: Callable[[int], None]) -> str:
    """Copy until the end, to the disk itself; returns the SHA-256."""
    digest, total, said = hashlib.sha256(), 0, 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
        total += len(chunk)
        if total > FILE_MAX_BYTES:
            raise Unavailable("the download is larger than any file of the model: it was stopped")
        if total - said >= ANNOUNCED_STEP_BYTES:
            said = total
            arrived(total)
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest()
