"""The time that the runs of a grid still take, by measured seconds of each kind of run.

A run takes `epochs` × the seconds of an epoch, and what a run of its kind takes beyond that: to load its data, to warm
up in its first epoch, to write its result. Filling a teacher's cache counts in neither; it is done once for all runs.
"""

import functools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from benchmark import networks
from benchmark.grid import estimate
from benchmark.grid.plan import Plan
from benchmark.grid.training_run import RunKind
from benchmark.teacher.cache import cacheable_kinds


class RunTimes:
    """Seconds that runs of each kind take.

    An epoch takes as long as those of runs of its kind did in this command, else in earlier ones, else as its work
    compares with that of the kinds that have been measured. First epochs, which are slower, count only while there is
    nothing else.
    """

    def __init__(
        self, epochs: Callable[[RunKind], int], work: Callable[[RunKind], float], earlier: Mapping[RunKind, float]
    ) -> None:
        """epochs: of a run. work: of an epoch, in any unit. earlier: seconds of an epoch, evaluation included, in
        finished runs."""
        self._epochs, self._work = epochs, functools.cache(work)
        self._earlier = dict(earlier)
        self._measured, self._first_epochs = dict[RunKind, float](), dict[RunKind, float]()
        self._beyond = defaultdict[RunKind, list[float]](list)  # seconds of finished runs beyond their epochs

    def measure(self, kind: RunKind, seconds: float, *, first: bool = False) -> None:
        """Record the seconds of an epoch in this command. first: of the first one of a run, by which others go on."""
        (self._first_epochs if first else self._measured)[kind] = seconds

    def measure_run(self, kind: RunKind, seconds: float, epochs: int) -> None:
        """Record the seconds of a finished run in this command, in which so many epochs were trained."""
        per_epoch = self.seconds_per_epoch(kind)
        if per_epoch is not None and epochs > 0:
            self._beyond[kind].append(max(seconds - epochs * per_epoch, 0.0))

    def seconds_per_epoch(self, kind: RunKind) -> float | None:
        """Return the seconds of an epoch; None before the first measurement."""
        measured = {**self._earlier, **self._measured}
        if not measured:
            measured = self._first_epochs
        if kind in measured:
            return measured[kind]
        rates = [seconds / work for k, seconds in measured.items() if (work := self._work(k)) > 0]
        return statistics.median(rates) * self._work(kind) if rates else None

    def seconds_beyond(self, kind: RunKind) -> float:
        """Return the seconds of a run beyond its epochs: those of its kind, else of all kinds, 0 before any ended."""
        samples = self._beyond.get(kind) or [s for of_kind in self._beyond.values() for s in of_kind]
        return statistics.fmean(samples) if samples else 0.0

    def seconds(self, kind: RunKind) -> float | None:
        """Return the seconds of a whole run; None before the first measurement."""
        per_epoch = self.seconds_per_epoch(kind)
        return None if per_epoch is None else self._epochs(kind) * per_epoch + self.seconds_beyond(kind)


class TimeLeft:
    """Seconds that the runs to come take, one after another. to_come: the kind of every run."""

    def __init__(self, to_come: Iterable[RunKind], times: RunTimes) -> None:
        self._to_come, self.times = Counter(to_come), times

    def start(self, kind: RunKind) -> None:
        """Count a run as started."""
        self._to_come[kind] = max(0, self._to_come[kind] - 1)

    def seconds(self) -> float | None:
        """Return the seconds of all runs to come; None where nothing has been measured."""
        total = 0.0
        for kind, runs in (+self._to_come).items():
            seconds = self.times.seconds(kind)
            if seconds is None:
                return None
            total += runs * seconds
        return total


def times_of_plan(plan: Plan, kinds: Iterable[RunKind]) -> RunTimes:
    """Return the times of a plan's runs of these kinds, before any is trained."""
    finished, earlier = estimate.of_finished_runs(plan).seconds, {}
    for kind in set(kinds):
        if (seconds := finished.get(kind.time_key)) is not None:
            earlier[kind] = estimate.steps_per_epoch(plan, kind.time_key, _images(plan, kind)) * seconds
    return RunTimes(functools.partial(epochs_of, plan), functools.partial(work_of_epoch, plan), earlier)


def epochs_of(plan: Plan, kind: RunKind) -> int:
    """Return the epochs of a run, those of an initialization stage included."""
    init_epochs = 0 if kind.teacher is None else plan.requirements((kind.teacher, *kind[2:])).init_epochs
    return plan.config.recipe.epochs + init_epochs


def work_of_epoch(plan: Plan, kind: RunKind) -> float:
    """Return the multiplications of an epoch with its evaluation: three forward passes for a training image, one for a
    test image, and those of a teacher whose outputs are not cached."""
    data, images = plan.dataset, _images(plan, kind)
    count = functools.partial(networks.multiplications, classes=data.classes, image_size=data.config.size)
    evaluation = count(kind.network) * len(data.test.labels)
    if kind.teacher is None:
        return 3 * count(kind.network) * images + evaluation
    requires = plan.requirements((kind.teacher, kind.network, kind.method))
    needs = requires.teacher
    live = cacheable_kinds(needs) is None and not needs.empty
    step = requires.views * (3 * count(kind.network) + (count(kind.teacher, needs=needs) if live else 0))
    return step * images + evaluation


def _images(plan: Plan, kind: RunKind) -> int:
    """Return the number of a run's training images, of which a teacher may have more than its students."""
    data = plan.dataset.of_teacher if kind.role == "teacher" else plan.dataset
    return len(data.train.labels)
