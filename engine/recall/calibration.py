"""From figures to a score between 0 and 1 that means the same for every query, and the word "nothing relevant".

The place in the ranking cannot tell an answer from the best of nothing: its top value is 1 by construction. So the
score is a logistic of what is absolute (how near the best candidate is in meaning, how much of the query's words its
best candidate holds) and of how far a candidate lies behind the first. It falls with the ranking, and rises with each
of the other two.

Constants: see docs/recall.md for how they were measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.recall.fusion import Scores

BIAS = -3.0
NEARNESS = 4.0
COVERAGE = 1.5
BEHIND = -2.0

FAR = 0.3  # no memory is nearer than this …
UNCOVERED = 0.3  # … and none holds more of the query's words: then nothing is relevant
FAINT = 0.05  # without vectors: words of so little weight are found by chance


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is absolute about an answer."""

    nearness: float | None  # the best cosine; None: there were no vectors to compare
    coverage: float  # the best share of the query's words, by weight, that one candidate holds, 0..1


def scores(evidence: Evidence, total: Scores) -> Scores:
    """A score for each candidate, in the order of `total`."""
    if not len(total):
        return total
    near = evidence.coverage if evidence.nearness is None else evidence.nearness
    level = BIAS + NEARNESS * near + COVERAGE * evidence.coverage
    result: Scores = 1.0 / (1.0 + np.exp(-(level + BEHIND * (total.max() - total))))
    return result


def nothing_relevant(evidence: Evidence) -> bool:
    """Whether even the best candidate has little to do with the query."""
    if evidence.nearness is None:
        return evidence.coverage <= FAINT
    return evidence.nearness < FAR and evidence.coverage < UNCOVERED and not math.isnan(evidence.nearness)
