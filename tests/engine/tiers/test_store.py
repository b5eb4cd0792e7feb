"""Stored KV caches are found, reused, written in the background, dropped, and refused when damaged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.errors import Conflict, Invalid
from engine.settings import Settings
from engine.tiers.kv.store import Scope
from tests.engine.stores import ME as OWNER
from tests.engine.stores import plain_only, say
from tests.engine.tiers.caches import (
    HOME,
    INFO,
    MINE,
    TOKEN_BYTES,
    blobs,
    equal,
    keep,
    keep_chunk,
    kept,
    layers_for,
    model,
    nearly_equal,
    tokens,
    working,
)

BEN = Scope.talk("ben")


# --- finding ----------------------------------------------------------------------------------------------------------


def test_a_kept_prefix_is_reused_as_far_as_whole_blocks_are_the_same(settings: Settings) -> None:
    ids = tokens(100)
    with kept(settings) as store:
        assert store.filled(INFO, [MINE], ids) == 0
        keep(store, ids)
        assert store.filled(INFO, [MINE], ids) == 96
        assert store.filled(INFO, [MINE], ids[:50]) == 48
        assert store.filled(INFO, [MINE], [*ids[:40], 61, *ids[41:]]) == 32
        assert store.filled(INFO, [MINE], [61, *ids[1:]]) == 0


@pytest.mark.parametrize("how", ["none", "int8"])
def test_it_is_reused_after_a_restart(settings: Settings, how: str) -> None:
    ids = tokens(100)
    with kept(replace(settings, kv_compression=how)) as store:
        keep(store, ids)
    with kept(settings) as store:
        found = store.kv.longest(INFO, [MINE], ids)
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
        keep(store, ids[:150], start=64, scope=MINE, sources=[(note, 1)])
        assert store.filled(INFO, [HOME, MINE], ids) == 144
        assert store.filled(INFO, [HOME], ids) == 64
        assert store.filled(INFO, [MINE], ids) == 0  # its own part stands behind what is the cube's


def test_conversations_are_not_shared_and_not_listed(settings: Settings) -> None:
    ids = tokens(64)
    with kept(settings) as store:
        say(store.memos, "The lamp is red.", cube="home")
        keep(store, ids, scope=BEN)
        assert (store.filled(INFO, [HOME, MINE], ids), store.filled(INFO, [HOME, BEN], ids)) == (0, 64)
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
        assert store.filled(INFO, [HOME, MINE], ids) == 64
        assert store.kv.remarks() == ()
        assert store.filled(other, [HOME, MINE], ids) == 0
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
            found = store.kv.longest(INFO, [MINE], ids)
            assert found is not None
            cache = working()
            store.kv.fill(found, cache)
            for layer in cache.layers:
                layer.keys.zero_()
                layer.values.zero_()
            store.kv.flush()
        assert store.filled(INFO, [MINE], ids) == 64


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


# --- damage -----------------------------------------------------------------------------------------------------------


@plain_only
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_dropped_said_and_never_used(settings: Settings, damage: str) -> None:
    ids = tokens(96)
    with kept(settings) as store:
        keep(store, ids[:48])
        keep(store, ids, start=48)
    with kept(settings) as store:
        found = store.kv.longest(INFO, [MINE], ids)
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
        assert (store.filled(INFO, [MINE], ids), blobs(settings)) == (48, 1)
        assert keep(store, ids, start=48) is not None
        assert store.filled(INFO, [MINE], ids) == 96
    assert blobs(settings) == 2


def test_layers_of_another_shape_than_the_models_are_refused(settings: Settings) -> None:
    ids = tokens(64)
    with kept(settings) as store:
        keep(store, ids)
    with kept(settings) as store:
        assert store.filled(replace(INFO, kv_bytes_per_token=2 * TOKEN_BYTES), [MINE], ids) == 0
        assert "another shape" in store.kv.remarks()[0]


@plain_only
def test_a_row_that_nobody_understands_counts_and_is_never_used(settings: Settings) -> None:
    with kept(settings) as store:
        keep(store, tokens(64))
    with kept(settings) as store:
        vault = store.memos._parts.vault
        ((header,),) = vault.rows("SELECT header FROM artifacts")
        changed = header.replace('\\"tokens\\":64', '\\"tokens\\":65')
        assert changed != header
        vault.write(lambda transaction: transaction.execute("UPDATE artifacts SET header = ?", [changed]), OWNER)
        assert store.filled(INFO, [MINE], tokens(64)) == 0
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
