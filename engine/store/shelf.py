"""MemStore: a shelf of bundles.

    bundles/<name>/<sha256>.memcube   each bundle under the digest of its file; never changed
    entries/<name>/<sha256>.json      what is said of it (`engine.store.entries`); never changed
    index.json                        all entries in one file, made anew from `entries/` with each publishing

<name> is the cube's name, with `=XX` for bytes other than letters, digits, `-` and `_`. A bundle is there before its
entry, and an entry before the index, so that what can be found can be fetched. Publishers who work at the same time
write other files; each makes the index anew until it agrees with the entries, so that none is lost. Where entries can
be listed they are the truth, and the index saves reading them one by one; a web server cannot list: there the index is
all there is. Removing a bundle is removing its entry, the index after it, and the bundle last.

A shelf is not trusted: sizes and digests are checked when a bundle is fetched, signatures when it is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from engine.errors import Corrupt, Invalid, NotAllowed, NotFound, TooLarge
from engine.files import sync_file, sync_folder
from engine.operations import Progress, silent
from engine.store.entries import (
    DIGEST,
    MAX_BUNDLE_BYTES,
    MAX_ENTRIES,
    MAX_ENTRY_BYTES,
    Entry,
    bundle_place,
    entry_place,
    index_bytes,
    newest_first,
    read_entry,
    read_index,
)
from engine.store.place import HTTP, Place, local_folder, open_place, reaching
from engine.text.words import stems

INDEX = "index.json"
MAX_INDEX_BYTES = 64 * 2**20
INDEX_TRIES = 5  # others may publish while the index is written
CHUNK_BYTES = 1 << 20
LEFT_OVER_S = 86_400.0  # a fetched file that is older was left behind by a process that was killed


class MemStore:
    """A shelf at a place. It knows nothing of the vault.

    Raises (all methods):
        NotFound, NotAllowed, Unavailable: the place says so, or cannot be reached.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._files: Any = open_place(place)

    # --- looking -----------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Every bundle, by name, the newest of a name first.

        Raises:
            Corrupt: an index that cannot be read.
        """
        if self.place.kind == HTTP:
            return newest_first(self._index())
        try:
            known = {entry.key: entry for entry in self._index()}
        except (NotFound, Corrupt, TooLarge):
            known = {}
        return newest_first(self._read_entries(known))

    def search(self, query: str | None) -> list[Entry]:
        """The bundles whose name or description has every word of the query, or begins with it."""
        wanted = set(stems(query or ""))
        text = (query or "").strip().lower()
        return [
            entry
            for entry in self.entries()
            if not text
            or text in entry.name.lower()
            or (wanted and wanted <= set(stems(f"{entry.name} {entry.description}")))
        ]

    def find(self, name: str, sha256: str | None = None) -> Entry:
        """The newest bundle of a name, or the one whose digest begins so.

        Raises:
            NotFound: there is none; Invalid: several begin so.
        """
        named = [entry for entry in self.entries() if entry.name == name]
        found = [entry for entry in named if sha256 is None or entry.sha256.startswith(sha256)]
        if not found:
            raise NotFound(
                f"there is no {name!r}{f' with digest {sha256}…' if sha256 and named else ''} on the shelf "
                f"{self.place.shown}: `memos-mcp cube shelf list {self.place.shown}` shows what is"
            )
        if sha256 is not None and len({entry.sha256 for entry in found}) > 1:
            raise Invalid(f"several bundles of {name!r} have a digest that begins with {sha256}: give more of it")
        return found[0]

    def _index(self) -> list[Entry]:
        where = self.place.of(INDEX)
        with reaching(self.place, "index of a shelf"):
            raw = self._read(where, MAX_INDEX_BYTES)
        return read_index(raw, f"{INDEX} at {self.place.shown}")

    def _read_entries(self, known: dict[tuple[str, str], Entry]) -> list[Entry]:
        """All entries, those that the index does not know read one by one."""
        folders = {entry.place[1:]: entry for entry in known.values()}
        found = []
        for folder, file in self._listed():
            entry = folders.get((folder, file)) or self._entry(folder, file)
            if entry is not None:
                found.append(entry)
        return found

    def _entry(self, folder: str, file: str) -> Entry | None:
        try:
            with reaching(self.place, "entry"):
                raw = self._read(self.place.of("entries", folder, file), MAX_ENTRY_BYTES)
            entry = read_entry(raw, file)
        except (NotFound, Corrupt, TooLarge):
            return None  # it went just now, or is none
        return entry if entry.place[1:] == (folder, file) else None

    def _listed(self) -> list[tuple[str, str]]:
        """Folder and file of each entry."""
        root = self.place.of("entries")
        with reaching(self.place, "shelf"):
            try:
                self._files.invalidate_cache()
                paths = self._files.find(root)
            except FileNotFoundError:
                paths = []
        parts = [path.replace(os.sep, "/").split("/")[-2:] for path in paths]
        named = [(p[0], p[1]) for p in parts if len(p) == 2 and DIGEST.match(p[1].removesuffix(".json"))]
        if len(named) > MAX_ENTRIES:
            raise TooLarge(f"the shelf {self.place.shown} has more than {MAX_ENTRIES:,} entries")
        return sorted(named)

    def _read(self, path: str, max_bytes: int) -> bytes:
        with self._open(path) as file:
            data = bytearray()
            while chunk := file.read(min(CHUNK_BYTES, max_bytes + 1 - len(data))):
                data += chunk
                if len(data) > max_bytes:
                    raise TooLarge(f"{path.rsplit('/', 1)[-1]} at {self.place.shown} is larger than {max_bytes} bytes")
        return bytes(data)

    def _open(self, path: str) -> BinaryIO:
        """A stream of a file. A web server's answer is read as it comes: it need not know its length."""
        more = {"block_size": 0} if self.place.kind == HTTP else {}
        file: BinaryIO = self._files.open(path, "rb", **more)
        return file

    # --- fetching ----------------------------------------------------------------------------------------------

    @contextmanager
    def fetched(self, entry: Entry, folder: Path, progress: Progress = silent) -> Iterator[Path]:
        """The bundle of an entry as a file of its own in `folder`, which goes at the end.

        Raises:
            Corrupt: it is not what the entry says.
        """
        with self._fetched(self.place.of(*entry.bundle), entry.name, entry.size_bytes, folder, progress) as (
            path,
            digest,
        ):
            if digest != entry.sha256:
                raise Corrupt(
                    f"the bundle of {entry.name!r} at {self.place.shown} is not the one that its entry names: it was "
                    "changed or cut short; nothing was installed"
                )
            yield path

    @contextmanager
    def fetched_file(self, folder: Path, progress: Progress = silent) -> Iterator[Path]:
        """As `fetched`, where the place itself is one bundle."""
        with self._fetched(self.place.root, "the bundle", MAX_BUNDLE_BYTES, folder, progress) as (path, _):
            yield path

    @contextmanager
    def _fetched(
        self, source: str, name: str, max_bytes: int, folder: Path, progress: Progress
    ) -> Iterator[tuple[Path, str]]:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clean(folder)
        descriptor, path = tempfile.mkstemp(suffix=".memcube", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as target:
                digest = self._copy(source, target, name, max_bytes, progress)
            yield Path(path), digest
        finally:
            Path(path).unlink(missing_ok=True)

    def _copy(self, source: str, target: BinaryIO, name: str, max_bytes: int, progress: Progress) -> str:
        hashed, done = hashlib.sha256(), 0
        with reaching(self.place, f"bundle of {name!r}"), self._open(source) as file:
            while chunk := file.read(CHUNK_BYTES):
                done += len(chunk)
                if done > max_bytes:
                    raise TooLarge(f"the bundle of {name!r} at {self.place.shown} is larger than it says ({max_bytes})")
                hashed.update(chunk)
                target.write(chunk)
                progress(done, max_bytes if max_bytes != MAX_BUNDLE_BYTES else None, "fetching")
        return hashed.hexdigest()

    # --- publishing --------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raises `NotAllowed` for a shelf that can only be read."""
        if self.place.kind == HTTP:
            raise NotAllowed(f"{self.place.shown} can only be read: publish to the folder or bucket that it serves")

    def publish(self, file: Path, entry: Entry, progress: Progress = silent) -> None:
        """Put a bundle onto the shelf. The same bundle again changes nothing."""
        self.check_writable()
        with reaching(self.place, "shelf"):
            if not self._files.exists(self.place.of(*entry.bundle)):
                progress(0, entry.size_bytes, "uploading")
                self._put(file, entry.bundle)
            progress(entry.size_bytes, entry.size_bytes, "uploading")
            if not self._files.exists(self.place.of(*entry.place)):
                self._write(entry.to_bytes(), entry.place)
        self._rebuild()

    def withdraw(self, name: str, sha256: str) -> None:
        """Take a bundle off the shelf. Where it is not there any more, what is left of it goes."""
        self.check_writable()
        with reaching(self.place, "shelf"):
            self._remove(entry_place(name, sha256))
        self._rebuild()
        with reaching(self.place, "shelf"):
            self._remove(bundle_place(name, sha256))

    def _remove(self, where: Sequence[str]) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self.place.of(*where))

    def _rebuild(self) -> None:
        """Make the index anew until it says what the entries are."""
        for _ in range(INDEX_TRIES):
            entries = self.entries()
            with reaching(self.place, "shelf"):
                self._write(index_bytes(entries), (INDEX,))
            listed = {entry.place[1:] for entry in entries}
            if {*self._listed()} <= listed:
                return

    def _put(self, file: Path, where: Sequence[str]) -> None:
        """Copy a file to the shelf, where it appears whole or not at all."""
        folder = local_folder(self.place)
        if folder is None:
            self._files.put_file(os.fspath(file), self.place.of(*where))
            return
        with _appearing(folder.joinpath(*where)) as target, file.open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                target.write(chunk)

    def _write(self, data: bytes, where: Sequence[str]) -> None:
        folder = local_folder(self.place)
        if folder is None:
            self._files.pipe_file(self.place.of(*where), data)
            return
        with _appearing(folder.joinpath(*where)) as target:
            target.write(data)


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A new file that is at `path` when it is whole and durable. A shelf is read by others: it has usual rights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        sync_file(partial)
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _clean(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for path in folder.iterdir():
        if path.suffix == ".memcube" and path.is_file() and path.stat().st_mtime < time.time() - LEFT_OVER_S:
            path.unlink(missing_ok=True)
