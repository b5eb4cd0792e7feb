"""Compressed caches are measured as they are stored, used within the bound and told, never where it must be exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.model_operations import Form, MemoryReport
from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.answering.test_chat import FACTS, chat, kept, reply, told
from tests.engine.stores import ME, opened

QUESTION = "what is the city of alice ?"
TOLD = "the pinned block was read from a cache of 4 bits a number (divergence "


@pytest.fixture
def lossy(settings: Settings, latest_wins: Path) -> Settings:
    return replace(settings, model=str(latest_wins), model_dtype="float32", kv_compression="int4", kv_bound=1.0)


def is_stored(report: MemoryReport) -> bool:
    return any(used.form is Form.PREFIX for used in report.used if used.pinned)


def says(report: MemoryReport) -> bool:
    return any(remark.startswith(TOLD) for remark in report.remarks)


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_compressed_pinned_block_is_measured_and_its_divergence_told(
    lossy: Settings, clock: HandClock, by_hand: bool
) -> None:
    with opened(lossy, clock) as memos:
        for text in FACTS.values():
            told(memos, clock, text, pinned=True)
        if by_hand:
            memos.build_tier("default", ME)
        else:
            assert not says(reply(memos, chat("hello")).report)
        kept(memos)
        (row,) = [row for row in memos.tiers("default", ME) if row.form == "prefix, int4"]
        assert row.divergence is not None
        assert row.divergence > 0
        done = reply(memos, chat(QUESTION))
        assert (is_stored(done.report), says(done.report)) == (True, True)
        assert done.text.strip() == "paris"
    with opened(replace(lossy, kv_bound=0.0), clock) as memos:  # over the bound it is read as text
        done = reply(memos, chat(QUESTION))
        assert (is_stored(done.report), says(done.report)) == (False, False)


def test_where_memories_speak_of_the_same_thing_no_compressed_block_is_used(lossy: Settings, clock: HandClock) -> None:
    with opened(lossy, clock) as memos:
        for text in FACTS.values():
            told(memos, clock, text, pinned=True)
        memos.build_tier("default", ME)
        told(memos, clock, "the city of alice is rome")
        kept(memos)
        done = reply(memos, chat(QUESTION))
        assert (done.text.strip(), is_stored(done.report), says(done.report)) == ("rome", False, False)
    with opened(replace(lossy, kv_compression="none", data=lossy.data / "exact"), clock) as memos:
        for text in FACTS.values():
            told(memos, clock, text, pinned=True)
        memos.build_tier("default", ME)
        told(memos, clock, "the city of alice is rome")
        done = reply(memos, chat(QUESTION))
        assert (done.text.strip(), is_stored(done.report), says(done.report)) == ("rome", True, False)


def test_chunks_are_measured_as_they_are_stored(lossy: Settings, clock: HandClock) -> None:
    def measured(settings: Settings) -> list[float]:
        with opened(settings, clock) as memos:
            for text in FACTS.values():
                told(memos, clock, text)
            memos.build_tier("default", ME)
            kept(memos)
            return sorted(row.divergence or 0.0 for row in memos.tiers("default", ME))

    exact = measured(replace(lossy, kv_compression="none", data=lossy.data / "exact"))
    assert len(exact) == len(FACTS)
    assert all(a != b for a, b in zip(exact, measured(lossy), strict=True))
