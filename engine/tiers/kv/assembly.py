"""The working cache of one reply: a stored prefix, chunks re-rotated to where they stand, and what had to be computed.

What stays true: the cache holds exactly the first tokens of the prompt, each at its own position; with no chunk in it,
it is what a full prefill would have made. Every step of the generators is one forward pass or less, so that other
replies get their turn between them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from engine.model.caches import OwnCache
from engine.model.loading import Loaded
from engine.model.prompts import Piece, Prompt
from engine.tiers.kv.checking import WRONG, spot_check
from engine.tiers.kv.encoding import PIECE_TOKENS, prefill
from engine.tiers.kv.entries import Entry, Scope
from engine.tiers.kv.found import Chunk
from engine.tiers.kv.prefixes import Span
from engine.tiers.kv.recompute import choose, recomputing
from engine.tiers.kv.rotation import Part, place
from engine.tiers.kv.store import KvStore
from engine.tiers.kv.tensors import Layers, WorkingCache, tokens_of

SPARE_TOKENS = 64  # room beyond prompt and reply, so that a cache does not grow at its last tokens


@dataclass(slots=True)
class Assembled:
    """`reused` tokens were not computed anew; `chunks` are the ids of the memories whose own KV cache was used."""

    cache: WorkingCache | OwnCache
    prefix_tokens: int = 0
    reused_tokens: int = 0
    recomputed_tokens: int = 0
    chunks: frozenset[str] = field(default_factory=frozenset)
    prefix: tuple[Span[Entry], ...] = ()  # from which the beginning was copied

    @property
    def unvouched(self) -> tuple[Span[Entry], ...]:
        """What of it came with a file, and was only looked at in places."""
        return tuple(span for span in self.prefix if not span.segment.vouched)


def assemble(
    loaded: Loaded,
    prompt: Prompt,
    store: KvStore | None,
    scopes: Sequence[Scope],
    chunks: Mapping[str, Chunk],
    share: float,
    new_tokens: int,
    exact: Callable[[], bool] = lambda: False,
) -> Generator[None, None, Assembled]:
    """The cache for a prompt. `exact`: whether no compressed cache may be used for its beginning.

    `chunks` are those to be used, by memory id; `share` of their tokens is computed anew. Without a store, and without
    chunks, the cache is empty: everything is to be prefilled. It is the model's own where the model lets none be kept.
    """
    ids = prompt.ids
    if loaded.layout.refusal is not None:
        return Assembled(OwnCache(loaded.model.config))
    room = len(ids) + min(new_tokens, max(0, loaded.info.context_tokens - len(ids)) or new_tokens)
    cache = WorkingCache(loaded.model.config, room + SPARE_TOKENS)
    made = Assembled(cache)
    places = [
        (start, end, piece)
        for start, end, piece in prompt.spans()
        if piece.kind == "note" and not piece.pinned and piece.note is not None and piece.note.id in chunks
    ]
    exact_end = places[0][0] if places else len(ids) - 1
    if store is not None:
        yield from _stored_beginning(loaded, made, cache, store, scopes, ids[:exact_end], exact)
    while parts := _alive(places, chunks):
        start = parts[0][0]
        if cache.tokens == start:
            yield from composed(loaded, cache, ids, parts, share)
            break
        prefill(loaded, ids[cache.tokens : min(start, cache.tokens + PIECE_TOKENS)], cache)
        yield None
    used = {start for start, _ in parts}
    spans = [(start, end, piece.note.id) for start, end, piece in places if start in used and piece.note is not None]
    made.recomputed_tokens = sum(len(choose(share, [(start, end)])) for start, end, _ in spans)
    made.reused_tokens += sum(end - start for start, end, _ in spans) - made.recomputed_tokens
    made.chunks = frozenset(id for *_, id in spans)
    return made


def _stored_beginning(
    loaded: Loaded,
    made: Assembled,
    cache: WorkingCache,
    store: KvStore,
    scopes: Sequence[Scope],
    ids: Sequence[int],
    exact: Callable[[], bool],
) -> Generator[None, None, None]:
    """Fill the empty cache with what is stored of `ids`. What nobody vouches for is looked at first."""
    while (found := store.longest(loaded.info, scopes, ids, near=True)) is not None:
        if any(span.segment.lossy for span in found.spans) and exact():
            found = store.longest(loaded.info, scopes, ids, exact=True)
            if found is None:
                return
        tokens = store.fill(found, cache)
        yield None
        unseen = [
            Span(span.segment, span.start, min(span.end, tokens))
            for span in found.unvouched(tokens)
            if not span.segment.spotted
        ]
        wrong = yield from spot_check(loaded, cache, ids, unseen)
        if wrong is None:
            made.prefix_tokens = made.reused_tokens = tokens
            made.prefix = tuple(span for span in found.spans if span.end <= tokens)
            return
        store.refuse(wrong, WRONG)
        cache.cut(0)


def _alive(places: Sequence[tuple[int, int, Piece]], chunks: Mapping[str, Chunk]) -> list[tuple[int, Part]]:
    """The chunks that are still to be used, and where they begin: what was dropped meanwhile is read as text."""
    found = [(start, chunks[piece.note.id]) for start, _, piece in places if piece.note is not None]
    loaded = [(start, chunk.load(), chunk.start) for start, chunk in found]
    return [(start, Part(layers, first)) for start, layers, first in loaded if layers is not None]


def composed(
    loaded: Loaded, cache: WorkingCache, ids: Sequence[int], chunks: Sequence[tuple[int, Part]], share: float
) -> Generator[None, None, None]:
    """Put chunks into the cache where they are to begin, and compute what stands between them and a share of each anew.

    The cache holds `ids` up to the first chunk.
    """
    parts, spans, fresh, end = list[Part](), list[tuple[int, int]](), list[int](), cache.tokens
    for start, chunk in chunks:
        if end < start:  # computed together with the chosen tokens
            fresh += range(end, start)
            parts.append(Part(_blank(chunk.layers, start - end), end))
        parts.append(Part(chunk.layers, chunk.start))
        end = start + tokens_of(chunk.layers)
        spans.append((start, end))
    place(cache, parts, loaded.layout.rope)
    chosen = torch.unique(torch.cat([choose(share, spans), torch.tensor(fresh, dtype=torch.long)]))
    yield None
    if len(chosen):
        for _ in recomputing(loaded, cache, ids, chosen):
            yield None


def _blank(like: Layers, tokens: int) -> Layers:
    """Rows that are to be overwritten."""
    return tuple(
        (
            keys.new_zeros((*keys.shape[:2], tokens, keys.shape[3])),
            values.new_zeros((*values.shape[:2], tokens, values.shape[3])),
        )
        for keys, values in like
    )
