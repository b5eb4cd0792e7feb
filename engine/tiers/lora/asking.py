"""Short greedy answers to many prompts at once, and how sure the model is of them.

What many prompts begin with, such as the same notes, is read once, and they are answered from its KV. A job that asks
is a generator: one step for each batch, so that replies to people go first. Prompts are laid out as those of every
conversation are. It does not know why something is asked.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, TypeVar

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from engine.model.generation import end_tokens
from engine.model.prompts import Alike, Note, lay_out
from engine.model_operations import ChatTurn

if TYPE_CHECKING:
    from engine.model.loading import Loaded

BATCH_TOKENS = 4_096  # of prompts at once
BATCH_ROWS = 64
ANSWER_TOKENS = 48
SHARED_TOKENS, TOGETHER = 32, 4  # a beginning of so many tokens that so many prompts have in common is read once
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a long piece of work is."""

    done: float
    total: float
    message: str


@dataclass(frozen=True, slots=True)
class Target:
    """A distribution over each token of an answer: ids and log probabilities of the likeliest [tokens, likely]."""

    ids: torch.Tensor
    log_probabilities: torch.Tensor


@dataclass(frozen=True, slots=True)
class Said:
    """A greedy answer. `tokens` has the token that ends it, unless it was cut off."""

    text: str
    tokens: tuple[int, ...]
    log_probability: float  # of all tokens together, in nats
    whole: bool = True  # it ended by itself
    target: Target | None = None  # where it was asked for

    @property
    def sureness(self) -> float:
        """The probability of a token, in the geometric mean: 0 to 1."""
        return exp(self.log_probability / max(1, len(self.tokens)))


def prompt_ids(
    loaded: Loaded, question: str, notes: Sequence[Note] = (), *, pinned: bool = False, alike: Alike | None = None
) -> tuple[int, ...]:
    """The ids of a prompt that asks `question` with `notes` in the context, as the engine lays them out. `alike` is
    of the other prompts of the same work."""
    turns = [ChatTurn("user", question)]
    above, below = (tuple(notes), ()) if pinned else ((), tuple(notes))
    return lay_out(loaded, turns, above, below, ANSWER_TOKENS, alike).ids


def asking(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    *,
    adapters: Sequence[str] | None = None,
    answer_tokens: int = ANSWER_TOKENS,
    message: str = "asking",
    likely: int = 0,
) -> Generator[Stage, None, list[Said]]:
    """Answer each prompt. `adapters` names one for each, for a model that mixes them in a batch. Of each token of the
    answers so many of the likeliest are kept as its `target`."""
    said: dict[int, Said] = {}
    for rows in _batches(prompts):
        names = [adapters[row] for row in rows] if adapters is not None else None
        answers = _answers(loaded, [prompts[row] for row in rows], names, answer_tokens, likely)
        said.update(zip(rows, answers, strict=True))
        yield Stage(len(said), len(prompts), message)
    return [said[place] for place in range(len(prompts))]


def _batches(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Places of prompts that are asked together: those that begin alike, the others by their length."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, ids in enumerate(prompts):
        alike.setdefault(tuple(ids[:SHARED_TOKENS]), []).append(place)
    groups = [some for start, some in alike.items() if len(some) >= TOGETHER and len(start) == SHARED_TOKENS]
    together = {place for some in groups for place in some}
    for group in (*groups, [place for place in range(len(prompts)) if place not in together]):
        order = sorted(group, key=lambda place: (len(prompts[place]), place))
        while order:
            count = max(1, min(BATCH_ROWS, BATCH_TOKENS // max(1, len(prompts[order[0]]))))
            yield order[:count]
            order = order[count:]


def answers(loaded: Loaded, prompts: Sequence[Sequence[int]], answer_tokens: int = ANSWER_TOKENS) -> list[Said]:
    """As `asking`, at once."""
    return finished(asking(loaded, prompts, answer_tokens=answer_tokens))


def finished(steps: Generator[Stage, None, T]) -> T:
    """What a piece of work gives, done at once."""
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            return stopped.value  # type: ignore[no-any-return]


def share_of(start: float, share: float, steps: Generator[Stage, None, T]) -> Generator[Stage, None, T]:
    """The stages of a part of longer work, as shares of the whole (a total of 1) that never go back."""
    furthest = 0.0
    while True:
        try:
            stage = next(steps)
        except StopIteration as stopped:
            return stopped.value  # type: ignore[no-any-return]
        furthest = max(furthest, min(1.0, stage.done / stage.total if stage.total else 0.0))
        yield Stage(start + share * furthest, 1.0, stage.message)


def as_job(steps: Generator[Stage, None, T]) -> Generator[Stage | T, None, None]:
    """As a job of `engine.model.runner`: its stages, and last of all what it gives."""
    yield (yield from steps)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _answers(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    adapters: Sequence[str] | None,
    answer_tokens: int,
    likely: int,
) -> list[Said]:
    model, device, ends = loaded.model, loaded.model.device, end_tokens(loaded)
    cache, read = _read(loaded, prompts) if adapters is None else (DynamicCache(config=model.config), 0)
    longest = max(map(len, prompts))
    given = torch.tensor([[0] * (longest - len(ids)) + list(ids[read:]) for ids in prompts], device=device)
    mask = torch.tensor([[1] * read + [0] * (longest - len(ids)) + [1] * (len(ids) - read) for ids in prompts])
    mask = mask.to(device)
    places = (mask.cumsum(-1) - 1).clamp_min(0)[:, read:]
    tokens: list[list[int]] = [[] for _ in prompts]
    sure, open_rows = [0.0] * len(prompts), set(range(len(prompts)))
    places_kept: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each place, of all rows
    mixed = {} if adapters is None else {"adapter_names": list(adapters)}
    for _ in range(answer_tokens):
        output = model(
            input_ids=given, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True, **mixed
        )
        log_probabilities = torch.log_softmax(output.logits[:, -1].float(), -1)
        likeliest, chosen = log_probabilities.max(-1)
        if likely:
            top = log_probabilities.topk(min(likely, log_probabilities.shape[-1]), -1)
            places_kept.append((top.indices.to("cpu"), top.values.to("cpu")))
        for row, (token, log_probability) in enumerate(zip(chosen.tolist(), likeliest.tolist(), strict=True)):
            if row in open_rows:
                tokens[row].append(token)
                sure[row] += log_probability
                if token in ends:
                    open_rows.remove(row)
        if not open_rows:
            break
        given, places = chosen[:, None], places[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], -1)
    targets = _targets(places_kept, list(map(len, tokens))) if likely else [None] * len(prompts)
    return [
        Said(_text(loaded, ids, ends), tuple(ids), log_probability, row not in open_rows, target)
        for row, (ids, log_probability, target) in enumerate(zip(tokens, sure, targets, strict=True))
    ]


def _targets(places: Sequence[tuple[torch.Tensor, torch.Tensor]], lengths: Sequence[int]) -> list[Target]:
    """Of each row, out of those of each place: copied, for what the inference mode makes cannot be trained with."""
    ids = torch.stack([one for one, _ in places], 1)
    log_probabilities = torch.stack([one for _, one in places], 1)
    with torch.inference_mode(False):
        return [
            Target(ids[row, :count].clone(), log_probabilities[row, :count].clone())
            for row, count in enumerate(lengths)
        ]


def _read(loaded: Loaded, prompts: Sequence[Sequence[int]]) -> tuple[DynamicCache, int]:
    """The KV of the beginning that prompts have in common, read once for all of them, and of how many tokens it is."""
    shortest, first = min(map(len, prompts)), prompts[0]
    shared = next((place for place in range(shortest - 1) if len({ids[place] for ids in prompts}) > 1), shortest - 1)
    cache = DynamicCache(config=loaded.model.config)
    if len(prompts) < TOGETHER or shared < SHARED_TOKENS:
        return cache, 0
    loaded.model(
        input_ids=torch.tensor([list(first[:shared])], device=loaded.model.device),
        past_key_values=cache,
        use_cache=True,
    )
    if any(type(layer) is not DynamicLayer for layer in cache.layers):  # others cannot be dealt out to rows
        return DynamicCache(config=loaded.model.config), 0
    cache.batch_repeat_interleave(len(prompts))
    return cache, shared


def _text(loaded: Loaded, ids: Sequence[int], ends: frozenset[int]) -> str:
    text: str = loaded.tokenizer.decode([id for id in ids if id not in ends], skip_special_tokens=True)
    return text.strip()
