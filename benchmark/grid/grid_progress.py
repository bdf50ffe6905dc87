"""Progress of a whole grid whose runs train side by side, from what they write into their folders.

Runs in other processes and on other machines append a line to `metrics.jsonl` for each epoch, with its times, and hold
the lock of their folder. This process reads both, and so knows what is in training and how fast, whatever executes it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from benchmark.grid.estimate import steady_epoch_seconds
from benchmark.grid.schedule import Task, elapsed_seconds
from benchmark.grid.time_left import RunTimes
from benchmark.grid.training_run import Outcome, RunKind, TrainingRun
from benchmark.progress import Meter, duration
from benchmark.runs.record import RunStatus

LOOK_SHARE = 0.01  # largest share of the time that is spent on reading folders, which may be many on a slow file server


@dataclass
class _Observed:
    """A run of the grid. earlier: epochs that were trained before. epochs: by now. at: when the last one was seen."""

    run: TrainingRun
    earlier: int
    epochs: int = 0
    at: float | None = None  # None while the run has not begun
    ended: bool = False


class GridProgress:
    """Time left of a grid of which `places` runs train at a time.

    to_come: the kind of every run. Runs are added in the order in which they start; kinds of which no run was added yet
    are of students that wait for their teacher. Use it as a context manager, which writes a line each half a minute; a
    further one is written when a run ends. Runs that end once the context is left are not counted: an interruption
    cancels them.
    """

    def __init__(
        self, to_come: Iterable[RunKind], times: RunTimes, places: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._to_come, self._times, self._places, self._clock = list(to_come), times, places, clock
        self._runs: list[_Observed] = []
        self._awaited = deque(self._to_come)
        self._look_again, self._lock = 0.0, threading.RLock()
        self._meter: Meter | None = None
        self._is_over = False

    def __enter__(self) -> "GridProgress":
        self._meter = Meter("grid", left=self.seconds_left, plain=True)
        self._meter.move_to(0, self._count())
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_over = True
        if self._meter is not None:
            self._meter.close()

    def add(self, run: TrainingRun, future: Future[Any]) -> None:
        """Observe a run that was submitted."""
        with self._lock:
            observed = _Observed(run, len(run.folder.metrics()))
            self._runs.append(observed)
            if run.kind in self._awaited:
                self._awaited.remove(run.kind)
        future.add_done_callback(lambda done: self.end(run, _outcome(done)))

    def end(self, run: TrainingRun, outcome: Outcome | None) -> None:
        """Count a run as ended, measure it, and write the time left. outcome: None where its process died."""
        with self._lock:
            if self._is_over:
                return
            (observed,) = (o for o in self._runs if o.run is run)
            self._look(observed)
            observed.ended = True
            if outcome is not None and outcome.status == RunStatus.DONE and outcome.seconds:
                lines = run.folder.metrics()[observed.earlier :]
                filling_s = sum(line.get("fill_s", 0.0) for line in lines)
                self._times.measure_run(run.kind, outcome.seconds - filling_s, len(lines))
            left, count = self.seconds_left(), self._count()
            if self._meter is not None:
                self._meter.postpone()  # the line below says the same
                self._meter.move_to(0, count)
            if self._ended < len(self._to_come):
                text = "" if left is None else f"  left: {duration(left)}"
                print(f"{count}{text}", flush=True)

    def seconds_left(self) -> float | None:
        """Return the seconds until the last run ends; None before any epoch has been measured."""
        with self._lock:
            started = self._clock()
            if started >= self._look_again:
                for observed in self._runs:
                    if not observed.ended:
                        self._look(observed)
                now = self._clock()
                self._look_again = now + (now - started) / LOOK_SHARE
            return self._predict()

    @property
    def _ended(self) -> int:
        return sum(o.ended for o in self._runs)

    def _count(self) -> str:
        return f"{self._ended} of {len(self._to_come)} runs ended"

    def _look(self, observed: _Observed) -> None:
        """Read how far a run has come, and how long its epochs take."""
        run, now = observed.run, self._clock()
        lines = run.folder.metrics()[observed.earlier :]
        if observed.at is None and (lines or run.folder.is_locked):
            observed.at = now
        if len(lines) > observed.epochs:
            observed.epochs, observed.at = len(lines), now
            seconds = steady_epoch_seconds(lines)
            first = len(lines) == 1 and lines[0]["epoch"] < run.config["recipe"]["epochs"]
            if seconds is not None:
                self._times.measure(run.kind, seconds, first=first)

    def _predict(self) -> float | None:
        tasks, teachers = [], {o.run.network: o.run.name for o in self._runs if o.run.config["role"] == "teacher"}
        open_runs = [o for o in self._runs if not o.ended]
        for observed in sorted(open_runs, key=lambda o: o.at is None):  # those in training hold their places
            seconds = self._rest(observed)
            if seconds is None:
                return None
            role = observed.run.config["role"]
            tasks.append(Task(seconds, observed.run.name if role == "teacher" else ""))
        for kind in self._awaited:
            seconds = self._times.seconds(kind)
            if seconds is None:
                return None
            tasks.append(Task(seconds, after=teachers.get(kind.teacher or "")))
        in_training = sum(o.at is not None for o in open_runs)
        return elapsed_seconds(tasks, max(self._places, in_training, 1))

    def _rest(self, observed: _Observed) -> float | None:
        """Return the seconds that a run still takes in its place."""
        whole, per_epoch = self._times.seconds(observed.run.kind), self._times.seconds_per_epoch(observed.run.kind)
        if whole is None or per_epoch is None:
            return None
        trained = observed.earlier + observed.epochs
        rest = whole - trained * per_epoch - (self._times.seconds_beyond(observed.run.kind) if observed.epochs else 0.0)
        spent = 0.0 if observed.at is None else self._clock() - observed.at
        return max(rest - spent, 0.0)


def _outcome(future: Future[Any]) -> Outcome | None:
    """Return how a run ended; None where its process died or it was cancelled."""
    return None if future.cancelled() or future.exception() is not None else future.result()
