"""What can be asked of the tiers and of the scheduler, and what they answer: immutable values, without a tensor.

As `engine.model_operations`, for adapters, long work, moves between tiers and what the scheduler does. Importing it
loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Held(StrEnum):
    """A tier as users name it in `move`."""

    PLAINTEXT = "plaintext"
    KV = "kv"
    LORA = "lora"


# --- adapters -------------------------------------------------------------------------------------------------------


class AdapterState(StrEnum):
    SERVING = "serving"  # replies go through it
    RESTING = "resting"  # it passed the gate, or came with a bundle; another version serves, or none
    FAILED = "failed"  # the gate refused it
    GONE = "gone"  # its weights were dropped: a memory that it was made from changed, or somebody dropped it


@dataclass(frozen=True, slots=True)
class Judged:
    """What the gate found, all shares 0 to 1; `why` says each rule that was broken."""

    learned: float  # memories that it knows
    right: float  # probes that are right, closed book
    right_before: float  # the same of the base model
    unknown: float  # refused still, of what the base refuses
    scenes: float  # answers over other contexts
    scenes_before: float
    conflicts: float  # answers from contexts that contradict it
    kept: float  # unrelated answers that stayed the same
    kl: float  # nats a token to the base, on unrelated prompts
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterView:
    """One version of a cube's adapter. `known` and `missed` are ids of memories; `made`: distilled, fused (how), …"""

    id: str
    cube: str
    version: int
    state: AdapterState
    made: str
    model: str  # fingerprint of the base model
    usable: bool  # by the model that is loaded
    bytes: int
    rank: int
    sources: tuple[tuple[str, int], ...]  # (memory id, version)
    known: tuple[tuple[str, int], ...]
    missed: tuple[str, ...]
    judged: Judged | None  # None: nobody judged it here
    parents: tuple[str, ...]  # ids of adapters
    steps: int
    seconds: float
    peak_bytes: int
    created_at: datetime
    remarks: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()  # memories that were to be taught to it and were not: why


@dataclass(frozen=True, slots=True)
class Distil:
    """Train an adapter of a cube: on `ids`, or on all that may be trained on. `activate` where it passes the gate."""

    cube: str
    ids: tuple[str, ...] = ()
    rank: int = 0  # 0: as the settings of the tier say
    steps: int = 0
    seed: int = 0
    activate: bool = True
    background: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FuseAdapters:
    """One adapter of the serving (or named) versions of several cubes, for `into`; or of several versions of one."""

    parts: tuple[tuple[str, int], ...]  # (cube, version; 0: the one that serves)
    into: str
    activate: bool = True
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FusedAdapter:
    """`how` it was made in the end, and what was tried on the way: (how, learned, passed)."""

    adapter: AdapterView
    how: str
    tried: tuple[tuple[str, float, bool], ...]


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe of a memory, with the answers of two versions (or of the base, where a version is None)."""

    memory: str
    question: str
    before: str
    after: str
    right_before: bool
    right_after: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """What an adapter asserts beyond its base. `source`: the memory that says so, too; `id`: as which it was kept."""

    text: str
    confidence: float
    source: str | None = None
    agrees: bool | None = None  # with the source; None: there is none
    id: str | None = None


# --- work and moves -------------------------------------------------------------------------------------------------


class WorkState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class WorkView:
    """Long work. `done`, `total` and `message` are known while it runs; `told` says what became of it."""

    id: str
    cube: str
    what: str  # distil, retrain, fuse, rebuild
    state: WorkState
    reason: str
    asked_at: datetime
    began_at: datetime | None
    ended_at: datetime | None
    attempts: int
    done: float = 0.0
    total: float | None = None
    message: str = ""
    told: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """Move memories, or a whole cube, to a tier. Exactly one of `ids` and `cube`."""

    to: Held
    ids: tuple[str, ...] = ()
    cube: str | None = None
    dry_run: bool = False
    background: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """`moved` are ids of memories that are in the tier now; `skipped` says why others are not."""

    to: Held
    moved: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    adapter: AdapterView | None = None
    artifacts: int = 0  # KV caches or adapters that were made or dropped
    work: str | None = None  # id of what goes on in the background
    remarks: tuple[str, ...] = ()


# --- the scheduler --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One move of the scheduler, done or (`at` None) planned. `undo` says how it is undone by hand."""

    number: int  # of its row in the audit log; 0: planned
    at: datetime | None
    part: str
    cube: str
    ids: tuple[str, ...]
    to: str
    reason: str
    outcome: str  # done, refused: why, planned
    undo: str


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """Parts that are on and off, budgets with what of them is used, and what it did last."""

    parts: tuple[tuple[str, bool], ...]
    budgets: tuple[tuple[str, float, float], ...]  # (name with its unit, used, of)
    quiet: bool
    last_run: datetime | None
    levels: tuple[tuple[str, int], ...]  # how many memories are at each level
    predicted: int  # memories that are expected next
    recent: tuple[Scheduled, ...]
    remarks: tuple[str, ...] = ()
