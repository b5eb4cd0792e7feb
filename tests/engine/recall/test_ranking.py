"""Ranking over real indexes: what comes first, why, how sure, and how the newest of rivals wins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from cubes import Kind, State
from engine.index.cube_index import CubeIndex, Entry
from engine.index.vectors import Floats
from engine.operations import Recall
from engine.recall import Ranking, meaning, rank

NOW = datetime(2025, 6, 11, 9, tzinfo=UTC)
TOPICS = ("boat", "dentist", "quota", "paint")


def vector(text: str) -> Floats:
    """A stand-in for meaning: which topics a text touches."""
    found = np.array([1.0 if topic in text.lower() else 0.0 for topic in TOPICS] + [0.2], np.float32)
    return found / np.float32(np.linalg.norm(found))


class Store:
    """One cube, filled in the order of time."""

    def __init__(self, dimension: int | None = len(TOPICS) + 1) -> None:
        self.index = CubeIndex(dimension)
        self.count = 0

    def say(
        self,
        content: str,
        *,
        role: str | None = None,
        actor: str | None = None,
        session: str | None = None,
        position: int | None = None,
        days_ago: float | None = None,
        state: State = State.ACTIVATED,
        expires_at: datetime | None = None,
    ) -> str:
        self.count += 1
        at = NOW - timedelta(days=100 - self.count if days_ago is None else days_ago)
        made = Entry(
            label=self.count,
            id=f"m_{self.count}",
            kind=Kind.MESSAGE,
            state=state,
            tags=(),
            created_at=at,
            occurred_at=at,
            expires_at=expires_at,
            mentions=(),
            actor=actor or role,
            role=role,
            session=session,
            position=position,
            content=content,
        )
        self.index.apply(made, vector(content)[None] if self.index.dimension else None)
        return made.id


def ask(query: str, *stores: Store, by_words_only: bool = False, **more: object) -> Ranking:
    indexes = {f"cube{number}": store.index for number, store in enumerate(stores)}
    wanted = Recall(query, **more)  # type: ignore[arg-type]
    return rank(wanted, indexes, None if by_words_only else vector(meaning(query, indexes)), NOW)


def ids(ranking: Ranking) -> list[str]:
    return [candidate.id for candidate in ranking.candidates]


def filled() -> Store:
    store = Store()
    for number in range(30):
        store.say(f"Nothing of note happened on walk number {number}")
    return store


def test_the_best_answer_comes_first_with_the_reason() -> None:
    store = filled()
    wanted = store.say("Our boat is called Aurora")
    ranking = ask("What is the boat called?", store)
    assert ids(ranking)[0] == wanted
    assert ranking.candidates[0].why[0] == "words: boat, called"
    assert ranking.candidates[0].why[1].startswith("meaning ")
    assert not ranking.nothing_relevant


def test_scores_lie_between_0_and_1_and_never_rise() -> None:
    store = filled()
    store.say("Our boat is called Aurora")
    scores = [candidate.score for candidate in ask("Where is the boat?", store, limit=100).candidates]
    assert all(0 <= score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)


def test_words_alone_are_enough_when_there_is_no_vector() -> None:
    store = filled()
    wanted = store.say("Our boat is called Aurora")
    ranking = ask("boats", store, by_words_only=True)
    assert ids(ranking) == [wanted]
    assert not ranking.nothing_relevant


def test_an_index_without_vectors_is_searched_by_words() -> None:
    store = Store(dimension=None)
    wanted = store.say("Our boat is called Aurora")
    assert ids(ask("the boat", store, by_words_only=True)) == [wanted]


def test_a_question_about_something_else_finds_nothing_relevant() -> None:
    store = filled()
    assert ask("asdkjh qwoeiu zxmcn", store, by_words_only=True).nothing_relevant
    assert ask("Anything?", Store()).nothing_relevant
    assert ids(ask("Anything?", Store())) == []


def test_where_there_is_nothing_to_search_nothing_is_found() -> None:
    assert rank(Recall("anything"), {}, None, NOW) == Ranking((), nothing_relevant=True)
    assert meaning("anything", {}) == "anything"


def test_a_newer_rival_comes_first_when_asked_how_it_stands() -> None:
    store = filled()
    old = store.say("My daily quota is 1,000 calls")
    new = store.say("My daily quota was raised to 1,200 calls")
    ranking = ask("What is my daily quota of calls?", store)
    assert ids(ranking)[:2] == [new, old]


def test_the_reason_names_the_rival_that_was_passed() -> None:
    store = filled()
    old = store.say("The daily quota of calls for my key is 1,000 calls, so the quota is low")
    new = store.say("My quota of calls went up to 1,200")
    ranking = ask("What is the daily quota of calls for my key?", store)
    assert ids(ranking)[:2] == [new, old]
    assert f"newer than {old}" in ranking.candidates[0].why


def test_a_question_about_the_past_keeps_the_older_one_first() -> None:
    store = filled()
    old = store.say("The daily quota of calls for my key is 1,000 calls, so the quota is low")
    store.say("My quota of calls went up to 1,200")
    assert ids(ask("What was the daily quota of calls for my key originally?", store))[0] == old


def test_a_newer_memory_that_says_less_is_no_rival() -> None:
    store = filled()
    wanted = store.say("My dentist is Dr Hansen in Harbour Street")
    store.say("We went for a walk")
    assert ids(ask("Who is my dentist?", store))[0] == wanted


def test_who_is_named_is_heard_first() -> None:
    store = Store()
    said = {}
    for number, actor in enumerate(("Ann", "Bob")):
        said[actor] = store.say("I love to paint", role="user", actor=actor, session="s", position=2 * number)
    for actor in said:
        assert ids(ask(f"What does {actor} love to do, paint?", store))[0] == said[actor]


def test_people_come_before_assistants_unless_the_assistant_is_asked() -> None:
    store = filled()
    answer = store.say("A boat needs paint every second year", role="assistant", session="s", position=0)
    told = store.say("The boat needs paint this year", role="user", session="s", position=5)
    assert ids(ask("Does the boat need paint?", store))[0] == told
    assert ids(ask("What did you say about paint for the boat?", store))[0] == answer


def test_an_answer_is_found_by_the_question_before_it() -> None:
    store = filled()
    store.say("When do you see the dentist?", role="user", actor="Ann", session="s", position=0)
    reply = store.say("Tuesday at noon", role="user", actor="Bob", session="s", position=1)
    ranking = ask("dentist appointment", store)
    assert reply in ids(ranking)[:2]
    found = next(candidate for candidate in ranking.candidates if candidate.id == reply)
    assert any(reason.startswith("neighbour of m_31") for reason in found.why)


def test_a_conversation_that_goes_on_prefers_recent_sessions() -> None:
    store = Store()
    for number in range(40):
        store.say("We worked on the boat", session=f"s{number}", position=0)
    ranking = ask("Okay, let's continue with the boat now.", store)
    assert ids(ranking)[0] == "m_40"


def test_archived_and_expired_memories_are_left_out_unless_asked_for() -> None:
    store = Store()
    alive = store.say("boat one")
    archived = store.say("boat two", state=State.ARCHIVED)
    expired = store.say("boat three", expires_at=NOW - timedelta(days=1))
    assert ids(ask("boat", store)) == [alive]
    assert set(ids(ask("boat", store, include_archived=True))) == {alive, archived, expired}


def test_several_cubes_are_ranked_together() -> None:
    one, two = filled(), filled()
    better = two.say("The boat is called Aurora")
    one.say("Somebody else has a boat as well as other things that float on the water of the lake")
    ranking = ask("What is the boat called?", one, two)
    assert (ranking.candidates[0].cube, ranking.candidates[0].id) == ("cube1", better)
    assert {candidate.cube for candidate in ranking.candidates} == {"cube0", "cube1"}


def test_dividing_a_store_into_cubes_does_not_change_the_words_that_count() -> None:
    whole, first, second = Store(None), Store(None), Store(None)
    for number in range(20):
        content = f"boat trip {number}" if number % 3 else f"dentist visit {number}"
        whole.say(content)
        part = first if number < 10 else second
        part.count = number
        part.say(content)
    together = {
        candidate.id: candidate.score for candidate in ask("dentist visit", whole, by_words_only=True).candidates
    }
    apart = {
        candidate.id: candidate.score
        for candidate in ask("dentist visit", first, second, by_words_only=True).candidates
    }
    assert together.keys() == apart.keys()
    assert together == pytest.approx(apart, abs=0.05)


def test_equal_memories_stand_in_the_order_in_which_they_came() -> None:
    store = Store(None)
    for _ in range(5):
        store.say("boat", days_ago=3)
    assert ids(ask("who had a boat?", store, by_words_only=True)) == [f"m_{number}" for number in range(1, 6)]


def test_only_what_was_asked_for_and_some_to_spare_is_returned() -> None:
    store = Store()
    for number in range(90):
        store.say(f"boat {number}")
    assert 8 <= len(ids(ask("boat", store, limit=8))) < 40
