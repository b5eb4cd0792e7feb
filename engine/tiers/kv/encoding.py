"""Encodes runs of tokens into keys and values, alone or behind tokens that are encoded already.

A chunk is best encoded behind a short anchor, the beginning of a prompt up to where notes begin, and kept without it.
Measured on the test model (500 cases of 4 facts and 2 updates, asked for an updated one; text .996): chunks encoded
alone .920 and a mean KL of .103, behind the anchor .926 and .087; with the last half of each recomputed .996 and .0076
against .996 and .0003; as int4 .958 and .978. Without an anchor the first token of each chunk takes the part of the
first token of a text, to which models attend for want of anything else; in the middle of a prompt it has no such part.

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
    decoder, device = loaded.model.get_decoder(), loaded.model.device
    for done in range(0, len(ids), piece_tokens):
        given = torch.tensor([list(ids[done : done + piece_tokens])], device=device)
        with torch.no_grad():  # positions and mask follow from the cache
            decoder(input_ids=given, past_key_values=cache, use_cache=True)
        yield done + given.shape[1]
