"""A memory as it stands in a bundle: the plain JSON object, and the values that it is made from.

A `PackedMemory` is a memory with its author, lineage, usage and earlier versions; the cube is not named in it, so that
a cube that is installed under another name changes nothing else. Equal memories have equal lines: lineage is sorted,
instants and numbers have one form, and a line in any other form is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cubes import fields
from cubes.canonical import json_bytes, plain
from cubes.cube import (
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
    Tier,
)
from cubes.errors import MalformedCube, TooLargeBundle, named
from cubes.limits import (
    MAX_CONTENT_CHARS,
    MAX_COUNT,
    MAX_EDGES,
    MAX_ENTITIES,
    MAX_JSON_DEPTH,
    MAX_LINE_BYTES,
    MAX_MENTIONS,
    MAX_NAME_CHARS,
    MAX_PHRASE_CHARS,
    MAX_REASON_CHARS,
    MAX_SESSION_CHARS,
    MAX_SOURCE_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_VERSIONS,
)

Vectors = npt.NDArray[np.float32]

DESCRIPTIVE_FIELDS = frozenset(Descriptive.__dataclass_fields__)
GOVERNANCE_FIELDS = frozenset(Governance.__dataclass_fields__)
VERSION_FIELDS = (
    DESCRIPTIVE_FIELDS | GOVERNANCE_FIELDS | {"content", "state", "version", "tier", "author", "change", "reason"}
)
MEMORY_FIELDS = VERSION_FIELDS | {"lineage", "usage", "history"}


@dataclass(frozen=True, slots=True)
class PackedVersion:
    """One version of a memory, and who made it and why."""

    content: str
    version: int
    state: State
    descriptive: Descriptive
    governance: Governance
    tier: Tier
    author: str
    change: str  # remember, supersede, fuse, restore, …
    reason: str | None = None

    @property
    def id(self) -> str:
        return self.descriptive.id

    @classmethod
    def of(cls, memory: Memory, author: str, change: str, reason: str | None) -> PackedVersion:
        return cls(
            memory.content,
            memory.version,
            memory.state,
            memory.descriptive,
            memory.governance,
            memory.tier,
            author,
            change,
            reason,
        )

    def memory(self, cube: str) -> Memory:
        """As a memory of that cube, without lineage and usage."""
        return Memory(
            cube,
            self.content,
            self.version,
            self.state,
            self.descriptive,
            self.governance,
            Behavioural(),
            (),
            self.tier,
        )


@dataclass(frozen=True, slots=True)
class PackedMemory:
    """A memory: its present version, and what belongs to all of them.

    `history` holds earlier versions without a gap up to the present one; the first ones may have been let go.
    `vectors` has the shape [passages, dimension]; None where it has none (the whole of a text that was split, or a
    bundle without embeddings).
    """

    current: PackedVersion
    lineage: tuple[Lineage, ...] = ()
    usage: Behavioural = field(default_factory=Behavioural)
    history: tuple[PackedVersion, ...] = ()
    vectors: Vectors | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        return self.current.id

    def memory(self, cube: str) -> Memory:
        """The present version as a memory of that cube, with lineage and usage."""
        now = self.current
        return Memory(
            cube,
            now.content,
            now.version,
            now.state,
            now.descriptive,
            now.governance,
            self.usage,
            self.lineage,
            now.tier,
        )


# --- writing --------------------------------------------------------------------------------------------------------


def to_plain(memory: PackedMemory) -> dict[str, Any]:
    """The memory as one plain JSON object."""
    return {
        **version_to_plain(memory.current),
        "lineage": [
            {"relation": edge.relation.value, "source": edge.source, "version": edge.version}
            for edge in sorted(memory.lineage, key=_edge_order)
        ],
        "usage": plain(memory.usage),
        "history": [version_to_plain(old) for old in memory.history],
    }


def version_to_plain(version: PackedVersion) -> dict[str, Any]:
    about, rules = version.descriptive, version.governance
    return {
        "content": version.content,
        "state": version.state.value,
        "version": version.version,
        "tier": version.tier.value,
        "author": version.author,
        "change": version.change,
        "reason": version.reason,
        "id": about.id,
        "kind": about.kind.value,
        "created_at": plain(about.created_at),
        "updated_at": plain(about.updated_at),
        "occurred_at": plain(about.occurred_at),
        "origin": about.origin.value,
        "source": about.source,
        "actor": about.actor,
        "role": about.role,
        "session": about.session,
        "position": about.position,
        "tags": list(about.tags),
        "entities": list(about.entities),
        "mentions": [plain(mention) for mention in about.mentions],
        "parts": about.parts,
        "metadata": about.metadata,
        "expires_at": plain(rules.expires_at),
        "priority": rules.priority,
        "sensitivity": rules.sensitivity.value,
        "pinned": rules.pinned,
        "frozen": rules.frozen,
    }


def to_line(memory: PackedMemory) -> bytes:
    """The memory as a line of a bundle: canonical JSON and a line end. Checked as strictly as one that is read.

    Raises:
        MalformedCube, TooLargeBundle: no bundle may hold it; the message names the memory and the field.
    """
    record = to_plain(memory)
    from_plain(record)
    line = json_bytes(record) + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise TooLargeBundle(
            f"{memory.id} and its history take {len(line)} bytes: pack less history, {MAX_LINE_BYTES} are allowed"
        )
    with named(memory.id):
        fields.check_size(line.decode(), MAX_JSON_DEPTH)
    return line


# --- reading --------------------------------------------------------------------------------------------------------


def from_line(line: bytes) -> PackedMemory:
    """The memory that a line of a bundle says, without vectors. `line` has no line end.

    Raises:
        MalformedCube, TooLargeBundle: it is not the one canonical line of a memory.
    """
    memory = from_plain(fields.parse(line, MAX_JSON_DEPTH))
    if json_bytes(to_plain(memory)) != line:
        raise MalformedCube(f"{memory.id} is not in canonical form: keys sorted, no white space, lineage sorted")
    return memory


def from_plain(record: object) -> PackedMemory:
    """The memory that a plain object says.

    Raises:
        MalformedCube, TooLargeBundle: a field is missing, unknown, or holds what it may not.
    """
    found = fields.mapping(record, "a memory", MEMORY_FIELDS)
    id = fields.identifier(found["id"], "id of a memory")
    current = _version(found, id)
    history = fields.array(found["history"], f"history of {id}", MAX_VERSIONS)
    earlier = [_version(fields.mapping(old, f"an earlier version of {id}", VERSION_FIELDS), id) for old in history]
    numbers = [old.version for old in earlier]
    if numbers != list(range(current.version - len(numbers), current.version)):
        raise MalformedCube(f"history of {id} does not count up to the version before the present one")
    return PackedMemory(current, _lineage(found["lineage"], id), _usage(found["usage"], id), tuple(earlier))


def version_from_plain(record: object) -> PackedVersion:
    """One version, without lineage, usage and history. Raises as `from_plain`."""
    found = fields.mapping(record, "a version", VERSION_FIELDS)
    return _version(found, fields.identifier(found["id"], "id of a version"))


def _version(record: Mapping[str, Any], id: str) -> PackedVersion:
    if record["id"] != id:
        raise MalformedCube(f"history of {id} is that of another memory")
    return PackedVersion(
        content=fields.text(record["content"], f"content of {id}", MAX_CONTENT_CHARS),
        version=fields.whole(record["version"], f"version of {id}", 1),
        state=fields.choice(record["state"], f"state of {id}", State),
        descriptive=_descriptive(record, id),
        governance=_governance(record, id),
        tier=fields.choice(record["tier"], f"tier of {id}", Tier),
        author=fields.text(record["author"], f"author of {id}", MAX_NAME_CHARS),
        change=fields.text(record["change"], f"change of {id}", MAX_NAME_CHARS),
        reason=fields.maybe_text(record["reason"], f"reason of {id}", MAX_REASON_CHARS),
    )


def _descriptive(record: Mapping[str, Any], id: str) -> Descriptive:
    position = record["position"]
    return Descriptive(
        id=id,
        kind=fields.choice(record["kind"], f"kind of {id}", Kind),
        created_at=fields.instant(record["created_at"], f"created_at of {id}"),
        updated_at=fields.instant(record["updated_at"], f"updated_at of {id}"),
        occurred_at=fields.maybe_instant(record["occurred_at"], f"occurred_at of {id}"),
        origin=fields.choice(record["origin"], f"origin of {id}", Origin),
        source=fields.maybe_text(record["source"], f"source of {id}", MAX_SOURCE_CHARS),
        actor=fields.maybe_text(record["actor"], f"actor of {id}", MAX_NAME_CHARS),
        role=fields.maybe_text(record["role"], f"role of {id}", MAX_NAME_CHARS),
        session=fields.maybe_text(record["session"], f"session of {id}", MAX_SESSION_CHARS),
        position=None if position is None else fields.whole(position, f"position of {id}"),
        tags=_texts(record["tags"], f"tags of {id}", MAX_TAGS, MAX_TAG_CHARS),
        entities=_texts(record["entities"], f"entities of {id}", MAX_ENTITIES, MAX_PHRASE_CHARS),
        mentions=tuple(
            _mention(item, f"mentions of {id}")
            for item in fields.array(record["mentions"], f"mentions of {id}", MAX_MENTIONS)
        ),
        parts=fields.whole(record["parts"], f"parts of {id}"),
        metadata=fields.metadata(record["metadata"], f"metadata of {id}"),
    )


def _governance(record: Mapping[str, Any], id: str) -> Governance:
    return Governance(
        expires_at=fields.maybe_instant(record["expires_at"], f"expires_at of {id}"),
        priority=fields.whole(record["priority"], f"priority of {id}", -MAX_COUNT),
        sensitivity=fields.choice(record["sensitivity"], f"sensitivity of {id}", Sensitivity),
        pinned=fields.flag(record["pinned"], f"pinned of {id}"),
        frozen=fields.flag(record["frozen"], f"frozen of {id}"),
    )


def _texts(value: object, what: str, most: int, most_chars: int) -> tuple[str, ...]:
    return tuple(fields.text(item, what, most_chars) for item in fields.array(value, what, most))


def _mention(value: object, what: str) -> Mention:
    found = fields.mapping(value, what, {"text", "start", "end"})
    mention = Mention(
        fields.text(found["text"], what, MAX_PHRASE_CHARS),
        fields.instant(found["start"], what),
        fields.instant(found["end"], what),
    )
    if mention.end < mention.start:
        raise MalformedCube(f"{what}: one ends before it starts")
    return mention


def _lineage(value: object, id: str) -> tuple[Lineage, ...]:
    edges: list[Lineage] = []
    for item in fields.array(value, f"lineage of {id}", MAX_EDGES):
        found = fields.mapping(item, f"lineage of {id}", {"relation", "source", "version"})
        edges.append(
            Lineage(
                fields.choice(found["relation"], f"relation in the lineage of {id}", Relation),
                fields.identifier(found["source"], f"source in the lineage of {id}"),
                fields.whole(found["version"], f"version in the lineage of {id}", 1),
            )
        )
    if len({(edge.relation, edge.source) for edge in edges}) != len(edges):
        raise MalformedCube(f"lineage of {id} has an edge twice")
    return tuple(edges)


def _edge_order(edge: Lineage) -> tuple[str, str, int]:
    return edge.relation.value, edge.source, edge.version


def _usage(value: object, id: str) -> Behavioural:
    found = fields.mapping(value, f"usage of {id}", {"access_count", "last_access"})
    return Behavioural(
        fields.whole(found["access_count"], f"access_count of {id}"),
        fields.maybe_instant(found["last_access"], f"last_access of {id}"),
    )
