"""FORMAT.md is enough: a reader and a writer made from it alone, with the standard library, agree with ours.

The golden file was made once, by `golden/make.py`, and stays: what it says must be read for good.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from safetensors.numpy import load

from cubes import Sensitivity, State, limits
from cubes.bundle import open_bundle
from cubes.manifest import ArtifactKind
from tests.cubes.bundles import TEST_KEY, packed_again, rich_memories
from tests.cubes.golden.make import said

GOLDEN = Path(__file__).parent / "golden" / "v1.memcube"
GOLDEN_SHA256 = "721e628be98fd6d95a58bb63c5d47992e7018f30731021405ed8bfd53e61c22f"
EXPECTED: dict[str, Any] = json.loads(GOLDEN.with_name("v1.json").read_text(encoding="utf-8"))
FORMAT = (Path(__file__).parents[2] / "cubes" / "FORMAT.md").read_text(encoding="utf-8")


# --- a reader and a writer from FORMAT.md alone ---------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def read_by_the_book(path: Path) -> dict[str, Any]:
    """Everything in a signed bundle, checked."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        members = {name: archive.read(name) for name in names}
    manifest = json.loads(members["manifest.json"])
    assert (manifest["format"], manifest["version"]) == ("memcube", 1)
    assert canonical(manifest) == members["manifest.json"]
    signature = json.loads(members["signature.json"])
    key = base64.b64decode(signature["key"])
    Ed25519PublicKey.from_public_bytes(key).verify(
        base64.b64decode(signature["signature"]), b"memcube/1 manifest\n" + members["manifest.json"]
    )
    assert names == ["manifest.json", "signature.json"] + [member["name"] for member in manifest["members"]]
    for member in manifest["members"]:
        raw = members[member["name"]]
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (member["bytes"], member["sha256"])
        assert f"{zlib.crc32(raw):08x}" == member["crc32"]
    memories: list[dict[str, Any]] = []
    for name in names:
        if name.startswith("memories/"):
            lines = [json.loads(line) for line in members[name].decode().split("\n")[:-1]]
            vectors = vectors_by_the_book(
                members[name.replace("memories", "embeddings").replace("jsonl", "safetensors")]
            )
            memories += [line | {"vectors": rows or None} for line, rows in zip(lines, vectors, strict=True)]
    blobs = {name.removeprefix("artifacts/"): raw for name, raw in members.items() if name.startswith("artifacts/")}
    return {
        "cube": manifest["cube"],
        "embedder": [manifest["embedder"][name] for name in ("fingerprint", "source", "dimension")],
        "redacted": manifest["redacted"],
        "snapshots": manifest["snapshots"],
        "signed_by": f"memcube-ed25519:{signature['key']}",
        "counts": [
            *(manifest["counts"][name] for name in ("memories", "versions", "edges", "passages")),
            manifest["counts"]["states"],
        ],
        "memories": memories,
        "artifacts": [
            {
                **artifact,
                "sources": [[source["id"], source["version"]] for source in artifact["sources"]],
                "blob": blobs[f"{artifact['digest'].removeprefix('sha256:')}.safetensors"].hex(),
            }
            for artifact in manifest["artifacts"]
        ],
    }


def vectors_by_the_book(raw: bytes) -> list[list[list[float]]]:
    (length,) = struct.unpack_from("<Q", raw)
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    counts = [count for (count,) in struct.iter_unpack("<i", body[slice(*header["passages"]["data_offsets"])])]
    floats = [number for (number,) in struct.iter_unpack("<f", body[slice(*header["vectors"]["data_offsets"])])]
    _, dimension = header["vectors"]["shape"]
    rows = iter([floats[at : at + dimension] for at in range(0, len(floats), dimension)])
    return [[next(rows) for _ in range(count)] for count in counts]


def written_by_the_book(what: dict[str, Any], secret: bytes) -> bytes:
    """The bundle that says this, of one shard and with embeddings, signed with this key."""
    fingerprint, source, dimension = what["embedder"]
    lines = [{name: value for name, value in memory.items() if name != "vectors"} for memory in what["memories"]]
    members = {
        "memories/00000.jsonl": b"".join(canonical(line) + b"\n" for line in lines),
        "embeddings/00000.safetensors": embeddings_by_the_book(
            [memory["vectors"] or [] for memory in what["memories"]], dimension
        ),
    }
    artifacts = []
    for artifact in what["artifacts"]:
        members[f"artifacts/{artifact['digest'].removeprefix('sha256:')}.safetensors"] = bytes.fromhex(artifact["blob"])
        header = {name: value for name, value in artifact.items() if name != "blob"}
        artifacts.append(header | {"sources": [{"id": id, "version": version} for id, version in artifact["sources"]]})
    counts = dict(zip(("memories", "versions", "edges", "passages", "states"), what["counts"], strict=True))
    manifest = canonical(
        {
            "format": "memcube",
            "version": 1,
            "cube": what["cube"],
            "counts": counts,
            "embedder": {"fingerprint": fingerprint, "source": source, "dimension": dimension},
            "redacted": what["redacted"],
            "snapshots": what["snapshots"],
            "artifacts": artifacts,
            "members": [
                {
                    "name": name,
                    "bytes": len(raw),
                    "sha256": hashlib.sha256(raw).hexdigest(),
                    "crc32": f"{zlib.crc32(raw):08x}",
                }
                for name, raw in members.items()
            ],
        }
    )
    key = Ed25519PrivateKey.from_private_bytes(secret)
    signature = canonical(
        {
            "algorithm": "ed25519",
            "key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
            "signature": base64.b64encode(key.sign(b"memcube/1 manifest\n" + manifest)).decode(),
        }
    )
    return zip_by_the_book({"manifest.json": manifest, "signature.json": signature, **members})


def embeddings_by_the_book(vectors: list[list[list[float]]], dimension: int) -> bytes:
    counts = [len(rows) for rows in vectors]
    first, total = 4 * len(counts), sum(counts)
    header = canonical(
        {
            "passages": {"dtype": "I32", "shape": [len(counts)], "data_offsets": [0, first]},
            "vectors": {
                "dtype": "F32",
                "shape": [total, dimension],
                "data_offsets": [first, first + 4 * total * dimension],
            },
        }
    )
    header += b" " * (-len(header) % 8)
    numbers = [number for rows in vectors for row in rows for number in row]
    return b"".join(
        (
            struct.pack("<Q", len(header)),
            header,
            struct.pack(f"<{len(counts)}i", *counts),
            struct.pack(f"<{len(numbers)}f", *numbers),
        )
    )


def zip_by_the_book(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in members.items():
            about = zipfile.ZipInfo(name)
            about.create_system, about.external_attr = 3, 0o100600 << 16
            archive.writestr(about, raw)
    return file.getvalue()


# --- they agree -----------------------------------------------------------------------------------------------------


def test_the_golden_file_is_the_one_that_was_made_once() -> None:
    assert hashlib.sha256(GOLDEN.read_bytes()).hexdigest() == GOLDEN_SHA256


def test_every_field_of_the_golden_file_is_read() -> None:
    with open_bundle(GOLDEN) as bundle:
        bundle.verify()
        assert said(bundle) == EXPECTED
        told = next(bundle.memories())
        assert bundle.manifest.redacted is Sensitivity.SECRET
        assert [header.kind for header in bundle.manifest.artifacts] == [ArtifactKind.KV, ArtifactKind.LORA]
    assert told.current.state is State.ACTIVATED
    assert told.usage.access_count == 4
    assert [old.version for old in told.history] == [1, 2]


def test_the_golden_file_says_what_its_cube_was() -> None:
    with open_bundle(GOLDEN) as bundle:
        assert list(bundle.memories()) == rich_memories()


def test_the_golden_file_packed_again_is_the_same_file(tmp_path: Path) -> None:
    assert packed_again(GOLDEN.read_bytes(), tmp_path, TEST_KEY) == GOLDEN.read_bytes()


def test_a_reader_made_from_the_specification_reads_the_golden_file() -> None:
    assert read_by_the_book(GOLDEN) == EXPECTED


def test_a_writer_made_from_the_specification_writes_the_golden_file() -> None:
    assert written_by_the_book(EXPECTED, bytes(range(32))) == GOLDEN.read_bytes()


def test_what_another_program_writes_is_accepted(tmp_path: Path) -> None:
    mine = json.loads(json.dumps(EXPECTED))
    mine["memories"] = [mine["memories"][1] | {"id": "m_mine", "content": "Written by another program."}]
    mine["artifacts"], mine["counts"] = [], [1, 1, 0, 0, {"merged": 1}]
    path = tmp_path / "mine.memcube"
    path.write_bytes(written_by_the_book(mine, b"another program's secret key 1234"[:32]))
    with open_bundle(path) as bundle:
        bundle.verify()
        assert [memory.current.content for memory in bundle.memories()] == ["Written by another program."]


def test_common_tools_read_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(GOLDEN) as archive:
        assert archive.testzip() is None
    try:
        tested = subprocess.run(["unzip", "-t", GOLDEN], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unzip here")
    assert tested.returncode == 0, tested.stdout
    assert "No errors detected" in tested.stdout


def test_the_tensors_are_those_that_safetensors_reads() -> None:
    with zipfile.ZipFile(GOLDEN) as archive:
        found = load(archive.read("embeddings/00000.safetensors"))
        blobs = [load(archive.read(name)) for name in archive.namelist() if name.startswith("artifacts/")]
    assert found["passages"].tolist() == [2, 0, 1, 1]
    assert found["vectors"].shape == (4, 4)
    assert [sorted(blob) for blob in blobs] == [["layer.0"], ["layer.0", "layer.1"]]


def test_the_specification_names_every_bound() -> None:
    for name in (
        "MAX_MANIFEST_BYTES",
        "MAX_SIGNATURE_BYTES",
        "MAX_SHARDS",
        "MAX_MEMORIES",
        "MAX_SOURCES",
        "MAX_GRANTS",
    ):
        assert str(getattr(limits, name)) in FORMAT, name
    for name in ("SHARD_BYTES", "SHARD_MEMORIES", "SHARD_VECTOR_BYTES", "MAX_LINE_BYTES", "MAX_CONTENT_CHARS"):
        assert str(getattr(limits, name)) in FORMAT, name
    for name in ("MAX_ENTITIES", "MAX_MENTIONS", "MAX_EDGES", "MAX_VERSIONS", "MAX_PASSAGES", "MAX_JSON_TOKENS"):
        assert str(getattr(limits, name)) in FORMAT, name
    for name in ("MAX_TOTAL", "MAX_COUNT", "MAX_AGE_HEADER_BYTES", "MAX_SESSION_CHARS", "MAX_DESCRIPTION_CHARS"):
        assert str(getattr(limits, name)) in FORMAT, name
