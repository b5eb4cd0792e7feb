"""One folder of notes and the cube that shows it: what is known of each file, and bringing the cube up to date.

A refresh compares the whole folder with what is known, by stat, and reads what differs; it does not rely on being told
which file changed, since notices get lost (in folders that were made a moment ago, when there are too many). What was
noticed is read again in any case. Digests decide whether a file is another one; when the store is opened they are all
compared, so that nothing that happened while nobody watched is missed. The files stay the truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.embeddings import SYSTEM
from engine.errors import Invalid
from engine.lifecycle.states import LIVE
from engine.parts import Parts
from engine.vault import Transaction, queries
from engine.watcher.applying import Applying, Keyed, keyed
from engine.watcher.folder import MAX_NOTE_BYTES, Look, Scan, Stopped, Unreadable, read_file
from engine.watcher.notes import DIGEST, Note, file_digest, read_note
from engine.watcher.plan import Item, Known, Plan, plan

TOGETHER = 1_000  # files that are brought into the vault in one transaction
LOADED_AT_ONCE = 1_000


@dataclass(slots=True)
class _Reading:
    """What a refresh found in the files that may have changed."""

    notes: dict[str, Note] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)  # files that still say what they said, as far as can be seen
    looks: dict[str, Look] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


class Notes:
    """The notes of one folder. Not for several threads at once."""

    def __init__(self, parts: Parts, root: Path, cube: str) -> None:
        self._parts = parts
        self._root = root
        self._cube = cube
        self._loaded = False
        self._known: dict[str, Known] = {}
        self._archived: dict[str, Known] = {}
        self._looks: dict[str, Look] = {}
        self.problems: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """Take nothing for known any more: the next refresh compares the vault with every file."""
        self._loaded = False

    def refresh(self, found: Scan, noticed: Collection[str], stopped: Callable[[], bool]) -> bool:
        """Bring the cube up to what is in the folder; whether anything was changed.

        Raises:
            Stopped: `stopped` said so; what was brought in stays.
            MemosError: the vault refused, or does not show this folder any more.
        """
        if not self._loaded:
            self._load(stopped)
        reading = self._read(found, noticed, stopped)
        todo = plan(self._known, self._archived, {*reading.kept, *reading.notes}, reading.notes)
        for path in todo.gone:
            reading.problems.pop(path, None)
        self._bring(todo, reading, stopped)
        self._looks, self.problems = reading.looks, {**reading.problems, **found.problems}
        return bool(todo)

    def _load(self, stopped: Callable[[], bool]) -> None:
        """Read from the vault which file is which memory."""
        self._known, self._archived, self._looks, self.problems = {}, {}, {}, {}
        for id, source, digest, live in _files(self._parts, self._cube):
            if stopped():
                raise Stopped
            (self._known if live else self._archived)[source] = Known(id, digest)
        self._loaded = True

    # --- reading -----------------------------------------------------------------------------------------------

    def _read(self, found: Scan, noticed: Collection[str], stopped: Callable[[], bool]) -> _Reading:
        reading = _Reading()
        for path, look in found.notes.items():
            before = self._looks.get(path)
            if before == look and not before.racy and path not in noticed:
                self._keep(path, before, reading)
                continue
            if stopped():
                raise Stopped
            self._read_one(path, look, reading)
        if found.unseen:
            reading.kept.update(p for p in self._known if p not in found.notes and found.could_hold(p))
        return reading

    def _keep(self, path: str, look: Look, reading: _Reading) -> None:
        """The file is as it was."""
        reading.looks[path] = look
        if path in self.problems:
            reading.problems[path] = self.problems[path]
        if path in self._known:
            reading.kept.add(path)

    def _read_one(self, path: str, look: Look, reading: _Reading) -> None:
        known = self._known.get(path)
        try:
            data = read_file(self._root, path, MAX_NOTE_BYTES)
            if known is not None and path in self._looks and known.digest == file_digest(data):
                self._keep(path, look, reading)
                return
            note = read_note(data, path)
        except FileNotFoundError:
            return  # it went a moment ago
        except Unreadable as error:
            reading.problems[path] = str(error)
            if path in self._known:
                reading.kept.add(path)  # what it says now is not known: it is shown as it was last read
            return
        except Invalid as error:
            reading.problems[path] = str(error)
            note = None
        reading.looks[path] = look
        if note is None:
            return
        if note.remarks:
            reading.problems[path] = "; ".join(note.remarks)
        if known is not None and known.digest == note.digest:
            reading.kept.add(path)
        else:
            reading.notes[path] = note

    # --- writing -----------------------------------------------------------------------------------------------

    def _bring(self, todo: Plan, reading: _Reading, stopped: Callable[[], bool]) -> None:
        gone = dict(todo.gone)
        for start in range(0, max(len(todo.items), 1), TOGETHER):
            some = todo.items[start : start + TOGETHER]
            if some or gone:
                made = self._write(list(self._keyed(some, reading, stopped)), tuple(gone.values()))
                self._follow(some, made, gone)
                gone = {}

    def _keyed(self, items: Sequence[Item], reading: _Reading, stopped: Callable[[], bool]) -> Iterator[Keyed]:
        for item in items:
            if stopped():
                raise Stopped
            yield keyed(self._parts, item, _moment(reading.looks[item.path].modified_ns))

    def _write(self, items: Sequence[Keyed], gone: Sequence[str]) -> dict[str, str]:
        def job(transaction: Transaction) -> dict[str, str]:
            return Applying(self._parts, transaction, self._cube, str(self._root), items, gone).run()

        try:
            return self._parts.vault.write(job, SYSTEM)
        except BaseException:
            self.forget()
            raise

    def _follow(self, items: Sequence[Item], made: dict[str, str], gone: dict[str, str]) -> None:
        for path in gone:
            self._archived[path] = self._known.pop(path)
        for item in items:
            if item.left is not None:
                (self._known if item.change == "rename" else self._archived).pop(item.left, None)
        for item in items:
            self._known[item.path] = Known(made[item.path], item.note.digest)


def _files(parts: Parts, cube: str) -> Iterator[tuple[str, str, str, bool]]:
    """The memories of whole files: id, path, digest of the file, whether it is live; oldest first."""
    label = 0
    while True:
        with parts.vault.reading() as connection:
            records = queries.page(
                connection, cube, after_label=label, limit=LOADED_AT_ONCE, kind=None, tag=None, state=None
            )
        for record in records:
            about = record.memory.descriptive
            said: dict[str, Any] = json.loads(about.metadata) if about.metadata is not None else {}
            if about.source is not None and isinstance(said.get(DIGEST), str):
                yield record.memory.id, about.source, said[DIGEST], record.memory.state in LIVE
        if len(records) < LOADED_AT_ONCE:
            return
        label = records[-1].label


def _moment(ns: int) -> datetime:
    try:
        return datetime.fromtimestamp(ns / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.now(UTC)
