"""Mounting and unmounting: who may, what can be, and what is passed over and told."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cubes import Action
from engine.errors import Conflict, Invalid, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Principal, Remember
from engine.settings import Settings
from tests.conftest import until
from tests.engine.stores import ME, ask, contents, opened, say
from tests.engine.watcher.folders import id_of, live, mounted

READER = Caller(Principal("reader", grants=(("notes", (Action.READ,)),)))
ADMIN = Caller(Principal("admin", grants=(("*", (Action.ADMIN,)),)))
STRANGER = Caller(Principal("stranger", grants=(("other", (Action.ADMIN,)),)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.mkdir()
    (path / "ship.md").write_text("The mast of the ship is green.\n")
    return path


def test_a_mounted_cube_is_read_only_for_everybody(memos: MemOS, folder: Path) -> None:
    memos.mount(folder, ME)
    id = id_of(memos, "ship.md")
    for refused in (
        lambda: memos.remember(Remember(content="More.", cube="notes"), ME),
        lambda: memos.restore(id, 1, ME),
    ):
        with pytest.raises(NotAllowed, match="notes"):
            refused()
    assert contents(ask(memos, "mast of the ship", READER)) == ["The mast of the ship is green.\n"]


def test_mounting_is_for_who_may_administer_the_store(memos: MemOS, folder: Path) -> None:
    for caller in (READER, STRANGER):
        with pytest.raises(NotAllowed, match="for the owner"):
            memos.mount(folder, caller)
    shown = memos.mount(folder, ADMIN)
    assert (shown.cube, shown.kind, shown.state, shown.memories) == ("notes", "notes", "ready", 1)
    assert memos.mounts(READER) == memos.mounts(STRANGER) == ()
    assert memos.mounts(ADMIN) == memos.mounts(ME) != ()
    with pytest.raises(NotAllowed, match="may not unmount"):
        memos.unmount("notes", READER)
    with pytest.raises(NotFound, match="no cube 'notes'"):
        memos.unmount("notes", STRANGER)
    memos.unmount(str(folder), ADMIN)
    assert memos.cubes(ME) == ()
    assert (folder / "ship.md").read_text() == "The mast of the ship is green.\n"


def test_what_cannot_be_mounted_is_refused_and_nothing_is_left_of_it(
    memos: MemOS, folder: Path, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file.md").write_text("x")
    say(memos, "Taken.", cube="taken")
    for path, name, kind, says in (
        (tmp_path / "nowhere", None, NotFound, "nothing at"),
        (tmp_path / "file.md", None, Invalid, "neither a folder nor a .memcube"),
        (settings.data, None, Invalid, "holds the store itself"),
        (settings.data / "index", None, Invalid, "lies in it"),
        (tmp_path, None, Invalid, "holds the store itself"),
        (folder, "taken", Conflict, "there is a cube 'taken': mount it with .* --as NAME"),
        (folder, "a/b", Invalid, "cannot be a cube's name"),
        (folder, "*", Invalid, "cannot be a cube's name"),
    ):
        with pytest.raises(kind, match=says):
            memos.mount(path, ME, name)
    assert memos.mounts(ME) == ()
    memos.mount(folder, ME, "my notes")
    with pytest.raises(Conflict, match="is mounted already as 'my notes'"):
        memos.mount(folder, ME, "again")
    with pytest.raises(NotFound, match="lists what is mounted"):
        memos.unmount("notes", ME)
    assert [view.cube.name for view in memos.cubes(ME)] == ["my notes", "taken"]


def test_mounts_are_there_again_when_the_store_is_opened(settings: Settings, folder: Path) -> None:
    with opened(settings) as memos:
        memos.mount(folder, ME)
        id = id_of(memos, "ship.md")
    (folder / "more.md").write_text("The keel is of oak.\n")
    with opened(settings) as memos:
        until(lambda: contents(ask(memos, "keel oak")) == ["The keel is of oak.\n"], "it is followed")
        assert id_of(memos, "ship.md") == id
        memos.unmount("notes", ME)
    with opened(settings) as memos:
        assert memos.mounts(ME) == ()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_what_is_no_note_is_passed_over_and_told(memos: MemOS, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("Not in the folder.\n")
    for hidden in (".git", ".obsidian"):
        (folder / hidden).mkdir()
        (folder / hidden / "x.md").write_text("Hidden.\n")
    (folder / ".hidden.md").write_text("Hidden.\n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "binary.md").write_bytes(b"a\x00b")
    (folder / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    (folder / "large.md").write_bytes(b"x" * 4_000_001)
    (folder / "empty.md").write_bytes(b"")
    (folder / "out.md").symlink_to(outside / "secret.md")
    (folder / "into.md").symlink_to(folder / ".hidden.md")
    (folder / "within.md").symlink_to("ship.md")
    (folder / "away").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.md").symlink_to("nowhere.md")
    os.mkfifo(folder / "pipe.md")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.md"))
    os.mkdir(os.fsencode(folder) + b"/\xff")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff/x.md")).write_text("Of a strange name.\n")
    (folder / "folder.md").mkdir()
    shown = memos.mount(folder, ME)
    assert set(live(memos)) == {(path, "The mast of the ship is green.\n") for path in ("ship.md", "within.md")}
    told = dict(problem.split(": ", 1) for problem in shown.problems)
    assert told == {
        "?/x.md": "its name holds characters that are not printable",
        "binary.md": "it holds NUL (U+0000) at position 1",
        "dangling.md": "it is a link that leaves the folder",
        "into.md": "it is a link that leaves the folder",
        "large.md": "it is larger than 4 MB",
        "latin.txt": "it is no text in UTF-8 or UTF-16",
        "out.md": "it is a link that leaves the folder",
        "pipe.md": "it is no ordinary file",
        "socket.md": "it is no ordinary file",
    }


def test_what_cannot_be_read_now_is_shown_as_it_was_last_read(
    memos: MemOS, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "keel.md").write_text("The keel is of oak.\n")
    memos.mount(folder, ME)
    before = live(memos)
    scandir = os.scandir

    def refusing(path: str) -> Any:  # who runs tests as root is refused nothing
        if os.path.basename(path) == "sub":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing)
        (folder / "more.md").write_text("The sail is of linen.\n")
        until(lambda: mounted(memos).problems == ("sub: it cannot be read: permission denied",), "it is told")
        until(lambda: len(live(memos)) == len(before) + 1, "the rest is followed")
        assert before <= live(memos)
    (folder / "more.md").unlink()
    until(lambda: not mounted(memos).problems, "it is read again")
    assert live(memos) == before


def test_a_file_that_becomes_unreadable_as_text_is_no_note_until_it_is_one_again(memos: MemOS, folder: Path) -> None:
    memos.mount(folder, ME)
    id = id_of(memos, "ship.md")
    (folder / "ship.md").write_bytes(b"\x00\x01")
    until(lambda: not live(memos), "it is archived")
    until(lambda: mounted(memos).problems == ("ship.md: it holds NUL (U+0000) at position 0",), "it is told")
    (folder / "ship.md").write_text("The mast is blue.\n")
    until(lambda: set(live(memos)) == {("ship.md", "The mast is blue.\n")}, "it is a note again")
    assert id_of(memos, "ship.md") == id
    assert mounted(memos).problems == ()


def test_a_note_with_a_secret_is_for_the_owner_and_is_told(memos: MemOS, folder: Path) -> None:
    (folder / "key.md").write_text("The deploy token of the ship is ghp_" + "a1B2c3D4" * 5 + ".\n")
    shown = memos.mount(folder, ME)
    assert shown.problems == ("key.md: it seems to hold a secret (GitHub token): it is kept as secret",)
    assert len(contents(ask(memos, "deploy token of the ship"))) == 2
    assert contents(ask(memos, "deploy token of the ship", READER)) == ["The mast of the ship is green.\n"]


def test_nothing_runs_where_nothing_is_mounted(memos: MemOS, folder: Path) -> None:
    def watching() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "memos-watcher"]

    assert watching() == []
    memos.mount(folder, ME)
    assert len(watching()) == 1
