"""Stored KV caches outlive restarts, go with their cube into other stores, and are refused where they do not belong."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from cubes.bundle import open_bundle
from cubes.canonical import digest
from cubes.manifest import ArtifactHeader
from cubes.packing import PackedArtifact, write_bundle
from engine import keys, loader
from engine.cube_operations import Govern, Install, Pack
from engine.model_operations import ModelInfo
from engine.operations import silent
from engine.settings import Settings
from engine.tiers.kv.store import Scope
from engine.tiers.kv.tensors import Layers, WorkingCache
from engine.vault import restore_backup
from engine.vault.encrypting import decrypt, encrypt
from engine.vault.key_source import KeyFile
from tests.conftest import START, HandClock
from tests.engine.stores import CHEAP, ME, SEALED, passphrase_file, plain_only, say, settings_for
from tests.engine.tiers.caches import Kept, kept, layers_for, model, tokens

INFO, OTHER = model(), model("sha256:two")
HOME, TALK = Scope.cube("home"), Scope.talk("owner")
PINNED, NOTE = tokens(70), tokens(25, seed=2)


def derive(store: Kept, ids: Sequence[int] = PINNED) -> str:
    """A pinned block, a chunk and a conversation; the memory that they are of."""
    lamp = say(store.memos, "The lamp in the hall is red.", cube="home")
    store.kv.keep_prefix(INFO, HOME, "home", ids, layers_for(ids), 0, [(lamp, 1)])
    store.kv.keep_chunk(INFO, "home", lamp, 1, NOTE, layers_for(NOTE), 0.02)
    store.kv.keep_prefix(INFO, TALK, "", ids, layers_for(ids), 0, [(lamp, 1)])
    store.kv.flush()
    return lamp


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Kept]:
    with kept(settings_for(tmp_path / "origin")) as store:
        yield store


def pack(store: Kept, path: Path) -> Path:
    store.memos.pack(Pack("home", path, replace=True), ME)
    return path


def install(store: Kept, path: Path, name: str | None = None, fingerprint: str = "") -> tuple[str, ...]:
    request = Install(str(path), name=name)
    done = loader.install(store.memos._parts, path, request, ME, silent, model=fingerprint)
    return tuple(state for _, state in done.artifacts)


# --- with the cube ----------------------------------------------------------------------------------------------------


def test_a_cube_takes_its_caches_into_another_store(origin: Kept, settings: Settings, tmp_path: Path) -> None:
    lamp = derive(origin)
    bundle = pack(origin, tmp_path / "home.memcube")
    with open_bundle(bundle) as found:
        assert len(found.manifest.artifacts) == 2  # conversations stay
    with kept(settings) as store:
        assert store.filled(INFO, [HOME], PINNED) == 0
        assert install(store, bundle, fingerprint=INFO.fingerprint) == ("kept", "kept")
        assert store.filled(INFO, [HOME], PINNED) == 64
        chunk = store.kv.chunk(INFO, "home", lamp, 1, NOTE)
        assert chunk is not None
        assert (chunk.divergence, chunk.load() is not None) == (None, True)  # what an unsigned file says of it
        listed = loader.listed(store.memos._parts, "home", ME, INFO.fingerprint)
        assert {row.state for row in listed} == {"kept"}
        assert {row.state for row in loader.listed(store.memos._parts, "home", ME, "")} == {"waiting for its model"}


def test_caches_of_a_bundle_are_vouched_for_by_who_signed_it_or_by_nobody(
    origin: Kept, settings: Settings, tmp_path: Path
) -> None:
    def stands(store: Kept) -> tuple[bool, float | None]:
        found = store.kv.longest(INFO, [HOME], PINNED)
        chunk = store.kv.chunk(INFO, "home", lamp, 1, NOTE)
        assert found is not None
        assert chunk is not None
        return store.kv.longest(INFO, [HOME], PINNED, vouched=True) is not None, chunk.divergence

    lamp = derive(origin)
    key = keys.create_keys(origin.memos._parts.vault.settings).signing
    assert key is not None
    unsigned, signed = tmp_path / "home.memcube", tmp_path / "signed.memcube"
    origin.memos.pack(Pack("home", unsigned, sign=False), ME)
    pack(origin, signed)
    stranger, friend = (settings_for(tmp_path / name) for name in ("stranger", "friend"))
    with kept(settings) as store:
        install(store, unsigned)
        assert stands(store) == (False, None)
        store.memos.backup(tmp_path / "copy.duckdb", ME)
    with kept(settings) as store:
        assert stands(store) == (False, None)
    with kept(stranger) as store:
        install(store, signed)
        assert stands(store) == (False, None)
        keys.create_keys(stranger)
        with open_bundle(pack(store, tmp_path / "unchecked.memcube")) as found:
            assert found.manifest.artifacts == ()  # nobody signs what was not checked
    keys.trust(friend, key)
    with kept(friend) as store:
        install(store, signed)
        assert stands(store) == (True, 0.02)
    with kept(stranger) as store:
        found = store.kv.longest(INFO, [HOME], PINNED)
        assert found is not None
        store.kv.vouch(found.spans[0].segment)
        store.kv.flush()
    with kept(stranger) as store:
        assert stands(store) == (True, None)


def test_under_another_name_and_other_ids_too(origin: Kept, tmp_path: Path) -> None:
    lamp = derive(origin)
    install(origin, pack(origin, tmp_path / "home.memcube"), name="copy")
    (copied,) = origin.memos.memories("copy", ME).memories
    assert copied.id != lamp
    assert origin.filled(INFO, [Scope.cube("copy")], PINNED) == 64
    assert origin.kv.chunk(INFO, "copy", copied.id, 1, NOTE) is not None
    origin.memos.govern(Govern((copied.id,), pinned=True), ME)
    assert origin.filled(INFO, [Scope.cube("copy")], PINNED) == 0
    assert origin.filled(INFO, [HOME], PINNED) == 64  # the blobs are the same ones


def test_packing_what_was_installed_gives_the_same_file(origin: Kept, settings: Settings, tmp_path: Path) -> None:
    derive(origin)
    bundle = pack(origin, tmp_path / "home.memcube")
    with kept(settings) as store:
        install(store, bundle)
        store.filled(INFO, [HOME], PINNED)
        store.kv.sweep()
        store.kv.flush()
        assert pack(store, tmp_path / "again.memcube").read_bytes() == bundle.read_bytes()


def test_another_model_refuses_them_says_so_and_builds_its_own(
    origin: Kept, settings: Settings, tmp_path: Path
) -> None:
    lamp = derive(origin)
    bundle = pack(origin, tmp_path / "home.memcube")
    with kept(settings) as store:
        assert install(store, bundle, fingerprint=OTHER.fingerprint) == ("waiting for its model",) * 2
        assert store.filled(OTHER, [HOME], PINNED) == 0
        assert store.kv.chunk(OTHER, "home", lamp, 1) is None
        assert "another model" in store.kv.remarks(["home"])[0]
        store.kv.keep_prefix(OTHER, HOME, "home", PINNED, layers_for(PINNED), 0, [(lamp, 1)])
        assert store.filled(OTHER, [HOME], PINNED) == store.filled(INFO, [HOME], PINNED) == 64


def test_a_cache_whose_file_is_not_there_yet_does_not_keep_a_cube_from_being_packed(
    origin: Kept, tmp_path: Path
) -> None:
    derive(origin)
    for path in (tmp_path / "origin" / "blobs").iterdir():
        path.unlink()
    with open_bundle(pack(origin, tmp_path / "home.memcube")) as found:
        assert found.manifest.artifacts == ()


HOSTILE = [
    None,
    '{"form":7}',
    '{"compression":"none","divergence":null,"form":"prefix","ids":"","start":0,"tokens":64}',
    '{"blocks":"AAAA","compression":"none","divergence":null,"form":"prefix","ids":"","parent":"AAAA","start":0,"tokens":64}',
    '{"compression":"none","divergence":null,"form":"chunk","ids":"","start":-5,"tokens":64}',
    '{"compression":"none","divergence":null,"form":"chunk","ids":"","start":0,"tokens":9007199254740991}',
    '{"compression":7,"divergence":"low","form":"chunk","ids":[],"start":0,"tokens":25}',
    '{"compression":"none","divergence":0,"form":"chunk","ids":"","start":0,"tokens":25}',
    '{"compression":"none","divergence":0,"form":"chunk","ids":"","start":0,"talk":"owner","tokens":25}',
]


def test_what_a_bundle_claims_of_its_caches_is_not_believed(origin: Kept, settings: Settings, tmp_path: Path) -> None:
    lamp = derive(origin)
    with open_bundle(pack(origin, tmp_path / "home.memcube")) as found:
        manifest, memories = found.manifest, list(found.memories())
    kind, packed = manifest.artifacts[0].kind, list[PackedArtifact]()
    header = json.dumps({"k": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
    for number, metadata in enumerate(HOSTILE):
        raw = struct.pack("<Q", len(header)) + header + bytes([number]) * 64
        told = ArtifactHeader(
            f"a_{number}", kind, INFO.fingerprint, digest(raw), len(raw), START, ((lamp, 1),), metadata
        )
        packed.append(PackedArtifact(told, lambda raw=raw: BytesIO(raw)))
    write_bundle(tmp_path / "odd.memcube", manifest.cube, memories, artifacts=packed)
    with kept(settings) as store:
        install(store, tmp_path / "odd.memcube", fingerprint=INFO.fingerprint)
        assert store.filled(INFO, [HOME, TALK], PINNED) == 0
        for _ in HOSTILE:  # each that is found turns out to be none, and is dropped
            chunk = store.kv.chunk(INFO, "home", lamp, 1)
            assert chunk is None or chunk.load() is None
        assert all(not row.usable or row.form.startswith("chunk") for row in store.kv.rows("home", INFO))
        store.kv.flush()
        assert store.memos.verify(ME) == ()


# --- with the store ---------------------------------------------------------------------------------------------------


def test_they_outlive_restarts_and_are_worth_what_they_were(settings: Settings) -> None:
    with kept(settings) as store:
        lamp = derive(store)
        assert store.filled(INFO, [HOME, TALK], PINNED) == 64
    for uses in (2, 3):
        with kept(settings) as store:
            assert store.filled(INFO, [HOME], PINNED) == 64
            assert store.kv.chunk(INFO, "home", lamp, 1, NOTE) is not None
        with kept(settings) as store:
            assert max(row.uses for row in store.kv.rows("home", INFO)) >= uses - 1


def test_a_restored_backup_has_none_that_is_not_there(settings: Settings, tmp_path: Path) -> None:
    with kept(settings) as store:
        derive(store)
        store.memos.backup(tmp_path / "copy.duckdb", ME)
    elsewhere = replace(settings, data=tmp_path / "elsewhere", key_file=passphrase_file() if SEALED else None)
    restore_backup(elsewhere, tmp_path / "copy.duckdb", START)
    with kept(elsewhere) as store:
        assert store.filled(INFO, [HOME, TALK], PINNED) == 0
        assert (store.kv.totals().caches, store.kv.remarks(), store.memos.verify(ME)) == (0, (), ())
        (lamp,) = store.memos.memories("home", ME).memories
        store.kv.keep_prefix(INFO, HOME, "home", PINNED, layers_for(PINNED), 0, [(lamp.id, 1)])
        assert store.filled(INFO, [HOME], PINNED) == 64


@plain_only
def test_a_store_that_is_encrypted_keeps_them_and_shows_nothing_of_them(settings: Settings) -> None:
    with kept(settings) as store:
        derive(store)
    wanted = [layers_for(PINNED)[0][0].flatten().numpy().tobytes()[:64], b"memos-kv", b"blocks", b"prefix"]
    files = [path for path in settings.data.rglob("*") if path.is_file()]
    assert any(all(piece in path.read_bytes() for piece in wanted) for path in files)
    encrypt(settings, KeyFile(passphrase_file()), clock=HandClock(), work=CHEAP)
    for path in settings.data.rglob("*"):
        assert not path.is_file() or not any(piece in path.read_bytes() for piece in wanted), path.name
    with kept(settings) as store:
        assert store.filled(INFO, [HOME], PINNED) == store.filled(INFO, [TALK], PINNED) == 64
        assert store.memos.verify(ME) == ()
        store.kv.keep_prefix(INFO, TALK, "", NOTE, layers_for(NOTE), 0, ())
    decrypt(settings, clock=HandClock())
    with kept(settings) as store:
        assert store.filled(INFO, [TALK], PINNED) == 64
        assert store.filled(INFO, [TALK], NOTE) == 16
        assert store.memos.verify(ME) == ()


# --- with a model -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> Qwen2ForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
    )
    return Qwen2ForCausalLM(config).eval()


def go_on(network: Qwen2ForCausalLM, ids: Sequence[int], cache: WorkingCache) -> torch.Tensor:
    with torch.no_grad():
        given = torch.tensor([list(ids[cache.tokens :])])
        return network(input_ids=given, past_key_values=cache, use_cache=True).logits[0, -1]


def test_the_first_reply_after_a_restart_elsewhere_is_that_of_full_prefill(
    network: Qwen2ForCausalLM, origin: Kept, settings: Settings, tmp_path: Path
) -> None:
    info = ModelInfo("tiny", "qwen2", "sha256:net", "cpu", "float32", 1, 4096, kv_bytes_per_token=3 * 2 * 2 * 8 * 4)
    lamp = say(origin.memos, "The lamp in the hall is red.", cube="home")
    ids = tokens(150, seed=5)
    cache = WorkingCache(network.config)
    full = go_on(network, ids, cache)
    pinned: Layers = cache.taken(0, 100)
    origin.kv.keep_prefix(info, HOME, "home", ids[:100], pinned, 0, [(lamp, 1)])
    origin.kv.flush()
    bundle = pack(origin, tmp_path / "home.memcube")
    with kept(settings) as store:
        install(store, bundle)
    with kept(settings) as store:
        again = WorkingCache(network.config)
        found = store.kv.longest(info, [HOME, TALK], ids[:-1])
        assert found is not None
        assert store.kv.fill(found, again) == 96
        assert float((go_on(network, ids, again) - full).abs().max()) <= 1e-5
        assert store.kv.longest(OTHER, [HOME, TALK], ids[:-1]) is None
