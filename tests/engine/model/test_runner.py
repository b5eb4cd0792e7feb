from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from engine.errors import Busy, Unavailable
from engine.model.generation import generate
from engine.model.prompts import lay_out
from engine.model.runner import Runner
from engine.model_operations import ChatTurn, Sampling
from engine.tiers.kv.tensors import WorkingCache
from tests.conftest import LONG_S, until
from tests.engine.model import small

Job = Callable[[small.Small], Iterator[str]]
THREADS, CALLS = 12, 25


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner(small.Small(None, None, small.info(), None, None))  # type: ignore[arg-type]
    yield runner
    runner.close()
    assert not runner.busy


class Noted:
    """Jobs that note their steps, and whether and where they were closed."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.closed: dict[str, str] = {}

    def job(self, name: str, steps: int = 1_000_000_000) -> Job:
        def work(_: small.Small) -> Iterator[str]:
            try:
                for number in range(steps):
                    self.steps.append(name)
                    yield f"{name}{number}"
            finally:
                self.closed[name] = threading.current_thread().name

        return work


class Gate:
    """Holds the model's thread in a step until it is opened."""

    def __init__(self, runner: Runner) -> None:
        self._open, self._reached = threading.Event(), threading.Event()
        self._results = runner.stream(self._wait)
        assert self._reached.wait(LONG_S)

    def _wait(self, _: small.Small) -> Iterator[None]:
        self._reached.set()
        assert self._open.wait(LONG_S)
        yield None

    def open(self) -> None:
        self._open.set()
        assert list(self._results) == [None]


def test_what_a_job_yields_comes_to_its_caller_in_order(runner: Runner) -> None:
    assert list(runner.stream(Noted().job("a", 5))) == ["a0", "a1", "a2", "a3", "a4"]
    assert list(runner.stream(Noted().job("a", 0))) == []


def test_a_call_gives_what_the_work_gives_and_runs_on_the_models_thread(runner: Runner) -> None:
    assert runner.call(lambda loaded: (loaded.info.source, threading.current_thread().name)) == ("small", "model")
    assert runner.call(lambda _: None) is None
    assert runner.call(lambda _: torch.is_inference_mode_enabled())


def test_foreground_jobs_take_turns_and_background_jobs_wait(runner: Runner) -> None:
    gate, noted = Gate(runner), Noted()
    behind = runner.stream(noted.job("x", 2), background=True)
    also_behind = runner.stream(noted.job("y", 2), background=True)
    jobs = [runner.stream(noted.job(name, 3)) for name in "abc"]
    gate.open()
    for results in (*jobs, behind, also_behind):
        list(results)
    assert "".join(noted.steps) == "abcabcabcxyxy"


def test_a_new_request_has_its_first_result_while_long_ones_go_on(runner: Runner) -> None:
    noted = Noted()
    long = [runner.stream(noted.job(name)) for name in "ab"]
    assert next(runner.stream(noted.job("new", 1))) == "new0"
    assert noted.closed.keys() <= {"new"}
    for results in long:
        results.close()
    until(lambda: {"a", "b"} <= noted.closed.keys(), "the long ones are closed")


def test_a_background_job_stands_still_while_there_is_a_foreground_job(runner: Runner) -> None:
    noted = Noted()
    behind = runner.stream(noted.job("x"), background=True)
    next(behind)
    ahead = runner.stream(noted.job("a"))
    next(ahead)
    gate = Gate(runner)
    start = len(noted.steps)
    gate.open()
    until(lambda: len(noted.steps) > start + 1_000, "the foreground job goes on")
    assert set(noted.steps[start:]) == {"a"}
    ahead.close()
    until(lambda: noted.steps[-1] == "x", "the background job goes on")
    behind.close()


def closed(results: Iterator[str]) -> None:
    results.close()  # type: ignore[attr-defined]


def let_go(_: Iterator[str]) -> None:
    gc.collect()


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("give_up", [closed, let_go])
def test_results_that_are_closed_or_let_go_end_their_job(
    runner: Runner, give_up: Callable[[Iterator[str]], None], background: bool
) -> None:
    noted = Noted()
    results = runner.stream(noted.job("a"), background=background)
    assert next(results) == "a0"
    give_up(results)
    del results
    assert until(lambda: noted.closed, "the job is closed") == {"a": "model"}
    until(lambda: not runner.busy, "nothing is left")


def test_a_caller_that_fails_or_breaks_off_ends_its_job(runner: Runner) -> None:
    noted = Noted()

    def fail() -> None:
        for _ in runner.stream(noted.job("a")):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for _ in runner.stream(noted.job("b")):
        break
    with runner.stream(noted.job("c")) as results:
        next(results)
    assert list(results) == []
    until(lambda: set(noted.closed) == {"a", "b", "c"}, "the jobs are closed")


def test_a_background_job_that_is_given_up_ends_although_others_are_busy(runner: Runner) -> None:
    noted = Noted()
    behind = runner.stream(noted.job("x"), background=True)
    next(behind)
    ahead = runner.stream(noted.job("a"))
    behind.close()
    until(lambda: "x" in noted.closed, "the job is closed")
    assert runner.busy
    ahead.close()


def test_a_job_that_is_given_up_before_its_first_step_never_runs(runner: Runner) -> None:
    gate, noted = Gate(runner), Noted()
    runner.stream(noted.job("a")).close()
    kept = runner.stream(noted.job("b", 1))
    gate.open()
    assert list(kept) == ["b0"]
    assert noted.steps == ["b"]


def test_what_a_job_raises_is_raised_at_its_caller_and_nowhere_else(runner: Runner) -> None:
    def failing(_: small.Small) -> Iterator[str]:
        yield "one"
        raise Busy("too much")

    other = runner.stream(Noted().job("b", 3))
    results = runner.stream(failing)
    assert next(results) == "one"
    with pytest.raises(Busy, match="too much"):
        next(results)
    assert list(results) == []
    assert list(other) == ["b0", "b1", "b2"]
    with pytest.raises(SystemExit):
        runner.call(lambda _: exit_now())
    assert runner.call(lambda _: 1) == 1


def exit_now() -> None:
    raise SystemExit(3)


def test_closing_ends_all_jobs_and_refuses_new_ones() -> None:
    runner, noted = Runner(small.Small(None, None, small.info(), None, None)), Noted()  # type: ignore[arg-type]
    running = runner.stream(noted.job("a"))
    waiting = runner.stream(noted.job("x"), background=True)
    next(running)
    runner.close()
    runner.close()
    for results in (running, waiting):
        with pytest.raises(Unavailable, match="unloaded"):
            list(results)
    for refused in (lambda: runner.stream(noted.job("b")), lambda: runner.call(lambda _: 1)):
        with pytest.raises(Unavailable, match="unloaded"):
            refused()
    assert noted.closed["a"] == "model"
    assert not runner.busy


def test_a_job_may_close_the_runner() -> None:
    runner = Runner(small.Small(None, None, small.info(), None, None))  # type: ignore[arg-type]
    assert runner.call(lambda _: runner.close()) is None
    with pytest.raises(Unavailable):
        until(lambda: runner.call(lambda _: None), "it is closed")


def test_a_caller_who_does_not_read_holds_up_nobody(runner: Runner) -> None:
    noted = Noted()
    stalled = runner.stream(noted.job("a", 2_000))
    assert list(runner.stream(noted.job("b", 2_000)))[-1] == "b1999"
    until(lambda: "a" in noted.closed, "the other job is done too")
    assert len(list(stalled)) == 2_000


def test_a_job_that_waits_for_its_own_thread_is_told_so(runner: Runner) -> None:
    with pytest.raises(RuntimeError, match="waits for another job"):
        runner.call(lambda _: runner.call(lambda _: 1))


def test_many_threads_get_their_own_results(runner: Runner) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        for turn in range(CALLS):
            name = f"{number}.{turn}."
            if turn % 3 == 0:
                right = runner.call(lambda _, name=name: name) == name  # type: ignore[misc]
            elif turn % 3 == 1:
                right = list(runner.stream(Noted().job(name, 4), background=turn % 2 == 0))[3:] == [f"{name}3"]
            else:
                right = next(runner.stream(Noted().job(name))) == f"{name}0"
            if not right:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    until(lambda: not runner.busy, "nothing is left")


def test_replies_are_the_same_alone_and_beside_each_other() -> None:
    loaded = small.loaded(seed=21)

    def chat(number: int) -> Callable[[small.Small], Iterator[str]]:
        def work(loaded: small.Small) -> Iterator[str]:
            prompt = lay_out(loaded, [ChatTurn("user", f"what is the city of {number}?")], [], [], 20)
            sampling = replace(Sampling(max_tokens=20, seed=number), temperature=number % 2)
            for step in generate(loaded, prompt.ids, WorkingCache(loaded.model.config), sampling, piece_tokens=8):
                yield step.text

        return work

    runner = Runner(loaded)  # type: ignore[arg-type]
    alone = ["".join(runner.stream(chat(number))) for number in range(8)]
    streams = [runner.stream(chat(number)) for number in range(8)]
    assert ["".join(results) for results in streams] == alone
    assert len(set(alone)) == 8
    runner.close()
