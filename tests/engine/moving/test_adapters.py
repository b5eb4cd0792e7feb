"""What callers do with versions of adapters: one that nobody judged is judged before it serves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cubes import Action, Sensitivity
from engine.errors import Cancelled, Conflict, NotFound
from engine.operations import Caller, Principal
from engine.tier_operations import Held, Move
from tests.engine.moving.conftest import Tried
from tests.engine.stores import ME, say

WRITER = Caller(Principal("writer", grants=(("home", (Action.READ, Action.WRITE)),)))
ADMIN = Caller(Principal("admin", grants=(("home", (Action.READ, Action.WRITE, Action.ADMIN)),)))


def test_one_that_came_from_elsewhere_is_judged_and_refused_where_it_knows_nothing(tried: Tried) -> None:
    row = tried.keep(tried.ids, judged=None, made="installed")
    (view,) = tried.memos.adapters("home", ME)
    assert (view.state, view.judged) == ("resting", None)
    with pytest.raises(Conflict, match="did not pass"):
        tried.memos.activate_adapter("home", row.version, ME)
    (view,) = tried.memos.adapters("home", ME)
    assert view.state == "failed"
    assert view.judged.right == 0.0
    assert view.known == ()
    assert tried.serving() is None


def test_judging_can_be_stopped_and_changes_nothing_then(tried: Tried) -> None:
    row = tried.keep(tried.ids[:2], judged=None, made="installed")

    def stop(done: float, total: float | None, message: str) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        tried.memos.activate_adapter("home", row.version, ME, progress=stop)
    (view,) = tried.memos.adapters("home", ME)
    assert (view.state, view.judged) == ("resting", None)


def test_an_adapter_that_changes_nothing_answers_as_the_model_does(tried: Tried) -> None:
    tried.keep(tried.ids[:2])
    probes = tried.memos.probe_adapter("home", 0, tried.ids[:1], ME)
    assert probes
    assert {probe.memory for probe in probes} == {tried.ids[0]}
    assert all(probe.before == probe.after and not probe.right_after for probe in probes)
    compared = tried.memos.compare_adapters("home", 0, 1, ME)
    assert {probe.memory for probe in compared} == set(tried.ids[:2])
    with pytest.raises(NotFound):
        tried.memos.probe_adapter("home", 7, (), ME)
    with pytest.raises(NotFound):
        tried.memos.probe_adapter("home", 0, (tried.ids[3],), ME)


def test_a_version_serves_again_after_a_restart(tried: Tried) -> None:
    first = tried.keep(tried.ids[:2])
    tried.keep(tried.ids[:3])
    assert tried.memos.activate_adapter("home", first.version, ME, "the second says less").version == 1
    assert tried.serving() == 1
    assert tried.memos.audit(ME)[-1].reason == "the second says less"
    settings = replace(tried.memos._parts.vault.settings)
    tried.memos.close()
    with type(tried.memos).open(settings) as again:
        assert dict(again.status(ME).adapters) == {"home": "version 1 knows 2 of 2 memories"}


def asked_by(tried: Tried, caller: Caller) -> list[object]:
    """What a caller hears of the adapters of a cube, whatever it tries."""
    memos, heard = tried.memos, list[object]()
    for version in (0, 1, 2):
        for ask in (memos.activate_adapter, memos.drop_adapter):
            with pytest.raises(NotFound) as refused:
                ask("home", version, caller)
            heard.append(str(refused.value))
    heard += [memos.activate_adapter("home", None, caller), memos.drop_adapter("home", None, caller)]
    for to in (Held.LORA, Held.PLAINTEXT):
        for wanted in (Move(to, cube="home", dry_run=True), Move(to, ids=tried.ids[:1], dry_run=True)):
            heard.append(memos.move(wanted, caller))
    return [*heard, memos.move(Move(Held.PLAINTEXT, cube="home"), caller), memos.adapters("home", caller)]


def test_for_a_writer_who_does_not_see_all_of_it_an_adapter_is_as_if_there_were_none(tried: Tried) -> None:
    secret = say(tried.memos, "the code of alice is 1234 .", cube="home", sensitivity=Sensitivity.SECRET)
    without = asked_by(tried, WRITER)
    tried.keep([*tried.ids, secret])
    revision = tried.memos.status(ME).revision
    assert asked_by(tried, WRITER) == without
    assert tried.serving() == 1
    assert tried.memos.status(ME).revision == revision


def test_a_writer_drops_the_versions_that_it_sees_and_no_others(tried: Tried) -> None:
    tried.keep(tried.ids[:2])
    secret = say(tried.memos, "the code of alice is 1234 .", cube="home", sensitivity=Sensitivity.SECRET)
    tried.keep([tried.ids[0], secret])
    with pytest.raises(NotFound, match=r"there are 1$"):
        tried.memos.activate_adapter("home", 2, WRITER)
    assert tried.memos.drop_adapter("home", None, WRITER) == 1
    assert [view.state for view in tried.memos.adapters("home", ME)] == ["gone", "serving"]


def test_who_administers_a_cube_takes_any_adapter_of_it_out_of_service(tried: Tried) -> None:
    elsewhere = say(tried.memos, "the pet of judy is dog .", cube="other")
    tried.keep([tried.ids[0], elsewhere])
    assert tried.memos.adapters("home", ADMIN) == ()
    assert tried.memos.activate_adapter("home", None, ADMIN) is None
    assert tried.serving() is None
    assert tried.memos.drop_adapter("home", None, ADMIN) == 1


def test_an_adapter_for_another_model_than_the_loaded_one_is_not_activated_even_where_it_serves(tried: Tried) -> None:
    tried.keep(tried.ids[:2])
    kept = tried.keep(tried.ids[:2], model="sha256:" + "0" * 64)
    assert tried.serving() == kept.version == 2
    with pytest.raises(Conflict, match="tier train home"):
        tried.memos.activate_adapter("home", 2, ME)
    assert tried.memos.activate_adapter("home", 1, ME).version == 1
    settings = tried.memos._parts.vault.settings
    tried.memos.close()
    with type(tried.memos).open(settings) as again:
        assert again.activate_adapter("home", 2, ME).version == 2  # nobody knows which model will be loaded
