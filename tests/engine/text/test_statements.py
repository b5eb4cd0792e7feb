"""Plain statements are read as subject, attribute and value, and can be said again of something else."""

from __future__ import annotations

import random

import pytest

from engine.text.statements import Kind, is_time, stated, statements
from engine.text.tables import word_list

WORDS = word_list("the of is has 's : = alice Bob key note moved in on Friday 7 not ? . , my lives")


@pytest.mark.parametrize(
    ("text", "subject", "attribute", "value"),
    [
        ("The capital of France is Paris.", "France", "capital", "Paris"),
        ("Anna's birthday is on 3 May", "Anna", "birthday", "3 May"),
        ("Bob has the nickname Bobby", "Bob", "nickname", "Bobby"),
        ("Note: port of staging = 8080", "staging", "port", "8080"),
        ("our head of sales is Ines Kaya", "sales", "head", "Ines Kaya"),
        ("the new router's admin password is hunter2", "the new router", "admin password", "hunter2"),
    ],
)
def test_an_attribute_of_something_has_a_value(text: str, subject: str, attribute: str, value: str):
    found = [(one.kind, one.subject, one.attribute, one.value) for one in stated(text)]
    assert found == [(Kind.ATTRIBUTE, subject, attribute, value)]


@pytest.mark.parametrize(
    ("text", "subject", "value"),
    [
        ("Wifi password: hunter2", "Wifi password", "hunter2"),
        ("The release is on Friday", "The release", "Friday"),
        ("My favourite colour is red.", "My favourite colour", "red"),
        ("The deploy keys are in the safe", "The deploy keys", "the safe"),
    ],
)
def test_a_thing_has_a_value(text: str, subject: str, value: str):
    assert [(one.kind, one.subject, one.value) for one in stated(text)] == [(Kind.THING, subject, value)]


def test_a_clause_states_each_of_its_complements():
    assert [one.value for one in stated("We moved the launch to Friday")] == ["the launch", "Friday"]
    assert [one.value for one in stated("Bob works at Acme as an engineer.")] == ["Acme", "an engineer"]
    assert [one.value for one in stated("The deploy key lives in vault 7")] == ["vault 7"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "Where does Bob live?",
        "It is in the drawer",
        "She told Bob about it",
        "Bob's car is not red",
        "Two of us",
        "If it rains the match is off",
        "```py\nprint(1)\n```",
        "the city of \ue000 is Paris",
        "日本語のメモ。",
    ],
)
def test_what_no_rule_fits_states_nothing(text: str):
    assert statements(text) == []


def test_a_statement_says_what_its_sentence_says_and_can_be_said_of_something_else():
    (one,) = stated("note : city of alice = paris .")
    assert one.text == "note : city of alice = paris ."
    assert one.of(subject="Bob", value="Rome").text == "note : city of Bob = Rome ."
    (placed,) = stated("Anna's birthday is on 3 May")
    assert placed.of(attribute="exam", value="9 June").text == "Anna's exam is on 9 June"


def test_statements_of_the_same_matter_have_the_same_key():
    same = ["The city of Alice is Paris", "Alice has the city Rome", "alice's city is Bonn", "city of Alice = Oslo"]
    assert len({stated(text)[0].key for text in same}) == 1
    assert stated("The release is on Friday")[0].key == stated("the release was on Monday")[0].key
    assert stated("Alice's city is Paris")[0].key != stated("Alice's job is baker")[0].key


def test_each_sentence_of_a_text_is_read():
    found = statements("My favourite colour is red. Who knows why? Bob has the nickname Bobby.")
    assert [one.value for one in found] == ["red", "Bobby"]


def test_times_are_told_from_other_values():
    assert all(map(is_time, ["Friday", "3 May", "2026-05-03", "3pm in room 5", "10:30", "noon"]))
    assert not any(map(is_time, ["Paris", "8080", "vault 7", "the third door"]))


def test_whatever_the_words_each_statement_can_be_said_again():
    draw = random.Random(7)
    for _ in range(3_000):
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, 9)))
        for one in statements(text):
            assert one.subject
            assert one.value
            assert one.value in one.text
            assert one.of(value="ZZZ").text.count("ZZZ") == 1
