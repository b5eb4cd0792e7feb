"""Stored KV caches are found, reused, written in the background, bounded, merged, evicted, and refused when damaged."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from engine.errors import Conflict, Invalid
from engine.settings import Settings
from engine.tiers.kv.store import Scope
from engine.tiers.kv.tensors import bytes_of
from tests.conftest import HandClock
from tests.engine.stores import ME as OWNER
from tests.engine.stores import plain_only, say
from tests.engine.tiers.caches import (
    TOKEN_BYTES,
    Kept,
    equal,
    kept,
    layers_for,
    model,
    nearly_equal,
    part,
    tokens,
    working,
)

INFO = model()
HOME, ME, BEN = Scope.cube("home"), Scope.talk("owner"), Scope.talk("ben")
Sources = Sequence[tuple[str, int]]


def keep(store: Kept, ids: Sequence[int], start: int = 0, scope: Scope = ME, sources: Sources = ()) -> str | None:
    layers = part(layers_for(ids), start, len(ids))
    return store.kv.keep_prefix(INFO, scope, scope.cube_name, ids, layers, start, sources)


def keep_chunk(store: Kept, id: str, ids: Sequence[int], version: int = 1, **more: object) -> str | None:
    return store.kv.keep_chunk(INFO, "home", id, version, ids, layers_for(ids), 0.01, **more)  # type: ignore[arg-type]


def blobs(settings: Settings) -> int:
    return len(list(settings.blobs_folder.iterdir())) if settings.blobs_folder.exists() else 0


# --- finding ----------------------------------------------------------------------------------------------------------


def test_a_kept_prefix_is_reused_as_far_as_whole_blocks_are_the_same(settings: Settings) -> None:
    ids = tokens(100)
    with kept(settings) as store:
        assert store.filled(INFO, [ME], ids) == 0
        keep(store, ids)
        assert store.filled(INFO, [ME], ids) == 96
        assert store.filled(INFO, [ME], ids[:50]) == 48
        assert store.filled(INFO, [ME], [*ids[:40], 61, *ids[41:]]) == 32
        assert store.filled(INFO, [ME], [61, *ids[1:]]) == 0


@pytest.mark.parametrize("how", ["none", "int8"])
def test_it_is_reused_after_a_restart(settings: Settings, how: str) -> None:
    ids = tokens(100)
    with kept(replace(settings, kv_compression=how)) as store:
        keep(store, ids)
    with kept(settings) as store:
        found = store.kv.longest(INFO, [ME], ids)
        assert found is not None
        store.kv.prefetch([found])
        cache = working()
        assert store.kv.fill(found, cache) == 96
        whole = layers_for(ids[:96])
        assert equal(cache.taken(0, 96), whole) is (how == "none")
        assert nearly_equal(cache.taken(0, 96), whole)


def test_a_cubes_prefix_and_a_conversation_behind_it_make_one_prefix(settings: Settings) -> None:
    ids = tokens(200)
    with kept(settings) as store:
        note = say(store.memos, "The lamp is red.", cube="home")
        keep(store, ids[:64], scope=HOME, sources=[(note, 1)])
        keep(store, ids[:150], start=64, scope=ME, sources=[(note, 1)])
        assert store.filled(INFO, [HOME, ME], ids) == 144
        assert store.filled(INFO, [HOME], ids) == 64
        assert store.filled(INFO, [ME], ids) == 0  # its own part stands behind what is the cube's


def test_conversations_are_not_shared_and_not_listed(settings: Settings) -> None:
    ids = tokens(64)
    with kept(settings) as store:
        say(store.memos, "The lamp is red.", cube="home")
        keep(store, ids, scope=BEN)
        assert (store.filled(INFO, [HOME, ME], ids), store.filled(INFO, [HOME, BEN], ids)) == (0, 64)
        assert store.kv.rows("", INFO) == ()
        assert store.kv.rows("home", INFO) == ()
        assert (store.kv.totals().caches, store.kv.totals().conversations) == (1, 1)


def test_a_cubes_prefix_is_of_that_cube_alone(settings: Settings) -> None:
    ids = tokens(64)
    with kept(settings) as store:
        home = say(store.memos, "The lamp is red.", cube="home")
        say(store.memos, "The lamp is red.", cube="work")
        keep(store, ids, scope=HOME, sources=[(home, 1)])
        assert store.filled(INFO, [Scope.cube("work")], ids) == 0
        assert keep(store, ids, scope=Scope.cube("work"), sources=[(home, 1)]) is None  # a memory of another cube
        assert keep(store, ids, scope=Scope.cube("nowhere")) is None
        with pytest.raises(Invalid):
            store.kv.keep_prefix(INFO, HOME, "work", ids, layers_for(ids), 0, ())


def test_what_another_model_made_is_never_used_and_that_is_said_once(settings: Settings) -> None:
    ids, other = tokens(64), model("sha256:two")
    with kept(settings) as store:
        note = say(store.memos, "The lamp is red.", cube="home")
        keep(store, ids, scope=HOME, sources=[(note, 1)])
        keep_chunk(store, note, ids[:20])
        store.kv.flush()
        assert store.filled(INFO, [HOME, ME], ids) == 64
        assert store.kv.remarks() == ()
        assert store.filled(other, [HOME, ME], ids) == 0
        assert store.kv.chunk(other, "home", note, 1) is None
        (said,) = store.kv.remarks(["home"])
        assert "'home'" in said
        assert "another model" in said
        assert store.filled(other, [HOME], ids) == 0
        assert store.kv.remarks() == ()
        assert [row.usable for row in store.kv.rows("home", other)] == [False, False]
        assert [row.usable for row in store.kv.rows("home", INFO)] == [True, True]


def test_remarks_about_one_cube_are_not_told_to_who_asks_about_another(settings: Settings) -> None:
    with kept(settings) as store:
        note = say(store.memos, "The lamp is red.", cube="home")
        keep(store, tokens(64), scope=HOME, sources=[(note, 1)])
        store.filled(model("sha256:two"), [HOME], tokens(64))
        assert store.kv.remarks(["work"]) == ()
        assert len(store.kv.remarks(["home"])) == 1


def test_a_stored_cache_is_copied_and_never_written_to(settings: Settings) -> None:
    ids = tokens(64)
    with kept(settings) as store:
        keep(store, ids)
        for _ in range(2):
            found = store.kv.longest(INFO, [ME], ids)
            assert found is not None
            cache = working()
            store.kv.fill(found, cache)
            for layer in cache.layers:
                layer.keys.zero_()
                layer.values.zero_()
            store.kv.flush()
        assert store.filled(INFO, [ME], ids) == 64


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_a_chunk_is_found_by_memory_version_and_tokens(settings: Settings) -> None:
    ids = tokens(21)
    with kept(settings) as store:
        note = say(store.memos, "The lamp is red.", cube="home")
        keep_chunk(store, note, ids, start=4)
        found = store.kv.chunk(INFO, "home", note, 1, ids)
        assert found is not None
        assert (found.start, found.tokens, found.divergence, found.fits(ids)) == (4, 21, 0.01, True)
        assert equal(found.layers, layers_for(ids))
        assert store.kv.chunk(INFO, "home", note, 2) is None
        assert store.kv.chunk(INFO, "work", note, 1) is None
        assert store.kv.chunk(INFO, "home", note, 1, [*ids[:-1], 61]) is None
        assert store.kv.ready({note: found}) == {note: found}
    with kept(settings) as store:
        found = store.kv.chunk(INFO, "home", note, 1, ids)
        assert found is not None
        store.kv.prefetch([found])
        assert equal(store.kv.ready({note: found})[note].layers, layers_for(ids))


def test_a_chunk_that_is_built_again_takes_the_place_of_the_old_one(settings: Settings) -> None:
    with kept(settings) as store:
        note = say(store.memos, "The lamp is red.", cube="home")
        keep_chunk(store, note, tokens(20))
        new = keep_chunk(store, note, tokens(20), how="int8")
        store.kv.flush()
        (row,) = store.kv.rows("home", INFO)
        assert (row.id, row.form, row.tokens, row.memories, row.divergence) == (new, "chunk, int8", 20, 1, 0.01)
        assert blobs(settings) == 1


def test_layers_that_do_not_fit_their_tokens_are_refused(settings: Settings) -> None:
    with kept(settings) as store:
        note = say(store.memos, "The lamp is red.", cube="home")
        with pytest.raises(Invalid):
            store.kv.keep_chunk(INFO, "home", note, 1, tokens(20), layers_for(tokens(19)), None)


def test_a_chunk_that_was_dropped_is_neither_ready_nor_read(settings: Settings) -> None:
    with kept(settings) as store:
        note = say(store.memos, "The lamp is red.", cube="home")
        keep_chunk(store, note, tokens(20))
        found = store.kv.chunk(INFO, "home", note, 1)
        assert found is not None
        assert store.kv.drop(OWNER, "home") == 1
        assert store.kv.ready({note: found}) == {}
        with pytest.raises(Conflict):
            _ = found.layers


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
        assert store.filled(INFO, [ME], ids) == 160


def test_a_long_conversation_costs_each_turn_its_own_tokens_and_stays_few_files(settings: Settings) -> None:
    turn, turns = 40, 50
    ids = tokens(turn * turns)
    with kept(settings) as store:
        start = 0
        for number in range(1, turns + 1):
            prompt = ids[: number * turn]
            reused = store.filled(INFO, [ME], prompt)
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
        assert store.filled(INFO, [ME], ids) == 2000


def test_conversations_that_part_are_both_kept_when_their_beginning_is_merged(settings: Settings) -> None:
    ids, other = tokens(400), [*tokens(160), *tokens(240, seed=1)]
    with kept(settings) as store:
        for end in range(16, 401, 16):
            keep(store, ids[:end], start=end - 16)
            if end > 160:
                keep(store, other[:end], start=end - 16)
        store.kv.flush()
        assert store.filled(INFO, [ME], ids) == store.filled(INFO, [ME], other) == 400
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
            assert store.filled(INFO, [ME], hot) == 64
            assert store.kv.totals().disk_bytes <= budget
            assert sum(path.stat().st_size for path in settings.blobs_folder.iterdir()) <= budget
        assert 15 <= blobs(settings) <= 20
        assert store.filled(INFO, [ME], tokens(64, seed=39)) == 64
        assert store.filled(INFO, [ME], tokens(64, seed=0)) == 0


def test_heat_fades_and_outlives_a_restart(settings: Settings, clock: HandClock) -> None:
    settings = replace(settings, kv_disk_bytes=3 * (64 * TOKEN_BYTES + 2048))
    old, new = tokens(64, seed=1), tokens(64, seed=2)
    with kept(settings, clock) as store:
        keep(store, old)
        store.filled(INFO, [ME], old)
        keep(store, new)
        for _ in range(5):
            assert store.filled(INFO, [ME], new) == 64
        store.kv.sweep()
    with kept(settings, clock) as store:
        for seed in range(10, 14):
            clock.pass_by(hours=30)
            keep(store, tokens(64, seed=seed))
            store.kv.flush()
        assert store.filled(INFO, [ME], new) == 64
        assert store.filled(INFO, [ME], old) == 0
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
        assert store.filled(INFO, [ME], ids) == 128


def test_ram_is_kept_within_its_budget_and_what_was_let_go_is_read_again(settings: Settings) -> None:
    settings = replace(settings, kv_ram_bytes=5 * 64 * TOKEN_BYTES)
    with kept(settings) as store:
        for seed in range(20):
            keep(store, tokens(64, seed=seed))
            store.kv.flush()
            assert store.kv.totals().ram_bytes <= settings.kv_ram_bytes
        for seed in range(20):
            assert store.filled(INFO, [ME], tokens(64, seed=seed)) == 64
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
        assert store.filled(INFO, [ME], ids) == (0 if len(budgets) == 2 else 64)
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


# --- damage -----------------------------------------------------------------------------------------------------------


@plain_only
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_dropped_said_and_never_used(settings: Settings, damage: str) -> None:
    ids = tokens(96)
    with kept(settings) as store:
        keep(store, ids[:48])
        keep(store, ids, start=48)
    with kept(settings) as store:
        found = store.kv.longest(INFO, [ME], ids)
        assert found is not None
        path = settings.blobs_folder / found.spans[1].segment.digest.removeprefix("sha256:")
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 64
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(raw if damage == "flipped" else raw[:-100])
        cache = working()
        assert (found.tokens, store.kv.fill(found, cache)) == (96, 48)
        assert equal(cache.taken(0, 48), layers_for(ids[:48]))
        (said,) = store.kv.remarks()
        assert "built again" in said
        store.kv.flush()
        assert (store.filled(INFO, [ME], ids), blobs(settings)) == (48, 1)
        assert keep(store, ids, start=48) is not None
        assert store.filled(INFO, [ME], ids) == 96
    assert blobs(settings) == 2


def test_layers_of_another_shape_than_the_models_are_refused(settings: Settings) -> None:
    ids = tokens(64)
    with kept(settings) as store:
        keep(store, ids)
    with kept(settings) as store:
        assert store.filled(replace(INFO, kv_bytes_per_token=2 * TOKEN_BYTES), [ME], ids) == 0
        assert "another shape" in store.kv.remarks()[0]


def test_a_row_that_nobody_understands_counts_and_is_never_used(settings: Settings) -> None:
    with kept(settings) as store:
        keep(store, tokens(64))
    with kept(settings) as store:
        store.memos._parts.vault.write(
            lambda transaction: transaction.execute("UPDATE artifacts SET kind = 'kv'"), OWNER
        )
        (row,) = store.memos._parts.vault.rows("SELECT header FROM artifacts")
        if row[0].startswith("{"):
            changed = row[0].replace('\\"tokens\\":64', '\\"tokens\\":65')
            assert changed != row[0]
            store.memos._parts.vault.write(
                lambda transaction: transaction.execute("UPDATE artifacts SET header = ?", [changed]), OWNER
            )
            assert store.filled(INFO, [ME], tokens(64)) == 0
            assert store.kv.totals().caches == 1


# --- dropping ---------------------------------------------------------------------------------------------------------


def test_dropping_takes_what_is_meant_and_is_audited(settings: Settings) -> None:
    ids = tokens(64)
    with kept(settings) as store:
        home, work = (say(store.memos, "The lamp is red.", cube=cube) for cube in ("home", "work"))
        one = keep(store, ids, scope=HOME, sources=[(home, 1)])
        keep_chunk(store, home, ids[:20])
        keep(store, ids, scope=Scope.cube("work"), sources=[(work, 1)])
        keep(store, ids)
        store.kv.flush()
        assert store.kv.drop(OWNER, "home", [one or ""]) == 1
        assert [row.form for row in store.kv.rows("home", INFO)] == ["chunk"]
        assert store.kv.drop(OWNER, "home") == 1
        assert store.memos.audit(OWNER)[-1].action == "drop_tier"
        assert store.kv.totals().caches == 2
        keep(store, tokens(64, seed=1))  # not written yet, perhaps
        assert store.kv.drop(OWNER) == 3
        assert (store.kv.totals().caches, store.kv.totals().ram_bytes) == (0, 0)
        store.kv.flush()
        assert store.memos.verify(OWNER) == ()
    assert blobs(settings) == 0


def test_rows_are_those_whose_memories_the_caller_sees(settings: Settings) -> None:
    with kept(settings) as store:
        one, other = (say(store.memos, text, cube="home") for text in ("The lamp is red.", "Ben lives in Berlin."))
        keep_chunk(store, one, tokens(20))
        keep_chunk(store, other, tokens(20, seed=1))
        assert len(store.kv.rows("home", INFO)) == 2
        assert len(store.kv.rows("home", None, lambda ids: set(ids) <= {one})) == 1


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
