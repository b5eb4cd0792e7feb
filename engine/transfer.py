"""In and out, one plain JSON object a memory, nothing lost: header, lineage, usage and earlier versions.

An object with an id is put in as it is, if its id is free; an object that only has content is remembered as if a user
had said it. The same file put in twice changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cubes import (
    Behavioural,
    Descriptive,
    Governance,
    Kind,
    Lineage,
    Memory,
    Mention,
    Origin,
    Relation,
    Sensitivity,
    State,
)
from cubes.canonical import plain
from engine.errors import Invalid, MemosError
from engine.operations import DEFAULT_CUBE, MAX_CONTENT_CHARS, PAGE_SIZE, Caller, Progress, Remember, Status
from engine.parts import Parts, check_ids, ensure_cube, memory_key, readable_cubes
from engine.reader.checks import check_text
from engine.remembering import remember
from engine.vault import Transaction, queries
from engine.vault.rows import Record, row_of, stored_time
from engine.vault.schema import MEMORY_COLUMNS

BATCH = 256


@dataclass(slots=True)
class ImportReport:
    """What became of the records: counts, and what could not be put in and why (`record <number>: …`)."""

    added: int = 0
    duplicates: int = 0
    refused: list[str] = field(default_factory=list)


def export_memories(parts: Parts, caller: Caller, cubes: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """Every memory of the cubes, in the order in which they were remembered."""
    for cube in readable_cubes(parts, cubes, caller):
        label = 0
        while True:
            with parts.vault.reading() as connection:
                records = queries.page(
                    connection, cube.name, after_label=label, limit=PAGE_SIZE, kind=None, tag=None, state=None
                )
                memories = queries.complete(connection, records)
                earlier = queries.earlier_versions(connection, [memory.id for memory in memories])
            for record, memory in zip(records, memories, strict=True):
                yield plain_memory(memory, record, earlier.get(memory.id, []))
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
    parts: Parts, records: Iterable[Mapping[str, Any]], caller: Caller, progress: Progress
) -> ImportReport:
    """Put in what `export_memories` gave out, or objects that have at least `content`."""
    report = ImportReport()
    batch: list[tuple[int, Mapping[str, Any]]] = []
    number = 0
    for number, record in enumerate(records, 1):
        batch.append((number, record))
        if len(batch) == BATCH:
            progress(number, None, "importing")
            _import_batch(parts, batch, caller, report)
            batch = []
    _import_batch(parts, batch, caller, report)
    progress(number, number, "importing")
    return report


def _import_batch(
    parts: Parts, batch: Sequence[tuple[int, Mapping[str, Any]]], caller: Caller, report: ImportReport
) -> None:
    whole: list[_Incoming] = []
    for number, record in batch:
        try:
            if not isinstance(record, Mapping):
                raise Invalid("it is not a JSON object")
            if "id" in record and "state" in record:
                whole.append(_incoming(record))
            else:
                _import_text(parts, record, caller, report)
        except (MemosError, ValueError, TypeError, KeyError, AttributeError) as error:
            report.refused.append(f"record {number}: {_reason(error)}")
    if whole:
        vectors = parts.embeddings.contents(
            [None if item.memory.descriptive.parts else item.memory.content for item in whole]
        )
        added = parts.vault.write(lambda transaction: _put(parts, transaction, whole, vectors), caller)
        report.added += added
        report.duplicates += len(whole) - added


def _reason(error: Exception) -> str:
    if isinstance(error, MemosError):
        return str(error)
    if isinstance(error, KeyError):
        return f"the field {error} is missing"
    return f"a field does not hold what it must ({error})"


def _import_text(parts: Parts, record: Mapping[str, Any], caller: Caller, report: ImportReport) -> None:
    occurred = record.get("occurred_at")
    request = Remember(
        content=str(record["content"]),
        cube=str(record.get("cube", DEFAULT_CUBE)),
        kind=None if record.get("kind") is None else Kind(record["kind"]),
        tags=tuple(str(tag) for tag in record.get("tags", ())),
        occurred_at=None if occurred is None else _time(occurred),
        source=record.get("source"),
    )
    stored = remember(parts, request, caller, lambda done, total, message: None)
    if all(item.status is Status.DUPLICATE for item in stored.stored):
        report.duplicates += 1
    else:
        report.added += 1


@dataclass(frozen=True, slots=True)
class _Incoming:
    """A record that was given out by `export_memories`, parsed."""

    memory: Memory
    author: str
    change: str
    reason: str | None
    earlier: tuple[_Incoming, ...] = ()


def _incoming(record: Mapping[str, Any]) -> _Incoming:
    memory = _memory(record)
    earlier = tuple(_incoming({**old, "history": ()}) for old in record.get("history", ()))
    if [old.memory.version for old in earlier] != list(range(1, len(earlier) + 1)) or (
        earlier and memory.version <= len(earlier)
    ):
        raise Invalid("its history does not count its versions from 1 upwards")
    return _Incoming(
        memory,
        str(record.get("author", "import")),
        str(record.get("change", "import")),
        record.get("reason"),
        earlier,
    )


def _memory(record: Mapping[str, Any]) -> Memory:
    (id,) = check_ids([str(record["id"])])
    content = str(record["content"])
    check_text(content, "content", MAX_CONTENT_CHARS)
    usage = record.get("usage") or {}
    last = usage.get("last_access")
    return Memory(
        cube=str(record["cube"]),
        content=content,
        version=int(record.get("version", 1)),
        state=State(record["state"]),
        descriptive=Descriptive(
            id=id,
            kind=Kind(record["kind"]),
            created_at=_time(record["created_at"]),
            updated_at=_time(record["updated_at"]),
            occurred_at=_maybe_time(record.get("occurred_at")),
            origin=Origin(record.get("origin", Origin.USER)),
            source=record.get("source"),
            actor=record.get("actor"),
            role=record.get("role"),
            session=record.get("session"),
            position=record.get("position"),
            tags=tuple(record.get("tags", ())),
            entities=tuple(record.get("entities", ())),
            mentions=tuple(
                Mention(item["text"], _time(item["start"]), _time(item["end"])) for item in record.get("mentions", ())
            ),
            parts=int(record.get("parts", 0)),
        ),
        governance=Governance(
            expires_at=_maybe_time(record.get("expires_at")),
            priority=int(record.get("priority", 0)),
            sensitivity=Sensitivity(record.get("sensitivity", Sensitivity.NORMAL)),
            pinned=bool(record.get("pinned", False)),
            frozen=bool(record.get("frozen", False)),
        ),
        behavioural=Behavioural(int(usage.get("access_count", 0)), _maybe_time(last)),
        lineage=tuple(
            Lineage(Relation(edge["relation"]), str(edge["source"]), int(edge["version"]))
            for edge in record.get("lineage", ())
        ),
    )


def _time(value: str) -> datetime:
    moment = datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _maybe_time(value: str | None) -> datetime | None:
    return None if value is None else _time(value)


def _put(parts: Parts, transaction: Transaction, incoming: Sequence[_Incoming], vectors: dict[str, list[Any]]) -> int:
    """Insert the memories whose ids are free; how many they were."""
    ids = [item.memory.id for item in incoming]
    taken = set(transaction.records(ids))
    taken.update(row[0] for row in transaction.rows("SELECT id FROM tombstones WHERE id IN (SELECT unnest(?))", [ids]))
    places: dict[str, int] = {}
    for place, item in enumerate(incoming):
        if item.memory.id not in taken:
            places.setdefault(item.memory.id, place)
    fresh = [incoming[place] for place in places.values()]
    if not fresh:
        return 0
    for cube in dict.fromkeys(item.memory.cube for item in fresh):
        ensure_cube(transaction, cube)
    by_print = {fingerprint: [rows[place] for place in places.values()] for fingerprint, rows in vectors.items()}
    for cube in dict.fromkeys(item.memory.cube for item in fresh):
        mine = [item.memory.id for item in fresh if item.memory.cube == cube]
        transaction.audit("import", cube, mine)
    records = [_record(parts, transaction, item, transaction.new_label()) for item in fresh]
    active = by_print.get(parts.embeddings.active or "", [None] * len(records))
    transaction.add(records, active)
    parts.embeddings.write(transaction, [record.memory.id for record in records], by_print)
    transaction.link({item.memory.id: item.memory.lineage for item in fresh})
    transaction.insert("usage", ("id", "access_count", "last_access"), list(_usage_rows(fresh)))
    _put_history(parts, transaction, fresh, records)
    return len(fresh)


def _record(parts: Parts, transaction: Transaction, item: _Incoming, label: int) -> Record:
    memory = replace(item.memory, lineage=(), behavioural=Behavioural())
    key = memory_key(parts.vault, memory)
    return Record(memory, label, key, item.author, item.change, item.reason, transaction.head.seq)


def _usage_rows(items: Sequence[_Incoming]) -> Iterator[tuple[Any, ...]]:
    for item in items:
        usage = item.memory.behavioural
        if usage.last_access is not None:
            yield item.memory.id, usage.access_count, stored_time(usage.last_access)


def _put_history(parts: Parts, transaction: Transaction, items: Sequence[_Incoming], records: Sequence[Record]) -> None:
    rows = [
        row_of(_record(parts, transaction, old, record.label))
        for item, record in zip(items, records, strict=True)
        for old in item.earlier
    ]
    transaction.insert("versions", MEMORY_COLUMNS, rows)
