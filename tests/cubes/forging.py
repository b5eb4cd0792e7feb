"""Bundles that no writer of ours makes: taken apart, changed, and put together again with digests that fit."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

from cubes.container import Entry, Layout, file_chunks
from cubes.signing import SigningKey
from tests.cubes.bundles import TEST_KEY


@dataclass
class Parts:
    """A bundle as plain values: `members` without manifest and signature, in order."""

    manifest: dict[str, Any]
    members: dict[str, bytes]
    raw_manifest: bytes | None = None  # instead of the canonical form of `manifest`
    signature: bytes | None = None
    extra: list[tuple[str, bytes]] = field(default_factory=list)  # members that the manifest does not list

    def line(self, number: int = 0, shard: str = "memories/00000.jsonl") -> Any:
        return json.loads(self.members[shard].splitlines()[number])

    def set_line(self, value: Any, number: int = 0, shard: str = "memories/00000.jsonl") -> None:
        lines = self.members[shard].splitlines()
        lines[number] = value if isinstance(value, bytes) else canonical(value)
        self.members[shard] = b"\n".join(lines) + b"\n"

    def list_members(self) -> None:
        """Make the manifest say what the members are."""
        self.manifest["members"] = [
            {
                "name": name,
                "bytes": len(raw),
                "sha256": hashlib.sha256(raw).hexdigest(),
                "crc32": f"{zlib.crc32(raw):08x}",
            }
            for name, raw in self.members.items()
        ]


def canonical(value: Any) -> bytes:
    """Canonical JSON without the checks of `cubes.canonical`."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def taken_apart(raw: bytes) -> Parts:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(found.pop("manifest.json"))
    signature = found.pop("signature.json", None)
    return Parts(manifest, found, signature=signature)


def put_together(parts: Parts, *, list_members: bool = True, key: SigningKey | None = None) -> bytes:
    """The bytes of the file; digests, sizes and headers fit what is in it."""
    if list_members:
        parts.list_members()
    manifest = canonical(parts.manifest) if parts.raw_manifest is None else parts.raw_manifest
    signature = key.sign(manifest) if key is not None else parts.signature
    members = [("manifest.json", manifest)]
    members += [] if signature is None else [("signature.json", signature)]
    members += [*parts.members.items(), *parts.extra]
    layout = Layout([Entry(name, len(raw), zlib.crc32(raw)) for name, raw in members])
    return b"".join(file_chunks(layout, [[raw] for _, raw in members]))


def signed_again(parts: Parts) -> bytes:
    return put_together(parts, key=TEST_KEY)
