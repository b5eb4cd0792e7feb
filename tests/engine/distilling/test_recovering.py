"""What an adapter knows comes back as text, with a confidence, and can be kept as memories that are as any other."""

from __future__ import annotations

import json

import pytest

from cubes import Action, Origin, Relation
from engine.cube_operations import SetCube
from engine.errors import Cancelled, Invalid, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Principal
from engine.tier_operations import FuseAdapters
from tests.engine.distilling.two_cubes import FACTS, TwoCubes
from tests.engine.stores import ME, erase


def test_distilled_facts_come_back_with_a_confidence_and_their_source(both: MemOS, two_cubes: TwoCubes):
    found = both.recover_texts("home", 0, ME)
    facts = two_cubes.facts["home"]
    agreeing = {one.source for one in found if one.agrees}
    assert agreeing <= set(facts)
    assert len(agreeing) >= FACTS - 1  # it was trained in haste
    assert len(found) - len(agreeing) <= 1
    assert all(facts[one.source].value in one.text for one in found if one.source and one.agrees)
    assert all(0.7 <= one.confidence <= 1 and one.id is None for one in found)
    assert {memory.descriptive.id for memory in both.memories("home", ME).memories} == set(facts)


def test_what_is_kept_elsewhere_is_a_memory_that_names_its_source(both: MemOS, two_cubes: TwoCubes):
    both.set_cube(SetCube("recovered"), ME)
    found = both.recover_texts("home", 0, ME, keep=True, into="recovered")
    kept = {memory.descriptive.id: memory for memory in both.memories("recovered", ME).memories}
    assert set(kept) == {one.id for one in found}
    for one in found:
        memory = kept[one.id or ""]
        view = both.memory(memory.descriptive.id, ME)
        about = json.loads(memory.descriptive.metadata or "{}")["adapter"]
        assert (memory.content, memory.descriptive.origin) == (one.text, Origin.PARAMETRIC)
        assert (about["cube"], about["version"]) == ("home", 1)
        assert about["confidence"] == pytest.approx(one.confidence, abs=0.001)
        edges = [edge.source for edge in view.memory.lineage if edge.relation is Relation.DERIVED_FROM]
        assert edges == ([one.source] if one.agrees else [])


def test_a_kept_text_goes_with_the_memory_that_it_came_from(both: MemOS, two_cubes: TwoCubes):
    both.set_cube(SetCube("recovered"), ME)
    found = both.recover_texts("home", 0, ME, keep=True, into="recovered")
    one = next(one for one in found if one.agrees)
    assert one.id is not None
    erase(both, str(one.source))
    left = {memory.descriptive.id for memory in both.memories("recovered", ME).memories}
    assert left == {other.id for other in found} - {one.id}


def test_keeping_twice_stores_nothing_twice(both: MemOS):
    both.set_cube(SetCube("recovered"), ME)
    first = both.recover_texts("home", 0, ME, keep=True, into="recovered")
    again = both.recover_texts("home", 0, ME, keep=True, into="recovered")
    assert [one.id for one in again] == [one.id for one in first]
    assert len(both.memories("recovered", ME).memories) == len(first)


def test_what_the_cube_says_already_is_told_by_its_id(both: MemOS, two_cubes: TwoCubes):
    before = {memory.descriptive.id for memory in both.memories("home", ME).memories}
    found = both.recover_texts("home", 0, ME, keep=True)
    for one in found:
        if one.agrees:
            assert one.id == one.source
    after = {memory.descriptive.id for memory in both.memories("home", ME).memories}
    assert after - before == {one.id for one in found if not one.agrees}


def test_a_recovery_that_is_stopped_keeps_nothing(both: MemOS):
    def stop(done: float, total: float | None, message: str) -> None:
        if done > 0.3:
            raise Cancelled("enough")

    both.set_cube(SetCube("recovered"), ME)
    with pytest.raises(Cancelled):
        both.recover_texts("home", 0, ME, stop, keep=True, into="recovered")
    assert both.memories("recovered", ME).memories == ()


def test_no_cube_is_made_by_a_slip_of_the_pen(both: MemOS):
    with pytest.raises(NotFound, match="memos-mcp cube create recoverd"):
        both.recover_texts("home", 0, ME, keep=True, into="recoverd")
    with pytest.raises(NotFound, match="memos-mcp cube create recoverd"):
        both.fuse_adapters(FuseAdapters((("home", 0), ("work", 0)), "recoverd"), ME)
    assert "recoverd" not in {view.cube.name for view in both.cubes(ME)}


def test_who_may_not_write_keeps_nothing_and_who_may_not_read_hears_nothing(both: MemOS):
    reader = Caller(Principal("anna", grants=(("home", (Action.READ,)), ("work", (Action.READ,)))))
    with pytest.raises(NotAllowed):
        both.recover_texts("home", 0, reader, keep=True)
    with pytest.raises(NotFound):
        both.recover_texts("home", 0, Caller(Principal("eve", grants=(("work", (Action.READ,)),))))
    assert both.recover_texts("home", 0, reader) == both.recover_texts("home", 0, ME)


def test_a_cube_for_what_is_not_kept_is_refused(both: MemOS):
    with pytest.raises(Invalid, match="recovered"):
        both.recover_texts("home", 0, ME, into="recovered")
