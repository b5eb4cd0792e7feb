"""Which stored runs of tokens a prompt begins with: chained hashes of blocks, and the longest chain of runs.

A block is 16 tokens; its hash covers all tokens before it too, so that equal hashes mean equal beginnings. The chain
begins with a root that is salted by the model and by whose prefix it is. A segment is a run of whole blocks that knows
the hash before it; segments that follow one another, or overlap, make a prefix.

Pure: knows no tensors, no files, no store. What must stay true: a segment is used only for the very tokens, behind the
very tokens, that it was made from.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

BLOCK_TOKENS = 16
HASH_BYTES = 16  # of SHA-256: 2**64 blocks before two are likely to meet
MAX_SEGMENTS = 8  # of one prefix: each is a file to open

Hashes = tuple[bytes, ...]


class Segment(Protocol):
    """A run of whole blocks. `start` counts tokens; `parent` is the hash before the first block."""

    @property
    def start(self) -> int: ...

    @property
    def parent(self) -> bytes: ...

    @property
    def blocks(self) -> Hashes: ...


S = TypeVar("S", bound=Segment)


@dataclass(frozen=True, slots=True)
class Span(Generic[S]):
    """The tokens `start` to `end` of a prompt are those of the segment."""

    segment: S
    start: int
    end: int


def root_hash(fingerprint: str, salt: str) -> bytes:
    """Where a chain begins: other models and other owners of prefixes have other roots."""
    return hashlib.sha256("\0".join(("memos kv prefix 1", fingerprint, salt)).encode()).digest()[:HASH_BYTES]


def chain_of(root: bytes, ids: Sequence[int]) -> Hashes:
    """The root and the hash of each whole block of `ids`: one more than there are blocks."""
    hashes, block = [root], struct.Struct(f"<{BLOCK_TOKENS}I")
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        told = block.pack(*ids[start : start + BLOCK_TOKENS])
        hashes.append(hashlib.sha256(hashes[-1] + told).digest()[:HASH_BYTES])
    return tuple(hashes)


def ids_digest(ids: Sequence[int]) -> str:
    """A digest of token ids, in hex."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()


def matching(chain: Hashes, find: Callable[[bytes], Iterable[S]]) -> list[Span[S]]:
    """Every segment that fits a prompt somewhere, with how far it does; `find` gives those behind a hash."""
    pairs = [
        (segment, _common(segment.blocks, chain, number))
        for number, parent in enumerate(chain[:-1])
        for segment in find(parent)
        if segment.start == number * BLOCK_TOKENS
    ]
    return [Span(segment, segment.start, segment.start + blocks * BLOCK_TOKENS) for segment, blocks in pairs if blocks]


def _common(blocks: Hashes, chain: Hashes, number: int) -> int:
    """How many of the blocks are the prompt's from block `number` on. A hash covers what is before it: bisect."""
    low, high = 0, min(len(blocks), len(chain) - 1 - number)
    while low < high:
        middle = (low + high + 1) // 2
        if blocks[middle - 1] == chain[number + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def longest(spans: Iterable[Span[S]], start: int = 0) -> list[Span[S]]:
    """The fewest spans that cover a prompt without a gap from `start` as far as possible, each cut to its own part."""
    waiting, chosen, at = sorted(spans, key=lambda span: span.start), list[Span[S]](), start
    while True:
        reaching = [span for span in waiting if span.start <= at < span.end]
        if not reaching:
            return chosen
        best = max(reaching, key=lambda span: span.end)
        chosen.append(Span(best.segment, at, best.end))
        at = best.end


def chain_before(spans: Sequence[Span[S]], last: Span[S]) -> list[Span[S]]:
    """The segments that lead to `last` without a gap, first one first, `last` included, each cut to its own part."""
    chosen = [last]
    while True:
        first = chosen[0]
        before = [span for span in spans if span.start < first.start <= span.end]
        if not before:
            return chosen
        best = min(before, key=lambda span: span.start)
        chosen.insert(0, Span(best.segment, best.start, first.start))


def merged_from(tokens: Sequence[int]) -> int | None:
    """From which of the segments of a chain on, by their lengths, all are to be made one; None: it is short enough.

    A segment is rewritten only together with at least as many tokens behind it, so that each token is rewritten a
    number of times that grows as the logarithm of the chain's length.
    """
    if len(tokens) <= MAX_SEGMENTS:
        return None
    for number, own in enumerate(tokens[:-1]):
        if own <= sum(tokens[number + 1 :]):
            return number
    return len(tokens) - 2
