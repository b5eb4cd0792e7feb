"""Between Memory and the rows of the vault. Nothing here decides anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cubes import (
    Behavioural,
    CubePolicy,
    Descriptive,
    Governance,
    Kind,
    Lineage,
    MemCube,
    Memory,
    Mention,
    Origin,
    Relation,
    Scope,
    Sensitivity,
    State,
)
from cubes.canonical import canonical_bytes, plain

CUBE_COLUMNS = ("name", "owner", "description", "policy", "version", "created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class Record:
    """A memory's version as the vault holds it: the memory (without lineage and usage) and the vault's own columns."""

    memory: Memory
    label: int
    content_key: int
    author: str
    change: str
    reason: str | None
    revision: int


def stored_time(moment: datetime | None) -> datetime | None:
    """An aware instant as the naive UTC value that a TIMESTAMP holds."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


def read_time(value: datetime | None) -> datetime | None:
    return None if value is None else value.replace(tzinfo=UTC)


def known_time(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC)


def header_json(memory: Memory) -> str:
    """What of the header has no column of its own."""
    about, rules = memory.descriptive, memory.governance
    return canonical_bytes(
        {
            "origin": about.origin,
            "source": about.source,
            "actor": about.actor,
            "role": about.role,
            "tags": about.tags,
            "entities": about.entities,
            "mentions": about.mentions,
            "parts": about.parts,
            "priority": rules.priority,
            "sensitivity": rules.sensitivity,
            "pinned": rules.pinned,
            "frozen": rules.frozen,
        }
    ).decode()


def row_of(record: Record) -> tuple[Any, ...]:
    """The values of `schema.MEMORY_COLUMNS`."""
    memory, about = record.memory, record.memory.descriptive
    return (
        memory.id,
        record.label,
        memory.cube,
        memory.version,
        memory.state.value,
        memory.kind.value,
        memory.content,
        record.content_key,
        stored_time(about.created_at),
        stored_time(about.updated_at),
        stored_time(about.occurred_at),
        stored_time(memory.governance.expires_at),
        about.session,
        about.position,
        header_json(memory),
        record.author,
        record.change,
        record.reason,
        record.revision,
    )


def record_of(row: Sequence[Any]) -> Record:
    """A record from the values of `schema.MEMORY_COLUMNS`."""
    header = json.loads(row[14])
    about = Descriptive(
        id=row[0],
        kind=Kind(row[5]),
        created_at=known_time(row[8]),
        updated_at=known_time(row[9]),
        occurred_at=read_time(row[10]),
        origin=Origin(header["origin"]),
        source=header["source"],
        actor=header["actor"],
        role=header["role"],
        session=row[12],
        position=row[13],
        tags=tuple(header["tags"]),
        entities=tuple(header["entities"]),
        mentions=tuple(
            Mention(item["text"], datetime.fromisoformat(item["start"]), datetime.fromisoformat(item["end"]))
            for item in header["mentions"]
        ),
        parts=header["parts"],
    )
    rules = Governance(
        expires_at=read_time(row[11]),
        priority=header["priority"],
        sensitivity=Sensitivity(header["sensitivity"]),
        pinned=header["pinned"],
        frozen=header["frozen"],
    )
    memory = Memory(
        cube=row[2], content=row[6], version=row[3], state=State(row[4]), descriptive=about, governance=rules
    )
    return Record(memory, row[1], row[7], row[15], row[16], row[17], row[18])


def lineage_of(rows: Sequence[Sequence[Any]]) -> tuple[Lineage, ...]:
    return tuple(Lineage(Relation(relation), source, version) for relation, source, version in rows)


def usage_of(row: Sequence[Any]) -> Behavioural:
    return Behavioural(access_count=row[0], last_access=known_time(row[1]))


def policy_json(policy: CubePolicy) -> str:
    return json.dumps(plain(policy), sort_keys=True)


def cube_of(row: Sequence[Any]) -> MemCube:
    """A cube from the values of `CUBE_COLUMNS`."""
    policy = json.loads(row[3])
    return MemCube(
        name=row[0],
        owner=row[1],
        description=row[2],
        policy=CubePolicy(Scope(policy["read"]), Scope(policy["write"]), Scope(policy["share"])),
        version=row[4],
        created_at=known_time(row[5]),
        updated_at=known_time(row[6]),
    )
