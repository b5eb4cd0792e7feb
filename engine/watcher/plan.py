"""Which file is which memory: pure functions of what was known and what lies in the folder now.

A file that keeps its path keeps its memory. A file whose path is new is, in this order: one that left another path with
the same bytes (a rename), one that was deleted at this path, one that was deleted elsewhere with these bytes; else it
is new. Copies are files of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from engine.watcher.notes import Note


@dataclass(frozen=True, slots=True)
class Known:
    """The memory of a file, and the digest of the bytes that it was read from."""

    id: str
    digest: str


@dataclass(frozen=True, slots=True)
class Item:
    """A file to be brought into the vault. `id` None: as a new memory; `left`: the path under which it was known."""

    path: str
    note: Note
    change: str
    id: str | None = None
    left: str | None = None


@dataclass(slots=True)
class Plan:
    items: list[Item] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)  # path -> id: to be archived

    def __bool__(self) -> bool:
        return bool(self.items or self.gone)


def plan(
    known: Mapping[str, Known], archived: Mapping[str, Known], present: Iterable[str], read: Mapping[str, Note]
) -> Plan:
    """What is to be done. `present`: every path that holds a note; `read`: those of them that may have changed."""
    present = set(present)
    found = Plan(gone={path: item.id for path, item in known.items() if path not in present})
    left = _Pool({path: known[path] for path in found.gone})
    old = _Pool(archived)
    fresh: list[str] = []
    for path in sorted(read):
        note = read[path]
        if path not in known:
            fresh.append(path)
        elif known[path].digest != note.digest:
            found.items.append(Item(path, note, "edit", known[path].id))
    for path in fresh:
        note = read[path]
        if (before := left.take(path, note.digest)) is not None:
            found.items.append(Item(path, note, "rename", found.gone.pop(before), before))
    renamed = {item.path for item in found.items}
    for path in fresh:
        if path in renamed:
            continue
        note = read[path]
        before = path if path in archived and old.drop(path) else None
        if before is None:
            before = old.take(path, note.digest)
        if before is None:
            found.items.append(Item(path, note, "add"))
        else:
            found.items.append(Item(path, note, "restore", archived[before].id, before))
    return found


class _Pool:
    """Paths that nobody claims any more, by what their files held."""

    def __init__(self, known: Mapping[str, Known]) -> None:
        self._digests = {path: item.digest for path, item in known.items()}
        self._by_digest: defaultdict[str, list[str]] = defaultdict(list)
        self._by_name: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for path in sorted(known, reverse=True):  # taken from the end: the first path first
            digest = known[path].digest
            self._by_digest[digest].append(path)
            self._by_name[digest, PurePosixPath(path).name].append(path)

    def take(self, path: str, digest: str) -> str | None:
        """The path with these bytes: rather one whose file has the same name."""
        for waiting in (self._by_name.get((digest, PurePosixPath(path).name)), self._by_digest.get(digest)):
            while waiting:
                if self.drop(found := waiting.pop()):
                    return found
        return None

    def drop(self, path: str) -> bool:
        """Whether it was still unclaimed."""
        return self._digests.pop(path, None) is not None
