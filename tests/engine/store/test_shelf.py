"""MemStore: what is put onto a shelf is found and fetched, wherever the shelf lies."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from engine.errors import Corrupt, Invalid, MemosError, NotAllowed, NotFound, TooLarge, Unavailable
from engine.store.entries import Entry
from engine.store.place import place_of
from engine.store.shelf import INDEX, MemStore
from tests.engine.store.places import new_bucket, s3_server, web_server

WHEN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
NAMES = ("harbour", "two words", "naïve/../x"[:5], "日本語", "..", "=41", "a#b?c%20")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path / "shelf")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/shelf"
    request.getfixturevalue("s3")
    return new_bucket()


def bundle(folder: Path, name: str, said: str = "", **about: object) -> tuple[Path, Entry]:
    """A file, and the entry of it. A shelf does not look into bundles."""
    data = f"{name} {said} ".encode() * 100
    path = folder / f"{uuid.uuid4().hex}.memcube"
    path.write_bytes(data)
    fields = {"published_at": WHEN, "memories": 3, "versions": 4, **about}
    sha256 = hashlib.sha256(data).hexdigest()
    return path, Entry(name=name, sha256=sha256, size_bytes=len(data), **fields)  # type: ignore[arg-type]


def put(shelf: MemStore, folder: Path, name: str, said: str = "", **about: object) -> Entry:
    path, entry = bundle(folder, name, said, **about)
    shelf.publish(path, entry)
    return entry


def at(url: str) -> MemStore:
    return MemStore(place_of(url))


def test_what_is_published_is_listed_found_and_fetched_whatever_its_name(url: str, tmp_path: Path) -> None:
    shelf = at(url)
    assert shelf.entries() == []
    put_there = {name: put(shelf, tmp_path, name) for name in NAMES}
    assert {entry.name: entry for entry in at(url).entries()} == put_there
    for name, entry in put_there.items():
        assert at(url).find(name) == entry
        with at(url).fetched(entry, tmp_path / "fetched") as path:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700
        assert not path.exists()


def test_the_newest_of_a_name_is_found_and_an_older_one_by_its_digest(url: str, tmp_path: Path) -> None:
    shelf = at(url)
    new = put(shelf, tmp_path, "harbour", "new", published_at=WHEN + timedelta(days=1))
    old = put(shelf, tmp_path, "harbour", "old")
    assert shelf.find("harbour") == new
    assert shelf.find("harbour", old.sha256[:12]) == old
    assert shelf.entries() == [new, old]
    with pytest.raises(NotFound, match="no 'harbour' with digest 000000"):
        shelf.find("harbour", "000000")
    with pytest.raises(NotFound, match=r"no 'jetty' on the shelf .*cube shelf list"):
        shelf.find("jetty")


def test_words_of_name_and_description_find_a_bundle(url: str, tmp_path: Path) -> None:
    shelf = at(url)
    put(shelf, tmp_path, "harbour", description="Ships and their cargo, counted daily")
    put(shelf, tmp_path, "garden", description="Roses")
    for query, names in {"ship counts": ["harbour"], "rose": ["garden"], "gard": ["garden"], "ships roses": []}.items():
        assert [entry.name for entry in shelf.search(query)] == names
    assert len(shelf.search(None)) == len(shelf.search("  ")) == 2


def test_publishing_again_changes_nothing(url: str, tmp_path: Path) -> None:
    shelf = at(url)
    path, entry = bundle(tmp_path, "harbour")
    shelf.publish(path, entry)
    later = entry.model_copy(update={"published_at": WHEN + timedelta(days=9), "description": "Other words"})
    shelf.publish(path, later)
    assert shelf.entries() == [entry]


def test_an_index_that_is_lost_broken_or_forged_is_only_a_cache(url: str, tmp_path: Path) -> None:
    shelf = at(url)
    kept = put(shelf, tmp_path, "harbour")
    files, index = shelf._files, shelf.place.of(INDEX)
    forged = {**json.loads(kept.to_bytes()), "name": "forged"}
    for raw in (b"", b"[" * 100_000, b"{}", json.dumps({"format": "memos-shelf", "entries": [forged]}).encode()):
        files.pipe_file(index, raw)
        assert shelf.entries() == [kept]
    files.rm_file(index)
    assert shelf.entries() == [kept]
    more = put(shelf, tmp_path, "garden")
    said = json.loads(files.cat_file(index))
    assert [entry["name"] for entry in said["entries"]] == [more.name, kept.name]


def test_entries_that_are_none_are_passed_over(url: str, tmp_path: Path) -> None:
    shelf = at(url)
    kept = put(shelf, tmp_path, "harbour")
    files = shelf._files
    plain = json.loads(kept.to_bytes())
    bad = {
        "a" * 64: b"{",
        "b" * 64: json.dumps({**plain, "sha256": "c" * 64}).encode(),  # speaks of another one
        "d" * 64: json.dumps({**plain, "sha256": "d" * 64, "size_bytes": -1}).encode(),
        "e" * 64: json.dumps({**plain, "sha256": "e" * 64, "name": "x/y"}).encode(),
        "f" * 64: json.dumps({**plain, "sha256": "f" * 64, "description": "x" * 70_000}).encode(),
    }
    for sha256, raw in bad.items():
        files.pipe_file(shelf.place.of("entries", "harbour", f"{sha256}.json"), raw)
    files.pipe_file(shelf.place.of("entries", "harbour", "notes.txt"), b"hello")
    files.rm_file(shelf.place.of(INDEX))
    assert shelf.entries() == [kept]


def test_a_bundle_that_is_not_what_its_entry_says_is_refused(url: str, tmp_path: Path) -> None:
    shelf = at(url)
    changed, longer, gone = (put(shelf, tmp_path, name) for name in ("changed", "longer", "gone"))
    files = shelf._files
    files.pipe_file(shelf.place.of(*changed.bundle), b"x" * changed.size_bytes)
    files.pipe_file(shelf.place.of(*longer.bundle), b"x" * (longer.size_bytes + 1))
    files.rm_file(shelf.place.of(*gone.bundle))
    folder = tmp_path / "fetched"
    for entry, kind, says in (
        (changed, Corrupt, "'changed' at .* is not the one that its entry names"),
        (longer, TooLarge, "'longer' at .* is larger than it says"),
        (gone, NotFound, "there is no bundle of 'gone' at"),
    ):
        with pytest.raises(kind, match=says), shelf.fetched(entry, folder):
            pytest.fail("it must not be given out")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("publishers", [8])
def test_publishers_at_the_same_time_lose_nothing(url: str, tmp_path: Path, publishers: int) -> None:
    ready = threading.Barrier(publishers)
    failed: list[MemosError] = []

    def publish(number: int) -> None:
        shelf = at(url)
        ready.wait()
        try:
            put(shelf, tmp_path, f"cube {number}")
        except MemosError as error:
            failed.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(publishers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    names = [f"cube {number}" for number in range(publishers)]
    assert [entry.name for entry in at(url).entries()] == names
    said = json.loads(at(url)._files.cat_file(at(url).place.of(INDEX)))
    assert [entry["name"] for entry in said["entries"]] == names  # what a web server has to go by


def test_a_shelf_in_a_folder_shows_no_half_written_file(tmp_path: Path) -> None:
    shelf = at(str(tmp_path / "shelf"))
    put(shelf, tmp_path, "harbour")
    files = sorted(path.relative_to(tmp_path / "shelf").parts[0] for path in (tmp_path / "shelf").rglob("*.*"))
    assert files == ["bundles", "entries", "index.json"]


def test_what_killed_processes_left_behind_is_removed(tmp_path: Path) -> None:
    shelf = at(str(tmp_path / "shelf"))
    entry = put(shelf, tmp_path, "harbour")
    folder = tmp_path / "fetched"
    folder.mkdir()
    old, new = folder / "old.memcube", folder / "new.memcube"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    with shelf.fetched(entry, folder):
        assert not old.exists()
        assert new.exists()


# --- behind a web server -------------------------------------------------------------------------------------------


def test_a_web_server_serves_what_was_published_into_its_folder(tmp_path: Path) -> None:
    served = at(str(tmp_path / "shelf"))
    entries = [put(served, tmp_path, name) for name in NAMES]
    with web_server(tmp_path) as port:
        shelf = at(f"http://127.0.0.1:{port}/shelf/")
        assert sorted(entry.name for entry in shelf.entries()) == sorted(NAMES)
        for entry in entries:
            with shelf.fetched(shelf.find(entry.name), tmp_path / "fetched") as path:
                assert path.stat().st_size == entry.size_bytes
        with (
            at(f"http://127.0.0.1:{port}/shelf/{'/'.join(entries[0].bundle)}").fetched_file(
                tmp_path / "fetched"
            ) as path,
        ):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entries[0].sha256
        with pytest.raises(NotAllowed, match="can only be read: publish to the folder"):
            put(shelf, tmp_path, "more")
        with pytest.raises(NotFound, match="there is no index of a shelf at http"):
            at(f"http://127.0.0.1:{port}/nowhere").entries()
    with pytest.raises(Unavailable, match="cannot be used"):
        shelf.entries()


def test_a_password_in_a_url_is_used_and_never_shown(tmp_path: Path) -> None:
    put(at(str(tmp_path / "shelf")), tmp_path, "harbour")
    with web_server(tmp_path, password="s3cret-word") as port:
        host = f"127.0.0.1:{port}/shelf"
        assert [entry.name for entry in at(f"http://ada:s3cret-word@{host}").entries()] == ["harbour"]
        with pytest.raises(NotAllowed) as refused:
            at(f"http://ada:other-word@{host}").entries()
    assert "other-word" not in str(refused.value)
    with pytest.raises(Unavailable) as gone:
        at(f"http://ada:s3cret-word@{host}").entries()
    assert "s3cret" not in str(gone.value)
    assert f"http://{host}" in str(gone.value)


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "address has 1 to"),
        ("x" * 3_000, "address has 1 to"),
        ("ftp://host/x", "ftp URLs and chained ones are none"),
        ("github://owner:repo@main/x", "are none"),
        ("simplecache::https://host/x", "neither a folder nor a URL|are none"),
        ("https://host/x::file:///etc", "are none"),
        ("https://host/x?token=abc", "no `\\?…`"),
        ("https://host/a/../b", "no `.` and `..`"),
        ("https:///x", "names no host"),
        ("https://host:99999/x", "cannot be read"),
        ("https://[::1/x", "cannot be read"),
        ("http://host/a b", "are none"),
        ("s3://key:secret@bucket/x", "keys do not belong"),
        ("file://other/srv", "names no other machine"),
        ("file://", "names no folder"),
    ],
)
def test_what_is_no_place_of_a_shelf_is_refused_without_repeating_secrets(url: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as refused:
        place_of(url)
    assert "secret" not in str(refused.value)
    assert "token" not in str(refused.value)


def test_a_place_is_shown_without_its_credentials() -> None:
    place = place_of("HTTPS://Ada:p%40ss@host.example:8443/a/b/")
    assert (place.shown, place.user, place.password) == ("https://host.example:8443/a/b", "Ada", "p@ss")
    assert place.of("index.json") == "https://host.example:8443/a/b/index.json"


def test_what_reads_a_place_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str, **options: object) -> None:
        raise ImportError(protocol)

    monkeypatch.setattr(fsspec, "filesystem", missing)
    for url, extra in (("s3://bucket/x", "s3"), ("https://host/x", "http")):
        with pytest.raises(Unavailable, match=rf"\(the extra {extra}\): pip install"):
            at(url)
