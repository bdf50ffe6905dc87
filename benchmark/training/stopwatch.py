"""Time by purpose, measured without synchronizing a GPU."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch


class Stopwatch:
    """Sums up seconds by name. On a GPU it records events and reads them in `read`, so that nothing waits for it."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._free_events: list[torch.cuda.Event] = []  # making one takes longer than recording it

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`, unless it raises."""
        if self._cuda:
            start = self._record_event()
            yield
            self._events.append((name, start, self._record_event()))
        else:
            started = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - started

    def read(self) -> dict[str, float]:
        """Return the seconds by name since the last read."""
        if self._events:
            torch.cuda.synchronize()
            for name, start, end in self._events:
                self._seconds[name] += start.elapsed_time(end) / 1000
                self._free_events += [start, end]
        seconds, self._seconds, self._events = dict(self._seconds), defaultdict(float), []
        return seconds

    def _record_event(self) -> torch.cuda.Event:
        event = self._free_events.pop() if self._free_events else torch.cuda.Event(enable_timing=True)
        event.record()
        return event
