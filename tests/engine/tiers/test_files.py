"""KV caches are written as safetensors that any reader understands, and read whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import safetensors
import torch

from cubes.tensors import blob_header_bytes, check_blob
from engine.errors import Corrupt
from engine.settings import Settings
from engine.tiers.kv.files import TensorFile, encode, read
from engine.tiers.kv.tensors import Layers
from engine.vault.aes import KEY_BYTES, AesSealer
from engine.vault.blobs import blob_path, keep_blob
from engine.vault.sealing import UNSEALED, Sealer
from tests.engine.stores import settings_for
from tests.engine.tiers.caches import equal, layers_for, tokens

ABOUT = {"form": "prefix", "start": "0", "fingerprint": "sha256:one", "blocks": "AAAA"}
HOWS = ("none", "int8", "int4")


@dataclass
class Files:
    settings: Settings
    sealer: Sealer = UNSEALED

    def write(self, layers: Layers, how: str = "none") -> TensorFile:
        file = encode(layers, how, ABOUT)
        keep_blob(self.settings, file.digest, file.pieces(), self.sealer)
        return file

    def path(self, file: TensorFile) -> Path:
        return blob_path(self.settings, file.digest, self.sealer)

    def read(self, file: TensorFile, expected: dict[str, str] = ABOUT) -> Layers:
        return read(self.settings, file.digest, file.size, self.sealer, expected)[0]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(settings_for(tmp_path))


@pytest.fixture(params=["plain", "sealed"])
def either(request: pytest.FixtureRequest, files: Files) -> Files:
    return replace(files, sealer=AesSealer(bytes(KEY_BYTES))) if request.param == "sealed" else files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_written_is_read_to_the_bit(either: Files, dtype: torch.dtype) -> None:
    layers = layers_for(tokens(50), dtype)
    assert equal(either.read(either.write(layers)), layers)


@pytest.mark.parametrize("how", ["int8", "int4"])
def test_compressed_ones_come_back_nearly_as_they_were(either: Files, how: str) -> None:
    layers = layers_for(tokens(50))
    file = either.write(layers, how)
    assert file.size - len(file.head) < encode(layers, "none", ABOUT).size / 2.5
    for (keys, values), (keys_2, values_2) in zip(layers, either.read(file), strict=True):
        assert max((keys - keys_2).abs().max(), (values - values_2).abs().max()) < (0.02 if how == "int8" else 0.15)


@pytest.mark.parametrize("how", HOWS)
def test_the_file_is_one_that_safetensors_and_bundles_take(files: Files, how: str) -> None:
    file = files.write(layers_for(tokens(33), torch.bfloat16), how)
    raw = files.path(file).read_bytes()
    length = blob_header_bytes(raw[:8], len(raw))
    check_blob(raw[:length], len(raw))
    assert length % 64 == 0
    with safetensors.safe_open(files.path(file), framework="pt") as found:
        told = found.metadata()
        assert len(found.keys()) >= 4
        assert all(found.get_tensor(name).numel() for name in found.keys())  # noqa: SIM118 - no mapping
    assert told == ABOUT | {
        "format": "memos-kv 1",
        "compression": how,
        "dtype": "bfloat16",
        "layers": "2",
        "tokens": "33",
    }


def test_equal_caches_are_equal_files(files: Files) -> None:
    one, other = encode(layers_for(tokens(20)), "none", ABOUT), encode(layers_for(tokens(20)), "none", ABOUT)
    assert (one.digest, one.size) == (other.digest, other.size)
    wide = tuple((keys.repeat(1, 1, 2, 1)[:, :, :20], values) for keys, values in layers_for(tokens(20)))
    assert encode(wide, "none", ABOUT).digest == one.digest  # a view of something larger, too


def test_a_plain_file_is_mapped_and_hashed_once(files: Files) -> None:
    file = files.write(layers_for(tokens(50)))
    _, checked = read(files.settings, file.digest, file.size, UNSEALED, ABOUT)
    assert checked is not None
    raw = files.path(file).read_bytes()
    told = files.path(file).stat()
    changed = raw[:-4] + struct.pack("<f", 7.0)
    files.path(file).write_bytes(changed)
    os.utime(files.path(file), ns=(told.st_atime_ns, told.st_mtime_ns))
    layers, again = read(files.settings, file.digest, file.size, UNSEALED, ABOUT, checked)
    assert again == checked  # the same file, by all that can be told without reading it
    assert float(layers[-1][1].flatten()[-1]) == 7.0
    os.utime(files.path(file), ns=(told.st_atime_ns, told.st_mtime_ns + 1))
    with pytest.raises(Corrupt, match="digest"):
        read(files.settings, file.digest, file.size, UNSEALED, ABOUT, checked)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what Linux lists")
def test_many_mapped_files_hold_no_descriptor_open(files: Files) -> None:
    before = len(os.listdir("/proc/self/fd"))
    held = [files.read(files.write(layers_for(tokens(20, seed=seed)))) for seed in range(40)]
    assert len(os.listdir("/proc/self/fd")) <= before + 5
    assert all(equal(layers, layers_for(tokens(20, seed=seed))) for seed, layers in enumerate(held))


def test_writing_to_what_was_read_does_not_reach_the_file(files: Files) -> None:
    file = files.write(layers_for(tokens(50)))
    files.read(file)[0][0].zero_()
    assert equal(files.read(file), layers_for(tokens(50)))


@pytest.mark.parametrize("place", [0, 8, 40, 200, -1])
def test_a_flipped_bit_anywhere_is_never_a_cache(either: Files, place: int) -> None:
    file = either.write(layers_for(tokens(50)))
    raw = bytearray(either.path(file).read_bytes())
    raw[place] ^= 1
    either.path(file).write_bytes(raw)
    with pytest.raises(Corrupt):
        either.read(file)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_cut_file_is_never_a_cache(either: Files, length: int) -> None:
    file = either.write(layers_for(tokens(50)))
    either.path(file).write_bytes(either.path(file).read_bytes()[:length])
    with pytest.raises(Corrupt):
        either.read(file)


def test_a_missing_file_is_told_with_the_remedy(either: Files) -> None:
    file = encode(layers_for(tokens(20)), "none", ABOUT)
    with pytest.raises(Corrupt, match=r"buil[dt] (it )?again"):
        either.read(file)


@pytest.mark.parametrize("name", ["form", "start", "fingerprint", "blocks"])
def test_a_file_that_is_another_cache_than_its_artifact_says_is_refused(files: Files, name: str) -> None:
    file = files.write(layers_for(tokens(20)))
    with pytest.raises(Corrupt, match="another KV cache"):
        files.read(file, ABOUT | {name: "else"})


def hostile(header: dict[str, object], body: bytes) -> TensorFile:
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    head = struct.pack("<Q", len(told)) + told
    numbers = torch.frombuffer(bytearray(body), dtype=torch.uint8) if body else torch.empty(0, dtype=torch.uint8)
    made = encode(layers_for([1]), "none", {})
    hashed = hashlib.sha256(head + body).hexdigest()
    return replace(made, head=head, tensors=(numbers,), size=len(head) + len(body), digest=f"sha256:{hashed}")


META = ABOUT | {"format": "memos-kv 1", "compression": "none", "dtype": "float32", "layers": "1", "tokens": "2"}
GOOD = {"dtype": "F32", "shape": [1, 1, 2, 2], "data_offsets": [0, 16]}
NEXT = GOOD | {"data_offsets": [16, 32]}


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"__metadata__": META},
        {"__metadata__": META, "0.keys": GOOD, "0.other": NEXT},
        {"__metadata__": META, "0.keys": GOOD, "0.values": NEXT | {"shape": [1, 2, 2]}},
        {"__metadata__": META, "0.keys": GOOD | {"shape": [1, 1, 4, 1]}, "0.values": NEXT},
        {"__metadata__": META, "0.keys": GOOD | {"dtype": "F8_E4M3"}, "0.values": NEXT},
        {"__metadata__": META | {"tokens": "-2"}, "0.keys": GOOD, "0.values": NEXT},
        {"__metadata__": META | {"layers": "many"}, "0.keys": GOOD, "0.values": NEXT},
        {"__metadata__": META | {"layers": "2"}, "0.keys": GOOD, "0.values": NEXT},
        {"__metadata__": META | {"dtype": "int8"}, "0.keys": GOOD, "0.values": NEXT},
        {"__metadata__": META | {"compression": "zip"}, "0.keys": GOOD, "0.values": NEXT},
        {"__metadata__": META | {"compression": "int8"}, "0.keys": GOOD, "0.values": NEXT},
        {"__metadata__": META | {"format": "memos-kv 2"}, "0.keys": GOOD, "0.values": NEXT},
        {"__metadata__": META, "0.keys": GOOD, "0.values": GOOD},
        {"__metadata__": META, "0.keys": [], "0.values": NEXT},
    ],
)
def test_what_another_program_wrote_is_refused_where_it_is_no_cache(files: Files, header: dict[str, object]) -> None:
    file = hostile(header, bytes(32))
    keep_blob(files.settings, file.digest, file.pieces(), UNSEALED)
    with pytest.raises(Corrupt):
        files.read(file)


def test_what_another_program_wrote_is_read_where_it_is_one(files: Files) -> None:
    file = hostile({"__metadata__": META, "0.keys": GOOD, "0.values": NEXT}, bytes(32))
    keep_blob(files.settings, file.digest, file.pieces(), UNSEALED)
    assert files.read(file)[0][0].shape == (1, 1, 2, 2)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(either: Files, number: float) -> None:
    layers = layers_for(tokens(20))
    layers[1][1][0, 0, 3, 2] = number
    with pytest.raises(Corrupt, match="numbers"):
        either.read(either.write(layers))
