"""Bundles that are mounted: by themselves, in the drop folder, beside notes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import keys
from engine.cube_operations import Pack
from engine.errors import Conflict, Invalid, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Remember
from engine.removing import UNMOUNT, remove
from engine.settings import Settings
from tests.conftest import until
from tests.engine.stores import ME, ask, contents, opened, say, settings_for
from tests.engine.watcher.folders import mounted


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    """A store on another machine, where bundles come from."""
    return settings_for(tmp_path / "elsewhere")


@pytest.fixture
def drop(settings: Settings) -> Path:
    folder = settings.data / "cubes"
    folder.mkdir(parents=True)
    return folder


def packed(elsewhere: Settings, path: Path, *said: str, cube: str = "harbour") -> Path:
    """A bundle of a cube that says all that was said there so far; it appears at `path` whole."""
    beside = path.with_name(f".{path.name}.new")
    with opened(elsewhere) as memos:
        for words in said:
            say(memos, words, cube=cube)
        memos.pack(Pack(cube, beside, replace=True), ME)
    os.replace(beside, path)
    return path


def mounted_count(memos: MemOS, cube: str) -> int:
    """How many memories the mount of that cube shows; 0: there is no such mount just now."""
    return next((mount.memories for mount in memos.mounts(ME) if mount.cube == cube), 0)


def names(memos: MemOS) -> list[str]:
    return [view.cube.name for view in memos.cubes(ME)]


def test_a_bundle_that_is_dropped_in_is_shown_replaced_and_taken_away(
    settings: Settings, elsewhere: Settings, drop: Path
) -> None:
    file = packed(elsewhere, drop / "h.memcube", "The pier is made of oak.")
    with opened(settings) as memos:
        until(lambda: names(memos) == ["harbour"], "what lay there is shown")
        assert contents(ask(memos, "what is the pier made of?")) == ["The pier is made of oak."]
        with pytest.raises(NotAllowed, match=r"h\.memcube"):
            memos.remember(Remember(content="More.", cube="harbour"), ME)
        with pytest.raises(Invalid, match="memos-mcp unmount harbour"):
            memos.delete_cube("harbour", ME)
        packed(elsewhere, file, "The crane is painted yellow.")
        until(lambda: len(contents(ask(memos, "pier oak crane yellow"))) == 2, "what replaced it is shown")
        packed(elsewhere, drop / "g.memcube", "Roses grow on the wall.", cube="garden")
        until(lambda: names(memos) == ["garden", "harbour"], "another one is shown")
        until(
            lambda: (
                {mount.cube: (mount.kind, mount.state, mount.memories) for mount in memos.mounts(ME)}
                == {
                    "": ("drop", "ready", 0),
                    "garden": ("bundle", "ready", 1),
                    "harbour": ("bundle", "ready", 2),
                }
            ),
            "each is told of",
        )
        file.unlink()
        until(lambda: names(memos) == ["garden"], "its cube goes with it")
        assert memos.verify(ME) == ()
    with opened(settings) as memos:
        assert names(memos) == ["garden"]
        until(lambda: mounted(memos, "garden").state == "ready", "it is known again")


def test_a_bundle_that_is_replaced_shows_what_the_file_holds_even_if_that_is_less(
    settings: Settings, elsewhere: Settings, drop: Path
) -> None:
    file = packed(elsewhere, drop / "h.memcube", "The pier is made of oak.")
    first = file.read_bytes()
    packed(elsewhere, file, "The crane is painted yellow.")
    with opened(settings) as memos:
        until(lambda: names(memos) == ["harbour"], "it is shown")
        assert len(memos.memories("harbour", ME).memories) == 2
        ids = {memory.id for memory in memos.memories("harbour", ME).memories}
        file.write_bytes(first)
        until(
            lambda: [(v.cube.name, v.memories) for v in memos.cubes(ME)] == [("harbour", 1)], "the older one is shown"
        )
        (memory,) = memos.memories("harbour", ME).memories
        assert memory.content == "The pier is made of oak."
        assert memory.id in ids


def test_a_bad_bundle_is_named_and_nothing_of_it_is_shown(settings: Settings, elsewhere: Settings, drop: Path) -> None:
    good = packed(elsewhere, drop / "good.memcube", "The pier is made of oak.")
    (drop / "cut.memcube").write_bytes(good.read_bytes()[:-100])
    (drop / "text.memcube").write_text("no bundle at all")
    (drop / "notes.md").write_text("A drop folder holds no notes.\n")
    with opened(settings) as memos:
        until(lambda: names(memos) == ["harbour"], "the good one is shown")
        until(lambda: len(mounted(memos, "").problems) == 2, "the bad ones are told")
        told = [problem.split(":")[0] for problem in mounted(memos, "").problems]
        assert told == ["cut.memcube", "text.memcube"]
        revision = memos.status(ME).revision
        good.write_bytes(good.read_bytes()[:-1])
        until(lambda: len(mounted(memos, "").problems) == 3, "that it is broken now is told")
        assert contents(ask(memos, "what is the pier made of?")) == ["The pier is made of oak."]
        assert memos.status(ME).revision == revision
        (drop / "cut.memcube").unlink()
        until(lambda: len(mounted(memos, "").problems) == 2, "what is gone is told no more")


def test_a_name_that_is_taken_is_told_with_what_to_do(settings: Settings, elsewhere: Settings, drop: Path) -> None:
    with opened(settings) as memos:
        say(memos, "Mine, and not in a file.", cube="harbour")
        file = packed(elsewhere, drop / "h.memcube", "The pier is made of oak.")
        (problem,) = until(lambda: mounted(memos, "").problems, "it is told")
        assert problem == f"h.memcube: its name is taken here: mount it with `memos-mcp mount {file} --as NAME`"
        with pytest.raises(Invalid, match="its name is taken here"):
            memos.mount(file, ME)
        shown = memos.mount(file, ME, "their harbour")
        assert (shown.cube, shown.memories, mounted(memos, "").problems) == ("their harbour", 1, ())
        with pytest.raises(Invalid, match="move the file out of the folder"):
            memos.unmount("their harbour", ME)
    with opened(settings) as memos:
        assert names(memos) == ["harbour", "their harbour"]


def test_what_the_trust_policy_refuses_is_not_mounted(settings: Settings, elsewhere: Settings, drop: Path) -> None:
    with opened(settings) as memos:
        keys.set_policy(settings, "signed")
        packed(elsewhere, drop / "unsigned.memcube", "The pier is made of oak.")
        (problem,) = until(lambda: mounted(memos, "").problems, "it is told")
        assert "sign" in problem
        keys.create_keys(elsewhere)
        packed(elsewhere, drop / "unsigned.memcube")
        until(lambda: names(memos) == ["harbour"], "signed, it is shown")
        until(lambda: mounted(memos, "").problems == (), "nothing is told any more")


def test_one_bundle_is_mounted_by_itself(settings: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    file = packed(elsewhere, folder / "h.memcube", "The pier is made of oak.")
    with opened(settings) as memos:
        shown = memos.mount(file, ME, "pier")
        assert (shown.cube, shown.kind, shown.path, shown.memories) == ("pier", "bundle", str(file), 1)
        with pytest.raises(Conflict, match="is mounted already as 'pier'"):
            memos.mount(file, ME, "again")
        packed(elsewhere, file, "The crane is painted yellow.")
        until(lambda: mounted_count(memos, "pier") == 2, "it follows")
    with opened(settings) as memos:
        until(lambda: mounted(memos, "pier").state == "ready", "it is mounted again")
        folder.rename(tmp_path / "away")
        until(lambda: mounted(memos, "pier").state.startswith("missing"), "it is missed with its folder")
        assert names(memos) == ["pier"]
        (tmp_path / "away").rename(folder)
        until(lambda: mounted(memos, "pier").state == "ready", "it is back")
        memos.unmount("pier", ME)
        assert (names(memos), memos.mounts(ME)) == ([], ())
        (folder / "bad.memcube").write_text("x")
        with pytest.raises(Exception, match=r"bad\.memcube") as refused:
            memos.mount(folder / "bad.memcube", ME)
        assert refused.type.__module__ == "engine.errors"
        assert memos.mounts(ME) == ()


def test_a_folder_of_notes_and_bundles_shows_both(settings: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    (folder / "deep").mkdir(parents=True)
    (folder / "note.md").write_text("Roses grow on the wall.\n")
    packed(elsewhere, folder / "deep" / "h.memcube", "The pier is made of oak.")
    with opened(settings) as memos:
        assert memos.mount(folder, ME).kind == "notes"
        assert names(memos) == ["both", "harbour"]
        memos.unmount("both", ME)
        assert names(memos) == []
        (folder / "note.md").unlink()
        assert memos.mount(folder, ME).kind == "drop"
        assert names(memos) == ["harbour"]
        memos.unmount(str(folder), ME)
        assert (names(memos), memos.mounts(ME)) == ([], ())


def test_a_folder_of_bundles_goes_by_its_path_and_takes_its_bundles_along(
    settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    file = packed(elsewhere, folder / "h.memcube", "The pier is made of oak.")
    with opened(settings) as memos:
        with pytest.raises(Invalid, match="each has a name of its own: mount it without a name"):
            memos.mount(folder, ME, "files")
        assert memos.mount(folder, ME).kind == "drop"
        for name in ("harbour", str(file)):
            with pytest.raises(Invalid, match=f"move the file out of the folder, or unmount {folder}"):
                memos.unmount(name, ME)
        with pytest.raises(Invalid, match="1 to"):
            memos.unmount("", ME)
        with pytest.raises(NotFound, match="nothing is mounted at"):
            memos.unmount(str(tmp_path), ME)
        assert names(memos) == ["harbour"]
        memos.unmount(f"{folder}/", ME)
        assert (names(memos), memos.mounts(ME), file.exists()) == ([], (), True)
        assert memos.verify(ME) == ()
    with opened(settings) as memos:
        assert (names(memos), memos.mounts(ME)) == ([], ())


def test_the_folder_that_is_mounted_by_itself_is_not_unmounted_while_it_is_there(
    settings: Settings, drop: Path
) -> None:
    with opened(settings) as memos:
        with pytest.raises(Invalid, match="mounted by itself"):
            memos.unmount(str(drop), ME)
        assert [mount.path for mount in memos.mounts(ME)] == [str(drop)]
        drop.rmdir()
        memos.unmount(str(drop), ME)
        assert memos.mounts(ME) == ()


@pytest.mark.parametrize("lost", ["the mount", "the cube"])
def test_what_a_killed_process_left_half_way_is_made_whole(
    settings: Settings, elsewhere: Settings, tmp_path: Path, lost: str
) -> None:
    file = packed(elsewhere, tmp_path / "h.memcube", "The pier is made of oak.")
    with opened(settings) as memos:
        memos.mount(file, ME, "pier")
        memos._watcher.close()
        vault = memos._parts.vault
        if lost == "the mount":
            vault.write(lambda transaction: transaction.execute("DELETE FROM mounts"), ME)
        else:
            vault.write(lambda transaction: remove(memos._parts, transaction, "pier", UNMOUNT), ME)
    with opened(settings) as memos:
        until(lambda: names(memos) == ["pier"] and mounted_count(memos, "pier") == 1, "it is shown")
        assert contents(ask(memos, "what is the pier made of?")) == ["The pier is made of oak."]
        memos.unmount("pier", ME)
        assert names(memos) == []
