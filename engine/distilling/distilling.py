"""Distilling: memories become an adapter of the local model, for a caller who waits or in the background.

A run is chosen, trained on the model's thread behind all replies, judged, and kept in one transaction with the note
that it is done. One training runs at a time. What must stay true: a run that is cancelled, fails, or loses one of its
memories leaves neither an adapter nor a checkpoint; what a checkpoint learned from a memory that changes or goes is
gone before the change is acknowledged; an adapter that served and went with a memory is trained anew from the others.

It imports no torch: what trains is loaded with the first training.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cubes import Memory
from engine.answering.answering import Answering
from engine.answering.notes import note_of
from engine.distilling.askers import plain_principal, principal_of, still_writable
from engine.distilling.choosing import DISPUTED, chosen, disputed_of, remaining
from engine.distilling.effort import Effort
from engine.distilling.working import Kind, Task, Working
from engine.embeddings import SYSTEM
from engine.erasing import lasting
from engine.errors import Busy, Conflict, Invalid, MemosError
from engine.operations import MAX_REASON_CHARS, Caller, Progress, silent
from engine.parts import Parts
from engine.reader.checks import check_text
from engine.tier_operations import AdapterState, AdapterView, Distil, WorkState, WorkView
from engine.tiers.lora.headers import left_out_words
from engine.vault import Change, Transaction
from engine.vault.adapters import AdapterRow, adapters_of
from engine.vault.checkpoints import Checkpoint, checkpoint_of, sweep_checkpoints
from engine.vault.work import RETRAIN, open_ids, open_work

if TYPE_CHECKING:
    from engine.answering.local import LocalModel
    from engine.distilling.training import Trained
    from engine.model.runner import Runner

DISTIL = "distil"
MAX_RANK, MAX_STEPS, MAX_SEED = 256, 20_000, 1 << 62
MOST_WAITING = 200  # trainings
MOST_BEGINNINGS = 4  # of one run in the background whose memories change meanwhile


class _Changed(Exception):
    """A memory of a run is another one by now, or gone."""


class _Run:
    """A training that is under way: its memories, and whether they still are what they were."""

    def __init__(self, memories: Sequence[Memory], checkpoint: Checkpoint) -> None:
        self.sources = {memory.id: memory.version for memory in memories}
        self.checkpoint = checkpoint
        self.changed = threading.Event()
        self.end: Callable[[], None] = lambda: None  # what of it is under way on the model's thread


class Distilling:
    """Trainings of one store, and the background work of all kinds."""

    def __init__(self, parts: Parts, answering: Answering) -> None:
        self._parts, self._answering = parts, answering
        self._settings = parts.vault.settings
        self.effort = Effort()
        self.working = Working(parts)
        self.working.kinds[DISTIL] = Kind(self._distil, self._answering.untrainable)
        self.working.kinds[RETRAIN] = Kind(self._retrain, self._answering.untrainable)
        self._one_at_a_time = threading.Lock()
        self._changing = threading.Lock()
        self._run: _Run | None = None
        self._left: dict[str, tuple[Checkpoint, Mapping[str, int]]] = {}  # by work: of processes that ended

    # --- life ----------------------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """At the start, before anything changes: work that was cut off waits again, and only its checkpoints stay."""
        rows = {row.id: row for row in self.working.take_up()}
        sealer = self._parts.vault.sealer
        there = sweep_checkpoints(self._settings, sealer, rows)
        for id in there:
            sources = dict(rows[id].header.get("sources", ()))
            checkpoint = checkpoint_of(self._settings, id, sealer)
            if self._are_current(sources):
                self._left[id] = (checkpoint, sources)
            else:
                checkpoint.drop()

    def start(self) -> None:
        """Begin to do what waits. See `engine.distilling.working`."""
        self.working.start()

    def close(self) -> None:
        """End what runs; it goes on with the next process. Before the model is let go of."""
        with self._changing:
            if self._run is not None:
                self._run.checkpoint.stays = True
        self.working.close()

    def committed(self, changes: Sequence[Change], transaction: Transaction) -> None:
        """Called before a writing call returns: nothing is kept of what was learned from what it changed."""
        if not transaction.invalidated and not transaction.cubes_changed:
            return
        self.working.committed(transaction)
        with self._changing:
            if self._run is not None and self._is_outdated(self._run.sources, transaction):
                self._run.changed.set()
                self._run.checkpoint.drop()
                self._run.end()
            for id, (checkpoint, sources) in list(self._left.items()):
                if self._is_outdated(sources, transaction):
                    checkpoint.drop()
                    del self._left[id]
        self.working.wake()  # an adapter may have gone with it

    # --- asking --------------------------------------------------------------------------------------------------

    def distil(self, request: Distil, caller: Caller, progress: Progress = silent) -> AdapterView | WorkView:
        """Train an adapter; in the background, what is to be done is given at once.

        Raises:
            Invalid, TooLarge: the request is outside the bounds, or names what cannot be trained on.
            NotFound, NotAllowed: a cube or a memory that the caller may not see, or not change.
            Unavailable: there is no model that can be trained, or no room.
            Conflict: a memory changed meanwhile; nothing was kept.
            Busy: another training is under way. Cancelled: nothing was kept.
        """
        _check(request)
        memories = chosen(self._parts, request.cube, request.ids, caller)  # what cannot be is refused at once
        header = {
            "ids": list(request.ids),
            **{name: getattr(request, name) for name in ("rank", "steps", "seed", "activate")},
            "reason": lasting(request.reason, memories),
            "effort": asdict(self.effort),
            "principal": {**plain_principal(caller.principal), "client": caller.client},
        }
        if request.background:
            return self.working.view(self._queued(request.cube, header, caller))
        local, _ = self._answering.for_training(caller)
        with self.training(lambda: self._same(request)):
            kept = self.working.now(
                DISTIL,
                request.cube,
                header,
                caller,
                progress,
                lambda task: self._trained(task, chosen(self._parts, request.cube, request.ids, caller), caller),
            )
        return self._view(local, kept)

    def _queued(self, cube: str, header: Mapping[str, Any], caller: Caller) -> str:
        """The id of work that waits; what is asked again before it is done is not done twice."""

        def job(transaction: Transaction) -> str:
            mine = open_work(transaction.connection, DISTIL, cube)
            same = [row for row in mine if all(row.header.get(name) == value for name, value in header.items())]
            if same:
                return same[0].id
            waiting = len(open_ids(transaction.connection, DISTIL))
            if waiting >= MOST_WAITING:
                raise Busy(f"{waiting} trainings wait already: cancel some, or ask again when they are done")
            return self.working.ask(transaction, DISTIL, cube, header).id

        return self._parts.vault.write(job, caller)

    def work(self, caller: Caller) -> tuple[WorkView, ...]:
        """What waits, runs, and ended of late, of the cubes that the caller may change."""
        return self.working.views(caller)

    def cancel(self, id: str, caller: Caller) -> WorkView:
        """Stop a piece of work. See `engine.distilling.working`."""
        view = self.working.cancel(id, caller)
        self._forget(id)
        return view

    def _forget(self, id: str) -> None:
        """Drop what an earlier process left of work that is not gone on with."""
        with self._changing:
            left = self._left.pop(id, None)
        if left is not None:
            left[0].drop()

    def told(self, caller: Caller) -> tuple[str, ...]:
        """How the work stands, in words, for the status."""
        return self.working.told(caller)

    def _same(self, request: Distil) -> str | None:
        """The work, if there is one under way, that trains on what this request asks for."""
        with self._parts.vault.reading() as connection:
            rows = open_work(connection, DISTIL, request.cube)
        running = [row for row in rows if row.state is WorkState.RUNNING]
        return next((row.id for row in running if set(row.header.get("ids", ())) == set(request.ids)), None)

    @contextlib.contextmanager
    def training(self, same: Callable[[], str | None] = lambda: None) -> Iterator[None]:
        """Be the one who trains. `same`: the work that is this very training, if that is under way.

        Raises:
            Busy: somebody else is.
        """
        if not self._one_at_a_time.acquire(blocking=False):
            if (id := same()) is not None:
                raise Busy(
                    f"this very training is under way already, as {id}: it goes on in the background if who began it "
                    f"was cut off; `memos-mcp tier work` shows how far it is, `memos-mcp tier cancel {id}` ends it"
                )
            raise Busy(
                "another training is under way: wait for it, cancel it (`memos-mcp tier work` and `memos-mcp tier "
                "cancel`), or ask for this one in the background"
            )
        try:
            yield
        finally:
            self._one_at_a_time.release()

    # --- in the background ---------------------------------------------------------------------------------------

    def _distil(self, task: Task) -> str:
        caller = _caller_of(task.row.header)
        ids = tuple(task.row.header.get("ids", ()))

        def memories() -> Sequence[Memory]:
            cube = still_writable(self._parts, task.row.cube, caller)
            return remaining(self._parts, cube.name, ids) if ids else chosen(self._parts, cube.name, (), caller)

        return self._until_kept(task, memories, caller)

    def _retrain(self, task: Task) -> str:
        header, cube = task.row.header, task.row.cube
        with self._parts.vault.reading() as connection:
            if any(row.state is AdapterState.SERVING for row in adapters_of(connection, cube)):
                self._forget(task.row.id)
                return "another version serves by now"
        return self._until_kept(task, lambda: remaining(self._parts, cube, header["ids"]), SYSTEM)

    def _until_kept(self, task: Task, memories: Callable[[], Sequence[Memory]], caller: Caller) -> str:
        """Train on what is left, again with the rest where one of the memories changes meanwhile."""
        with self.training():
            for _ in range(MOST_BEGINNINGS):
                some = memories()
                if not some:
                    self._forget(task.row.id)
                    return "nothing is left of it that may be trained on"
                with contextlib.suppress(_Changed):
                    return _words(self._train(task, some, caller))
        raise Conflict(f"its memories changed {MOST_BEGINNINGS} times while it was trained: ask for it again")

    # --- a run ---------------------------------------------------------------------------------------------------

    def _trained(self, task: Task, memories: Sequence[Memory], caller: Caller) -> AdapterRow:
        try:
            return self._train(task, memories, caller)
        except _Changed:
            raise Conflict(
                "a memory changed, or was forgotten, while it was trained on: nothing was kept; train again"
            ) from None

    def _train(self, task: Task, memories: Sequence[Memory], caller: Caller) -> AdapterRow:
        local, runner = self._answering.for_training(caller)
        run = _Run(memories, checkpoint_of(self._settings, task.row.id, self._parts.vault.sealer))
        try:
            with self._changing:
                self._run = run
                self._left.pop(task.row.id, None)
            if not self._are_current(run.sources):
                raise _Changed
            self._parts.vault.write(
                lambda transaction: task.note(transaction, sources=sorted(run.sources.items())), caller
            )
            with local.host.in_use():
                trained = self._stepped(local, runner, task, run, memories)
            return self._kept(local, task, trained, run.sources, caller)
        finally:
            with self._changing:
                self._run = None
            if task.closing.is_set() and not task.cancelled.is_set():
                run.checkpoint.stays = True
            run.checkpoint.end()

    def _stepped(self, local: LocalModel, runner: Runner, task: Task, run: _Run, memories: Sequence[Memory]) -> Trained:
        """Train on the model's thread; when this is left, nothing of it is there any more but what it gave."""
        from engine.distilling.training import Limits, Trained, plan_for, require_room, training

        header, notes = task.row.header, [note_of(memory) for memory in memories]
        effort = Effort(**header["effort"]) if "effort" in header else self.effort
        limits = Limits(self._settings.lora_minutes, self._settings.lora_bytes, self._settings.data)

        def job(loaded: Any) -> Iterator[Any]:
            rank, steps, seed = (int(header.get(name) or 0) for name in ("rank", "steps", "seed"))
            plan = plan_for(loaded, rank, steps, seed, limits, effort)
            require_room(loaded, plan, limits)
            resident = local.adapters.resident(loaded)
            return training(loaded, resident, f"training-{task.row.id}", notes, plan, run.checkpoint, effort.replayed)

        task.tell(0.0, 1.0, f"{len(notes)} memories")
        try:
            with runner.stream(job, background=True) as results:
                run.end = results.close  # replies may hold up its next step
                task.when_stopped(results.close)
                for item in results:
                    if isinstance(item, Trained):
                        return item
                    if run.changed.is_set():
                        raise _Changed
                    task.tell(item.done, item.total, item.message)
            if run.changed.is_set():
                raise _Changed
            task.tell(task.done, task.total, task.message)  # it was stopped
        finally:
            with contextlib.suppress(MemosError):  # the model was unloaded: nothing is left either
                runner.call(lambda _: None)  # behind the end of what was given up
        raise Conflict("the training ended without a result: train again")

    def _kept(
        self, local: LocalModel, task: Task, trained: Trained, sources: Mapping[str, int], caller: Caller
    ) -> AdapterRow:
        from engine.tiers.lora.store import Made

        header, verdict = task.row.header, trained.verdict
        out = [(id, sources[id], why) for id, why in trained.left_out.items()]
        if not header.get("ids"):
            out += [(id, version, DISPUTED) for id, version in disputed_of(self._parts, task.row.cube).items()]
        made = Made(
            cube=task.row.cube,
            config=trained.config,
            tensors=trained.tensors,
            card=trained.card,
            judged=verdict.judged,
            caller=caller,
            action=task.row.what,
            seconds=trained.distilled.seconds,
            peak_bytes=trained.distilled.peak_bytes,
            subjects=trained.subjects,
            activate=bool(header.get("activate", True)),
            reason=header.get("reason"),
            left_out=tuple(out),
        )
        row = local.adapters.keep(made, lambda transaction, row: task.settle(transaction, _words(row)))
        if row is None:
            raise _Changed
        return row

    def _view(self, local: LocalModel, row: AdapterRow) -> AdapterView:
        fingerprint = local.known.fingerprint if local.known is not None else ""
        return next(one for one in local.adapters.views(row.cube, fingerprint) if one.id == row.artifact)

    def _is_outdated(self, sources: Mapping[str, int], transaction: Transaction) -> bool:
        changed = transaction.invalidated
        if any(changed.get(id, version) != version for id, version in sources.items()):
            return True
        return transaction.cubes_changed and not self._are_current(sources)  # a cube may be gone, with all of its own

    def _are_current(self, sources: Mapping[str, int]) -> bool:
        rows = self._parts.vault.rows(
            "SELECT id, version FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(sources)]
        )
        return dict(rows) == dict(sources)


def _words(row: AdapterRow) -> str:
    """What became of a training."""
    judged = row.header.get("judged") or {}
    sources = row.header.get("sources", ())
    known = sum(bool(one[2]) for one in sources)
    what = {AdapterState.SERVING: "serves", AdapterState.FAILED: "was refused by the gate"}.get(row.state, "rests")
    why = "".join(f"; {one}" for one in judged.get("why", ()))
    left_out = "".join(f"; {one}" for one in left_out_words(row))
    return f"version {row.version} {what}: it knows {known} of {len(sources)} memories{why}{left_out}"


def _check(request: Distil) -> None:
    """Raises `Invalid` for a request outside the bounds."""
    for name, most in (("rank", MAX_RANK), ("steps", MAX_STEPS), ("seed", MAX_SEED)):
        value = getattr(request, name)
        if not 0 <= value <= most:
            raise Invalid(f"{name} is {value}: use 0 to {most}")
    if request.reason is not None:
        check_text(request.reason, "reason", MAX_REASON_CHARS)


def _caller_of(header: Mapping[str, Any]) -> Caller:
    """Who asked for it: what the adapter may be made from is what they may use."""
    return Caller(principal_of(header["principal"]), header["principal"]["client"])
