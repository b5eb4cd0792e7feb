"""How the golden file of version 1 was made. It is never made again: what it says must stay readable for good.

`python -m tests.cubes.golden.make FOLDER` writes `v1.memcube`, and `v1.json`, which says in plain JSON what is in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cubes.bundle import Bundle, open_bundle
from cubes.headers import cube_to_plain
from cubes.records import to_plain
from tests.cubes.bundles import TEST_KEY, rich_bundle


def make(folder: Path) -> None:
    path = folder / "v1.memcube"
    rich_bundle(path, signing_key=TEST_KEY, replace=False)
    with open_bundle(path) as bundle:
        (folder / "v1.json").write_text(json.dumps(said(bundle), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def said(bundle: Bundle) -> dict[str, Any]:
    """All that a bundle says, as plain JSON."""
    manifest, signature, embedder = bundle.manifest, bundle.signature, bundle.manifest.embedder
    assert signature is not None
    assert embedder is not None
    return {
        "cube": cube_to_plain(manifest.cube),
        "embedder": [embedder.fingerprint, embedder.source, embedder.dimension],
        "redacted": manifest.redacted,
        "snapshots": [
            {
                "name": moment.name,
                "at": moment.at.isoformat(timespec="microseconds"),
                "author": moment.author,
                "reason": moment.reason,
            }
            for moment in manifest.snapshots
        ],
        "signed_by": str(signature.key),
        "counts": [
            *(manifest.counts.memories, manifest.counts.versions, manifest.counts.edges, manifest.counts.passages),
            {state.value: count for state, count in manifest.counts.states},
        ],
        "memories": [
            {**to_plain(memory), "vectors": None if memory.vectors is None else memory.vectors.tolist()}
            for memory in bundle.memories()
        ],
        "artifacts": [
            {
                "id": header.id,
                "kind": header.kind.value,
                "fingerprint": header.fingerprint,
                "digest": header.digest,
                "bytes": header.bytes,
                "created_at": header.created_at.isoformat(timespec="microseconds"),
                "sources": [list(source) for source in header.sources],
                "metadata": header.metadata,
                "blob": stream.read().hex(),
            }
            for header, stream in bundle.artifacts()
        ],
    }


if __name__ == "__main__":
    make(Path(sys.argv[1]))
