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

from cubes.canonical import digest, plain


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


class Action(StrEnum):
    """What a grant may cover."""

    READ = "read"
    WRITE = "write"
    SHARE = "share"
    ADMIN = "admin"


class Sensitivity(StrEnum):
    """How carefully a memory is to be handled, least first."""

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
    DERIVED_FROM = "derived_from"  # what was drawn out by a model -> each memory that says it


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
    metadata: str | None = None  # what its source said besides (front matter, foreign fields): canonical JSON object


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
class Grant:
    """What one principal, by name, may do with a cube."""

    principal: str
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class CubePolicy:
    """Who may read, write and share a cube, and how long and how much it keeps. None: no bound."""

    read: Scope = Scope.PRIVATE
    write: Scope = Scope.PRIVATE
    share: Scope = Scope.PRIVATE
    grants: tuple[Grant, ...] = ()
    ttl_days: float | None = None  # a memory that is stored without an end expires after this
    decay_days: float | None = None  # unused for so long, times 1 + priority, a memory is archived; pinned ones never
    keep_versions: int | None = None  # earlier versions that are kept of each memory
    keep_days: float | None = None  # earlier versions older than this are let go
    max_memories: int | None = None
    max_bytes: int | None = None  # of the present versions' contents, in UTF-8


@dataclass(frozen=True, slots=True)
class Provenance:
    """The watermark of a cube that came out of a bundle: where it was made."""

    store: str  # id of the store in which it was first packed
    cube: str  # its name there
    owner: str  # its owner there


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
    licence: str = ""
    provenance: Provenance | None = None  # None: it was made in this store
    offered: CubePolicy | None = None  # the policy in the bundle that it came from, as long as nobody set another here
    mounted: str | None = None  # the file or folder that it shows; such a cube is read-only


def memory_digest(memory: Memory) -> str:
    """Digest of what a memory *is*: payload and header without usage, which changes by being read.

    What a memory does not have of the fields that came later is left out, so that digests stay what they were.
    """
    about = plain(memory.descriptive)
    assert isinstance(about, dict)
    if memory.descriptive.metadata is None:
        del about["metadata"]
    return digest(
        {
            "cube": memory.cube,
            "content": memory.content,
            "version": memory.version,
            "state": memory.state,
            "tier": memory.tier,
            "descriptive": about,
            "governance": memory.governance,
            "lineage": memory.lineage,
        }
    )
