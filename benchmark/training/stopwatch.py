"""Time by purpose, without stopping a GPU."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch


class Stopwatch:
    """Adds up seconds under names. On a GPU it records events and reads them only in `read`, so nothing waits."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        end = self._now()
        if self._cuda:
            self._events.append((name, start, end))
        else:
            self._seconds[name] += end - start

    def _now(self):
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(self) -> dict[str, float]:
        """Seconds per name since the last read."""
        if self._events:
            torch.cuda.synchronize()
            for name, start, end in self._events:
                self._seconds[name] += start.elapsed_time(end) / 1000
        seconds, self._seconds, self._events = dict(self._seconds), defaultdict(float), []
        return seconds
