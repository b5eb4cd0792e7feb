"""A mounted folder of notes: the cube says what the files say, through everything that happens to them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import MemosError
from engine.memos import MemOS
from engine.settings import Settings
from tests.conftest import until
from tests.engine.stores import ME, ask, contents, opened, with_vectors
from tests.engine.watcher.folders import Editor, id_of, live, mounted, same, written

FILES = 60  # 500 by hand
BURSTS = 6  # 40 by hand


@pytest.fixture
def store(settings: Settings) -> Iterator[MemOS]:
    with opened(settings) as memos:
        yield memos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.mkdir()
    return path


def follows(memos: MemOS, folder: Path, cube: str = "notes") -> None:
    until(same(memos, folder, cube), f"cube {cube!r} equals the folder")


@pytest.mark.parametrize("seed", [1, 2])
def test_bursts_of_every_sort_lose_nothing_and_double_nothing(store: MemOS, folder: Path, seed: int) -> None:
    editor = Editor(folder, seed)
    editor.fill(FILES)
    assert store.mount(folder, ME).memories == FILES
    assert live(store) == written(folder)
    for _ in range(BURSTS):
        editor.burst(editor.random.choice([1, 5, 30]))
        follows(store, folder)
    assert mounted(store).problems == ()
    assert store.verify(ME) == ()


def test_a_checkout_of_other_versions_back_and_forth_keeps_the_ids(store: MemOS, folder: Path) -> None:
    editor = Editor(folder, 3)
    editor.fill(FILES)
    store.mount(folder, ME)
    main = editor.state()
    ids = {path: id_of(store, path) for path in main}
    branch = {path: text for number, (path, text) in enumerate(main.items()) if number % 3}
    branch |= {path: editor.text() for number, path in enumerate(main) if number % 3 == 1}
    branch |= {f"new/{number}.md": editor.text() for number in range(10)}
    for state in (branch, main, branch, main):
        editor.check_out(state)
        follows(store, folder)
    assert {path: id_of(store, path) for path in main} == ids
    assert store.verify(ME) == ()


def test_recall_follows_an_edit_a_rename_a_delete_and_a_return(store: MemOS, folder: Path) -> None:
    note = folder / "ship.md"
    note.write_text("The mast of the ship is green.\n")
    store.mount(folder, ME)
    id = id_of(store, "ship.md")
    assert contents(ask(store, "what colour is the mast?")) == ["The mast of the ship is green.\n"]
    note.write_text("The mast of the ship is blue.\n")
    until(lambda: contents(ask(store, "mast of the ship")) == ["The mast of the ship is blue.\n"], "the edit")
    note.rename(folder / "vessel.md")
    until(lambda: store.memory(id, ME).memory.descriptive.source == "vessel.md", "the rename")
    (folder / "vessel.md").unlink()
    until(lambda: contents(ask(store, "mast of the ship")) == [], "the delete")
    assert store.memory(id, ME).memory.state.value == "archived"
    note.write_text("The mast of the ship is red.\n")
    until(lambda: contents(ask(store, "mast of the ship")) == ["The mast of the ship is red.\n"], "a new note")
    (folder / "back.md").write_text("The mast of the ship is blue.\n")
    until(lambda: store.memory(id, ME).memory.descriptive.source == "back.md", "the return, elsewhere")
    assert [version.change for version in store.history(id, ME)] == ["add", "edit", "rename", "archive", "restore"]


def test_a_long_note_keeps_the_pieces_that_still_say_the_same(store: MemOS, folder: Path) -> None:
    paragraphs = [f"Paragraph {number} speaks of {'boats and nets and ' * 30}ropes.\n\n" for number in range(6)]
    note = folder / "long.md"
    note.write_text("".join(paragraphs))
    store.mount(folder, ME)
    whole = id_of(store, "long.md")

    def pieces() -> dict[str, str]:
        view = store.memory(whole, ME)
        found = sorted(
            (store.memory(id, ME).memory for _, id in view.derived), key=lambda m: m.descriptive.position or 0
        )
        return {piece.id: piece.content for piece in found if piece.state.value != "archived"}

    before = pieces()
    assert "".join(before.values()) == note.read_text()
    paragraphs[5] = "The last paragraph is of quite another sort, with an anchor in it.\n"
    note.write_text("".join(paragraphs))
    until(lambda: store.memory(whole, ME).memory.version == 2, "the edit")
    after = pieces()
    assert "".join(after.values()) == note.read_text()
    assert set(list(before)[:2]) <= set(after)
    assert len(contents(ask(store, "anchor"))) == 1
    note.write_text("Short now, and about an anchor.\n")
    until(lambda: contents(ask(store, "anchor")) == ["Short now, and about an anchor.\n"], "it is short")
    note.write_text("".join(paragraphs))
    until(lambda: "".join(pieces().values()) == note.read_text(), "it is long again")
    assert all(text != "Short now, and about an anchor.\n" for text in contents(ask(store, "anchor")))
    assert set(pieces()) == set(after)
    assert store.verify(ME) == ()


def test_vectors_come_later_and_recall_says_so_until_then(settings: Settings, folder: Path) -> None:
    editor = Editor(folder, 4)
    editor.fill(20)
    with opened(with_vectors(settings)) as memos:
        memos.mount(folder, ME)
        (folder / "cat.md").write_text("My cat sleeps in the wardrobe.\n")
        until(lambda: contents(ask(memos, "cat wardrobe")) == ["My cat sleeps in the wardrobe.\n"], "found by words")
        until(lambda: memos.status(ME).degraded is None, "all have vectors")
        assert contents(ask(memos, "where does my pet rest?", limit=1)) == ["My cat sleeps in the wardrobe.\n"]
        (folder / "cat.md").write_text("My dog naps under the table.\n")
        until(same(memos, folder), "the edit")
        until(lambda: memos.status(ME).degraded is None, "all have vectors again")
        assert contents(ask(memos, "where does my pet rest?", limit=1)) == ["My dog naps under the table.\n"]


def test_what_happened_while_nobody_watched_is_found_when_the_store_opens(settings: Settings, folder: Path) -> None:
    editor = Editor(folder, 5)
    editor.fill(FILES)
    with opened(settings) as memos:
        memos.mount(folder, ME)
        kept, moved = id_of(memos, "area 0/note 0.md"), id_of(memos, "area 1/note 1.md")
    times = (folder / "area 0/note 0.md").stat()
    (folder / "area 0/note 0.md").write_text((folder / "area 0/note 0.md").read_text().swapcase())
    os.utime(folder / "area 0/note 0.md", ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same times
    (folder / "area 1/note 1.md").rename(folder / "moved.md")
    editor.burst(20)
    with opened(settings) as memos:
        follows(memos, folder)
        assert memos.verify(ME) == ()
        for path, id in (("area 0/note 0.md", kept), ("moved.md", moved)):
            if (folder / path).exists():
                assert memos.memory(id, ME).memory.id == id


def test_two_folders_are_followed_at_once(store: MemOS, tmp_path: Path) -> None:
    editors = [Editor(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    for editor in editors:
        editor.fill(20)
        store.mount(editor.folder, ME)
    threads = [threading.Thread(target=editor.burst, args=(40,)) for editor in editors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for editor in editors:
        follows(store, editor.folder, editor.folder.name)


def test_a_folder_that_vanishes_keeps_its_cube_and_is_followed_when_it_comes_back(store: MemOS, folder: Path) -> None:
    editor = Editor(folder, 6)
    editor.fill(10)
    store.mount(folder, ME)
    before = live(store)
    away = folder.with_name("away")
    folder.rename(away)
    until(lambda: mounted(store).state.startswith("missing"), "it is missed")
    assert live(store) == before
    (away / "more.md").write_text("Written while it was away.\n")
    away.rename(folder)
    follows(store, folder)
    until(lambda: mounted(store).state == "ready", "it is back")
    folder.rename(folder.with_name("for good"))
    until(lambda: mounted(store).state.startswith("missing"), "it is removed")
    assert len(live(store)) == 11
    folder.mkdir()
    (folder / "only.md").write_text("A new folder at the same place.\n")
    follows(store, folder)


def test_a_folder_that_cannot_be_watched_is_looked_at_and_that_is_said(
    store: MemOS, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("engine.watcher.watcher.RustNotify", full)
    editor = Editor(folder, 7)
    editor.fill(10)
    store.mount(folder, ME)
    for _ in range(3):
        editor.burst(5)
        follows(store, folder)
    assert "looked at every 0.5 s" in mounted(store).state


def test_the_store_closes_at_once_while_files_are_being_read(settings: Settings, folder: Path) -> None:
    Editor(folder, 8).fill(600)
    with opened(settings) as memos:
        thread = threading.Thread(target=_mount_or_be_refused, args=(memos, folder))
        thread.start()
        until(lambda: memos.mounts(ME), "it has begun")
        started = time.monotonic()
    took = time.monotonic() - started
    thread.join()
    assert took < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "memos-watcher"]
    with opened(settings) as memos:
        follows(memos, folder)


def _mount_or_be_refused(memos: MemOS, folder: Path) -> None:
    try:
        memos.mount(folder, ME)
    except MemosError:
        return


def test_a_folder_can_be_unmounted_while_it_is_busy(store: MemOS, folder: Path) -> None:
    editor = Editor(folder, 9)
    editor.fill(FILES)
    store.mount(folder, ME)
    for _ in range(3):
        editor.burst(30)
        store.unmount("notes", ME)
        assert store.mounts(ME) == ()
        assert [view.cube.name for view in store.cubes(ME)] == []
        store.mount(folder, ME)
        follows(store, folder)
    assert store.verify(ME) == ()
