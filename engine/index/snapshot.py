"""A snapshot of an index on disk: several files that are either all there and whole, or not used at all.

    <folder>/MANIFEST.json            which generation counts: revision, facts, size and digest of each member
    <folder>/generation-<n>/<member>

A write makes a new generation, syncs it, and then renames the manifest into place: that rename is the only moment at
which anything changes for a reader, so a process killed at any point leaves the old snapshot or the new one. The
manifest carries a digest of itself; a flipped byte anywhere is found when it is read.

This module does not know what the members hold, nor which revision is the right one: the caller compares `revision`
with the vault, and rebuilds from the vault whenever `SnapshotUnusable` is raised. One process writes at a time (the
owner of the data folder). After `write` or `remove` returns, no older bytes are left in the folder: erase relies on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.files import sync_folder

FORMAT = 1
MANIFEST = "MANIFEST.json"
MANIFEST_MAX_BYTES = 1 << 20  # a manifest is a few hundred bytes: anything larger is not ours
GENERATION = re.compile(r"generation-(\d{1,18})")
MEMBER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
CHUNK_BYTES = 1 << 20

Member = bytes | Callable[[Path], None]
"""The bytes of a member, or a function that writes it to the path it is given."""


class SnapshotUnusable(Exception):
    """There is no snapshot here that can be trusted: rebuild from the vault. `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One generation whose every member had the recorded size and digest when it was read."""

    folder: Path
    revision: int
    facts: Mapping[str, Any]
    sizes: Mapping[str, int]  # member -> bytes

    def path(self, member: str) -> Path:
        """Where the member lies; the next `write` or `remove` deletes it.

        Raises:
            SnapshotUnusable: the snapshot has no such member.
        """
        if member not in self.sizes:
            raise SnapshotUnusable(f"it has no member {member!r}")
        return self.folder / member

    def content(self, member: str) -> bytes:
        """The member's bytes.

        Raises:
            SnapshotUnusable: the snapshot has no such member, or it is gone.
        """
        try:
            content = self.path(member).read_bytes()
        except OSError as error:
            raise SnapshotUnusable(f"{member} cannot be read: {error}") from error
        if len(content) != self.sizes[member]:
            raise SnapshotUnusable(f"{member} changed while it was read")
        return content


def write(folder: Path, revision: int, facts: Mapping[str, Any], members: Mapping[str, Member]) -> None:
    """Replace the snapshot in `folder`; `facts` (plain JSON) are what a reader must agree with to use it.

    Raises:
        OSError: the disk refused. The snapshot that was there before still counts, or the new one where only the
            removal of the old failed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    generation = folder / f"generation-{_next_number(folder)}"
    generation.mkdir(mode=0o700)
    try:
        records = {name: _write_member(generation, name, member) for name, member in members.items()}
        sync_folder(generation)
    except BaseException:
        shutil.rmtree(generation, ignore_errors=True)  # a full disk gets its room back at once
        raise
    body = {"format": FORMAT, "generation": generation.name, "revision": revision, "facts": dict(facts)}
    _write_manifest(folder, {**body, "members": records})
    _remove_all_but(folder, {MANIFEST, generation.name})


def read(folder: Path, facts: Mapping[str, Any]) -> Snapshot:
    """The snapshot in `folder`, checked byte for byte, if it was written with exactly these facts.

    Raises:
        SnapshotUnusable: there is none, it is damaged or incomplete, or it was made under other facts.
    """
    body = _read_manifest(folder / MANIFEST)
    try:
        number, generation, revision = body["format"], body["generation"], body["revision"]
        stored_facts, records = body["facts"], body["members"]
        if number != FORMAT:
            raise SnapshotUnusable(f"it has format {number}, this program reads {FORMAT}")
        if not GENERATION.fullmatch(generation) or not all(MEMBER.fullmatch(name) for name in records):
            raise SnapshotUnusable("its manifest names files outside it")
        sizes = {name: int(record["bytes"]) for name, record in records.items()}
        digests = {name: str(record["blake2b"]) for name, record in records.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SnapshotUnusable(f"its manifest is not one of ours: {error!r}") from error
    _compare_facts(stored_facts, json.loads(_plain(facts)))
    for name, size in sizes.items():
        _check_member(folder / generation / name, size, digests[name])
    return Snapshot(folder / generation, revision, stored_facts, sizes)


def remove(folder: Path) -> None:
    """Delete the snapshot and whatever an interrupted write left; nothing happens when there is none.

    Raises:
        OSError: something could not be deleted.
    """
    if not folder.is_dir():
        return
    (folder / MANIFEST).unlink(missing_ok=True)
    sync_folder(folder)
    _remove_all_but(folder, set())


def _write_member(generation: Path, name: str, member: Member) -> dict[str, Any]:
    if not MEMBER.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a member of a snapshot")
    path = generation / name
    if callable(member):
        member(path)
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    else:
        _write_synced(path, member)
    size, digest = _size_and_digest(path)
    return {"bytes": size, "blake2b": digest}


def _write_manifest(folder: Path, body: dict[str, Any]) -> None:
    text = _plain(body)
    temporary = folder / f"{MANIFEST}.new"
    _write_synced(temporary, _plain({"body": text, "blake2b": _digest(text)}).encode())
    os.replace(temporary, folder / MANIFEST)
    sync_folder(folder)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The body of the manifest, when its digest is right."""
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_MAX_BYTES)
        outer = json.loads(content)
        text, digest = outer["body"], outer["blake2b"]
        if _digest(text) != digest:
            raise SnapshotUnusable("its manifest is damaged")
        body = json.loads(text)
    except FileNotFoundError as error:
        raise SnapshotUnusable("there is none") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SnapshotUnusable(f"its manifest cannot be read: {error!r}") from error
    if not isinstance(body, dict):
        raise SnapshotUnusable("its manifest is not one of ours")
    return body


def _compare_facts(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if stored == wanted:
        return
    missing = object()
    other = sorted(name for name in {*stored, *wanted} if stored.get(name, missing) != wanted.get(name, missing))
    raise SnapshotUnusable(f"it was made under other facts: {', '.join(other)}")


def _check_member(path: Path, size: int, digest: str) -> None:
    try:
        if path.stat().st_size != size:
            raise SnapshotUnusable(f"{path.name} has {path.stat().st_size} bytes instead of {size}")
        found = _size_and_digest(path)
    except OSError as error:
        raise SnapshotUnusable(f"{path.name} cannot be read: {error}") from error
    if found != (size, digest):
        raise SnapshotUnusable(f"{path.name} is damaged")


def _size_and_digest(path: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)


def _next_number(folder: Path) -> int:
    matches = (GENERATION.fullmatch(path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in matches if match), default=0) + 1


def _remove_all_but(folder: Path, kept: set[str]) -> None:
    for path in folder.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
