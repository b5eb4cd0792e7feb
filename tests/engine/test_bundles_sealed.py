"""Bundles and encrypted stores: what comes out of a bundle is sealed as all else, and goes out the same."""

from __future__ import annotations

import json
import random
import struct
from io import BytesIO
from pathlib import Path

from cubes.bundle import open_bundle
from cubes.canonical import digest
from cubes.manifest import ArtifactHeader, ArtifactKind
from cubes.packing import PackedArtifact, write_bundle
from engine.cube_operations import Install, Pack
from engine.settings import Settings
from tests.conftest import START, HandClock
from tests.engine.cube_growing import Growing
from tests.engine.stores import ME, archive, encrypted, opened, say, settings_for

MARK = b"zylophorous vantablossom tensors "


def blob() -> bytes:
    header = json.dumps({"k": {"dtype": "U8", "shape": [len(MARK)], "data_offsets": [0, len(MARK)]}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + MARK


def test_a_bundle_goes_through_an_encrypted_store_unchanged_and_unseen(
    tmp_path: Path, settings: Settings, clock: HandClock
) -> None:
    plain, derived, again = (tmp_path / f"{name}.memcube" for name in ("plain", "derived", "again"))
    with opened(settings_for(tmp_path / "origin"), clock) as origin:
        Growing(origin, "home", random.Random(11), clock).grow(30)
        id = say(origin, "Quillfeather hid the lantern under the bridge.", cube="home")
        origin.pack(Pack("home", plain), ME)
    with open_bundle(plain) as source:
        raw = blob()
        header = ArtifactHeader("a_1", ArtifactKind.LORA, "model-1", digest(raw), len(raw), START, ((id, 1),))
        artifact = PackedArtifact(header, lambda: BytesIO(raw))
        snapshots = source.manifest.snapshots
        write_bundle(derived, source.manifest.cube, source.memories(), artifacts=[artifact], snapshots=snapshots)
    sealed = encrypted(settings)
    with opened(sealed, clock) as memos:
        memos.install(Install(str(derived)), ME)
        memos.pack(Pack("home", again), ME)
        assert again.read_bytes() == derived.read_bytes()
        assert memos.verify(ME) == ()
        for path in settings.data.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert b"Quillfeather" not in content
                assert MARK not in content
        assert len(list(settings.blobs_folder.iterdir())) == 1
        assert archive(memos, id).invalidated.lora == 1
        assert list(settings.blobs_folder.iterdir()) == []
