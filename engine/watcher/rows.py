"""The vault's table of mounts, and what a path that is to be mounted holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import Invalid, NotFound
from engine.parts import Parts
from engine.vault import Transaction
from engine.vault.rows import stored_time
from engine.watcher.folder import BUNDLE_ENDING, scan

NOTES, BUNDLE, DROP = "notes", "bundle", "drop"
MAX_PATH_CHARS = 4_096


@dataclass(frozen=True, slots=True)
class Row:
    """A mount. Of a drop folder `cube` is empty: each bundle in it has a cube, and a row, of its own."""

    path: str
    kind: str
    cube: str


def rows(parts: Parts) -> list[Row]:
    """All mounts, in the order in which they were added."""
    return [Row(*row) for row in parts.vault.rows("SELECT path, kind, cube FROM mounts ORDER BY added_at, path")]


def put(transaction: Transaction, row: Row) -> None:
    values = (row.path, row.kind, row.cube, stored_time(transaction.now))
    transaction.insert("mounts", ("path", "kind", "cube", "added_at"), [values], replace_=True)


def drop(transaction: Transaction, paths: Sequence[str]) -> None:
    transaction.execute("DELETE FROM mounts WHERE path IN (SELECT unnest(?::VARCHAR[]))", [list(paths)])


def is_within(path: str, folder: str) -> bool:
    """Whether a path lies in a folder, by their names."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def kind_of(path: Path) -> str:
    """What there is to mount at a path.

    Raises:
        NotFound: nothing is there.
        Invalid: it cannot be read, or is neither a folder nor a bundle.
    """
    try:
        if not path.exists():
            raise NotFound(f"there is nothing at {path}: give a folder of notes, or a {BUNDLE_ENDING} file")
        if path.is_file() and path.suffix.lower() == BUNDLE_ENDING:
            return BUNDLE
        if not path.is_dir():
            raise Invalid(f"{path} is neither a folder nor a {BUNDLE_ENDING} file: nothing else can be mounted")
        found = scan(path, 0, lambda: False)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {(error.strerror or type(error).__name__).lower()}") from error
    return DROP if found.bundles and not found.notes else NOTES


def check_path(parts: Parts, path: Path, drop_folder: Path) -> Path:
    """The path as it is kept: absolute.

    Raises:
        Invalid: it cannot be a mount.
    """
    text = os.fspath(path)
    if not text or len(text) > MAX_PATH_CHARS or not text.isprintable():
        raise Invalid("a path to mount is 1 to 4,096 printable characters")
    path = Path(os.path.abspath(path.expanduser()))
    data = os.path.realpath(parts.vault.settings.data)
    real = os.path.realpath(path)
    if is_within(real, os.path.realpath(drop_folder)):
        return path
    if real == data or is_within(data, real) or is_within(real, data):
        raise Invalid(f"{path} holds the store itself, or lies in it: mount a folder outside of {data}")
    return path
