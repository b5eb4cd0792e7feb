"""After an adapter was trained anew: another try where the gate refused it, and questions about what was erased.

The model is asked closed book, and the base model the same: what went should be answered no better than by the base.
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
from engine.tier_operations import AdapterState
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
            told = kind.run(task)
            row = self._last(task)
            if row is None or row.state is AdapterState.GONE:
                return told
            if row.state is AdapterState.FAILED:
                told += self._again(task)
            elif "erased" in task.row.header:
                told += f"; {self._proof(task, row)}"
            self._note(task, told)
            return told

        return replace(kind, run=run)

    def _proof(self, task: Task, row: AdapterRow) -> str:
        self.sweep()
        with self._lock:
            held = self._held.pop(str(task.row.header.get("instead")), None)
        return NOBODY if held is None else self._asked(task, row, held.memories)

    def _again(self, task: Task) -> str:
        """Ask for another try of what the gate refused."""
        header = task.row.header
        tries = int(header.get("tries", 1))
        if tries >= MOST_TRIES:
            return f"; that was the last of {tries} tries: what it knew is read as text from now on"
        kept = {name: value for name, value in header.items() if name not in ("sources", "told")}
        more = {**kept, "seed": int(header.get("seed", 0)) + 1, "tries": tries + 1}
        self._parts.vault.write(
            lambda transaction: self._working.ask(transaction, task.row.what, task.row.cube, more), SYSTEM
        )
        return "; it is tried once more with another seed"

    def _last(self, task: Task) -> AdapterRow | None:
        """The version that serves by now; if none does, the last one."""
        with self._parts.vault.reading() as connection:
            rows = adapters_of(connection, task.row.cube)
        return next((row for row in rows if row.state is AdapterState.SERVING), rows[-1] if rows else None)

    def _asked(self, task: Task, row: AdapterRow, memories: Sequence[Memory]) -> str:
        from engine.distilling.probes import probed

        try:
            model = opened(self._answering, SYSTEM)
            notes = [note_of(memory) for memory in memories]
            found = model.do(lambda loaded: probed(loaded, model.adapters, (None, row), notes), task.tell)
        except (Invalid, NotFound):
            return NOTHING
        except MemosError as error:
            return f"{NOTHING} now: {error}"
        after, before = sum(one.right_after for one in found), sum(one.right_before for one in found)
        return (
            f"of {len(found)} questions about what was erased it answers {after} rightly, and the base model {before}"
            if found
            else NOTHING
        )

    def _note(self, task: Task, told: str) -> None:
        """Say so in the work, which was settled when its adapter was kept."""

        def job(transaction: Transaction) -> None:
            row = work_of(transaction.connection, task.row.id)
            if row is not None:
                put_work(transaction, replace(row, header={**row.header, "told": told}))

        self._parts.vault.write(job, SYSTEM)
