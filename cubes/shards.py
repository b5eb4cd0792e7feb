"""Shards: how the memories of a bundle are cut into members of a few megabytes, and read again one by one.

The cut depends on nothing but the memories, so equal cubes have equal shards. At any time one shard is in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cubes.cube import State
from cubes.errors import MalformedCube, TooLargeBundle, named
from cubes.limits import (
    MAX_LINE_BYTES,
    MAX_LINE_VECTOR_BYTES,
    MAX_MEMORIES,
    MAX_SHARDS,
    SHARD_BYTES,
    SHARD_MEMORIES,
    SHARD_VECTOR_BYTES,
)
from cubes.manifest import Counts, shard_names
from cubes.records import PackedMemory, Vectors, from_line, to_line
from cubes.seen import Seen
from cubes.tensors import check_vectors, embeddings_bytes, read_embeddings


@dataclass(slots=True)
class Tally:
    """Counts what went by, and refuses a memory that comes twice."""

    memories: int = 0
    versions: int = 0
    edges: int = 0
    passages: int = 0
    states: Counter[State] = field(default_factory=Counter)
    ids: Seen = field(default_factory=Seen)

    def add(self, memory: PackedMemory) -> None:
        if not self.ids.add(memory.id):
            raise MalformedCube(f"the memory {memory.id} is there twice")
        self.memories += 1
        if self.memories > MAX_MEMORIES:
            raise TooLargeBundle(f"more than {MAX_MEMORIES} memories do not fit into one bundle")
        self.versions += 1 + len(memory.history)
        self.edges += len(memory.lineage)
        self.passages += 0 if memory.vectors is None else len(memory.vectors)
        self.states[memory.current.state] += 1

    @property
    def counts(self) -> Counts:
        states = tuple(sorted(self.states.items()))
        return Counts(self.memories, self.versions, self.edges, self.passages, states)


@dataclass(slots=True)
class _Shard:
    """The one that is being filled."""

    dimension: int | None
    lines: list[bytes] = field(default_factory=list)
    vectors: list[Vectors | None] = field(default_factory=list)
    line_bytes: int = 0
    vector_bytes: int = 0

    def has_room(self, line: bytes, vector_bytes: int) -> bool:
        return not self.lines or (
            len(self.lines) < SHARD_MEMORIES
            and self.line_bytes + len(line) <= SHARD_BYTES
            and self.vector_bytes + vector_bytes <= SHARD_VECTOR_BYTES
        )

    def add(self, line: bytes, vectors: Vectors | None, vector_bytes: int) -> None:
        self.lines.append(line)
        self.vectors.append(vectors)
        self.line_bytes += len(line)
        self.vector_bytes += vector_bytes

    def contents(self) -> tuple[bytes, bytes | None]:
        embedded = None if self.dimension is None else embeddings_bytes(self.vectors, self.dimension)
        return b"".join(self.lines), embedded


def cut(
    memories: Iterable[PackedMemory], dimension: int | None, tally: Tally
) -> Iterator[tuple[str, bytes, str, bytes | None]]:
    """The shards of these memories, in order: name and bytes of the lines, name and bytes of the vectors.

    `dimension` None: without vectors. `tally` counts what went by.

    Raises:
        MalformedCube, TooLargeBundle: no bundle may hold a memory; the message names it.
    """
    number, shard = 0, _Shard(dimension)
    for memory in memories:
        line, size = to_line(memory), _vector_bytes(memory, dimension)
        tally.add(memory)
        if not shard.has_room(line, size):
            yield _named(number, shard)
            number, shard = number + 1, _Shard(dimension)
        shard.add(line, memory.vectors, size)
    if shard.lines:
        yield _named(number, shard)


def _named(number: int, shard: _Shard) -> tuple[str, bytes, str, bytes | None]:
    if number >= MAX_SHARDS:
        raise TooLargeBundle(f"more than {MAX_SHARDS} shards of memories do not fit into one bundle")
    lines, vectors = shard_names(number)
    texts, embedded = shard.contents()
    return lines, texts, vectors, embedded


def _vector_bytes(memory: PackedMemory, dimension: int | None) -> int:
    """How much room its vectors take; they are checked here, where the memory can be named."""
    if memory.vectors is None:
        return 0
    if dimension is None:
        raise MalformedCube(f"{memory.id} has vectors, but the bundle names no embedder")
    with named(memory.id):
        check_vectors(memory.vectors, dimension)
    if memory.vectors.nbytes > MAX_LINE_VECTOR_BYTES:
        raise TooLargeBundle(
            f"{memory.id} has {memory.vectors.nbytes} bytes of vectors: at most {MAX_LINE_VECTOR_BYTES} are allowed"
        )
    return int(memory.vectors.nbytes)


def read_lines(raw: bytes) -> list[PackedMemory]:
    """The memories of a shard, without vectors.

    Raises:
        MalformedCube, TooLargeBundle: the message names the line.
    """
    if not raw.endswith(b"\n"):
        raise MalformedCube("its last line has no end")
    lines = raw[:-1].split(b"\n", SHARD_MEMORIES)
    if len(lines) > SHARD_MEMORIES:
        raise TooLargeBundle(f"it has more than {SHARD_MEMORIES} lines")
    if len(lines) > 1 and len(raw) > SHARD_BYTES:
        raise TooLargeBundle(f"it has {len(raw)} bytes: only one line alone may have more than {SHARD_BYTES}")
    found: list[PackedMemory] = []
    for number, line in enumerate(lines, 1):
        if len(line) >= MAX_LINE_BYTES:
            raise TooLargeBundle(f"line {number} has {len(line)} bytes: at most {MAX_LINE_BYTES} are allowed")
        with named(f"line {number}"):
            found.append(from_line(line))
    return found


def read_vectors(raw: bytes, memories: int, dimension: int) -> list[Vectors | None]:
    """The vectors of a shard of so many memories. Raises as `read_lines`."""
    vectors = read_embeddings(raw, memories, dimension)
    if memories > 1 and sum(rows.nbytes for rows in vectors if rows is not None) > SHARD_VECTOR_BYTES:
        raise TooLargeBundle(f"only one memory alone may have more than {SHARD_VECTOR_BYTES} bytes of vectors")
    return vectors
