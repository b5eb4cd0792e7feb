"""The manifest of a bundle: what the file is, whose, how much it holds, and the digest of every member.

Canonical JSON of version 1 of the format. The names of the members and their order follow from the counts, so a
manifest whose members have other names is refused. There is nothing in it of when or where it was packed: the same cube
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from cubes import fields
from cubes.canonical import json_bytes, plain
from cubes.container import Entry
from cubes.cube import MemCube, Sensitivity, State
from cubes.errors import MalformedCube, TooLargeBundle, UnsupportedBundle
from cubes.headers import cube_from_plain, cube_to_plain
from cubes.limits import (
    MAX_ARTIFACT_BYTES,
    MAX_ARTIFACTS,
    MAX_DIMENSION,
    MAX_LINE_BYTES,
    MAX_LINE_VECTOR_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_MEMORIES,
    MAX_NAME_CHARS,
    MAX_REASON_CHARS,
    MAX_SHARDS,
    MAX_SNAPSHOT_NAME_CHARS,
    MAX_SNAPSHOTS,
    MAX_SOURCE_CHARS,
    MAX_SOURCES,
    MAX_TOTAL,
)

FORMAT, VERSION = "memcube", 1
MANIFEST, SIGNATURE = "manifest.json", "signature.json"
_DEPTH = 8  # the manifest needs 5: artifacts, artifact, sources, source
_FIELDS = frozenset(
    {"format", "version", "cube", "counts", "embedder", "redacted", "snapshots", "artifacts", "members"}
)
_COUNTS = frozenset({"memories", "versions", "edges", "passages", "states"})
_HEX = frozenset("0123456789abcdef")
_MAX_MEMBER_BYTES = MAX_LINE_VECTOR_BYTES + 4_096 + 256  # a shard of embeddings with its counts and header


class ArtifactKind(StrEnum):
    """What a blob is."""

    KV = "kv"  # an attention KV cache
    LORA = "lora"  # an adapter


@dataclass(frozen=True, slots=True)
class ArtifactHeader:
    """A blob that was derived from memories, and the only model into which it may be loaded."""

    id: str
    kind: ArtifactKind
    fingerprint: str  # of the model: weights, tokenizer, dtype, RoPE parameters
    digest: str  # of the blob: sha256:<hex>
    bytes: int
    created_at: datetime
    sources: tuple[tuple[str, int], ...] = ()  # (memory id, version)
    metadata: str | None = None  # what else is known of it: canonical JSON object

    @property
    def member(self) -> str:
        return f"artifacts/{self.digest.removeprefix('sha256:')}.safetensors"


@dataclass(frozen=True, slots=True)
class EmbedderHeader:
    """The embedder that made the vectors."""

    fingerprint: str
    source: str
    dimension: int


@dataclass(frozen=True, slots=True)
class NamedMoment:
    """A snapshot: the name of a moment of the cube's past, which the history in the bundle tells."""

    name: str
    at: datetime
    author: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is. `versions` counts present and earlier ones, `edges` lineage, `passages` vectors."""

    memories: int = 0
    versions: int = 0
    edges: int = 0
    passages: int = 0
    states: tuple[tuple[State, int], ...] = ()  # only those that occur, by name


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the file and its digests."""

    name: str
    bytes: int
    sha256: str  # hex
    crc32: int

    @property
    def entry(self) -> Entry:
        return Entry(self.name, self.bytes, self.crc32)


@dataclass(frozen=True, slots=True)
class Manifest:
    """`cube.policy` is what the packer offers; `cube.provenance` is the watermark of where it was made."""

    cube: MemCube
    counts: Counts
    embedder: EmbedderHeader | None
    redacted: Sensitivity | None  # memories that are at least this sensitive were left out
    snapshots: tuple[NamedMoment, ...]  # sorted by name
    artifacts: tuple[ArtifactHeader, ...]
    members: tuple[Member, ...]

    @property
    def shards(self) -> int:
        return sum(member.name.startswith("memories/") for member in self.members)


def shard_names(number: int) -> tuple[str, str]:
    """The members that hold the lines and the vectors of a shard."""
    return f"memories/{number:05}.jsonl", f"embeddings/{number:05}.safetensors"


# --- writing --------------------------------------------------------------------------------------------------------


def to_bytes(manifest: Manifest) -> bytes:
    """The canonical bytes, checked as strictly as those that are read. Raises as `from_bytes`."""
    raw = json_bytes(_plain(manifest))
    from_bytes(raw)
    return raw


def _plain(manifest: Manifest) -> dict[str, Any]:
    counts, embedder = manifest.counts, manifest.embedder
    return {
        "format": FORMAT,
        "version": VERSION,
        "cube": cube_to_plain(manifest.cube),
        "counts": {
            "memories": counts.memories,
            "versions": counts.versions,
            "edges": counts.edges,
            "passages": counts.passages,
            "states": {state.value: count for state, count in counts.states},
        },
        "embedder": plain(embedder),
        "redacted": plain(manifest.redacted),
        "snapshots": [plain(moment) for moment in sorted(manifest.snapshots, key=lambda moment: moment.name)],
        "artifacts": [_plain_artifact(artifact) for artifact in manifest.artifacts],
        "members": [
            {"name": member.name, "bytes": member.bytes, "sha256": member.sha256, "crc32": f"{member.crc32:08x}"}
            for member in manifest.members
        ],
    }


def _plain_artifact(artifact: ArtifactHeader) -> dict[str, Any]:
    sources = [{"id": id, "version": version} for id, version in sorted(artifact.sources)]
    return {name: plain(getattr(artifact, name)) for name in ArtifactHeader.__dataclass_fields__} | {"sources": sources}


# --- reading --------------------------------------------------------------------------------------------------------


def from_bytes(raw: bytes) -> Manifest:
    """The manifest that these bytes say.

    Raises:
        UnsupportedBundle: it is of another version of the format.
        TooLargeBundle: it speaks of more than a bundle may hold.
        MalformedCube: it is not the one canonical manifest of a bundle.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise TooLargeBundle(f"the manifest has {len(raw)} bytes: at most {MAX_MANIFEST_BYTES} are allowed")
    record = fields.parse(raw, _DEPTH)
    _check_version(record)
    found = fields.mapping(record, "the manifest", _FIELDS)
    artifacts = tuple(_artifact(item) for item in fields.array(found["artifacts"], "artifacts", MAX_ARTIFACTS))
    if len({artifact.id for artifact in artifacts}) != len(artifacts):
        raise MalformedCube("the manifest has an artifact twice")
    redacted = found["redacted"]
    snapshots = tuple(_snapshot(item) for item in fields.array(found["snapshots"], "snapshots", MAX_SNAPSHOTS))
    if len({moment.name for moment in snapshots}) != len(snapshots):
        raise MalformedCube("the manifest has a snapshot twice")
    manifest = Manifest(
        cube=cube_from_plain(found["cube"]),
        counts=_counts(found["counts"]),
        embedder=_embedder(found["embedder"]),
        redacted=None if redacted is None else fields.choice(redacted, "redacted", Sensitivity),
        snapshots=snapshots,
        artifacts=artifacts,
        members=_members(found["members"]),
    )
    _check_members(manifest)
    if json_bytes(_plain(manifest)) != raw:
        raise MalformedCube("the manifest is not in canonical form: keys sorted, no white space, lists sorted")
    return manifest


def _check_version(record: object) -> None:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise MalformedCube(f"the manifest does not say that its format is {FORMAT}")
    version = record.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise MalformedCube("the manifest does not say which version of the format it is")
    if version > VERSION:
        raise UnsupportedBundle(f"it was written by a newer memos-mcp (format {version}): upgrade to read it")
    if version < VERSION:
        raise UnsupportedBundle(f"its format {version} is older than the first that was released: pack it again")


def _counts(value: object) -> Counts:
    found = fields.mapping(value, "counts", _COUNTS)
    states = found["states"]
    if not isinstance(states, dict):
        raise MalformedCube("counts.states is no JSON object")
    by_state = tuple(
        (fields.choice(name, "a state in counts", State), fields.whole(states[name], "a count", 1))
        for name in sorted(states)
    )
    numbers = {name: fields.whole(found[name], f"counts.{name}", 0, MAX_TOTAL) for name in _COUNTS if name != "states"}
    counts = Counts(**numbers, states=by_state)
    if counts.memories > MAX_MEMORIES:
        raise TooLargeBundle(f"it counts {counts.memories} memories: at most {MAX_MEMORIES} are allowed")
    if sum(count for _, count in by_state) != counts.memories or counts.versions < counts.memories:
        raise MalformedCube("the counts of the manifest do not agree with each other")
    return counts


def _embedder(value: object) -> EmbedderHeader | None:
    if value is None:
        return None
    found = fields.mapping(value, "embedder", {"fingerprint", "source", "dimension"})
    return EmbedderHeader(
        fields.text(found["fingerprint"], "embedder.fingerprint", MAX_NAME_CHARS),
        fields.text(found["source"], "embedder.source", MAX_SOURCE_CHARS),
        fields.whole(found["dimension"], "embedder.dimension", 1, MAX_DIMENSION),
    )


def _snapshot(value: object) -> NamedMoment:
    found = fields.mapping(value, "a snapshot", NamedMoment.__dataclass_fields__.keys())
    return NamedMoment(
        fields.text(found["name"], "name of a snapshot", MAX_SNAPSHOT_NAME_CHARS),
        fields.instant(found["at"], "at of a snapshot"),
        fields.text(found["author"], "author of a snapshot", MAX_NAME_CHARS),
        fields.maybe_text(found["reason"], "reason of a snapshot", MAX_REASON_CHARS),
    )


def _artifact(value: object) -> ArtifactHeader:
    found = fields.mapping(value, "an artifact", ArtifactHeader.__dataclass_fields__.keys())
    id = fields.identifier(found["id"], "id of an artifact")
    sources: list[tuple[str, int]] = []
    for item in fields.array(found["sources"], f"sources of {id}", MAX_SOURCES):
        source = fields.mapping(item, f"a source of {id}", {"id", "version"})
        sources.append(
            (fields.identifier(source["id"], f"source of {id}"), fields.whole(source["version"], f"version in {id}", 1))
        )
    if len(set(sources)) != len(sources):
        raise MalformedCube(f"sources of {id} name a version twice")
    digest = found["digest"]
    if not isinstance(digest, str) or not digest.startswith("sha256:"):
        raise MalformedCube(f"digest of {id} is none such as sha256:<hex>")
    _hex(digest.removeprefix("sha256:"), f"digest of {id}", 64)
    return ArtifactHeader(
        id=id,
        kind=fields.choice(found["kind"], f"kind of {id}", ArtifactKind),
        fingerprint=fields.text(found["fingerprint"], f"fingerprint of {id}", MAX_NAME_CHARS),
        digest=digest,
        bytes=fields.whole(found["bytes"], f"bytes of {id}", 8, MAX_ARTIFACT_BYTES),
        created_at=fields.instant(found["created_at"], f"created_at of {id}"),
        sources=tuple(sources),
        metadata=fields.metadata(found["metadata"], f"metadata of {id}"),
    )


def _members(value: object) -> tuple[Member, ...]:
    return tuple(_member(item) for item in fields.array(value, "members", 2 * MAX_SHARDS + MAX_ARTIFACTS))


def _member(value: object) -> Member:
    found = fields.mapping(value, "a member", {"name", "bytes", "sha256", "crc32"})
    return Member(
        fields.text(found["name"], "name of a member", MAX_NAME_CHARS),
        fields.whole(found["bytes"], "bytes of a member", 0, MAX_ARTIFACT_BYTES),
        _hex(found["sha256"], "sha256 of a member", 64),
        int(_hex(found["crc32"], "crc32 of a member", 8), 16),
    )


def _hex(value: object, what: str, digits: int) -> str:
    if not isinstance(value, str) or len(value) != digits or not _HEX.issuperset(value):
        raise MalformedCube(f"{what} is not {digits} hexadecimal digits in lower case")
    return value


def _check_members(manifest: Manifest) -> None:
    """Refuse members with other names, in another order, or of other sizes than the format has them."""
    expected = member_names(manifest.shards, manifest.embedder is not None, manifest.artifacts)
    names = [member.name for member in manifest.members]
    if names != expected:
        wrong = next((name for name, right in zip(names, expected, strict=False) if name != right), "the last")
        raise MalformedCube(f"its members are not those of this format, in order: {wrong[:80]!a} is out of place")
    if manifest.shards > MAX_SHARDS:
        raise TooLargeBundle(f"it has {manifest.shards} shards of memories: at most {MAX_SHARDS} are allowed")
    if (manifest.counts.memories == 0) != (manifest.shards == 0):
        raise MalformedCube("the number of its memories does not agree with its members")
    if manifest.embedder is None and manifest.counts.passages:
        raise MalformedCube("it counts passages, but names no embedder")
    blobs: Mapping[str, Member] = {member.name: member for member in manifest.members}
    for artifact in manifest.artifacts:
        blob = blobs[artifact.member]
        if (blob.bytes, f"sha256:{blob.sha256}") != (artifact.bytes, artifact.digest):
            raise MalformedCube(f"artifact {artifact.id} is not the member of its name")
    for member in manifest.members:
        most = MAX_LINE_BYTES if member.name.startswith("memories/") else _MAX_MEMBER_BYTES
        if not member.name.startswith("artifacts/") and member.bytes > most:
            raise TooLargeBundle(f"{member.name} has {member.bytes} bytes: at most {most} are allowed")


def member_names(shards: int, embedded: bool, artifacts: Sequence[ArtifactHeader]) -> list[str]:
    """The members that the manifest lists, in order: shard by shard, then each blob where it is first named."""
    names = [name for number in range(shards) for name in shard_names(number)[: 2 if embedded else 1]]
    return names + list(dict.fromkeys(artifact.member for artifact in artifacts))
