"""The time that the runs of a grid still take, by measured seconds per epoch of each method on each pair."""

import functools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from benchmark import networks
from benchmark.grid import estimate
from benchmark.grid.estimate import TimeKey
from benchmark.grid.plan import Plan
from benchmark.teacher.cache import cacheable_kinds


class TimeLeft:
    """Seconds that the runs to come take.

    A run takes as long as one of the same teacher, network and method did in this process, else in an earlier one, else
    as its work compares with that of the runs that have been measured.
    """

    def __init__(
        self, to_come: Iterable[TimeKey], epochs: Callable[[TimeKey], int], work: Callable[[TimeKey], float],
        earlier: Mapping[TimeKey, float],
    ) -> None:  # fmt: skip
        """to_come: the key of every run. epochs: of a run. work: of an epoch, in any unit. earlier: seconds of an
        epoch, evaluation included, in finished runs."""
        self._to_come, self._epochs, self._work = Counter(to_come), epochs, functools.cache(work)
        self._earlier, self._measured = dict(earlier), dict[TimeKey, float]()

    def start(self, key: TimeKey) -> None:
        """Count a run as started."""
        self._to_come[key] = max(0, self._to_come[key] - 1)

    def measure(self, key: TimeKey, seconds: float) -> None:
        """Record the seconds of an epoch in this process."""
        self._measured[key] = seconds

    def seconds_per_epoch(self, key: TimeKey) -> float | None:
        """Return the seconds of an epoch; None before the first measurement."""
        measured = {**self._earlier, **self._measured}
        if key not in measured:
            rates = [seconds / work for k, seconds in measured.items() if (work := self._work(k)) > 0]
            return statistics.median(rates) * self._work(key) if rates else None
        return measured[key]

    def seconds(self) -> float | None:
        """Return the seconds of all runs to come, one after another; None where nothing has been measured."""
        total = 0.0
        for key, runs in (+self._to_come).items():
            seconds = self.seconds_per_epoch(key)
            if seconds is None:
                return None
            total += runs * self._epochs(key) * seconds
        return total


def of_plan(plan: Plan, to_come: Iterable[TimeKey]) -> TimeLeft:
    """Return the time left of a plan's runs, before any is trained."""
    keys = list(to_come)
    steps = estimate.steps_per_epoch(plan)
    finished = estimate.of_finished_runs(plan).seconds
    earlier = {key: steps * seconds for key, seconds in finished.items() if key in keys}
    return TimeLeft(keys, functools.partial(_epochs, plan), functools.partial(work_of_epoch, plan), earlier)


def _epochs(plan: Plan, key: TimeKey) -> int:
    teacher, student, method = key
    init_epochs = 0 if teacher is None else plan.requirements((teacher, student, method)).init_epochs
    return plan.config.recipe.epochs + init_epochs


def work_of_epoch(plan: Plan, key: TimeKey) -> float:
    """Return the multiplications of an epoch with its evaluation: three forward passes for a training image, one for a
    test image, and those of a teacher whose outputs are not cached."""
    teacher, network, method = key
    data = plan.dataset
    count = functools.partial(networks.multiplications, classes=data.classes, image_size=data.config.size)
    evaluation = count(network) * len(data.test.labels)
    if teacher is None:
        return 3 * count(network) * len(data.train.labels) + evaluation
    requires = plan.requirements((teacher, network, method))
    needs = requires.teacher
    live = cacheable_kinds(needs) is None and not needs.empty
    step = requires.views * (3 * count(network) + (count(teacher, needs=needs) if live else 0))
    return step * len(data.train.labels) + evaluation
