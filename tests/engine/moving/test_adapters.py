"""What callers do with versions of adapters: one that nobody judged is judged before it serves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.errors import Cancelled, Conflict, NotFound
from tests.engine.moving.conftest import Tried
from tests.engine.stores import ME


def test_one_that_came_from_elsewhere_is_judged_and_refused_where_it_knows_nothing(tried: Tried) -> None:
    row = tried.keep(tried.ids, judged=None, made="installed")
    (view,) = tried.memos.adapters("home", ME)
    assert (view.state, view.judged) == ("resting", None)
    with pytest.raises(Conflict, match="did not pass"):
        tried.memos.activate_adapter("home", row.version, ME)
    (view,) = tried.memos.adapters("home", ME)
    assert view.state == "failed"
    assert view.judged.right == 0.0
    assert view.known == ()
    assert tried.serving() is None


def test_judging_can_be_stopped_and_changes_nothing_then(tried: Tried) -> None:
    row = tried.keep(tried.ids[:2], judged=None, made="installed")

    def stop(done: float, total: float | None, message: str) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        tried.memos.activate_adapter("home", row.version, ME, progress=stop)
    (view,) = tried.memos.adapters("home", ME)
    assert (view.state, view.judged) == ("resting", None)


def test_an_adapter_that_changes_nothing_answers_as_the_model_does(tried: Tried) -> None:
    tried.keep(tried.ids[:2])
    probes = tried.memos.probe_adapter("home", 0, tried.ids[:1], ME)
    assert probes
    assert {probe.memory for probe in probes} == {tried.ids[0]}
    assert all(probe.before == probe.after and not probe.right_after for probe in probes)
    compared = tried.memos.compare_adapters("home", 0, 1, ME)
    assert {probe.memory for probe in compared} == set(tried.ids[:2])
    with pytest.raises(NotFound):
        tried.memos.probe_adapter("home", 7, (), ME)
    with pytest.raises(NotFound):
        tried.memos.probe_adapter("home", 0, (tried.ids[3],), ME)


def test_a_version_serves_again_after_a_restart(tried: Tried) -> None:
    first = tried.keep(tried.ids[:2])
    tried.keep(tried.ids[:3])
    assert tried.memos.activate_adapter("home", first.version, ME, "the second says less").version == 1
    assert tried.serving() == 1
    assert tried.memos.audit(ME)[-1].reason == "the second says less"
    settings = replace(tried.memos._parts.vault.settings)
    tried.memos.close()
    with type(tried.memos).open(settings) as again:
        assert dict(again.status(ME).adapters) == {"home": "version 1 knows 2 of 2 memories"}
