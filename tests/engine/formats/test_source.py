"""Where records are read from: bounded whatever a file claims, and nothing but its own members."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Invalid, TooLarge
from engine.formats import FORMATS, Report, json_text, of_bytes, opened, source
from engine.formats.json_text import items, shape
from tests.engine.formats.samples_of import SAMPLES, read


def test_a_member_that_expands_beyond_reason_is_refused_unread(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("conversations.json", "w") as member:
        for _ in range(80):
            member.write(b" " * (1 << 20))
    with pytest.raises(TooLarge, match="expands to"):
        read(bomb, "chatgpt")


def test_gzip_that_expands_beyond_reason_is_read_only_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BOMB_FROM_BYTES", 1 << 20)
    monkeypatch.setattr(source, "MAX_MEMBER_BYTES", 1 << 20)
    bomb = tmp_path / "memories.jsonl.gz"
    bomb.write_bytes(
        gzip.compress(b'{"id": "1", "content": "a", "state": "active", "app": null, "categories": []}\n' * 99_999)
    )
    with pytest.raises(TooLarge, match="expands far beyond"):
        read(bomb, "openmemory")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"mapping":'])
def test_deep_json_is_refused_before_it_costs_anything(tmp_path: Path, opening: bytes) -> None:
    file = tmp_path / "conversations.json"
    file.write_bytes(b'[{"mapping": {"x": ' + opening * 300_000)
    tracemalloc.start()
    with pytest.raises(TooLarge, match="nested more than"):
        read(file, "chatgpt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_one_object_may_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MAX_OBJECT_BYTES", 1 << 20)
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"content": "small"}, {"content": "x" * (3 << 20)}]), "utf-8")
    with pytest.raises(TooLarge, match="object of more than 1 MiB"):
        read(file, "json")


@pytest.mark.parametrize("spoil", ["cut", "flip", "empty"])
def test_a_damaged_zip_gives_one_clear_error(tmp_path: Path, spoil: str) -> None:
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(SAMPLES / "chatgpt" / "conversations.json", "conversations.json")
    data = bytearray(whole.read_bytes())
    if spoil == "cut":
        data = data[: len(data) // 2]
    elif spoil == "flip":
        data[120:140] = bytes(20)
    else:
        data = data[:4]
    (tmp_path / "bad.zip").write_bytes(data)
    with pytest.raises(Invalid, match=r"bad\.zip"):
        read(tmp_path / "bad.zip", "chatgpt")


def test_names_that_lead_elsewhere_are_only_names(tmp_path: Path) -> None:
    outside = tmp_path / "outside.md"
    outside.write_text("must not be read", "utf-8")
    archive = tmp_path / "in" / "tricky.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../outside.md", "from the zip")
        packed.writestr("/etc/notes.md", "from the zip too")
        packed.writestr("__MACOSX/x.md", "clutter")
    assert [found.record["content"] for found in read(archive)[1]] == ["from the zip", "from the zip too"]
    assert outside.read_text("utf-8") == "must not be read"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "outside.md"]


def test_links_and_hidden_files_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text("not for import", "utf-8")
    folder = tmp_path / "notes"
    (folder / ".obsidian").mkdir(parents=True)
    (folder / ".obsidian" / "x.md").write_text("settings", "utf-8")
    (folder / "a.md").write_text("a note", "utf-8")
    (folder / "link.md").symlink_to(secret)
    (folder / "loop").symlink_to(folder)
    _, found, left = read(folder)
    assert [item.record["content"] for item in found] == ["a note"]
    assert [(what, count) for what, _, count in left] == [("hidden file or folder", 1)]


def test_a_large_array_is_read_object_by_object(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    with file.open("w", encoding="utf-8") as out:
        out.write("[")
        for number in range(4_000):
            out.write(("," if number else "") + json.dumps({"content": f"{number} " + "word " * 1_000}))
        out.write("]")
    assert file.stat().st_size > 20_000_000
    tracemalloc.start()
    with opened(file) as large:
        assert sum(1 for _ in items(large, large.members[0])) == 4_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="nowhere"):
        read(tmp_path / "nowhere")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=25,
)


@given(st.lists(JSON, max_size=5), st.integers(1, 9), st.booleans())
def test_what_is_read_in_chunks_of_any_size_is_what_was_written(values: list[object], step: int, ascii_: bool) -> None:
    data = json.dumps(values, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    nesting = json_text._Nesting()
    for start in range(0, len(data), step):
        assert not nesting.is_too_deep(data[start : start + step])
    assert (nesting.depth, nesting.inside) == (0, False)
    assert list(items(of_bytes(data, "-"), "-")) == values


@given(st.binary(max_size=200))
def test_any_bytes_have_a_shape_or_none(data: bytes) -> None:
    assert shape(data).begins == data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1].decode("ascii", "replace")


@given(st.binary(max_size=300), st.sampled_from(["chatgpt", "claude", "mem0", "jsonl", "json", "csv", "markdown"]))
def test_any_bytes_are_read_or_refused_in_one_line(data: bytes, name: str) -> None:
    complaint = ""
    try:
        list(FORMATS[name].read(of_bytes(data, "-"), Report()))
    except Invalid as error:
        complaint = str(error)
    assert "\n" not in complaint
