"""Work that waited is dropped where who asked for it may not do it any more."""

from __future__ import annotations

import pytest

from cubes import Action
from engine.cube_operations import Share
from engine.distilling.askers import plain_principal, principal_of, still_writable
from engine.distilling.fusing import FUSE
from engine.distilling.working import Task
from engine.errors import NotAllowed
from engine.memos import MemOS
from engine.operations import Caller, Principal
from engine.tier_operations import Distil, WorkState
from tests.conftest import until
from tests.engine.stores import ME, say

BEN = Caller(Principal("ben"))
WRITES, READS = (Action.READ, Action.WRITE), (Action.READ,)
DROPPED = "ben asked for it and may not write to cube 'home' any more"


def let(memos: MemOS, actions: tuple[Action, ...]) -> None:
    memos.share(Share("home", principal="ben", actions=actions), ME)


def test_who_asked_is_noted_with_the_grants_that_they_came_with() -> None:
    for principal in (ME.principal, Principal("ben", grants=(("home", WRITES), ("*", READS)))):
        assert principal_of(plain_principal(principal)) == principal


def test_a_training_is_not_begun_by_a_right_that_was_taken_away(memos: MemOS) -> None:
    id = say(memos, "the food of alice is soup .", cube="home")
    let(memos, WRITES)
    work = memos.distil(Distil("home", (id,), background=True), BEN)
    assert still_writable(memos._parts, "home", BEN).name == "home"
    let(memos, READS)
    with pytest.raises(NotAllowed, match=DROPPED):
        memos._distilling._distil(Task(memos._distilling.working._row(work.id)))
    memos.delete_cube("home", ME)
    with pytest.raises(NotAllowed, match=DROPPED):
        still_writable(memos._parts, "home", BEN)


def test_a_fusion_that_was_cut_off_does_not_go_on_by_a_right_that_was_taken_away(memos: MemOS) -> None:
    say(memos, "the food of alice is soup .", cube="home")
    let(memos, READS)
    working = memos._distilling.working
    header = {"parts": [["home", 1], ["home", 2]], "principal": plain_principal(BEN.principal)}
    working.kinds[FUSE] = type(working.kinds[FUSE])(working.kinds[FUSE].run, lambda: None)  # as if a model were there
    id = memos._parts.vault.write(lambda transaction: working.ask(transaction, FUSE, "home", header).id, ME)
    until(lambda: working.view(id).state is WorkState.FAILED, "it is dropped")
    assert DROPPED in working.view(id).told
