"""Between Memory and the rows of the vault. Nothing here decides anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cubes import (
    Action,
    Behavioural,
    CubePolicy,
    Descriptive,
    Governance,
    Grant,
    Kind,
    Lineage,
    MemCube,
    Memory,
    Mention,
    Origin,
    Provenance,
    Relation,
    Scope,
    Sensitivity,
    State,
)
from cubes.canonical import canonical_bytes
from engine.vault.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Record:
    """A memory's version as the vault holds it: the memory (without lineage and usage) and the vault's own columns."""

    memory: Memory
    label: int
    content_key: int
    author: str
    change: str
    reason: str | None
    revision: int  # grows with use and erasure as well
    recorded: int = 0  # the revision under which this version came to be; 0: it comes to be under `revision`


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
            "metadata": about.metadata,
            "priority": rules.priority,
            "pinned": rules.pinned,
            "frozen": rules.frozen,
        }
    ).decode()


def place_of(memory: Memory, column: str) -> str:
    """Where in the vault a value of this version stands, for the sealer."""
    return f"{memory.id}:{memory.version}:{column}"


def row_of(record: Record, sealer: Sealer) -> tuple[Any, ...]:
    """The values of `schema.MEMORY_COLUMNS`."""
    memory, about = record.memory, record.memory.descriptive
    return (
        memory.id,
        record.label,
        memory.cube,
        memory.version,
        memory.state.value,
        memory.kind.value,
        sealer.text(memory.content, place_of(memory, "content")),
        record.content_key,
        stored_time(about.created_at),
        stored_time(about.updated_at),
        stored_time(about.occurred_at),
        stored_time(memory.governance.expires_at),
        None if about.session is None else sealer.name(about.session),
        about.position,
        sealer.text(header_json(memory), place_of(memory, "header")),
        record.author,
        record.change,
        None if record.reason is None else sealer.text(record.reason, place_of(memory, "reason")),
        record.revision,
        memory.governance.sensitivity.value,
        about.parts,
        record.recorded or record.revision,
    )


def record_of(row: Sequence[Any], sealer: Sealer) -> Record:
    """A record from the values of `schema.MEMORY_COLUMNS`."""
    place = f"{row[0]}:{row[3]}:"
    header = json.loads(sealer.read_text(row[14], f"{place}header"))
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
        session=None if row[12] is None else sealer.read_name(row[12]),
        position=row[13],
        tags=tuple(header["tags"]),
        entities=tuple(header["entities"]),
        mentions=tuple(
            Mention(item["text"], datetime.fromisoformat(item["start"]), datetime.fromisoformat(item["end"]))
            for item in header["mentions"]
        ),
        parts=row[20],
        metadata=header.get("metadata"),
    )
    rules = Governance(
        expires_at=read_time(row[11]),
        priority=header["priority"],
        sensitivity=Sensitivity(row[19]),
        pinned=header["pinned"],
        frozen=header["frozen"],
    )
    memory = Memory(
        cube=row[2],
        content=sealer.read_text(row[6], f"{place}content"),
        version=row[3],
        state=State(row[4]),
        descriptive=about,
        governance=rules,
    )
    reason = None if row[17] is None else sealer.read_text(row[17], f"{place}reason")
    return Record(memory, row[1], row[7], row[15], row[16], reason, row[18], row[21])


def lineage_of(rows: Sequence[Sequence[Any]]) -> tuple[Lineage, ...]:
    return tuple(Lineage(Relation(relation), source, version) for relation, source, version in rows)


def usage_of(row: Sequence[Any]) -> Behavioural:
    return Behavioural(access_count=row[0], last_access=known_time(row[1]))


def cube_row(cube: MemCube, revision: int, sealer: Sealer) -> tuple[Any, ...]:
    """The values of `schema.CUBE_COLUMNS`."""
    header = {
        "description": cube.description,
        "policy": cube.policy,
        "licence": cube.licence,
        "provenance": cube.provenance,
        "offered": cube.offered,
    }
    return (
        cube.name,
        cube.owner,
        cube.version,
        stored_time(cube.created_at),
        stored_time(cube.updated_at),
        sealer.text(canonical_bytes(header).decode(), _place_of_cube(cube.name, cube.version)),
        cube.mounted,
        revision,
    )


def cube_of(row: Sequence[Any], sealer: Sealer) -> MemCube:
    """A cube from the values of `schema.CUBE_COLUMNS`."""
    header = json.loads(sealer.read_text(row[5], _place_of_cube(row[0], row[2])))
    provenance, offered = header.get("provenance"), header.get("offered")
    return MemCube(
        name=row[0],
        owner=row[1],
        version=row[2],
        created_at=known_time(row[3]),
        updated_at=known_time(row[4]),
        description=header["description"],
        policy=policy_of(header["policy"]),
        licence=header.get("licence", ""),
        provenance=None if provenance is None else Provenance(**provenance),
        offered=None if offered is None else policy_of(offered),
        mounted=row[6],
    )


def _place_of_cube(name: str, version: int) -> str:
    return f"cube:{name}:{version}"


def policy_of(stored: Mapping[str, Any]) -> CubePolicy:
    """A policy from its plain form; what an older version did not know is as it was then."""
    grants = tuple(
        Grant(grant["principal"], tuple(Action(action) for action in grant["actions"]))
        for grant in stored.get("grants", ())
    )
    return CubePolicy(
        read=Scope(stored["read"]),
        write=Scope(stored["write"]),
        share=Scope(stored["share"]),
        grants=grants,
        ttl_days=stored.get("ttl_days"),
        decay_days=stored.get("decay_days"),
        keep_versions=stored.get("keep_versions"),
        keep_days=stored.get("keep_days"),
        max_memories=stored.get("max_memories"),
        max_bytes=stored.get("max_bytes"),
    )
