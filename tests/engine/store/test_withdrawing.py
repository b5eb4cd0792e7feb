"""What an erasure does about shelves: bundles that hold what was erased are withdrawn, or told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cubes.encryption import create_identity
from engine.cube_operations import Install, Publish
from engine.errors import Conflict
from engine.memos import MemOS
from engine.operations import Receipt
from engine.settings import Settings
from engine.store.place import open_place, place_of
from engine.store.publishing import FETCHED
from engine.store.shelf import INDEX
from tests.conftest import HandClock
from tests.engine.store.places import s3_server
from tests.engine.stores import ME, erase, opened, say, settings_for


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


def erased(memos: MemOS, id: str) -> Receipt:
    receipt = erase(memos, id).receipt
    assert receipt is not None
    return receipt


def published(memos: MemOS, shelf: Path | str, **more: object) -> str:
    return memos.publish(Publish("harbour", str(shelf), **more), ME).path  # type: ignore[arg-type]


def files(shelf: Path) -> list[str]:
    return sorted(str(path.relative_to(shelf)) for path in shelf.rglob("*") if path.is_file())


def test_the_bundles_that_hold_it_are_withdrawn_and_the_others_stay(
    memos: MemOS, shelf: Path, clock: HandClock
) -> None:
    say(memos, "The pier is made of oak.", cube="harbour")
    before = published(memos, shelf)
    clock.pass_by(hours=1)
    id = say(memos, "The crane is painted yellow.", cube="harbour")
    after = published(memos, shelf)
    receipt = erased(memos, id)
    name = Path(after).stem
    assert receipt.withdrawn == (f"{shelf}#harbour@{name[:12]}",)
    assert receipt.out_of_reach == ()
    assert [entry.memories for entry in memos.shelf(str(shelf), ME)] == [1]
    assert not any(name in file for file in files(shelf))
    assert name not in (shelf / INDEX).read_text()
    assert Path(before).exists()
    withdrawn = [row for row in memos.audit(ME) if row.action == "withdraw"]
    assert [row.detail["receipts"] for row in withdrawn] == [[receipt.id]]


def test_what_does_not_hold_it_is_left_alone(memos: MemOS, shelf: Path) -> None:
    say(memos, "The pier is made of oak.", cube="harbour")
    other = say(memos, "Anna keeps bees.", cube="garden")
    published(memos, shelf)
    there = files(shelf)
    receipt = erased(memos, other)
    assert (receipt.withdrawn, receipt.out_of_reach) == ((), ())
    assert files(shelf) == there


def test_a_bundle_that_nobody_here_can_read_goes_if_the_memory_was_there_when_it_was_published(
    memos: MemOS, shelf: Path, tmp_path: Path
) -> None:
    recipient = create_identity(tmp_path / "theirs.age").recipient
    old = say(memos, "The pier is made of oak.", cube="harbour")
    published(memos, shelf, recipients=(recipient,))
    new = say(memos, "The crane is painted yellow.", cube="harbour")
    assert erased(memos, new).withdrawn == ()
    assert len(erased(memos, old).withdrawn) == 1
    assert memos.shelf(str(shelf), ME) == ()


def test_two_erasures_of_one_bundle_each_tell_the_truth(memos: MemOS, shelf: Path) -> None:
    first = say(memos, "The pier is made of oak.", cube="harbour")
    second = say(memos, "The crane is painted yellow.", cube="harbour")
    published(memos, shelf)
    assert len(erased(memos, first).withdrawn) == 1
    assert erased(memos, second).withdrawn == ()  # nothing was there any more


def test_a_shelf_that_is_not_there_now_is_told(memos: MemOS, shelf: Path) -> None:
    id = say(memos, "The pier is made of oak.", cube="harbour")
    name = Path(published(memos, shelf)).stem
    shelf.rename(shelf.with_name("taken along"))
    assert erased(memos, id).out_of_reach == (f"{shelf}#harbour@{name[:12]}",)


def test_a_shelf_that_refuses_is_told_and_the_erasure_is_done(memos: MemOS, shelf: Path) -> None:
    id = say(memos, "The pier is made of oak.", cube="harbour")
    bundle = Path(published(memos, shelf))
    (entry,) = (shelf / "entries").rglob("*.json")
    entry.unlink()
    entry.mkdir()  # what cannot be removed as a file
    receipt = erased(memos, id)
    assert receipt.out_of_reach == (f"{shelf}#harbour@{bundle.stem[:12]}",)
    assert bundle.exists()


def test_a_remote_shelf_is_not_asked_and_told(memos: MemOS) -> None:
    id = say(memos, "The pier is made of oak.", cube="harbour")
    with s3_server():
        place = place_of("s3://erasing/shelf")
        open_place(place).mkdir("erasing")
        published(memos, place.shown)
    receipt = erased(memos, id)
    assert len(receipt.out_of_reach) == 1
    assert receipt.out_of_reach[0].startswith("s3://erasing/shelf#harbour@")


def test_the_shelf_that_a_cube_was_installed_from_is_told(memos: MemOS, shelf: Path, tmp_path: Path) -> None:
    say(memos, "The pier is made of oak.", cube="harbour")
    published(memos, shelf)
    with opened(settings_for(tmp_path / "elsewhere")) as there:
        there.install(Install(f"{shelf}#harbour"), ME)
        (record,) = there.export_memories(ME)
        assert erased(there, record["id"]).out_of_reach == (f"{shelf}#harbour",)
    assert len(memos.shelf(str(shelf), ME)) == 1


def test_what_is_erased_while_a_cube_is_published_is_on_no_shelf(memos: MemOS, shelf: Path) -> None:
    id = say(memos, "The pier is made of oak.", cube="harbour")
    done: list[Receipt] = []

    def meanwhile(reached: float, total: float | None, message: str) -> None:
        if message == "uploading" and not done:
            done.append(erased(memos, id))

    with pytest.raises(Conflict, match="publish it again"):
        memos.publish(Publish("harbour", str(shelf)), ME, meanwhile)
    assert done
    assert [file for file in files(shelf) if file != INDEX] == []
    assert memos.shelf(str(shelf), ME) == ()


def test_a_bundle_on_its_way_that_a_killed_process_left_goes_at_the_next_start(settings: Settings) -> None:
    left = settings.data / FETCHED / "tmp1" / "packed.memcube"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"what was to be published")
    with opened(settings):
        assert not left.exists()
