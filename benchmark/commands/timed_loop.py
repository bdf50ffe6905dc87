"""A loop of training steps and the times of its samples; several loops take turns."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmark.training import capture

Wait = Callable[[], object]  # returns when the device has finished its work


@dataclass
class TimedLoop:
    """One loop of one method. seconds: of a step, in each sample; a sample is `steps_per_sample` steps."""

    step: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    steps_per_sample: int = 1

    def run(self, samples: int, wait: Wait) -> list[float]:
        """Take samples; return the seconds of a step in each."""
        seconds = []
        for _ in range(samples):
            wait()
            started = time.perf_counter()
            for _ in range(self.steps_per_sample):
                self.step()
            wait()
            seconds.append((time.perf_counter() - started) / self.steps_per_sample)
        return seconds

    def warm_up(self, wait: Wait) -> None:
        """Take the steps that precede the captured one, where steps are captured."""
        for _ in range(capture.WARMUP_STEPS):
            self.step()
        wait()

    @property
    def ms(self) -> float:
        """Median of a step, in milliseconds."""
        return 1000 * statistics.median(self.seconds)

    @property
    def interquartile_ms(self) -> float:
        """Interquartile range, in milliseconds."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return 1000 * (high - low)

    @property
    def drift(self) -> float:
        """Median of the last quarter of the samples over that of the first."""
        quarter = max(1, len(self.seconds) // 4)
        return statistics.median(self.seconds[-quarter:]) / statistics.median(self.seconds[:quarter])


def take_turns(loops: Sequence[TimedLoop], rounds: int, samples: int, wait: Wait) -> None:
    """Time all loops in alternating order, so that CPU-cache effects of one loop on the next cancel out."""
    for turn in range(rounds):
        for loop in loops[:: -1 if turn % 2 else 1]:
            loop.seconds += loop.run(samples, wait)
