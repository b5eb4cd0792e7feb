"""Consolidation at work: copies are fused where nothing can be lost, other groups are proposed.

A cube is looked at when it changed since the last look, and of it only what changed, each beside what the index finds
near it: so many at a time, in the order in which they changed, and the next time from there on. What is fused alone
keeps the words of the one that says it all; `undo` brings the others back, and what was taken apart by hand once is
left apart.

What must stay true: nothing that changed is passed over, however much changed at once, and no more is read of it than
is looked at; only what `engine.scheduler.consolidate` calls lossless is fused without asking; in quiet hours nothing
is looked at; the row of the move is written in the transaction of the fusion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from cubes import Memory
from engine import fusing
from engine.embeddings import SYSTEM
from engine.errors import MemosError
from engine.lifecycle.states import is_expired
from engine.operations import Fuse, Fused, Recall, silent
from engine.parts import Parts
from engine.recall import rank
from engine.scheduler.consolidate import Proposal, proposals
from engine.scheduler.moves import Part
from engine.scheduling.log import FUSED, MARK, UNDO, rows
from engine.tier_operations import Scheduled
from engine.vault import Transaction, queries

LOOKED_AT = 200  # memories that changed, of one cube at one time
NEIGHBOURS = 5
MAX_SEARCH_CHARS = 2_000
LOOKED_UNTIL = "consolidated"  # the note in `meta`: of each cube, the mark up to which it was looked at
TO = "fused"
Mark = tuple[int, int]  # (revision, label) of the last memory that was looked at
START: Mark = (0, 0)
WHOLE = 2**62  # above every label: all of a revision was looked at


class Consolidating:
    """Used by one thread at a time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.open: dict[str, list[Proposal]] = {}  # by cube: groups that a person should look at
        self.behind = False  # whether there is more to look at than the last run did

    def run(self, now: datetime, *, dry_run: bool) -> list[Scheduled]:
        """Look at what changed; what was fused, or (in a dry run) would be."""
        until = {name: _mark(kept) for name, kept in json.loads(self._parts.vault.note(LOOKED_UNTIL) or "{}").items()}
        looked, done, behind = dict(until), list[Scheduled](), False
        for cube in self._parts.vault.cubes():
            if cube.mounted is not None:
                continue
            groups, mark = self._look(cube.name, until.get(cube.name, START), now)
            if mark is not None:
                looked[cube.name] = mark
                behind = behind or mark[1] != WHOLE
            if groups:
                apart = list(self._taken_apart())
                found = [self._one(group, apart, now, dry_run=dry_run) for group in groups]
                done += [move for move in found if move is not None]
                self.open[cube.name] = [group for group in groups if not group.lossless][:LOOKED_AT]
        self.behind = behind
        if looked != until and not dry_run:
            note = json.dumps({name: looked[name] for name in sorted(looked)})
            self._parts.vault.write(
                lambda t: t.insert("meta", ("key", "value"), [(LOOKED_UNTIL, note)], replace_=True), SYSTEM
            )
        return done

    def _look(self, cube: str, since: Mark, now: datetime) -> tuple[list[Proposal], Mark | None]:
        """Groups around what changed since a mark, and up to which one was looked; None: there is no index yet."""
        ready = self._parts.indexes.ready(cube)
        if ready is None:
            return [], None
        with self._parts.vault.reading() as connection:
            places = queries.claims_after(connection, cube, since, LOOKED_AT + 1)
            mark = queries.cube_revision(connection, cube), WHOLE
        if len(places) > LOOKED_AT:  # the rest another time
            del places[LOOKED_AT:]
            mark = places[-1][1:]
        pairs: set[tuple[str, str]] = set()
        for memory in self._memories({id for id, _, _ in places}, now).values():
            search = Recall(query=memory.content[:MAX_SEARCH_CHARS], limit=NEIGHBOURS + 1)
            found = rank(search, {cube: ready[0].showing(None)}, None, now).candidates[: NEIGHBOURS + 1]
            pairs |= {(memory.id, candidate.id) for candidate in found if candidate.id != memory.id}
        memories = self._memories({id for pair in pairs for id in pair}, now)
        return proposals(memories, pairs), mark

    def _memories(self, ids: set[str], now: datetime) -> dict[str, Memory]:
        with self._parts.vault.reading() as connection:
            found = queries.records(connection, sorted(ids))
        return {id: record.memory for id, record in found.items() if not is_expired(record.memory, now)}

    def _one(self, group: Proposal, apart: Sequence[set[str]], now: datetime, *, dry_run: bool) -> Scheduled | None:
        """Fuse a group, if nothing can be lost and nobody took any two of it apart before."""
        if group.keeper is None or any(len(some.intersection(group.ids)) > 1 for some in apart):
            return None
        shown = Part.CONSOLIDATE.value, group.cube, group.ids, TO, group.reason
        if dry_run:
            return Scheduled(0, None, *shown, "planned", "")
        content = self._memories({group.keeper}, now)[group.keeper].content
        numbers: list[int] = []

        def told(transaction: Transaction, fused: Fused) -> None:
            detail: dict[str, Any] = {
                MARK: True,
                "part": Part.CONSOLIDATE.value,
                "to": TO,
                "outcome": "done",
                FUSED: fused.id,
            }
            numbers.append(transaction.audit("move", group.cube, group.ids, reason=group.reason, **detail))

        try:
            fusing.fuse(self._parts, Fuse(group.ids, content), SYSTEM, silent, told)
        except MemosError as error:  # it changed meanwhile, or a limit holds it off: looked at again when it changes
            return Scheduled(0, now, *shown, f"refused: {error}", "")
        return Scheduled(numbers[-1], now, *shown, "done", UNDO.format(numbers[-1]))

    def _taken_apart(self) -> Iterator[set[str]]:
        with self._parts.vault.reading() as connection:
            for row in rows(connection):
                if "undo_of" in row.detail and row.detail.get("part") == Part.CONSOLIDATE.value:
                    yield set(row.ids)


def _mark(kept: int | list[int]) -> Mark:
    """A mark as it was noted; a number alone is a revision of which everything was looked at."""
    return (kept, WHOLE) if isinstance(kept, int) else (kept[0], kept[1])
