"""How far a cache that was composed or compressed is from full prefill: in what the model would say next.

Measured where it matters: after a question (a probe) and along the answer that the exact cache gives to it. In nats,
KL(exact ‖ other). It knows nothing of where caches come from, and leaves them as it found them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.model.generation import end_tokens
from engine.tiers.kv.encoding import prefill
from engine.tiers.kv.tensors import WorkingCache

if TYPE_CHECKING:
    from engine.model.loading import Loaded

ANSWER_TOKENS = 4  # of each answer are compared: what differs later follows from the first ones


@dataclass(frozen=True, slots=True)
class Divergence:
    """Over all positions of all probes. Infinite where one of the caches gives no distribution at all."""

    kl_mean: float  # nats
    kl_max: float
    top1_agreement: float  # how often the likeliest token is the same
    positions: int


def divergence(
    loaded: Loaded,
    ids: Sequence[int],
    exact: WorkingCache,
    other: WorkingCache,
    probes: Sequence[Sequence[int]],
    answer_tokens: int = ANSWER_TOKENS,
) -> Divergence:
    """Compare two caches that hold the first of `ids` each; what they lack of `ids` is prefilled (an empty one: all).

    A probe is what follows `ids`, up to where the answer begins. At least one probe, none empty.
    """
    held = exact.tokens, other.tokens
    kls: list[torch.Tensor] = []
    same: list[torch.Tensor] = []
    try:
        for cache in (exact, other):
            if cache.tokens < len(ids):
                prefill(loaded, ids[cache.tokens :], cache)
        for probe in probes:
            answer, expected = _answer(loaded, exact, len(ids), probe, answer_tokens)
            got = _after(loaded, other, len(ids), [*probe, *answer[:-1]], len(answer))
            kls.append(_kl(expected, got))
            same.append(expected.argmax(-1) == got.argmax(-1))
    finally:
        exact.cut(held[0])
        other.cut(held[1])
    kl = torch.cat(kls)
    return Divergence(float(kl.mean()), float(kl.max()), float(torch.cat(same).float().mean()), len(kl))


def _kl(exact: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL of two [n, vocabulary] of log probabilities, each [n]."""
    chances = exact.exp()
    terms = torch.where(chances == 0, 0.0, chances * (exact - other))
    return terms.sum(-1).nan_to_num(nan=torch.inf).clamp_min(0)


def _answer(
    loaded: Loaded, cache: WorkingCache, held: int, probe: Sequence[int], tokens: int
) -> tuple[list[int], torch.Tensor]:
    """What is said greedily after `probe`, with the log probabilities of each step [tokens, vocabulary]."""
    answer: list[int] = []
    steps = []
    ends = end_tokens(loaded)
    given = list(probe)
    for _ in range(tokens):
        steps.append(_next(loaded, cache, given, 1))
        given = [int(steps[-1].argmax())]
        answer += given
        if given[0] in ends:
            break
    cache.cut(held)
    return answer, torch.cat(steps)


def _after(loaded: Loaded, cache: WorkingCache, held: int, given: Sequence[int], count: int) -> torch.Tensor:
    said = _next(loaded, cache, given, count)
    cache.cut(held)
    return said


def _next(loaded: Loaded, cache: WorkingCache, given: Sequence[int], count: int) -> torch.Tensor:
    """The log probabilities of what follows each of the last `count` tokens of `given` [count, vocabulary]."""
    before = len(given) - count
    if before:  # whose logits nobody needs
        prefill(loaded, given[:before], cache)
    with torch.no_grad():
        last = torch.tensor([list(given[before:])], device=loaded.model.device)
        out = loaded.model(input_ids=last, past_key_values=cache, use_cache=True)
        return torch.log_softmax(out.logits[0].double(), -1)
