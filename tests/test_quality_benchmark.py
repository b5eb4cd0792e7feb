"""The figures of the recall benchmark are what its documentation says they are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.baselines import Baselines, stems
from benchmarks.retrieval_metrics import OVERALL, Tally, measure, table

RANKED = [f"k{number}" for number in range(30)]


def test_shares_are_counted_over_the_first_k() -> None:
    figures = measure(RANKED, ["k0", "k7", "k15", "missing"], (), ())
    assert [figures[f"frac@{k}"] for k in (5, 10, 20)] == [0.25, 0.5, 0.75]
    assert [figures[f"any@{k}"] for k in (5, 10, 20)] == [1, 1, 1]
    assert [figures[f"all@{k}"] for k in (5, 10, 20)] == [0, 0, 0]
    assert measure(RANKED, ["k3", "k9"], (), ())["all@10"] == 1


def test_ndcg_rewards_what_stands_high() -> None:
    assert measure(RANKED, ["k0", "k1"], (), ())["ndcg@10"] == pytest.approx(1)
    assert measure(RANKED, ["k1"], (), ())["ndcg@10"] == pytest.approx(1 / math.log2(3))
    assert measure(RANKED, ["k10"], (), ())["ndcg@10"] == 0


def test_the_best_of_the_new_must_stand_above_the_best_of_the_old() -> None:
    assert measure(RANKED, ["k0"], new=["k9", "k2"], old=["k3"])["new>old"] == 1
    assert measure(RANKED, ["k0"], new=["k9"], old=["k3", "k20"])["new>old"] == 0
    assert measure(RANKED, ["k0"], new=["missing"], old=["missing too"])["new>old"] == 0
    assert "new>old" not in measure(RANKED, ["k0"], (), ())


def test_means_are_percentages_by_category_and_over_all_queries() -> None:
    tally = Tally()
    tally.add("easy", measure(RANKED, ["k0"], (), ()))
    tally.add("hard", measure(RANKED, ["missing"], (), ()))
    means = tally.means()
    assert list(means) == [OVERALL, "easy", "hard"]
    assert (means[OVERALL]["queries"], means[OVERALL]["frac@10"]) == (2, 50)
    assert "easy" in table(means.items())


def test_baselines_rank_what_is_allowed() -> None:
    def embed(texts: list[str]) -> np.ndarray:  # type: ignore[type-arg]
        return np.array([[1.0, 0.0] if "boat" in text else [0.0, 1.0] for text in texts], np.float32)

    memories = [{"at": "2025-01-01", "name": "Ann", "content": content} for content in ("a boat", "a train", "boats")]
    baselines = Baselines(memories, embed, lambda done: None)  # type: ignore[arg-type]
    ranked = baselines.rank("the boats", np.array([True, True, True]))
    assert ranked["dense"][:2] == [0, 2]
    assert set(ranked["BM25"][:2]) == {0, 2}
    assert set(ranked["RRF"][:2]) == {0, 2}
    assert all(order == [1] for order in baselines.rank("boats", np.array([False, True, False])).values())
    assert stems("The boats and the running") == ["boat", "run"]
