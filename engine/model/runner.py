"""The thread of a loaded model: all work with it is done there, in turns.

Work is a job: a generator, each `next` of which is one step (a piece of a prefill, a token). Foreground jobs take
turns, a step each, so that a new request has its first token without waiting for whole replies of others. Background
jobs take turns while no foreground job is there. What a job yields goes to its caller through a queue of its own, as
long as the reply is: a caller who does not read holds up nobody.

A caller who closes the results, or lets go of them, cancels the job: it is closed before its next step, on the model's
thread. What a job raises is raised at its caller. The thread runs in torch's inference mode; a job that trains leaves
it for itself with `torch.inference_mode(False)`. Jobs know the model; nothing here does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from engine.errors import Unavailable

if TYPE_CHECKING:
    from engine.model.loading import Loaded

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Result(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


class _Job(Generic[T]):
    """What the thread knows of a job. The caller's `Results` holds it; it does not hold them."""

    def __init__(self, work: Callable[[Loaded], Iterator[T]]) -> None:
        self.results: SimpleQueue[_Result[T] | _End] = SimpleQueue()
        self.cancelled = False  # set by the caller, in any thread; seen before the next step
        self._work: Callable[[Loaded], Iterator[T]] | None = work
        self._steps: Iterator[T] | None = None

    def step(self, loaded: Loaded) -> bool:
        """Do one step; False: it was the last."""
        try:
            if self._work is not None:
                self._steps, self._work = iter(self._work(loaded)), None
            assert self._steps is not None
            self.results.put(_Result(next(self._steps)))
        except StopIteration:
            self.end(None)
            return False
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who is waiting for it
            self.end(error)
            return False
        return True

    def end(self, error: BaseException | None) -> None:
        """Close the generator, and tell the caller."""
        steps, self._steps, self._work = self._steps, None, None
        try:
            if steps is not None and hasattr(steps, "close"):
                steps.close()
        except BaseException as failure:  # noqa: BLE001 - as above
            error = error or failure
        self.results.put(_End(error))


class Results(Iterator[T]):
    """What a job yields, for its caller. Closing it, or letting go of it, cancels the job."""

    def __init__(self, job: _Job[T], model_thread: threading.Thread) -> None:
        self._job: _Job[T] | None = job
        self._model_thread = model_thread

    def __next__(self) -> T:
        if self._job is None:
            raise StopIteration
        if threading.current_thread() is self._model_thread:
            raise RuntimeError("a job waits for another job of its own thread: have it take the steps itself")
        result = self._job.results.get()
        if isinstance(result, _Result):
            return result.value
        self._job = None
        if result.error is not None:
            raise result.error
        raise StopIteration

    def close(self) -> None:
        """Cancel the job, if it is not over."""
        if self._job is not None:
            self._job.cancelled = True
            self._job = None

    def __enter__(self) -> Results[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # no lock: this may run anywhere


class Runner:
    """Runs jobs with a loaded model, on one thread. Every method may be called from any thread."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded: Loaded | None = loaded
        self._changed = threading.Condition()
        self._foreground: deque[_Job[Any]] = deque()
        self._background: deque[_Job[Any]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def loaded(self) -> Loaded:
        """The model. Who holds a closed runner does not hold its model.

        Raises:
            Unavailable: the model was unloaded.
        """
        loaded = self._loaded
        if loaded is None:
            raise _unloaded()
        return loaded

    def stream(self, job: Callable[[Loaded], Iterator[T]], *, background: bool = False) -> Results[T]:
        """Begin a job, and give what it yields as it comes.

        Raises:
            Unavailable: the model was unloaded, before or in the midst of the job.
        """
        made = _Job(job)
        with self._changed:
            if self._closed:
                raise _unloaded()
            (self._background if background else self._foreground).append(made)
            self._changed.notify()
        return Results(made, self._thread)

    def call(self, work: Callable[[Loaded], T]) -> T:
        """Do something in one step, and wait for what it gives.

        Raises:
            Unavailable: the model was unloaded.
        """

        def job(loaded: Loaded) -> Iterator[T]:
            yield work(loaded)

        with self.stream(job) as results:
            return next(results)

    @property
    def busy(self) -> bool:
        """Whether there is a job that its caller still waits for."""
        with self._changed:
            return any(not job.cancelled for job in (*self._foreground, *self._background))

    def close(self) -> None:
        """End all jobs after the step that is being done, and let go of the model: their callers get Unavailable."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            while job := self._next():
                if job.step(self.loaded):  # it is let go of below, by this thread alone
                    continue
                with self._changed:
                    (self._foreground if job in self._foreground else self._background).remove(job)
        with self._changed:
            left = [*self._foreground, *self._background]
            self._foreground.clear()
            self._background.clear()
        for job in left:
            job.end(_unloaded())
        self._loaded = None

    def _next(self) -> _Job[Any] | None:
        """The job whose turn it is; it goes to the end of its row. None: the model is unloaded."""
        while True:
            with self._changed:
                while not (self._closed or self._foreground or self._background):
                    self._changed.wait()
                if self._closed:
                    return None
                rows = (self._foreground, self._background)
                given_up = [job for row in rows for job in row if job.cancelled]  # asked once: it may change any time
                for job in given_up:
                    (rows[0] if job in rows[0] else rows[1]).remove(job)
                row = rows[0] or rows[1]
                row.rotate(-1)
                turn = row[-1] if row else None
            for job in given_up:
                job.end(None)
            if turn is not None:
                return turn


def _unloaded() -> Unavailable:
    return Unavailable("the model was unloaded: ask again, and it is loaded anew")
