"""history and restore: what a memory was, and making that the present again."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import Conflict, Expired, Frozen, MemosError, NotFound
from engine.lifecycle.states import TABLE, Step
from engine.memos import MemOS
from engine.operations import Caller, Fuse, Principal
from tests.conftest import HandClock
from tests.engine.stores import ME, archive, ask, erase, ids, say, state


def two_versions(memos: MemOS) -> str:
    """A memory that once said something else: its id."""
    say(memos, "The lamp is green.")
    (record,) = memos.export_memories(ME)
    old: dict[str, Any] = {key: value for key, value in record.items() if key not in ("history", "lineage", "usage")}
    new = {**record, "id": "m_TWO", "version": 2, "content": "The lamp is blue.", "change": "edit"}
    report = memos.import_memories([{**new, "history": [{**old, "id": "m_TWO", "content": "The lamp is red."}]}], ME)
    assert report.refused == []
    erase(memos, record["id"])
    return "m_TWO"


def test_every_change_is_a_version_with_who_when_and_why(memos: MemOS, clock: HandClock) -> None:
    id = say(memos, "The mast is new.")
    first = clock.now()
    second = clock.pass_by(hours=1)
    archive(memos, id, reason="sold the ship")
    third = clock.pass_by(hours=1)
    memos.restore(id, 1, ME, reason="bought it back")
    versions = memos.history(id, ME)
    assert [(v.version, v.change, v.at, v.reason, v.state.value, v.author) for v in versions] == [
        (1, "remember", first, None, "generated", "owner"),
        (2, "archive", second, "sold the ship", "archived", "owner"),
        (3, "restore", third, "bought it back", "generated", "owner"),
    ]
    assert memos.verify(ME) == ()


def test_an_earlier_content_comes_back_as_a_new_version_and_is_found(dense: MemOS) -> None:
    id = two_versions(dense)
    assert ids(ask(dense, "what colour is the lamp, blue?")) == [id]
    restored = dense.restore(id, 1, ME)
    assert (restored.version, restored.content) == (3, "The lamp is red.")
    assert [version.content for version in dense.history(id, ME)] == [
        "The lamp is red.",
        "The lamp is blue.",
        "The lamp is red.",
    ]
    found = ask(dense, "is the lamp red?")
    assert found.memories[0].memory.content == "The lamp is red."
    assert found.degraded is None
    assert dense.verify(ME) == ()


def test_restoring_the_present_version_changes_nothing(memos: MemOS) -> None:
    id = say(memos, "As it is.")
    before = memos.status(ME).revision
    assert memos.restore(id, 1, ME).version == 1
    assert memos.status(ME).revision == before


def test_what_cannot_be_restored_says_why(memos: MemOS, clock: HandClock) -> None:
    id, brief = say(memos, "Lasting."), say(memos, "Brief.", expires_in_days=1)
    clock.pass_by(days=2)
    memos.sweep()
    with pytest.raises(NotFound, match=f"{id} has no version 7.* lists those that there are"):
        memos.restore(id, 7, ME)
    with pytest.raises(NotFound, match="no memory 'm_nowhere'"):
        memos.restore("m_nowhere", 1, ME)
    with pytest.raises(Expired, match=brief):
        memos.restore(brief, 1, ME)
    erase(memos, id)
    with pytest.raises(NotFound):
        memos.restore(id, 1, ME)
    with pytest.raises(NotFound):
        memos.history(id, ME)


@pytest.mark.parametrize("which", [0, 1])
def test_restoring_what_was_fused_twice_undoes_both_fusions(memos: MemOS, which: int) -> None:
    leaves = [say(memos, f"The {colour} lamp is in room {n}.") for n, colour in enumerate(("red", "blue", "green"))]
    first = str(memos.fuse(Fuse(ids=(leaves[0], leaves[1])), ME).id)
    second = str(memos.fuse(Fuse(ids=(first, leaves[2])), ME).id)
    memos.restore(leaves[which], 1, ME)
    assert {state(memos, leaf) for leaf in leaves} <= {"generated", "activated"}
    assert [state(memos, fused) for fused in (first, second)] == ["archived", "archived"]
    assert set(ids(ask(memos, "which lamp is in which room?"))) == set(leaves)
    assert memos.verify(ME) == ()


def test_restoring_a_fused_memory_that_was_fused_again_undoes_the_later_fusion_alone(memos: MemOS) -> None:
    leaves = [say(memos, f"The {colour} lamp is in room {n}.") for n, colour in enumerate(("red", "blue", "green"))]
    first = str(memos.fuse(Fuse(ids=(leaves[0], leaves[1])), ME).id)
    second = str(memos.fuse(Fuse(ids=(first, leaves[2])), ME).id)
    memos.restore(first, 1, ME)
    assert [state(memos, id) for id in (*leaves[:2], second)] == ["merged", "merged", "archived"]
    assert set(ids(ask(memos, "which lamp is in which room?"))) == {first, leaves[2]}
    assert memos.verify(ME) == ()


def test_a_stranger_learns_nothing_about_versions(memos: MemOS) -> None:
    id = say(memos, "Private.")
    stranger = Caller(Principal("stranger"))
    for version in (1, 7):
        with pytest.raises(NotFound, match=f"there is no memory '{id}'"):
            memos.restore(id, version, stranger)


def test_every_walk_of_a_memory_through_the_store_follows_the_table(memos: MemOS) -> None:
    id, other = say(memos, "The one that moves."), say(memos, "Another one altogether.")

    def merge() -> None:
        memos.fuse(Fuse(ids=(id, other)), ME)

    steps = {
        Step.ARCHIVE: lambda: archive(memos, id),
        Step.RESTORE: lambda: memos.restore(id, 1, ME),
        Step.MERGE: merge,
        Step.SUPERSEDE: lambda: say(memos, "The one that came after.", supersedes=(id,)),
    }
    walk = [Step.ARCHIVE, Step.MERGE, Step.ARCHIVE, Step.RESTORE, Step.MERGE, Step.MERGE, Step.ARCHIVE, Step.SUPERSEDE]
    for step in [*walk, Step.RESTORE, Step.SUPERSEDE, Step.ARCHIVE, Step.RESTORE]:
        before = memos.memory(id, ME).memory.state
        expected = TABLE.get((before, step))
        if expected is None:
            with pytest.raises((Conflict, Frozen), match=id):
                steps[step]()
            assert memos.memory(id, ME).memory.state is before
            continue
        try:
            steps[step]()
        except MemosError as error:
            pytest.fail(f"{step} from {before}: {error}")
        after = state(memos, id)
        # Restoring a version that was alive gives back the state that it had.
        assert after == expected.value or (step is Step.RESTORE and after == "generated")
    assert memos.verify(ME) == ()
