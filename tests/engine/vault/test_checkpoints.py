"""A checkpoint is there whole or not at all, sealed as the vault is, and gone for good once it was dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Unavailable
from engine.memos import MemOS
from engine.settings import Settings
from engine.vault.checkpoints import Checkpoint, checkpoint_of, sweep_checkpoints
from engine.vault.sealing import UNSEALED
from tests.engine.stores import encrypted, opened, plain_only, say, settings_for

CONTENT = b"numbers that were learned " * 100


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_what_was_written_last_is_read_and_only_its_owner_may(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path / "folder" / "w_1.safetensors")
    assert place.read() is None
    for content in (b"first", CONTENT):
        place.write(content)
        assert Checkpoint(place.path).read() == content
    assert names(place.path.parent) == ["w_1.safetensors"]
    assert (place.path.stat().st_mode & 0o777, place.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_once_dropped_nothing_is_written_in_its_place(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path / "w_1.safetensors")
    place.write(CONTENT)
    place.drop()
    place.write(CONTENT)
    assert (names(tmp_path), place.read()) == ([], None)


def test_the_end_of_a_training_removes_it_unless_another_process_is_to_go_on(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path / "w_1.safetensors")
    place.write(CONTENT)
    place.stays = True
    place.end()
    assert names(tmp_path) == ["w_1.safetensors"]
    place.stays = False
    place.end()
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(Unavailable, match="w_1"):
        Checkpoint(tmp_path / "taken" / "w_1.safetensors").write(CONTENT)


def test_all_that_no_work_needs_is_swept_and_what_was_half_written(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    for id in ("w_1", "w_2"):
        checkpoint_of(settings, id, UNSEALED).write(CONTENT)
    (settings.checkpoints_folder / "w_1.safetensors.partial").write_bytes(b"half")
    assert sweep_checkpoints(settings, UNSEALED, {"w_1", "w_3"}) == {"w_1"}
    assert names(settings.checkpoints_folder) == ["w_1.safetensors"]


@plain_only
def test_an_encrypted_store_writes_none_that_is_readable_and_takes_none_from_before(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    with opened(settings) as memos:
        say(memos, "Here.")
    checkpoint_of(settings, "w_1", UNSEALED).write(CONTENT)
    encrypted(settings)
    assert names(settings.checkpoints_folder) == []
    with MemOS.open(settings) as memos:
        place = checkpoint_of(settings, "w_1", memos._parts.vault.sealer)
        place.write(CONTENT)
        assert b"learned" not in place.path.read_bytes()
        assert place.read() == CONTENT
        other = Checkpoint(place.path.with_name("w_2.safetensors.sealed"), memos._parts.vault.sealer)
        other.path.write_bytes(place.path.read_bytes())  # moved by somebody who can write the file
        assert other.read() is None
