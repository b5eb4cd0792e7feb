"""KV caches by the scheduler: built for what is used often, held ready for what comes next, and all of it told of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.cube_operations import Govern
from engine.memos import MemOS
from engine.model_operations import MemoryUse, Tier
from engine.scheduling.caches import CacheTier
from engine.settings import Settings
from engine.tier_operations import Scheduled
from tests.conftest import HandClock, until
from tests.engine.answering.test_chat import FACTS, chat, kept, reply, told
from tests.engine.stores import ME, ask, erase, opened

ANIMALS = ("cat", "dog", "fox", "owl")
NAMES = ("alice", "bob", "carol", "dave")
LONG = "the city of {0} is paris . the pet of {0} is {1} . the food of {0} is sushi . the code of {0} is 4 7 1 1 . " * 2


@pytest.fixture
def with_model(settings: Settings, latest_wins: Path) -> Settings:
    return replace(settings, model=str(latest_wins), model_dtype="float32")


@pytest.fixture
def talking(with_model: Settings, clock: HandClock) -> Iterator[MemOS]:
    with opened(with_model, clock) as store:
        yield store


def remember(memos: MemOS, clock: HandClock) -> list[str]:
    return [told(memos, clock, LONG.format(name, pet)) for name, pet in zip(NAMES, ANIMALS, strict=True)]


def tier(memos: MemOS) -> CacheTier:
    return memos._scheduling._caches


def sizes(memos: MemOS) -> dict[str, int]:
    caches = tier(memos).look()
    assert caches is not None
    return {id: one.ram_bytes for id, one in caches.kept.items()}


def in_ram(memos: MemOS) -> set[str]:
    caches = tier(memos).look()
    return set() if caches is None else {id for id, one in caches.kept.items() if one.in_ram}


def on_disk(memos: MemOS) -> set[str]:
    caches = tier(memos).look()
    return set() if caches is None else set(caches.kept)


def moves(memos: MemOS, part: str) -> list[Scheduled]:
    return [move for move in memos.scheduler_log(ME) if move.part == part]


def built(memos: MemOS) -> None:
    """The caches of a cube, on disk and not in RAM, with the model loaded."""
    memos.build_tier("default", ME)
    tier(memos).let_go(sorted(on_disk(memos)))


def test_what_is_used_often_gets_a_cache_that_says_why_and_can_be_taken_back(talking: MemOS, clock: HandClock) -> None:
    ids = remember(talking, clock)
    talking.model(ME, load=True)
    for _ in range(5):
        talking.memory(ids[0], ME)
    assert [move.part for move in talking.run_scheduler(ME, dry_run=True)] == ["kv"]
    talking.run_scheduler(ME)
    until(lambda: on_disk(talking) == {ids[0]}, "the cache is built")
    (row,) = until(lambda: moves(talking, "kv"), "it is told of")
    assert (row.ids, row.to, row.outcome) == ((ids[0],), "kv", "done")
    assert row.reason.startswith("used often lately (heat 5.0)")
    talking.undo_move(row.number, ME)
    assert on_disk(talking) == set()
    talking.run_scheduler(ME)
    kept(talking)
    assert on_disk(talking) == set()  # left alone, though it is as warm as before
    assert talking.verify(ME) == ()


def test_what_replies_went_without_is_built_and_told_of_too(talking: MemOS, clock: HandClock) -> None:
    id = told(talking, clock, FACTS["alice"])
    reply(talking, chat("what is the city of alice ?", memory=MemoryUse(tiers=(Tier.KV,))))
    until(lambda: on_disk(talking), "a cache is built")
    (row,) = until(lambda: moves(talking, "kv"), "it is told of")
    assert (row.ids, row.reason) == ((id,), "a reply went without its KV cache")


def test_after_a_turn_what_is_expected_next_is_held_ready(talking: MemOS, clock: HandClock) -> None:
    ids = remember(talking, clock)
    built(talking)
    scheduling = talking._scheduling
    for _ in range(6):  # the same two always come one after the other
        ask(talking, "pet of alice", limit=1)
        clock.pass_by(minutes=1)
        ask(talking, "pet of bob", limit=1)
        clock.pass_by(hours=2)
    assert scheduling.preload() > 0
    assert set(ids[:2]) <= in_ram(talking)
    row = moves(talking, "preload")[0]
    assert row.to == "ram"
    assert set(ids[:2]) <= set(row.ids)
    talking.undo_move(row.number, ME)
    assert not in_ram(talking) & set(row.ids)


def test_the_end_of_a_reply_is_when_what_comes_next_is_made_ready(talking: MemOS, clock: HandClock) -> None:
    ids = remember(talking, clock)
    built(talking)
    for _ in range(4):
        reply(talking, chat("what is the pet of carol ?", memory=MemoryUse(tiers=(Tier.TEXT,), limit=1)))
    until(lambda: ids[2] in in_ram(talking), "what was used all the time is held ready")


def test_what_is_pinned_or_frozen_is_neither_built_nor_held_nor_let_go(talking: MemOS, clock: HandClock) -> None:
    ids = remember(talking, clock)
    talking.govern(Govern(ids=(ids[0],), pinned=True), ME)
    talking.govern(Govern(ids=(ids[1],), frozen=True), ME)
    talking.model(ME, load=True)
    for id in ids[:3]:
        for _ in range(9):
            talking.memory(id, ME)
    done = talking.run_scheduler(ME, dry_run=True)
    assert {id for move in done for id in move.ids} == {ids[2]}


def test_what_is_held_ready_leaves_ram_last(with_model: Settings, clock: HandClock) -> None:
    with opened(with_model, clock) as memos:
        remember(memos, clock)
        built(memos)
        size, known = max(sizes(memos).values()), sorted(sizes(memos))
    room = replace(with_model, kv_ram_bytes=2 * size + 1)
    with opened(room, clock) as memos:
        memos.model(ME, load=True)
        local = memos._answering.at_hand
        assert local is not None
        assert local.known is not None
        first, *others = known
        assert tier(memos).hold([first]) == [first]
        for id in others:
            chunk = local.store.chunk(local.known, "default", id, 1)
            assert chunk is not None
            assert chunk.load() is not None
        assert first in in_ram(memos)
        assert len(in_ram(memos)) == 2


def test_what_is_held_ready_never_takes_more_than_its_share(with_model: Settings, clock: HandClock) -> None:
    with opened(with_model, clock) as memos:
        ids = remember(memos, clock)
        built(memos)
        size = max(sizes(memos).values())
    with opened(replace(with_model, kv_ram_bytes=4 * size + 4), clock) as memos:
        memos.model(ME, load=True)
        for id in ids:
            for _ in range(9):
                memos.memory(id, ME)
        memos.run_scheduler(ME)
        assert len(in_ram(memos)) == 2  # half of what there is: the rest is for conversations


def test_a_memory_that_changed_or_was_erased_is_expected_no_more(talking: MemOS, clock: HandClock) -> None:
    ids = remember(talking, clock)
    built(talking)
    for _ in range(3):
        ask(talking, "pet of alice", limit=2)
    assert talking._scheduling.preload() > 0
    erase(talking, ids[0])
    assert talking._scheduling._predicting.empty
    talking._scheduling.preload()
    assert ids[0] not in in_ram(talking) | on_disk(talking)
    assert ids[0] not in {
        item.id for p in talking._scheduling._predicting._predictors.values() for item in p.habits.shelf.items
    }


@pytest.mark.parametrize("off", ["kv", "preload"])
def test_a_part_that_is_off_moves_no_cache(with_model: Settings, clock: HandClock, off: str) -> None:
    parts = tuple(part for part in with_model.scheduler if part != off)
    with opened(replace(with_model, scheduler=parts), clock) as memos:
        ids = remember(memos, clock)
        memos.model(ME, load=True)
        if off == "preload":
            built(memos)
        for _ in range(9):
            memos.memory(ids[0], ME)
            ask(memos, "pet of bob", limit=1)
        assert {move.part for move in memos.run_scheduler(ME, dry_run=True)} <= {"kv", "preload"} - {off}
        assert memos._scheduling.preload() == 0 or off != "preload"
        assert not in_ram(memos)
