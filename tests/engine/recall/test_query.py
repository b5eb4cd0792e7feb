"""What is read off a query: words, speakers, who is asked, how live it is, which time it means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.recall.query import Live, Query, understand

NOW = datetime(2025, 6, 11, 9, tzinfo=UTC)
SPEAKERS = ("Caroline", "Tim Burton", "Will")


def read(text: str) -> Query:
    return understand(text, SPEAKERS, NOW)


def test_content_words_are_looked_up_by_their_stems_and_told_by_their_words() -> None:
    query = read("Which pharmacies did we visit in Oslo?")
    assert query.stems == ("pharmaci", "visit", "oslo")
    assert dict(query.told_by)["pharmaci"] == "pharmacies"


def test_names_of_speakers_are_neither_looked_up_nor_embedded() -> None:
    query = read("What did Caroline's sister tell Tim about the race?")
    assert query.speakers == ("Caroline", "Tim Burton")
    assert "carolin" not in query.stems
    assert "tim" not in query.stems
    assert query.meaning == "What did sister tell about the race?"


def test_other_names_stay_in_the_query() -> None:
    query = read("Where does Mildred live?")
    assert query.speakers == ()
    assert "mildr" in query.stems
    assert query.meaning == query.text


def test_a_name_that_is_also_a_word_must_be_written_as_a_name() -> None:
    assert read("When will it rain?").speakers == ()
    assert read("What does Will like?").speakers == ("Will",)
    assert read("What will Will paint?").meaning == "What will paint?"


def test_a_query_of_nothing_but_names_is_still_embedded() -> None:
    assert read("Caroline").meaning == "Caroline"


@pytest.mark.parametrize(
    "text",
    ["What did you recommend for the database?", "Remind me which book it was", "In our last chat there was a book"],
)
def test_some_queries_ask_for_the_words_of_the_assistant(text: str) -> None:
    assert read(text).to_assistant


@pytest.mark.parametrize(
    "text",
    ["What would you suggest I cook?", "Remind me what I decided", "Can you explain my notes?", "Where do I live?"],
)
def test_asking_for_help_is_not_asking_for_what_the_assistant_said(text: str) -> None:
    assert not read(text).to_assistant


def test_a_statement_that_goes_on_with_something_is_live() -> None:
    assert read("Okay, let's continue with the budget. What is the next step?").live is Live.YES
    assert read("What is the next step?").live is Live.PERHAPS
    assert read("What did she paint?").live is Live.NO
    assert read("dentist phone number").live is Live.NO


@pytest.mark.parametrize(
    "text",
    [
        "What is my daily quota?",
        "How many cards have I added?",
        "When is my call with Ana?",
        "What deadline should I aim for?",
        "Which phone number is current?",
        "What was the newest figure?",
    ],
)
def test_asking_how_something_stands_wants_the_newest(text: str) -> None:
    assert read(text).present


@pytest.mark.parametrize(
    "text",
    [
        "What was my quota at first?",
        "How did my goals change over time?",
        "When did Caroline move?",
        "How many days passed between the two calls?",
        "Summarize how many books I read",
        "I like boats",
    ],
)
def test_asking_about_the_past_leaves_the_order_alone(text: str) -> None:
    assert not read(text).present


def test_a_time_in_the_query_is_understood() -> None:
    period = read("What happened in January 2024?").period
    assert period == (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
    assert read("What happened?").period is None


def test_when_asks_for_a_time() -> None:
    assert read("When did it rain?").asks_when
    assert not read("Where did it rain?").asks_when


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    query = read(text)
    assert len(set(query.stems)) == len(query.stems)
    assert query.meaning or not text.strip()
