"""Generating a reply: prefill in pieces, then a token a step, until it ends by itself, at a stop string or at a bound.

The loop is our own, so that requests can take turns between steps, be given up at any of them, and begin behind a KV
cache that is partly there. Greedy replies equal those of the library's own `generate`. What is shown never holds half a
character or any part of a stop string. It knows nothing of where the cache came from or of who asks.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from engine.errors import Invalid, TooLarge
from engine.model import templates
from engine.model.sampling import Chooser
from engine.model.stop_strings import StopStrings
from engine.model.tokens import Spelling
from engine.model_operations import Sampling

if TYPE_CHECKING:
    from engine.model.loading import Loaded

PIECE_TOKENS, CPU_PIECE_TOKENS = 512, 256  # of a prefill at once. A CPU is as fast with short ones: others wait less
STOP, LENGTH = "stop", "length"


class Choosing(Protocol):
    """What chooses tokens; `done`: nothing comes behind the last one."""

    @property
    def done(self) -> bool: ...
    def choose(self, logits: torch.Tensor) -> int: ...


class Cache(Protocol):
    """The KV cache of one reply, as `engine.tiers.kv.tensors.WorkingCache` is one; the model appends to it."""

    @property
    def tokens(self) -> int: ...
    def cut(self, tokens: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Step:
    """What one step brought: some text, a token, and at the end why it ended (stop, length). Each may be missing."""

    text: str = ""
    token: int | None = None
    done: str | None = None


def generate(
    loaded: Loaded,
    ids: Sequence[int],
    cache: Cache,
    sampling: Sampling,
    *,
    piece_tokens: int = 0,
    chooser: Choosing | None = None,
) -> Iterator[Step]:
    """Continue `ids`, of which the cache holds the first `cache.tokens`. `piece_tokens` 0: what suits the device.

    `chooser` None: as the sampling says.

    The last step, and it alone, has `done`. The cache then holds everything but the last token.

    Raises:
        Invalid: there is nothing to continue.
        TooLarge: the ids fill the model's context.
    """
    bound = _bound(loaded, len(ids), sampling.max_tokens)
    choosing, spelling = chooser or Chooser(sampling), Spelling(loaded.tokenizer)
    stops = StopStrings((*sampling.stop, *templates.stops(loaded)))
    ends, how = end_tokens(loaded), _last_only(loaded.model)
    suited = CPU_PIECE_TOKENS if loaded.model.device.type == "cpu" else PIECE_TOKENS
    logits = yield from _prefilled(loaded, ids, cache, piece_tokens or suited, how)
    for number in range(1, bound + 1):
        token = choosing.choose(logits)
        if token in ends:
            yield Step(stops.rest(), token, STOP)
            return
        text, stopped = stops.add(spelling.add(token))
        if stopped or choosing.done:
            yield Step(text if stopped else text + stops.rest(), token, STOP)
            return
        if number == bound:
            yield Step(text + stops.rest(), token, LENGTH)
            return
        yield Step(text, token)
        logits = _logits(loaded, [token], cache, how)
    yield Step(done=LENGTH)


def end_tokens(loaded: Loaded) -> frozenset[int]:
    """The tokens that end a reply, by the model's settings, its tokenizer and its chat template."""
    configured = (
        getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None),
        getattr(loaded.model.config.get_text_config(decoder=True), "eos_token_id", None),
        loaded.tokenizer.eos_token_id,
        templates.end_of_reply(loaded),
    )
    several = (one if isinstance(one, Iterable) else (one,) for one in configured)
    return frozenset(int(token) for tokens in several for token in tokens if token is not None)


def _bound(loaded: Loaded, given: int, wanted: int) -> int:
    """How many tokens may come."""
    context = loaded.info.context_tokens
    if not given:
        raise Invalid("there is nothing to continue: give at least one token")
    if context > 0 and given >= context:
        raise TooLarge(f"the prompt has {given} tokens, {loaded.info.name} takes fewer than {context}: shorten it")
    return min(wanted, context - given) if context > 0 else wanted


def _prefilled(
    loaded: Loaded, ids: Sequence[int], cache: Cache, piece_tokens: int, how: dict[str, int]
) -> Generator[Step, None, torch.Tensor]:
    """The logits behind `ids`. The last token is always computed, as its logits are needed."""
    if cache.tokens >= len(ids):
        cache.cut(len(ids) - 1)
    start = cache.tokens
    while start + piece_tokens < len(ids):
        _logits(loaded, ids[start : start + piece_tokens], cache, how)
        start += piece_tokens
        yield Step()
    return _logits(loaded, ids[start:], cache, how)


def _logits(loaded: Loaded, ids: Sequence[int], cache: Cache, how: dict[str, int]) -> torch.Tensor:
    """Append `ids` to the cache; the logits [vocabulary] behind the last. Positions and mask follow from the cache."""
    with torch.inference_mode():
        given = torch.tensor([list(ids)], device=loaded.model.device)
        output = loaded.model(input_ids=given, past_key_values=cache, use_cache=True, **how)
        logits: torch.Tensor = output.logits[0, -1]
    return logits


def _last_only(model: Any) -> dict[str, int]:
    """The argument that spares computing all logits of a piece, where the model (adapters aside) has one."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
