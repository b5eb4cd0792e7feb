"""A snapshot is whole or is refused, whatever happened to its files or to the process that wrote it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.index.snapshot import MANIFEST, SnapshotUnusable, read, remove, write

FACTS = {"dimension": 3, "embedder": "mini", "versions": [1, 2]}
MEMBERS = {"keys.bin": b"\x01\x02\x03" * 1000, "words.json": b'{"a": 1}', "empty": b""}


def write_nodes(path: Path) -> None:
    path.write_bytes(b"nodes")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path, 41, FACTS, {**MEMBERS, "graph": write_nodes})
    snapshot = read(tmp_path, FACTS)
    assert snapshot.revision == 41
    assert snapshot.facts == FACTS
    assert {name: snapshot.content(name) for name in MEMBERS} == MEMBERS
    assert snapshot.path("graph").read_bytes() == b"nodes"


def test_a_folder_without_a_snapshot_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "never-made"):
        with pytest.raises(SnapshotUnusable, match="there is none"):
            read(folder, FACTS)


def test_a_member_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    write(tmp_path, 1, FACTS, MEMBERS)
    snapshot = read(tmp_path, FACTS)
    with pytest.raises(SnapshotUnusable, match="no member 'graph'"):
        snapshot.content("graph")
    (snapshot.folder / "keys.bin").unlink()
    with pytest.raises(SnapshotUnusable, match=r"keys\.bin"):
        snapshot.content("keys.bin")


def test_the_newest_snapshot_replaces_the_older_and_leaves_none_of_its_bytes(tmp_path: Path) -> None:
    write(tmp_path, 1, FACTS, {"words": b"the secret of the first"})
    write(tmp_path, 2, FACTS, {"words": b"second"})
    assert read(tmp_path, FACTS).revision == 2
    assert all(b"secret" not in path.read_bytes() for path in files_of(tmp_path))
    assert len(files_of(tmp_path)) == 2


def test_removing_leaves_nothing_and_may_be_done_twice(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    remove(folder)
    write(folder, 1, FACTS, MEMBERS)
    (folder / "generation-77").mkdir()
    (folder / "generation-77" / "left-by-a-killed-write").write_bytes(b"x")
    remove(folder)
    remove(folder)
    assert list(folder.iterdir()) == []
    with pytest.raises(SnapshotUnusable):
        read(folder, FACTS)


@pytest.mark.parametrize("other", [{**FACTS, "dimension": 4}, {"dimension": 3}, {**FACTS, "more": None}, {}])
def test_other_facts_make_it_unusable(tmp_path: Path, other: dict[str, object]) -> None:
    write(tmp_path, 1, FACTS, MEMBERS)
    with pytest.raises(SnapshotUnusable, match="other facts"):
        read(tmp_path, other)


def test_a_member_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    for name in ("../x", "a/b", "", ".hidden", "x" * 65):
        with pytest.raises(ValueError, match="cannot name a member"):
            write(tmp_path, 1, FACTS, {name: b""})
    assert files_of(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_snapshot(tmp_path: Path) -> None:
    write(tmp_path, 1, FACTS, MEMBERS)

    def full_disk(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write(tmp_path, 2, FACTS, {"keys.bin": b"new", "graph": full_disk})
    assert read(tmp_path, FACTS).revision == 1
    assert len(files_of(tmp_path)) == 1 + len(MEMBERS)


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    write(tmp_path, 7, FACTS, MEMBERS)
    chance = random.Random(5)
    for path in files_of(tmp_path):
        good = path.read_bytes()
        for place in sorted({0, len(good) - 1, *(chance.randrange(len(good)) for _ in range(60))} if good else ()):
            bad = bytearray(good)
            bad[place] ^= 1 << chance.randrange(8)
            path.write_bytes(bad)
            with pytest.raises(SnapshotUnusable):
                read(tmp_path, FACTS)
        path.write_bytes(good)
    assert read(tmp_path, FACTS).revision == 7


def test_a_file_cut_short_made_longer_or_missing_is_found(tmp_path: Path) -> None:
    write(tmp_path, 7, FACTS, MEMBERS)
    for path in files_of(tmp_path):
        good = path.read_bytes()
        for bad in {good[: len(good) // 2], good + b"\0", b""} - {good}:
            path.write_bytes(bad)
            with pytest.raises(SnapshotUnusable):
                read(tmp_path, FACTS)
        path.unlink()
        with pytest.raises(SnapshotUnusable):
            read(tmp_path, FACTS)
        path.write_bytes(good)
    assert read(tmp_path, FACTS).revision == 7


def test_files_swapped_for_those_of_an_older_snapshot_are_found(tmp_path: Path) -> None:
    write(tmp_path, 1, FACTS, MEMBERS)
    old = {path.relative_to(tmp_path): path.read_bytes() for path in files_of(tmp_path)}
    write(tmp_path, 2, FACTS, {**MEMBERS, "keys.bin": b"\x09\x02\x03" * 1000})
    snapshot = read(tmp_path, FACTS)
    (snapshot.folder / "keys.bin").write_bytes(MEMBERS["keys.bin"])
    with pytest.raises(SnapshotUnusable, match="damaged"):
        read(tmp_path, FACTS)
    (tmp_path / MANIFEST).write_bytes(old[Path(MANIFEST)])
    with pytest.raises(SnapshotUnusable):
        read(tmp_path, FACTS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"body": "[]", "blake2b": ""}).encode(),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(SnapshotUnusable):
        read(tmp_path, FACTS)


WRITER = """
import sys
from pathlib import Path
from engine.index.snapshot import write
folder = Path(sys.argv[1])
for revision in range(int(sys.argv[2]), 10**9):
    body = revision.to_bytes(8, "little") * 20_000
    members = {"a": body, "b": body[::-1], "c": lambda path: path.write_bytes(body)}
    write(folder, revision, {"made": "by a writer"}, members)
    print(revision, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a POSIX signal")
def test_a_writer_killed_at_any_moment_leaves_a_whole_snapshot_no_older_than_it_said(tmp_path: Path) -> None:
    chance, start, acknowledged = random.Random(11), 1, 0
    for _ in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 8)):
                acknowledged = int(process.stdout.readline())
            sum(range(chance.randrange(1, 200_000)))  # a varying moment within the next write, without sleeping
            process.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *(int(line) for line in process.stdout if line.endswith("\n"))])
        snapshot = read(tmp_path, {"made": "by a writer"})
        assert snapshot.revision in (acknowledged, acknowledged + 1)
        body = snapshot.revision.to_bytes(8, "little") * 20_000
        assert snapshot.content("a") == body == snapshot.content("c") == snapshot.content("b")[::-1]
        start = snapshot.revision + 1
