"""How many questions the test model answers rightly with its memory in each form, and how far that is from prefill.

The model is the small one of the tests, which truly answers from its context and for which the latest statement wins.
Each case has a few facts and later updates of some of them, as notes before a question for an updated one: what is hard
for chunks, as an update must be told from what it replaces. Laid out, placed and answered as the engine does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch

from engine.model.generation import generate
from engine.model.loading import Loaded, load
from engine.model.prompts import Note, Prompt, lay_out
from engine.model_operations import ChatTurn, Sampling
from engine.settings import Settings
from engine.tiers.kv.compression import INT4, INT8, attention, compressed, keep_tokens, restored
from engine.tiers.kv.divergence import Divergence, divergence
from engine.tiers.kv.encoding import encode
from engine.tiers.kv.recompute import choose, recompute
from engine.tiers.kv.rotation import Part, moved, place
from engine.tiers.kv.tensors import Layers, WorkingCache, sliced, tokens_of
from tests.models.facts import Case, some_cases

FACTS, UPDATES, SEED = 4, 2, 4_242
KEPT_SHARE = 0.75  # of the tokens, in the arm that keeps those that are attended to
SHORT = Sampling(max_tokens=8, temperature=0.0)
Arms = dict[str, WorkingCache]


@dataclass
class Tally:
    right: list[bool] = field(default_factory=list)
    found: list[Divergence] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        made = {"right": fmean(self.right)}
        if self.found:
            made["kl"] = fmean(one.kl_mean for one in self.found)
            made["top1"] = fmean(one.top1_agreement for one in self.found)
        return made


def measured(model: Path, data: Path, count: int, shares: Sequence[float]) -> dict[str, dict[str, float]]:
    """For each arm: the share of right answers, the mean KL to full prefill in nats, how often top 1 is the same."""
    settings = Settings(data=data, offline=True, model_device="cpu", model_dtype="float32")
    loaded = load(str(model), settings, lambda told: None)
    tallies: dict[str, Tally] = {}
    for case in some_cases(SEED, count, FACTS, UPDATES, "updated"):
        _ask(loaded, case, shares, tallies)
    return {name: tally.row() for name, tally in tallies.items()}


def _ask(loaded: Loaded, case: Case, shares: Sequence[float], tallies: dict[str, Tally]) -> None:
    prompt = _prompt(loaded, case.statements, case.question)
    spans = [(start, end) for start, end, piece in prompt.spans() if piece.kind == "note"]
    held, ids = spans[-1][1], list(prompt.ids)

    def tally(name: str, given: Sequence[int], cache: WorkingCache) -> None:
        said = "".join(step.text for step in generate(loaded, given, cache, SHORT))
        tallies.setdefault(name, Tally()).right.append(said.replace(" ", "") == case.answer)

    exact = encode(loaded, ids[:held])
    for name, cache in _arms(loaded, ids, spans, exact, shares).items():
        found = divergence(loaded, ids[:held], _cache(loaded, exact), cache, [ids[held:]])
        tallies.setdefault(name, Tally()).found.append(found)
        tally(name, ids, cache)
    bare = _prompt(loaded, (), case.question).ids
    tally("without memory", bare, WorkingCache(loaded.model.config))
    probes = [_prompt(loaded, case.statements, f"{fact.name} 's {fact.about} ?").ids[held:] for fact in case.told]
    scores = attention(loaded, _cache(loaded, exact), probes)
    kept, places = keep_tokens(exact, scores, KEPT_SHARE)
    side_by_side = moved(kept, loaded.layout.rope, places, torch.arange(len(places)))
    tally(f"{KEPT_SHARE:.0%} of the tokens", [ids[at] for at in places] + ids[held:], _cache(loaded, side_by_side))


def _arms(
    loaded: Loaded, ids: Sequence[int], spans: Sequence[tuple[int, int]], exact: Layers, shares: Sequence[float]
) -> Arms:
    held, anchor_end = spans[-1][1], spans[0][0]
    anchor = sliced(exact, 0, anchor_end)

    def squeezed(how: str) -> Callable[[Layers], Layers]:
        return lambda layers: restored(compressed(layers, how), torch.float32, "cpu")

    def chunks(share: float, keep: Callable[[Layers], Layers], before: Layers | None = None) -> WorkingCache:
        start = tokens_of(before or ())
        parts = [Part(keep(encode(loaded, ids[a:b], before)), start) for a, b in spans]
        cache = _cache(loaded, anchor)
        place(cache, parts, loaded.layout.rope)
        recompute(loaded, cache, ids, choose(share, spans))
        return cache

    unmoved = _cache(loaded, anchor)
    for start, end in spans:
        unmoved.append(encode(loaded, ids[start:end]))
    arms = {
        "full prefill": WorkingCache(loaded.model.config),
        "prefix": _cache(loaded, exact),
        "chunk, not moved": unmoved,
        "chunk, behind an anchor": chunks(0, _as_it_is, anchor),
        "chunk": chunks(0, _as_it_is),
    }
    arms |= {f"chunk + {share:.0%}": chunks(share, _as_it_is) for share in shares}
    for how in (INT8, INT4):
        arms[how] = _cache(loaded, squeezed(how)(exact))
        arms[f"chunk, {how}"] = chunks(0, squeezed(how))
        arms[f"chunk + 50%, {how}"] = chunks(0.5, squeezed(how))
    assert all(cache.tokens in (0, held) for name, cache in arms.items() if name != "full prefill")
    return arms


def _as_it_is(layers: Layers) -> Layers:
    return layers


def _prompt(loaded: Loaded, statements: Sequence[str], question: str) -> Prompt:
    notes = [Note(f"{number:03}", 1, text, at=f"{number:03}") for number, text in enumerate(statements)]
    return lay_out(loaded, [ChatTurn("user", question)], (), notes, SHORT.max_tokens)


def _cache(loaded: Loaded, layers: Layers) -> WorkingCache:
    cache = WorkingCache(loaded.model.config, tokens_of(layers) + 64)
    cache.append(layers)
    return cache
