"""Thousands of changed bundles: each is refused with one clear error, or read exactly as it is; and every flipped bit.

`MEMCUBE_MUTATIONS` sets how many random changes are tried and `MEMCUBE_STRIDE` how many bits lie between two flips;
with 10,000 and 1 that is the whole test, by default a sample of a few seconds.
"""

from __future__ import annotations

import io
import json
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cubes import CubeError, DamagedBundle, MalformedCube
from cubes.bundle import open_bundle
from cubes.encryption import Identity
from cubes.packing import write_bundle
from cubes.signing import SigningKey
from tests.cubes.bundles import EMBEDDER, TEST_KEY, artifact, cube, memory, packed_again, rich_bundle
from tests.cubes.forging import Parts, canonical, put_together, taken_apart

MUTATIONS = int(os.environ.get("MEMCUBE_MUTATIONS", "320"))
STRIDE = int(os.environ.get("MEMCUBE_STRIDE", "211"))
MAX_BYTES = 64 << 20  # that reading a small file may take, whatever it claims to be
WEIRD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", " ", "x", "\0", "\ud800", "é", "../x"),
    *("2026-03-02T09:00:00.000000+00:00", "generated", "sha256:" + "0" * 64, "a" * 70_000, [], {}, [[]], [{}], {"": 0}),
    *(["x"] * 100, {"a": {"b": {"c": {"d": {}}}}}, float("nan"), float("inf")),
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.memcube"
    rich_bundle(path)
    return path.read_bytes()


# --- mutations ------------------------------------------------------------------------------------------------------


def some_bytes(chance: random.Random, raw: bytes) -> bytes:
    """One to four edits of the bytes: flips, overwrites, insertions, deletions, splices, truncations."""
    found = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found)) if found else 0
        match chance.randrange(7):
            case 0 if found:
                found[at] ^= 1 << chance.randrange(8)
            case 1 if found:
                found[at] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
            case 2:
                found[at:at] = chance.randbytes(chance.randint(1, 40))
            case 3:
                del found[at : at + chance.randint(1, 40)]
            case 4:
                start = chance.randrange(len(found) + 1)
                found[at:at] = found[start : start + chance.randint(1, 400)]
            case 5:
                found[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"PK\x03\x04", b"PK\x05\x06", b"\0\0\0\x80"))
            case _ if chance.random() < 0.2:
                del found[at:]
    return bytes(found)


def some_value(chance: random.Random, value: Any) -> Any:
    """The JSON value with something strange somewhere in it."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        match chance.randrange(8):
            case 0:
                return {key: item for key, item in value.items() if key != name}
            case 1:
                return value | {chance.choice(("x", "id", "cube", "__proto__")): chance.choice(WEIRD)}
            case _:
                return value | {name: some_value(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        match chance.randrange(4):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case _:
                return [*value[:at], some_value(chance, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and chance.random() < 0.5:
        return value + chance.choice((-1, 1))
    return chance.choice(WEIRD)


def file_mutated(chance: random.Random, raw: bytes) -> bytes:
    return some_bytes(chance, raw)


def member_mutated(chance: random.Random, raw: bytes) -> bytes:
    """The bytes of a member changed, and all digests with them."""
    parts = taken_apart(raw)
    name = chance.choice(list(parts.members))
    parts.members[name] = some_bytes(chance, parts.members[name])
    return put_together(parts)


def memory_mutated(chance: random.Random, raw: bytes) -> bytes:
    """A field of a memory changed, and all digests with it."""
    parts = taken_apart(raw)
    number = chance.randrange(len(parts.members["memories/00000.jsonl"].splitlines()))
    parts.set_line(some_value(chance, parts.line(number)), number)
    return put_together(parts)


def manifest_mutated(chance: random.Random, raw: bytes) -> bytes:
    """A field of the manifest changed."""
    parts = taken_apart(raw)
    parts.manifest = some_value(chance, parts.manifest)
    return put_together(parts, list_members=False)


def manifest_bytes_mutated(chance: random.Random, raw: bytes) -> bytes:
    parts = taken_apart(raw)
    parts.raw_manifest = some_bytes(chance, canonical(parts.manifest))
    return put_together(parts, list_members=False)


def members_shuffled(chance: random.Random, raw: bytes) -> bytes:
    """Members renamed, repeated, left out or in another order; the manifest lists them so."""
    parts = taken_apart(raw)
    names = list(parts.members)
    match chance.randrange(4):
        case 0:
            chance.shuffle(names)
        case 1:
            names.remove(chance.choice(names))
        case _:
            parts.members[chance.choice(("memories/00001.jsonl", "evil.txt", "embeddings/00001.safetensors"))] = b"{}\n"
            names = list(parts.members)
    parts.members = {name: parts.members[name] for name in names}
    return put_together(parts)


KINDS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    file_mutated,
    member_mutated,
    memory_mutated,
    memory_mutated,
    manifest_mutated,
    manifest_mutated,
    manifest_bytes_mutated,
    members_shuffled,
)


# --- what becomes of them -------------------------------------------------------------------------------------------


def tried(raw: bytes, folder: Path) -> tuple[bytes | None, CubeError | None]:
    """The file as it is packed again, or why it is refused."""
    try:
        return packed_again(raw, folder), None
    except CubeError as error:
        return None, error


def is_refused(raw: bytes, *identities: Identity) -> bool:
    try:
        with open_bundle(io.BytesIO(raw), identities=identities) as bundle:
            bundle.verify()
    except CubeError:
        return True
    return False


def test_a_changed_bundle_is_refused_or_read_exactly_as_it_is(raw: bytes, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    tracemalloc.start()
    try:
        for seed in range(MUTATIONS):
            chance = random.Random(seed)
            mutated = KINDS[seed % len(KINDS)](chance, raw)
            tracemalloc.reset_peak()
            again, refusal = tried(mutated, tmp_path)
            outcomes["read" if refusal is None else type(refusal).__name__] += 1
            assert again in (None, mutated), seed
            assert "\n" not in str(refusal), seed
            assert len(str(refusal)) < 400, seed
            assert tracemalloc.get_traced_memory()[1] < MAX_BYTES, seed
            assert list(tmp_path.iterdir()) == [], seed
    finally:
        tracemalloc.stop()
    print(dict(outcomes))
    assert outcomes["read"] > 0
    assert outcomes["MalformedCube"] > MUTATIONS // 4  # the digests fit, so it was the parser that refused
    assert outcomes["DamagedBundle"] > MUTATIONS // 20


def small_bundle(path: Path, **options: Any) -> bytes:
    write_bundle(path, cube(), [memory("m_1"), memory("m_2")], artifacts=[artifact()], replace=True, **options)
    return path.read_bytes()


def flips(raw: bytes) -> list[tuple[int, bytes]]:
    """The file with one bit flipped, for each bit or each so many."""
    found = []
    for bit in range(0, len(raw) * 8, STRIDE):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        found.append((bit, bytes(flipped)))
    return found


@pytest.mark.parametrize("key", [None, TEST_KEY], ids=["unsigned", "signed"])
def test_each_flipped_bit_is_found(key: SigningKey | None, tmp_path: Path) -> None:
    for bit, flipped in flips(small_bundle(tmp_path / "small", embedder=EMBEDDER, signing_key=key)):
        assert is_refused(flipped), bit


@pytest.mark.parametrize("passphrase", [None, "correct horse"], ids=["recipients", "passphrase"])
def test_each_flipped_bit_of_an_encrypted_bundle_is_found(passphrase: str | None, tmp_path: Path) -> None:
    identity = Identity.generate()
    path = tmp_path / "small"
    write_bundle(path, cube(), [memory("m_1", 0)], recipients=[identity.recipient], passphrase=passphrase)
    for bit, flipped in flips(path.read_bytes()):
        assert is_refused(flipped, identity), bit


def test_a_bundle_cut_anywhere_is_refused(raw: bytes) -> None:
    for size in range(0, len(raw), max(1, STRIDE // 4)):
        with pytest.raises(DamagedBundle), open_bundle(io.BytesIO(raw[:size])):
            pass


def test_what_a_line_says_is_what_it_is_read_as(raw: bytes) -> None:
    """The oracle above is only as good as the parser: a fuzz that reads must have read the very line."""
    parts: Parts = taken_apart(raw)
    with open_bundle(io.BytesIO(raw)) as bundle:
        contents = [memory.current.content for memory in bundle.memories()]
    assert contents == [json.loads(line)["content"] for line in parts.members["memories/00000.jsonl"].splitlines()]
    parts.set_line(parts.line() | {"content": "Another."})
    with open_bundle(io.BytesIO(put_together(parts))) as bundle:
        assert next(bundle.memories()).current.content == "Another."
    parts.set_line(parts.line() | {"content": 1})
    with pytest.raises(MalformedCube), open_bundle(io.BytesIO(put_together(parts))) as bundle:
        next(bundle.memories())
