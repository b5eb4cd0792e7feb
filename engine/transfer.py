"""In and out, one plain JSON object a memory, nothing lost: header, lineage, usage and earlier versions.

An object with an id is put in as it is, if its id is free; an object that only has content is remembered as if a user
had said it. The same file put in twice changes nothing the second time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cubes import Behavioural, Memory
from cubes.canonical import plain
from engine.errors import Busy, Corrupt, Invalid, MemosError, NotAllowed, TooLarge, Unavailable
from engine.governance.access import clearance
from engine.incoming import REFUSALS, Whole, Words, check_end, is_whole, reason, whole, words
from engine.operations import PAGE_SIZE, Caller, Progress, Remember, Status, Stored, silent
from engine.parts import (
    Parts,
    ensure_cube,
    memory_key,
    readable_cubes,
    require_room,
    seen_in,
    shown,
    writable_cube,
)
from engine.reader import Draft
from engine.remembering import Noting, drafts_of, foresee, is_new_turn, known, store
from engine.vault import Transaction, queries
from engine.vault.rows import Record, row_of, stored_time
from engine.vault.schema import MEMORY_COLUMNS

BATCH = 256


@dataclass(slots=True)
class ImportReport:
    """What became of the records: counts, and what could not be put in and why (`record <number>: …`).

    `kinds` counts the records that were added; `conflicts` those of them that contradict something. `to_read`: turns
    from which facts are drawn in the background.
    """

    added: int = 0
    duplicates: int = 0
    conflicts: int = 0
    to_read: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def export_memories(parts: Parts, caller: Caller, cubes: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """Every memory of the cubes, in the order in which they were remembered."""
    for cube in readable_cubes(parts, cubes, caller):
        label, seen = 0, clearance(caller.principal, cube)
        while True:
            with parts.vault.reading() as connection:
                records = queries.page(
                    connection,
                    cube.name,
                    after_label=label,
                    limit=PAGE_SIZE,
                    kind=None,
                    tag=None,
                    state=None,
                    seen=seen,
                )
                memories = shown(connection, queries.complete(connection, records), caller)
                earlier = queries.earlier_versions(connection, [memory.id for memory in memories])
            for record, memory in zip(records, memories, strict=True):
                told = [old for old in earlier.get(memory.id, []) if old.memory.governance.sensitivity in seen]
                yield plain_memory(memory, record, told)
            if len(records) < PAGE_SIZE:
                break
            label = records[-1].label


def plain_memory(memory: Memory, record: Record, earlier: Sequence[Record]) -> dict[str, Any]:
    """The memory as one JSON object."""
    return {
        **_plain_version(memory, record),
        "lineage": plain(memory.lineage),
        "usage": plain(memory.behavioural),
        "history": [_plain_version(old.memory, old) for old in earlier],
    }


def _plain_version(memory: Memory, record: Record) -> dict[str, Any]:
    about, rules = plain(memory.descriptive), plain(memory.governance)
    assert isinstance(about, dict)
    assert isinstance(rules, dict)
    return {
        "id": memory.id,
        "cube": memory.cube,
        "content": memory.content,
        "state": memory.state.value,
        "version": memory.version,
        **about,
        **rules,
        "author": record.author,
        "change": record.change,
        "reason": record.reason,
    }


def import_memories(
    parts: Parts,
    records: Iterable[Mapping[str, Any]],
    caller: Caller,
    progress: Progress,
    *,
    dry_run: bool = False,
    noting: Noting | None = None,
) -> ImportReport:
    """Put in what `export_memories` gave out, or objects that have at least `content`. See `remembering` for `noting`.

    `dry_run` says what would become of them and changes nothing; it does not see that a record repeats one of an
    earlier batch.
    """
    taking = _Taking(parts, replace(caller, operation=None), dry_run, noting)  # each record is a request of its own
    batch: list[tuple[int, Mapping[str, Any]]] = []
    number = 0
    for number, record in enumerate(records, 1):
        batch.append((number, record))
        if len(batch) == BATCH:
            progress(number, None, "importing")
            taking.take(batch)
            batch = []
    taking.take(batch)
    progress(number, number, "importing")
    return taking.report


@dataclass(slots=True)
class _Taking:
    """One import."""

    parts: Parts
    caller: Caller
    dry_run: bool
    noting: Noting | None
    report: ImportReport = field(default_factory=ImportReport)

    def take(self, batch: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        wholes: list[Whole] = []
        texts: defaultdict[str, list[tuple[int, list[Draft]]]] = defaultdict(list)
        places: dict[str, MemosError | None] = {}
        for number, record in batch:
            try:
                if not isinstance(record, Mapping):
                    raise Invalid("it is not a JSON object")
                item = whole(record) if is_whole(record) else words(record)
                self._check_place(item.memory.cube if isinstance(item, Whole) else item.request.cube, places)
                if isinstance(item, Whole):
                    self._check_sight(item)
                    wholes.append(item)
                else:
                    texts[item.request.cube].append((number, self._read(item)))
            except REFUSALS as error:
                self.report.refused.append(f"record {number}: {reason(error)}")
        if wholes:
            self._put_wholes(wholes)
        for cube, told in texts.items():
            self._remember(cube, told)

    def _check_place(self, cube: str, places: dict[str, MemosError | None]) -> None:
        """Whether the caller may write there; asked once for each cube of a batch."""
        if cube not in places:
            try:
                with self.parts.vault.reading() as connection:
                    now, head = self.parts.clock.now(), self.parts.vault.head
                    writable_cube(Transaction(connection, head, now, self.caller), cube)
                places[cube] = None
            except MemosError as error:
                places[cube] = error
        refused = places[cube]
        if refused is not None:
            raise refused

    def _check_sight(self, item: Whole) -> None:
        """Nobody puts in what it would then not see."""
        rules = item.memory.governance
        if rules.sensitivity not in seen_in(self.parts, item.memory.cube, self.caller):
            raise NotAllowed(f"{item.memory.id} is {rules.sensitivity.value}, and you may not see such memories there")

    def _read(self, item: Words) -> list[Draft]:
        check_end(item, self.parts.clock.now())
        return item.told(drafts_of(self.parts, item.request, self.caller))

    # --- words ---------------------------------------------------------------------------------------------------

    def _remember(self, cube: str, told: Sequence[tuple[int, list[Draft]]]) -> None:
        """Store the drafts of many records together; where that is refused, one by one, to know which it is."""
        try:
            told = self._news(cube, told)
            stored = iter(self._stored(cube, [drafts for _, drafts in told]))
        except (Busy, Corrupt, Unavailable):
            raise  # it is not the records' fault
        except MemosError as error:
            if len(told) == 1:
                self.report.refused.append(f"record {told[0][0]}: {reason(error)}")
            else:
                for one in told:
                    self._remember(cube, [one])
            return
        kinds = Counter(self.report.kinds)
        for _, drafts in told:
            answers = [next(stored) for _ in drafts]
            if all(answer.status is Status.DUPLICATE for answer in answers):
                self.report.duplicates += 1
                continue
            self.report.added += 1
            self.report.conflicts += any(answer.status is Status.CONFLICT for answer in answers)
            kinds[drafts[0].kind.value] += 1
        self.report.kinds = dict(kinds)

    def _news(self, cube: str, told: Sequence[tuple[int, list[Draft]]]) -> Sequence[tuple[int, list[Draft]]]:
        """Without what is known word for word, which needs neither embedding nor comparing.

        Of a conversation that goes on, the known turns stay: the new ones are linked to them.
        """
        already = known(self.parts, Remember(cube=cube), [drafts[0] for _, drafts in told], self.caller)
        going_on = {drafts[0].session for (_, drafts), is_known in zip(told, already, strict=True) if not is_known} - {
            None
        }
        news = [
            (number, drafts)
            for (number, drafts), is_known in zip(told, already, strict=True)
            if not is_known or drafts[0].session in going_on
        ]
        self.report.duplicates += len(told) - len(news)
        return news

    def _stored(self, cube: str, told: Sequence[Sequence[Draft]]) -> Sequence[Stored]:
        if not told:
            return ()
        drafts: list[Draft] = []
        for one in told:
            start = len(drafts)
            drafts += (
                draft if draft.part_of is None else replace(draft, part_of=draft.part_of + start) for draft in one
            )
        request = Remember(cube=cube)
        if self.dry_run:
            return foresee(self.parts, request, drafts, self.caller)
        result = store(self.parts, request, drafts, self.caller, silent, self.noting)
        if result.work is not None:
            pairs = zip(drafts, result.stored, strict=True)
            self.report.to_read += sum(is_new_turn(draft, answer) for draft, answer in pairs)
        return result.stored

    # --- whole memories ------------------------------------------------------------------------------------------

    def _put_wholes(self, items: Sequence[Whole]) -> None:
        if self.dry_run:
            with self.parts.vault.reading() as connection:
                transaction = Transaction(connection, self.parts.vault.head, self.parts.clock.now(), self.caller)
                fresh = [items[place] for place in _free(transaction, items)]
        else:
            vectors = self.parts.embeddings.contents(
                [None if item.memory.descriptive.parts else item.memory.content for item in items]
            )
            try:
                fresh = self.parts.vault.write(
                    lambda transaction: _put(self.parts, transaction, items, vectors), self.caller
                )
            except TooLarge as error:  # the cube is full: as many go in as there is room for
                if len(items) == 1:
                    self.report.refused.append(f"memory {items[0].memory.id}: {error}")
                else:
                    for item in items:
                        self._put_wholes([item])
                return
        self.report.added += len(fresh)
        self.report.duplicates += len(items) - len(fresh)
        counted = Counter(self.report.kinds)
        counted.update(item.memory.kind.value for item in fresh)
        self.report.kinds = dict(counted)


def _free(transaction: Transaction, incoming: Sequence[Whole]) -> list[int]:
    """Places of the memories whose ids are free: of several with one id the first."""
    ids = [item.memory.id for item in incoming]
    taken = set(transaction.records(ids))
    taken.update(row[0] for row in transaction.rows("SELECT id FROM tombstones WHERE id IN (SELECT unnest(?))", [ids]))
    places: dict[str, int] = {}
    for place, id in enumerate(ids):
        if id not in taken:
            places.setdefault(id, place)
    return list(places.values())


def _put(
    parts: Parts, transaction: Transaction, incoming: Sequence[Whole], vectors: dict[str, list[Any]]
) -> list[Whole]:
    """Insert the memories whose ids are free, and say which they were."""
    places = _free(transaction, incoming)
    fresh = [incoming[place] for place in places]
    if not fresh:
        return []
    for cube in dict.fromkeys(item.memory.cube for item in fresh):
        require_room(transaction, cube, [item.memory for item in fresh if item.memory.cube == cube])
    for cube in dict.fromkeys(item.memory.cube for item in fresh):
        ensure_cube(transaction, cube)
    by_print = {fingerprint: [rows[place] for place in places] for fingerprint, rows in vectors.items()}
    for cube in dict.fromkeys(item.memory.cube for item in fresh):
        mine = [item.memory.id for item in fresh if item.memory.cube == cube]
        transaction.audit("import", cube, mine)
    records = [_record(parts, transaction, item, transaction.new_label()) for item in fresh]
    active = parts.embeddings.active or ""
    transaction.add(records, by_print.get(active, [None] * len(records)), active)
    parts.embeddings.write(transaction, [record.memory.id for record in records], by_print)
    transaction.link({item.memory.id: item.memory.lineage for item in fresh}, imported=True)
    transaction.insert("usage", ("id", "access_count", "last_access"), list(_usage_rows(fresh)))
    _put_history(parts, transaction, fresh, records)
    return fresh


def _record(parts: Parts, transaction: Transaction, item: Whole, label: int) -> Record:
    memory = replace(item.memory, lineage=(), behavioural=Behavioural())
    key = memory_key(parts.vault, memory)
    return Record(memory, label, key, item.author, item.change, item.reason, transaction.head.seq)


def _usage_rows(items: Sequence[Whole]) -> Iterator[tuple[Any, ...]]:
    for item in items:
        usage = item.memory.behavioural
        if usage.last_access is not None:
            yield item.memory.id, usage.access_count, stored_time(usage.last_access)


def _put_history(parts: Parts, transaction: Transaction, items: Sequence[Whole], records: Sequence[Record]) -> None:
    rows = [
        row_of(_record(parts, transaction, old, record.label), transaction.connection.sealer)
        for item, record in zip(items, records, strict=True)
        for old in item.earlier
    ]
    transaction.insert("versions", MEMORY_COLUMNS, rows)
