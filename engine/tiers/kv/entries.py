"""One stored KV cache as the store knows it: what it is of, where it stands, what it is worth; and the index of all.

An entry is a row of the vault's artifacts, or is about to become one. Its metadata in the row is canonical JSON, so
that it can be packed, and says nothing of the cube's name, so that a cube may be installed under another one.

Knows no files. What must stay true: an entry that is `dead` is in no index, and is never used or written again.
"""

from __future__ import annotations

import base64
import json
import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cubes.canonical import json_bytes
from engine.tiers.kv.files import NONE, Identity
from engine.tiers.kv.prefixes import BLOCK_TOKENS, HASH_BYTES, Hashes, Span
from engine.tiers.kv.tensors import Layers
from engine.vault.artifacts import CONVERSATION, ArtifactRow

KIND = "kv"
PREFIX, CHUNK, OTHER = "prefix", "chunk", "other"
HALF_LIFE_S = 86_400.0  # after a day without use, what was used counts half

Sources = tuple[tuple[str, int], ...]
ChunkKey = tuple[str, str, int]  # fingerprint, memory id, version


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose prefixes these are. `cube` is the cube's name, or empty: of conversations of `principal`.

    A cube's prefixes are packed with it and used by whoever sends the same tokens: only what begins with the cube's own
    pinned block, and with no caller's own words, may be kept there. Conversations are never packed, listed or shared.
    """

    cube_name: str
    principal: str = ""

    @staticmethod
    def cube(name: str) -> Scope:
        return Scope(name)

    @staticmethod
    def talk(principal: str) -> Scope:
        return Scope(CONVERSATION, principal)

    @property
    def salt(self) -> str:
        """What the roots of its chains are salted with. Cubes have one in common: their names may change."""
        return f"talk:{self.principal}" if self.cube_name == CONVERSATION else "cube"


@dataclass(eq=False, slots=True)
class Entry:
    """A stored KV cache. Changed under the store's lock only."""

    id: str
    scope: Scope
    form: str
    fingerprint: str
    start: int  # where its first token stood when it was encoded
    tokens: int
    how: str  # it is compressed
    sources: Sources
    created_at: datetime
    parent: bytes = b""
    blocks: Hashes = ()
    ids: str = ""  # digest of its own token ids
    divergence: float | None = None
    share: float | None = None  # of a chunk's tokens were computed anew where its divergence was measured
    vouched: bool = True  # False: it came with a file of somebody unknown, and was not checked yet
    spotted: bool = False  # some blocks of it were checked since the program started
    digest: str = ""  # of its blob; empty: none was written yet
    bytes: int = 0  # of its blob
    uses: int = 0
    heat: float = 1.0
    last_use: datetime | None = None
    layers: Layers | None = None  # in RAM
    ram_bytes: int = 0
    checked: Identity | None = None
    dead: bool = False
    busy: int = 0  # requests that are reading it
    wanted: bool = False  # the scheduler holds it ready: it leaves RAM last
    waiting: bool = False  # for being written, or being written
    writing: bool = False  # its blob is being written
    reading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def end(self) -> int:
        return self.start + self.tokens

    @property
    def known_divergence(self) -> float | None:
        """As it was measured here, or by who is trusted."""
        return self.divergence if self.vouched else None

    @property
    def lossy(self) -> bool:
        return self.how != NONE

    @property
    def loss(self) -> float:
        """By how much it diverges because it is compressed, as far as a bound asks."""
        known = self.known_divergence if self.lossy else 0.0
        return math.inf if known is None else known

    @property
    def chunk_key(self) -> ChunkKey:
        return (self.fingerprint, *self.sources[0])

    def heat_at(self, now: datetime) -> float:
        """How often it was used, what is past counting less."""
        passed = (now - (self.last_use or self.created_at)).total_seconds()
        return float(self.heat * 0.5 ** (max(0.0, passed) / HALF_LIFE_S))

    def worth(self, size: int, now: datetime) -> float:
        """What a byte of it is worth: the prefill that it saves × how often it does ÷ bytes."""
        return self.tokens * self.heat_at(now) / max(1, size)

    def use(self, now: datetime) -> None:
        self.heat, self.last_use, self.uses = self.heat_at(now) + 1, now, self.uses + 1

    # --- as a row ----------------------------------------------------------------------------------------------

    @property
    def about(self) -> dict[str, Any]:
        """What its row tells of it."""
        told: dict[str, Any] = {
            "form": self.form,
            "start": self.start,
            "tokens": self.tokens,
            "compression": self.how,
            "ids": self.ids,
            "divergence": self.divergence,
        }
        if self.form == PREFIX:
            told |= {"parent": _text(self.parent), "blocks": _text(b"".join(self.blocks))}
        if self.form == CHUNK and self.share is not None:
            told["share"] = self.share
        if self.scope.cube_name == CONVERSATION:
            told["talk"] = self.scope.principal
        return told

    @property
    def expected(self) -> dict[str, str]:
        """What its file's metadata must say."""
        told = {"form": self.form, "fingerprint": self.fingerprint, "ids": self.ids}
        told |= {"start": str(self.start), "tokens": str(self.tokens), "compression": self.how}
        if self.form == PREFIX:
            told |= {"parent": _text(self.parent), "blocks": _text(b"".join(self.blocks))}
        return told

    def row(self, digest: str, size: int) -> ArtifactRow:
        metadata = json_bytes(self.about).decode()
        told = (self.uses, self.heat, self.last_use, self.vouched)
        cube = self.scope.cube_name
        return ArtifactRow(
            self.id, cube, KIND, self.fingerprint, digest, size, self.sources, metadata, self.created_at, *told
        )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def entry_of(row: ArtifactRow) -> Entry:
    """The entry of a row. What says of itself nothing that is understood is `OTHER`: it counts, and is never used."""
    try:
        told = json.loads(row.metadata or "{}")
        entry = _entry(row, told)
    except (ValueError, KeyError, TypeError, AttributeError):
        entry = Entry(row.id, Scope(row.cube), OTHER, row.fingerprint, 0, 0, NONE, row.sources, row.created_at)
    entry.digest, entry.bytes, entry.uses = row.digest, row.bytes, row.uses
    entry.heat, entry.last_use, entry.vouched = row.heat, row.last_use, row.vouched
    return entry


def _entry(row: ArtifactRow, told: Mapping[str, Any]) -> Entry:
    """Raises ValueError, KeyError or TypeError where it is not what this program writes: bundles come from anywhere."""
    form, divergence, share = told["form"], told["divergence"], told.get("share")
    start, tokens, how, ids = told["start"], told["tokens"], told["compression"], told["ids"]
    if type(start) is not int or type(tokens) is not int or start < 0 or tokens < 1 or form not in (PREFIX, CHUNK):
        raise ValueError("positions")
    if not isinstance(how, str) or not isinstance(ids, str) or not isinstance(divergence, float | int | None):
        raise TypeError("compression")
    if not isinstance(share, float | int | None):
        raise TypeError("share")
    parent, blocks = b"", b""
    if form == PREFIX:
        parent, blocks = (base64.b64decode(told[name], validate=True) for name in ("parent", "blocks"))
        if len(parent) != HASH_BYTES or len(blocks) * BLOCK_TOKENS != tokens * HASH_BYTES or start % BLOCK_TOKENS:
            raise ValueError("blocks")
    elif len(row.sources) != 1:
        raise ValueError("sources")
    scope = Scope.talk(str(told["talk"])) if row.cube == CONVERSATION else Scope.cube(row.cube)
    hashes = tuple(blocks[at : at + HASH_BYTES] for at in range(0, len(blocks), HASH_BYTES))
    entry = Entry(row.id, scope, form, row.fingerprint, start, tokens, how, row.sources, row.created_at, parent, hashes)
    entry.ids, entry.divergence, entry.share = ids, divergence, share
    return entry


def within(spans: Sequence[Span[Entry]], most: float) -> list[Span[Entry]]:
    """The first ones, as long as those that are compressed diverge by no more than `most` together."""
    chosen, loss = list[Span[Entry]](), 0.0
    for span in spans:
        loss += span.segment.loss
        if span.segment.lossy and loss > most:
            break
        chosen.append(span)
    return chosen


class Index:
    """All entries, found by what they are asked for. Whoever uses it holds the store's lock."""

    def __init__(self) -> None:
        self.by_id: dict[str, Entry] = {}
        self._behind: dict[tuple[Scope, bytes], list[Entry]] = {}
        self._chunks: dict[ChunkKey, Entry] = {}
        self._from: dict[str, set[Entry]] = {}
        self._blobs: dict[str, set[Entry]] = {}
        self.ram_bytes = self.disk_bytes = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.by_id.values())

    def add(self, entry: Entry) -> None:
        self.by_id[entry.id] = entry
        for id, _ in entry.sources:
            self._from.setdefault(id, set()).add(entry)
        if entry.form == PREFIX:
            self._behind.setdefault((entry.scope, entry.parent), []).append(entry)
        elif entry.form == CHUNK:
            self._chunks[entry.chunk_key] = entry
        self.ram_bytes += entry.ram_bytes
        if entry.digest:
            self._blobs.setdefault(entry.digest, set()).add(entry)
            self.disk_bytes += entry.bytes

    def written(self, entry: Entry, digest: str, size: int) -> None:
        """Its blob is there now."""
        entry.digest, entry.bytes = digest, size
        self._blobs.setdefault(digest, set()).add(entry)
        self.disk_bytes += size

    def hold(self, entry: Entry, layers: Layers, size: int) -> None:
        """Its layers are in RAM now."""
        self.let_go(entry)
        entry.layers, entry.ram_bytes = layers, size
        self.ram_bytes += size

    def let_go(self, entry: Entry) -> None:
        """Its layers are not in RAM any more."""
        self.ram_bytes -= entry.ram_bytes
        entry.layers, entry.ram_bytes = None, 0

    def kill(self, entry: Entry) -> None:
        """It is not to be used any more."""
        if entry.dead:
            return
        entry.dead = True
        del self.by_id[entry.id]
        for id, _ in entry.sources:
            _take(self._from, id, entry)
        behind = self._behind.get((entry.scope, entry.parent), [])
        if entry in behind:
            behind.remove(entry)
            if not behind:
                del self._behind[(entry.scope, entry.parent)]
        if entry.form == CHUNK and self._chunks.get(entry.chunk_key) is entry:
            del self._chunks[entry.chunk_key]
        if entry.digest:
            _take(self._blobs, entry.digest, entry)
            self.disk_bytes -= entry.bytes
        self.let_go(entry)

    def behind(self, scope: Scope, parent: bytes) -> list[Entry]:
        return self._behind.get((scope, parent), [])

    def chunk(self, fingerprint: str, id: str, version: int) -> Entry | None:
        return self._chunks.get((fingerprint, id, version))

    def derived(self, id: str) -> Collection[Entry]:
        return self._from.get(id, ())

    def of_blobs(self, digests: Iterable[str]) -> list[Entry]:
        return [entry for digest in digests for entry in self._blobs.get(digest, ())]

    def leaves(self) -> list[Entry]:
        """Entries that no other one of the same scope stands behind: what nothing else needs."""
        parents: dict[Scope, set[bytes]] = {}
        for scope, parent in self._behind:
            parents.setdefault(scope, set()).add(parent)
        return [entry for entry in self if parents.get(entry.scope, set()).isdisjoint(entry.blocks)]


def _take(sets: dict[str, set[Entry]], key: str, entry: Entry) -> None:
    found = sets.get(key, set())
    found.discard(entry)
    if not found:
        sets.pop(key, None)
