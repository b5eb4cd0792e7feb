"""Pack, install on an empty store, pack again: the same bytes, and every field, version, edge and use the same.

ROUNDS is the number of random cubes; the figure that the README tells of was measured with 200.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cubes import Action, MemCube, Memory, Scope, Sensitivity
from cubes.bundle import open_bundle
from cubes.records import to_plain
from engine.cube_operations import Install, Pack, SetCube, Share
from engine.memos import MemOS
from engine.operations import Version
from tests.conftest import HandClock, until
from tests.engine.cube_growing import Growing
from tests.engine.stores import ME, ask, opened, say, settings_for, with_vectors

ROUNDS = int(os.environ.get("BUNDLE_ROUNDS", "4"))
STEPS = 40


@contextmanager
def store(folder: Path, clock: HandClock) -> Iterator[MemOS]:
    with opened(settings_for(folder), clock) as memos:
        yield memos


def packed(memos: MemOS, cube: str, path: Path, **more: Any) -> bytes:
    memos.pack(Pack(cube, path, **more), ME)
    return path.read_bytes()


def everything(memos: MemOS, cube: str) -> list[tuple[Memory, tuple[Version, ...]]]:
    """Every memory of a cube with its lineage and uses, and every version of it."""
    found: list[Memory] = []
    cursor = None
    while True:
        page = memos.memories(cube, ME, cursor=cursor, limit=500)
        found += page.memories
        cursor = page.next_cursor
        if cursor is None:
            return [(memory, memos.history(memory.id, ME)) for memory in found]


def lines(path: Path) -> list[dict[str, Any]]:
    with open_bundle(path) as bundle:
        return [to_plain(memory) for memory in bundle.memories()]


def header(path: Path) -> MemCube:
    with open_bundle(path) as bundle:
        return bundle.manifest.cube


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_random_cube_comes_back_with_every_byte(seed: int, tmp_path: Path, clock: HandClock) -> None:
    with store(tmp_path / "a", clock) as a:
        Growing(a, "home", random.Random(seed), clock).grow(STEPS)
        if "home" not in [view.cube.name for view in a.cubes(ME)]:
            say(a, "The harbour opens at eight.", cube="home")
        first = packed(a, "home", tmp_path / "1.memcube")
        before = everything(a, "home")
    clock.pass_by(days=3)
    with store(tmp_path / "b", clock) as b:
        b.install(Install(str(tmp_path / "1.memcube")), ME)
        assert everything(b, "home") == before
        assert packed(b, "home", tmp_path / "2.memcube") == first
        assert b.verify(ME) == ()
    with store(tmp_path / "c", clock) as c:
        c.install(Install(str(tmp_path / "2.memcube"), name="elsewhere"), ME)
        packed(c, "elsewhere", tmp_path / "3.memcube")
        assert c.verify(ME) == ()
    assert lines(tmp_path / "3.memcube") == lines(tmp_path / "1.memcube")
    assert replace(header(tmp_path / "3.memcube"), name="home") == header(tmp_path / "1.memcube")
    with store(tmp_path / "d", clock) as d:
        d.install(Install(str(tmp_path / "3.memcube"), name="home"), ME)
        assert packed(d, "home", tmp_path / "4.memcube") == first


def test_vectors_come_back_and_answer_at_once(tmp_path: Path, clock: HandClock) -> None:
    settings = with_vectors(settings_for(tmp_path / "a"))
    with opened(settings, clock) as a:
        Growing(a, "home", random.Random(7), clock).grow(12)
        say(a, "Anna keeps bees on the roof.", cube="home")
        first = packed(a, "home", tmp_path / "1.memcube")
    with opened(replace(settings, data=tmp_path / "b"), clock) as b:
        installed = b.install(Install(str(tmp_path / "1.memcube")), ME)
        assert not installed.reembedded
        assert packed(b, "home", tmp_path / "2.memcube") == first
        found = ask(b, "who looks after insects")
        assert found.degraded is None
        assert "Anna keeps bees on the roof." in [item.memory.content for item in found.memories]


def test_vectors_of_another_embedder_are_left_and_made_anew(tmp_path: Path, clock: HandClock) -> None:
    settings = with_vectors(settings_for(tmp_path / "a"))
    with opened(settings, clock) as a:
        say(a, "Anna keeps bees on the roof.", cube="home")
        packed(a, "home", tmp_path / "1.memcube")
    with store(tmp_path / "b", clock) as b:
        assert b.install(Install(str(tmp_path / "1.memcube")), ME).reembedded
        assert b._parts.vault.rows("SELECT count(*) FROM embeddings") == [(0,)]
    with opened(replace(settings, data=tmp_path / "b"), clock) as b:
        until(lambda: b._parts.embeddings.missing() == 0, "vectors of all memories")
        assert packed(b, "home", tmp_path / "2.memcube") == (tmp_path / "1.memcube").read_bytes()


def test_a_policy_that_was_offered_is_offered_again_and_not_taken_over(tmp_path: Path, memos: MemOS) -> None:
    say(memos, "The harbour opens at eight.", cube="home")
    memos.share(Share("home", read=Scope.SHARED, principal="laptop", actions=(Action.READ,)), ME)
    first = packed(memos, "home", tmp_path / "1.memcube")
    with opened(settings_for(tmp_path / "b")) as b:
        b.install(Install(str(tmp_path / "1.memcube")), ME)
        cube = b.cube("home", ME).cube
        assert (cube.policy.read.value, cube.policy.grants) == ("private", ())
        assert packed(b, "home", tmp_path / "2.memcube") == first
    with opened(settings_for(tmp_path / "c")) as c:
        c.install(Install(str(tmp_path / "1.memcube"), keep_policy=True), ME)
        cube = c.cube("home", ME).cube
        assert (cube.policy.read.value, cube.policy.grants[0].principal) == ("shared", "laptop")
        assert packed(c, "home", tmp_path / "2c.memcube") == first


def test_a_redacted_bundle_says_so_however_often_it_is_packed(tmp_path: Path, memos: MemOS) -> None:
    say(memos, "The harbour opens at eight.", cube="home")
    say(memos, "The safe opens at 1234.", cube="home", sensitivity=Sensitivity.SECRET)
    first = packed(memos, "home", tmp_path / "1.memcube", redact=Sensitivity.SECRET)
    with opened(settings_for(tmp_path / "b")) as b:
        b.install(Install(str(tmp_path / "1.memcube")), ME)
        assert packed(b, "home", tmp_path / "2.memcube") == first


def test_an_empty_cube_can_be_carried(tmp_path: Path, memos: MemOS) -> None:
    memos.set_cube(SetCube("empty", description="for later"), ME)
    first = packed(memos, "empty", tmp_path / "1.memcube")
    with opened(settings_for(tmp_path / "b")) as b:
        assert b.install(Install(str(tmp_path / "1.memcube")), ME).memories == 0
        assert packed(b, "empty", tmp_path / "2.memcube") == first
