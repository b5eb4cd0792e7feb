"""What a plain object says, checked field by field: a whole memory with its history, or words to be remembered.

What is put in here is served to everyone who may read the cube, so nothing is taken on trust. Knows no store. What no
field of a memory is made for is kept in its metadata: nothing is dropped without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from cubes.canonical import canonical_bytes
from engine.errors import Invalid, MemosError, TooLarge
from engine.operations import (
    DEFAULT_CUBE,
    MAX_CUBE_NAME_CHARS,
    MAX_REASON_CHARS,
    MAX_SOURCE_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TURN_CHARS,
    Remember,
    Turn,
)
from engine.parts import check_ids
from engine.reader import Draft, read
from engine.reader.checks import MAX_NAME_CHARS, check_instant, check_text

MAX_COUNT = 2**31 - 1  # what a column of the vault holds
MAX_METADATA_CHARS = 1_000_000
FIELDS = "fields"  # in metadata: what the source said under names of its own
WORDS_FIELDS = frozenset(
    (
        "content",
        "cube",
        "kind",
        "tags",
        "occurred_at",
        "source",
        "entities",
        "actor",
        "role",
        "session",
        "position",
        "metadata",
        "expires_at",
        "priority",
        "sensitivity",
        "pinned",
        "frozen",
    )
)


@dataclass(frozen=True, slots=True)
class Words:
    """Something to be remembered, and what is known of it beside its words; None and (): nothing."""

    request: Remember
    metadata: str | None
    governance: Governance | None
    entities: tuple[str, ...]
    actor: str | None
    session: str | None
    position: int | None

    def told(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The drafts of the request, with the rest of what is known: of a long text, the whole has it."""
        first, *pieces = (replace(draft, governance=self.governance) for draft in drafts)
        first = replace(
            first,
            metadata=self.metadata,
            entities=self.entities or first.entities,
            actor=self.actor or first.actor,
        )
        if self.session is not None:
            first = replace(first, session=self.session, position=self.position)
        return [first, *pieces]


def is_whole(record: Mapping[str, Any]) -> bool:
    return "id" in record and "state" in record


def kind_of(record: Mapping[str, Any], now: datetime) -> Kind:
    """Check a record without a store; the kind of memory that it would be.

    Raises:
        MemosError, ValueError, TypeError, KeyError, AttributeError, OverflowError: see `reason`.
    """
    if is_whole(record):
        return whole(record).memory.kind
    item = words(record)
    check_end(item, now)
    return read(item.request, now).drafts[0].kind


def check_end(item: Words, now: datetime) -> None:
    """Refuse what would be gone at once: it could never be found again, not even as known already.

    Raises:
        Invalid: it has expired.
    """
    ends = None if item.governance is None else item.governance.expires_at
    if ends is not None and ends <= now:
        raise Invalid(f"it expired on {ends:%Y-%m-%d}: leave expires_at out to keep it all the same")


REFUSALS = (MemosError, ValueError, TypeError, KeyError, AttributeError, OverflowError)


def reason(error: Exception) -> str:
    """Why a record was refused, in words."""
    if isinstance(error, MemosError):
        return str(error)
    if isinstance(error, KeyError):
        return f"the field {error} is missing"
    return f"a field does not hold what it must ({error})"


def words(record: Mapping[str, Any]) -> Words:
    """A record that is not a whole memory: at least its content. With a role it is a turn of a conversation."""
    content, role = _text(record, "content", MAX_TURN_CHARS), _maybe_text(record, "role", MAX_NAME_CHARS)
    actor, position = _maybe_text(record, "actor", MAX_NAME_CHARS), record.get("position")
    at = _maybe_time(record.get("occurred_at"))
    request = Remember(
        content=content if role is None else None,
        messages=() if role is None else (Turn(role, content, actor, at),),
        cube=_text(record, "cube", MAX_CUBE_NAME_CHARS) if "cube" in record else DEFAULT_CUBE,
        kind=None if record.get("kind") is None else Kind(record["kind"]),
        tags=_tags(record),
        occurred_at=at,
        source=_maybe_text(record, "source", MAX_SOURCE_CHARS),
    )
    ruled = any(record.get(name) is not None for name in ("expires_at", "priority", "sensitivity", "pinned", "frozen"))
    return Words(
        request,
        _metadata(record, {name: value for name, value in record.items() if name not in WORDS_FIELDS}),
        _governance(record) if ruled else None,
        _texts(record, "entities", MAX_TURN_CHARS),
        actor,
        _maybe_text(record, "session", MAX_SOURCE_CHARS + MAX_NAME_CHARS),
        None if position is None else _count(record, "position"),
    )


@dataclass(frozen=True, slots=True)
class Whole:
    """A memory as an export gives it out: its author, and its earlier versions."""

    memory: Memory
    author: str
    change: str
    reason: str | None
    earlier: tuple[Whole, ...] = ()


def whole(record: Mapping[str, Any]) -> Whole:
    earlier = tuple(_version(old) for old in _list(record, "history"))
    current = _version(record)
    last = current.memory.version  # the front may have been let go by retention
    if [old.memory.version for old in earlier] != list(range(last - len(earlier), last)) or len(earlier) >= last:
        raise Invalid("its history does not count its versions up to the present one without a gap")
    place = (current.memory.id, current.memory.cube)
    if any((old.memory.id, old.memory.cube) != place for old in earlier):
        raise Invalid("its history is that of another memory")
    return replace(current, earlier=earlier)


def _version(record: Mapping[str, Any]) -> Whole:
    return Whole(
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
            metadata=_metadata(record),
        ),
        governance=_governance(record),
        behavioural=Behavioural(_count(usage, "access_count"), _maybe_time(usage.get("last_access"))),
        lineage=tuple(
            Lineage(Relation(edge["relation"]), _id(edge, "source"), _count(edge, "version", least=1))
            for edge in _list(record, "lineage")
        ),
    )


# --- fields ----------------------------------------------------------------------------------------------------


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


def _governance(record: Mapping[str, Any]) -> Governance:
    return Governance(
        expires_at=_maybe_time(record.get("expires_at")),
        priority=_count(record, "priority", least=-MAX_COUNT),
        sensitivity=Sensitivity(record.get("sensitivity") or Sensitivity.NORMAL),
        pinned=bool(record.get("pinned", False)),
        frozen=bool(record.get("frozen", False)),
    )


def _metadata(record: Mapping[str, Any], rest: Mapping[str, Any] | None = None) -> str | None:
    """The metadata of a record, and `rest` beside it, as canonical text."""
    found = record.get("metadata")
    if isinstance(found, str):
        found = _parsed(found)
    if found is not None and not isinstance(found, Mapping):
        raise Invalid("metadata is no JSON object")
    if rest:
        more = dict(found or {})
        kept = more.get(FIELDS)
        more[FIELDS] = {**rest, **(kept if isinstance(kept, Mapping) else {} if kept is None else {FIELDS: kept})}
        found = more
    if found is None or (rest is not None and not found):
        return None
    try:
        text = canonical_bytes(found).decode()
    except RecursionError:
        raise Invalid("metadata is nested too deeply") from None
    if len(text) > MAX_METADATA_CHARS:
        raise TooLarge(f"metadata has {len(text)} characters: at most {MAX_METADATA_CHARS} are allowed")
    return text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid("metadata is no JSON object") from None
