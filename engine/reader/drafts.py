"""What the reader hands on: drafts, which have neither an id nor a state yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cubes import Governance, Kind, Mention, Origin


@dataclass(frozen=True, slots=True)
class Draft:
    """A memory to be: its content, and what the text itself says about it.

    `part_of` is the index of the draft that is the whole of which this is a piece. A draft of origin `retrieval` holds
    nothing but recalled memories (`echoed`, in order): it is what these ids already say, and not new knowledge.
    """

    content: str
    kind: Kind
    origin: Origin = Origin.USER
    occurred_at: datetime | None = None
    mentions: tuple[Mention, ...] = ()
    entities: tuple[str, ...] = ()
    role: str | None = None
    actor: str | None = None  # the speaker's name, else the role
    session: str | None = None
    position: int | None = None
    tags: tuple[str, ...] = ()
    source: str | None = None
    part_of: int | None = None
    echoed: tuple[str, ...] = ()
    metadata: str | None = None
    governance: Governance | None = None  # None: as the request and the cube say
    drawn_from: tuple[tuple[str, int], ...] = ()  # (id, version) of the memories that say it, where a model drew it out


@dataclass(frozen=True, slots=True)
class Reading:
    """All drafts of a request, in input order; of a conversation the n-th draft is the n-th turn."""

    drafts: tuple[Draft, ...]

    @property
    def echoed(self) -> tuple[str, ...]:
        """Ids of all recalled memories that came back in the request, each once."""
        return tuple(dict.fromkeys(memory_id for draft in self.drafts for memory_id in draft.echoed))
