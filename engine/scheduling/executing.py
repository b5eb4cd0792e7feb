"""Carries out what the plan says, move by move, each with its row in the audit log.

What changes the vault is written in one transaction with its row. What only loads or lets go of a cache is done at once
and told of in batches: one row for what went into RAM, one for what left it, with the reason of each memory. Building a
cache and training an adapter are asked for here and done in the background; a cache is told of when it is built.

What must stay true: what is pinned or frozen by now is not moved, whatever the plan was made from; a move that is
refused is told of, too, and is not tried again within its window; a row holds ids and reasons, and no content.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from engine.embeddings import SYSTEM
from engine.errors import MemosError, Unavailable
from engine.lifecycle.states import LIVE, Step, state_after
from engine.parts import Parts
from engine.scheduler.moves import WINDOW_S, Crossing, Level, Move, Part, Unit, boundaries_between
from engine.scheduling.caches import CacheTier
from engine.scheduling.log import MARK, NAMES, UNDO
from engine.scheduling.noting import cross
from engine.tier_operations import Distil, Scheduled
from engine.vault import Transaction

MOST_IN_A_ROW = 200  # memories
MOST_ASKED = 1_000  # caches that are to be built
LATELY = timedelta(seconds=WINDOW_S[Level.KV])  # crossings that only this process knows of are kept for so long
BY_REPLIES = "a reply went without its KV cache"


class Training(Protocol):
    """Who trains and serves adapters."""

    def train(self, request: Distil) -> str:
        """Have an adapter trained in the background; the id of the work."""

    def cancel(self, work: str) -> bool:
        """End that work, if it has not ended; whether it had not."""

    def serving(self, cube: str) -> int:
        """The version that serves a cube; 0: none."""

    def activate(self, cube: str, version: int | None, reason: str) -> None:
        """Have that version serve, or none."""


@dataclass(slots=True)
class _Told:
    """What was done and not written yet: why, by memory."""

    at: datetime
    part: Part
    to: Level
    whys: dict[str, str] = field(default_factory=dict)


class Executor:
    """One thread at a time carries out; `built` is called on others."""

    def __init__(self, parts: Parts, caches: CacheTier, training: Training | None) -> None:
        self._parts, self._caches, self.training = parts, caches, training
        self._waiting: list[_Told] = []
        self._asked: dict[str, str] = {}  # caches that are to be built, and why
        self._lately: dict[str, dict[Level, Crossing]] = {}
        self._lock = threading.Lock()
        caches.when_built(self.built)

    # --- windows ---------------------------------------------------------------------------------------------------

    def lately(self, now: datetime) -> dict[str, tuple[Crossing, ...]]:
        """Crossings of which only this process knows: of RAM, and of what was refused."""
        with self._lock:
            for id, crossings in list(self._lately.items()):
                fresh = {level: one for level, one in crossings.items() if now - one.at <= LATELY}
                if fresh:
                    self._lately[id] = fresh
                else:
                    del self._lately[id]
            return {id: tuple(crossings.values()) for id, crossings in self._lately.items()}

    def note_crossing(self, ids: Iterable[str], levels: Iterable[Level], now: datetime, *, up: bool) -> None:
        with self._lock:
            for id in ids:
                self._lately.setdefault(id, {}).update({level: Crossing(level, now, up) for level in levels})

    # --- moves -----------------------------------------------------------------------------------------------------

    def carry_out(self, moves: Sequence[Move], units: Mapping[str, Unit], now: datetime) -> list[Scheduled]:
        """Do these in their order; what became of each. What only loads is told of as one."""
        done: list[Scheduled] = []
        levels = {id: unit.level for id, unit in units.items()}
        for move in moves:
            start = levels[move.ids[0]]
            levels.update(dict.fromkeys(move.ids, move.to))
            try:
                done += self._one(move, start, units, now)
            except MemosError as error:
                self.note_crossing(move.ids, boundaries_between(start, move.to), now, up=move.to < start)
                outcome = f"refused: {error}"
                number = self._parts.vault.write(lambda t, m=move, o=outcome: _row(t, m, o), SYSTEM)  # type: ignore[misc]
                done.append(scheduled(move, number, now, outcome))
        return done + self.flush()

    def load(self, moves: Sequence[Move], now: datetime) -> None:
        """Hold ready and let go, and nothing else; told of with the next run."""
        for move in moves:
            self._load(move, now)

    def _one(self, move: Move, start: Level, units: Mapping[str, Unit], now: datetime) -> list[Scheduled]:
        if move.part is Part.ARCHIVE:
            return self._archive(move, now)
        if move.part is Part.LORA:
            return [self._train(move, units, now) if move.to is Level.LORA else self._retire(move, now)]
        if move.to is Level.TEXT:
            return [self._drop(move, now)]
        if start is Level.TEXT:
            self._build(move, now)
            return []
        self._load(move, now)
        return []

    def _archive(self, move: Move, now: datetime) -> list[Scheduled]:
        def job(transaction: Transaction) -> tuple[int, tuple[str, ...]]:
            records = transaction.records(move.ids)
            if any(r.memory.governance.pinned or r.memory.governance.frozen for r in records.values()):
                return 0, ()
            live = [record for record in records.values() if record.memory.state in LIVE]
            if not live:
                return 0, ()
            ids = tuple(record.memory.id for record in live)
            revision = _row(transaction, replace(move, ids=ids), "done")
            moved = [(r, replace(r.memory, state=state_after(r.memory, Step.ARCHIVE))) for r in live]
            transaction.revise_all(moved, "archive", revision, reason=move.reason)
            cross(transaction, ids, {Level.TEXT: False})
            return revision, ids

        number, ids = self._parts.vault.write(job, SYSTEM)
        return [scheduled(replace(move, ids=ids), number, now, "done")] if number else []

    def _drop(self, move: Move, now: datetime) -> Scheduled:
        def told(transaction: Transaction) -> int:
            cross(transaction, move.ids, {Level.KV: False})
            return _row(transaction, move, "done")

        return scheduled(move, self._caches.drop(move.ids, told), now, "done")

    def _build(self, move: Move, now: datetime) -> None:
        """Have a cache built when the model has nothing else to do; it is told of when it is there."""
        with self._lock:
            self._asked.update(dict.fromkeys(move.ids, move.reason))
            while len(self._asked) > MOST_ASKED:  # of which nothing was heard again
                del self._asked[next(iter(self._asked))]
        # It may come to nothing: not asked for again within the window.
        self.note_crossing(move.ids, [Level.KV], now, up=False)
        self._caches.build(move.ids)

    def _load(self, move: Move, now: datetime) -> None:
        up = move.to > Level.KV
        there = self._caches.hold(move.ids) if up else self._caches.let_go(move.ids)
        self.note_crossing(move.ids, [Level.RAM], now, up=up if there else not up)
        self._tell(Part.PRELOAD, move.to, dict.fromkeys(there, move.reason), now)

    def _train(self, move: Move, units: Mapping[str, Unit], now: datetime) -> Scheduled:
        """Have these trained, with all that the cube's adapter knows already: there is one adapter of a cube."""
        training = self._trainer()
        before = training.serving(move.cube)
        known = {id for id, unit in units.items() if unit.cube == move.cube and unit.level is Level.LORA}
        ids = tuple(sorted({*move.ids, *known}))
        work = training.train(Distil(move.cube, ids, background=True, reason=move.reason))
        outcome = f"begun: {work}"

        def job(transaction: Transaction) -> int:
            cross(transaction, move.ids, {Level.LORA: False})  # what is not learned is not trained again at once
            return _row(transaction, move, outcome, work=work, before=before)

        return scheduled(move, self._parts.vault.write(job, SYSTEM), now, outcome)

    def _retire(self, move: Move, now: datetime) -> Scheduled:
        training = self._trainer()
        before = training.serving(move.cube)
        training.activate(move.cube, None, move.reason)

        def job(transaction: Transaction) -> int:
            cross(transaction, move.ids, {Level.LORA: False})
            return _row(transaction, move, "done", before=before)

        return scheduled(move, self._parts.vault.write(job, SYSTEM), now, "done")

    def _trainer(self) -> Training:
        if self.training is None:
            raise Unavailable("nothing can train here: a local model is needed (see `memos-mcp doctor`)")
        return self.training

    # --- telling ---------------------------------------------------------------------------------------------------

    def built(self, ids: Sequence[str]) -> None:
        """KV caches of these memories were built in the background."""
        now = self._parts.clock.now()
        with self._lock:
            whys = {id: self._asked.pop(id, BY_REPLIES) for id in ids}
        self._tell(Part.KV, Level.KV, whys, now)

    def _tell(self, part: Part, to: Level, whys: Mapping[str, str], now: datetime) -> None:
        with self._lock:
            last = next((told for told in self._waiting if (told.part, told.to) == (part, to)), None)
            if last is None or len(last.whys) + len(whys) > MOST_IN_A_ROW:
                last = _Told(now, part, to)
                self._waiting.append(last)
            last.at = now
            last.whys.update(whys)

    def flush(self) -> list[Scheduled]:
        """Write the rows of what was only told so far."""
        with self._lock:
            waiting, self._waiting = [told for told in self._waiting if told.whys], []
        if not waiting:
            return []

        def job(transaction: Transaction) -> list[Scheduled]:
            done = []
            for told in waiting:
                ids = tuple(sorted(told.whys))
                move = Move(told.part, ids, "", told.to, _summary(told.whys))
                number = _row(transaction, move, "done", whys=told.whys)
                if told.part is Part.KV:
                    cross(transaction, ids, {Level.KV: True})
                done.append(scheduled(move, number, told.at, "done"))
            return done

        done = self._parts.vault.write(job, SYSTEM)
        for told in waiting:
            if told.part is Part.KV:
                with self._lock:
                    for id in told.whys:
                        self._lately.get(id, {}).pop(Level.KV, None)  # the vault knows better now
        return done


def _summary(whys: Mapping[str, str]) -> str:
    reasons = list(dict.fromkeys(whys.values()))
    more = f", and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}"


def _row(transaction: Transaction, move: Move, outcome: str, **detail: object) -> int:
    """The row of a move in the audit log; its number.

    What only loads is about no cube: no cube changed, and nobody who watches one is to be woken.
    """
    told: dict[str, Any] = {MARK: True, "part": move.part.value, "to": NAMES[move.to], "outcome": outcome, **detail}
    return transaction.audit("move", move.cube, move.ids, reason=move.reason, **told)


def scheduled(move: Move, number: int, at: datetime | None, outcome: str) -> Scheduled:
    """A move as it is shown."""
    undo = UNDO.format(number) if number and not outcome.startswith("refused") else ""
    return Scheduled(number, at, move.part.value, move.cube, move.ids, NAMES[move.to], move.reason, outcome, undo)
