"""Progress of training runs: a bar on a terminal, one line per epoch elsewhere, with the time left."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmark.grid.estimate import TimeKey
from benchmark.grid.time_left import TimeLeft
from benchmark.progress import Meter, duration


class Progress:
    """Progress over the runs of a command, in this process or as one of several.

    time_left: of the runs to come; without one, they take as long as the finished ones. Where runs execute side by
    side, each reports its own time left, and no bar is shown.
    """

    def __init__(self, runs: int, time_left: TimeLeft | None = None) -> None:
        self.runs, self.index, self.sequential, self.time_left = runs, 0, True, time_left
        self._durations_s: list[float] = []  # of the finished runs
        self._meter: Meter | None = None
        self.name, self.epochs, self._resumed_after, self._started = "", 0, 0, 0.0  # of the current run
        self._key: TimeKey | None = None
        self._epochs_s: list[float] = []  # of the current run, without filling caches
        self._epoch, self._epoch_started = 0, 0.0

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

            def report(share: float) -> None:
                nonlocal meter
                if meter is None:  # nothing is shown of a cache that need not be filled
                    meter = stack.enter_context(Meter(f"{name}: teacher cache", 1.0, plain=not self.sequential))
                meter.move_to(share)

            yield report

    def start(self, name: str, epochs: int, last_epoch: int, key: TimeKey | None = None) -> None:
        """Start a run; `last_epoch` is the last epoch that was trained before, `key` what its epochs are timed as."""
        self.index += 1
        self.name, self.epochs, self._resumed_after = name, epochs, last_epoch
        self._key, self._epoch, self._epochs_s = key, last_epoch, []
        self._started = self._epoch_started = time.monotonic()
        if self.time_left is not None and key is not None:
            self.time_left.start(key)
        head = f"[{self.index}/{self.runs}] {name}"
        done = max(last_epoch, 0)
        plain = not self.sequential
        self._meter = Meter(head, epochs, done=done, left=self._seconds_left, plain=plain, keep=True)
        if not self._meter.is_bar and last_epoch > 0:
            print(f"{head}: resumed after epoch {last_epoch}", flush=True)

    def step(self, step: int, steps: int) -> None:
        """Report a finished training step, of `steps` in the epoch."""
        if self._meter is not None:
            self._meter.move_to(max(self._epoch, 0) + (step / steps if self._epoch >= 0 else 0.0))

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Report a finished epoch by its line of metrics."""
        now = time.monotonic()
        self._epochs_s.append(max(now - self._epoch_started - line.get("fill_s", 0.0), 0.0))
        self._epoch, self._epoch_started = line["epoch"], now
        if self.time_left is not None and self._key is not None:
            self.time_left.measure(self._key, self._seconds_per_epoch())
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
        self._durations_s.append(time.monotonic() - self._started)
        if self._meter is not None:
            self._meter.close()
            self._meter = None

    def _seconds_per_epoch(self) -> float:
        """Return the seconds of an epoch of the current run; the first one also warms up, where there are others."""
        return statistics.mean(self._epochs_s[1:] or self._epochs_s)  # not all of them are evaluated

    def _seconds_left(self) -> float | None:
        """Return the seconds left of this run and, one after another, of those to come; None where nothing is known."""
        earlier = self.time_left.seconds_per_epoch(self._key) if self.time_left is not None and self._key else None
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
