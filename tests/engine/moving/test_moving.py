"""Memories go from tier to tier by hand, with their lineage, and their text stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cubes import Action, Sensitivity
from engine.cube_operations import Govern
from engine.distilling.choosing import DISPUTED
from engine.errors import Busy, Invalid, MemosError, NotAllowed, NotFound, Unavailable
from engine.operations import Caller, Forget, Principal
from engine.tier_operations import Held, Move
from tests.conftest import START, HandClock
from tests.engine.moving.conftest import PASSED, Tried
from tests.engine.stores import ME, opened, say, settings_for

READER = Caller(Principal("reader", grants=(("home", (Action.READ,)),)))


def test_named_memories_get_caches_of_their_own_and_lose_them_again(tried: Tried) -> None:
    done = tried.memos.move(Move(Held.KV, ids=tried.ids[:2]), ME)
    assert (done.to, done.moved, done.skipped) == (Held.KV, tried.ids[:2], ())
    rows = tried.memos.tiers("home", ME)
    assert sorted(row.sources for row in rows) == [((id, 1),) for id in sorted(tried.ids[:2])]
    assert [tried.tiers(id) for id in tried.ids] == [["kv"], ["kv"], [], []]

    back = tried.memos.move(Move(Held.PLAINTEXT, ids=(tried.ids[0],)), ME)
    assert (back.moved, back.artifacts) == ((tried.ids[0],), 1)
    assert [tried.tiers(id) for id in tried.ids] == [[], ["kv"], [], []]
    assert tried.memos.memory(tried.ids[0], ME).memory.content == "the food of alice is soup ."


def test_a_whole_cube_gets_caches_with_its_pinned_block(tried: Tried) -> None:
    tried.memos.govern(Govern(ids=tried.ids[:3], pinned=True), ME)
    done = tried.memos.move(Move(Held.KV, cube="home"), ME)
    assert set(done.moved) == set(tried.ids)
    forms = [row.form for row in tried.memos.tiers("home", ME)]
    assert sorted(forms) == ["chunk"] * 4 + ["prefix"]
    assert done.artifacts == 5
    tried.memos.move(Move(Held.PLAINTEXT, cube="home"), ME)
    assert tried.memos.tiers("home", ME) == ()


def test_a_rehearsal_changes_nothing(tried: Tried) -> None:
    revision = tried.memos.status(ME).revision
    for to in (Held.KV, Held.LORA):
        done = tried.memos.move(Move(to, cube="home", dry_run=True), ME)
        assert set(done.moved) == set(tried.ids)
    assert tried.memos.move(Move(Held.PLAINTEXT, cube="home", dry_run=True), ME).moved == ()
    assert tried.memos.tiers("home", ME) == ()
    assert tried.memos.work(ME) == ()
    assert tried.memos.status(ME).revision == revision


def test_what_takes_no_part_is_skipped_with_its_reason(tried: Tried) -> None:
    tried.memos.forget(Forget(ids=(tried.ids[0],)), ME)
    tried.memos.govern(Govern(ids=(tried.ids[1],), sensitivity=Sensitivity.PERSONAL), ME)
    done = tried.memos.move(Move(Held.LORA, ids=tried.ids, dry_run=True), ME)
    why = dict(done.skipped)
    assert done.moved == tried.ids[2:]
    assert "archived" in why[tried.ids[0]]
    assert "personal" in why[tried.ids[1]]
    assert tried.memos.move(Move(Held.KV, ids=tried.ids[:2], dry_run=True), ME).moved == (tried.ids[1],)


def test_pieces_of_a_long_text_are_moved_and_not_the_whole(tried: Tried) -> None:
    whole = say(tried.memos, "\n\n".join(f"Paragraph {n}. " + "Some words. " * 60 for n in range(40)), cube="long")
    pieces = [memory.id for memory in tried.memos.memories("long", ME).memories if not memory.descriptive.parts]
    assert len(pieces) > 1
    done = tried.memos.move(Move(Held.KV, cube="long", dry_run=True), ME)
    assert set(done.moved) == set(pieces)
    named = tried.memos.move(Move(Held.KV, ids=(whole,), dry_run=True), ME)
    assert named.moved == ()
    assert "pieces" in dict(named.skipped)[whole]


def test_what_the_serving_adapter_knows_is_trained_on_no_more(tried: Tried) -> None:
    tried.keep(tried.ids[:2])
    done = tried.memos.move(Move(Held.LORA, ids=(tried.ids[1],)), ME)
    assert (done.moved, done.adapter, done.work) == ((tried.ids[1],), None, None)
    assert tried.memos.work(ME) == ()
    assert [view.version for view in tried.memos.adapters("home", ME)] == [1]


def test_what_an_adapter_could_not_be_taught_is_said_with_its_reason_and_not_tried_again(tried: Tried) -> None:
    tried.keep(tried.ids[:3], left_out=((tried.ids[3], 1, "the model cannot be asked about it"),))
    (view,) = tried.memos.adapters("home", ME)
    assert view.left_out == ((tried.ids[3], "the model cannot be asked about it"),)
    assert view.remarks == (
        f"3 of 4 memories were taught; 1 left out: the model cannot be asked about it: {tried.ids[3]}",
    )
    done = tried.memos.move(Move(Held.LORA, cube="home"), ME)
    assert set(done.moved) == set(tried.ids[:3])
    assert done.skipped == ((tried.ids[3], "the model cannot be asked about it"),)
    assert tried.memos.work(ME) == ()


def test_a_rehearsal_leaves_out_what_a_training_of_the_cube_would(tried: Tried) -> None:
    other = say(tried.memos, "the color of dave is blue .", cube="home")
    disputed, rest = tried.ids[2], {tried.ids[0], tried.ids[1], tried.ids[3]}
    done = tried.memos.move(Move(Held.LORA, cube="home", dry_run=True), ME)
    assert dict(done.skipped) == {disputed: DISPUTED, other: DISPUTED}
    assert set(done.moved) == rest
    assert any("only the training itself" in said for said in done.remarks)
    tried.keep(sorted(rest))
    known = tried.memos.move(Move(Held.LORA, cube="home"), ME)
    assert (set(known.moved), len(known.skipped)) == (rest, 2)
    assert tried.memos.work(ME) == ()


def test_a_move_to_lora_asks_for_a_training_on_these_beside_what_served(tried: Tried) -> None:
    tried.keep(tried.ids[:2])
    done = tried.memos.move(Move(Held.LORA, ids=(tried.ids[2],), background=True, reason="asked often"), ME)
    assert done.moved == ()
    (work,) = [view for view in tried.memos.work(ME) if view.id == done.work]
    assert (work.what, work.cube, work.reason) == ("distil", "home", "asked often")
    assert tried.asked_for() == set(tried.ids[:3])
    tried.memos.cancel_work(work.id, ME)


def test_both_ways_it_is_told_what_was_made_from_what(tried: Tried) -> None:
    row = tried.keep(tried.ids[:2])
    (view,) = tried.memos.adapters("home", ME)
    assert view.sources == tuple((id, 1) for id in tried.ids[:2])
    (held,) = tried.memos.memory(tried.ids[0], ME).tiers
    assert (held.tier, held.artifact, held.state) == ("lora", row.artifact, "serving, known")
    assert tried.memos.memory(tried.ids[3], ME).tiers == ()
    assert dict(tried.memos.status(ME).adapters) == {"home": "version 1 knows 2 of 2 memories"}


def test_what_fails_in_a_second_cube_is_told_beside_what_was_done_in_the_first(tried: Tried) -> None:
    alone = say(tried.memos, "the pet of judy is dog .", cube="other")
    tried.keep(tried.ids[:2])
    with tried.memos._distilling.training():
        done = tried.memos.move(Move(Held.LORA, ids=(tried.ids[0], alone)), ME)
        assert done.moved == (tried.ids[0],)
        assert "another training is under way" in dict(done.skipped)[alone]
        with pytest.raises(Busy):
            tried.memos.move(Move(Held.LORA, ids=(alone,)), ME)


def test_a_cube_in_plaintext_has_no_adapter_that_serves_and_that_can_be_undone(tried: Tried) -> None:
    tried.keep(tried.ids[:2])
    done = tried.memos.move(Move(Held.PLAINTEXT, cube="home"), ME)
    assert set(done.moved) == set(tried.ids[:2])
    assert tried.serving() is None
    assert "tier activate home 1" in " ".join(done.remarks)
    assert tried.memos.activate_adapter("home", 1, ME).version == 1
    assert tried.serving() == 1


def test_the_others_are_trained_anew_without_what_moves_back_to_text(tried: Tried) -> None:
    tried.keep(tried.ids[:3])
    done = tried.memos.move(Move(Held.PLAINTEXT, ids=(tried.ids[0],), background=True), ME)
    assert done.moved == ()  # not yet
    assert done.work is not None
    assert tried.asked_for() == set(tried.ids[1:3])
    tried.memos.cancel_work(done.work, ME)
    assert tried.serving() == 1  # until another takes its place


def test_an_adapter_that_was_refused_is_told_of_and_does_not_serve(tried: Tried) -> None:
    failed = tried.keep(tried.ids[:2], judged=replace(PASSED, learned=0.1, why=("it knows 10%, less than 90%",)))
    (view,) = tried.memos.adapters("home", ME)
    assert (view.version, view.state) == (failed.version, "failed")
    assert view.judged.why == ("it knows 10%, less than 90%",)
    assert tried.serving() is None
    assert tried.memos.status(ME).adapters == ()


def test_an_adapter_is_there_for_nobody_who_may_not_see_all_of_it(tried: Tried) -> None:
    tried.keep(tried.ids[:2])
    assert len(tried.memos.adapters("home", READER)) == 1
    secret = say(tried.memos, "the code of alice is 1234 .", cube="home", sensitivity=Sensitivity.SECRET)
    tried.keep([tried.ids[0], secret])
    assert [view.version for view in tried.memos.adapters("home", READER)] == [1]
    assert [held.state for held in tried.memos.memory(tried.ids[0], READER).tiers] == ["resting, known"]
    assert tried.memos.status(READER).adapters == ()
    with pytest.raises(NotFound):
        tried.memos.adapters("elsewhere", READER)


def test_versions_are_dropped_and_taken_out(tried: Tried, tmp_path) -> None:
    for _ in range(3):
        tried.keep(tried.ids[:2])
    folder = tried.memos.export_adapter("home", 2, tmp_path / "out", ME)
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid, match=str(tmp_path / "file")):
        tried.memos.export_adapter("home", 2, tmp_path / "file" / "out", ME)
    assert tried.memos.drop_adapter("home", 2, ME) == 1
    assert [view.state for view in tried.memos.adapters("home", ME)] == ["resting", "gone", "serving"]
    assert tried.memos.drop_adapter("home", None, ME) == 2
    assert tried.memos.drop_adapter("home", None, ME) == 0
    assert len(tried.memos.memories("home", ME).memories) == 4


@pytest.mark.parametrize(
    ("request_", "caller", "error"),
    [
        (Move(Held.KV), ME, Invalid),
        (Move(Held.KV, ids=("m_1",), cube="home"), ME, Invalid),
        (Move(Held.LORA, ids=("m_nowhere",)), ME, NotFound),
        (Move(Held.LORA, cube="elsewhere"), ME, NotFound),
        (Move(Held.KV, cube="home"), READER, NotAllowed),
        (Move(Held.PLAINTEXT, cube="home"), READER, NotAllowed),
    ],
)
def test_what_cannot_be_moved_is_one_clear_error(
    tried: Tried, request_: Move, caller: Caller, error: type[MemosError]
) -> None:
    with pytest.raises(error):
        tried.memos.move(request_, caller)
    assert tried.memos.tiers("home", ME) == ()


def test_who_may_only_read_manages_no_adapters(tried: Tried, tmp_path) -> None:
    tried.keep(tried.ids[:2])
    for refused in (
        lambda: tried.memos.activate_adapter("home", None, READER),
        lambda: tried.memos.drop_adapter("home", 1, READER),
        lambda: tried.memos.export_adapter("home", 1, tmp_path / "out", READER),
    ):
        with pytest.raises(NotAllowed):
            refused()
    assert tried.serving() == 1
    assert not (tmp_path / "out").exists()


def test_without_a_model_that_is_said_and_text_can_still_be_moved_to(tmp_path, clock: HandClock) -> None:
    with opened(settings_for(tmp_path / "data"), HandClock(START)) as memos:
        id = say(memos, "the food of alice is soup .", cube="home")
        for to in (Held.KV, Held.LORA):
            with pytest.raises(Unavailable, match="no model is configured"):
                memos.move(Move(to, ids=(id,)), ME)
        done = memos.move(Move(Held.PLAINTEXT, ids=(id,)), ME)
        assert (done.moved, done.artifacts) == ((), 0)
