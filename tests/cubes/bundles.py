"""Small cubes to pack, the same every time: with history, lineage, usage, vectors and an artifact."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cubes import (
    Action,
    Behavioural,
    CubePolicy,
    Descriptive,
    Governance,
    Grant,
    Kind,
    Lineage,
    MemCube,
    Mention,
    Origin,
    Provenance,
    Relation,
    Scope,
    Sensitivity,
    State,
    Tier,
)
from cubes.bundle import open_bundle
from cubes.canonical import json_bytes
from cubes.manifest import ArtifactHeader, ArtifactKind, EmbedderHeader, NamedMoment
from cubes.packing import PackedArtifact, WrittenBundle, write_bundle
from cubes.records import PackedMemory, PackedVersion
from cubes.signing import SigningKey

WHEN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
EMBEDDER = EmbedderHeader("sha256:0123", "test-embedder", 4)
TEST_KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))  # for tests only: everybody knows it


def cube(name: str = "harbour", **about: Any) -> MemCube:
    policy = CubePolicy(
        read=Scope.SHARED,
        grants=(Grant("ada", (Action.READ, Action.SHARE)), Grant("bob", (Action.READ,))),
        ttl_days=30,
        decay_days=1.5,
        keep_versions=5,
        max_bytes=10**9,
    )
    fields: dict[str, Any] = {
        "description": "What the harbour does.",
        "policy": policy,
        "licence": "CC-BY-4.0",
        "version": 3,
        "provenance": Provenance("store-1", name, "ada"),
    }
    return MemCube(name, "ada", WHEN, WHEN + timedelta(days=1), **(fields | about))


def version(id: str, number: int = 1, content: str | None = None, **changes: Any) -> PackedVersion:
    described = {name: changes.pop(name) for name in list(changes) if name in Descriptive.__dataclass_fields__}
    about = Descriptive(
        **({"id": id, "kind": Kind.FACT, "created_at": WHEN, "updated_at": WHEN + timedelta(hours=number)} | described)
    )
    fields: dict[str, Any] = {
        "content": content or f"{id} says thing {number}.",
        "version": number,
        "state": State.GENERATED,
        "descriptive": about,
        "governance": Governance(),
        "tier": Tier.PLAINTEXT,
        "author": "ada",
        "change": "remember",
    }
    return PackedVersion(**(fields | changes))


def memory(id: str, passages: int = 1, **changes: Any) -> PackedMemory:
    seed = int(hashlib.sha256(id.encode()).hexdigest()[:8], 16)
    vectors = np.random.default_rng(seed).standard_normal((passages, 4)).astype(np.float32) if passages else None
    return PackedMemory(version(id, **changes), vectors=vectors)


def rich_memories() -> list[PackedMemory]:
    """Between them they have every field, state, relation and kind of value."""
    told = PackedMemory(
        version(
            "m_told",
            3,
            "The harbour opens at nine — «neuf heures» 🚢\nand\tcloses at six.",
            state=State.ACTIVATED,
            reason="the new timetable",
            change="supersede",
            kind=Kind.EVENT,
            occurred_at=WHEN - timedelta(days=3),
            origin=Origin.DOCUMENT,
            source="https://harbour.example/timetable",
            actor="the harbour master",
            role="user",
            session="s-1",
            position=7,
            tags=("harbour", "zeiten"),
            entities=("harbour",),
            mentions=(Mention("at nine", WHEN, WHEN + timedelta(minutes=1)),),
            metadata='{"fields":{"no":17},"title":"Timetable"}',
            governance=Governance(WHEN + timedelta(days=365), -2, Sensitivity.PERSONAL, True, True),
        ),
        lineage=(
            Lineage(Relation.CONFLICTS_WITH, "m_other", 2),
            Lineage(Relation.FOLLOWS, "m_gone", 1),
            Lineage(Relation.SUPERSEDES, "m_whole", 1),
        ),
        usage=Behavioural(4, WHEN + timedelta(days=2)),
        history=(version("m_told", 1), version("m_told", 2, reason="a correction", author="bob", change="restore")),
        vectors=np.array([[1, 0.5, -0.25, 0], [0, 0, 0, 1]], dtype=np.float32),
    )
    whole = PackedMemory(version("m_whole", parts=2, kind=Kind.DOCUMENT, state=State.MERGED))
    trimmed = PackedMemory(
        version("m_trimmed", 9, state=State.ARCHIVED, kind=Kind.PREFERENCE, governance=Governance(priority=3)),
        history=(version("m_trimmed", 7), version("m_trimmed", 8)),
        vectors=np.full((1, 4), 0.125, dtype=np.float32),
    )
    return [told, whole, trimmed, memory("m_last", state=State.EXPIRED, tier=Tier.ACTIVATION)]


def blob(tensors: int = 1) -> bytes:
    """A small safetensors file."""
    header = {
        f"layer.{n}": {"dtype": "F32", "shape": [2, 2], "data_offsets": [16 * n, 16 * n + 16]} for n in range(tensors)
    }
    text = json_bytes({"__metadata__": {"format": "pt"}, **header})
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + np.arange(4 * tensors, dtype="<f4").tobytes()


def artifact(id: str = "a_kv", raw: bytes | None = None, **changes: Any) -> PackedArtifact:
    raw = blob() if raw is None else raw
    fields: dict[str, Any] = {
        "id": id,
        "kind": ArtifactKind.KV,
        "fingerprint": "sha256:model",
        "digest": f"sha256:{hashlib.sha256(raw).hexdigest()}",
        "bytes": len(raw),
        "created_at": WHEN,
        "sources": (("m_last", 1), ("m_told", 3)),
        "metadata": '{"tokens":12}',
    }
    return PackedArtifact(ArtifactHeader(**(fields | changes)), lambda: io.BytesIO(raw))


def rich_bundle(path: Path, **options: Any) -> WrittenBundle:
    """A bundle that has everything."""
    chosen: dict[str, Any] = {
        "embedder": EMBEDDER,
        "artifacts": [artifact(), artifact("a_lora", blob(2), kind=ArtifactKind.LORA, metadata=None)],
        "redacted": Sensitivity.SECRET,
        "snapshots": (
            NamedMoment("after the move", WHEN + timedelta(days=1), "anna"),
            NamedMoment("before the move", WHEN, "owner", "just in case"),
        ),
        "replace": True,
    }
    return write_bundle(path, cube(), rich_memories(), **(chosen | options))


def packed_again(raw: bytes, folder: Path, key: SigningKey | None = None) -> bytes:
    """Read everything in the file and write it again."""
    with open_bundle(io.BytesIO(raw)) as bundle:
        blobs = {header.id: stream.read() for header, stream in bundle.artifacts()}
        bundle.verify()
        manifest = bundle.manifest
        path = folder / "again"
        write_bundle(
            path,
            manifest.cube,
            bundle.memories(),
            embedder=manifest.embedder,
            artifacts=[
                PackedArtifact(header, lambda id=header.id: io.BytesIO(blobs[id]))  # type: ignore[misc]
                for header in manifest.artifacts
            ],
            redacted=manifest.redacted,
            snapshots=manifest.snapshots,
            signing_key=key,
            replace=True,
        )
    found = path.read_bytes()
    path.unlink()
    return found
