"""Embedders come, go and change: the old vectors answer until the new ones are complete, across restarts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engine.clock import TimeOrderedIds
from engine.embeddings import BATCH_MEMORIES, SLICE_MEMORIES, Embeddings
from engine.indexer import Indexes
from engine.memos import MemOS
from engine.operations import Recall, Remember
from engine.parts import Parts
from engine.recalling import Recalling
from engine.remembering import remember
from engine.settings import Settings
from engine.vault import MemVault
from tests.conftest import HandClock, until
from tests.engine.index.tiny_bert import TinyBert
from tests.engine.stores import ME, ask, contents, ids, opened, say, with_vectors

QUERY = "what does she take in her hot drink?"
MILK = "Anna prefers oat milk in her coffee."


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(TinyBert(seed=1).save(tmp_path / "tiny"))


@pytest.fixture
def other(tmp_path: Path) -> str:
    return str(TinyBert(seed=2).save(tmp_path / "other"))


@contextmanager
def still(settings: Settings) -> Iterator[Parts]:
    """The parts of a store without its background thread: nothing is embedded unless the test says so."""
    vault = MemVault(settings, HandClock(), TimeOrderedIds())
    try:
        embeddings = Embeddings(vault, settings, lambda text: None)
        indexes = Indexes(vault, embeddings, settings)
        parts = Parts(vault, embeddings, indexes, HandClock(), TimeOrderedIds())
        vault.on_commit = indexes.apply
        yield parts
        indexes.save()
    finally:
        vault.close()


def recalled(parts: Parts, query: str = QUERY) -> tuple[list[str], list[float], str | None]:
    found = Recalling(parts).recall(Recall(query=query, limit=5), ME)
    return ids(found), [item.score for item in found.memories], found.degraded


def after_batches(count: int) -> Callable[[], bool]:
    """Says to stop after so many batches."""
    asked = iter(range(10_000))
    return lambda: next(asked) >= count


def say_meanwhile(parts: Parts) -> None:
    remember(parts, Remember(content="Zoe drinks water."), ME, lambda done, total, message: None)


def embedders(parts: Parts) -> dict[str, int]:
    return dict(parts.vault.rows("SELECT embedder, count(*) FROM embeddings GROUP BY embedder"))


def settled(memos: MemOS) -> bool:
    return memos.status(ME).degraded is None and not memos._parts.embeddings.moving


def test_the_old_vectors_answer_until_every_memory_has_a_new_one(settings: Settings, tiny: str) -> None:
    dense = with_vectors(settings)
    count = BATCH_MEMORIES + 16
    with opened(dense) as memos:
        say(memos, MILK)
        for number in range(count - 1):
            say(memos, f"Crate {number} stands in row {number * 3}.")
    changed = replace(dense, embedder=tiny)
    with still(dense) as parts:
        before = recalled(parts)
        (old,) = embedders(parts)
    assert before[2] is None
    with still(changed) as parts:
        assert recalled(parts) == before
        assert parts.embeddings.moving
        assert not parts.embeddings.switch(lambda: pytest.fail("it is too early"))
        assert not parts.embeddings.fill(after_batches(1), parts.indexes.applied)
        assert embedders(parts)[old] == count
        assert sum(embedders(parts).values()) == count + SLICE_MEMORIES
        assert recalled(parts) == before
    with still(changed) as parts:  # a restart in the middle
        assert recalled(parts) == before
        remember(parts, Remember(content="Mia drinks tea."), ME, lambda done, total, message: None)
        assert embedders(parts)[old] == count + 1
        assert recalled(parts, "Mia tea")[2] is None
        assert parts.embeddings.fill(lambda: False, parts.indexes.applied)
        assert parts.embeddings.target is not None
        prepared = parts.indexes.prepare(*parts.embeddings.target, lambda: False)
        assert prepared is not None
        assert recalled(parts)[2] is None
        say_meanwhile(parts)
        assert parts.embeddings.switch(lambda: parts.indexes.adopt(prepared))
        assert set(embedders(parts)) == {parts.embeddings.active} != {old}
        found, _, degraded = recalled(parts, "who drinks tea or water? Mia, Zoe")
        assert degraded is None
        assert len(found) == 5
    with opened(changed) as memos:
        assert settled(memos)
        assert memos.status(ME).embedder == "tiny"
        assert memos.verify(ME) == ()


def test_a_store_changes_its_embedder_by_itself(settings: Settings, tiny: str, other: str) -> None:
    with opened(replace(settings, embedder=tiny)) as memos:
        id = say(memos, "the cat sat on the mat")
        first = memos._parts.embeddings.active
    with opened(replace(settings, embedder=other)) as memos:
        until(lambda: settled(memos), "the new embedder to be the active one")
        assert memos._parts.embeddings.active != first
        assert set(embedders(memos._parts)) == {memos._parts.embeddings.active}
        found = ask(memos, "the cat sat on a mat")
        assert ids(found) == [id]
        assert found.degraded is None
        assert any(row[0] == "embedder" for row in memos._parts.vault.rows("SELECT action FROM audit"))


def test_when_the_old_model_is_gone_words_answer_until_the_new_vectors_are_complete(
    settings: Settings, tiny: str, other: str
) -> None:
    with opened(replace(settings, embedder=tiny)) as memos:
        id = say(memos, "the cat sat on the mat")
    shutil.rmtree(tiny)
    changed = replace(settings, embedder=other)
    with still(changed) as parts:
        found, _, degraded = recalled(parts, "cat mat")
        assert found == [id]
        assert degraded is not None
        assert degraded.startswith("lexical only until every memory has a vector")
    with opened(changed) as memos:
        until(lambda: settled(memos), "the new embedder to be the active one")
        assert ask(memos, "cat mat").degraded is None


def test_without_its_embedder_a_store_goes_on_by_words_and_fills_in_what_it_missed(
    settings: Settings, tiny: str
) -> None:
    configured = replace(settings, embedder=tiny)
    with opened(configured) as memos:
        first = say(memos, "the cat sat on the mat")
    kept = shutil.move(tiny, f"{tiny}-away")
    with opened(configured) as memos:
        found = ask(memos, "cat mat")
        assert ids(found) == [first]
        assert found.degraded is not None
        assert found.degraded.startswith("lexical only")
        assert memos.status(ME).degraded == found.degraded
        second = say(memos, "a cat slept in Oslo")
        assert second in ids(ask(memos, "who slept in Oslo?"))
    shutil.move(kept, tiny)
    with opened(configured) as memos:
        until(lambda: settled(memos), "the missing vectors")
        assert sum(embedders(memos._parts).values()) == 2
        assert ask(memos, "cat").degraded is None
        assert memos.verify(ME) == ()


def test_a_store_that_never_had_an_embedder_gets_its_vectors_when_it_has_one(settings: Settings) -> None:
    with opened(settings) as memos:
        id = say(memos, MILK)
        say(memos, "Crate 7 stands in row 21.")
        told = ask(memos, QUERY)
        assert told.degraded is not None
    with opened(with_vectors(settings)) as memos:
        until(lambda: settled(memos), "the first vectors")
        found = ask(memos, QUERY)
        assert (ids(found)[0], found.degraded) == (id, None)
        assert contents(found)[0] == MILK


def test_a_damaged_model_is_no_embedder_and_loses_nothing(settings: Settings, tiny: str) -> None:
    weights = Path(tiny) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with opened(replace(settings, embedder=tiny)) as memos:
        id = say(memos, "the cat sat on the mat")
        found = ask(memos, "cat mat")
        assert ids(found) == [id]
        assert found.degraded is not None
