"""From figures to a score between 0 and 1 that means the same for every query, and the word "nothing relevant".

The place in the ranking cannot tell an answer from the best of nothing: its top value is 1 by construction. So the
score of the first candidate is the chance that the answer is there at all, a logistic of what is absolute: how near the
nearest memory is in meaning, and how much of the query's words the best one holds. Those behind it have less, by how
far they lie behind. Scores never rise down the ranking.

The constants were fitted on half of the stores of three public sets of conversations, each query once against its own
store (was an answer among the first ten?) and once against strangers' (it was not). On the other half the chance was
right within .14 in every tenth of its range. Below .04 lay at most 1.2 % of the answerable queries of each set, but
more of questions that share no word with the short fact that answers them ("my boss", "manager"); `NOTHING` is half of
that: better to show a weak answer than to deny a right one. See docs/recall.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.recall.fusion import Scores

BIAS, NEARNESS, COVERAGE = -5.1, 5.2, 4.4
WORDS_BIAS, WORDS_COVERAGE = -3.3, 5.2  # without vectors
BEHIND = 2.6  # the share of answers among candidates falls by e with each 1/2.6 of the total that they lie behind
NOTHING = 0.02


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is absolute about an answer."""

    nearness: float | None  # the best cosine; None: there were no vectors to compare
    coverage: float  # the best share of the query's words, by weight, that one candidate holds, 0..1


def chance(evidence: Evidence) -> float:
    """How likely it is that the candidates hold an answer."""
    if evidence.nearness is None:
        level = WORDS_BIAS + WORDS_COVERAGE * evidence.coverage
    else:
        level = BIAS + NEARNESS * evidence.nearness + COVERAGE * evidence.coverage
    return float(1.0 / (1.0 + np.exp(-level)))


def scores(evidence: Evidence, total: Scores) -> Scores:
    """A score for each candidate, in the order of `total`."""
    if not len(total):
        return total
    result: Scores = chance(evidence) * np.exp(-BEHIND * (total.max() - total))
    return result


def nothing_relevant(evidence: Evidence) -> bool:
    """Whether even the best candidate has little to do with the query."""
    return chance(evidence) < NOTHING
