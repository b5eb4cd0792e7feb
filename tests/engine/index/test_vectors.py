"""The vectors of a cube: whatever was done to them, a search finds what a plain look through all would find."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from engine.errors import Invalid
from engine.index import snapshot
from engine.index.snapshot import SnapshotUnusable
from engine.index.vectors import Vectors

DIMENSION = 8
FACTS = {"dimension": DIMENSION}
needs_hnswlib = pytest.mark.skipif(
    importlib.util.find_spec("hnswlib") is None, reason="the extra hnsw is not installed"
)


def random_vectors(count: int, seed: int = 0, dimension: int = DIMENSION) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)


def clustered(count: int, seed: int = 0, dimension: int = 32) -> NDArray[np.float32]:
    """Vectors with neighbourhoods, as those of texts have."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((50, dimension))
    scattered = centres[chance.integers(0, 50, count)] + 0.6 * chance.standard_normal((count, dimension))
    return scattered.astype(np.float32)


def filled(count: int, exact_limit: int = 10**6, dimension: int = DIMENSION) -> Vectors:
    vectors = Vectors(dimension, exact_limit)
    vectors.put(np.arange(count), random_vectors(count, 1, dimension))
    return vectors


def reload(vectors: Vectors, folder: Path, exact_limit: int = 10**6) -> Vectors:
    snapshot.write(folder, 1, FACTS, vectors.members())
    return Vectors.from_snapshot(snapshot.read(folder, FACTS), vectors.dimension, exact_limit)


class AgainstAModel(RuleBasedStateMachine):
    """Any sequence of put, update, drop, save and tend, against a dictionary looked through in float64."""

    exact_limit = 10**6
    keys = st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True)
    seeds = st.integers(0, 10**6)

    @initialize()
    def start(self) -> None:
        self.vectors = Vectors(DIMENSION, self.exact_limit)
        self.model: dict[int, NDArray[np.float32]] = {}

    @rule(keys=keys, seed=seeds)
    def put(self, keys: list[int], seed: int) -> None:
        given = random_vectors(len(keys), seed) * (seed % 7 + 0.5)
        self.vectors.put(keys, given)
        self.model.update(zip(keys, given, strict=True))

    @rule(keys=keys)
    def drop(self, keys: list[int]) -> None:
        self.vectors.drop(keys)
        for key in keys:
            self.model.pop(key, None)

    @rule()
    def tend(self) -> None:
        self.vectors.tend()

    @rule(seed=seeds, k=st.integers(0, 50), allowed=st.none() | st.lists(st.integers(0, 45)), as_mask=st.booleans())
    def search(self, seed: int, k: int, allowed: list[int] | None, as_mask: bool) -> None:
        query = random_vectors(1, seed)[0]
        wanted = self.cosines(query, set(self.model if allowed is None else allowed))
        if allowed is not None and as_mask:
            chosen = np.array(allowed, np.int64)
            keys, cosines = self.vectors.search(query, k, lambda keys: np.isin(keys, chosen))
        else:
            keys, cosines = self.vectors.search(query, k, allowed)
        assert len(set(keys.tolist())) == len(keys) == min(k, len(wanted))
        assert np.allclose(cosines, sorted(wanted.values(), reverse=True)[:k], atol=1e-5)
        assert np.allclose(cosines, [wanted[key] for key in keys.tolist()], atol=1e-5)

    @rule(seed=seeds)
    def score(self, seed: int) -> None:
        query = random_vectors(1, seed)[0]
        wanted = self.cosines(query, set(self.model))
        keys, cosines = self.vectors.scores(query)
        assert dict(zip(keys.tolist(), cosines, strict=True)) == pytest.approx(wanted, abs=1e-5)
        given = self.vectors.cosines(query, list(range(45)))
        assert [key for key in range(45) if not np.isnan(given[key])] == sorted(self.model)
        assert {key: given[key] for key in self.model} == pytest.approx(wanted, abs=1e-5)

    @invariant()
    def same_size(self) -> None:
        assert len(self.vectors) == len(self.model)
        assert all(key in self.vectors for key in self.model)

    def cosines(self, query: NDArray[np.float32], keys: set[int]) -> dict[int, float]:
        known = {key: self.model[key].astype(np.float64) for key in keys if key in self.model}
        length = np.linalg.norm(query)
        return {key: float(each @ query / np.linalg.norm(each) / length) for key, each in known.items()}


AgainstAModel.TestCase.settings = hypothesis_settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAgainstAModel = AgainstAModel.TestCase


class AgainstAModelWithAGraph(AgainstAModel):
    """The same where a graph is built almost at once; so few vectors are found whole."""

    exact_limit = 4


AgainstAModelWithAGraph.TestCase.settings = AgainstAModel.TestCase.settings
TestAgainstAModelWithAGraph = needs_hnswlib(AgainstAModelWithAGraph.TestCase)


@pytest.mark.parametrize(
    "bad",
    [
        [np.nan] * DIMENSION,
        [np.inf] + [0.0] * (DIMENSION - 1),
        [0.0] * DIMENSION,
        [1e30] * DIMENSION,
        [1.0] * (DIMENSION + 1),
        [1.0],
        [],
    ],
)
def test_a_vector_that_means_nothing_is_refused_and_nothing_of_its_call_is_kept(bad: list[float]) -> None:
    vectors = filled(3)
    with pytest.raises(Invalid, match="vector"):
        vectors.put([7], [bad])
    with pytest.raises(Invalid, match="vector"):
        vectors.search(bad, 3)
    if len(bad) == DIMENSION:
        with pytest.raises(Invalid, match="vector"):
            vectors.put([7, 0], [[1.0] * DIMENSION, bad])
    assert len(vectors) == 3
    assert 7 not in vectors


def test_keys_that_do_not_match_the_vectors_are_refused() -> None:
    vectors = filled(3)
    with pytest.raises(Invalid, match="2 keys were given with 1 vectors"):
        vectors.put([7, 8], random_vectors(1))
    with pytest.raises(Invalid, match="twice"):
        vectors.put([7, 7], random_vectors(2))
    assert len(vectors) == 3


def test_an_empty_index_finds_nothing() -> None:
    keys, cosines = Vectors(DIMENSION).search([1.0] * DIMENSION, 5)
    assert (keys.tolist(), cosines.tolist()) == ([], [])
    assert np.isnan(Vectors(DIMENSION).cosines([1.0] * DIMENSION, [1])).all()


def test_what_is_saved_is_found_again(tmp_path: Path) -> None:
    vectors = filled(300)
    vectors.drop(range(0, 300, 3))
    vectors.put([1, 1000], random_vectors(2, 9))
    again = reload(vectors, tmp_path)
    query = random_vectors(1, 5)[0]
    assert [part.tolist() for part in again.search(query, 20)] == [part.tolist() for part in vectors.search(query, 20)]
    again.put([2000], random_vectors(1, 10))
    assert len(again) == len(vectors) + 1


def test_an_empty_index_is_saved_and_loaded(tmp_path: Path) -> None:
    assert len(reload(Vectors(DIMENSION), tmp_path)) == 0


def test_vectors_of_another_dimension_are_not_loaded(tmp_path: Path) -> None:
    snapshot.write(tmp_path, 1, FACTS, filled(10).members())
    with pytest.raises(SnapshotUnusable, match="dimension 9"):
        Vectors.from_snapshot(snapshot.read(tmp_path, FACTS), 9)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, b"\x93NUMPY\x01\x00"])
def test_a_member_that_holds_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    snapshot.write(tmp_path, 1, FACTS, {"vectors.npy": content})
    with pytest.raises(SnapshotUnusable):
        Vectors.from_snapshot(snapshot.read(tmp_path, FACTS), DIMENSION)
    snapshot.write(tmp_path, 1, FACTS, {})
    with pytest.raises(SnapshotUnusable, match="no member"):
        Vectors.from_snapshot(snapshot.read(tmp_path, FACTS), DIMENSION)


# ---- the graph -------------------------------------------------------------------------------------------------------


def with_graph(count: int, dimension: int = 32) -> Vectors:
    vectors = Vectors(dimension, exact_limit=count // 4)
    vectors.put(np.arange(count), clustered(count, 2, dimension))
    vectors.tend()
    assert len(vectors.members()) == 2
    return vectors


def recall_at_10(vectors: Vectors, queries: NDArray[np.float32]) -> float:
    """The share of the exact ten nearest that a search finds."""
    shares = []
    for query in queries:
        keys, cosines = vectors.scores(query)
        nearest = set(keys[np.argsort(-cosines)[:10]].tolist())
        shares.append(len(nearest & set(vectors.search(query, 10)[0].tolist())) / 10)
    return float(np.mean(shares))


@needs_hnswlib
def test_the_graph_finds_nearly_all_of_the_nearest(tmp_path: Path) -> None:
    vectors = with_graph(4000)
    queries = clustered(100, 3)
    assert recall_at_10(vectors, queries) >= 0.95
    vectors.drop(range(0, 4000, 7))
    vectors.put(np.arange(1, 4000, 7), clustered(len(range(1, 4000, 7)), 4))
    vectors.put(np.arange(5000, 5500), clustered(500, 5))
    assert recall_at_10(vectors, queries) >= 0.95
    vectors.tend()
    assert recall_at_10(vectors, queries) >= 0.95


@needs_hnswlib
def test_churn_does_not_rot_the_graph() -> None:
    vectors = with_graph(1000)
    for turn in range(5):
        vectors.put(np.arange(1000), clustered(1000, 10 + turn))
        vectors.tend()
    assert recall_at_10(vectors, clustered(50, 6)) >= 0.95


@needs_hnswlib
def test_a_filter_on_a_graph_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = with_graph(2000)
    query = clustered(1, 7)[0]
    keys, cosines = vectors.scores(query)
    best_even = keys[np.argsort(-cosines)]
    best_even = best_even[best_even % 2 == 0][:10]
    assert vectors.search(query, 10, np.arange(0, 2000, 2))[0].tolist() == best_even.tolist()
    monkeypatch.setattr("engine.index.vectors.SUBSET_EXACT_LIMIT", 10)  # now the graph proposes, and is asked for more
    found = vectors.search(query, 10, lambda keys: keys % 2 == 0)[0].tolist()
    assert len(set(found) & set(best_even.tolist())) >= 9
    assert len(vectors.search(query, 10, lambda keys: keys < 11)[0]) == 10


@needs_hnswlib
def test_a_graph_is_saved_and_loaded_and_goes_on_growing(tmp_path: Path) -> None:
    vectors = with_graph(1000)
    again = reload(vectors, tmp_path, exact_limit=250)
    assert len(again.members()) == 2
    again.put(np.arange(2000, 3500), clustered(1500, 8))
    again.drop(range(500))
    assert len(again) == 2000
    assert recall_at_10(again, clustered(50, 9)) >= 0.95


@needs_hnswlib
def test_a_dropped_vector_is_in_no_file_of_the_next_snapshot(tmp_path: Path) -> None:
    vectors = with_graph(1000)
    unit = clustered(1000, 2)[17]
    unit /= np.linalg.norm(unit)
    trace = unit.tobytes()[4:64]
    snapshot.write(tmp_path, 1, FACTS, vectors.members())
    assert sum(trace in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()) == 2
    vectors.drop([17])
    snapshot.write(tmp_path, 2, FACTS, vectors.members())
    assert not any(trace in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    again = Vectors.from_snapshot(snapshot.read(tmp_path, FACTS), 32, 250)
    assert len(again) == 999
    again.tend()
    assert recall_at_10(again, clustered(50, 9)) >= 0.95


@needs_hnswlib
def test_without_hnswlib_large_stores_stay_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.write(tmp_path, 1, FACTS, with_graph(1000).members())
    monkeypatch.setitem(sys.modules, "hnswlib", None)  # what the import system calls not installed
    vectors = Vectors.from_snapshot(snapshot.read(tmp_path, FACTS), 32, 250)
    vectors.tend()
    assert list(vectors.members()) == ["vectors.npy"]
    assert recall_at_10(vectors, clustered(20, 9)) == 1.0


@needs_hnswlib
def test_a_graph_of_other_vectors_is_refused(tmp_path: Path) -> None:
    one, other = with_graph(1000), Vectors(32)
    other.put(np.arange(1000), clustered(1000, 77))
    snapshot.write(tmp_path, 1, FACTS, {**one.members(), "vectors.npy": other.members()["vectors.npy"]})
    with pytest.raises(SnapshotUnusable, match="no graph of these vectors"):
        Vectors.from_snapshot(snapshot.read(tmp_path, FACTS), 32, 250)


@needs_hnswlib
def test_readers_writers_and_tending_at_once_see_only_whole_states() -> None:
    vectors = with_graph(600)
    failures: list[str] = []
    stop = threading.Event()

    def reading(seed: int) -> None:
        for query in clustered(10**6 % 997, seed):
            if stop.is_set():
                return
            keys, cosines = vectors.search(query, 10)
            if len(keys) != 10 or not np.all(np.diff(cosines) <= 1e-6) or np.isnan(cosines).any():
                failures.append(f"{keys} {cosines}")

    readers = [threading.Thread(target=reading, args=(seed,)) for seed in range(3)]
    for thread in readers:
        thread.start()

    def tending() -> None:
        for _ in range(6):
            vectors.tend()

    tender = threading.Thread(target=tending)
    tender.start()
    for turn in range(40):
        vectors.put(np.arange(turn * 20, turn * 20 + 40), clustered(40, 100 + turn))
        vectors.drop(range(turn * 5, turn * 5 + 5))
    stop.set()
    for thread in [*readers, tender]:
        thread.join()
    assert failures == []
    assert recall_at_10(vectors, clustered(30, 12)) >= 0.95


WRITER = """
import sys
import numpy as np
from pathlib import Path
from engine.index import snapshot
from engine.index.vectors import Vectors
folder, revision = Path(sys.argv[1]), int(sys.argv[2])
vectors = Vectors(32, 250)
chance = np.random.default_rng(revision)
while True:
    vectors.put(np.arange(revision, revision + 400), chance.standard_normal((400, 32)))
    vectors.tend()
    snapshot.write(folder, revision, {"dimension": 8}, vectors.members())
    print(revision, len(vectors), flush=True)
    revision += 1
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a POSIX signal")
def test_a_process_killed_while_it_saves_leaves_vectors_that_load(tmp_path: Path) -> None:
    chance, revision = random.Random(3), 1
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(revision)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 6)):
                acknowledged, size = map(int, process.stdout.readline().split())
            sum(range(chance.randrange(1, 300_000)))  # a varying moment within the next save, without sleeping
            process.send_signal(signal.SIGKILL)
            process.wait()
        saved = snapshot.read(tmp_path, FACTS)
        assert saved.revision >= acknowledged
        vectors = Vectors.from_snapshot(saved, 32, 250)
        assert len(vectors) == size + saved.revision - acknowledged
        assert recall_at_10(vectors, random_vectors(10, 1, 32)) >= 0.9
        revision = saved.revision + 1
