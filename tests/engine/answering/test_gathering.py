"""Which memories a model is given: pinned ones of the cubes, then what answers the last turn, oldest first."""

from __future__ import annotations

import pytest

from cubes import Sensitivity
from engine.answering.gathering import Gathered, Gathering, rivals
from engine.cube_operations import Govern
from engine.errors import NotFound
from engine.memos import MemOS
from engine.model_operations import Chat, ChatTurn, MemoryUse
from engine.operations import Caller, Principal, Remember
from tests.conftest import HandClock
from tests.engine.stores import ME

USUAL = MemoryUse()


def gathering_of(memos: MemOS) -> Gathering:
    return Gathering(memos._parts, memos._recalling)


def asked(memos: MemOS, question: str, use: MemoryUse | None = USUAL, **more: object) -> Gathered:
    chat = Chat((ChatTurn("user", question),), memory=use)
    return gathering_of(memos).gather(chat, more.pop("caller", ME), 2_000, **more)  # type: ignore[arg-type]


def told(memos: MemOS, text: str, cube: str = "default", **more: object) -> str:
    return memos.remember(Remember(content=text, cube=cube, **more), ME).stored[0].id  # type: ignore[arg-type]


def test_without_memory_nothing_is_gathered(memos: MemOS):
    told(memos, "The boat is called Aurora.")
    assert asked(memos, "What is the boat called?", None) == Gathered()


def test_what_answers_the_last_turn_comes_oldest_first(memos: MemOS, clock: HandClock):
    first = told(memos, "The boat is called Aurora.")
    clock.pass_by(days=1)
    second = told(memos, "The boat is moored in Lisbon.")
    found = asked(memos, "Where is the boat Aurora moored in Lisbon?")
    assert [memory.id for memory, _ in found.recalled] == [first, second]


def test_pinned_memories_come_along_whatever_is_asked_and_only_once(memos: MemOS):
    pinned = told(memos, "The boat is called Aurora.")
    memos.govern(Govern(ids=(pinned,), pinned=True), ME)
    found = asked(memos, "What is the boat called?")
    assert [memory.id for memory in found.pinned] == [pinned]
    assert found.recalled == ()
    assert found.cube == "default"


def test_pins_are_seen_as_soon_as_they_change(memos: MemOS):
    gathering, chat = gathering_of(memos), Chat((ChatTurn("user", "Boat?"),), memory=MemoryUse())
    pinned = told(memos, "The boat is called Aurora.")
    memos.govern(Govern(ids=(pinned,), pinned=True), ME)
    assert gathering.gather(chat, ME, 2_000).pinned
    memos.govern(Govern(ids=(pinned,), pinned=False), ME)
    assert not gathering.gather(chat, ME, 2_000).pinned


def test_rivals_are_known_by_lineage(memos: MemOS, clock: HandClock):
    old = told(memos, "The port of the boat is Lisbon.")
    clock.pass_by(days=1)
    told(memos, "The port of the boat is Porto.")
    found = asked(memos, "What is the port of the boat?")
    assert {old} in [rivals(memory) for memory, _ in found.recalled]


def test_another_principal_gets_nothing_of_a_cube_it_may_not_read(memos: MemOS):
    told(memos, "The boat is called Aurora.", cube="private")
    with pytest.raises(NotFound):
        asked(memos, "Boat?", MemoryUse(cubes=("private",)), caller=Caller(Principal("guest")))
    found = asked(memos, "What is the boat called?", MemoryUse(cubes=None), caller=Caller(Principal("guest")))
    assert found == Gathered(remarks=found.remarks)


def test_secrets_are_not_for_other_machines_and_that_is_said(memos: MemOS):
    told(memos, "The code of the boat's lock is 4711.", sensitivity=Sensitivity.SECRET)
    assert asked(memos, "What is the code of the boat's lock?").recalled
    away = asked(memos, "What is the code of the boat's lock?", private=True)
    assert away.recalled == ()
    assert "1 secret memories were not sent to another machine" in away.remarks
