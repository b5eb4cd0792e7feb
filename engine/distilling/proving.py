"""After an adapter was trained anew: another try where the gate refused it, and questions about what was erased.

The model is asked closed book, and the base model the same: what went should be answered as by the base. An adapter
that answers it otherwise was not held still by its training: it is set aside for another try, and the one that comes
nearest serves when there are no more tries.

What is asked is made of the erased text, so that is held in the memory of the process, for at most an hour and in no
file; a process that ends takes it along, and the work then says that nobody asked. Answers are counted and not kept.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cubes import Memory
from engine.answering.answering import Answering
from engine.answering.notes import note_of
from engine.distilling.opening import opened
from engine.distilling.working import Kind, Task, Working
from engine.embeddings import SYSTEM
from engine.errors import Invalid, MemosError, NotFound
from engine.parts import Parts
from engine.tier_operations import AdapterState, Probed
from engine.tiers.lora.store import AdapterStore
from engine.vault import Transaction
from engine.vault.adapters import AdapterRow, adapters_of
from engine.vault.work import put_work, work_of

HELD_FOR = timedelta(hours=1)
NOBODY = "nobody asked about what was erased: its text is held for an hour, and no longer than the process lives"
MOST_TRIES = 3  # with seeds of their own, of what the gate refuses
NOTHING = "about what was erased nothing can be asked"


@dataclass(frozen=True, slots=True)
class _Held:
    memories: tuple[Memory, ...]
    until: datetime


class Proving:
    """What was erased from adapters that are being trained anew."""

    def __init__(self, parts: Parts, answering: Answering, working: Working) -> None:
        self._parts, self._answering, self._working = parts, answering, working
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}

    def hold(self, erased: Mapping[str, Sequence[Memory]]) -> None:
        """These memories were erased, by the adapters that knew them and served."""
        if self._answering.untrainable() is not None:
            return
        until = self._parts.clock.now() + HELD_FOR
        with self._lock:
            self._held.update({adapter: _Held(tuple(memories), until) for adapter, memories in erased.items()})

    def sweep(self) -> None:
        """Let go of what was held for long enough."""
        now = self._parts.clock.now()
        with self._lock:
            self._held = {adapter: held for adapter, held in self._held.items() if held.until > now}

    def asking_after(self, kind: Kind) -> Kind:
        """The same kind of work, which ends by asking, or asks for another try."""

        def run(task: Task) -> str:
            there = {row.artifact for row in self._rows(task)}
            told = kind.run(task)
            row = self._last(task)
            if row is None or row.state is AdapterState.GONE:
                return told
            if row.state is AdapterState.FAILED:
                told += f"; {self._again(task)}"
            elif "erased" in task.row.header:
                told += f"; {self._proof(task, row, made=row.artifact not in there)}"
            self._note(task, told)
            return told

        return replace(kind, run=run)

    def _proof(self, task: Task, row: AdapterRow, *, made: bool) -> str:
        """Ask what serves; what this work `made` of it is tried again where that is not at the base's level."""
        self.sweep()
        with self._lock:
            held = self._held.get(_adapter_of(task))
        if held is None:
            return NOBODY
        told, otherwise = self._asked(task, row, held.memories)
        if made and otherwise:
            return f"{told}; {self._again(task, row, otherwise)}"
        self._let_go(task)
        return told

    def _let_go(self, task: Task) -> None:
        with self._lock:
            self._held.pop(_adapter_of(task), None)

    def _again(self, task: Task, row: AdapterRow | None = None, otherwise: int = 0) -> str:
        """Ask for another try of what the gate refused (None), or of what answers so many questions `otherwise`."""
        header = task.row.header
        tries, nearest = int(header.get("tries", 1)), header.get("nearest")
        if row is not None and (nearest is None or otherwise < nearest[1]):
            nearest = [row.version, otherwise]
        if tries >= MOST_TRIES:
            self._let_go(task)
            last = f"that was the last of {tries} tries"
            if nearest is None:
                return f"{last}: what it knew is read as text from now on"
            return f"{last}, and none answers all that as the model without it: {self._back(task, nearest[0])}"
        if row is not None and (adapters := self._adapters()).serving(task.row.cube) == row:
            adapters.activate(task.row.cube, None, SYSTEM, "it is not as the model without it about what was erased")
        kept = {name: value for name, value in header.items() if name not in ("sources", "told")}
        more = {**kept, "seed": int(header.get("seed", 0)) + 1, "tries": tries + 1}
        more |= {} if nearest is None else {"nearest": nearest}
        self._parts.vault.write(
            lambda transaction: self._working.ask(transaction, task.row.what, task.row.cube, more), SYSTEM
        )
        return "it is tried once more with another seed"

    def _back(self, task: Task, version: int) -> str:
        """Have the version serve that came nearest to the base, as the gate let it."""
        try:
            self._adapters().activate(task.row.cube, version, SYSTEM, "of all tries it comes nearest")
        except MemosError as error:
            return f"version {version}, which comes nearest, cannot serve ({error})"
        return f"version {version}, which comes nearest, serves"

    def _adapters(self) -> AdapterStore:
        return self._answering.for_training(SYSTEM)[0].adapters

    def _rows(self, task: Task) -> list[AdapterRow]:
        with self._parts.vault.reading() as connection:
            return adapters_of(connection, task.row.cube)

    def _last(self, task: Task) -> AdapterRow | None:
        """The version that serves by now; if none does, the last one."""
        rows = self._rows(task)
        return next((row for row in rows if row.state is AdapterState.SERVING), rows[-1] if rows else None)

    def _asked(self, task: Task, row: AdapterRow, memories: Sequence[Memory]) -> tuple[str, int]:
        """What came of asking, and how many answers are not those of the base."""
        from engine.distilling.probes import probed

        try:
            model = opened(self._answering, SYSTEM)
            notes = [note_of(memory) for memory in memories]
            found = model.do(lambda loaded: probed(loaded, model.adapters, (None, row), notes), task.tell)
        except (Invalid, NotFound):
            return NOTHING, 0
        except MemosError as error:
            return f"{NOTHING} now: {error}", 0
        return _counted(found) if found else (NOTHING, 0)

    def _note(self, task: Task, told: str) -> None:
        """Say so in the work, which was settled when its adapter was kept."""

        def job(transaction: Transaction) -> None:
            row = work_of(transaction.connection, task.row.id)
            if row is not None:
                put_work(transaction, replace(row, header={**row.header, "told": told}))

        self._parts.vault.write(job, SYSTEM)


def _counted(found: Sequence[Probed]) -> tuple[str, int]:
    """What is to be said of the answers, and how many of them are not at the base's level."""
    from engine.distilling.probes import alike

    after, before = sum(one.right_after for one in found), sum(one.right_before for one in found)
    apart = [one for one in found if not (one.right_after and one.right_before) and not alike(one.before, one.after)]
    wrong = sum(not one.right_after for one in apart)
    told = (
        f"of {len(found)} questions about what was erased it answers {after} rightly and {wrong} otherwise than the "
        f"model without it, which answers {before} rightly"
    )
    return told, len(apart)


def _adapter_of(task: Task) -> str:
    """The adapter in whose place one is trained."""
    return str(task.row.header.get("instead"))
