"""The working cache of one reply: a stored prefix, chunks re-rotated to where they stand, and what had to be computed.

What stays true: the cache holds exactly the first tokens of the prompt, each at its own position; with no chunk in it,
it is what a full prefill would have made. Every step of the generators is one forward pass or less, so that other
replies get their turn between them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from engine.model.caches import OwnCache
from engine.model.loading import Loaded
from engine.model.prompts import Prompt
from engine.tiers.kv.encoding import PIECE_TOKENS, prefill
from engine.tiers.kv.entries import Scope
from engine.tiers.kv.found import Chunk
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


def assemble(
    loaded: Loaded,
    prompt: Prompt,
    store: KvStore | None,
    scopes: Sequence[Scope],
    chunks: Mapping[str, Chunk],
    share: float,
    new_tokens: int,
) -> Generator[None, None, Assembled]:
    """The cache for a prompt.

    `chunks` are those to be used, by memory id; `share` of their tokens is computed anew. Without a store, and without
    chunks, the cache is empty: everything is to be prefilled. It is the model's own where the model lets none be kept.
    """
    ids = prompt.ids
    if loaded.layout.refusal is not None:
        return Assembled(OwnCache(loaded.model.config))
    cache = WorkingCache(loaded.model.config, len(ids) + new_tokens + SPARE_TOKENS)
    made = Assembled(cache)
    places = [
        (start, end, piece)
        for start, end, piece in prompt.spans()
        if piece.kind == "note" and not piece.pinned and piece.note is not None and piece.note.id in chunks
    ]
    exact_end = places[0][0] if places else len(ids) - 1
    if store is not None:
        found = store.longest(loaded.info, scopes, ids[:exact_end])
        if found is not None:
            made.prefix_tokens = made.reused_tokens = store.fill(found, cache)
            yield None
    if not places:
        return made
    for start in range(cache.tokens, exact_end, PIECE_TOKENS):
        prefill(loaded, ids[start : min(exact_end, start + PIECE_TOKENS)], cache)
        yield None
    yield from composed(
        loaded, cache, ids, [(start, chunks[piece.note.id]) for start, _, piece in places if piece.note], share
    )
    chosen = sum(len(choose(share, [(start, end)])) for start, end, _ in places)
    made.recomputed_tokens = chosen
    made.reused_tokens += sum(end - start for start, end, _ in places) - chosen
    made.chunks = frozenset(piece.note.id for _, _, piece in places if piece.note is not None)
    return made


def composed(
    loaded: Loaded, cache: WorkingCache, ids: Sequence[int], chunks: Sequence[tuple[int, Chunk | Part]], share: float
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
