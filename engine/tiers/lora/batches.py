"""Prompts with their answers through the model at once, in pieces of like length, and the logits of the answers alone.

Rows are padded behind, where a causal model does not look, so no mask is needed and the fast attention kernels serve.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from engine.model.loading import Loaded

PIECE_TOKENS = 4_096  # padding among them
Pair = tuple[Sequence[int], Sequence[int]]  # a prompt and its answer


def pieces(lengths: Sequence[int], piece_tokens: int = PIECE_TOKENS) -> Iterator[list[int]]:
    """Places of rows that go together: of like length, and no more tokens than that, one row at least."""
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    piece: list[int] = []
    for place in order:
        if piece and (lengths[place] * (len(piece) + 1) > piece_tokens or lengths[place] > 2 * lengths[piece[0]]):
            yield piece
            piece = []
        piece.append(place)
    if piece:
        yield piece


def predicted(
    loaded: Loaded, rows: Sequence[Pair], piece_tokens: int = PIECE_TOKENS
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """For each piece the places of its rows, and for each the logits [tokens, vocabulary] that predict its answer."""
    lengths = [len(prompt) + len(answer) for prompt, answer in rows]
    for places in pieces(lengths, piece_tokens):
        with torch.inference_mode():
            said = logits_of(loaded.model, [rows[place] for place in places])
        yield places, said


def logits_of(model: Any, rows: Sequence[Pair]) -> list[torch.Tensor]:
    """The logits that predict each answer, in one forward pass, with gradients where they are on."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = [[*prompt, *answer, *[0] * (longest - len(prompt) - len(answer))] for prompt, answer in rows]
    given = torch.tensor(ids, device=model.device)
    spans = [(len(prompt) - 1, len(prompt) + len(answer) - 1) for prompt, answer in rows]
    wanted = sorted({place for start, end in spans for place in range(start, end)})
    if not _takes_places(model):
        logits = model(input_ids=given, use_cache=False).logits
        return [logits[row, start:end] for row, (start, end) in enumerate(spans)]
    asked = torch.tensor(wanted, device=model.device)
    logits = model(input_ids=given, use_cache=False, logits_to_keep=asked).logits
    where = {place: number for number, place in enumerate(wanted)}
    return [logits[row, where[start] : where[end - 1] + 1] for row, (start, end) in enumerate(spans)]


def _takes_places(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
