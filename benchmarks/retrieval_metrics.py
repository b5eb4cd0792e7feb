"""How good a ranking is, without a judge: shares of the marked answers among the first k, and their order.

For one query over the ranked keys: `frac@k` share of the answers in the first k; `any@k`, `all@k` at least one, every
one; `ndcg@10` with binary gains; `new>old` whether the best of the new facts stands above the best of the old ones.
Means over queries, as percentages. Queries without an answer are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

DEPTHS = (5, 10, 20)
COLUMNS = (
    *(f"frac@{k}" for k in DEPTHS),
    *(f"any@{k}" for k in DEPTHS),
    *(f"all@{k}" for k in DEPTHS),
    "ndcg@10",
    "new>old",
)
OVERALL = "all queries"


def measure(ranked: Sequence[str], gold: Sequence[str], new: Sequence[str], old: Sequence[str]) -> dict[str, float]:
    """The figures of one query, 0..1."""
    place = {key: number for number, key in reversed(list(enumerate(ranked)))}
    places = [place.get(key, math.inf) for key in gold]
    figures = {}
    for k in DEPTHS:
        found = sum(number < k for number in places)
        figures[f"frac@{k}"] = found / len(places)
        figures[f"any@{k}"] = float(found > 0)
        figures[f"all@{k}"] = float(found == len(places))
    ideal = sum(1 / math.log2(number + 2) for number in range(min(10, len(places))))
    figures["ndcg@10"] = sum(1 / math.log2(number + 2) for number in places if number < 10) / ideal
    if new and old:
        first = [min(place.get(key, math.inf) for key in keys) for keys in (new, old)]
        figures["new>old"] = float(first[0] < first[1])
    return figures


@dataclass
class Tally:
    """The figures of many queries of one system on one set, by category."""

    by_category: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, category: str, figures: dict[str, float]) -> None:
        for name in (category, OVERALL):
            self.by_category.setdefault(name, []).append(figures)

    def means(self) -> dict[str, dict[str, float]]:
        """Percentages by category, all queries first; `queries` is how many there were."""
        names = [OVERALL, *sorted(name for name in self.by_category if name != OVERALL)]
        return {name: _means(self.by_category[name]) for name in names if name in self.by_category}


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    result: dict[str, float] = {"queries": len(rows)}
    for column in COLUMNS:
        values = [row[column] for row in rows if column in row]
        if values:
            result[column] = 100 * sum(values) / len(values)
    return result


def table(rows: Iterable[tuple[str, Mapping[str, float]]]) -> str:
    """Figures as text: one line for each (name, figures)."""
    lines = [f"{'':42}{'queries':>8}" + "".join(f"{column:>9}" for column in COLUMNS)]
    for name, figures in rows:
        cells = (f"{figures[column]:9.1f}" if column in figures else f"{'–':>9}" for column in COLUMNS)
        lines.append(f"{name:42}{figures['queries']:8.0f}" + "".join(cells))
    return "\n".join(lines)
