"""What is a duplicate, what is a rival, and what is simply another statement."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.text.claims import Relation, compare, normal_form

SAME, RIVAL, DIFFERENT = Relation.SAME, Relation.RIVAL, Relation.DIFFERENT


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Alice likes tea", "alice likes tea."),
        ("Alice likes tea", '  "Alice   likes\ntea"  '),
        ("Alice doesn't like tea", "Alice does not like tea"),
        ("Alice doesn’t like tea", "Alice doesn't like tea"),
        ("It can't work", "It cannot work"),
        ("The server has two disks", "Server has 2 disks"),
        ("The budget is two hundred euros", "the budget is 200 euros"),
        ("twenty-one days", "21 days"),
        ("We need 1,000 rows", "We need 1000 rows"),
        ("We meet at 5pm", "We meet at 17:00"),
        ("We meet at 5:30 p.m. in Rome", "We meet at 5:30pm in Rome"),
        ("On Monday, we meet Bob", "We meet Bob on Monday"),
        ("Alice, Bob, and Carol came", "Alice, Bob and Carol came"),
        ("Great!", "Great."),
        ("R & D is in Rome", "R and D is in Rome"),
        ("the first release", "the 1st release"),
        ("THE TEA IS HOT", "The tea is hot"),
        ("Do NOT touch it", "Do not touch it"),
        ("I DON'T like tea", "I don't like tea"),
        ("We meet at 5 PM", "We meet at 5 pm"),
        ("The FIRST release", "The 1st release"),
        ("Username is the field", "username is the field"),
        ("We met Jean-Luc O'Brien", "we met jean-luc o'brien"),
    ],
)
def test_other_writings_of_one_statement_are_the_same(old: str, new: str) -> None:
    assert compare(old, new).relation is SAME
    assert compare(new, old).relation is SAME


@pytest.mark.parametrize(
    ("old", "new", "about"),
    [
        ("The port is 8080", "The port is 9090", "8080 / 9090"),
        ("port: 8080", "port: 9090", "8080 / 9090"),
        ("timeout=30", "timeout=60", "30 / 60"),
        ("Alice likes tea", "Alice does not like tea", "likes / does not like"),
        ("Alice likes tea", "Alice never likes tea", "likes / never likes"),
        ("User has no car", "User has a car", "no car / car"),
        ("the meeting is on Monday", "The meeting is on Tuesday.", "Monday / Tuesday"),
        ("The deadline is March 3", "The deadline is April 3", "March / April"),
        ("The deadline is 2026-03-03", "The deadline is 2026-03-04", "2026-03-03 / 2026-03-04"),
        ("User lives in Berlin", "User lives in Munich", "Berlin / Munich"),
        ("User lives in Berlin", "User moved to Munich", "Berlin / Munich"),
        ("User works at Google", "User works at Meta", "Google / Meta"),
        ("The capital of France is Paris", "The capital of France is Lyon", "Paris / Lyon"),
        ("My favourite colour is blue", "My favourite colour is green", "blue / green"),
        ("Alice's dog is called Rex", "Alice's dog is called Max", "Rex / Max"),
        ("We use v1.2", "We use v1.3", "v1.2 / v1.3"),
        ("The API costs $5 a month", "The API costs €5 a month", "$5 / €5"),
        ("The parcel weighs 5kg", "The parcel weighs 5g", "5kg / 5g"),
        ("The docs are at https://a.example/x", "The docs are at https://a.example/y", None),
        ("The config is in /etc/app.toml", "The config is in /etc/app2.toml", None),
        ("The email is a@b.example", "The email is c@b.example", None),
        ("The meeting is at 5pm", "The meeting is at 6pm", "5pm / 6pm"),
        ("Deploy before lunch", "Deploy after lunch", "before / after"),
        ("Alice always eats meat", "Alice never eats meat", "always / never"),
        ("We need more disks", "We need fewer disks", "more / fewer"),
        ("Please enable the cache", "Please disable the cache", "enable / disable"),
        ("The light is on", "The light is off", "on / off"),
        ("Turn left at the church", "Turn right at the church", "left / right"),
        ("The door is locked", "The door is unlocked", "locked / unlocked"),
        ("Alice loves tea", "Alice hates tea", "loves / hates"),
        ("Alice drinks tea with sugar", "Alice drinks tea without sugar", "with / without"),
        ("User prefers tabs", "User prefers spaces", "tabs / spaces"),
        ("User prefers dark mode", "User prefers light mode", "dark / light"),
        ("Bob is 6' tall", 'Bob is 6" tall', None),
    ],
)
def test_what_cannot_both_hold_is_a_rival_and_says_about_what(old: str, new: str, about: str | None) -> None:
    result = compare(old, new)
    assert result.relation is RIVAL
    assert compare(new, old).relation is RIVAL
    assert result.about == (about or result.about)
    assert " / " in result.about


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Alice likes tea", "Bob likes tea"),
        ("Alice likes tea", "Alice likes coffee"),
        ("Alice met Bob", "Alice met Carol"),
        ("Alice is tall", "Alice is a doctor"),
        ("A owes B money", "B owes A money"),
        ("Room 12 is free", "Room 13 is free"),
        ("Alice likes tea", "Alice likes tea?"),
        ("Alice has few friends", "Alice has a few friends"),
        ("User works at Google", "User works as an engineer"),
        ("User lives in Berlin", "User lives in Berlin, Germany"),
        ("User lives in Berlin", "User lives with Bob in Berlin"),
        ("The server is slow", "The server is in Frankfurt"),
        ("I ran 5 km on Monday", "I ran 6 km on Tuesday"),
        ("I told IT about it", "I told it about it"),
        ("We ship to us", "We ship to US"),
        ("10² metres", "102 metres"),
        ("temperature -5", "temperature 5"),
        ("Use C", "Use C++"),
        ("Great 👍", "Great 👎"),
        ("Let's eat, Grandma", "Let's eat Grandma"),
        ("!!!", "..."),
        ("x < 5", "x > 5"),
        ("in Maße", "in Masse"),
        ("The disk has 5 Mb", "The disk has 5 MB"),
        ("The link is 10Mb fast", "The link is 10MB fast"),
        ("The file is ~/src/app", "The file is ~/Src/app"),
        ("Is the port 8080?", "Is the port 9090?"),
        ("The week before 27 June", "The week before 9 June"),
        ("The variable is userName", "The variable is username"),
        ("mode:userName", "mode:username"),
        ("userName is the field", "username is the field"),
        ("CO is in the tank", "Co is in the tank"),
        ("We found CO's trace", "We found Co's trace"),
        ("NASA'll launch it", "Nasa'll launch it"),
        ("IT is broken", "It is broken"),
        ("I met MacDonald", "I met Macdonald"),
        ("The call is getValue()", "The call is getvalue()"),
        ("", "Alice"),
    ],
)
def test_what_may_both_hold_or_cannot_be_told_is_different(old: str, new: str) -> None:
    relation = compare(old, new).relation
    assert relation is not SAME
    assert compare(new, old).relation is relation
    if old not in {"We ship to us", "10² metres", "temperature -5", "x < 5", "The link is 10Mb fast"}:
        assert relation is DIFFERENT


@pytest.mark.parametrize("name", ["userName", "CO", "iOS", "APIs", "PhD"])
def test_texts_that_differ_in_case_inside_a_word_have_other_normal_forms(name: str) -> None:
    assert normal_form(f"It is {name}.") != normal_form(f"It is {name.lower()}.")
    assert normal_form(f"It is {name}.") == normal_form(f"it  is {name}")


SUBJECTS = ("Alice", "Bob", "the server", "my sister", "Dr. Jones", "team 7")
VERBS = ("likes", "is at", "has", "moved to", "runs", "met", "will visit", "paid", "lives in", "listens on", "deployed")
OBJECTS = ("tea", "port 8080", "Berlin", "v1.2.3", "3 cats", "$5.50", "https://x.example/a1", "/etc/app.toml", "Carol")
ENDINGS = (
    "",
    " on Monday",
    " at 5pm",
    " in March 2024",
    " before lunch",
    " with 2 friends",
    " since 2019-03-05",
    " twice",
)

sentences = st.tuples(*map(st.sampled_from, (SUBJECTS, VERBS, OBJECTS, ENDINGS))).map(
    lambda parts: f"{parts[0]} {parts[1]} {parts[2]}{parts[3]}"
)
several = st.lists(sentences, min_size=1, max_size=4).map(". ".join)
anything = st.text(max_size=60) | several


@given(anything)
def test_a_text_is_the_same_as_itself_in_any_case_and_spacing(text: str) -> None:
    assert compare(text, text).relation is SAME
    assert compare(text, f"\n {text}  ").relation is SAME
    if text.isascii():
        assert normal_form(" ".join(text.split())) == normal_form(text)


@given(several, several)
def test_relations_hold_both_ways(old: str, new: str) -> None:
    assert compare(old, new).relation is compare(new, old).relation


@given(st.text(max_size=40), st.text(max_size=40))
def test_relations_hold_both_ways_for_any_text(old: str, new: str) -> None:
    assert compare(old, new).relation is compare(new, old).relation


@given(several, st.data())
def test_another_digit_is_never_the_same(text: str, data: st.DataObject) -> None:
    places = [match.start() for match in re.finditer(r"\d", text)]
    assume(places)
    place = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from([digit for digit in "0123456789" if digit != text[place]]))
    assert compare(text, text[:place] + digit + text[place + 1 :]).relation is not SAME


@given(several, st.data())
def test_a_digit_more_or_less_is_never_the_same(text: str, data: st.DataObject) -> None:
    places = [match.start() for match in re.finditer(r"\d", text)]
    assume(places)
    place = data.draw(st.sampled_from(places))
    assert compare(text, text[:place] + text[place + 1 :]).relation is not SAME
    assert compare(text, text[:place] + data.draw(st.sampled_from("123456789")) + text[place:]).relation is not SAME


NAMES = ("Alice", "Bob", "Berlin", "Carol", "Jones", "Monday", "March")


@given(several, st.data())
def test_another_name_or_date_is_never_the_same(text: str, data: st.DataObject) -> None:
    there = [name for name in NAMES if name in text]
    assume(there)
    old = data.draw(st.sampled_from(there))
    new = data.draw(st.sampled_from([*NAMES, "Dave", "Tuesday", "April", "Paris"]).filter(lambda name: name != old))
    assert compare(text, text.replace(old, new, 1)).relation is not SAME


@given(several, st.data(), st.sampled_from(["not", "never", "no", "without", "don't", "hardly"]))
def test_a_negation_more_is_never_the_same(text: str, data: st.DataObject, negation: str) -> None:
    words = text.split(" ")
    place = data.draw(st.integers(0, len(words)))
    assert compare(text, " ".join([*words[:place], negation, *words[place:]])).relation is not SAME


@given(several, st.data())
def test_a_word_less_is_only_the_same_if_it_was_an_article(text: str, data: st.DataObject) -> None:
    words = text.split(" ")
    assume(len(words) > 1)
    place = data.draw(st.integers(0, len(words) - 1))
    assume(words[place].lower() not in {"the", "a", "an"})
    assert compare(text, " ".join(words[:place] + words[place + 1 :])).relation is not SAME


@given(several, st.data())
def test_words_in_another_order_are_not_the_same(text: str, data: st.DataObject) -> None:
    words = text.split(" ")
    place = data.draw(st.integers(0, len(words) - 1))
    other = data.draw(st.integers(0, len(words) - 1))
    assume(words[place] != words[other] and not {words[place].lower(), words[other].lower()} & {"the"})
    words[place], words[other] = words[other], words[place]
    changed = " ".join(words)
    assume(changed.replace(".", "") != text.replace(".", ""))
    assert compare(text, changed).relation is not SAME


@pytest.mark.timeout(30)
@pytest.mark.parametrize("unit", ["a ", "Alice likes tea. ", "1 ", "not ", ". ", '"', "one hundred ", "x=1 ", "don't "])
def test_long_texts_are_compared_in_linear_time(unit: str) -> None:
    text = unit * (30_000 // len(unit))
    assert compare(text, text + "end").relation is not SAME
    assert compare("start " + text, text).relation is not SAME
