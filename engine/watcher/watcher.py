"""The watcher: one thread that keeps every mount as its files are.

It is told of changes by the system (`watchfiles`), waits until a burst seems over, and then looks at the whole folder:
notices say when to look, never what is there. Where the system cannot tell (no more watches, a file system that does
not support them), it looks at intervals, and says so. Folders that are gone are waited for.

Bundles that lie in `<data>/cubes` are mounted without being asked for.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from cubes import Action, MemCube
from engine.cube_operations import Mount
from engine.errors import Conflict, Invalid, NotAllowed, NotFound
from engine.governance.access import EVERY_CUBE, granted, no_cube
from engine.operations import MAX_CUBE_NAME_CHARS, Caller
from engine.parts import Parts, check_cube_name, readable_cubes
from engine.removing import UNMOUNT, remove
from engine.vault import Transaction, queries
from engine.watcher import rows
from engine.watcher.bundles import forget
from engine.watcher.mounted import Mounted
from engine.watcher.rows import BUNDLE, DROP, NOTES, Row

DROP_FOLDER = "cubes"  # in the data folder
DEBOUNCE_MS = 80  # a burst that does not end is looked at this often
STEP_MS = 20  # a burst is over when nothing happened for so long
TICK_S = 0.4  # how often folders are looked for that come or go, and bundles that are mounted by themselves
POLL_S = 0.5  # how often a folder is looked at whose changes nobody tells of
RESCAN_S = 60.0  # how often a folder is looked at although nothing was told
QUIET_S = 1.0  # what is heavy waits until folders were quiet for so long,
BUSY_S = 10.0  # but no longer than this,
BUSY_AGAIN_S = 20.0  # and this long after it began to wait it may have to wait again
CLOSE_S = 1.0  # a thread that is held by a file system that does not answer is not waited for longer
log = logging.getLogger(__name__)


class Watcher:
    """All mounts of one store. `wake` is called when memories were stored that lack vectors, and none is `busy`."""

    def __init__(self, parts: Parts, wake: Callable[[], None]) -> None:
        self._parts = parts
        self._wake = wake
        self._guard = threading.Lock()
        self._attention = threading.Event()  # the list of mounts is another one, or this is to end
        self._stopping = threading.Event()
        self._mounts: list[Mounted] = []
        self._thread: threading.Thread | None = None
        self._polling: str | None = None
        self._busy_since_s = self._busy_until_s = float("-inf")
        self._lacking = False  # whether memories were stored that lack vectors, which nobody was told of yet

    # --- starting and ending -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow what is mounted; nothing is started where nothing is. Called again, it sees a new drop folder."""
        with self._guard:
            if not self._mounts:
                self._mounts = [Mounted(self._parts, row) for row in self._mounted_by_themselves()]
            drop = self._drop_folder
            if drop.is_dir() and not any(mounted.path == drop for mounted in self._mounts):
                self._mounts.append(Mounted(self._parts, Row(str(drop), DROP, "")))
                self._attention.set()
            self._ensure_thread()

    def _mounted_by_themselves(self) -> list[Row]:
        """The mounts, but for the bundles that were mounted because of the folder in which they lie.

        A bundle whose cube was made and whose mount was not noted, because that was cut off, is mounted all the same.
        """
        known = rows.rows(self._parts)
        noted = {row.path for row in known}
        cubes = [cube for cube in self._parts.vault.cubes() if cube.mounted is not None]
        known += [Row(str(cube.mounted), BUNDLE, cube.name) for cube in cubes if cube.mounted not in noted]
        folders = [str(self._drop_folder), *(row.path for row in known if row.kind != BUNDLE)]
        return [row for row in known if row.kind != BUNDLE or not any(rows.is_within(row.path, f) for f in folders)]

    @property
    def _drop_folder(self) -> Path:
        return self._parts.vault.settings.data / DROP_FOLDER

    def _ensure_thread(self) -> None:
        if self._mounts and self._thread is None and not self._stopping.is_set():
            self._thread = threading.Thread(target=self._run, name="memos-watcher", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop following. What was being brought in is finished or left for the next time."""
        self._stopping.set()
        self._attention.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                log.warning("a watched folder does not answer: it is left alone")

    @property
    def busy(self) -> bool:
        """Whether files are changing just now, and what is heavy should wait. It never has to wait for long."""
        return time.monotonic() < self._busy_until_s

    # --- mounting ----------------------------------------------------------------------------------------------

    def mount(self, path: Path, caller: Caller, name: str | None = None) -> Mount:
        """Show the folder of notes, the folder of bundles, or the bundle at `path`, read-only; follow its changes.

        Raises:
            NotAllowed: mounting reads files of this machine: it is for who may administer the whole store.
            NotFound, Invalid: there is nothing to mount at `path`.
            Conflict: the name is taken, or the path is mounted already.
        """
        if not granted(caller.principal, EVERY_CUBE, Action.ADMIN):
            raise NotAllowed("mounting files and folders of this machine is for the owner of the store")
        path = rows.check_path(self._parts, path, self._drop_folder)
        kind = rows.kind_of(path)
        if kind == BUNDLE and (holder := self._holder(path)) is not None:
            return self._show(holder, path, name)
        if kind == DROP and name is not None:
            raise Invalid(f"{path} is a folder of bundles, and each has a name of its own: mount it without a name")
        if name is not None:
            check_cube_name(name)
        row = Row(str(path), kind, name or (_name_of(path) if kind == NOTES else ""))
        mounted = Mounted(self._parts, row)
        self._add(mounted, caller)
        try:
            mounted.look(self._stopping.is_set, caller)
        except BaseException as error:
            self._take_out(mounted, caller, "mounting failed")
            if isinstance(error, OSError):
                raise Invalid(f"{path} cannot be read: {(error.strerror or 'it failed').lower()}") from error
            raise
        self._wake()
        with self._guard:
            self._attention.set()
            self._ensure_thread()
        return next(iter(mounted.shown(None)))

    def _holder(self, path: Path) -> Mounted | None:
        """The watched folder in which a bundle lies."""
        with self._guard:
            folders = [mounted for mounted in self._mounts if mounted.row.kind != BUNDLE]
        return next((folder for folder in folders if rows.is_within(str(path), folder.row.path)), None)

    def _show(self, holder: Mounted, path: Path, name: str | None) -> Mount:
        """Show a bundle that lies in a watched folder, and was refused there or not looked at yet."""
        inside = path.relative_to(holder.path).as_posix()
        holder.show(inside, name, self._stopping.is_set)
        found = next((shown for shown in holder.shown(None) if shown.path == str(path)), None)
        if found is None:
            raise Invalid(f"{path} is not mounted: {holder.bundles.problems.get(inside, 'it is still being written')}")
        self._wake()
        return found

    def _add(self, mounted: Mounted, caller: Caller) -> None:
        row = mounted.row

        def job(transaction: Transaction) -> None:
            same = transaction.rows("SELECT cube FROM mounts WHERE path = ?", [row.path])
            if same:
                shown = f" as {same[0][0]!r}" if same[0][0] else ""
                raise Conflict(f"{row.path} is mounted already{shown}: `memos-mcp mounts` lists what is")
            if row.cube and queries.cube(transaction.connection, row.cube) is not None:
                raise Conflict(f"there is a cube {row.cube!r}: mount it with `memos-mcp mount {row.path} --as NAME`")
            revision = transaction.audit("mount", row.cube, path=row.path, kind=row.kind)
            if row.kind == NOTES:
                transaction.put_cube(_cube(row, transaction), revision, "mount")
            if row.kind != BUNDLE:  # a bundle's row comes with its cube
                rows.put(transaction, row)

        with self._guard:
            self._parts.vault.write(job, caller)
            self._mounts.append(mounted)

    def unmount(self, name: str, caller: Caller) -> None:
        """Take away a mount by the name of its cube or by its absolute path: its cubes go, the files stay.

        A folder of bundles has no cube of its own, and so no name: its path is what it is called by.

        Raises:
            NotFound: nothing of that name is mounted (for this caller).
            NotAllowed: it is for who may administer the cube.
            Invalid: the bundle lies in a folder that is mounted, or it is the folder that is mounted by itself.
        """
        if not os.path.isabs(name):
            check_cube_name(name)
        mounted = self._named(name, caller)
        if mounted is None:
            missing = f"nothing is mounted at {name}" if os.path.isabs(name) else no_cube(name)
            raise NotFound(f"{missing}; `memos-mcp mounts` lists what is mounted")
        if mounted.path == self._drop_folder and mounted.path.is_dir():
            raise Invalid(f"{mounted.path} is mounted by itself while it is there: move its files out of the folder")
        self._take_out(mounted, caller, None)

    def _named(self, name: str, caller: Caller) -> Mounted | None:
        with self._guard:
            mounts = list(self._mounts)
        path = os.path.normpath(name) if os.path.isabs(name) else None
        for mounted in mounts:
            if name == mounted.row.cube or path == mounted.row.path:
                self._require(mounted.row.cube or EVERY_CUBE, caller)
                return mounted
            for cube, file in mounted.bundles.cubes().items():
                if name != cube and path != file:
                    continue
                self._require(cube, caller)
                if mounted.row.kind == BUNDLE:
                    return mounted
                raise Invalid(
                    f"{cube!r} shows {file}, in a folder that is watched: move the file out of the folder, "
                    f"or unmount {mounted.row.path}"
                )
        return None

    def _require(self, cube: str, caller: Caller) -> None:
        if cube != EVERY_CUBE:
            readable_cubes(self._parts, [cube], caller)
        if not granted(caller.principal, cube, Action.ADMIN):
            what = "a folder of bundles" if cube == EVERY_CUBE else repr(cube)
            raise NotAllowed(f"{caller.principal.name} may not unmount {what}: its owner may")

    def _take_out(self, mounted: Mounted, caller: Caller, reason: str | None) -> None:
        """End it first, so that whoever is at it lets go, then take away what it brought."""
        mounted.ended.set()
        with self._guard:
            self._mounts = [other for other in self._mounts if other is not mounted]
            self._attention.set()
        with mounted.lock:
            held = mounted.bundles.cubes()

            def job(transaction: Transaction) -> None:
                row = mounted.row
                for cube in dict.fromkeys([*([row.cube] if row.kind == NOTES else []), *held]):
                    if queries.cube(transaction.connection, cube) is not None:
                        remove(self._parts, transaction, cube, UNMOUNT, reason=reason)
                if row.kind == DROP:
                    transaction.audit("unmount", "", path=row.path, reason=reason)
                forget(transaction, [row.path, *held.values()])

            self._parts.vault.write(job, caller)

    def mounts(self, caller: Caller) -> tuple[Mount, ...]:
        """What is mounted, and how each does: for who may administer it."""
        with self._guard:
            mounts, polling = list(self._mounts), self._polling
        remark = None if polling is None else f"looked at every {POLL_S:g} s: {polling}"
        found = [shown for mounted in mounts for shown in mounted.shown(remark)]
        return tuple(m for m in found if granted(caller.principal, m.cube or EVERY_CUBE, Action.ADMIN))

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._attention.clear()
            with self._guard:
                mounts = list(self._mounts)
            identities = [mounted.identity() for mounted in mounts]
            for mounted in mounts:
                mounted.due_s = 0.0  # what happened until it is watched was seen by nobody
            try:
                with self._watch([m for m, found in zip(mounts, identities, strict=True) if found]) as notify:
                    self._follow(mounts, identities, notify)
            except WatchfilesRustInternalError as error:
                self._poll(str(error))

    @contextmanager
    def _watch(self, mounts: Sequence[Mounted]) -> Iterator[RustNotify | None]:
        """A watch of all folders, or None where there is none to be had. Single bundles are looked at by the tick."""
        paths = [os.path.realpath(mounted.path) for mounted in mounts if mounted.row.kind != BUNDLE]
        notify = None
        if paths and self._polling is None:
            try:
                notify = RustNotify(paths, False, False, 0, True, True)
            except FileNotFoundError:
                self._attention.set()  # one went just now
            except (OSError, WatchfilesRustInternalError) as error:
                self._poll(str(error))
        try:
            yield notify
        finally:
            if notify is not None:
                notify.close()

    def _poll(self, why: str) -> None:
        self._polling = why.splitlines()[0][:200] if why else "the system does not tell of changes"
        log.warning("folders are looked at every %g s, since they cannot be watched: %s", POLL_S, self._polling)

    def _follow(
        self, mounts: Sequence[Mounted], identities: Sequence[tuple[int, int] | None], notify: RustNotify | None
    ) -> None:
        """Until the list of mounts is another one, or another folder lies at a path."""
        rescan_s = time.monotonic() + RESCAN_S
        while not self._attention.is_set():
            for mounted in mounts:
                if mounted.due_s <= time.monotonic() and mounted.look(self._stopping.is_set):
                    self._lacking = True
            if self._lacking and not self.busy:
                self._lacking = False
                self._wake()
            self._wait(mounts, notify)
            if [mounted.identity() for mounted in mounts] != list(identities):
                return
            if time.monotonic() >= rescan_s:
                return  # watched anew: a watch that has fallen silent is replaced

    def _wait(self, mounts: Sequence[Mounted], notify: RustNotify | None) -> None:
        now_s = time.monotonic()
        due_s = min((mounted.due_s for mounted in mounts), default=now_s + TICK_S)
        wait_s = min(max(due_s - now_s, 0.0), TICK_S)
        if notify is None:
            self._attention.wait(max(wait_s, STEP_MS / 1000))
        elif wait_s > 0:
            told = notify.watch(DEBOUNCE_MS, STEP_MS, max(int(wait_s * 1000), 1), self._attention)
            if not isinstance(told, str):
                self._notice(mounts, [path for _, path in told])
        self._tick(mounts, notify)

    def _notice(self, mounts: Sequence[Mounted], paths: Sequence[str]) -> None:
        now_s = time.monotonic()
        if now_s >= self._busy_since_s + BUSY_AGAIN_S:
            self._busy_since_s = now_s
        self._busy_until_s = min(now_s + QUIET_S, self._busy_since_s + BUSY_S)
        for mounted in mounts:
            root = os.path.realpath(mounted.path)
            for path in paths:
                if path == root or rows.is_within(path, root):
                    mounted.notice(path[len(root) + 1 :].replace(os.sep, "/"), now_s)

    def _tick(self, mounts: Sequence[Mounted], notify: RustNotify | None) -> None:
        """Look at what nobody tells of."""
        now_s = time.monotonic()
        for mounted in mounts:
            if mounted.row.kind == BUNDLE:
                mounted.due_s = min(mounted.due_s, now_s + TICK_S)
            elif notify is None:
                mounted.due_s = min(mounted.due_s, max(now_s + POLL_S, mounted.rests_until_s))


def _name_of(path: Path) -> str:
    """A name for a cube, from the name of its folder."""
    return path.name.strip()[:MAX_CUBE_NAME_CHARS].strip() or "notes"


def _cube(row: Row, transaction: Transaction) -> MemCube:
    return MemCube(
        name=row.cube,
        owner=transaction.caller.principal.name,
        created_at=transaction.now,
        updated_at=transaction.now,
        description=f"The notes in {row.path}",
        mounted=row.path,
    )
