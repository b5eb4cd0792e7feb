"""Stored KV caches cost no more than they may: few bytes, few files, merged, evicted by what they are worth."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from engine.settings import Settings
from engine.tiers.kv.store import Scope
from engine.tiers.kv.tensors import bytes_of
from tests.conftest import HandClock
from tests.engine.stores import ME as OWNER
from tests.engine.stores import plain_only, say
from tests.engine.tiers.caches import (
    INFO,
    MINE,
    TOKEN_BYTES,
    blobs,
    keep,
    keep_chunk,
    kept,
    layers_for,
    tokens,
)

# --- what it costs ----------------------------------------------------------------------------------------------------


def test_only_what_is_new_is_stored(settings: Settings) -> None:
    ids = tokens(160)
    with kept(settings) as store:
        first = keep(store, ids[:100])
        assert keep(store, ids[:100]) == first
        assert keep(store, ids) != first
        assert store.kv.totals().caches == 2
        assert store.kv.totals().ram_bytes == 160 * TOKEN_BYTES
        store.kv.flush()
        assert store.kv.totals().disk_bytes < 160 * TOKEN_BYTES + 2 * 4096
        assert store.filled(INFO, [MINE], ids) == 160


def test_a_long_conversation_costs_each_turn_its_own_tokens_and_stays_few_files(settings: Settings) -> None:
    turn, turns = 40, 50
    ids = tokens(turn * turns)
    with kept(settings) as store:
        start = 0
        for number in range(1, turns + 1):
            prompt = ids[: number * turn]
            reused = store.filled(INFO, [MINE], prompt)
            assert number * turn - reused <= turn + 16  # what this turn has to compute
            keep(store, prompt, start=reused)
            start += len(prompt) - reused
            store.kv.flush()
            totals = store.kv.totals()
            assert totals.caches <= 9
            assert totals.disk_bytes <= (len(prompt) * TOKEN_BYTES) * 1.05 + 9 * 8192
            assert blobs(settings) == totals.caches
        assert start <= 2 * len(ids)
    with kept(settings) as store:
        assert store.filled(INFO, [MINE], ids) == 2000


def test_conversations_that_part_are_both_kept_when_their_beginning_is_merged(settings: Settings) -> None:
    ids, other = tokens(400), [*tokens(160), *tokens(240, seed=1)]
    with kept(settings) as store:
        for end in range(16, 401, 16):
            keep(store, ids[:end], start=end - 16)
            if end > 160:
                keep(store, other[:end], start=end - 16)
        store.kv.flush()
        assert store.filled(INFO, [MINE], ids) == store.filled(INFO, [MINE], other) == 400
        assert store.kv.totals().caches <= 16


@plain_only
def test_the_disk_is_kept_within_its_budget_and_the_hot_stay(settings: Settings, clock: HandClock) -> None:
    budget = 20 * 64 * TOKEN_BYTES
    settings = replace(settings, kv_disk_bytes=budget)
    hot = tokens(64, seed=1_000)
    with kept(settings, clock) as store:
        keep(store, hot)
        for seed in range(40):
            clock.pass_by(minutes=5)
            keep(store, tokens(64, seed=seed))
            store.kv.flush()
            assert store.filled(INFO, [MINE], hot) == 64
            assert store.kv.totals().disk_bytes <= budget
            assert sum(path.stat().st_size for path in settings.blobs_folder.iterdir()) <= budget
        assert 15 <= blobs(settings) <= 20
        assert store.filled(INFO, [MINE], tokens(64, seed=39)) == 64
        assert store.filled(INFO, [MINE], tokens(64, seed=0)) == 0


def test_heat_fades_and_outlives_a_restart(settings: Settings, clock: HandClock) -> None:
    settings = replace(settings, kv_disk_bytes=3 * (64 * TOKEN_BYTES + 2048))
    old, new = tokens(64, seed=1), tokens(64, seed=2)
    with kept(settings, clock) as store:
        keep(store, old)
        store.filled(INFO, [MINE], old)
        keep(store, new)
        for _ in range(5):
            assert store.filled(INFO, [MINE], new) == 64
        store.kv.sweep()
    with kept(settings, clock) as store:
        for seed in range(10, 14):
            clock.pass_by(hours=30)
            keep(store, tokens(64, seed=seed))
            store.kv.flush()
        assert store.filled(INFO, [MINE], new) == 64
        assert store.filled(INFO, [MINE], old) == 0
        assert store.memos._parts.vault.rows("SELECT max(uses) FROM artifacts")[0][0] == 5


def test_what_others_stand_behind_goes_last(settings: Settings, clock: HandClock) -> None:
    settings = replace(settings, kv_disk_bytes=3 * (64 * TOKEN_BYTES + 4096))
    ids = tokens(192)
    with kept(settings, clock) as store:
        for start in (0, 64, 128):
            keep(store, ids[: start + 64], start=start)
        store.kv.flush()
        keep(store, tokens(64, seed=1))
        store.kv.flush()
        assert store.filled(INFO, [MINE], ids) == 128


def test_ram_is_kept_within_its_budget_and_what_was_let_go_is_read_again(settings: Settings) -> None:
    settings = replace(settings, kv_ram_bytes=5 * 64 * TOKEN_BYTES)
    with kept(settings) as store:
        for seed in range(20):
            keep(store, tokens(64, seed=seed))
            store.kv.flush()
            assert store.kv.totals().ram_bytes <= settings.kv_ram_bytes
        for seed in range(20):
            assert store.filled(INFO, [MINE], tokens(64, seed=seed)) == 64
            assert store.kv.totals().ram_bytes <= settings.kv_ram_bytes


@pytest.mark.parametrize(
    "budgets", [{"kv_ram_bytes": 0}, {"kv_disk_bytes": 0}, {"kv_ram_bytes": 0, "kv_disk_bytes": 0}]
)
def test_without_a_budget_it_does_what_is_left_to_do(settings: Settings, budgets: dict[str, int]) -> None:
    ids = tokens(64)
    settings = replace(settings, **budgets)  # type: ignore[arg-type]
    with kept(settings) as store:
        keep(store, ids)
        store.kv.flush()
        assert store.filled(INFO, [MINE], ids) == (0 if len(budgets) == 2 else 64)
        assert store.kv.totals().ram_bytes <= settings.kv_ram_bytes
    assert blobs(settings) == (0 if "kv_disk_bytes" in budgets else 1)


def test_what_waits_for_being_written_is_bounded(settings: Settings) -> None:
    settings = replace(settings, kv_ram_bytes=4 * 64 * TOKEN_BYTES)
    with kept(settings) as store:
        note = say(store.memos, "The lamp is red.", cube="home")
        gate, began = threading.Event(), threading.Event()

        def hold() -> None:
            began.set()
            gate.wait()

        blocker = threading.Thread(target=lambda: store.memos._parts.vault._writer.alone(hold))
        blocker.start()
        began.wait()
        taken = [keep(store, tokens(64, seed=seed)) for seed in range(8)]
        assert [id is not None for id in taken] == [True] * 4 + [False] * 4
        with ThreadPoolExecutor(1) as pool:
            built = pool.submit(keep_chunk, store, note, tokens(64, seed=9))  # who builds chunks waits instead
            assert not built.done()
            gate.set()
            assert built.result() is not None
        blocker.join()
        store.kv.flush()
        assert keep(store, tokens(64, seed=8)) is not None


# --- many at once -----------------------------------------------------------------------------------------------------

ROUNDS = 12


def test_many_threads_get_what_they_asked_for(settings: Settings) -> None:
    """Eight principals with conversations that begin alike; budgets so small that all is evicted all the time."""
    settings = replace(settings, kv_ram_bytes=600 * TOKEN_BYTES, kv_disk_bytes=2_000 * TOKEN_BYTES)
    with kept(settings) as store:

        def talk(number: int) -> int:
            chance, scope, reused = random.Random(number), Scope.talk(f"p{number}"), 0
            for turn in range(ROUNDS):
                ids = [*tokens(48), *tokens(16 * (turn + 1), seed=number + 1)]
                filled = store.filled(INFO, [scope], ids)
                reused += filled
                keep(store, ids, start=filled, scope=scope)
                if chance.random() < 0.1:
                    store.kv.drop(OWNER, "", None)
            return reused

        with ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(talk, range(8)))
        store.kv.flush()
        assert sum(counts) > 0
        totals = store.kv.totals()
        assert totals.ram_bytes <= settings.kv_ram_bytes
        assert totals.disk_bytes <= settings.kv_disk_bytes
        assert store.memos.verify(OWNER) == ()
    with kept(settings) as store:
        assert store.kv.totals().caches == blobs(settings)
        assert bytes_of(layers_for([1])) == TOKEN_BYTES
