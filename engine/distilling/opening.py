"""What every look at a version of an adapter begins with: the model, the version, and the memories that it is from.

A version is there for whoever may read its cube and sees every memory that it was made from, in whatever cube that is:
what it says are their contents. For anybody else it is not there. It imports no torch before a model is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cubes import Action
from engine.answering.answering import Answering
from engine.answering.notes import note_of
from engine.errors import Conflict, MemosError, NotFound
from engine.governance.access import allowed, no_memory
from engine.operations import Caller, Progress
from engine.parts import Parts, readable_cubes, visible
from engine.tier_operations import AdapterView
from engine.tiers.lora.headers import source_pairs
from engine.tiers.lora.store import AdapterStore
from engine.tiers.lora.versions import chosen
from engine.vault import queries
from engine.vault.adapters import AdapterRow

if TYPE_CHECKING:
    from engine.answering.local import LocalModel
    from engine.model.loading import Loaded
    from engine.model.prompts import Note
    from engine.model.runner import Runner
    from engine.tiers.lora.asking import Stage

T = TypeVar("T")
Job = Callable[["Loaded"], Generator["Stage", None, T]]


@dataclass(frozen=True, slots=True)
class Model:
    """The local model, loaded, with the adapters that are kept for it."""

    local: LocalModel
    runner: Runner

    @property
    def adapters(self) -> AdapterStore:
        return self.local.adapters

    def do(self, job: Job[T], tell: Progress) -> T:
        """Do something long on the model's thread, behind all replies. `tell` may stop it; then nothing of it stays."""
        from engine.tiers.lora.asking import Stage, as_job

        def steps(loaded: Loaded) -> Generator[Any, None, None]:
            return as_job(job(loaded))

        try:
            with self.local.host.in_use(), self.runner.stream(steps, background=True) as results:
                for item in results:
                    if not isinstance(item, Stage):
                        found: T = item
                        return found
                    tell(item.done, item.total, item.message)
        finally:
            with contextlib.suppress(MemosError):  # the model was unloaded: nothing is left of it either
                self.runner.call(lambda _: None)  # behind the end of what was given up
        raise Conflict("it ended without a result: ask again")

    def view(self, row: AdapterRow) -> AdapterView:
        known = self.local.known
        fingerprint = known.fingerprint if known is not None else ""
        return next(one for one in self.adapters.views(row.cube, fingerprint) if one.id == row.artifact)


def opened(answering: Answering, caller: Caller) -> Model:
    """The model, loaded if need be.

    Raises:
        Unavailable: there is none, or it cannot be loaded, with what to do. Busy: another one is at work.
    """
    return Model(*answering.for_training(caller))


def version_of(parts: Parts, adapters: AdapterStore, cube: str, version: int, caller: Caller) -> AdapterRow:
    """One version of a cube's adapter that is there for the caller; 0: the one that serves.

    Raises:
        NotFound: there is no such cube or version for this caller.
    """
    readable_cubes(parts, [cube], caller)
    return chosen([row for row in adapters.rows(cube) if sees(parts, row, caller)], cube, version)


def sees(parts: Parts, row: AdapterRow, caller: Caller) -> bool:
    """Whether a version is there for the caller: all that it was made from is."""
    if caller.principal.owner:
        return True
    ids = {id for id, _ in source_pairs(row)}
    with parts.vault.reading() as connection:
        return ids <= visible(connection, ids, caller)


def manages(parts: Parts, row: AdapterRow, caller: Caller) -> bool:
    """Whether the caller may let a version serve no more: one that it sees, or of a cube that it administers."""
    (cube,) = readable_cubes(parts, [row.cube], caller)
    return allowed(caller.principal, cube, Action.ADMIN) or sees(parts, row, caller)


def notes_of(parts: Parts, pairs: Iterable[tuple[str, int]]) -> tuple[Note, ...]:
    """Memories as notes, oldest first, each once.

    Raises:
        Conflict: one is another one by now, or gone.
    """
    wanted = dict(pairs)
    with parts.vault.reading() as connection:
        found = queries.records(connection, list(wanted))
    for id, version in wanted.items():
        if id not in found or found[id].memory.version != version:
            raise Conflict(f"{id} changed, so that the adapter that was made from it is none any more: train anew")
    return tuple(sorted((note_of(record.memory) for record in found.values()), key=lambda note: (note.at, note.id)))


def only(notes: Iterable[Note], ids: Iterable[str]) -> tuple[Note, ...]:
    """Those that were named; of none, all.

    Raises:
        NotFound: one that was named is not among them.
    """
    there = {note.id: note for note in notes}
    wanted = list(dict.fromkeys(ids))
    for id in wanted:
        if id not in there:
            raise NotFound(f"{no_memory(id)}; or the adapter was not made from it")
    return tuple(there[id] for id in wanted) if wanted else tuple(there.values())
