"""What recall is measured against: dense, BM25 and their rank fusion, each as it is usually done.

All see a memory as "date | name: content". Dense: the cosine of whole texts under the same embedder as ours. BM25:
k1 1.2, b 0.75, words of two and more characters, a short list of English stop words, Snowball stems. Fusion:
reciprocal ranks, k = 60. Nothing is shared with the engine but the embedder.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import snowballstemmer
from numpy.typing import NDArray

K1, B = 1.2, 0.75
FUSION_K = 60
_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
BATCH = 64

_WORD = re.compile(r"\b\w\w+\b")
_stemmer = snowballstemmer.stemmer("english")

Scores = NDArray[np.float64]  # [memories]
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def as_text(memory: dict[str, str]) -> str:
    return f"{memory['at']} | {memory['name']}: {memory['content']}"


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    return str(_stemmer.stemWord(word))


def stems(text: str) -> list[str]:
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


class Baselines:
    """The three rankings over one store."""

    def __init__(self, memories: Sequence[dict[str, str]], embed: Embed, progress: Callable[[int], None]) -> None:
        texts = [as_text(memory) for memory in memories]
        self._embed = embed
        parts = []
        for start in range(0, len(texts), BATCH):
            parts.append(embed(texts[start : start + BATCH]))
            progress(min(len(texts), start + BATCH))
        self._vectors = np.concatenate(parts)
        counted = [Counter(stems(text)) for text in texts]
        self._lengths = np.array([sum(counts.values()) for counts in counted], np.float64)
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, counts in enumerate(counted):
            for stem, times in counts.items():
                self._postings[stem].append((number, times))

    def rank(self, query: str, allowed: NDArray[np.bool_]) -> dict[str, list[int]]:
        """The allowed memories by number, best first, under each baseline."""
        dense = (self._vectors @ self._embed([query])[0]).astype(np.float64)
        orders = {"dense": _order(dense, allowed), "BM25": _order(self._bm25(query), allowed)}
        fused = np.zeros(len(allowed))
        for order in orders.values():
            fused[order] += 1 / (FUSION_K + 1 + np.arange(len(order)))
        orders["RRF"] = _order(fused, allowed)
        return {name: order.tolist() for name, order in orders.items()}

    def _bm25(self, query: str) -> Scores:
        count = len(self._lengths)
        normal = K1 * (1 - B + B * self._lengths / self._lengths.mean())
        scores = np.zeros(count)
        for stem, repeated in Counter(stems(query)).items():
            posting = self._postings.get(stem)
            if posting:
                rows, times = np.array(posting).T
                idf = math.log(1 + (count - len(rows) + 0.5) / (len(rows) + 0.5))
                scores[rows] += repeated * idf * times * (K1 + 1) / (times + normal[rows])
        return scores


def _order(scores: Scores, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    order = np.argsort(-scores, kind="stable")
    return order[allowed[order]]
