"""The local model as the reader: whatever it is, it writes what was asked for, and people's replies go first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.answering.asking import LocalAsker
from engine.errors import Cancelled, TooLarge
from engine.memos import MemOS
from engine.model_operations import ChatTurn
from engine.operations import Facts, Remember, Turn
from engine.reader.extraction import MOST_ANSWER_TOKENS, RULES
from engine.settings import Settings
from engine.text.json_forms import List, Object, Text, Word, parse
from engine.tier_operations import WorkState
from tests.conftest import HandClock
from tests.engine.model.saved import saved
from tests.engine.stores import ME, opened

FORM = Object((("views", List(Word(("same", "different")), 4, 4)), ("why", Text(20, 1))))
TALK = (Turn("user", "I live in Porto these days.", "Anna"),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights: it understands nothing."""
    return saved(tmp_path_factory.mktemp("model"))


def never() -> bool:
    return False


@pytest.fixture
def reading(settings: Settings, model: Path) -> Settings:
    return replace(settings, reader="model", model=str(model), model_device="cpu", lora=False)


def asker_of(memos: MemOS) -> Any:
    return LocalAsker(memos._answering)


def test_a_model_that_understands_nothing_writes_json_of_the_form(reading: Settings, clock: HandClock) -> None:
    with opened(reading, clock) as memos:
        asker = asker_of(memos)
        said = asker.ask((ChatTurn("system", RULES), ChatTurn("user", "Compare.")), FORM, 400, never)
        assert parse(FORM, said) == json.loads(said)
        assert asker.private
        assert asker.name == memos.model(ME).name  # type: ignore[union-attr]


def test_turns_that_do_not_fit_are_told_so_and_nobody_who_left_is_answered(reading: Settings, clock: HandClock) -> None:
    small = replace(reading, model_context_tokens=900)
    with opened(small, clock) as memos:
        asker = asker_of(memos)
        with pytest.raises(TooLarge):
            asker.ask((ChatTurn("system", RULES), ChatTurn("user", "word " * 400)), FORM, MOST_ANSWER_TOKENS, never)
        with pytest.raises(Cancelled):
            asker.ask((ChatTurn("user", "Compare."),), FORM, 400, lambda: True)


def test_what_such_a_model_makes_up_is_not_kept(reading: Settings, clock: HandClock) -> None:
    with opened(replace(reading, model_context_tokens=4_096), clock) as memos:
        result = memos.remember(Remember(messages=TALK, facts=Facts.WAIT), ME)
        assert not result.facts
        (view,) = memos.work(ME)
        assert view.state is WorkState.DONE
        assert "0 facts were drawn from 1 turns" in view.told
        assert memos.status(ME).reader == "the local model"


def test_a_reader_without_a_model_waits_for_one(settings: Settings, clock: HandClock) -> None:
    with opened(replace(settings, reader="model", model=None), clock) as memos:
        result = memos.remember(Remember(messages=TALK, facts=Facts.WAIT), ME)
        assert len(result.stored) == 1
        assert "no model is configured" in result.remarks[0]


def test_a_model_whose_vocabulary_has_no_json_is_told_by_name_of_its_setting(
    settings: Settings, clock: HandClock, latest_wins: Path
) -> None:
    with opened(replace(settings, reader="model", model=str(latest_wins), model_device="cpu"), clock) as memos:
        result = memos.remember(Remember(messages=TALK, facts=Facts.WAIT), ME)
        assert not result.facts
        assert "cannot spell JSON" in result.remarks[0]
