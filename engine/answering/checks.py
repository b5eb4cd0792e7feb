"""The bounds of a chat request, said before anything is loaded."""

from __future__ import annotations

import math

from engine.errors import Invalid, TooLarge
from engine.model_operations import (
    MAX_CHAT_CHARS,
    MAX_CHAT_TURNS,
    MAX_NEW_TOKENS,
    MAX_STOP_CHARS,
    MAX_STOPS,
    Chat,
    MemoryUse,
    Sampling,
)
from engine.reader.checks import check_text
from engine.recalling import MAX_LIMIT

ROLES = ("system", "user", "assistant")
MAX_TEMPERATURE, MAX_PENALTY = 2.0, 2.0


def check(request: Chat) -> None:
    """Raises `Invalid` or `TooLarge` for a chat outside the bounds."""
    if not request.turns:
        raise Invalid("there is no turn to answer: send at least one of the user")
    if len(request.turns) > MAX_CHAT_TURNS:
        raise TooLarge(f"{len(request.turns)} turns are too many: send at most {MAX_CHAT_TURNS}")
    for number, turn in enumerate(request.turns):
        if turn.role not in ROLES:
            raise Invalid(f"turn {number} has the role {turn.role!r}: use {', '.join(ROLES)}")
        if turn.content:  # an assistant may have said nothing
            check_text(turn.content, f"the content of turn {number}", MAX_CHAT_CHARS)
    if sum(len(turn.content) for turn in request.turns) > MAX_CHAT_CHARS:
        raise TooLarge(f"the turns have more than {MAX_CHAT_CHARS:,} characters together: leave out old ones")
    last = request.turns[-1]
    if last.role != "user" or not last.content.strip():
        raise Invalid("the last turn must be the user's, and say something: it is what is answered")
    check_sampling(request.sampling)
    if request.memory is not None:
        check_memory(request.memory)


def check_memory(use: MemoryUse) -> None:
    """Raises `Invalid` for memory outside the bounds."""
    if not use.tiers:
        raise Invalid("no tier is named: use text, kv or lora, or leave memory out")
    if not 1 <= use.limit <= MAX_LIMIT:
        raise Invalid(f"memory.limit is {use.limit}: use 1 to {MAX_LIMIT}")


def check_sampling(sampling: Sampling) -> None:
    """Raises `Invalid` for parameters outside the bounds."""
    _between("max_tokens", sampling.max_tokens, 1, MAX_NEW_TOKENS)
    _between("temperature", sampling.temperature, 0, MAX_TEMPERATURE)
    _between("top_p", sampling.top_p, 0, 1)
    _between("presence_penalty", sampling.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    _between("frequency_penalty", sampling.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    if sampling.top_k < 0:
        raise Invalid(f"top_k is {sampling.top_k}: use 0 (no bound) or more")
    if sampling.seed is not None and not -(1 << 63) <= sampling.seed < 1 << 63:
        raise Invalid("seed must be a whole number of at most 64 bits")
    if len(sampling.stop) > MAX_STOPS:
        raise Invalid(f"{len(sampling.stop)} stop strings are too many: send at most {MAX_STOPS}")
    if any(not 0 < len(stop) <= MAX_STOP_CHARS for stop in sampling.stop):
        raise Invalid(f"a stop string must have 1 to {MAX_STOP_CHARS} characters")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise Invalid(f"{name} is {value}: use {low:g} to {high:g}")
