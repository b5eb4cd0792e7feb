"""Two bundles compared: what was added, removed and changed, whatever their order and size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cubes import Behavioural, DamagedBundle, Lineage, MemCube, Relation, Sensitivity, State
from cubes.bundle import open_bundle
from cubes.differences import OMITTED, BundleDiff, FieldChange, MemoryChange, diff
from cubes.limits import SHARD_MEMORIES
from cubes.packing import write_bundle
from cubes.records import PackedMemory
from cubes.seen import Seen
from tests.cubes.bundles import EMBEDDER, artifact, cube, memory, version


def compared(
    folder: Path,
    before: Sequence[PackedMemory],
    after: Sequence[PackedMemory],
    header: MemCube | None = None,
    **options: Any,
) -> BundleDiff:
    write_bundle(folder / "before", cube(), before, embedder=EMBEDDER, replace=True)
    write_bundle(folder / "after", header or cube(), after, **({"embedder": EMBEDDER, "replace": True} | options))
    with open_bundle(folder / "before") as old, open_bundle(folder / "after") as new:
        return diff(old, new)


def test_a_bundle_does_not_differ_from_itself(tmp_path: Path) -> None:
    told = [memory("m_1"), memory("m_2")]
    assert compared(tmp_path, told, told) == BundleDiff((), (), (), ())


def test_what_was_added_removed_and_changed_is_named(tmp_path: Path) -> None:
    before = [memory("m_kept"), memory("m_changed"), memory("m_gone")]
    changed = replace(
        memory("m_changed", number=2, content="Something else.", state=State.ARCHIVED, reason="it closed"),
        lineage=(Lineage(Relation.SUPERSEDES, "m_gone", 1),),
    )
    found = compared(tmp_path, before, [memory("m_new"), changed, memory("m_kept")])
    assert (found.added, found.removed, found.header) == (("m_new",), ("m_gone",), ())
    (change,) = found.changed
    fields = {field.name: (field.before, field.after) for field in change.fields}
    assert change.id == "m_changed"
    assert fields["content"] == ("m_changed says thing 1.", "Something else.")
    assert fields["state"] == ("generated", "archived")
    assert fields["lineage"] == ([], [{"relation": "supersedes", "source": "m_gone", "version": 1}])
    assert set(fields) == {"content", "state", "lineage", "version", "updated_at", "reason"}


def test_usage_history_and_vectors_are_no_difference(tmp_path: Path) -> None:
    told = memory("m_1", number=2)
    used = replace(told, usage=Behavioural(9), history=(version("m_1", 1),), vectors=np.ones((2, 4), np.float32))
    assert compared(tmp_path, [told], [used]).changed == ()


def test_headers_are_compared(tmp_path: Path) -> None:
    other = cube(licence="CC0-1.0", version=4)
    found = compared(tmp_path, [], [], other, embedder=None, redacted=Sensitivity.SECRET, artifacts=[artifact()])
    assert {field.name for field in found.header} == {"version", "licence", "embedder", "redacted", "artifacts"}
    assert FieldChange("licence", "CC-BY-4.0", "CC0-1.0") in found.header


def test_order_and_shards_do_not_matter(tmp_path: Path) -> None:
    count = 2 * SHARD_MEMORIES + 10
    before = [memory(f"m_{number}", 0) for number in range(count)]
    after = [
        memory(f"m_{number}", 0, content="Changed." if number % 100 == 0 else None)
        for number in reversed(range(5, count + 5))
    ]
    found = compared(tmp_path, before, after)
    assert found.added == tuple(f"m_{number}" for number in reversed(range(count, count + 5)))
    assert found.removed == tuple(f"m_{number}" for number in range(5))
    assert {change.id for change in found.changed} == {f"m_{number}" for number in range(100, count, 100)}
    assert all([field.name for field in change.fields] == ["content"] for change in found.changed)


def test_values_for_which_there_is_no_room_are_left_out_by_name(tmp_path: Path) -> None:
    for name, letter in (("before", "x"), ("after", "y")):
        write_bundle(tmp_path / name, cube(), [memory(f"m_{number}", 0, content=letter * 30) for number in range(3)])
    with open_bundle(tmp_path / "before") as before, open_bundle(tmp_path / "after") as after:
        found = diff(before, after, max_value_bytes=100).changed
    assert found[0] == MemoryChange("m_0", (FieldChange("content", "x" * 30, "y" * 30),))
    assert found[2] == MemoryChange("m_2", (FieldChange("content", OMITTED, OMITTED),))


def test_a_bundle_that_is_not_whole_is_not_compared(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x", cube(), [memory("m_1", 0)])
    raw = (tmp_path / "x").read_bytes()
    broken = raw.replace(b"m_1 says thing", b"m_1 said thing")
    with open_bundle(tmp_path / "x") as good, open_bundle(io.BytesIO(broken)) as bad:
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(DamagedBundle):
                diff(*pair)


def test_progress_is_told_and_can_stop_it(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: float, total: float | None, message: str) -> None:
        assert (done, total, message) == (2, 4, "comparing")
        raise Stopped

    write_bundle(tmp_path / "x", cube(), [memory("m_1", 0), memory("m_2", 0)])
    with open_bundle(tmp_path / "x") as bundle, pytest.raises(Stopped):
        diff(bundle, bundle, stop)


def test_an_id_is_seen_once_however_many_there_are() -> None:
    seen = Seen()
    assert all(seen.add(f"m_{number}") for number in range(140_000))
    assert not any(seen.add(f"m_{number}") for number in (0, 1, 70_000, 131_072, 139_999))
    assert seen.add("m_140000")
