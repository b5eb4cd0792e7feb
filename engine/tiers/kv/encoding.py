"""Encodes runs of tokens into keys and values, alone or behind tokens that are encoded already.

It knows nothing of prompts, notes or files. What it is given is never written to.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from engine.tiers.kv.tensors import Layers, WorkingCache, tokens_of

if TYPE_CHECKING:
    from engine.model.loading import Loaded

PIECE_TOKENS = 512  # are encoded at once: between two pieces others may have their turn


def encode(loaded: Loaded, ids: Sequence[int], before: Layers | None = None) -> Layers:
    """The keys and values of `ids`, at the positions behind `before` (which they see), without those of `before`."""
    steps = encoding(loaded, ids, before)
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            return stopped.value  # type: ignore[no-any-return]


def encoding(
    loaded: Loaded, ids: Sequence[int], before: Layers | None = None, piece_tokens: int = PIECE_TOKENS
) -> Generator[int, None, Layers]:
    """As `encode`, yielding after each piece how many tokens are done."""
    start = tokens_of(before) if before else 0
    cache = WorkingCache(loaded.model.config, start + len(ids))
    if before:
        cache.append(before)
    yield from prefilling(loaded, ids, cache, piece_tokens)
    return cache.taken(start, start + len(ids))


def prefill(loaded: Loaded, ids: Sequence[int], cache: WorkingCache) -> None:
    """Let the model read `ids` behind what the cache holds, without computing what it would say."""
    for _ in prefilling(loaded, ids, cache):
        pass


def prefilling(
    loaded: Loaded, ids: Sequence[int], cache: WorkingCache, piece_tokens: int = PIECE_TOKENS
) -> Iterator[int]:
    """As `prefill`, yielding after each piece how many tokens are done."""
    model = loaded.model
    for done in range(0, len(ids), piece_tokens):
        given = torch.tensor([list(ids[done : done + piece_tokens])], device=model.device)
        positions = torch.arange(cache.tokens, cache.tokens + given.shape[1], device=model.device)[None]
        with torch.no_grad():
            model.base_model(input_ids=given, position_ids=positions, past_key_values=cache, use_cache=True)
        yield done + given.shape[1]
