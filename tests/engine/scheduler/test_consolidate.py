"""Near-copies and contradictions are proposed to be fused; only what loses nothing is called lossless."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubes import Descriptive, Governance, Kind, Memory, Sensitivity, State
from engine.scheduler.consolidate import MOST_IN_GROUP, Grouping, Proposal, proposals
from tests.conftest import START

TEA = "Ann drinks green tea."
CITY = "She lives in Berlin."
PORT = "The server listens on port 8080."


def memory(number: int, content: str, **about: object) -> Memory:
    at = START + timedelta(minutes=number)
    id = f"m_{number:02}"
    made = Memory("default", content, 1, State.ACTIVATED, Descriptive(id, Kind.FACT, at, at))
    return replace(made, **about)  # type: ignore[arg-type]


def proposed(*memories: Memory) -> list[Proposal]:
    known = {memory.id: memory for memory in memories}
    return proposals(known, combinations(known, 2))


def test_memories_that_say_the_same_are_lossless_and_the_newest_stands_for_them() -> None:
    (found,) = proposed(memory(1, TEA), memory(2, "Ann drinks green tea"), memory(3, "ann drinks green tea."))
    assert (found.grouping, found.ids, found.keeper) == (Grouping.COPIES, ("m_01", "m_02", "m_03"), "m_03")
    assert found.lossless
    assert found.reason == "m_03 says all that the others say"


def test_a_memory_that_says_more_than_its_copy_is_for_a_person_to_decide() -> None:
    for longer in (f"{TEA} {CITY}", f"Nobody believes this: {TEA}", f"The next sentence is wrong. {TEA}"):
        assert not any(found.lossless for found in proposed(memory(1, longer), memory(2, TEA)))
    (found,) = proposed(memory(1, f"{TEA} {CITY}"), memory(2, TEA))
    assert (found.grouping, found.reason) == (Grouping.COPIES, "m_01 says all that the others say, and more")


def test_memories_that_share_only_some_of_what_they_say_are_for_a_person_to_decide() -> None:
    (found,) = proposed(memory(1, f"{TEA} {CITY}"), memory(2, f"{TEA} {PORT}"))
    assert (found.grouping, found.keeper, found.lossless) == (Grouping.NEAR_COPIES, None, False)


def test_memories_that_cannot_both_hold_are_a_contradiction_and_the_reason_names_it() -> None:
    (found,) = proposed(memory(1, PORT), memory(2, PORT.replace("8080", "9090")))
    assert (found.grouping, found.lossless) == (Grouping.CONTRADICTION, False)
    assert found.reason == "they disagree: 8080 / 9090"


def test_a_copy_beside_a_contradiction_is_not_fused_without_asking() -> None:
    (found,) = proposed(memory(1, PORT), memory(2, PORT), memory(3, PORT.replace("8080", "9090")))
    assert (found.grouping, found.lossless) == (Grouping.CONTRADICTION, False)


def test_memories_that_only_lie_near_each_other_are_no_group() -> None:
    assert proposed(memory(1, TEA), memory(2, CITY), memory(3, PORT)) == []
    assert proposed(memory(1, f"{TEA} {CITY} {PORT}"), memory(2, f"{PORT} Bob drinks coffee. It rains.")) == []


LATER = START + timedelta(days=3)
HEADERS = {
    "pinned": {"governance": Governance(pinned=True)},
    "personal": {"governance": Governance(sensitivity=Sensitivity.PERSONAL)},
    "ending": {"governance": Governance(expires_at=LATER)},
}
ABOUT = {
    "an event": {"kind": Kind.EVENT},
    "another time": {"occurred_at": START + timedelta(minutes=1)},
    "another voice": {"role": "assistant"},
    "a speaker": {"actor": "Bob"},
    "what its source said": {"metadata": '{"a":1}'},
}


@pytest.mark.parametrize("about", [*HEADERS, *ABOUT])
def test_a_copy_whose_header_says_something_else_is_not_lossless(about: str) -> None:
    other = memory(1, TEA, **HEADERS.get(about, {}))
    other = replace(other, descriptive=replace(other.descriptive, **ABOUT.get(about, {})))  # type: ignore[arg-type]
    (found,) = proposed(other, memory(2, TEA))
    assert (found.grouping, found.lossless) == (Grouping.COPIES, False)
    assert found.reason == "m_02 says all that the others say, but their headers differ"


def test_turns_of_a_conversation_are_never_fused_without_asking() -> None:
    turns = [memory(number, TEA) for number in (1, 2)]
    turns = [replace(turn, descriptive=replace(turn.descriptive, kind=Kind.MESSAGE)) for turn in turns]
    assert [found.lossless for found in proposed(*turns)] == [False]


def test_tags_and_priority_which_fusing_joins_are_no_hindrance() -> None:
    tagged = memory(1, TEA, governance=Governance(priority=2))
    tagged = replace(tagged, descriptive=replace(tagged.descriptive, tags=("home",)))
    assert [found.lossless for found in proposed(tagged, memory(2, TEA))] == [True]


@pytest.mark.parametrize(
    "about",
    [
        {"governance": Governance(frozen=True)},
        {"state": State.ARCHIVED},
        {"state": State.MERGED},
        {"cube": "work"},
        {"descriptive": Descriptive("m_01", Kind.FACT, START, START, parts=3)},
    ],
)
def test_what_is_frozen_at_rest_elsewhere_or_a_whole_is_in_no_group(about: dict[str, object]) -> None:
    assert proposed(memory(1, TEA, **about), memory(2, TEA)) == []


def test_contradictions_are_listed_first_and_what_is_lossless_last() -> None:
    found = proposed(
        memory(1, TEA),
        memory(2, TEA),
        memory(3, f"{CITY} It rains."),
        memory(4, f"{CITY} Bob drinks coffee."),
        memory(5, PORT),
        memory(6, PORT.replace("8080", "9090")),
    )
    assert [one.grouping for one in found] == [Grouping.CONTRADICTION, Grouping.NEAR_COPIES, Grouping.COPIES]


def test_a_group_is_never_larger_than_a_person_can_look_over() -> None:
    found = proposed(*(memory(number, TEA) for number in range(2 * MOST_IN_GROUP + 1)))
    assert [len(one.ids) for one in found] == [MOST_IN_GROUP, MOST_IN_GROUP]
    assert all(one.lossless for one in found)


SENTENCES = [TEA, CITY, PORT, PORT.replace("8080", "9090"), "Ann does not drink green tea.", "It rains."]


@given(st.lists(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=3, unique=True), min_size=2, max_size=6))
def test_no_memory_is_in_two_groups_and_a_lossless_one_says_one_thing(texts: list[list[str]]) -> None:
    known = [memory(number, " ".join(text)) for number, text in enumerate(texts)]
    found = proposed(*known)
    named = [id for one in found for id in one.ids]
    assert len(named) == len(set(named))
    said = {one.id: set(text) for one, text in zip(known, texts, strict=True)}
    for one in found:
        assert one == next(other for other in proposed(*reversed(known)) if other.ids == one.ids)
        if one.keeper is not None:
            assert all(said[id] == said[one.keeper] for id in one.ids)
