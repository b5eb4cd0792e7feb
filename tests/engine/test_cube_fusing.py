"""Fusing cubes and deleting them, against a real store."""

from __future__ import annotations

import contextlib
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cubes import Action, Memory, Relation, State
from engine.cube_operations import FuseCubes
from engine.errors import Frozen, Invalid, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Principal, Remember, Turn
from engine.vault import Transaction, queries
from tests.engine.stores import (
    ME,
    ask,
    contents,
    erase,
    ids,
    opened,
    run_python,
    say,
    settings_for,
    state,
    told,
    with_vectors,
)

BOTH = FuseCubes(cubes=("home", "work"), into="all")


def living(memos: MemOS, cube: str) -> list[Memory]:
    page = memos.memories(cube, ME, limit=1_000)
    return [memory for memory in page.memories if memory.state in (State.GENERATED, State.ACTIVATED)]


def freeze(memos: MemOS, id: str) -> None:
    def job(transaction: Transaction) -> None:
        record = transaction.records([id])[id]
        held = replace(record.memory, governance=replace(record.memory.governance, frozen=True))
        transaction.revise(record, held, "govern", transaction.audit("govern", record.memory.cube, [id]))

    memos._parts.vault.write(job, ME)


def test_what_cubes_say_alike_is_kept_once_and_the_rest_is_copied(memos: MemOS) -> None:
    same = [say(memos, "The harbour opens at eight.", cube=cube, tags=(cube,)) for cube in ("home", "work")]
    other = say(memos, "Anna keeps bees on the roof.", cube="work")
    fused = memos.fuse_cubes(BOTH, ME)
    assert (fused.cube, fused.memories, fused.joined) == ("all", 2, 1)
    assert sorted(memory.content for memory in living(memos, "all")) == [
        "Anna keeps bees on the roof.",
        "The harbour opens at eight.",
    ]
    assert {state(memos, id) for id in (*same, other)} == {"merged"}
    assert set(fused.merged) == {*same, other}
    joined = next(memory for memory in living(memos, "all") if memory.content.startswith("The harbour"))
    assert sorted(joined.descriptive.tags) == ["home", "work"]
    whole = memos.memory(joined.id, ME).memory
    assert {edge.source for edge in whole.lineage if edge.relation is Relation.FUSED_FROM} == set(same)
    assert contents(ask(memos, "harbour")) == ["The harbour opens at eight."]


def test_rivals_of_two_cubes_are_both_kept_linked_and_listed(memos: MemOS) -> None:
    say(memos, "The office wifi is on channel 6.", cube="home")
    say(memos, "The office wifi is on channel 11.", cube="work")
    fused = memos.fuse_cubes(BOTH, ME)
    (difference,) = fused.conflicts
    assert difference.about == "6 / 11"
    assert {memory.id for memory in living(memos, "all")} == set(difference.ids)
    newer = memos.memory(difference.ids[1], ME).memory
    assert Relation.CONFLICTS_WITH in {edge.relation for edge in newer.lineage}


def test_rivals_that_name_other_days_are_listed_too(memos: MemOS) -> None:
    say(memos, "The team meets on Tuesday at nine.", cube="home")
    say(memos, "The team meets on Wednesday at nine.", cube="work")
    assert len(memos.fuse_cubes(BOTH, ME).conflicts) == 1


def test_a_conversation_and_a_long_text_stay_whole(memos: MemOS) -> None:
    turns = tuple(Turn("user" if n % 2 else "assistant", f"Turn number {n} of the talk.") for n in range(4))
    memos.remember(Remember(messages=turns, cube="home", source="talk"), ME)
    text = " ".join(f"Sentence number {n} of the long report about tides." for n in range(400))
    told(memos, text, cube="work")
    memos.fuse_cubes(BOTH, ME)
    found = living(memos, "all")
    said = [memory for memory in found if memory.descriptive.role is not None]
    assert [memory.content for memory in said] == [turn.content for turn in turns]
    view = memos.memory(said[1].id, ME)
    assert (view.previous, view.next) == (said[0].id, said[2].id)
    assert Relation.FOLLOWS in {edge.relation for edge in view.memory.lineage}
    whole = next(memory for memory in found if memory.descriptive.parts)
    pieces = {id for relation, id in memos.memory(whole.id, ME).derived if relation == "part_of"}
    assert len(pieces) == whole.descriptive.parts
    assert pieces < {memory.id for memory in found}


def test_a_cube_that_is_there_takes_the_others_in(memos: MemOS) -> None:
    mine = say(memos, "The harbour opens at eight.", cube="home", expires_in_days=1)
    say(memos, "The harbour opens at eight.", cube="work", tags=("sea",))
    say(memos, "Anna keeps bees on the roof.", cube="work")
    fused = memos.fuse_cubes(FuseCubes(cubes=("home", "work"), into="home"), ME)
    assert (fused.memories, fused.joined, fused.version) == (2, 1, 2)
    kept = memos.memory(mine, ME).memory
    assert (kept.state, kept.descriptive.tags, kept.governance.expires_at) == (State.GENERATED, ("sea",), None)
    assert len(living(memos, "home")) == 2
    assert living(memos, "work") == []


def test_a_dry_run_says_what_would_happen_and_changes_nothing(memos: MemOS) -> None:
    for cube in ("home", "work"):
        say(memos, "The harbour opens at eight.", cube=cube)
    before = memos.status(ME).revision
    fused = memos.fuse_cubes(replace(BOTH, dry_run=True), ME)
    assert (fused.cube, fused.memories, fused.joined, len(fused.merged)) == (None, 1, 1, 2)
    assert memos.status(ME).revision == before


def test_vectors_are_taken_over(tmp_path: Path) -> None:
    with opened(with_vectors(settings_for(tmp_path / "data"))) as memos:
        say(memos, "Anna keeps bees on the roof.", cube="home")
        say(memos, "The harbour opens at eight.", cube="work")
        memos.fuse_cubes(BOTH, ME)
        with memos._parts.vault.reading() as connection:
            assert queries.without_vectors(connection, "all", memos._parts.embeddings.active or "") == 0
        found = ask(memos, "Who looks after insects that make honey?", cubes=("all",))
        assert contents(found)[0] == "Anna keeps bees on the roof."


def test_the_same_request_sent_again_gets_the_recorded_answer(memos: MemOS) -> None:
    say(memos, "Anna keeps bees on the roof.", cube="home")
    say(memos, "The harbour opens at eight.", cube="work")
    caller = replace(ME, operation="op-1")
    assert memos.fuse_cubes(BOTH, caller) == memos.fuse_cubes(BOTH, caller)
    assert len(living(memos, "all")) == 2


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (FuseCubes(("home",), "all"), Invalid),
        (FuseCubes(("home", "home"), "all"), Invalid),
        (FuseCubes(tuple(f"cube {n}" for n in range(21)), "all"), Invalid),
        (FuseCubes(("home", "nowhere"), "all"), NotFound),
        (FuseCubes(("home", "work"), "a/b"), Invalid),
    ],
)
def test_what_cannot_be_fused_is_refused(memos: MemOS, request_: FuseCubes, error: type[Exception]) -> None:
    for cube in ("home", "work"):
        say(memos, "Anna keeps bees on the roof.", cube=cube)
    before = memos.status(ME).revision
    with pytest.raises(error):
        memos.fuse_cubes(request_, ME)
    assert memos.status(ME).revision == before


def test_what_is_frozen_refuses_the_whole(memos: MemOS) -> None:
    held = say(memos, "Anna keeps bees on the roof.", cube="home")
    say(memos, "The harbour opens at eight.", cube="work")
    freeze(memos, held)
    before = memos.status(ME).revision
    with pytest.raises(Frozen):
        memos.fuse_cubes(BOTH, ME)
    with pytest.raises(Frozen):
        memos.delete_cube("home", ME)
    assert memos.status(ME).revision == before


def test_who_may_not_write_a_cube_cannot_fuse_it(memos: MemOS) -> None:
    for cube in ("home", "work"):
        say(memos, "Anna keeps bees on the roof.", cube=cube)
    grants = (("home", (Action.READ,)), ("work", (Action.WRITE,)), ("all", (Action.WRITE,)))
    reader = Caller(Principal("reader", grants=grants))
    with pytest.raises(NotAllowed):
        memos.fuse_cubes(BOTH, reader)
    with pytest.raises(NotFound):
        memos.fuse_cubes(BOTH, Caller(Principal("stranger")))
    with pytest.raises(NotAllowed):
        memos.delete_cube("work", reader)


# --- what follows a fused cube ------------------------------------------------------------------------------------


def test_erasing_a_parent_erases_its_copy_in_the_fused_cube(memos: MemOS) -> None:
    parent = say(memos, "The safe's code word is marmalade.", cube="home")
    say(memos, "The harbour opens at eight.", cube="work")
    memos.fuse_cubes(BOTH, ME)
    gone = erase(memos, parent).forgotten
    assert len(gone) == 2
    assert contents(ask(memos, "code word marmalade", include_archived=True)) == []


def test_erasing_the_copy_erases_the_parents_it_was_made_of(memos: MemOS) -> None:
    parents = {say(memos, "The safe's code word is marmalade.", cube=cube) for cube in ("home", "work")}
    memos.fuse_cubes(BOTH, ME)
    (copy,) = living(memos, "all")
    assert {item.id for item in erase(memos, copy.id).forgotten} == {copy.id, *parents}


def test_lineage_that_a_file_claims_reaches_no_other_cube(memos: MemOS) -> None:
    mine = say(memos, "The harbour opens at eight.", cube="home")
    (record,) = [record for record in memos.export_memories(ME) if record["id"] == mine]
    claim = {"relation": "fused_from", "source": mine, "version": 1}
    forged = {**record, "id": "m_forged", "cube": "stranger", "lineage": [claim]}
    assert memos.import_memories([forged], ME).added == 1
    assert [item.id for item in erase(memos, "m_forged").forgotten] == ["m_forged"]
    assert state(memos, mine) == "generated"


def test_an_erasure_that_would_reach_into_a_cube_of_others_is_refused(memos: MemOS) -> None:
    parent = say(memos, "The safe's code word is marmalade.", cube="home")
    say(memos, "The harbour opens at eight.", cube="work")
    memos.fuse_cubes(BOTH, ME)
    writer = Caller(Principal("writer", grants=(("home", (Action.WRITE,)),)))
    with pytest.raises(NotAllowed, match="also in what you may not change"):
        erase(memos, parent, caller=writer)
    assert state(memos, parent) == "merged"


# --- deleting ---------------------------------------------------------------------------------------------------------


def test_a_deleted_cube_is_gone_from_every_list_and_every_file(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    with opened(settings) as memos:
        gone = say(memos, "The safe's code word is marmalade.", cube="home")
        kept = say(memos, "The harbour opens at eight.", cube="work")
        memos._parts.indexes.save()
        heard: list[str] = []
        memos.listen(lambda event: heard.append(event.cube))
        assert memos.delete_cube("home", ME, reason="moved out") == 1
        assert "home" in heard
        assert [view.cube.name for view in memos.cubes(ME)] == ["work"]
        with pytest.raises(NotFound):
            memos.memory(gone, ME)
        with pytest.raises(NotFound):
            memos.delete_cube("home", ME)
        assert ids(ask(memos, "code word harbour", include_archived=True)) == [kept]
        assert memos.verify(ME) == ()
    files = [path for path in settings.data.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"marmalade" in path.read_bytes()]


def test_a_cube_that_is_made_again_under_the_name_of_a_deleted_one_holds_only_its_own(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    with opened(settings) as memos:
        say(memos, "The safe's code word is marmalade.", cube="home")
        memos._parts.indexes.save()
        memos.delete_cube("home", ME)
        again = say(memos, "The harbour opens at eight.", cube="home")
    with opened(settings) as memos:
        assert ids(ask(memos, "code word harbour", include_archived=True)) == [again]
        assert memos.verify(ME) == ()


def test_what_was_fused_into_a_deleted_cube_lives_again_where_it_was(memos: MemOS) -> None:
    parents = [say(memos, "The harbour opens at eight.", cube=cube) for cube in ("home", "work")]
    memos.fuse_cubes(BOTH, ME)
    memos.delete_cube("all", ME)
    assert [state(memos, parent) for parent in parents] == ["activated", "activated"]
    assert memos.verify(ME) == ()


KILLED = """
import sys
from pathlib import Path
from engine.cube_operations import FuseCubes
from engine.memos import MemOS
from engine.operations import Caller
from engine.settings import Settings

settings = Settings(data=Path(sys.argv[1]), embedder="none", offline=True, backup_every_h=0)
with MemOS.open(settings) as memos:
    print("ready", flush=True)
    memos.fuse_cubes(FuseCubes(("home", "work"), "all"), Caller())
    print("fused", flush=True)
    sys.stdin.read()
"""
KILLS, MEMORIES = 4, 60


def test_a_process_that_is_killed_while_it_fuses_has_fused_or_not(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    with opened(settings) as memos:
        lines = [{"content": f"Buoy {n} is painted in colour {n * 7}."} for n in range(MEMORIES)]
        for cube in ("home", "work"):
            memos.import_memories([{**line, "cube": cube} for line in lines], ME)
    moments = random.Random(5)
    for _ in range(KILLS):
        process = run_python(KILLED, str(settings.data), stdin=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.random())
        process.kill()
        process.communicate()
        with opened(settings) as memos:
            found = {name: len(living(memos, name)) for name in (view.cube.name for view in memos.cubes(ME))}
            assert found in ({"home": MEMORIES, "work": MEMORIES}, {"home": 0, "work": 0, "all": MEMORIES})
            assert memos.verify(ME) == ()
            if "all" in found:
                memos.delete_cube("all", ME)
                assert [len(living(memos, name)) for name in ("home", "work")] == [MEMORIES, MEMORIES]
