"""Which statements of a model turns bear out: other words of the same are let through, other things are not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cubes import Descriptive, Kind, Memory, State
from engine.reader.evidence import borne_out
from engine.reader.turns import Said, Window
from engine.text.dates import find

AT = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday
SAID = (
    ("Caroline", "Hey Mel! I went to a LGBTQ support group yesterday and it was so powerful."),
    ("Melanie", "Wow, that's cool, Caroline! What happened that was so awesome?"),
    ("Caroline", "The transgender stories were so inspiring! I was so thankful for all the support."),
    ("Melanie", "I painted that lake sunrise last year! It's special to me."),
    ("user", "I've got two kids, Tom (7) and Lea. We don't have any pets."),
    ("assistant", "Do you still work at Siemens?"),
    ("user", "No, I quit in May. I'm with a startup called Lumo now, as a backend engineer."),
    ("user", "I can't stand cilantro, and please keep your answers short."),
    ("user", "My dentist appointment is next Tuesday at 3pm."),
    ("Bob", "Where do you live these days, Anna?"),
    ("Anna", "In Lisbon."),
    ("Bob", "She moved there for her sister Nora."),
)


def turn(number: int, speaker: str, text: str) -> Said:
    about = Descriptive(
        f"m_{number}", Kind.MESSAGE, AT, AT, AT, actor=speaker, role="user", session="s", position=number
    )
    return Said(Memory("talk", text, 1, State.GENERATED, about))


WINDOW = Window(tuple(turn(number, *said) for number, said in enumerate(SAID, 1)))


def is_borne_out(number: int, text: str) -> bool:
    turns = (WINDOW.turns[number - 1],)
    return borne_out(text, turns, WINDOW, find(text, AT))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "Caroline went to an LGBTQ support group yesterday and found it powerful."),
        (1, "Caroline attended an LGBTQ support group on 3 March 2026."),
        (3, "Caroline found the transgender stories inspiring."),
        (4, "Melanie painted a lake sunrise in 2025."),
        (5, "The user has two children, Tom and Lea."),
        (5, "The user has 2 kids: Tom, who is 7, and Lea."),
        (5, "The user has no pets."),
        (7, "The user no longer works at Siemens."),
        (7, "The user works as a backend engineer at a startup called Lumo."),
        (8, "The user dislikes cilantro."),
        (8, "The user wants the assistant to keep its answers short."),
        (9, "The user has a dentist appointment next Tuesday at 3pm."),
        (9, "The user has a dentist appointment on 10 March 2026 at 3pm."),
        (11, "Anna lives in Lisbon."),
        (12, "Anna moved to Lisbon for her sister Nora."),
    ],
)
def test_what_turns_say_may_be_said_in_other_words(number: int, text: str) -> None:
    assert is_borne_out(number, text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "Caroline went to a chess club yesterday."),
        (1, "Caroline went to an LGBTQ support group on 1 March 2026."),
        (1, "Melanie went to an LGBTQ support group yesterday."),
        (1, "Caroline did not go to an LGBTQ support group."),
        (4, "Caroline painted a lake sunrise last year."),
        (5, "The user has three kids, Tom and Lea."),
        (5, "The user has pets."),
        (7, "The user works at Siemens."),
        (7, "The user works as a backend engineer at a startup called Nexo."),
        (8, "The user likes cilantro."),
        (9, "The user has a dentist appointment on 17 March 2026."),
        (11, "Bob lives in Lisbon."),
        (12, "Anna moved to Madrid for her sister Nora."),
    ],
)
def test_what_turns_do_not_say_is_not_borne_out(number: int, text: str) -> None:
    assert not is_borne_out(number, text)
