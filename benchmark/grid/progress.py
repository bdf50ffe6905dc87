"""Progress of training runs: a bar on a terminal, one line per epoch elsewhere, with the time left."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmark.grid.time_left import TimeLeft
from benchmark.grid.training_run import RunKind
from benchmark.progress import Meter, duration

WARM_AFTER = 10  # the first tenth of a run's first epoch is not representative: memory, kernels and graphs are set up


class Progress:
    """Progress over the runs of a command, in this process or as one of several.

    time_left: of the runs to come; without one, they take as long as the finished ones. Where runs execute side by
    side, each reports its own time left, and no bar is shown; `benchmark.grid.grid_progress` reports that of all.
    """

    def __init__(self, runs: int, time_left: TimeLeft | None = None) -> None:
        self.runs, self.index, self.sequential, self.time_left = runs, 0, True, time_left
        self._durations_s: list[float] = []  # of the finished runs
        self._meter: Meter | None = None
        self.name, self.epochs, self._resumed_after, self._started = "", 0, 0, 0.0  # of the current run
        self._kind: RunKind | None = None
        self._epochs_s: list[float] = []  # of the current run, without filling caches
        self._epoch, self._epoch_started = 0, 0.0
        self._step_ends: list[tuple[int, float]] = []  # of its first epoch: steps by then, and when
        self._stopped: float | None = None  # when the last run ended
        self._warm_s = 0.0  # of the first epoch, without its warm-up
        self._filling_s = 0.0  # of the current run, ahead of its training and within

    def for_next_run(self) -> "Progress":
        """Return the progress of the next run, to be shown by another process."""
        progress = Progress(self.runs)
        progress.index, progress.sequential = self.index, False
        self.index += 1
        return progress

    @contextlib.contextmanager
    def cache_fill(self, name: str) -> Iterator[Callable[[float], None]]:
        """Yield a callback that takes the filled share of a run's teacher cache and shows it."""
        with contextlib.ExitStack() as stack:
            meter: Meter | None = None
            started = time.monotonic()

            def report(share: float) -> None:
                nonlocal meter
                if meter is None:  # nothing is shown of a cache that need not be filled
                    meter = stack.enter_context(Meter(f"{name}: teacher cache", 1.0, plain=not self.sequential))
                meter.move_to(share)

            yield report
            self._filling_s += time.monotonic() - started if meter is not None else 0.0

    def start(self, name: str, epochs: int, last_epoch: int, kind: RunKind | None = None) -> None:
        """Start a run; `last_epoch` is the last epoch that was trained before, `kind` what it is timed as."""
        self.index += 1
        self.name, self.epochs, self._resumed_after = name, epochs, last_epoch
        self._kind, self._epoch, self._epochs_s, self._step_ends = kind, last_epoch, [], []
        self._started = self._epoch_started = time.monotonic()
        if self.time_left is not None and kind is not None:
            self.time_left.start(kind)
        head = f"[{self.index}/{self.runs}] {name}"
        done = max(last_epoch, 0)
        plain = not self.sequential
        self._meter = Meter(head, epochs, done=done, left=self._seconds_left, plain=plain, keep=True)
        if not self._meter.is_bar and last_epoch > 0:
            print(f"{head}: resumed after epoch {last_epoch}", flush=True)

    def step(self, step: int, steps: int) -> None:
        """Report a finished training step, of `steps` in the epoch."""
        if not self._epochs_s and step in (max(1, steps // WARM_AFTER), steps):
            self._step_ends.append((step, time.monotonic()))
        if self._meter is not None:
            self._meter.move_to(max(self._epoch, 0) + (step / steps if self._epoch >= 0 else 0.0))

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Report a finished epoch by its line of metrics."""
        now, fill_s = time.monotonic(), line.get("fill_s", 0.0)
        self._filling_s += fill_s
        first = not self._epochs_s
        self._epochs_s.append(max(now - self._epoch_started - fill_s, 0.0))
        if first:
            self._warm_s = self._without_warm_up(now, fill_s)
        self._epoch, self._epoch_started = line["epoch"], now
        if self.time_left is not None and self._kind is not None:
            more = self._epoch < self.epochs
            self.time_left.times.measure(self._kind, self._seconds_per_epoch(), first=first and more)
        evaluated = [
            f"  {split} {top1:.2f}" for split in ("test", "val") if (top1 := line.get(f"{split}_top1")) is not None
        ]
        text = (
            f"epoch {line['epoch']}/{self.epochs}  loss {line['loss']:.3f}  train {line['train_top1']:.2f}"
            f"{''.join(evaluated[:1])}"
        )
        if self._meter is None or not self._meter.is_bar:
            left = duration(self._seconds_left() or 0.0)
            print(f"[{self.index}/{self.runs}] {self.name}  {text}  left: {left}", flush=True)
        if self._meter is not None:
            self._meter.postpone()
            self._meter.move_to(max(self._epoch, 0), text)  # excludes an initialization stage, whose epochs are below 1

    def stop(self) -> None:
        """End the current run, whatever its outcome."""
        now = time.monotonic()
        self._durations_s.append(now - self._started)
        if self.time_left is not None and self._kind is not None and self._epoch >= self.epochs:
            began = self._started if self._stopped is None else self._stopped  # loading data and networks included
            self.time_left.times.measure_run(self._kind, now - began - self._filling_s, len(self._epochs_s))
        self._stopped, self._filling_s = now, 0.0
        if self._meter is not None:
            self._meter.close()
            self._meter = None

    def _seconds_per_epoch(self) -> float:
        """Return the seconds of an epoch of the current run, without the warm-up of the first where more follow."""
        if len(self._epochs_s) == 1 and self._epoch < self.epochs:
            return self._warm_s
        return statistics.mean(self._epochs_s[1:] or self._epochs_s)  # not all of them are evaluated

    def _without_warm_up(self, now: float, fill_s: float) -> float:
        """Return the seconds of the first epoch, had its first steps taken as long as the others.

        Rows of a cache are filled throughout the epoch, so that its steps have the same share of this time.
        """
        if len(self._step_ends) < 2:
            return self._epochs_s[0]
        (warm, warm_at), (steps, ended_at) = self._step_ends
        fill_share = fill_s * (steps - warm) / steps
        steps_s = (ended_at - warm_at - fill_share) * steps / (steps - warm)
        return min(max(steps_s, 0.0) + now - ended_at, self._epochs_s[0])

    def _seconds_left(self) -> float | None:
        """Return the seconds left of this run and, one after another, of those to come; None where nothing is known."""
        earlier = None
        if self.time_left is not None and self._kind is not None:
            earlier = self.time_left.times.seconds_per_epoch(self._kind)
        if not self._epochs_s and earlier is None:
            return None
        per_epoch = self._seconds_per_epoch() if self._epochs_s else earlier or 0.0
        spent = time.monotonic() - self._epoch_started
        rest = max(per_epoch * (self.epochs - self._epoch) - spent, 0.0)
        if not self.sequential:
            return rest
        if self.time_left is not None:
            return rest + (self.time_left.seconds() or 0.0)
        whole = per_epoch * (self.epochs - self._resumed_after)
        per_run = statistics.mean(self._durations_s) if self._durations_s else whole
        return rest + per_run * (self.runs - self.index)
