"""Building in the background holds up nothing: no model that is to be unloaded, no end of the process."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.answering.local import LocalModel
from engine.errors import Unavailable
from engine.memos import MemOS
from engine.model.loading import Loaded
from engine.model_operations import Form, MemoryUse, Tier
from engine.settings import Settings
from engine.vault import queries
from tests.conftest import LONG_S, HandClock, until
from tests.engine.answering.test_chat import FACTS, chat, reply, told
from tests.engine.stores import ME, opened


@pytest.fixture
def building(settings: Settings, latest_wins: Path, clock: HandClock) -> Iterator[MemOS]:
    """A store whose memories are asked for as chunks, so that each is built at its first use."""
    with opened(replace(settings, model=str(latest_wins), model_dtype="float32", model_idle_s=0), clock) as memos:
        told(memos, clock, FACTS["alice"])
        yield memos


def ask_for_chunks(memos: MemOS) -> LocalModel:
    reply(memos, chat("what is the city of alice ?", memory=MemoryUse(tiers=(Tier.KV,))))
    local = memos._answering._local
    assert local is not None
    return local


def test_a_model_that_built_something_is_let_go_of_when_it_is_unloaded(building: MemOS) -> None:
    local = ask_for_chunks(building)
    until(lambda: building.tiers("default", ME), "a chunk is built")
    model = weakref.ref(local.host.runner().loaded.model)
    until(lambda: local.host.unload_if_idle(time.monotonic() + 1), "the model is idle")

    def let_go() -> bool:
        gc.collect()
        return model() is None

    until(let_go, "nothing holds the model")


def test_the_end_does_not_wait_for_a_build_that_waits_for_a_reply(building: MemOS) -> None:
    local = ask_for_chunks(building)
    until(lambda: building.tiers("default", ME), "a chunk is built")
    building.drop_tier("default", ME)

    def endless(loaded: Loaded) -> Iterator[None]:
        while True:
            yield None

    runner = local.host.runner()
    reading = runner.stream(endless)
    next(reading)
    with building._parts.vault.reading() as connection:
        memories = [record.memory for record in queries.live(connection, "default")]
    local._builder._wanted.clear()
    local._builder.want(runner, memories, at_once=True)
    until(lambda: runner._background, "the build waits for its turn")
    ending = threading.Thread(target=building._answering.close, daemon=True)
    ending.start()
    ending.join(LONG_S)
    assert not ending.is_alive()
    with pytest.raises(Unavailable):
        list(reading)


def test_what_was_measured_with_another_share_of_recomputed_tokens_is_measured_again(
    settings: Settings, latest_wins: Path, clock: HandClock
) -> None:
    exact = replace(settings, model=str(latest_wins), model_dtype="float32", kv_share=1.0, kv_bound=10.0)
    asked = chat("what is the city of alice ?", memory=MemoryUse(tiers=(Tier.KV,)))
    with opened(exact, clock) as memos:
        told(memos, clock, FACTS["alice"])
        memos.build_tier("default", ME)
        assert {used.form for used in reply(memos, asked).report.used} == {Form.CHUNK}
    with opened(replace(exact, kv_share=0.0), clock) as memos:
        first = reply(memos, asked)
        assert {used.form for used in first.report.used} == {Form.TEXT}
        assert any("is unknown here" in remark for remark in first.report.remarks)
        until(lambda: {used.form for used in reply(memos, asked).report.used} == {Form.CHUNK}, "the chunk")
