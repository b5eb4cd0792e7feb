"""Writes KV caches into the vault in the background: a thread of its own, in bounded memory, flushed at the end.

A row comes before its blob, and a blob is written whole or not at all, so a process may be killed at any point: a row
without a blob is dropped at the next start, as is a blob without a row. What is worth least makes room.

What must stay true: nothing of a dead entry is left on disk; a row is written only while every source has the version
that it was derived from.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from engine.errors import MemosError
from engine.operations import Caller, Principal
from engine.tiers.kv.entries import Entry
from engine.tiers.kv.files import NONE, TensorFile, encode
from engine.tiers.kv.held import Held
from engine.tiers.kv.prefixes import Span
from engine.tiers.kv.tensors import Layers, bytes_of, joined, sliced
from engine.vault import Transaction
from engine.vault.artifacts import CONVERSATION, drop_artifacts, note_uses, put_artifacts, vouch
from engine.vault.blobs import keep_blob
from engine.vault.connection import Connection
from engine.vault.staging import SHOWN

SYSTEM = Caller(Principal("memos", owner=True))
NOTED_TOGETHER = 500  # uses in one transaction
log = logging.getLogger(__name__)


class _Dead(Exception):
    """What is being written is not wanted any more."""


class Saver:
    """The thread that writes. `waiting_bytes` of layers wait for it."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._gate = threading.Lock()
        self._closed = False
        self.waiting_bytes = 0
        held.dropped = self.drop

    # --- the thread --------------------------------------------------------------------------------------------

    def save(self, entry: Entry, size: int) -> None:
        """Write an entry that waits for it, of so many bytes in RAM."""
        self._put(lambda: self._save_and_settle(entry, size))

    def drop(self, ids: Sequence[str]) -> None:
        """Drop rows whose entries are dead."""
        self._put(lambda: self.drop_rows(ids))

    def vouch(self, id: str) -> None:
        """Note of a row that its entry was checked."""
        self._put(lambda: self._held.vault.write(lambda transaction: vouch(transaction, id), SYSTEM))

    def replace(self, old: Entry, new: Entry) -> None:
        """Drop an entry, once the one in its place is written."""
        self._put(lambda: self._replace([old], new))

    def merge(self, plan: Callable[[], tuple[Entry, Sequence[Span[Entry]]] | None]) -> None:
        """Write one entry in place of several that follow one another, as `plan` says when it is their turn."""
        self._put(lambda: self._merge(plan))

    def tend(self) -> None:
        """Note uses and keep within the budget of the disk."""
        self._put(self._note_uses)
        self._put(self._keep_within_budget)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes of layers may wait, too. Called with the lock."""
        return not self.waiting_bytes or self.waiting_bytes + size <= self._held.settings.kv_ram_bytes

    def flush(self) -> None:
        """Wait until everything so far is written."""
        with self._gate:
            if self._thread is None or self._closed:
                return
            done = threading.Event()
            self._queue.put(done.set)
        done.wait()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        with self._gate:
            if self._closed:
                return
            if self._thread is not None or self._held.used:
                self._start()
                self._queue.put(self._note_uses)
            self._closed = True
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _put(self, job: Callable[[], None]) -> None:
        with self._gate:
            if not self._closed:
                self._start()
                self._queue.put(job)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kv-writer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                job()
            except MemosError as error:
                log.warning("a KV cache was not written: %s", error)
            except Exception as error:  # noqa: BLE001 - the outermost edge of this thread: the next one may succeed
                log.error("a KV cache was not written: %s", type(error).__qualname__)

    # --- writing -----------------------------------------------------------------------------------------------

    def _save_and_settle(self, entry: Entry, size: int) -> None:
        held = self._held
        try:
            self._save(entry)
        finally:
            with held.changed:
                self.waiting_bytes -= size
                entry.waiting = False
                held.trim()
                held.changed.notify_all()

    def _save(self, entry: Entry) -> bool:
        """Whether it lies on disk now. Where there is no room, it stays in RAM as long as that has room."""
        with self._held.changed:
            layers = entry.layers
        if layers is None:
            return False
        file = encode(layers, entry.how, entry.expected)
        return self._make_room(file.size) and self._write(entry, file)

    def _write(self, entry: Entry, file: TensorFile) -> bool:
        held, vault = self._held, self._held.vault

        def job(transaction: Transaction) -> bool:
            if entry.dead or not is_current(transaction.connection, entry):
                return False
            put_artifacts(transaction, [entry.row(file.digest, file.size)], transaction.head.seq)
            return True

        with held.changed:
            held.leaving.add(entry.id)
        try:
            if not vault.write(job, SYSTEM):
                with held.changed:
                    held.kill([entry])
                return False
            self._write_blob(entry, file)
        finally:
            if not entry.digest:
                self.drop_rows([entry.id])
            with held.changed:
                held.leaving.discard(entry.id)
        return bool(entry.digest)

    def _write_blob(self, entry: Entry, file: TensorFile) -> None:
        held = self._held
        with held.changed:
            entry.writing = not entry.dead
        try:
            if entry.writing:
                keep_blob(held.settings, file.digest, _while_alive(file, entry), held.vault.sealer)
                self._now_on_disk(entry, file)
        except _Dead:
            log.debug("%s was outdated while it was written", entry.id)
        finally:
            with held.changed:
                entry.writing = False
                held.changed.notify_all()

    def _now_on_disk(self, entry: Entry, file: TensorFile) -> None:
        with self._held.changed:
            if entry.dead:
                raise _Dead
            self._held.index.written(entry, file.digest, file.size)
            if entry.how != NONE:
                self._held.index.let_go(entry)  # from now on it is what was written

    def _merge(self, plan: Callable[[], tuple[Entry, Sequence[Span[Entry]]] | None]) -> None:
        planned = plan()
        if planned is None:
            return
        merged, spans = planned
        held, old = self._held, [span.segment for span in spans]
        with held.using(old):
            parts: list[Layers] = []
            for span in spans:
                layers = held.layers_of(span.segment)
                if layers is None:
                    return
                parts.append(sliced(layers, span.start - span.segment.start, span.end - span.segment.start))
            layers = joined(parts)
            with held.changed:
                if any(entry.dead for entry in old):
                    return
                size = bytes_of(layers)
                merged.waiting = True
                held.index.add(merged)
                held.index.hold(merged, layers, size)
                self.waiting_bytes += size
        self._save_and_settle(merged, size)
        if merged.digest:
            # Only what is whole in it: others were used for their beginning, and go on as another conversation.
            self._replace([entry for entry in old if entry.blocks[-1] in merged.blocks], merged)
        else:
            with held.changed:
                held.kill([merged])

    def _replace(self, old: Sequence[Entry], new: Entry) -> None:
        held = self._held
        with held.rows:
            with held.changed:
                if not new.digest or new.dead:
                    return
                replaced = [entry for entry in old if not entry.busy and not entry.dead]
                held.kill(replaced)
            self.drop_rows([entry.id for entry in replaced])

    # --- room --------------------------------------------------------------------------------------------------

    def _make_room(self, size: int) -> bool:
        """Evict what is worth least until so many bytes fit; whether they do."""
        held = self._held
        held.refresh()
        with held.rows:
            victims: list[Entry] = []
            with held.changed:
                while (surplus := held.index.disk_bytes + size - held.settings.kv_disk_bytes) > 0:
                    if size > held.settings.kv_disk_bytes or not (some := self._least(surplus)):
                        break
                    held.kill(some)
                    victims += some
            self.drop_rows([entry.id for entry in victims])
        return surplus <= 0

    def _keep_within_budget(self) -> None:
        self._make_room(0)

    def _least(self, surplus: int) -> list[Entry]:
        """What is worth least of that which nothing else needs, as much as is to go. Called with the lock."""
        now, some = self._held.clock.now(), list[Entry]()
        free = [entry for entry in self._held.index.leaves() if entry.digest and not entry.busy and not entry.waiting]
        for entry in sorted(free, key=lambda entry: (entry.worth(entry.bytes, now), -entry.start)):
            if surplus <= 0:
                break
            some.append(entry)
            surplus -= entry.bytes
        return some

    def drop_rows(self, ids: Sequence[str]) -> None:
        """Drop rows, and blobs that nothing else needs."""
        if not ids:
            return
        try:
            self._held.vault.write(lambda transaction: drop_artifacts(transaction, ids), SYSTEM)
        except MemosError:
            self._held.read_again()
            raise
        finally:
            with self._held.changed:
                self._held.leaving.difference_update(ids)

    def _note_uses(self) -> None:
        held = self._held
        with held.changed:
            noted = {
                entry.id: (entry.uses, entry.heat, entry.last_use)
                for entry in held.used
                if entry.digest and entry.last_use is not None
            }
            held.used = {entry for entry in held.used if not entry.digest and not entry.dead}
        items = [(id, (uses, heat, at)) for id, (uses, heat, at) in noted.items() if at is not None]
        for start in range(0, len(items), NOTED_TOGETHER):
            some = dict(items[start : start + NOTED_TOGETHER])
            held.vault.write(lambda transaction, some=some: note_uses(transaction, some), SYSTEM)  # type: ignore[misc]


def is_current(connection: Connection, entry: Entry) -> bool:
    """Whether every source has the version that the entry was derived from, and lies in its cube."""
    cube = entry.scope.cube_name
    rows = connection.execute(
        f"SELECT id, version, cube FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[])) AND {SHOWN}",
        [[id for id, _ in entry.sources]],
    ).fetchall()
    now = {id: version for id, version, place in rows if cube in (CONVERSATION, place)}
    if any(now.get(id) != version for id, version in entry.sources):
        return False
    there = connection.execute("SELECT 1 FROM cubes WHERE name = ?", [cube]).fetchall()
    return cube == CONVERSATION or bool(there)


def _while_alive(file: TensorFile, entry: Entry) -> Iterator[bytes]:
    for piece in file.pieces():
        if entry.dead:
            raise _Dead
        yield piece
