"""Progress of training runs: a bar on a terminal, one line per epoch elsewhere, with the time left."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

FILL_REPORT_S = 60  # seconds between two reports on a teacher's cache


def duration(seconds: float) -> str:
    """Return seconds as a short text: 48 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Progress over the runs of a command. The time left assumes that further runs take as long as the finished ones.

    Where runs execute side by side, each reports its own time left, and no bar is shown.
    """

    def __init__(self, runs: int) -> None:
        self.runs, self.index, self.sequential = runs, 0, True
        self._durations_s: list[float] = []  # of the finished runs
        self._bar: tqdm[Any] | None = None
        self.name, self.epochs, self._resumed_after, self._started = "", 0, 0, 0.0  # of the current run

    def for_next_run(self) -> "Progress":
        """Return the progress of the next run, to be shown by another process."""
        progress = Progress(self.runs)
        progress.index, progress.sequential = self.index, False
        self.index += 1
        return progress

    def cache_fill_reporter(self, name: str) -> Callable[[float], None]:
        """Return a callback that takes the filled share of a run's teacher cache and reports it once a minute."""
        started = reported = time.monotonic()

        def report(share: float) -> None:
            nonlocal reported
            now = time.monotonic()
            if now - reported >= FILL_REPORT_S:
                reported = now
                left = duration((now - started) * (1 - share) / share)
                print(f"{name}: teacher cache {100 * share:.0f} % filled  left: {left}", flush=True)

        return report

    def start(self, name: str, epochs: int, last_epoch: int) -> None:
        """Start a run; `last_epoch` is the last epoch that was trained before."""
        self.index += 1
        self.name, self.epochs, self._resumed_after = name, epochs, last_epoch
        self._started = time.monotonic()
        head = f"[{self.index}/{self.runs}] {name}"
        if self.sequential and sys.stderr.isatty():
            form = "{desc} {percentage:3.0f}%|{bar:20}|{postfix}"
            self._bar = tqdm(total=epochs, initial=max(last_epoch, 0), desc=head, bar_format=form, dynamic_ncols=True)
        elif last_epoch > 0:
            print(f"{head}: resumed after epoch {last_epoch}", flush=True)

    def step(self, step: int, steps: int) -> None:
        """Report a finished training step, of `steps` in the epoch."""
        if self._bar is not None:
            self._bar.update(1 / steps)

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Report a finished epoch by its line of metrics."""
        evaluated = [
            f"{split} {top1:.2f}  " for split in ("test", "val") if (top1 := line.get(f"{split}_top1")) is not None
        ]
        text = (
            f"epoch {line['epoch']}/{self.epochs}  loss {line['loss']:.3f}  train {line['train_top1']:.2f}  "
            f"{''.join(evaluated[:1])}left: {self._time_left(line['epoch'])}"
        )
        if self._bar is not None:
            self._bar.n = max(line["epoch"], 0)  # the bar excludes an initialization stage, whose epochs are below 1
            self._bar.set_postfix_str(text)
        else:
            print(f"[{self.index}/{self.runs}] {self.name}  {text}", flush=True)

    def stop(self) -> None:
        """End the current run, whatever its outcome."""
        self._durations_s.append(time.monotonic() - self._started)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _time_left(self, epoch: int) -> str:
        spent = time.monotonic() - self._started
        whole = spent / max(epoch - self._resumed_after, 1) * (self.epochs - self._resumed_after)
        if not self.sequential:
            return duration(max(whole - spent, 0))
        per_run = sum(self._durations_s) / len(self._durations_s) if self._durations_s else whole
        return duration(max(whole - spent, 0) + per_run * (self.runs - self.index))
