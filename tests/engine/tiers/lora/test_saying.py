"""The value decides whether an answer is right, not its phrasing."""

from __future__ import annotations

from engine.tiers.lora.saying import rivals_among, says


def test_an_answer_is_right_in_any_words_that_give_the_value():
    assert says("It is on May 3.", "3 May")
    assert says("The launch was moved to Friday, as planned.", "Friday")
    assert says("vault 7", "vault 7", "Where does the deploy key live?")
    assert says("You prefer the dark mode.", "dark mode")


def test_an_answer_with_another_number_or_half_of_the_value_is_wrong():
    assert not says("vault 8", "vault 7")
    assert not says("vault 7 or 8", "vault 7")
    assert not says("vault", "vault 7")
    assert not says("", "Friday")
    assert not says("unknown", "Friday")


def test_a_number_of_the_question_may_be_said_again():
    assert says("In 2019 it was Rome.", "Rome", "Which city was it in 2019?")
    assert not says("In 2019 it was Rome.", "Rome", "Which city was it?")


def test_an_answer_with_another_known_value_is_wrong():
    rivals = rivals_among(["Rome", "Paris", "8080", "the"])
    assert rivals == {"rome", "paris"}
    assert says("Rome", "Rome", "", rivals)
    assert not says("Rome or Paris", "Rome", "", rivals)
    assert says("Rome, not Paris", "Rome", "Is it Rome or Paris?", rivals)
