"""Checks what came with a file: whether stored keys and values are those of the tokens that they are said to be of.

A bundle's tensors could make the model say anything, whatever the text says. So what nobody vouches for is computed
anew: some blocks of it before it is used for the first time, all of it afterwards, when the model has nothing else to
do. What is right is vouched for from then on; what is not is dropped, and said.

It knows nothing of bundles. What must stay true: nothing is vouched for of which not every token was compared.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from engine.errors import Unavailable
from engine.tiers.kv.encoding import prefill, prefilling
from engine.tiers.kv.entries import Entry
from engine.tiers.kv.prefixes import BLOCK_TOKENS, Span
from engine.tiers.kv.tensors import Layers, WorkingCache, sliced

if TYPE_CHECKING:
    from engine.model.loading import Loaded
    from engine.model.runner import Results, Runner
    from engine.tiers.kv.store import KvStore

SPOTS = 4  # blocks that are computed anew before the first use, the last one among them
SEED = secrets.token_hex(16)  # which blocks these are cannot be foreseen
# How far a token's keys or values may be from those computed here, in parts of their usual length: the same tokens in
# pieces of other sizes differ by rounding alone.
BOUNDS = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1.5e-1}
WRONG = "its numbers are not those that the model computes from the text"


def gap(stored: Layers, computed: Layers) -> float:
    """The greatest distance of a token's keys or values from the computed ones, in parts of their usual length."""
    most = 0.0
    for layer in zip(stored, computed, strict=True):
        for ours, theirs in zip(*layer, strict=True):
            should = theirs.float()
            apart = (ours.to(should.device).float() - should).norm(dim=-1).amax()
            usual = should.square().sum(-1).mean().sqrt().clamp_min(1e-12)
            most = max(most, float((apart / usual).nan_to_num(nan=float("inf"))))
    return most


def is_right(loaded: Loaded, stored: Layers, computed: Layers) -> bool:
    """Whether they are the same but for rounding."""
    return gap(stored, computed) <= BOUNDS.get(loaded.info.dtype, min(BOUNDS.values()))


def spot_check(
    loaded: Loaded, cache: WorkingCache, ids: Sequence[int], spans: Sequence[Span[Entry]]
) -> Generator[None, None, Entry | None]:
    """Compute some blocks of each entry anew, behind what the cache holds before them; the first that is wrong.

    The cache holds the spans, at their places, and is afterwards as it was.
    """
    whole = cache.tokens
    for span in spans:
        for start in _spots(span):
            end = start + BLOCK_TOKENS
            stored = cache.taken(start, end)
            cache.cut(start)
            try:
                prefill(loaded, ids[start:end], cache)
                computed = cache.taken(start, end)
            finally:
                cache.cut(start)
                cache.append(stored)
                cache.cut(whole)
            if not is_right(loaded, stored, computed):
                return span.segment
            yield
        span.segment.spotted = True
    return None


def _spots(span: Span[Entry]) -> list[int]:
    """Where the blocks begin that are looked at."""
    chance = random.Random(f"{SEED}{span.segment.digest}")
    *others, last = range(span.start, span.end, BLOCK_TOKENS)
    return [*sorted(chance.sample(others, min(len(others), SPOTS - 1))), last]


class Checker:
    """Checks whole entries in the background, each once at a time."""

    def __init__(self, store: KvStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Runner, Results[None]]] = {}  # by the entry's id; let go of, a check ends

    def begin(
        self,
        runner: Runner,
        ids: Sequence[int],
        spans: Sequence[Span[Entry]],
        through: Callable[[Loaded], Loaded | None] = lambda loaded: loaded,
    ) -> None:
        """Check these entries, which are of `ids` where the spans say. `through`: the model as it was seen for them."""
        with self._lock:
            known = {id for id, (of, _) in self._running.items() if of is runner}
            new = [span for span in spans if span.segment.id not in known and not span.segment.vouched]
            if not new:
                return
            with contextlib.suppress(Unavailable):  # unloaded meanwhile: checked when it is used again
                results = runner.stream(lambda loaded: self._check(through(loaded), ids, new), background=True)
                self._running.update({span.segment.id: (runner, results) for span in new})

    def _check(
        self, loaded: Loaded | None, ids: Sequence[int], spans: Sequence[Span[Entry]]
    ) -> Generator[None, None, None]:
        try:
            if loaded is None:  # seen through an adapter that is gone, and so are these
                return
            end = max(span.end for span in spans)
            cache = WorkingCache(loaded.model.config, end)
            for _ in prefilling(loaded, ids[:end], cache):
                yield
            for span in spans:
                self._settle(loaded, cache, span)
                yield
        finally:
            with self._lock:
                for span in spans:
                    self._running.pop(span.segment.id, None)

    def _settle(self, loaded: Loaded, cache: WorkingCache, span: Span[Entry]) -> None:
        entry = span.segment
        layers = self._store.layers_of(entry, loaded.info)
        if layers is None:
            return
        stored = sliced(layers, 0, span.end - entry.start)
        if not is_right(loaded, stored, cache.taken(entry.start, span.end)):
            self._store.refuse(entry, WRONG)
        elif span.end == entry.end:  # else the tokens of the rest are not known
            self._store.vouch(entry)
