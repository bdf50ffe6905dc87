"""Progress of anything that takes time: a bar on a terminal, a line at least every 30 s elsewhere, with the time left.

No torch here: the analysis commands use it too.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

LINE_INTERVAL_S = 30.0  # longest silence where there is no terminal
T = TypeVar("T")


def duration(seconds: float) -> str:
    """Return seconds as a short text: 48 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Meter:
    """Progress of one piece of work on standard error. Use it as a context manager.

    total: its steps; None where only the passing time is known. done: steps that were done before. left: returns the
    seconds left; None: as long as the steps so far took. plain: lines even on a terminal, for one of several processes.
    keep: leave the bar there at the end. clock: seconds; the lines of another clock than the system's are written by
    `tick` alone.
    """

    _bars = 0  # open ones in this process

    def __init__(
        self, title: str, total: float | None = None, *, done: float = 0.0,
        left: Callable[[], float | None] | None = None, plain: bool = False, keep: bool = False,
        stream: TextIO | None = None, clock: Callable[[], float] | None = None,
    ) -> None:  # fmt: skip
        self.title, self.total, self.done, self.text = title, total, done, ""
        self._initial, self._left = done, left
        self._stream, self._clock = stream or sys.stderr, clock or time.monotonic
        self._started = self._reported = self._clock()
        self._closed = threading.Event()
        with_bar = self._stream.isatty() and not plain and Meter._bars == 0  # a terminal holds one bar at a time
        self._bar = self._open_bar(keep) if with_bar else None
        self._ticker = threading.Thread(target=self._tick_until_closed, daemon=True)
        if self._bar is None and clock is None:
            self._ticker.start()

    @property
    def is_bar(self) -> bool:
        """Whether a bar is shown, and no lines."""
        return self._bar is not None

    def advance(self, steps: float = 1.0, text: str | None = None) -> None:
        """Report steps that are done, and what is done next."""
        self.move_to(self.done + steps, text)

    def move_to(self, done: float, text: str | None = None) -> None:
        """Report how many steps are done, and what is done next."""
        self.done, self.text = done, self.text if text is None else text
        if self._bar is None:
            self.tick()
        else:
            self._bar.update(self._bar.task_ids[0], completed=done, text=self._details())

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate over items that are a step each."""
        for item in items:
            yield item
            self.advance()

    def tick(self) -> None:
        """Write a line if the last one is 30 s old."""
        if self._bar is None and self._clock() - self._reported >= LINE_INTERVAL_S:
            self._stream.write(f"{self.line()}\n")  # one write, which lines of other processes do not break up
            self._stream.flush()
            self.postpone()

    def postpone(self) -> None:
        """Write no line for 30 s: something else has just been written."""
        self._reported = self._clock()

    def line(self) -> str:
        """Return the progress as one line."""
        share = f" {100 * self.done / self.total:.0f} %" if self.total else ""
        return f"{self.title}:{share}  {self._details()}"

    def close(self) -> None:
        """End the bar or the lines."""
        if self._bar is not None and not self._closed.is_set():
            self._bar.stop()
            Meter._bars -= 1
        self._closed.set()
        if self._ticker.is_alive():
            self._ticker.join()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def seconds_left(self) -> float | None:
        """Return the seconds left; None where nothing is known of them."""
        if self._left is not None:
            return self._left()
        steps = self.done - self._initial
        if not self.total or steps <= 0:
            return None
        return (self._clock() - self._started) / steps * max(self.total - self.done, 0)

    def _details(self) -> str:
        left = self.seconds_left()
        spent = f"since {duration(self._clock() - self._started)}"
        return "  ".join(filter(None, (self.text, spent if left is None else f"left: {duration(left)}")))

    def _open_bar(self, keep: bool) -> Progress:
        columns = [TextColumn("{task.description}", markup=False), BarColumn(20)]
        columns += [TaskProgressColumn()] if self.total else []
        console = Console(file=self._stream)
        bar = Progress(*columns, TextColumn("{task.fields[text]}", markup=False), console=console, transient=not keep)
        bar.add_task(self.title, total=self.total, text="")
        bar.update(bar.task_ids[0], completed=self.done)
        bar.start()
        Meter._bars += 1
        return bar

    def _tick_until_closed(self) -> None:
        while not self._closed.wait(LINE_INTERVAL_S / 10):
            self.tick()
