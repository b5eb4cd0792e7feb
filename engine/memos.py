"""MemOS: the memory operating system as one object. This is where the parts are wired together.

The facade is synchronous and safe to use from many threads; whoever serves an event loop runs it in worker threads. It
parses nothing and renders nothing: requests and results are the values of `engine.operations`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cubes import Action, MemCube, Memory, Relation
from engine import (
    cube_fusing,
    dumper,
    forgetting,
    fusing,
    governing,
    loader,
    recalling,
    remembering,
    removing,
    timeline,
    transfer,
    upkeep,
)
from engine import history as versions
from engine import provenance as tracing
from engine.answering.answering import Answering
from engine.clock import Clock, Ids, SystemClock, TimeOrderedIds
from engine.cube_operations import (
    Artifact,
    AuditEntry,
    Changed,
    CubeDiff,
    CubeFile,
    CubeVersion,
    FuseCubes,
    FusedCubes,
    Govern,
    Install,
    Installed,
    Mount,
    Pack,
    Packed,
    Publish,
    RolledBack,
    SetCube,
    Share,
    Shelved,
    Snapshot,
)
from engine.embeddings import Embeddings
from engine.erasing import note_pending
from engine.errors import Cancelled, Invalid, MemosError, NotAllowed, NotFound
from engine.events import Events
from engine.governance.access import clearance, granted, header_for, no_memory
from engine.indexer import Indexes
from engine.model_operations import Chat, ChatEvent, ModelInfo, TierBuilt, TierRow
from engine.operations import (
    PAGE_SIZE,
    Caller,
    CubeView,
    EngineStatus,
    Forget,
    ForgetResult,
    Fuse,
    Fused,
    Listener,
    MemoryView,
    Page,
    Progress,
    Recall,
    Recalled,
    Remember,
    Remembered,
    Version,
    silent,
)
from engine.parts import Parts, answered, may, readable_cubes, seen_in, shown, visible
from engine.provenance import Traced
from engine.settings import Settings
from engine.store import publishing
from engine.vault import Change, MemVault, Transaction, queries, restore_backup
from engine.watcher import Watcher

FILL_AGAIN_S = 0.5  # vectors that waited for files to settle are looked for again after this
COMPLETIONS = 100  # values that a completion offers at most
log = logging.getLogger(__name__)

__all__ = ["MemOS", "restore_backup"]


class MemOS:
    """An open store. Use it as a context manager, or call `close`."""

    def __init__(self, parts: Parts, announce: Callable[[str], None] = log.warning) -> None:
        self._parts = parts
        self._recalling = recalling.Recalling(parts)
        self._answering = Answering(parts, self._recalling, announce)
        self._forgetting = forgetting.Forgetting(parts, self._recalling)
        self._listeners: dict[object, Listener] = {}
        self._events = Events(parts.vault)
        self._stopping = threading.Event()
        self._work = threading.Event()
        parts.vault.on_commit = self._committed
        self._forgetting.finish()
        self._background = threading.Thread(target=self._run_background, name="memos-background", daemon=True)
        self._watcher = Watcher(parts, self._work.set)
        self._background.start()
        self._watcher.start()

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        announce: Callable[[str], None] = log.warning,
    ) -> Self:
        """Open the store of `settings.data`, creating it if there is none.

        `announce` is told, once, in words for the user, before anything is downloaded.

        Raises:
            Busy: another process has it open.
            Corrupt: it is damaged; the message says how to restore it.
            Unavailable: it was written by a newer version.
        """
        clock = clock or SystemClock()
        ids = ids or TimeOrderedIds()
        vault = MemVault(settings, clock, ids)
        try:
            embeddings = Embeddings(vault, settings, announce)
            indexes = Indexes(vault, embeddings, settings)
            return cls(Parts(vault, embeddings, indexes, clock, ids), announce)
        except BaseException:
            vault.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be written and let the store go. Nothing acknowledged depends on it."""
        self._watcher.close()
        self._stopping.set()
        self._work.set()
        self._background.join()
        self._answering.close()
        try:
            self._recalling.write_uses()
            upkeep.back_up_if_due(self._parts)
            upkeep.save_indexes(self._parts, all_=True)
        except MemosError as error:
            log.error("closing: %s", error)
        finally:
            self._parts.vault.close()

    @property
    def data(self) -> Path:
        """The data folder."""
        return self._parts.vault.settings.data

    def when_failed(self, tell: Callable[[], None]) -> None:
        """`tell` is called, on any thread, when this process can no longer use the store and must end."""
        self._parts.vault.when_failed(tell)

    # --- the four tools ----------------------------------------------------------------------------------------

    def remember(self, request: Remember, caller: Caller, progress: Progress = silent) -> Remembered:
        """Keep a text or a conversation. See `engine.remembering`."""
        return remembering.remember(self._parts, request, caller, progress)

    def recall(self, request: Recall, caller: Caller) -> Recalled:
        """Find what answers a query. See `engine.recalling`."""
        found = self._recalling.recall(request, caller)
        if self._recalling.uses_due:
            self._work.set()
        return found

    def forget(self, request: Forget, caller: Caller, progress: Progress = silent) -> ForgetResult:
        """Archive or erase. See `engine.forgetting`."""
        return self._forgetting.forget(request, caller, progress)

    def answered_forget(self, request: Forget, caller: Caller) -> ForgetResult | None:
        """The recorded answer where the caller's operation carried out this very request already."""
        return answered(self._parts, caller, request, forgetting.load)

    def fuse(self, request: Fuse, caller: Caller, progress: Progress = silent) -> Fused:
        """Make one memory of several. See `engine.fusing`."""
        return fusing.fuse(self._parts, request, caller, progress)

    def fuse_cubes(self, request: FuseCubes, caller: Caller, progress: Progress = silent) -> FusedCubes:
        """Make one cube of several. See `engine.cube_fusing`."""
        return cube_fusing.fuse_cubes(self._parts, request, caller, progress)

    def delete_cube(self, name: str, caller: Caller, reason: str | None = None, progress: Progress = silent) -> int:
        """Remove a cube with all that it holds, for good and from every file; how many memories that were.

        See `engine.removing`.
        """

        def job(transaction: Transaction) -> int:
            held = removing.remove(self._parts, transaction, name, reason=reason)
            note_pending(transaction, [name], transaction.head.seq)
            return held

        progress(0, 2, "deleting")
        held = self._parts.vault.write(job, caller)
        with contextlib.suppress(Cancelled):  # it is deleted: there is nothing left to stop
            progress(1, 2, "removing every copy")
        self._forgetting.clean()
        return held

    # --- the local model ----------------------------------------------------------------------------------------

    def chat(self, request: Chat, caller: Caller) -> Iterator[ChatEvent]:
        """The events of a reply from memory; closing the iterator cancels it. See `engine.answering`."""
        return self._answering.chat(request, caller)

    def model(
        self, caller: Caller, source: str | None = None, load: bool = False, offline: bool = False
    ) -> ModelInfo | None:
        """The model that is served, as far as it is known. See `engine.answering`."""
        return self._answering.model(caller, source, load, offline)

    def tiers(self, cube: str | None, caller: Caller) -> tuple[TierRow, ...]:
        """The KV caches that are kept of a cube, or of all that the caller may read. See `engine.answering`."""
        return self._answering.tiers(cube, caller)

    def build_tier(self, cube: str, caller: Caller, progress: Progress = silent) -> TierBuilt:
        """Build the KV caches of a cube. See `engine.answering`."""
        return self._answering.build_tier(cube, caller, progress)

    def drop_tier(self, cube: str | None, caller: Caller) -> int:
        """Drop the KV caches of a cube, or all of them; how many there were. See `engine.answering`."""
        return self._answering.drop_tier(cube, caller)

    def embed(self, texts: Sequence[str], caller: Caller) -> tuple[tuple[tuple[float, ...], ...], str]:
        """The vector of each text, and the name of the embedder. Raises `Unavailable` where there is none."""
        vectors, name = self._parts.embeddings.of_texts(texts)
        return tuple(tuple(vector.tolist()) for vector in vectors), name

    # --- governance --------------------------------------------------------------------------------------------

    def govern(self, request: Govern, caller: Caller) -> tuple[Memory, ...]:
        """Set how memories are to be treated. See `engine.governing`."""
        return governing.govern(self._parts, request, caller)

    def set_cube(self, request: SetCube, caller: Caller) -> MemCube:
        """Make a cube or set its header and rules. See `engine.governing`."""
        return governing.set_cube(self._parts, request, caller)

    def share(self, request: Share, caller: Caller) -> MemCube:
        """Open a cube to others, or let one principal in. See `engine.governing`."""
        return governing.share(self._parts, request, caller)

    def audit(
        self, caller: Caller, since: int | None = None, limit: int = 100, cube: str | None = None
    ) -> tuple[AuditEntry, ...]:
        """Rows of the audit log. See `engine.governing`."""
        return governing.audit(self._parts, caller, since, limit, cube)

    def verify_audit(self, caller: Caller) -> tuple[str, ...]:
        """What is wrong with the audit log, and where. See `engine.governing`."""
        return governing.verify_audit(self._parts, caller)

    # --- time --------------------------------------------------------------------------------------------------

    def history(self, id: str, caller: Caller) -> tuple[Version, ...]:
        """All versions of a memory, oldest first. See `engine.history`."""
        return versions.history(self._parts, id, caller)

    def restore(self, id: str, version: int, caller: Caller, reason: str | None = None) -> Memory:
        """Make an earlier version the present one. See `engine.history`."""
        return versions.restore(self._parts, id, version, caller, reason)

    def diff_versions(self, id: str, a: int, b: int, caller: Caller) -> Changed:
        """In which fields two versions of a memory differ. See `engine.timeline.differences`."""
        return timeline.diff_versions(self._parts, id, a, b, caller)

    def snapshot(self, cube: str, name: str, caller: Caller, reason: str | None = None) -> Snapshot:
        """Name the present moment of a cube. See `engine.timeline.moments`."""
        return timeline.snapshot(self._parts, cube, name, caller, reason)

    def snapshots(self, cube: str, caller: Caller) -> tuple[Snapshot, ...]:
        """The named moments of a cube, oldest first."""
        return timeline.snapshots(self._parts, cube, caller)

    def drop_snapshot(self, cube: str, name: str, caller: Caller) -> None:
        """Take its name away from a moment."""
        timeline.drop_snapshot(self._parts, cube, name, caller)

    def memories_as_of(self, cube: str, moment: str | datetime, caller: Caller) -> tuple[Memory, ...]:
        """Every memory that a cube held at a moment: a snapshot's name, an ISO instant, or "now"."""
        return timeline.memories_as_of(self._parts, cube, moment, caller)

    def diff_cube(self, cube: str, before: str, after: str, caller: Caller) -> CubeDiff:
        """What differs between two moments of a cube. See `engine.timeline.differences`."""
        return timeline.diff_cube(self._parts, cube, before, after, caller)

    def rollback(
        self,
        cube: str,
        to: str,
        caller: Caller,
        reason: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> RolledBack:
        """Make a cube say again what it said at a moment. See `engine.timeline.rolling_back`."""
        done = timeline.rollback(self._parts, cube, to, caller, reason, dry_run, progress)
        self._work.set()  # vectors that could not be made beforehand
        return done

    def answered_rollback(self, cube: str, to: str, caller: Caller, reason: str | None = None) -> RolledBack | None:
        """The recorded answer where the caller's operation carried out this very rollback already."""
        return timeline.answered_rollback(self._parts, cube, to, caller, reason)

    def cube_history(self, cube: str, caller: Caller) -> tuple[CubeVersion, ...]:
        """Every version of a cube's header, oldest first."""
        return timeline.cube_history(self._parts, cube, caller)

    # --- reading -----------------------------------------------------------------------------------------------

    def cubes(self, caller: Caller) -> tuple[CubeView, ...]:
        """The cubes that the caller may read, by name."""
        return tuple(self._view(cube, caller) for cube in readable_cubes(self._parts, None, caller))

    def cube(self, name: str, caller: Caller) -> CubeView:
        """One cube. Raises `NotFound`."""
        return self._view(readable_cubes(self._parts, [name], caller)[0], caller)

    def _view(self, cube: MemCube, caller: Caller) -> CubeView:
        seen = clearance(caller.principal, cube)
        with self._parts.vault.reading() as connection:
            states = queries.counts(connection, "state", cube.name, seen)
            kinds = queries.counts(connection, "kind", cube.name, seen)
            revision = queries.cube_revision(connection, cube.name, seen)
        header = header_for(caller.principal, cube)
        return CubeView(header, sum(count for _, count in states), states, kinds, revision)

    def memories(
        self,
        cube: str,
        caller: Caller,
        *,
        cursor: str | None = None,
        limit: int = PAGE_SIZE,
        kind: str | None = None,
        tag: str | None = None,
        state: str | None = None,
    ) -> Page:
        """A page of a cube's memories, in the order in which they were remembered.

        Raises:
            NotFound: no such cube for this caller.
            Invalid: a cursor that no page gave out.
        """
        seen = clearance(caller.principal, readable_cubes(self._parts, [cube], caller)[0])
        label = 0 if cursor is None else _label(cursor)
        with self._parts.vault.reading() as connection:
            records = queries.page(
                connection, cube, after_label=label, limit=limit + 1, kind=kind, tag=tag, state=state, seen=seen
            )
            memories = shown(connection, queries.complete(connection, records[:limit]), caller)
        more = len(records) > limit
        return Page(tuple(memories), f"after-{records[limit - 1].label}" if more else None)

    def memory(self, id: str, caller: Caller) -> MemoryView:
        """One memory and what stands around it. Raises `NotFound`."""
        with self._parts.vault.reading() as connection:
            record = queries.records(connection, [id]).get(id)
            if record is None:
                raise NotFound(no_memory(id))
            transaction = Transaction(connection, self._parts.vault.head, self._parts.clock.now(), caller)
            may(transaction, record, Action.READ)
            memory = queries.complete(connection, [record])[0]
            edges = queries.derived_from(connection, [id])
            near = [*(other for other, _ in edges), *(edge.source for edge in memory.lineage)]
            there = visible(connection, near, caller)
            memory = replace(memory, lineage=tuple(edge for edge in memory.lineage if edge.source in there))
            derived = [
                (edge.relation.value, other)
                for other, edge in edges
                if edge.relation is not Relation.FOLLOWS and other in there
            ]
            before, behind = queries.neighbours(connection, memory, seen_in(self._parts, memory.cube, caller))
        return MemoryView(memory, tuple(derived), before, behind)

    def provenance(self, memories: Sequence[Memory], caller: Caller) -> dict[str, Traced]:
        """Where memories that the caller was given come from, by id. See `engine.provenance`."""
        return tracing.provenance(self._parts, memories, caller)

    def complete_cubes(self, prefix: str, caller: Caller) -> tuple[str, ...]:
        """Names of cubes that begin with `prefix`."""
        names = [cube.name for cube in readable_cubes(self._parts, None, caller)]
        return tuple(name for name in names if name.startswith(prefix))[:COMPLETIONS]

    def complete_ids(self, prefix: str, caller: Caller) -> tuple[str, ...]:
        """Ids of memories that begin with `prefix`, newest first."""
        mine = readable_cubes(self._parts, None, caller)
        seen = {cube.name: clearance(caller.principal, cube) for cube in mine}
        with self._parts.vault.reading() as connection:
            return tuple(queries.ids_with_prefix(connection, prefix, seen, COMPLETIONS))

    def status(self, caller: Caller) -> EngineStatus:
        """How the store does; counts are of what the caller may read, and where it lies is for the owner alone."""
        parts, owner = self._parts, caller.principal.owner
        views = self.cubes(caller)
        names = [view.cube.name for view in views]
        counts: Counter[str] = Counter()
        for view in views:
            counts.update(dict(view.states))
        revision = parts.vault.revision if owner else max((view.revision for view in views), default=0)
        return EngineStatus(
            data=str(parts.vault.settings.data) if owner else "",
            store_id=parts.vault.store_id,
            revision=revision,
            cubes=len(names),
            counts=tuple(sorted(counts.items())),
            embedder=parts.embeddings.name,
            degraded=self._degraded(owner),
            index=tuple(item for item in parts.indexes.status() if item[0] in names),
            last_backup=upkeep.last_backup(parts) if owner else None,
            audit_length=revision,
            encrypted=not parts.vault.sealer.plain,
            model=self._answering.standing() if owner else None,
        )

    def _degraded(self, owner: bool) -> str | None:
        embeddings = self._parts.embeddings
        if embeddings.moving:
            how_many = embeddings.missing() if owner else "some"  # of all cubes: no count for who may not see them all
            return f"{how_many} memories are still to be embedded by {embeddings.name}"
        return embeddings.degraded()

    # --- in, out, upkeep -----------------------------------------------------------------------------------------

    def export_memories(self, caller: Caller, cubes: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """One plain object a memory. See `engine.transfer`."""
        return transfer.export_memories(self._parts, caller, cubes)

    def import_memories(
        self,
        records: Iterable[Mapping[str, Any]],
        caller: Caller,
        progress: Progress = silent,
        *,
        dry_run: bool = False,
    ) -> transfer.ImportReport:
        """Put in what was given out. See `engine.transfer`."""
        return transfer.import_memories(self._parts, records, caller, progress, dry_run=dry_run)

    def backup(self, path: Path, caller: Caller, progress: Progress = silent) -> Path:
        """Write a copy of the whole store to `path`, which must not exist.

        Raises:
            NotAllowed: the caller is not the owner.
            Invalid: there is something at `path`, or it cannot be written.
        """
        if not granted(caller.principal, "*", Action.ADMIN):
            raise NotAllowed("backups are for the owner of the store")
        progress(0, 1, "copying")
        path = path.absolute()
        try:
            taken = path.exists()
        except OSError as error:
            raise Invalid(f"a backup cannot be written there: {error.strerror}") from error
        if taken:
            raise Invalid(f"{path} exists: a backup never replaces a file; choose another name")
        if not path.parent.is_dir() and path.parent != self._parts.vault.settings.backups_folder:
            raise Invalid(f"{path.parent} is no folder: make it first, or choose another place for the backup")
        # Noted first: an erasure that comes in between must know of the copy.
        self._parts.vault.write(lambda transaction: transaction.audit("backup", "", path=str(path)), caller)
        made = self._parts.vault.backup(path)
        progress(1, 1, "done")
        return made

    def verify(self, caller: Caller) -> tuple[str, ...]:
        """What is wrong with the store; empty: nothing that this program can find."""
        if not granted(caller.principal, "*", Action.ADMIN):
            raise NotAllowed("checking the store is for its owner")
        return upkeep.problems(self._parts)

    def sweep(self) -> None:
        """Expiry, uses, snapshots, backups. Called by whoever keeps the store open, about once a minute."""
        self._recalling.write_uses()
        self._forgetting.finish()
        upkeep.expire(self._parts)
        upkeep.decay(self._parts)
        timeline.retain(self._parts)
        self._answering.sweep()
        self._watcher.start()
        self._work.set()  # memories that were stored without vectors get them
        upkeep.drop_old_records(self._parts)
        upkeep.save_indexes(self._parts, all_=False)
        upkeep.back_up_if_due(self._parts)

    # --- mounts and shelves ------------------------------------------------------------------------------------

    def mount(self, path: Path, caller: Caller, name: str | None = None) -> Mount:
        """Show a folder of notes or bundles, or a bundle, as a read-only cube. See `engine.watcher`."""
        return self._watcher.mount(path, caller, name)

    def unmount(self, name: str, caller: Caller) -> None:
        """Take a mount away, by the name of its cube or by its path; its files stay."""
        self._watcher.unmount(name, caller)

    def mounts(self, caller: Caller) -> tuple[Mount, ...]:
        """What is mounted, and how each mount does."""
        return self._watcher.mounts(caller)

    def publish(self, request: Publish, caller: Caller, progress: Progress = silent) -> Packed:
        """Put a cube or a bundle onto a shelf. See `engine.store`."""
        return publishing.publish(self._parts, request, caller, progress)

    def shelf(self, url: str, caller: Caller, query: str | None = None) -> tuple[Shelved, ...]:
        """The bundles on a shelf, or those that a query finds. See `engine.store`."""
        return publishing.listed(url, caller, query)

    # --- bundles -------------------------------------------------------------------------------------------------

    def pack(self, request: Pack, caller: Caller, progress: Progress = silent) -> Packed:
        """Write a cube into one file. See `engine.dumper`."""
        self._recalling.write_uses()
        self._answering.flush()
        return dumper.pack(self._parts, request, caller, progress)

    def install(self, request: Install, caller: Caller, progress: Progress = silent) -> Installed:
        """Make a bundle a cube of this store, or bring a cube up to it. See `engine.loader`."""
        with publishing.bundle_of(self._parts, request.source, caller, progress) as (path, shown):
            asked = replace(request, source=shown)
            installed = loader.install(self._parts, path, asked, caller, progress, model=self._answering.fingerprint)
        self._work.set()  # its index is made, and vectors that it lacks
        return installed

    def inspect(self, path: Path, passphrase_file: Path | None = None) -> CubeFile:
        """What a bundle says of itself. See `engine.loader`."""
        return loader.inspect(self._parts.vault.settings, path, passphrase_file)

    def artifacts(self, cube: str, caller: Caller) -> tuple[Artifact, ...]:
        """What was derived from memories of a cube. See `engine.loader`."""
        return loader.listed(self._parts, cube, caller, self._answering.fingerprint)

    # --- events and background ---------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` told of each commit; returns what ends that."""
        token = object()
        self._listeners[token] = listener
        return lambda: self._listeners.pop(token, None) and None

    def _committed(self, changes: Sequence[Change], transaction: Transaction) -> None:
        self._answering.committed(changes, transaction)  # first: whatever else fails, nothing outdated is used
        self._parts.indexes.apply(changes, transaction)
        for event in self._events.of(changes, transaction):
            for listener in list(self._listeners.values()):
                listener(event)

    def _run_background(self) -> None:
        """Load the indexes, then keep vectors complete and uses written until the store closes."""
        stopped, put_off = self._stopping.is_set, threading.Event()

        def held() -> bool:
            if self._watcher.busy:
                put_off.set()
            return stopped() or put_off.is_set()

        while not stopped():
            put_off.clear()
            try:
                self._parts.indexes.load_all(stopped)  # also of cubes that were installed meanwhile
                self._fill(held)
                self._parts.indexes.tend()
                self._recalling.write_uses()
            except Exception as error:  # noqa: BLE001 - the outermost edge of this thread: its work must go on
                log.error("background work is put off: %s", error if isinstance(error, MemosError) else type(error))
            self._work.wait(FILL_AGAIN_S if put_off.is_set() else None)
            self._work.clear()  # after waiting: what is set while this works is then never missed

    def _fill(self, stopped: Callable[[], bool]) -> None:
        parts = self._parts
        if not parts.embeddings.fill(stopped, parts.indexes.applied) or parts.embeddings.target is None:
            return
        prepared = parts.indexes.prepare(*parts.embeddings.target, stopped)
        if prepared is not None:
            parts.embeddings.switch(lambda: parts.indexes.adopt(prepared))


def _label(cursor: str) -> int:
    head, _, number = cursor.partition("-")
    if head != "after" or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise Invalid(f"{cursor!r} is no cursor of this list: start without one")
    return int(number)
