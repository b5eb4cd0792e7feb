"""Where the reader is and why it fails: what is a secret is shown to nobody, the rest to the owner alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cubes import Action
from engine.operations import Caller, Facts, Principal, Remember, Turn
from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.stores import ME, opened

LIVES = "I live in Porto these days."
SECRET = "hunter2"
TALK = Remember(messages=(Turn("user", LIVES),), facts=Facts.WAIT)


@pytest.mark.parametrize(
    "where", ["http://ann:{}@{}/v1", "http://{1}/{0}/v1", "http://{1}/v1?key={0}", "htp://ann:{}@{}"]
)
def test_what_stands_in_the_url_of_a_reader_is_shown_to_nobody(
    settings: Settings, clock: HandClock, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    caplog.set_level("DEBUG")
    with opened(replace(settings, reader=where.format(SECRET, "127.0.0.1:1")), clock) as memos:
        shown = memos.status(ME).reader
        result = memos.remember(TALK, ME)
        assert "facts were not drawn yet" in result.remarks[0]
        told = [shown, memos.status(ME), result.remarks, memos.work(ME), caplog.text]
    assert SECRET not in str(told)


def test_why_a_reader_fails_is_told_to_the_owner_alone(settings: Settings, clock: HandClock) -> None:
    bob = Caller(Principal("bob", False, (("default", (Action.READ, Action.WRITE)),)))
    place = "127.0.0.1:1"
    with opened(replace(settings, reader=f"http://{place}/v1"), clock) as memos:
        memos.remember(TALK, ME)
        known = memos.remember(Remember(messages=(Turn("user", "Good evening."),), facts=Facts.LATER), bob)
        waited = memos.remember(Remember(messages=(Turn("user", "Good night."),), facts=Facts.WAIT), bob)
        for result in (known, waited):
            assert "the reader cannot be reached" in result.remarks[0]
        told = [known.remarks, waited.remarks, memos.status(bob), memos.work(bob)]
        assert memos.status(bob).work
        assert not any(word in str(told) for word in ("127.0.0.1", "MEMOS_READER"))
        assert "127.0.0.1" in (memos.status(ME).reader or "")
