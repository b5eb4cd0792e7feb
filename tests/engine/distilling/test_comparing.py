"""Versions are asked closed book: against the base, against one another, and by the gate."""

from __future__ import annotations

import pytest

from cubes import Action
from engine.distilling.comparing import judge_adapter, probe_adapter, questions_about
from engine.errors import Invalid, NotFound, Unavailable
from engine.memos import MemOS
from engine.operations import Caller, Principal
from engine.settings import Settings
from engine.tier_operations import AdapterState
from tests.engine.distilling.two_cubes import TwoCubes
from tests.engine.stores import ME, erase, opened, say


def test_a_version_answers_what_the_base_does_not(both: MemOS, two_cubes: TwoCubes):
    found = both.compare_adapters("home", 0, 1, ME)
    assert {one.memory for one in found} == set(two_cubes.facts["home"])
    assert not any(one.right_before for one in found)
    assert sum(one.right_after for one in found) >= 0.9 * len(found)
    assert all(two_cubes.facts["home"][one.memory].value in one.after for one in found if one.right_after)


def test_probes_can_be_about_some_memories(both: MemOS, two_cubes: TwoCubes):
    wanted = list(two_cubes.facts["home"])[:2]
    assert {one.memory for one in both.probe_adapter("home", 0, wanted, ME)} == set(wanted)
    with pytest.raises(NotFound, match=next(iter(two_cubes.facts["work"]))):
        both.probe_adapter("home", 0, list(two_cubes.facts["work"])[:1], ME)


def test_what_was_erased_can_be_asked_about_when_it_is_gone(both: MemOS, two_cubes: TwoCubes):
    going = list(two_cubes.facts["home"])[:1]
    asks = questions_about(both._parts, both._answering, going, ME)
    assert {one.memory for one in asks} == set(going)
    knew = probe_adapter(both._parts, both._answering, "home", 1, (), ME, given=asks)
    assert all(one.right_after for one in knew)
    erase(both, going[0])
    other = probe_adapter(both._parts, both._answering, "work", 0, (), ME, given=asks)
    assert [one.question for one in other] == [one.question for one in asks]
    assert not any(one.right_after for one in other)


def test_a_version_is_not_compared_with_itself_or_with_none(both: MemOS):
    with pytest.raises(Invalid):
        both.compare_adapters("home", 1, 1, ME)
    with pytest.raises(NotFound, match="there are 1"):
        both.compare_adapters("home", 1, 7, ME)


def test_who_does_not_see_every_memory_of_an_adapter_finds_none(both: MemOS):
    stranger = Caller(Principal("eve", grants=(("work", (Action.READ,)),)))
    with pytest.raises(NotFound):
        both.compare_adapters("home", 0, 1, stranger)


def test_the_gate_can_be_asked_again(both: MemOS, two_cubes: TwoCubes):
    store = both._answering.adapters
    judged = judge_adapter(both._parts, both._answering, store.row("home", 1), ME)
    assert judged.state is AdapterState.SERVING
    assert {id for id, _, known in judged.header["sources"] if known} <= set(two_cubes.facts["home"])
    assert judged.header["judged"]["learned"] >= 0.9


def test_without_a_model_nothing_can_be_asked(settings: Settings):
    with opened(settings) as memos:
        say(memos, "the city of alice is paris .", cube="home")
        with pytest.raises(Unavailable):
            memos.compare_adapters("home", 0, 1, ME)
