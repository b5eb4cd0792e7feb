"""MemCube and Memory: what memory is, before anything stores, indexes or sends it.

Terms are those of the MemOS papers (arXiv 2507.03724, section on the MemCube): a payload in one of three tiers under a
header of three groups: descriptive identifiers, governance attributes, behavioural usage indicators.

These types are immutable, know no database, no model and no protocol, and hold no rule about how memory changes: that
is `engine.lifecycle`. All instants are aware datetimes in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from cubes.canonical import digest


class Kind(StrEnum):
    """Semantic type: what sort of thing a memory says."""

    FACT = "fact"
    PREFERENCE = "preference"
    EVENT = "event"
    PROCEDURE = "procedure"
    DOCUMENT = "document"
    MESSAGE = "message"


KINDS = tuple(kind.value for kind in Kind)


class Origin(StrEnum):
    """Origin signature: how a memory came to be."""

    USER = "user"
    INFERENCE = "inference"
    RETRIEVAL = "retrieval"
    DOCUMENT = "document"
    PARAMETRIC = "parametric"


class State(StrEnum):
    """Where a memory stands in its life. `engine.lifecycle` has the table of moves."""

    GENERATED = "generated"
    ACTIVATED = "activated"
    MERGED = "merged"
    ARCHIVED = "archived"
    EXPIRED = "expired"


class Tier(StrEnum):
    """The form in which a memory is held."""

    PLAINTEXT = "plaintext"
    ACTIVATION = "activation"
    PARAMETRIC = "parametric"


class Scope(StrEnum):
    """Who may do a thing with a cube."""

    PRIVATE = "private"
    SHARED = "shared"
    PUBLIC = "public"


class Sensitivity(StrEnum):
    """How carefully a memory is to be handled."""

    NORMAL = "normal"
    PERSONAL = "personal"
    SECRET = "secret"


class Relation(StrEnum):
    """How a memory came out of another one. The edge goes from the derived memory to its source."""

    PART_OF = "part_of"  # a piece of a long text -> the whole
    FUSED_FROM = "fused_from"  # the fused memory -> each parent
    SUPERSEDES = "supersedes"  # the new memory -> the one that it replaces
    CONFLICTS_WITH = "conflicts_with"  # the newer rival -> the older one; both are kept
    FOLLOWS = "follows"  # a turn -> the turn before it


@dataclass(frozen=True, slots=True)
class Lineage:
    """One edge: this memory stands in `relation` to version `version` of memory `source`."""

    relation: Relation
    source: str
    version: int


@dataclass(frozen=True, slots=True)
class Mention:
    """A time that the text speaks of, resolved: the words, and the half-open interval [start, end) in UTC."""

    text: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Descriptive:
    """Descriptive identifiers."""

    id: str
    kind: Kind
    created_at: datetime
    updated_at: datetime
    occurred_at: datetime | None = None
    origin: Origin = Origin.USER
    source: str | None = None
    actor: str | None = None
    role: str | None = None
    session: str | None = None
    position: int | None = None
    tags: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    mentions: tuple[Mention, ...] = ()
    parts: int = 0  # the pieces that a long text was split into: they are recalled, the whole is read by its id


@dataclass(frozen=True, slots=True)
class Governance:
    """Governance attributes."""

    expires_at: datetime | None = None
    priority: int = 0
    sensitivity: Sensitivity = Sensitivity.NORMAL
    pinned: bool = False
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Behavioural:
    """Behavioural usage indicators: how the memory is used."""

    access_count: int = 0
    last_access: datetime | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """One unit in a cube: payload and header. The id never changes; the version grows with every change."""

    cube: str
    content: str
    version: int
    state: State
    descriptive: Descriptive
    governance: Governance = field(default_factory=Governance)
    behavioural: Behavioural = field(default_factory=Behavioural)
    lineage: tuple[Lineage, ...] = ()
    tier: Tier = Tier.PLAINTEXT

    @property
    def id(self) -> str:
        return self.descriptive.id

    @property
    def kind(self) -> Kind:
        return self.descriptive.kind


@dataclass(frozen=True, slots=True)
class CubePolicy:
    """Who may read, write and share a cube."""

    read: Scope = Scope.PRIVATE
    write: Scope = Scope.PRIVATE
    share: Scope = Scope.PRIVATE


@dataclass(frozen=True, slots=True)
class MemCube:
    """A named container of memories in all tiers: the unit of sharing and access."""

    name: str
    owner: str
    created_at: datetime
    updated_at: datetime
    version: int = 1
    description: str = ""
    policy: CubePolicy = field(default_factory=CubePolicy)


def memory_digest(memory: Memory) -> str:
    """Digest of what a memory *is*: payload and header without usage, which changes by being read."""
    return digest(
        {
            "cube": memory.cube,
            "content": memory.content,
            "version": memory.version,
            "state": memory.state,
            "tier": memory.tier,
            "descriptive": memory.descriptive,
            "governance": memory.governance,
            "lineage": memory.lineage,
        }
    )
