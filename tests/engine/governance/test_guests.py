"""What a guest with a few grants sees of a store, through the whole engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cubes import Action
from engine.errors import Invalid, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Forget, Fuse, Mode, Principal, Remember
from tests.engine.stores import ME, say

GUEST = Principal("guest", grants=(("ours", (Action.READ,)), ("theirs", (Action.WRITE,))))


def test_a_query_to_forget_offers_only_what_the_guest_may_change(memos: MemOS) -> None:
    say(memos, "The harbour office opens at nine.", cube="ours")
    mine = say(memos, "The harbour office has a blue door.", cube="theirs")
    shown = memos.forget(Forget(query="harbour office"), Caller(GUEST))
    assert [item.id for item in shown.preview] == [mine]


def test_status_tells_a_guest_nothing_of_the_rest(memos: MemOS) -> None:
    say(memos, "The harbour office opens at nine.", cube="ours")
    before = memos.status(Caller(GUEST))
    say(memos, "A diary entry of the owner.", cube="diary")
    after = memos.status(Caller(GUEST))
    assert before == after
    assert (after.data, after.last_backup, after.cubes) == ("", None, 1)


def test_lineage_into_a_cube_that_may_not_be_read_is_not_shown(memos: MemOS) -> None:
    hidden = say(memos, "The old price is 40.", cube="diary")
    new = memos.remember(Remember(content="The price is 50.", cube="ours", supersedes=(hidden,)), ME).stored[0].id
    assert [edge.source for edge in memos.memory(new, ME).memory.lineage] == [hidden]
    assert memos.memory(new, Caller(GUEST)).memory.lineage == ()


def test_a_recorded_answer_is_for_the_grants_under_which_it_was_given(memos: MemOS) -> None:
    ids = (say(memos, "Ada keeps goats.", cube="theirs"), say(memos, "Ada sells cheese.", cube="theirs"))
    caller = Caller(GUEST, operation="s:1")
    fused = memos.fuse(Fuse(ids=ids), caller)
    assert memos.fuse(Fuse(ids=ids), caller) == fused
    with pytest.raises(NotFound):
        memos.fuse(Fuse(ids=ids), Caller(Principal("guest"), operation="s:1"))


def test_the_receipt_of_a_guest_names_no_files_of_the_owner(memos: MemOS) -> None:
    mine = say(memos, "The gate code is on the fridge.", cube="theirs")
    target = memos.status(ME).data + "-copy.duckdb"
    memos.backup(Path(target), ME)
    done = memos.forget(Forget(ids=(mine,), mode=Mode.ERASE, confirmed=True), Caller(GUEST))
    assert done.receipt is not None
    assert done.receipt.out_of_reach == ()


def test_no_cube_can_have_the_name_that_means_every_cube(memos: MemOS) -> None:
    with pytest.raises(Invalid, match="cannot be a cube's name"):
        say(memos, "Anything.", cube="*")
