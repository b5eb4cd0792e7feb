"""Builds KV caches from memories: the pinned block of a cube as a prefix, each memory as a chunk with its divergence.

Chunks are built a few at a time. What they are worth is measured by putting those few beside each other, as a prompt
would, and asking with the first half of each memory: the divergence is the mean KL of the beginning of the answer to
what the model says when it has read them all as text.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import cast

from engine.model.loading import Loaded
from engine.model.prompts import Note, Prompt, lay_out
from engine.model_operations import ChatTurn
from engine.tiers.kv.assembly import composed
from engine.tiers.kv.compression import compressed, restored
from engine.tiers.kv.divergence import divergence
from engine.tiers.kv.encoding import PIECE_TOKENS, encoding, prefill
from engine.tiers.kv.files import NONE
from engine.tiers.kv.rotation import Part
from engine.tiers.kv.tensors import Layers, WorkingCache, sliced

TOGETHER = 4  # memories beside which a chunk is measured, itself among them
ASKED = "What do the notes say?"
MAX_PROBE_WORDS = 40
MAX_NEW_TOKENS = 8  # room for the answers that are compared
ROOM_TOKENS = 128  # for a probe and its answer


@dataclass(frozen=True, slots=True)
class BuiltChunk:
    """A memory's own KV cache: its note, encoded from position `start` on. `divergence` in nats."""

    note: Note
    ids: tuple[int, ...]
    layers: Layers
    start: int
    divergence: float


def pinned_block(loaded: Loaded, pinned: Sequence[Note]) -> tuple[int, ...]:
    """The tokens with which every conversation over these pinned notes begins, up to the last note's end."""
    prompt = lay_out(loaded, [ChatTurn("user", ASKED)], pinned, [], 1)
    return prompt.ids[: pinned_end(prompt)]


def pinned_end(prompt: Prompt) -> int:
    """Where the last pinned note of a prompt ends."""
    return max((end for _, end, piece in prompt.spans() if piece.pinned and piece.note is not None), default=0)


def build_prefix(loaded: Loaded, ids: Sequence[int]) -> Generator[None, None, Layers]:
    """Encode the beginning of a prompt, a piece a step."""
    steps = encoding(loaded, ids)
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            return cast(Layers, stopped.value)
        yield


def block_probe(loaded: Loaded, pinned: Sequence[Note]) -> Sequence[int]:
    """What may follow the tokens of `pinned_block`, up to where the answer begins."""
    prompt = lay_out(loaded, [ChatTurn("user", ASKED)], pinned, [], MAX_NEW_TOKENS)
    return prompt.ids[pinned_end(prompt) :]


def as_stored(loaded: Loaded, layers: Layers, how: str) -> Layers:
    """The layers as they are once they were stored, compressed as `how` says."""
    if how == NONE:
        return layers
    return restored(compressed(layers, how), loaded.model.dtype, loaded.model.device)


def lossy_divergence(
    loaded: Loaded, ids: Sequence[int], layers: Layers, start: int, how: str, probe: Sequence[int]
) -> float | None:
    """How far answers are, behind `ids`, when those from `start` on were stored as `how` says; None: not known.

    `layers` are those of all the tokens; `probe` is what follows them.
    """
    exact, other = (WorkingCache(loaded.model.config, len(ids) + len(probe) + ROOM_TOKENS) for _ in range(2))
    exact.append(layers)
    if start:
        other.append(sliced(layers, 0, start))
    other.append(as_stored(loaded, sliced(layers, start, len(ids)), how))
    found = divergence(loaded, ids, exact, other, [probe]).kl_mean
    return found if math.isfinite(found) else None


def build_chunks(
    loaded: Loaded, notes: Sequence[Note], share: float, how: str = NONE
) -> Generator[None, None, list[BuiltChunk]]:
    """Build the chunks of at most `TOGETHER` notes, each encoded alone.

    Where they are measured, `share` of their tokens is recomputed and they are compressed as `how` says, as where they
    are used.
    """
    prompt = lay_out(loaded, [ChatTurn("user", ASKED)], [], notes, MAX_NEW_TOKENS)
    places = [(start, end, piece.note) for start, end, piece in prompt.spans() if piece.note is not None]
    if not places:  # the model's context holds not even one
        return []
    parts: list[tuple[int, Part]] = []
    for start, end, _ in places:
        layers = yield from build_prefix(loaded, prompt.ids[start:end])
        parts.append((start, Part(layers)))
    first, last = places[0][0], places[-1][1]
    exact, other = (WorkingCache(loaded.model.config, last + ROOM_TOKENS) for _ in range(2))
    for start in range(0, last, PIECE_TOKENS):
        prefill(loaded, prompt.ids[start : min(last, start + PIECE_TOKENS)], exact)
        yield
    other.append(exact.taken(0, first))
    stored = [(start, Part(as_stored(loaded, part.layers, how), part.start)) for start, part in parts]
    yield from composed(loaded, other, prompt.ids[:last], stored, share)
    built = []
    for (start, end, note), (_, part) in zip(places, parts, strict=True):
        found = divergence(loaded, prompt.ids[:last], exact, other, [_probe(loaded, notes, note, last)])
        built.append(BuiltChunk(note, tuple(prompt.ids[start:end]), part.layers, part.start, found.kl_mean))
        yield
    return built


def _probe(loaded: Loaded, notes: Sequence[Note], note: Note, end: int) -> Sequence[int]:
    """What follows the notes when the first half of one of them is what is asked."""
    words = note.text.split()
    half = " ".join(words[: max(1, len(words) // 2)][:MAX_PROBE_WORDS])
    return lay_out(loaded, [ChatTurn("user", half)], [], notes, MAX_NEW_TOKENS).ids[end:]
