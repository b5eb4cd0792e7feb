"""The newest of rivals first: facts change, and who asks how something stands wants the last word.

Rivals are the few candidates that answer the query about equally well, with the same voice: what an assistant said last
is no news about what its user said, nor what Ann said about Bob's plans. Among them, later ones are lifted and earlier
ones lowered, in proportion to how many rivals stand on either side of them in time, and a later one that speaks of a
change ("rescheduled", "increased to") a little more. A candidate that is clearly less relevant is no rival, however
new it is; and a query about the past is left as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.index.cube_index import Hits
from engine.recall.fusion import Scores

LOOKED_AT = 8
REACH = 0.6  # below the best: beyond it, a candidate answers something else
NEWER = 0.2
CHANGE = 0.2  # for each word of change, up to two
MAX_CHANGES = 2


@dataclass(frozen=True, slots=True)
class Ranked:
    """Totals that decide the order; `overtaken`: place of a newer rival -> place of the best one that it passed."""

    total: Scores
    overtaken: Mapping[int, int] = field(default_factory=dict)


def newest_first(hits: Hits, total: Scores) -> Ranked:
    """Move the totals of rivals."""
    order = np.lexsort((hits.label, -total))[:LOOKED_AT]
    if not len(order):
        return Ranked(total)
    best = order[0]
    near = total[order] >= total[best] - REACH
    rivals = order[near & (hits.spoken[order] == hits.spoken[best]) & (hits.assistant[order] == hits.assistant[best])]
    if len(rivals) < 2:
        return Ranked(total)
    in_time = np.lexsort((hits.label[rivals], hits.event[rivals]))
    older = np.empty(len(rivals))  # rivals that each one follows in time
    older[in_time] = np.arange(len(rivals))
    others = len(rivals) - 1
    moved = total.copy()
    moved[rivals] += NEWER * (2 * older - others) / others
    moved[rivals] += CHANGE * np.minimum(hits.changes[rivals], MAX_CHANGES) * (older > 0)
    return Ranked(moved, _overtaken(rivals[in_time].tolist(), total, moved))


def _overtaken(in_time: list[int], total: Scores, moved: Scores) -> dict[int, int]:
    result = {}
    for number, newer in enumerate(in_time):
        passed = [older for older in in_time[:number] if total[older] > total[newer] and moved[older] < moved[newer]]
        if passed:
            result[newer] = max(passed, key=lambda older: float(total[older]))
    return result
