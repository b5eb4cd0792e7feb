"""Drawing: facts, preferences and events out of conversations, by a reader model, after the turns are stored.

    turns stored, work `read` noted (one transaction) → acknowledged → window by window: model → what turns bear out →
    compared with what is known → one transaction (facts, lineage to their turns, how far it is)

What must stay true: no turn waits for a model, and none is lost when it fails: the work stays and is tried again. What
was drawn from a window is stored once, however often the process dies. Nothing is drawn from a turn that was changed or
forgotten meanwhile, and nothing is drawn where no reader is configured. Facts are stored by the right of who stored the
turns. Where the reader is, and why it fails, is told to the owner alone. It imports no torch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from cubes import Action
from engine.answering.answering import Answering
from engine.answering.asking import LocalAsker
from engine.distilling.askers import plain_principal
from engine.distilling.working import OPEN, Kind, Task, Working
from engine.drawing.reading import Outcome, Reading, Trouble
from engine.errors import Busy, Cancelled, Invalid, MemosError, Unavailable
from engine.governance.access import clearance, require
from engine.model.remote import UNNAMED, is_remote, shown_server
from engine.operations import Caller, Facts, Progress, Remember, Remembered, Stored, silent
from engine.parts import Parts, readable_cubes
from engine.reader import Draft
from engine.reader.endpoint import Endpoint
from engine.reader.extraction import Asker
from engine.remembering import Noting, is_new_turn
from engine.tier_operations import WorkState, WorkView
from engine.vault import Transaction, queries
from engine.vault.work import open_work, put_work, waiting_work

READ = "read"  # the kind of work
LOCAL = "model"  # the reader of the settings that is the local model
MOST_UNASKED_TURNS = 500  # of a conversation: from more, facts are drawn only if that is asked for
MOST_TURNS = 200  # of one piece of work to which turns are added while it waits
LOOKED_AT = 8  # pieces that wait, for one with room
FIRST_PAUSE_S, LONGEST_PAUSE_S = 15.0, 3_600.0  # after a reader failed: doubled each time
NO_READER = (
    "no reader is configured: set MEMOS_READER to `model`, or to the URL of an OpenAI-compatible server, before the "
    "daemon starts (one that runs: memos-mcp stop)"
)
UNREACHED = "the reader cannot be reached"  # all that anybody but the owner hears of why
WAIT_STEP_S, NOTED_S = 0.2, 10.0
log = logging.getLogger(__name__)


class Drawing:
    """The reader of one store, and the work that waits for it."""

    def __init__(self, parts: Parts, answering: Answering, beside: Working | None = None) -> None:
        self._parts, self._answering, self._settings = parts, answering, parts.vault.settings
        self.working = Working(parts, beside)
        self.working.kinds[READ] = Kind(self._read, self._waits)
        self._lock = threading.Lock()
        self._asker: Asker | None = None
        self._awaited: dict[str, Outcome] = {}
        self._trouble = ""  # why the reader failed last; empty: it did not
        self._pause_s, self._not_before = FIRST_PAUSE_S, 0.0

    @property
    def on(self) -> bool:
        """Whether a reader is configured."""
        return bool(self._settings.reader)

    def start(self) -> None:
        """Begin to do what waits, if there is a reader."""
        if self.on:
            self.working.start()

    def close(self) -> None:
        """End what runs; it goes on with the next process."""
        self.working.close()

    def standing(self) -> str | None:
        """The reader and how it stands, in words for the owner; None: none is configured."""
        reader = self._settings.reader
        if not reader:
            return None
        with self._lock:
            trouble = self._trouble
        name = "the local model" if reader == LOCAL else f"{shown_server(reader)} (a server)"
        return f"{name}: {trouble}" if trouble else name

    # --- asking for it -------------------------------------------------------------------------------------------

    def noting(self, facts: Facts | None, caller: Caller, turns: int = 0) -> Noting | None:
        """What notes, with turns that are stored, that they are to be read; None: they are not."""
        if not self.on or facts is Facts.NONE or (facts is None and turns > MOST_UNASKED_TURNS):
            return None

        def note(transaction: Transaction, drafts: Sequence[Draft], stored: Sequence[Stored]) -> str | None:
            new = [answer.id for draft, answer in zip(drafts, stored, strict=True) if is_new_turn(draft, answer)]
            if not new:
                return None
            ((cube,),) = transaction.rows("SELECT cube FROM memories WHERE id = ?", [new[0]])
            alone = facts is Facts.WAIT and self._waits() is None  # its facts are in the answer, and no others
            work = self._noted(transaction, cube, new, caller, alone=alone)
            if alone:  # from the first: it may be over before the answer is there
                with self._lock:
                    self._awaited[work] = Outcome()
            return work

        return note

    def noting_asked(self, caller: Caller) -> Noting:
        """As `noting`, for who asks for facts in so many words.

        Raises:
            Unavailable: there is no reader.
        """
        noting = self.noting(Facts.LATER, caller)
        if noting is None:
            raise Unavailable(NO_READER)
        return noting

    def read(self, cube: str, caller: Caller) -> WorkView | None:
        """Have facts drawn from the turns of a cube that nothing was drawn from; None: there are none.

        Raises:
            Unavailable: there is no reader. NotFound, NotAllowed: the caller may not read the cube, or not write to it.
        """
        if not self.on:
            raise Unavailable(NO_READER)
        (found,) = readable_cubes(self._parts, [cube], caller)
        require(caller.principal, found, Action.WRITE)
        seen = clearance(caller.principal, found)

        def job(transaction: Transaction) -> str | None:
            asked = {id for row in open_work(transaction.connection, READ, cube) for id in row.header.get("turns", ())}
            turns = [id for id in queries.unread(transaction.connection, cube, seen) if id not in asked]
            return self._noted(transaction, cube, turns, caller) if turns else None

        work = self._parts.vault.write(job, caller)
        return None if work is None else self.working.view(work)

    def _noted(
        self, transaction: Transaction, cube: str, turns: Sequence[str], caller: Caller, *, alone: bool = False
    ) -> str:
        """Have turns read: with others that wait for the same reader by the same right, as far as there is room."""
        who = plain_principal(caller.principal)
        if not alone:
            for row in waiting_work(transaction.connection, READ, cube, LOOKED_AT):
                told = row.header
                there = [*told["turns"], *turns]
                if told["who"] == who and not told.get("alone") and len(there) <= MOST_TURNS:
                    put_work(transaction, replace(row, header={**told, "turns": there}))
                    transaction.after(self.working.wake)
                    return row.id
        header = {"turns": list(turns), "next": 0, "counts": {}, "who": who, "alone": alone}
        return self.working.ask(transaction, READ, cube, header).id

    def remembered(
        self, request: Remember, result: Remembered, caller: Caller, progress: Progress = silent
    ) -> Remembered:
        """The answer to a request whose turns are stored: with what is said of facts, if a reader is configured."""
        if not self.on or not request.messages:
            return result
        if result.work is None:
            if request.facts is None and len(request.messages) > MOST_UNASKED_TURNS:
                many = f"facts are drawn from more than {MOST_UNASKED_TURNS} turns at once only if that is asked for"
                return replace(result, remarks=(f"{many}: say facts=later",))
            return result
        if request.facts is Facts.WAIT:
            return self._awaiting(result, result.work, caller, progress)
        trouble = self._why(caller)
        return replace(result, remarks=(_later(trouble),)) if trouble else result

    def _why(self, caller: Caller) -> str:
        """Why the reader failed last, as far as it is for this caller; empty: it did not."""
        with self._lock:
            return self._trouble if caller.principal.owner or not self._trouble else UNREACHED

    def _awaiting(self, result: Remembered, work: str, caller: Caller, progress: Progress) -> Remembered:
        """Wait until the work came to an end, or could not; the turns are stored whatever happens."""
        with self._lock:
            outcome = self._awaited.setdefault(work, Outcome())
        try:
            while not outcome.over.wait(WAIT_STEP_S) and self._is_open(work):
                view = self.working.view(work)
                if view.state is WorkState.WAITING and self._waits() is not None:
                    return replace(result, remarks=(_later(self._why(caller) or UNREACHED),))
                progress(view.done, view.total, view.message or "drawing facts")
        except Cancelled:
            return replace(result, remarks=("the turns are stored; facts are drawn from them in the background",))
        finally:
            with self._lock:
                self._awaited.pop(work, None)
        if outcome.noted is not None:
            outcome.noted.wait(NOTED_S)
            outcome.told = outcome.told or _later(self._why(caller) or UNREACHED)
        else:  # it was over before anybody waited: sent again, or done by another process
            outcome.told = self.working.view(work).told
        return replace(result, facts=outcome.facts, remarks=(outcome.told,) if outcome.told else ())

    def _is_open(self, work: str) -> bool:
        return self.working.view(work).state in OPEN

    # --- doing it ------------------------------------------------------------------------------------------------

    def _waits(self) -> str | None:
        """Why nothing can be read now, for anybody who may see the work."""
        if not self.on:
            return NO_READER
        with self._lock:
            return _later(UNREACHED) if time.monotonic() < self._not_before else None

    def _read(self, task: Task) -> str:
        """Read what the work names. See `engine.distilling.working`."""
        outcome = Outcome()
        try:
            told = Reading(self._parts, task, self._reader(), outcome).run()
        except Trouble as trouble:
            self._failed(str(trouble))
            self._over(task, outcome.facts, "")  # why, is told to each as far as it is for them
            raise Busy(UNREACHED) from trouble  # it is tried again until it succeeds or is cancelled
        except Cancelled:
            task.tell(task.done, task.total, task.message)
            raise
        except MemosError as error:
            self._over(task, outcome.facts, f"facts could not be drawn: {error}")
            raise
        with self._lock:
            self._trouble, self._pause_s = "", FIRST_PAUSE_S
        self._over(task, outcome.facts, told)
        return told

    def _over(self, task: Task, facts: tuple[Stored, ...], told: str) -> None:
        with self._lock:
            outcome = self._awaited.get(task.row.id)
            if outcome is not None:
                outcome.facts, outcome.told, outcome.noted = facts, told, task.ended
                outcome.over.set()

    def _failed(self, why: str) -> None:
        log.info("the reader cannot be asked: %s", why)
        with self._lock:
            self._trouble = why
            self._not_before = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _reader(self) -> Asker:
        """The model that is asked."""
        with self._lock:
            if self._asker is None:
                try:
                    self._asker = self._made()
                except (Invalid, Unavailable) as error:
                    raise Trouble(str(error)) from error
            return self._asker

    def _made(self) -> Asker:
        settings = self._settings
        reader = settings.reader or ""
        if reader == LOCAL and is_remote(settings.model or ""):
            return Endpoint(settings.model or "", settings, "MEMOS_MODEL")
        if reader == LOCAL:
            return LocalAsker(self._answering)
        if not is_remote(reader):
            shown = repr(reader) if "/" not in reader and "@" not in reader else UNNAMED
            raise Unavailable(f"MEMOS_READER is {shown}: use {LOCAL} for the local model, or the URL of a server")
        own = replace(settings, model_key=settings.reader_key, model_name=settings.reader_name)
        return Endpoint(reader, own, "MEMOS_READER")


def _later(why: str) -> str:
    return f"facts were not drawn yet ({why}): the turns are stored, and it is tried again"
