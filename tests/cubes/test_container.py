"""The ZIP around a bundle: read by common tools, also where sizes need 64 bits, and written in one way only."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubes import DamagedBundle, TooLargeBundle
from cubes.container import Entry, Layout, chunks_of, file_chunks, local_header, read_first, read_header

NAMES = st.text("abc019", min_size=1, max_size=8)
GIB = 1 << 30


def file_of(members: dict[str, bytes]) -> bytes:
    layout = Layout([Entry(name, len(raw), zlib.crc32(raw)) for name, raw in members.items()])
    return b"".join(file_chunks(layout, [[raw] for raw in members.values()]))


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=5))
def test_every_file_is_read_by_zipfile_and_found_whole(members: dict[str, bytes]) -> None:
    raw = file_of(members)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == members
    layout = Layout([Entry(name, len(content), zlib.crc32(content)) for name, content in members.items()])
    assert layout.bytes == len(raw)
    layout.check(io.BytesIO(raw))


@given(st.dictionaries(NAMES, st.binary(max_size=50), min_size=1, max_size=5))
def test_it_is_what_zipfile_writes(members: dict[str, bytes]) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in members.items():
            about = zipfile.ZipInfo(name)
            about.create_system, about.external_attr = 3, 0o100600 << 16
            archive.writestr(about, raw)
    assert file.getvalue() == file_of(members)


def huge_file(path: Path, *large: int) -> Layout:
    """A sparse file with members of these sizes between two small ones."""
    middle = [Entry(f"{size}.bin", size, 0) for size in large]
    layout = Layout([Entry("small.txt", 5, zlib.crc32(b"hello")), *middle, Entry("end.txt", 3, zlib.crc32(b"end"))])
    with path.open("wb") as file:
        for entry, start in zip(layout.entries, layout.starts, strict=True):
            header = local_header(entry)
            file.seek(start - len(header))
            file.write(header)
            file.write({"small.txt": b"hello", "end.txt": b"end"}.get(entry.name, b""))
        file.seek(layout.tail_start)
        file.write(layout.tail)
    return layout


@pytest.mark.parametrize("large", [[5 * GIB], [0xFFFFFFFE, 1 * GIB], [0xFFFFFFFF], [0xFFFFFFFE - 39]])
def test_sizes_beyond_32_bits_are_read_by_zipfile(large: list[int], tmp_path: Path) -> None:
    path = tmp_path / "huge.zip"
    layout = huge_file(path, *large)
    with zipfile.ZipFile(path) as archive:
        assert [(info.filename, info.file_size) for info in archive.infolist()] == [
            (entry.name, entry.bytes) for entry in layout.entries
        ]
        assert archive.read("small.txt") == b"hello"
        assert archive.read("end.txt") == b"end"
    with path.open("rb") as file:
        layout.check(file)
        for entry, start in zip(layout.entries, layout.starts, strict=True):
            assert read_header(file, start - len(local_header(entry))) == (entry, start)


def test_sizes_beyond_32_bits_are_read_by_unzip(tmp_path: Path) -> None:
    path = tmp_path / "huge.zip"
    huge_file(path, 5 * GIB, 0xFFFFFFFE, GIB)
    if shutil.which("unzip") is None:
        pytest.skip("there is no unzip here")
    listed = subprocess.run(["unzip", "-l", path], capture_output=True, text=True, check=True).stdout
    assert str(5 * GIB) in listed
    tested = subprocess.run(["unzip", "-t", path, "end.txt"], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout


def test_a_member_over_the_limit_is_not_read() -> None:
    with pytest.raises(TooLargeBundle, match=r"note\.txt has 100 bytes: at most 99"):
        read_first(io.BytesIO(file_of({"note.txt": b"x" * 100})), 0, 99)


def test_more_members_than_16_bits_count_are_refused() -> None:
    with pytest.raises(TooLargeBundle):
        Layout([Entry("x", 0, 0)] * 0xFFFF)


def test_a_file_that_ends_while_it_is_read_is_found() -> None:
    chunks = chunks_of(io.BytesIO(b"hello"), 0, 6)
    assert next(chunks) == b"hello"
    with pytest.raises(DamagedBundle, match="1 bytes are missing"):
        next(chunks)
