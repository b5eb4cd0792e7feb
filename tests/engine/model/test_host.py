"""The host loads one model when it is needed, keeps it while it is used, and says how it stands."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import Busy, NotFound, Unavailable
from engine.model.host import ModelHost, Stage
from engine.model.loading import Loaded
from engine.settings import Settings
from tests.conftest import LONG_S, until
from tests.engine.model.saved import saved, settings

torch.set_num_threads(1)
HOUR_S = 3_600.0
Hosts = Callable[..., ModelHost]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved(tmp_path_factory.mktemp("first")))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved(tmp_path_factory.mktemp("second"), "llama", template=None))


@pytest.fixture
def hosts(tmp_path: Path, first: str) -> Iterator[Hosts]:
    """Makes hosts whose settings name the first model, and closes them."""
    made: list[ModelHost] = []

    def make(announce: Callable[[str], None] = lambda _: None, **more: object) -> ModelHost:
        chosen: Settings = replace(settings(tmp_path), **({"model": first} | more))  # type: ignore[arg-type]
        made.append(ModelHost(chosen, announce))
        return made[-1]

    yield make
    for host in made:
        host.close()


def layers_of(loaded: Loaded) -> int:
    return int(loaded.model.config.num_hidden_layers)


class Gate:
    """Holds up whoever announces something, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, _: str) -> None:
        self.reached.set()
        assert self.open.wait(LONG_S)


def test_the_model_is_loaded_when_it_is_first_asked_and_then_stays(hosts: Hosts, first: str) -> None:
    host = hosts()
    assert (host.state.stage, host.info) == (Stage.UNLOADED, None)
    runner = host.runner()
    assert (host.state.stage, host.state.source) == (Stage.READY, first)
    assert host.info == runner.loaded.info
    assert runner.call(layers_of) == 3
    assert host.runner() is runner is host.runner(first)


def test_without_a_model_or_with_a_remote_one_it_says_so(hosts: Hosts) -> None:
    with pytest.raises(Unavailable, match="MEMOS_MODEL"):
        hosts(model=None).runner()
    for url in ("http://localhost:1/v1", "HTTPS://example.org"):
        with pytest.raises(Unavailable, match="remote"):
            hosts().runner(url)


def test_many_ask_at_once_and_it_is_loaded_once(hosts: Hosts, second: str) -> None:
    said: list[str] = []
    host = hosts(said.append, model=second)
    with ThreadPoolExecutor(6) as pool:
        runners = set(pool.map(lambda _: host.runner(), range(6)))
    assert len(runners) == 1
    assert len(said) == 1  # that it has no chat template


def test_the_state_is_seen_while_it_loads_and_another_model_has_to_wait(hosts: Hosts, first: str, second: str) -> None:
    gate = Gate()
    host = hosts(gate)
    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(host.runner, second)
        assert gate.reached.wait(LONG_S)
        assert (host.state.stage, host.state.source, host.info) == (Stage.LOADING, second, None)
        with pytest.raises(Busy, match="is being loaded"):
            host.runner(first)
        also = pool.submit(host.runner, second)
        gate.open.set()
        assert loading.result(LONG_S) is also.result(LONG_S)
    assert host.state.stage is Stage.READY


def test_another_model_takes_its_place_only_when_it_is_idle(hosts: Hosts, first: str, second: str) -> None:
    host = hosts()
    runner = host.runner()
    with host.in_use(), pytest.raises(Busy, match="at work"):
        host.runner(second)
    go_on = threading.Event()

    def job(_: Loaded) -> Iterator[int]:
        yield 1
        assert go_on.wait(LONG_S)
        yield 2

    results = runner.stream(job)
    assert next(results) == 1
    with pytest.raises(Busy, match="at work"):
        host.runner(second)
    with pytest.raises(Busy, match="at work"):
        host.unload()
    go_on.set()
    assert list(results) == [2]
    until(lambda: not runner.busy, "the job is over")
    other = host.runner(second)
    assert other.loaded.info.family == "llama"
    assert (host.state.source, host.info) == (second, other.loaded.info)
    with pytest.raises(Unavailable, match="unloaded"):
        runner.call(layers_of)
    assert host.runner(first) is not runner


def test_there_are_never_two_models_in_memory_whoever_still_holds_the_runner(
    hosts: Hosts, first: str, second: str
) -> None:
    there: list[bool] = []
    host = hosts(lambda _: there.append(model() is not None))  # the second one is announced before its weights are read
    runner = host.runner()
    model = weakref.ref(runner.loaded.model)
    host.runner(second)
    assert there == [False]
    with pytest.raises(Unavailable, match="unloaded"):
        runner.loaded  # noqa: B018 - it raises
    assert runner is not host.runner(first)


def test_a_model_that_is_not_there_leaves_the_loaded_one_alone(hosts: Hosts, first: str, tmp_path: Path) -> None:
    host = hosts()
    runner = host.runner()
    with pytest.raises(NotFound):
        host.runner(str(tmp_path / "nowhere"))
    assert (host.state.stage, host.state.source) == (Stage.READY, first)
    assert host.runner() is runner


def test_a_failure_is_remembered_with_its_reason_and_tried_again(hosts: Hosts, tmp_path: Path) -> None:
    place = tmp_path / "model"
    host = hosts(model=str(place))
    with pytest.raises(NotFound, match="does not exist"):
        host.runner()
    assert host.state.stage is Stage.FAILED
    assert host.state.source == str(place)
    assert "does not exist" in host.state.reason
    saved(place)
    assert host.runner().call(layers_of) == 3
    assert (host.state.stage, host.state.reason) == (Stage.READY, "")


def test_those_who_waited_for_a_load_that_failed_are_told_why(hosts: Hosts, tmp_path: Path) -> None:
    place = saved(tmp_path / "model", template=None)  # the missing template is announced before the weights are read
    weights = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(weights[:-100])
    gate = Gate()
    host = hosts(gate, model=str(place))
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(host.runner)]
        assert gate.reached.wait(LONG_S)
        asked += [pool.submit(host.runner) for _ in range(2)]
        gate.open.set()
        reasons = {str(one.exception(LONG_S)) for one in asked}
    assert len(reasons) == 1
    assert "damaged" in reasons.pop()
    assert host.state.stage is Stage.FAILED


def test_it_is_unloaded_when_nobody_used_it_for_long_enough_and_loaded_again(hosts: Hosts) -> None:
    host = hosts(model_idle_s=HOUR_S)
    runner, now = host.runner(), time.monotonic()
    info, model = runner.loaded.info, weakref.ref(runner.loaded.model)
    assert not host.unload_if_idle(now + HOUR_S / 2)
    with host.in_use():
        assert not host.unload_if_idle(now + 2 * HOUR_S)
    assert host.unload_if_idle(now + 2 * HOUR_S)
    assert model() is None  # although its runner is still held here
    assert not host.unload_if_idle(now + 3 * HOUR_S)
    assert host.state.stage is Stage.UNLOADED
    assert host.info == info  # what it was is still known
    with pytest.raises(Unavailable, match="unloaded"):
        runner.call(layers_of)
    assert host.runner().call(layers_of) == 3


def test_using_it_puts_off_the_unloading(hosts: Hosts) -> None:
    host = hosts(model_idle_s=HOUR_S)
    host.runner()
    loaded_at = time.monotonic()
    until(lambda: time.monotonic() > loaded_at, "the clock moves")
    with host.in_use():
        pass
    assert not host.unload_if_idle(loaded_at + HOUR_S)
    assert host.unload_if_idle(time.monotonic() + HOUR_S)


def test_unloading_by_hand_frees_it_at_once(hosts: Hosts) -> None:
    host = hosts()
    assert not host.unload()
    host.runner()
    assert host.unload()
    assert host.state.stage is Stage.UNLOADED


def test_closing_ends_what_runs_and_what_loads(hosts: Hosts, first: str, second: str) -> None:
    host = hosts()
    runner = host.runner()
    results = runner.stream(lambda _: iter(int, 1))  # without end
    assert next(results) == 0
    host.close()
    with pytest.raises(Unavailable, match="unloaded"):
        for _ in results:
            pass
    with pytest.raises(Unavailable, match="ending"):
        host.runner(first)
    gate = Gate()
    host = hosts(gate)
    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(host.runner, second)
        assert gate.reached.wait(LONG_S)
        waiting = pool.submit(host.runner, second)
        host.close()
        gate.open.set()
        for asked in (loading, waiting):
            with pytest.raises(Unavailable, match="ending"):
                asked.result(LONG_S)
