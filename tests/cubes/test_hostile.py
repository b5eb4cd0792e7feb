"""Hostile files: each is refused with the one error that says what is wrong, and nothing of it is given out."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cubes import (
    CubeError,
    DamagedBundle,
    MalformedCube,
    TooLargeBundle,
    UnsupportedBundle,
    UntrustedBundle,
    UnusableFile,
)
from cubes.bundle import open_bundle
from cubes.limits import MAX_MANIFEST_BYTES
from tests.cubes.bundles import TEST_KEY, blob, rich_bundle
from tests.cubes.forging import Parts, canonical, put_together, signed_again, taken_apart

LINES, VECTORS = "memories/00000.jsonl", "embeddings/00000.safetensors"
Forge = Callable[[Parts, bytes], bytes]
CASES: list[tuple[str, type[CubeError], str, Forge]] = []


def hostile(name: str, error: type[CubeError], says: str) -> Callable[[Forge], Forge]:
    def keep(forge: Forge) -> Forge:
        CASES.append((name, error, says, forge))
        return forge

    return keep


def in_manifest(name: str, error: type[CubeError], says: str, *path: Any) -> Callable[[Callable[[], Any]], None]:
    """A manifest whose value at `path` is another one."""

    def keep(value: Callable[[], Any]) -> None:
        def forge(parts: Parts, _: bytes) -> bytes:
            parts.list_members()
            at = parts.manifest
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = value()
            return put_together(parts, list_members=False)

        CASES.append((name, error, says, forge))

    return keep


def in_line(name: str, error: type[CubeError], says: str, **changes: Any) -> None:
    """A first memory with other fields."""

    def forge(parts: Parts, _: bytes) -> bytes:
        parts.set_line(parts.line() | changes)
        return put_together(parts)

    CASES.append((name, error, says, forge))


# --- the file -------------------------------------------------------------------------------------------------------

hostile("an empty file", DamagedBundle, "empty")(lambda parts, raw: b"")
hostile("no zip", DamagedBundle, "no bundle")(lambda parts, raw: b"Dear diary, today I opened the harbour." * 50)
hostile("a first byte that is another", DamagedBundle, "no bundle")(lambda parts, raw: b"X" + raw[1:])
hostile("cut short by one byte", DamagedBundle, "cut short: 1 of")(lambda parts, raw: raw[:-1])
hostile("cut short in the middle", DamagedBundle, "cut short")(lambda parts, raw: raw[: len(raw) // 2])
hostile("cut short in the manifest", DamagedBundle, "cut short within manifest.json")(lambda parts, raw: raw[:200])
hostile("a byte behind", DamagedBundle, "1 bytes that do not belong")(lambda parts, raw: raw + b"\0")
hostile("a second bundle behind", DamagedBundle, "do not belong")(lambda parts, raw: raw + raw)
hostile("a program before", DamagedBundle, "no bundle")(lambda parts, raw: b"#!/bin/sh\n" + raw)
hostile("an age file in text form", UnsupportedBundle, "age -d")(
    lambda parts, raw: b"-----BEGIN AGE ENCRYPTED FILE-----\nYWdl"
)
hostile("an age file whose header has no end", DamagedBundle, "age header")(
    lambda parts, raw: b"age-encryption.org/v1\n" + b"-> X25519 aaaa\n" * 50_000
)
hostile("an empty zip", DamagedBundle, "neither as a ZIP")(lambda parts, raw: raw[-22:])
hostile("a zip comment", DamagedBundle, "do not belong")(lambda parts, raw: raw[:-2] + b"\x05\0hello")


@hostile("any other zip", DamagedBundle, "first member is")
def _(parts: Parts, raw: bytes) -> bytes:
    return zipped({"holiday.jpg": b"x" * 100})


@hostile("members that are compressed", DamagedBundle, "compressed")
def _(parts: Parts, raw: bytes) -> bytes:
    return zipped({"manifest.json": canonical(parts.manifest), **parts.members}, zipfile.ZIP_DEFLATED)


@hostile("a bomb: a shard that unpacks to megabytes", DamagedBundle, "compressed")
def _(parts: Parts, raw: bytes) -> bytes:
    front = zipped({"manifest.json": canonical(parts.manifest)})
    return front[: front.index(b"PK\x01\x02")] + zipped({LINES: b"\n" * (1 << 24)}, zipfile.ZIP_DEFLATED)


@hostile("a member that is there twice", DamagedBundle, "do not belong|is not what")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.extra = [(LINES, parts.members[LINES])]
    return put_together(parts)


@hostile("a second manifest", DamagedBundle, "do not belong|is not what")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.extra = [("manifest.json", canonical(parts.manifest))]
    return put_together(parts)


@hostile("a member that the manifest does not list", DamagedBundle, "do not belong|is not what")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.extra = [("readme.txt", b"hello")]
    return put_together(parts)


@hostile("a directory that names other members", DamagedBundle, "directory at its end")
def _(parts: Parts, raw: bytes) -> bytes:
    at = raw.rindex(LINES.encode())
    return raw[:at] + b"memories/00000.exe01"[: len(LINES)] + raw[at + len(LINES) :]


@hostile("a local header with another name", DamagedBundle, "header of memories")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.signature = None
    raw = put_together(parts)
    at = raw.index(LINES.encode(), raw.index(b"PK", 4))
    return raw[:at] + b"m" * len(LINES) + raw[at + len(LINES) :]


@hostile("an offset that points elsewhere", DamagedBundle, "directory at its end")
def _(parts: Parts, raw: bytes) -> bytes:
    at = raw.index(b"PK\x01\x02") + 42
    return raw[:at] + struct.pack("<I", 1) + raw[at + 4 :]


@hostile("a size below what is there", DamagedBundle, "checksum|no member|none of this format")
def _(parts: Parts, raw: bytes) -> bytes:
    return raw[:18] + struct.pack("<II", 50, 50) + raw[26:]


@hostile("a manifest of four gigabytes", TooLargeBundle, "manifest.json has")
def _(parts: Parts, raw: bytes) -> bytes:
    return raw[:18] + struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0) + raw[26:]


@hostile("a manifest over its bound", TooLargeBundle, "manifest.json has")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.raw_manifest = b" " * (MAX_MANIFEST_BYTES + 1)
    return put_together(parts)


@hostile("the date of a member", DamagedBundle, "none of this format")
def _(parts: Parts, raw: bytes) -> bytes:
    return raw[:10] + b"\1" + raw[11:]


@hostile("a name that climbs out", DamagedBundle, "name that this format does not use")
def _(parts: Parts, raw: bytes) -> bytes:
    return raw.replace(b"manifest.json", b"../../../x.py", 1)


# --- contents and digests -------------------------------------------------------------------------------------------


@hostile("a memory changed", DamagedBundle, "memories/00000.jsonl was changed")
def _(parts: Parts, raw: bytes) -> bytes:
    at = raw.index(b"The harbour opens at nine")
    return raw[:at] + b"T" + b"H" + raw[at + 2 :]


@hostile("a memory changed, and its checksums with it", DamagedBundle, "digest is another one")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.list_members()
    parts.members[LINES] = parts.members[LINES].replace(b"nine", b"nein")
    shard = next(member for member in parts.manifest["members"] if member["name"] == LINES)
    shard["crc32"] = f"{zlib.crc32(parts.members[LINES]):08x}"
    return put_together(parts, list_members=False)


@hostile("a vector changed", DamagedBundle, "embeddings/00000.safetensors was changed")
def _(parts: Parts, raw: bytes) -> bytes:
    at = raw.index(parts.members[VECTORS]) + len(parts.members[VECTORS]) - 1
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@hostile("an artifact changed", DamagedBundle, "artifacts/.* was changed")
def _(parts: Parts, raw: bytes) -> bytes:
    at = raw.index(blob()) + len(blob()) - 1
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@hostile("an artifact that is not the one of its name", MalformedCube, "not the member of its name")
def _(parts: Parts, raw: bytes) -> bytes:
    name = next(name for name in parts.members if name.startswith("artifacts/"))
    parts.members[name] = blob(3)
    return put_together(parts)


# --- signature ------------------------------------------------------------------------------------------------------


@hostile("a manifest changed after it was signed", UntrustedBundle, "false")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.manifest["cube"]["licence"] = "public domain"
    parts.signature = TEST_KEY.sign(canonical(parts.manifest))
    parts.manifest["cube"]["licence"] = "all rights reserved"
    return put_together(parts)


@hostile("a signature of another bundle", UntrustedBundle, "false")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.signature = TEST_KEY.sign(b"something else")
    return put_together(parts)


@hostile("a signature of an unknown algorithm", MalformedCube, "algorithm")
def _(parts: Parts, raw: bytes) -> bytes:
    found = json.loads(TEST_KEY.sign(canonical(parts.manifest)))
    parts.signature = canonical(found | {"algorithm": "none"})
    return put_together(parts)


@hostile("a signature that is no object", MalformedCube, "no JSON object")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.signature = b"[]"
    return put_together(parts)


@hostile("a signature whose key is too short", MalformedCube, "canonical")
def _(parts: Parts, raw: bytes) -> bytes:
    found = json.loads(TEST_KEY.sign(canonical(parts.manifest)))
    parts.signature = canonical(found | {"key": "AAAA"})
    return put_together(parts)


@hostile("a signature of a megabyte", TooLargeBundle, "signature.json has")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.signature = b" " * (1 << 20)
    return put_together(parts)


# --- manifest -------------------------------------------------------------------------------------------------------

in_manifest("a newer format", UnsupportedBundle, "newer memos-mcp", "version")(lambda: 2)
in_manifest("an older format", UnsupportedBundle, "older", "version")(lambda: 0)
in_manifest("a version that is no number", MalformedCube, "which version", "version")(lambda: True)
in_manifest("another format", MalformedCube, "its format is memcube", "format")(lambda: "zipcube")
in_manifest("a field that version 1 does not know", MalformedCube, "'script'", "script")(lambda: "rm -rf /")
in_manifest("a field of the cube that is unknown", MalformedCube, "the cube has", "cube", "admin")(lambda: True)
in_manifest("counts beyond all measure", TooLargeBundle, "counts", "counts", "memories")(lambda: 10**12)
in_manifest("a negative count", MalformedCube, "counts.memories", "counts", "memories")(lambda: -1)
in_manifest("counts that do not agree", MalformedCube, "agree", "counts", "memories")(lambda: 5)
in_manifest("more versions than there are", MalformedCube, "counts other versions", "counts", "versions")(lambda: 99)
in_manifest("more passages than there are", MalformedCube, "counts other passages", "counts", "passages")(lambda: 99)
in_manifest("states that are not those", MalformedCube, "counts other states", "counts", "states")(
    lambda: {"generated": 4}
)
in_manifest("a count of a state that is none", MalformedCube, "a state in counts", "counts", "states")(
    lambda: {"undead": 4}
)
in_manifest("a negative size", MalformedCube, "bytes of a member", "members", 0, "bytes")(lambda: -5)
in_manifest("a size beyond all measure", MalformedCube, "bytes of a member", "members", 0, "bytes")(lambda: 1 << 63)
in_manifest("a shard over its bound", TooLargeBundle, "at most", "members", 0, "bytes")(lambda: 1 << 30)
in_manifest("a size that is a fraction", MalformedCube, "bytes of a member", "members", 0, "bytes")(lambda: 10.0)
in_manifest("a member that climbs out", MalformedCube, "out of place", "members", 0, "name")(
    lambda: "../../.ssh/authorized_keys"
)
in_manifest("a member with an absolute path", MalformedCube, "out of place", "members", 0, "name")(
    lambda: "/etc/passwd"
)
in_manifest("a member listed twice", MalformedCube, "out of place", "members", 1, "name")(lambda: LINES)
in_manifest("a digest that is none", MalformedCube, "sha256 of a member", "members", 0, "sha256")(lambda: "z" * 64)
in_manifest("a digest in capitals", MalformedCube, "sha256 of a member", "members", 0, "sha256")(lambda: "A" * 64)
in_manifest("members that are no list", MalformedCube, "members is no list", "members")(dict)
in_manifest("a hundred thousand members", TooLargeBundle, "members has", "members")(lambda: [{}] * 100_000)
in_manifest("an artifact kind that is none", MalformedCube, "kind of a_kv", "artifacts", 0, "kind")(lambda: "pickle")
in_manifest("an artifact twice", MalformedCube, "an artifact twice", "artifacts", 1, "id")(lambda: "a_kv")
in_manifest("an artifact without its member", MalformedCube, "out of place", "artifacts", 0, "digest")(
    lambda: "sha256:" + "0" * 64
)
in_manifest("an artifact whose digest is a path", MalformedCube, "digest of a_kv", "artifacts", 0, "digest")(
    lambda: "sha256:../../../../etc/passwd"
)
in_manifest("a policy that is forever negative", MalformedCube, "ttl_days", "cube", "policy", "ttl_days")(lambda: -1)
in_manifest("a policy of infinite days", MalformedCube, "no JSON number", "cube", "policy", "ttl_days")(
    lambda: float("inf")
)
in_manifest("a policy of NaN days", MalformedCube, "no JSON number", "cube", "policy", "ttl_days")(lambda: float("nan"))
in_manifest("a grant to an action that is none", MalformedCube, "action of a grant", "cube", "policy", "grants")(
    lambda: [{"principal": "eve", "actions": ["everything"]}]
)
in_manifest("a name that is empty", MalformedCube, "name of the cube is empty", "cube", "name")(lambda: " ")
in_manifest("a name that is too long", TooLargeBundle, "name of the cube", "cube", "name")(lambda: "x" * 65)
in_manifest("a name with a line end in the terminal's language", MalformedCube, "control", "cube", "name")(
    lambda: "\x1b[2Jwork"
)
in_manifest("no provenance", MalformedCube, "provenance is no JSON object", "cube", "provenance")(lambda: None)
in_manifest("an embedder of no dimension", MalformedCube, "dimension", "embedder", "dimension")(lambda: 0)
in_manifest("an embedder of a million dimensions", MalformedCube, "dimension", "embedder", "dimension")(lambda: 10**6)
in_manifest("an embedder of other dimensions", MalformedCube, "tensors are not those", "embedder", "dimension")(
    lambda: 3
)
in_manifest("an embedder that is denied", MalformedCube, "out of place|passages", "embedder")(lambda: None)


@hostile("a manifest that is no JSON", MalformedCube, "no JSON")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.raw_manifest = b"format: memcube"
    return put_together(parts)


@hostile("a manifest that is no UTF-8", MalformedCube, "UTF-8")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.raw_manifest = b'{"format":"\xff"}'
    return put_together(parts)


@hostile("a key twice in the manifest", MalformedCube, "twice in one JSON object")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.list_members()
    parts.raw_manifest = canonical(parts.manifest)[:-1] + b',"version":1}'
    return put_together(parts)


@hostile("a manifest with white space", MalformedCube, "canonical")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.list_members()
    parts.raw_manifest = canonical(parts.manifest).replace(b'"format":', b'"format": ')
    return put_together(parts)


@hostile("a manifest nested a million deep", MalformedCube, "nested")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.raw_manifest = b'{"format":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    return put_together(parts)


@hostile("a number of a million digits", MalformedCube, "JSON")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.raw_manifest = b'{"format":"memcube","version":' + b"9" * 1_000_000 + b"}"
    return put_together(parts)


# --- memories -------------------------------------------------------------------------------------------------------

in_line("a field of a memory that is unknown", MalformedCube, "'cube'", cube="work")
in_line("a content that is no text", MalformedCube, "content of m_told", content=["a"])
in_line("a content that is empty", MalformedCube, "content of m_told is empty", content="")
in_line("a content over its bound", TooLargeBundle, "content of m_told has 1000001", content="x" * 1_000_001)
in_line("a content with NUL", MalformedCube, "control character", content="a\0b")
in_line("a version of zero", MalformedCube, "version of m_told", version=0)
in_line("a version beyond all measure", MalformedCube, "version of m_told", version=1 << 40)
in_line("a version that skips", MalformedCube, "history of m_told", version=5)
in_line("a state that is none", MalformedCube, "state of m_told", state="undead")
in_line("a time without a zone", MalformedCube, "created_at", created_at="2026-03-02T09:00:00.000000")
in_line("a time that is none", MalformedCube, "created_at", created_at="2026-02-30T09:00:00.000000+00:00")
in_line("a time at the calendar's end", MalformedCube, "created_at", created_at="9999-12-31T23:59:59.999999+00:00")
in_line("an id that climbs out", MalformedCube, "id of a memory", id="../../etc/pass wd")
in_line("an id of a thousand letters", MalformedCube, "id of a memory", id="m" * 1_000)
in_line("more tags than allowed", TooLargeBundle, "tags of m_told", tags=["t"] * 65)
in_line("truth that is a number", MalformedCube, "pinned", pinned=1)
in_line("metadata that is no object", MalformedCube, "metadata of m_told", metadata="[1]")
in_line("metadata that is not canonical", MalformedCube, "metadata of m_told", metadata='{"b": 1}')
in_line(
    "metadata that is nested a thousand deep", MalformedCube, "nested", metadata='{"a":' * 1_000 + "1" + "}" * 1_000
)
in_line("metadata that holds NaN", MalformedCube, "NaN", metadata='{"a":NaN}')
in_line("metadata that holds what overflows", MalformedCube, "finite", metadata='{"a":1e999}')
in_line("an edge twice", MalformedCube, "twice", lineage=[{"relation": "follows", "source": "m_1", "version": 1}] * 2)
in_line("an edge that is none", MalformedCube, "relation", lineage=[{"relation": "loves", "source": "m", "version": 1}])
in_line("a use that is negative", MalformedCube, "access_count", usage={"access_count": -1, "last_access": None})
in_line("a history that is no list", MalformedCube, "history of m_told is no list", history={})
in_line("a history of others", MalformedCube, "earlier version of m_told", version=2, history=[{"id": "m_other"}])


@hostile("a history of another memory", MalformedCube, "another memory")
def _(parts: Parts, raw: bytes) -> bytes:
    line = parts.line()
    line["history"][0]["id"] = "m_other"
    parts.set_line(line)
    return put_together(parts)


@hostile("a memory twice", MalformedCube, "m_whole is there twice")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.set_line(parts.line(1), 2)
    return put_together(parts)


@hostile("a key twice in a memory", MalformedCube, "line 1: a key stands twice")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.set_line(canonical(parts.line())[:-1] + b',"content":"other"}')
    return put_together(parts)


@hostile("a memory nested a million deep", MalformedCube, "nested")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.set_line(b"[" * 1_000_000)
    return put_together(parts)


@hostile("a memory of millions of small parts", TooLargeBundle, "strings and brackets")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.members[LINES] = b'{"history":[' + b"{}," * 5_000_000 + b"{}]}\n"
    return put_together(parts)


@hostile("a manifest of millions of small parts", TooLargeBundle, "strings and brackets")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.raw_manifest = b'{"format":[' + b'"ab",' * 1_500_000 + b'""]}'
    return put_together(parts)


@hostile("a lone surrogate, escaped", MalformedCube, "surrogate")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.set_line(canonical(parts.line()).replace(b"The harbour", b"\\ud800"))
    return put_together(parts)


@hostile("a lone surrogate, raw", MalformedCube, "UTF-8")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.set_line(canonical(parts.line() | {"content": "\ud800"}))
    return put_together(parts)


@hostile("a line with white space", MalformedCube, "canonical")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.set_line(canonical(parts.line()) + b" ")
    return put_together(parts)


@hostile("lineage that is not sorted", MalformedCube, "canonical")
def _(parts: Parts, raw: bytes) -> bytes:
    line = parts.line()
    line["lineage"].reverse()
    parts.set_line(line)
    return put_together(parts)


@hostile("an empty line", MalformedCube, "line 5")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.members[LINES] += b"\n"
    return put_together(parts)


@hostile("a last line without an end", MalformedCube, "no end")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.members[LINES] = parts.members[LINES][:-1]
    return put_together(parts)


@hostile("more lines than a shard may have", TooLargeBundle, "lines")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.members[LINES] = b"{}\n" * 2_000_000
    return put_together(parts)


@hostile("a shard of many lines that is too long", TooLargeBundle, "only one line alone")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.members[LINES] = (b"x" * 2_999_999 + b"\n") * 2
    return put_together(parts)


@hostile("a memory fewer than counted", MalformedCube, "counts other memories")
def _(parts: Parts, raw: bytes) -> bytes:
    parts.members[LINES] = b"\n".join(parts.members[LINES].splitlines()[:2]) + b"\n"
    parts.members[VECTORS] = embeddings([2, 0], np.zeros((2, 4), "<f4"))
    return put_together(parts)


# --- tensors --------------------------------------------------------------------------------------------------------


def embeddings(counts: list[int], vectors: Any, **changes: Any) -> bytes:
    """A safetensors file of these tensors, whatever they are."""
    first, second = np.array(counts, "<i4").tobytes(), vectors.tobytes()
    header: dict[str, Any] = {
        "passages": {"dtype": "I32", "shape": [len(counts)], "data_offsets": [0, len(first)]},
        "vectors": {"dtype": "F32", "shape": list(vectors.shape), "data_offsets": [len(first), len(first + second)]},
    }
    header["vectors"] |= changes
    text = canonical(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + first + second


def with_vectors(name: str, error: type[CubeError], says: str, raw: Callable[[], bytes]) -> None:
    def forge(parts: Parts, _: bytes) -> bytes:
        parts.members[VECTORS] = raw()
        return put_together(parts)

    CASES.append((name, error, says, forge))


FITTING = np.zeros((4, 4), "<f4")
with_vectors("NaN in a vector", MalformedCube, "not finite", lambda: embeddings([2, 0, 1, 1], FITTING + np.nan))
with_vectors("infinity in a vector", MalformedCube, "not finite", lambda: embeddings([2, 0, 1, 1], FITTING + np.inf))
with_vectors("a negative number of passages", MalformedCube, "passages", lambda: embeddings([5, -1, 1, -1], FITTING))
with_vectors("passages beyond all measure", MalformedCube, "passages", lambda: embeddings([1 << 30] * 4, FITTING))
with_vectors("passages that do not add up", MalformedCube, "together", lambda: embeddings([2, 2, 2, 2], FITTING))
with_vectors("vectors for fewer memories", MalformedCube, "not those of 4", lambda: embeddings([4], FITTING))
with_vectors(
    "vectors of another type", MalformedCube, "not those", lambda: embeddings([2, 0, 1, 1], FITTING, dtype="F64")
)
with_vectors(
    "tensors that overlap",
    MalformedCube,
    "not those",
    lambda: embeddings([2, 0, 1, 1], FITTING, data_offsets=[0, 64]),
)
with_vectors(
    "vectors of a shape beyond all measure",
    MalformedCube,
    "not those",
    lambda: embeddings([2, 0, 1, 1], FITTING, shape=[1 << 30, 4]),
)
with_vectors("a safetensors header beyond the file", MalformedCube, "header", lambda: b"\xff" * 8 + bytes(100))
with_vectors("a safetensors header that is no JSON", MalformedCube, "JSON", lambda: b"\x08" + bytes(7) + b"pickle!!")
with_vectors("no vectors at all", MalformedCube, "header", lambda: b"")
with_vectors("bytes behind the vectors", MalformedCube, "not those", lambda: embeddings([2, 0, 1, 1], FITTING) + b"x")


def with_blob(name: str, error: type[CubeError], says: str, raw: Callable[[], bytes]) -> None:
    """A first artifact with other bytes, and a header that fits them."""

    def forge(parts: Parts, _: bytes) -> bytes:
        content, first = raw(), parts.manifest["artifacts"][0]
        digest = hashlib.sha256(content).hexdigest()
        old = f"artifacts/{first['digest'].removeprefix('sha256:')}.safetensors"
        first |= {"digest": f"sha256:{digest}", "bytes": max(8, len(content))}
        parts.members = {
            (f"artifacts/{digest}.safetensors" if name == old else name): (content if name == old else kept)
            for name, kept in parts.members.items()
        }
        return put_together(parts)

    CASES.append((name, error, says, forge))


def tensors(header: Any, body: bytes = bytes(16)) -> bytes:
    text = canonical(header)
    return len(text).to_bytes(8, "little") + text + body


TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
with_blob(
    "a pickle as an artifact", DamagedBundle, "header is longer", lambda: b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix"
)
with_blob("tensors of an artifact that overlap", MalformedCube, "overlap", lambda: tensors({"a": TENSOR, "b": TENSOR}))
with_blob(
    "a tensor beyond the artifact",
    MalformedCube,
    "do not fill",
    lambda: tensors({"a": TENSOR | {"shape": [400], "data_offsets": [0, 1600]}}),
)
with_blob("a tensor of an unknown type", MalformedCube, "type", lambda: tensors({"a": TENSOR | {"dtype": "OBJECT"}}))
with_blob("a tensor with a negative axis", MalformedCube, "axis", lambda: tensors({"a": TENSOR | {"shape": [-4]}}))
with_blob(
    "a tensor whose shape overflows",
    MalformedCube,
    "axis|fit its bytes",
    lambda: tensors({"a": TENSOR | {"shape": [1 << 47] * 16}}),
)
with_blob(
    "an artifact header over its bound",
    TooLargeBundle,
    "header has",
    lambda: (5 << 20).to_bytes(8, "little") + bytes(5 << 20),
)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, raw in members.items():
            about = zipfile.ZipInfo(name)
            about.create_system, about.external_attr, about.compress_type = 3, 0o100600 << 16, method
            archive.writestr(about, raw)
    return file.getvalue()


# --- what becomes of them -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.memcube"
    rich_bundle(path)
    return path.read_bytes()


def test_a_bundle_that_was_only_taken_apart_and_put_together_is_the_same_file(good: bytes) -> None:
    assert put_together(taken_apart(good)) == good


def test_there_are_many_and_each_has_its_name() -> None:
    assert len({name for name, *_ in CASES}) == len(CASES) >= 100


@pytest.mark.parametrize(("name", "error", "says", "forge"), CASES, ids=[name for name, *_ in CASES])
def test_it_is_refused_with_one_clear_error(
    name: str, error: type[CubeError], says: str, forge: Forge, good: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.memcube"
    path.write_bytes(forge(taken_apart(good), good))
    with pytest.raises(error, match=says) as caught, open_bundle(path) as bundle:
        bundle.verify()
    assert type(caught.value) is error
    assert str(caught.value).startswith("hostile.memcube: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert [file.name for file in tmp_path.iterdir()] == ["hostile.memcube"]


@pytest.mark.parametrize(
    "forge", [forge for name, *_, forge in CASES if name in ("a memory twice", "NaN in a vector", "a content with NUL")]
)
def test_a_signature_does_not_make_it_better(forge: Forge, good: bytes, tmp_path: Path) -> None:
    parts = taken_apart(forge(taken_apart(good), good))
    path = tmp_path / "hostile.memcube"
    path.write_bytes(signed_again(parts))
    with pytest.raises(CubeError), open_bundle(path) as bundle:
        bundle.verify()


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    for path, says in ((tmp_path, "no file"), (tmp_path / "none.memcube", "cannot be read")):
        with pytest.raises(UnusableFile, match=says), open_bundle(path):
            pass


def test_a_damaged_shard_is_found_before_anything_of_it_is_given_out(good: bytes) -> None:
    raw = good.replace(b"The harbour opens at nine", b"The harbour opens at nein")
    with open_bundle(io.BytesIO(raw)) as bundle:
        memories = bundle.memories()
        with pytest.raises(DamagedBundle, match="memories/00000"):
            next(memories)
