"""Statements are asked about in whole questions to train with, and in other phrasings that are held out."""

from __future__ import annotations

import pytest

from engine.text.statements import stated
from engine.tiers.lora import phrasings

TEXTS = (
    "The capital of France is Paris.",
    "Anna's birthday is on 3 May",
    "The deploy key lives in vault 7",
    "We moved the launch to Friday",
    "Wifi password: hunter2",
    "The deploy keys are in the safe",
    "I prefer dark mode.",
)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("The capital of France is Paris.", "What is the capital of France?"),
        ("Anna's birthday is on 3 May", "What is Anna's birthday?"),
        ("The deploy key lives in vault 7", "Where does the deploy key live?"),
        ("We moved the launch to Friday", "When did we move the launch?"),
        ("We moved the launch to Friday", "What did we move to Friday?"),
        ("The deploy keys are in the safe", "Where are the deploy keys?"),
        ("The meeting with Tom is at 3pm", "When is the meeting with Tom?"),
        ("I prefer dark mode.", "What do I prefer?"),
        ("Bob works at Acme as an engineer.", "What does Bob work at Acme as?"),
        ("Grandmother went to Lisbon", "Where did Grandmother go?"),
        ("The tests carried the bug into production", "Where did the tests carry the bug?"),
        ("Lena stopped the build on Monday", "When did Lena stop the build?"),
        ("The team created the index in May", "When did the team create the index?"),
        ("The hook watches files in the vault", "Where does the hook watch files?"),
    ],
)
def test_a_statement_is_asked_about_in_english(text: str, question: str):
    assert question in [asked for one in stated(text) for _, asked in phrasings.study(one)]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_held_out_is_never_trained_with_and_gives_nothing_away(text: str):
    for one in stated(text):
        study, held = ({asked for _, asked in some} for some in (phrasings.study(one), phrasings.held_out(one)))
        assert len(study) >= 3
        assert len(held) >= 3
        assert not study & held
        assert not any(one.value.lower() in asked.lower() for asked in study | held)
