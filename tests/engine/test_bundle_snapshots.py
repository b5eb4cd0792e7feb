"""A cube's named moments travel with it."""

from __future__ import annotations

from pathlib import Path

from cubes import Sensitivity
from engine.cube_operations import Install, Pack
from tests.engine.stores import ME, opened, say, settings_for


def test_a_snapshot_names_the_same_moment_where_its_cube_is_installed(tmp_path: Path) -> None:
    first, second = tmp_path / "first.memcube", tmp_path / "second.memcube"
    with opened(settings_for(tmp_path / "here")) as here:
        say(here, "The harbour opens at eight.", cube="work")
        here.snapshot("work", "one", ME, "before the bees")
        later = say(here, "Anna keeps bees.", cube="work")
        here.pack(Pack("work", first), ME)
    with opened(settings_for(tmp_path / "there")) as there:
        there.install(Install(str(first)), ME)
        (snapshot,) = there.snapshots("work", ME)
        assert (snapshot.name, snapshot.author, snapshot.reason) == ("one", "owner", "before the bees")
        assert there.diff_cube("work", "one", "now", ME).added == (later,)
        assert there.rollback("work", "one", ME, dry_run=True).archived == (later,)
        there.pack(Pack("work", second), ME)
    assert second.read_bytes() == first.read_bytes()


def test_a_bundle_without_history_names_no_moment_and_one_that_is_redacted_no_reason(tmp_path: Path) -> None:
    with opened(settings_for(tmp_path / "here")) as here:
        say(here, "The harbour opens at eight.", cube="work")
        here.snapshot("work", "one", ME, "before the safe got its code")
        here.pack(Pack("work", tmp_path / "bare.memcube", history=False), ME)
        here.pack(Pack("work", tmp_path / "redacted.memcube", redact=Sensitivity.SECRET), ME)
    with opened(settings_for(tmp_path / "there")) as there:
        there.install(Install(str(tmp_path / "bare.memcube"), name="bare"), ME)
        there.install(Install(str(tmp_path / "redacted.memcube"), name="redacted"), ME)
        assert there.snapshots("bare", ME) == ()
        assert [(found.name, found.reason) for found in there.snapshots("redacted", ME)] == [("one", None)]
