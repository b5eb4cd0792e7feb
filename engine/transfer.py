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
from engine.errors import Cancelled, Invalid, MemosError
from engine.operations import (
    DEFAULT_CUBE,
    MAX_CUBE_NAME_CHARS,
    MAX_REASON_CHARS,
    MAX_SOURCE_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TURN_CHARS,
    PAGE_SIZE,
    Caller,
    Progress,
    Remember,
    Status,
    silent,
)
from engine.parts import Parts, check_ids, ensure_cube, memory_key, readable_cubes, writable_cube
from engine.reader.checks import MAX_NAME_CHARS, check_instant, check_text
from engine.remembering import remember
from engine.vault import Transaction, queries
from engine.vault.rows import Record, row_of, stored_time
from engine.vault.schema import MEMORY_COLUMNS

BATCH = 256
MAX_COUNT = 2**31 - 1  # what a column of the vault holds


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
                item = _incoming(record)
                _check_place(parts, item.memory.cube, caller)
                whole.append(item)
            else:
                _import_text(parts, record, caller, report)
        except Cancelled:
            raise
        except (MemosError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            report.refused.append(f"record {number}: {_reason(error)}")
    if whole:
        vectors = parts.embeddings.contents(
            [None if item.memory.descriptive.parts else item.memory.content for item in whole]
        )
        added = parts.vault.write(lambda transaction: _put(parts, transaction, whole, vectors), caller)
        report.added += added
        report.duplicates += len(whole) - added


def _check_place(parts: Parts, cube: str, caller: Caller) -> None:
    with parts.vault.reading() as connection:
        writable_cube(Transaction(connection, parts.vault.head, parts.clock.now(), caller), cube)


def _reason(error: Exception) -> str:
    if isinstance(error, MemosError):
        return str(error)
    if isinstance(error, KeyError):
        return f"the field {error} is missing"
    return f"a field does not hold what it must ({error})"


def _import_text(parts: Parts, record: Mapping[str, Any], caller: Caller, report: ImportReport) -> None:
    request = Remember(
        content=_text(record, "content", MAX_TURN_CHARS),
        cube=_text(record, "cube", MAX_CUBE_NAME_CHARS) if "cube" in record else DEFAULT_CUBE,
        kind=None if record.get("kind") is None else Kind(record["kind"]),
        tags=_tags(record),
        occurred_at=_maybe_time(record.get("occurred_at")),
        source=_maybe_text(record, "source", MAX_SOURCE_CHARS),
    )
    # Each line is a request of its own: under one operation, equal lines would get the first one's answer.
    stored = remember(parts, request, replace(caller, operation=None), silent)
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
    earlier = tuple(_version(old) for old in _list(record, "history"))
    current = _version(record)
    if [old.memory.version for old in earlier] != list(range(1, current.memory.version)):
        raise Invalid("its history does not count its versions from 1 up to the present one")
    place = (current.memory.id, current.memory.cube)
    if any((old.memory.id, old.memory.cube) != place for old in earlier):
        raise Invalid("its history is that of another memory")
    return replace(current, earlier=earlier)


def _version(record: Mapping[str, Any]) -> _Incoming:
    return _Incoming(
        _memory(record),
        _maybe_text(record, "author", MAX_NAME_CHARS) or "import",
        _maybe_text(record, "change", MAX_NAME_CHARS) or "import",
        _maybe_text(record, "reason", MAX_REASON_CHARS),
    )


def _memory(record: Mapping[str, Any]) -> Memory:
    usage = record.get("usage") or {}
    position = record.get("position")
    return Memory(
        cube=_text(record, "cube", MAX_CUBE_NAME_CHARS),
        content=_text(record, "content", MAX_TURN_CHARS),
        version=_count(record, "version", 1, least=1),
        state=State(record["state"]),
        descriptive=Descriptive(
            id=_id(record, "id"),
            kind=Kind(record["kind"]),
            created_at=_time(record["created_at"]),
            updated_at=_time(record["updated_at"]),
            occurred_at=_maybe_time(record.get("occurred_at")),
            origin=Origin(record.get("origin", Origin.USER)),
            source=_maybe_text(record, "source", MAX_SOURCE_CHARS),
            actor=_maybe_text(record, "actor", MAX_NAME_CHARS),
            role=_maybe_text(record, "role", MAX_NAME_CHARS),
            session=_maybe_text(record, "session", MAX_SOURCE_CHARS + MAX_NAME_CHARS),
            position=None if position is None else _count(record, "position"),
            tags=_tags(record),
            entities=_texts(record, "entities", MAX_TURN_CHARS),
            mentions=tuple(
                Mention(_text(item, "text", MAX_TURN_CHARS), _time(item["start"]), _time(item["end"]))
                for item in _list(record, "mentions")
            ),
            parts=_count(record, "parts"),
        ),
        governance=Governance(
            expires_at=_maybe_time(record.get("expires_at")),
            priority=_count(record, "priority", least=-MAX_COUNT),
            sensitivity=Sensitivity(record.get("sensitivity", Sensitivity.NORMAL)),
            pinned=bool(record.get("pinned", False)),
            frozen=bool(record.get("frozen", False)),
        ),
        behavioural=Behavioural(_count(usage, "access_count"), _maybe_time(usage.get("last_access"))),
        lineage=tuple(
            Lineage(Relation(edge["relation"]), _id(edge, "source"), _count(edge, "version", least=1))
            for edge in _list(record, "lineage")
        ),
    )


# --- fields, each checked: what is put in here is served to everyone who may read the cube --------------------------


def _text(record: Mapping[str, Any], name: str, max_chars: int) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise Invalid(f"{name} is no text")
    check_text(value, name, max_chars)
    return value


def _id(record: Mapping[str, Any], name: str) -> str:
    return check_ids([_text(record, name, MAX_NAME_CHARS)])[0]


def _maybe_text(record: Mapping[str, Any], name: str, max_chars: int) -> str | None:
    return None if record.get(name) is None else _text(record, name, max_chars)


def _list(record: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = record.get(name) or ()
    if not isinstance(value, (list, tuple)):
        raise Invalid(f"{name} is no list")
    return value


def _texts(record: Mapping[str, Any], name: str, max_chars: int) -> tuple[str, ...]:
    return tuple(_text({name: item}, name, max_chars) for item in _list(record, name))


def _tags(record: Mapping[str, Any]) -> tuple[str, ...]:
    tags = _texts(record, "tags", MAX_TAG_CHARS)
    if len(tags) > MAX_TAGS:
        raise Invalid(f"{len(tags)} tags: at most {MAX_TAGS} are allowed")
    return tags


def _count(record: Mapping[str, Any], name: str, default: int = 0, *, least: int = 0) -> int:
    value = record.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_COUNT:
        raise Invalid(f"{name} is no whole number from {least} to {MAX_COUNT}")
    return value


def _time(value: str) -> datetime:
    if not isinstance(value, str):
        raise Invalid("a time is no ISO 8601 text")
    moment = datetime.fromisoformat(value)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    check_instant(moment, "a time")
    return moment


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
    active = parts.embeddings.active or ""
    transaction.add(records, by_print.get(active, [None] * len(records)), active)
    parts.embeddings.write(transaction, [record.memory.id for record in records], by_print)
    transaction.link({item.memory.id: item.memory.lineage for item in fresh}, imported=True)
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
        row_of(_record(parts, transaction, old, record.label), transaction.connection.sealer)
        for item, record in zip(items, records, strict=True)
        for old in item.earlier
    ]
    transaction.insert("versions", MEMORY_COLUMNS, rows)
