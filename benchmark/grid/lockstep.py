"""Runs side by side in one process on a GPU, their steps captured as parallel branches of one CUDA graph.

The steps of a small network leave most of a GPU idle, and processes without NVIDIA's MPS take turns on it. Here each
run is a coroutine (a greenlet) with a CUDA stream of its own. It computes until it has to wait for the others:

- A run that begins an epoch waits until no other is within one. Then each captures its step.
- A captured step is replayed once all runs within an epoch have come to theirs.

A run that ends leaves its place to the next. Every run computes what it would compute alone. Runs of one seed,
teacher and recipe have equal batches, and share the pass of a teacher that runs live.
"""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from greenlet import getcurrent, greenlet

from benchmark.training.graphs import Branch, Capture, CaptureError, Reads, SharedPasses, capture_branches

CaptureBranches = Callable[[Sequence[Branch]], tuple[Callable[[], None], list[Any]]]


class _DrivenFuture(Future[Any]):
    """A future that is waited for by running what it waits for."""

    def __init__(self, drive: Callable[["_DrivenFuture"], None]) -> None:
        super().__init__()
        self._drive = drive

    def result(self, timeout: float | None = None) -> Any:
        """Run until this future is done, and return its result."""
        self._drive(self)
        return super().result(timeout)


class _Step:
    """The captured step of a run's epoch; the result of its latest replay, or why there is none."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self.result: Any = None
        self.error: Exception | None = None


class _Run:
    """A run in one of the places."""

    def __init__(self, function: Callable[[], None], stream: torch.cuda.Stream | None) -> None:
        self.coroutine, self.stream = greenlet(function), stream
        self.waiting = False
        self.step: _Step | None = None  # for whose replay it waits; None while it waits to begin an epoch


class Lockstep:
    """The executor of up to `runs` runs side by side in this process, and the `Capture` of their steps.

    Runs compute while the result of a future is waited for. Use it as a context manager: leaving the context by an
    exception interrupts the runs and cancels those that have not begun.

    new_stream: makes a stream for each place. capture_branches: captures the branches.
    """

    def __init__(
        self, runs: int, new_stream: Callable[[], torch.cuda.Stream | None] | None = None,
        capture_branches: CaptureBranches = capture_branches,
    ) -> None:  # fmt: skip
        make = new_stream or torch.cuda.Stream
        self._streams = [make() for _ in range(runs)]  # of the free places
        self._on_gpu = self._streams[0] is not None
        self._capture_branches = capture_branches
        self._queue: deque[tuple[_DrivenFuture, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._runs: list[_Run] = []
        self._captured: list[_Step] = []
        self._replay: Callable[[], None] | None = None  # of the captured steps

    @property
    def capture(self) -> Capture:
        """Captures the steps of its runs."""
        return self

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `function(*args)` once one of the places is free, and return its future."""
        future = _DrivenFuture(self._run_until_done)
        self._queue.append((future, function, args))
        return future

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """The stream of the run that asks."""
        return self._current().stream

    def __call__(
        self, function: Callable[[SharedPasses], Any], generator: torch.Generator, reads: Reads
    ) -> Callable[[], Any]:
        """Wait until all runs begin an epoch; return a function that replays `function` together with their steps."""
        step = _Step(Branch(function, generator, self.stream, reads))
        self._wait(None)

        def replay() -> Any:
            self._wait(step)
            if step.error is not None:
                raise step.error
            return step.result

        return replay

    def __enter__(self) -> "Lockstep":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for run in list(self._runs):
            with contextlib.suppress(KeyboardInterrupt):
                run.coroutine.throw(KeyboardInterrupt)
        for future, *_call in self._queue:
            future.cancel()

    def _current(self) -> _Run:
        return next(run for run in self._runs if run.coroutine is getcurrent())

    def _wait(self, step: _Step | None) -> None:
        """Let the others compute until this step has been replayed; None: until all runs may begin an epoch."""
        run = self._current()
        run.waiting, run.step = True, step
        assert run.coroutine.parent is not None
        _switch(run.coroutine.parent, torch.cuda.current_stream() if self._on_gpu else None)

    def _run_until_done(self, future: _DrivenFuture) -> None:
        stream = torch.cuda.current_stream() if self._on_gpu else None
        while not future.done():
            self._fill_places()
            for run in [run for run in self._runs if not run.waiting]:
                _switch(run.coroutine, stream)
            if self._runs and all(run.waiting for run in self._runs):
                self._proceed()

    def _fill_places(self) -> None:
        while self._queue and self._streams:
            future, function, args = self._queue.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            body = functools.partial(self._execute, future, function, args)
            self._runs.append(_Run(body, self._streams.pop()))

    def _execute(self, future: _DrivenFuture, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """The body of a run's coroutine. Its interruption is raised where the runs are waited for."""
        try:
            future.set_result(function(*args))
        except Exception as e:
            future.set_exception(e)
        finally:
            run = self._current()
            self._runs.remove(run)
            self._streams.append(run.stream)

    def _proceed(self) -> None:
        """Replay the steps of the runs within an epoch; where there are none, let all runs begin one."""
        steps = [run.step for run in self._runs if run.step is not None]
        if steps:
            self._replay_steps(steps)
        else:
            self._captured, self._replay = [], None  # frees the memory of the last epoch's graph
        for run in self._runs:
            if run.step is not None or not steps:
                run.waiting, run.step = False, None

    def _replay_steps(self, steps: list[_Step]) -> None:
        try:
            if steps != self._captured:
                self._capture(steps)
            if self._replay is not None:
                self._replay()
        except Exception as e:  # each run reports it
            for step in steps:
                step.error = e

    def _capture(self, steps: list[_Step]) -> None:
        """Capture steps as branches of one graph. One that cannot be captured gets its error and is left out."""
        self._captured, self._replay = steps, None
        good = steps
        try:
            self._replay, results = self._capture_branches([step.branch for step in good])
        except CaptureError:
            good = [step for step in steps if self._can_be_captured(step)]
            if not good:
                return
            self._replay, results = self._capture_branches([step.branch for step in good])
        for step, result in zip(good, results, strict=True):
            step.result = result

    def _can_be_captured(self, step: _Step) -> bool:
        try:
            self._capture_branches([step.branch])
        except CaptureError as e:
            step.error = e
        return step.error is None


def _switch(coroutine: greenlet, stream: torch.cuda.Stream | None) -> None:
    """Go on with another coroutine, and here on `stream` once this one goes on: torch keeps one current stream for all
    coroutines."""
    coroutine.switch()
    if stream is not None:
        torch.cuda.set_stream(stream)
