"""Taking back what the scheduler did, by the number of the move's row in the audit log.

What was archived lives again, what was fused is apart again, a cache that was built is dropped, one that was dropped is
built, what was loaded is let go, and an adapter that was trained makes way for the one before it. The scheduler then
leaves these memories alone for the window of what was undone.

What must stay true: a move is undone once; what cannot be undone any more says why and changes nothing; the undoing is
a row of its own, by whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cubes import State
from engine import history
from engine.errors import Conflict, MemosError, NotFound, Unavailable
from engine.lifecycle.states import LIVE
from engine.operations import Caller
from engine.parts import Parts
from engine.scheduler.moves import Level, Part
from engine.scheduling.caches import CacheTier
from engine.scheduling.executing import Executor
from engine.scheduling.log import MARK, NAMES, rows, shown
from engine.scheduling.noting import cross
from engine.tier_operations import Scheduled
from engine.vault import Transaction, queries
from engine.vault.audit import AuditRow

LEVELS = {name: level for level, name in NAMES.items()}


class Undoing:
    """Used by one thread at a time."""

    def __init__(self, parts: Parts, caches: CacheTier, executor: Executor) -> None:
        self._parts, self._caches, self._executor = parts, caches, executor

    def undo(self, number: int, caller: Caller) -> Scheduled:
        """Take back one move.

        Raises:
            NotFound: no move has that number.
            Conflict: it is undone already, or nothing of it is left to undo.
            Unavailable: it takes a model that is not loaded.
        """
        row = self._row(number)
        what = shown(row)
        ways: dict[tuple[str, str], Callable[[AuditRow, Caller], tuple[str, Sequence[str]]]] = {
            (Part.ARCHIVE.value, NAMES[Level.ARCHIVED]): self._restore,
            (Part.CONSOLIDATE.value, "fused"): self._take_apart,
            (Part.KV.value, NAMES[Level.KV]): self._drop,
            (Part.KV.value, NAMES[Level.TEXT]): self._build,
            (Part.PRELOAD.value, NAMES[Level.RAM]): self._let_go,
            (Part.PRELOAD.value, NAMES[Level.KV]): self._hold,
            (Part.LORA.value, NAMES[Level.LORA]): self._untrain,
            (Part.LORA.value, NAMES[Level.TEXT]): self._serve_again,
        }
        way = ways.get((what.part, what.to))
        if way is None or what.outcome.startswith("refused"):
            raise Conflict(f"row {number} cannot be undone: {what.undo or what.outcome}")
        to, ids = way(row, caller)
        detail: dict[str, Any] = {MARK: True, "part": what.part, "to": to, "outcome": "done", "undo_of": number}
        reason = f"undone: {what.reason}"

        def job(transaction: Transaction) -> int:
            if what.part in (Part.KV.value, Part.LORA.value, Part.ARCHIVE.value):
                up = LEVELS.get(to, Level.TEXT) > LEVELS.get(what.to, Level.TEXT)
                cross(transaction, ids, {_boundary(what): up})
            return transaction.audit("move", what.cube, list(ids), reason=reason, **detail)

        made = self._parts.vault.write(job, caller)
        return Scheduled(
            made, self._parts.clock.now(), what.part, what.cube, tuple(ids), to, reason, f"undid row {number}", ""
        )

    def _row(self, number: int) -> AuditRow:
        with self._parts.vault.reading() as connection:
            for row in rows(connection):
                if row.seq == number and "undo_of" not in row.detail:
                    return row
                if row.detail.get("undo_of") == number:
                    raise Conflict(f"move {number} is undone already, by row {row.seq}")
                if row.seq < number:
                    break
        raise NotFound(f"the scheduler made no move {number}: `memos-mcp scheduler log` lists them")

    # --- the vault -------------------------------------------------------------------------------------------------

    def _restore(self, row: AuditRow, caller: Caller) -> tuple[str, Sequence[str]]:
        return NAMES[Level.TEXT], self._revived(row, caller, State.ARCHIVED)

    def _take_apart(self, row: AuditRow, caller: Caller) -> tuple[str, Sequence[str]]:
        self._revived(row, caller, State.MERGED)
        return "apart", row.ids

    def _revived(self, row: AuditRow, caller: Caller, state: State) -> list[str]:
        """What is still in that state as it was before; long texts first, which bring their pieces with them."""
        with self._parts.vault.reading() as connection:
            found = queries.records(connection, list(row.ids))
        order = sorted(found.values(), key=lambda record: (not record.memory.descriptive.parts, record.label))
        done: list[str] = []
        for record in order:
            id = record.memory.id
            with self._parts.vault.reading() as connection:
                versions = queries.versions(connection, id)
            if not versions or versions[-1].memory.state is not state:
                if versions and versions[-1].memory.state in LIVE and done:
                    done.append(id)  # it came back with another one
                continue
            before = next((old.memory.version for old in reversed(versions) if old.memory.state in LIVE), None)
            if before is not None:
                history.restore(self._parts, id, before, caller, f"undoing move {row.seq} of the scheduler")
                done.append(id)
        if not done:
            raise Conflict(f"nothing of move {row.seq} is {state.value} any more: there is nothing to undo")
        return done

    # --- caches ----------------------------------------------------------------------------------------------------

    def _drop(self, row: AuditRow, caller: Caller) -> tuple[str, Sequence[str]]:
        self._caches.drop(row.ids, lambda transaction: None)
        return NAMES[Level.TEXT], row.ids

    def _build(self, row: AuditRow, caller: Caller) -> tuple[str, Sequence[str]]:
        self._caches.build(row.ids)
        return NAMES[Level.KV], row.ids

    def _let_go(self, row: AuditRow, caller: Caller) -> tuple[str, Sequence[str]]:
        gone = self._caches.let_go(row.ids)
        self._executor.note_crossing(row.ids, [Level.RAM], self._parts.clock.now(), up=False)
        return NAMES[Level.KV], gone or row.ids

    def _hold(self, row: AuditRow, caller: Caller) -> tuple[str, Sequence[str]]:
        there = self._caches.hold(row.ids)
        self._executor.note_crossing(row.ids, [Level.RAM], self._parts.clock.now(), up=True)
        return NAMES[Level.RAM], there or row.ids

    # --- adapters --------------------------------------------------------------------------------------------------

    def _untrain(self, row: AuditRow, caller: Caller) -> tuple[str, Sequence[str]]:
        """End the training, or have the version before it serve again."""
        training = self._executor.training
        if training is None:
            raise Unavailable("nothing can train here: adapters are seen to with `memos-mcp tier adapters`")
        if not training.cancel(str(row.detail["work"])):
            self._activate(row)
        return NAMES[Level.TEXT], row.ids

    def _serve_again(self, row: AuditRow, caller: Caller) -> tuple[str, Sequence[str]]:
        self._activate(row)
        return NAMES[Level.LORA], row.ids

    def _activate(self, row: AuditRow) -> None:
        training, before = self._executor.training, int(row.detail.get("before", 0))
        if training is None:
            raise Unavailable("adapters cannot be seen here: a local model is needed")
        try:
            training.activate(row.cube, before or None, f"undoing move {row.seq} of the scheduler")
        except MemosError as error:
            raise Conflict(f"move {row.seq} cannot be undone: {error}") from error


def _boundary(what: Scheduled) -> Level:
    """What was crossed."""
    return {Part.KV.value: Level.KV, Part.LORA.value: Level.LORA}.get(what.part, Level.TEXT)
