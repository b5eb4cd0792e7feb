"""One piece of work of a reader: window by window, from what the model says to what is stored.

What must stay true: what was drawn from a window is stored once, with how far the work is; nothing is stored of a turn
that was changed or forgotten meanwhile, or by anybody's right but that of who stored the turns.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cubes import Memory, Sensitivity
from engine.comparing import Prepared, alike, prepare
from engine.distilling.askers import principal_of, still_writable
from engine.distilling.working import OPEN, Task
from engine.errors import Busy, Cancelled, Invalid, TooLarge, Unavailable
from engine.lifecycle.states import LIVE, is_expired
from engine.operations import Caller, Remember, Stored, silent
from engine.parts import Parts, seen_in
from engine.reader import Draft
from engine.reader.extraction import Asker, Unreadable, drawn_from
from engine.reader.settling import draft_of, replaces, with_views
from engine.reader.turns import CONTEXT_TURNS, Said, Window, is_read, may_be_sent, windows
from engine.remembering import embedded_of
from engine.storing import Storing
from engine.vault import Transaction, queries
from engine.vault.rows import Record
from engine.vault.work import work_of

CLIENT = "reader"  # through which facts come in, for the audit log
ALIKE = 3  # memories that a fact is compared with by the model


class Trouble(Exception):
    """The reader cannot be asked, and why: its work waits until it can."""


@dataclass(slots=True)
class Outcome:
    """What became of a piece of work, for who waits for it."""

    facts: tuple[Stored, ...] = ()
    told: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    noted: threading.Event | None = None  # set when the record of the work says so, too


class Reading:
    """One attempt at one piece of work."""

    def __init__(self, parts: Parts, task: Task, asker: Asker, outcome: Outcome) -> None:
        header = task.row.header
        self._parts, self._task, self._asker, self._outcome = parts, task, asker, outcome
        self._cube, self._turns, self._next = task.row.cube, list(header["turns"]), int(header["next"])
        self._counts = Counter(header["counts"])
        self._unshown: Counter[str] = Counter()
        self._caller = Caller(principal_of(header["who"]), CLIENT)

    def run(self) -> str:
        """Read window by window from where it is; what became of it, in words.

        Raises:
            NotAllowed: who stored the turns may not write to their cube any more.
        """
        waiting = list(self._windows())
        while waiting:
            window = waiting.pop(0)
            still_writable(self._parts, self._cube, self._caller)  # nothing is sent by a right that was taken away
            self._task.tell(self._place(window.turns[0].id), len(self._turns), "drawing facts")
            try:
                drafts = self._drafts(window)
            except (TooLarge, Unreadable):
                if len(window.turns) > 1:
                    waiting[:0] = window.halves()
                    continue
                self._counts["unread"] += 1
                drafts = []
            self._keep(drafts, self._place(window.turns[-1].id) + 1)
        self._task.tell(len(self._turns), len(self._turns), "facts are drawn")
        return self._told()

    def _stopped(self) -> bool:
        return self._task.closing.is_set() or self._task.cancelled.is_set()

    def _place(self, id: str) -> int:
        return self._turns.index(id)

    def _windows(self) -> Sequence[Window]:
        """What is still to be read; of the first, with the turns before it."""
        with self._parts.vault.reading() as connection:
            found = queries.records(connection, self._turns)
        allowed = [id for id in self._turns if id in found and self._may_read(found[id].memory)]
        self._unshown = Counter(gone=len(self._turns) - len(found), withheld=len(found) - len(allowed))
        readable = [found[id].memory for id in allowed if self._place(id) >= self._next]
        made = list(windows(readable))
        return [replace(made[0], before=self._before(readable[0])), *made[1:]] if made else []

    def _may_read(self, memory: Memory) -> bool:
        now, guarded = self._parts.clock.now(), memory.governance.sensitivity is Sensitivity.SECRET
        there = memory.cube == self._cube and memory.state in LIVE and not is_expired(memory, now)
        return there and is_read(memory) and may_be_sent(memory) and (self._asker.private or not guarded)

    def _before(self, first: Memory) -> tuple[Said, ...]:
        """The turns before the first one of its conversation."""
        seen = seen_in(self._parts, self._cube, self._caller)
        before: list[Said] = []
        with self._parts.vault.reading() as connection:
            memory = first
            while len(before) < CONTEXT_TURNS:
                id, _ = queries.neighbours(connection, memory, seen)
                found = None if id is None else queries.records(connection, [id]).get(id)
                if found is None or not self._may_read(found.memory):
                    break
                memory = found.memory
                before.insert(0, Said(memory))
        return tuple(before)

    def _drafts(self, window: Window) -> list[Draft]:
        try:
            drawn, refused = drawn_from(self._asker, window, self._stopped)
            drafts = [draft_of(one, self._asker.name) for one in drawn]
            drafts = with_views(self._asker, drafts, self._alike(drafts), self._stopped)
        except TooLarge:
            raise
        except (Unavailable, Busy, Invalid) as error:  # Invalid: it refuses the request, as its settings are wrong
            self._task.tell(self._task.done, self._task.total, self._task.message)  # raises where the store is closing
            raise Trouble(str(error)) from error
        self._counts["refused"] += refused
        return drafts

    def _alike(self, drafts: Sequence[Draft]) -> list[dict[str, str]]:
        """For each draft what is most like it among what is known, and may be told to the model."""
        seen = seen_in(self._parts, self._cube, self._caller)
        if not self._asker.private:
            seen -= {Sensitivity.SECRET}
        ids = [alike(self._parts, self._cube, draft, seen)[:ALIKE] for draft in drafts]
        with self._parts.vault.reading() as connection:
            found = queries.records(connection, list(dict.fromkeys(id for some in ids for id in some)))
        told = {id: record.memory.content for id, record in found.items() if may_be_sent(record.memory)}
        return [{id: told[id] for id in some if id in told} for some in ids]

    # --- keeping -------------------------------------------------------------------------------------------------

    def _keep(self, drafts: Sequence[Draft], reached: int) -> None:
        """Store what was drawn from a window, and how far it is, in one transaction."""
        known_until = self._parts.vault.revision
        prepared = prepare(self._parts, self._cube, drafts, seen_in(self._parts, self._cube, self._caller))
        vectors = list(embedded_of(self._parts, drafts, silent)) if drafts else []
        before = self._counts

        def job(transaction: Transaction) -> tuple[list[Stored], Counter[str]]:
            if work_of(transaction.connection, self._task.row.id, OPEN) is None:
                raise Cancelled(f"{self._task.row.id} was cancelled: what was drawn before stays")
            counts, stored = Counter(before), list[Stored]()
            answers: dict[int, Stored] = {}
            for number, item in enumerate(prepared):
                if not _still_said(transaction, item.draft):
                    counts["gone"] += 1
                    continue
                mine = [(fingerprint, [rows[number]]) for fingerprint, rows in vectors]
                request = Remember(cube=self._cube)
                one = _alone(item, answers)
                storing = Storing(
                    self._parts, request, transaction, [one], mine, known_until, settles=_settles(transaction)
                )
                answers[number] = storing.run().stored[0]
                counts[answers[number].status.value] += 1
                stored.append(answers[number])
            self._task.note(transaction, next=reached, counts=dict(counts))
            return stored, counts

        stored, self._counts = self._parts.vault.write(job, self._caller)
        self._outcome.facts += tuple(stored)

    def _told(self) -> str:
        counts = self._counts + self._unshown
        made = sum(counts[name] for name in ("added", "superseding", "conflict"))
        words = [f"{made} facts were drawn from {len(self._turns)} turns"]
        for name, what in (
            ("superseding", "of them replace what the same speaker said before"),
            ("conflict", "of them contradict what is known, and both are kept"),
            ("duplicate", "more were known already"),
            ("refused", "statements of the reader were left out: the turns do not bear them out"),
            ("unread", "turns could not be read: the reader's answer was not in the form that was asked for"),
            (
                "withheld",
                "turns were not shown to the reader (secret, forgotten, or said by neither person nor assistant)",
            ),
            ("gone", "were changed or forgotten meanwhile"),
        ):
            if counts[name]:
                words.append(f"{counts[name]} {what}")
        return "; ".join(words)


def _alone(item: Prepared, answers: Mapping[int, Stored]) -> Prepared:
    """A prepared draft that is stored by itself: those beside it that it repeats or contradicts have ids by now."""
    same = {answers[n].id: answers[n].version for n in item.same_here if n in answers}
    rivals = {answers[n].id: answers[n].version for n in item.rivals_here if n in answers}
    return Prepared(item.draft, item.key, {**item.same, **same}, {**item.rivals, **rivals})


def _still_said(transaction: Transaction, draft: Draft) -> bool:
    """Whether all turns that a draft was drawn from are what they were."""
    found = transaction.records(id for id, _ in draft.drawn_from)
    return all(
        id in found
        and found[id].memory.version == version
        and found[id].memory.state in LIVE
        and not is_expired(found[id].memory, transaction.now)
        for id, version in draft.drawn_from
    )


def _settles(transaction: Transaction) -> Callable[[Draft, Record], bool]:
    author = transaction.caller.principal.name

    def settles(draft: Draft, rival: Record) -> bool:
        return rival.author == author and replaces(draft, rival.memory)

    return settles
