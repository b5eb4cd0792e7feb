"""What can be asked of the engine and what it answers: requests and results as immutable values.

These are the engine's own words for the contract's tools. The wire layer parses what clients send into requests and
renders results; nothing here knows how they travelled. Bounds that hold for every caller stand here, named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cubes import Action, Kind, MemCube, Memory, Sensitivity, State

DEFAULT_CUBE = "default"
MAX_CONTENT_CHARS = 200_000
MAX_TURN_CHARS = 1_000_000  # a turn is kept verbatim, and some paste whole logs or books into one
MAX_MESSAGES = 10_000
MAX_QUERY_CHARS = 8_000
MAX_CUBE_NAME_CHARS = 64
MAX_TAGS = 64
MAX_TAG_CHARS = 128
MAX_SOURCE_CHARS = 2_048
MAX_REASON_CHARS = 2_048
MAX_IDS = 1_000
RECALL_LIMIT = 8
RECALL_TOKENS = 2_000
MIN_RECALL_TOKENS, MAX_RECALL_TOKENS = 50, 100_000
CONFIRM_MINUTES = 10
PAGE_SIZE = 100

Progress = Callable[[float, float | None, str], None]
"""`progress(done, total, message)`: may raise `Cancelled`; called only where stopping leaves a whole state."""


def silent(done: float, total: float | None, message: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `grants` maps cube names (or `*`) to actions; the owner of the data folder may do everything."""

    name: str
    owner: bool = False
    grants: tuple[tuple[str, tuple[Action, ...]], ...] = ()


OWNER = Principal(name="owner", owner=True)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, through which client (a hint, never trusted), and under which operation id.

    A request that carries an operation id is carried out at most once: sent again with the same arguments, it gets
    the recorded answer.
    """

    principal: Principal = OWNER
    client: str = ""
    operation: str | None = None


# --- remember ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation, kept verbatim."""

    role: str
    content: str
    name: str | None = None
    at: datetime | None = None


class Facts(StrEnum):
    """When a reader model draws statements from a conversation; without a reader none are drawn."""

    LATER = "later"  # in the background: the turns are acknowledged first
    WAIT = "wait"  # before the answer, which says what was drawn
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Remember:
    """Exactly one of `content` and `messages`."""

    content: str | None = None
    messages: tuple[Turn, ...] = ()
    cube: str = DEFAULT_CUBE
    kind: Kind | None = None
    tags: tuple[str, ...] = ()
    occurred_at: datetime | None = None
    expires_in_days: float | None = None
    source: str | None = None
    supersedes: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None  # None: as sensitive as what it supersedes, else normal
    facts: Facts | None = None  # None: later, but for conversations of many turns


class Status(StrEnum):
    ADDED = "added"
    DUPLICATE = "duplicate"
    SUPERSEDING = "superseding"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Stored:
    id: str
    version: int
    status: Status
    conflicts_with: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remembered:
    """`stored`: one for each memory of the request. `facts`: what a reader drew from its turns, where that was waited
    for; else `work` is the id of the work that draws it. `remarks`: what is to be known of that, in words."""

    cube: str
    revision: int
    stored: tuple[Stored, ...]
    facts: tuple[Stored, ...] = ()
    work: str | None = None
    remarks: tuple[str, ...] = ()


# --- recall -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recall:
    query: str
    cubes: tuple[str, ...] | None = None  # None: all that the caller may read
    limit: int = RECALL_LIMIT
    max_tokens: int = RECALL_TOKENS
    kinds: tuple[Kind, ...] = ()
    tags: tuple[str, ...] = ()
    after: datetime | None = None
    before: datetime | None = None
    as_of: datetime | None = None
    include_archived: bool = False
    detailed: bool = False  # with lineage and usage


@dataclass(frozen=True, slots=True)
class Recollection:
    """A recalled memory: `score` is calibrated to 0..1; `why` says in words what found it."""

    memory: Memory
    score: float
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recalled:
    memories: tuple[Recollection, ...]
    omitted: int = 0  # found, but over the token budget
    degraded: str | None = None
    nothing_relevant: bool = False


# --- forget -----------------------------------------------------------------------------------------------------


class Mode(StrEnum):
    ARCHIVE = "archive"
    ERASE = "erase"


@dataclass(frozen=True, slots=True)
class Forget:
    """Act on `ids`, or preview what matches `query` (in `cube`), or act on a `confirm` token.

    `confirmed` says that a person has already been asked (elicitation, a prompt on a terminal): erase by ids without
    it only previews.
    """

    ids: tuple[str, ...] = ()
    query: str | None = None
    cube: str | None = None
    confirm: str | None = None
    mode: Mode = Mode.ARCHIVE
    reason: str | None = None
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Forgotten:
    id: str
    mode: Mode


@dataclass(frozen=True, slots=True)
class Preview:
    id: str
    content: str


@dataclass(frozen=True, slots=True)
class Invalidated:
    kv: int = 0
    lora: int = 0


@dataclass(frozen=True, slots=True)
class AdapterGone:
    """A version of a cube's adapter that knew what was erased, and was dropped; `served`: replies went through it."""

    cube: str
    version: int
    served: bool


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature: the algorithm, the public key and what was made with it, each as text."""

    algorithm: str
    key: str
    signature: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of an erasure that holds no content: `digests` are keyed with a key that never leaves the vault."""

    id: str
    at: datetime
    erased: tuple[str, ...]
    digests: tuple[str, ...]
    removed: tuple[tuple[str, int], ...]  # what was removed, and how many: versions, embeddings, …
    out_of_reach: tuple[str, ...] = ()  # copies that this erasure could not reach, by path
    audit_seq: int = 0
    store: str = ""
    kv: tuple[tuple[str, int], ...] = ()  # KV caches that were dropped, by cube; "": those of conversations
    lora: tuple[AdapterGone, ...] = ()
    rewritten: tuple[str, ...] = ()  # what was written anew without it
    withdrawn: tuple[str, ...] = ()  # bundles that were taken off shelves
    withheld: int = 0  # copies, withdrawn or out of reach, of which only the store's owner is told
    finished_at: datetime | None = None  # None: copies are still being removed
    signed: Signed | None = None


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """A receipt whose signature is true: whose key made it, and under which name that is known here (None: it is not).

    `noted`: the audit log of this store holds this very receipt; None: it was not looked up.
    """

    receipt: Receipt
    key: str
    fingerprint: str
    known_as: str | None
    noted: bool | None = None


@dataclass(frozen=True, slots=True)
class ForgetResult:
    forgotten: tuple[Forgotten, ...] = ()
    not_found: tuple[str, ...] = ()
    preview: tuple[Preview, ...] = ()
    confirm: str | None = None
    invalidated: Invalidated = Invalidated()
    receipt: Receipt | None = None


# --- fuse -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fuse:
    """Fuse `ids` into one memory (with the caller's own synthesis in `content`), or propose groups in `cube`."""

    ids: tuple[str, ...] = ()
    content: str | None = None
    cube: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """What parents disagree about; `ids` are the rivals."""

    ids: tuple[str, ...]
    about: str


@dataclass(frozen=True, slots=True)
class Fused:
    id: str | None = None  # None in a dry run and for proposals
    version: int | None = None
    merged: tuple[str, ...] = ()
    conflicts: tuple[Difference, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    content: str | None = None  # what the fused memory says (would say, in a dry run)


# --- reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """One row of a memory's history, oldest first."""

    id: str
    version: int
    at: datetime
    author: str
    change: str  # remember, archive, supersede, fuse, restore, expire, …
    reason: str | None
    state: State
    content: str
    let_go: int = 0  # of the first version that is kept: how many before it were let go by retention


@dataclass(frozen=True, slots=True)
class CubeView:
    """A cube and what it holds: number of memories by state and kind, and the revision of its last change."""

    cube: MemCube
    memories: int
    states: tuple[tuple[str, int], ...]
    kinds: tuple[tuple[str, int], ...]
    revision: int


@dataclass(frozen=True, slots=True)
class InTier:
    """A deeper tier (kv, lora) in which a memory is: the artifact that was derived from it, and how that stands."""

    tier: str
    artifact: str
    state: str


@dataclass(frozen=True, slots=True)
class MemoryView:
    """A memory with what stands around it: what was derived from it, the turns beside it."""

    memory: Memory
    derived: tuple[tuple[str, str], ...] = ()  # (relation, id of the memory derived from this one)
    tiers: tuple[InTier, ...] = ()  # beside its text
    previous: str | None = None
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    memories: tuple[Memory, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    data: str
    store_id: str
    revision: int
    cubes: int
    counts: tuple[tuple[str, int], ...]  # state -> memories
    embedder: str | None
    degraded: str | None
    index: tuple[tuple[str, str], ...]  # cube -> what the index of it is doing
    last_backup: datetime | None
    audit_length: int
    encrypted: bool = False  # at rest: see `engine.vault.encrypting`
    model: str | None = None  # the local model and how it stands, for the owner
    reader: str | None = None  # who draws facts from conversations and how it stands, for the owner
    adapters: tuple[tuple[str, str], ...] = ()  # cube -> which version serves, and what it knows
    work: tuple[str, ...] = ()  # long work that is under way, waits, or failed of late, in words


# --- events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """Something was committed: `ids` of `cube` changed. `cubes_changed`: the list of cubes itself is another one.

    `sensitivity`: who may not see memories that are so sensitive must not hear of it. `headers`: the cube's before and
    now, where there are such. `engine.governance.access.hears_of` decides by these who is told.
    """

    revision: int
    cube: str
    ids: tuple[str, ...]
    change: str
    cubes_changed: bool = False
    sensitivity: Sensitivity = Sensitivity.NORMAL
    headers: tuple[MemCube, ...] = ()


Listener = Callable[[Event], None]
"""Called after the commit, in the order of revisions, on the engine's own thread: it must return at once."""
