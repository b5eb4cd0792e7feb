"""A burst of changed files as one transaction: memories added, new versions, archived and restored.

A file is one memory with its words verbatim; a long one has pieces, as any long text has. The memory of a file keeps
its id through edits, renames and returns; of its pieces those whose words are still there keep theirs. Vectors are left
to the background: until they are there, the notes are found by their words, and recall says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from cubes import Descriptive, Governance, Lineage, Memory, Relation, State
from engine.errors import Invalid, NotFound
from engine.lifecycle.states import LIVE, Step, state_after
from engine.parts import Parts, content_key
from engine.reader import Draft
from engine.reader.checks import check_instant
from engine.vault import Transaction, queries
from engine.vault.rows import Record
from engine.watcher.plan import Item

BATCH = 500  # records that are read by id at once

_PIECES = """
SELECT edge.source, piece.id FROM lineage AS edge JOIN memories AS piece ON piece.id = edge.derived
WHERE edge.relation = 'part_of' AND edge.source IN (SELECT unnest(?::VARCHAR[]))
  AND (piece.state IN ('generated', 'activated') OR piece.content_key IN (SELECT unnest(?::BIGINT[])))
ORDER BY piece.state IN ('generated', 'activated') DESC, piece.position, piece.label
"""


@dataclass(frozen=True, slots=True)
class Keyed:
    """An item with its drafts and the keys of their contents; a file that only moved needs none."""

    item: Item
    drafts: tuple[Draft, ...] = ()
    keys: tuple[int, ...] = ()


def keyed(parts: Parts, item: Item, written_at: datetime) -> Keyed:
    """`written_at`: when the file was last changed, from which relative dates in it count."""
    if item.change == "rename":
        return Keyed(item)
    try:
        check_instant(written_at, "")
    except Invalid:
        written_at = parts.clock.now()
    drafts = item.note.drafts(written_at)
    return Keyed(item, drafts, tuple(content_key(parts.vault, draft.content) for draft in drafts))


@dataclass(slots=True)
class Applying:
    """The transaction of one burst. It may be run twice, so it is made anew for each run."""

    parts: Parts
    transaction: Transaction
    cube: str
    root: str
    items: Sequence[Keyed]
    gone: Sequence[str]
    records: dict[str, Record] = field(default_factory=dict)
    pieces: defaultdict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    added: list[Record] = field(default_factory=list)
    revised: defaultdict[str, list[tuple[Record, Memory]]] = field(default_factory=lambda: defaultdict(list))
    edges: dict[str, list[Lineage]] = field(default_factory=dict)
    reworded: list[str] = field(default_factory=list)  # ids whose vectors are of other words now

    def run(self) -> dict[str, str]:
        """The id of each item's memory, by path.

        Raises:
            NotFound: the cube does not show this folder any more.
        """
        cube = queries.cube(self.transaction.connection, self.cube)
        if cube is None or cube.mounted != self.root:
            raise NotFound(f"cube {self.cube!r} does not show {self.root} any more")
        self._read()
        ids = {keyed.item.path: self._bring(keyed) for keyed in self.items}
        for id in self.gone:
            self._archive(id)
        if self.added or self.revised or self.edges:
            self._write()
        return ids

    def _read(self) -> None:
        known = [id for id in (*(keyed.item.id for keyed in self.items), *self.gone) if id is not None]
        self.records = self._by_id(known)
        keys = [key for keyed in self.items for key in keyed.keys]
        rows = self.transaction.rows(_PIECES, [known, keys])
        found = self._by_id([row[1] for row in rows])
        for whole, piece in rows:
            self.pieces[whole].append(found[piece])

    def _by_id(self, ids: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for start in range(0, len(ids), BATCH):
            found.update(self.transaction.records(ids[start : start + BATCH]))
        return found

    # --- deciding ----------------------------------------------------------------------------------------------

    def _bring(self, keyed: Keyed) -> str:
        change = keyed.item.change
        old = None if keyed.item.id is None else self.records.get(keyed.item.id)
        if change == "rename" and old is not None:
            return self._rename(old, keyed.item)
        whole, *pieces = keyed.drafts
        id, version = self._put(old, whole, keyed.keys[0], change, parts=len(pieces))
        waiting: defaultdict[int, list[Record]] = defaultdict(list)
        for record in reversed(self.pieces[id]):
            waiting[record.content_key].append(record)
        for place, (draft, key) in enumerate(zip(pieces, keyed.keys[1:], strict=True)):
            same = next((r for r in reversed(waiting[key]) if r.memory.content == draft.content), None)
            if same is not None:
                waiting[key].remove(same)
            piece, _ = self._put(same, draft, key, change, position=place)
            self.edges[piece] = [Lineage(Relation.PART_OF, id, version)]
        for records in waiting.values():
            for record in records:
                self._leave(record)
        return id

    def _rename(self, whole: Record, item: Item) -> str:
        """The same words under another path."""
        for record in (whole, *self.pieces[whole.memory.id]):
            about = replace(record.memory.descriptive, source=item.path)
            if record is whole:
                about = replace(about, metadata=item.note.metadata)
            if record.memory.state in LIVE:
                self.revised["rename"].append((record, replace(record.memory, descriptive=about)))
        return whole.memory.id

    def _put(
        self, old: Record | None, draft: Draft, key: int, change: str, *, parts: int = 0, position: int | None = None
    ) -> tuple[str, int]:
        """The id and version that say what the draft says."""
        if old is None:
            record = self._new(draft, key, parts, position)
            self.added.append(record)
            return record.memory.id, 1
        memory = _as_drafted(old.memory, draft, parts, position)
        if memory == old.memory:
            return memory.id, memory.version
        if memory.content != old.memory.content:
            self.reworded.append(memory.id)
        self.revised[change].append((replace(old, content_key=key), memory))
        return memory.id, memory.version + 1

    def _new(self, draft: Draft, key: int, parts: int, position: int | None) -> Record:
        now = self.transaction.now
        about = Descriptive(
            id=self.parts.ids.new("m"),
            kind=draft.kind,
            created_at=now,
            updated_at=now,
            occurred_at=draft.occurred_at,
            origin=draft.origin,
            source=draft.source,
            position=position,
            tags=draft.tags,
            entities=draft.entities,
            mentions=draft.mentions,
            parts=parts,
            metadata=draft.metadata,
        )
        memory = Memory(self.cube, draft.content, 1, State.GENERATED, about, draft.governance or Governance())
        actor = self.transaction.caller.principal.name
        return Record(memory, self.transaction.new_label(), key, actor, "add", None, 0)

    def _archive(self, id: str) -> None:
        """The file is gone: what it said is kept, but is not recalled."""
        if id in self.records:
            for record in (self.records[id], *self.pieces[id]):
                self._leave(record)

    def _leave(self, record: Record) -> None:
        if record.memory.state in LIVE:
            state = state_after(record.memory, Step.ARCHIVE)
            self.revised["archive"].append((record, replace(record.memory, state=state)))

    # --- writing -----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        transaction = self.transaction
        ids = [record.memory.id for record in self.added]
        changed = [old.memory.id for pairs in self.revised.values() for old, _ in pairs]
        counts = {"add": len(ids), **{change: len(pairs) for change, pairs in self.revised.items()}}
        revision = transaction.audit("follow", self.cube, [*ids, *changed], changes=counts)
        transaction.add([replace(record, revision=revision) for record in self.added], [None] * len(ids), "")
        lacking = len(ids) + self._drop_vectors()
        for change, pairs in self.revised.items():
            transaction.revise_all(pairs, change, revision)
        transaction.link(self.edges)
        if lacking:
            transaction.after(lambda: self.parts.embeddings.awaits(lacking))

    def _drop_vectors(self) -> int:
        """Drop those that are of other words now; of how many memories."""
        if not self.reworded:
            return 0
        self.transaction.written = True
        sql = "DELETE FROM embeddings WHERE id IN (SELECT unnest(?::VARCHAR[])) RETURNING id"
        return len({row[0] for row in self.transaction.rows(sql, [self.reworded])})


def _as_drafted(old: Memory, draft: Draft, parts: int, position: int | None) -> Memory:
    """`old`, saying what the draft says. The times that unchanged words speak of stay as they were found."""
    about = old.descriptive
    same = old.content == draft.content and about.occurred_at == draft.occurred_at
    rules = draft.governance or Governance()
    return replace(
        old,
        content=draft.content,
        state=old.state if old.state in LIVE else state_after(old, Step.RESTORE),
        descriptive=replace(
            about,
            kind=draft.kind,
            occurred_at=draft.occurred_at,
            source=draft.source,
            position=position,
            tags=draft.tags,
            entities=about.entities if same else draft.entities,
            mentions=about.mentions if same else draft.mentions,
            parts=parts,
            metadata=draft.metadata,
        ),
        governance=replace(old.governance, sensitivity=rules.sensitivity),
    )
