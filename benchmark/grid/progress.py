"""What a user sees while networks train: a bar on a terminal, one line an epoch elsewhere, with the time left."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm


def duration(seconds: float) -> str:
    """Seconds as a short text: 48 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Progress over the cells of a command. The time left assumes that cells to come last as long as those done."""

    def __init__(self, cells: int) -> None:
        self.cells, self.index, self.alone = cells, 0, True
        self._spent: list[float] = []
        self._bar: tqdm | None = None

    def take(self) -> "Progress":
        """The progress of the next cell, to be shown by another process: no bar, and the time left of that cell."""
        taken = Progress(self.cells)
        taken.index, taken.alone = self.index, False
        self.index += 1
        return taken

    def filling(self, name: str) -> Callable[[float], None]:
        """What is to be told the share of a teacher's cache that is filled; it says so once a minute."""
        began = told = time.monotonic()

        def tell(share: float) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= 60:
                told = now
                left = duration((now - began) * (1 - share) / share)
                print(f"{name}: teacher cache {100 * share:.0f} % filled  left: {left}", flush=True)

        return tell

    def start(self, name: str, epochs: int, done: int) -> None:
        """A cell begins; `done` of its epochs were trained before."""
        self.index += 1
        self.name, self.epochs, self.first = name, epochs, done
        self._began = time.monotonic()
        head = f"[{self.index}/{self.cells}] {name}"
        if self.alone and sys.stderr.isatty():
            form = "{desc} {percentage:3.0f}%|{bar:20}|{postfix}"
            self._bar = tqdm(total=epochs, initial=max(done, 0), desc=head, bar_format=form, dynamic_ncols=True)
        elif done > 0:
            print(f"{head}: resumed after epoch {done}", flush=True)

    def tick(self, step: int, steps: int) -> None:
        """One training step is done."""
        if self._bar is not None:
            self._bar.update(1 / steps)

    def epoch(self, line: Mapping[str, Any]) -> None:
        """One epoch is done and measured."""
        text = (
            f"epoch {line['epoch']}/{self.epochs}  loss {line['loss']:.3f}  train {line['train_top1']:.2f}  "
            f"test {line['test_top1']:.2f}  left: {self._left(line['epoch'])}"
        )
        if self._bar is not None:
            self._bar.n = max(line["epoch"], 0)  # a first stage, whose epochs are below 1, is before the bar
            self._bar.set_postfix_str(text)
        else:
            print(f"[{self.index}/{self.cells}] {self.name}  {text}", flush=True)

    def stop(self) -> None:
        """The cell has ended, well or not."""
        self._spent.append(time.monotonic() - self._began)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _left(self, epoch: int) -> str:
        spent = time.monotonic() - self._began
        whole = spent / max(epoch - self.first, 1) * (self.epochs - self.first)
        if not self.alone:
            return duration(max(whole - spent, 0))
        later = sum(self._spent) / len(self._spent) if self._spent else whole
        return duration(max(whole - spent, 0) + later * (self.cells - self.index))
