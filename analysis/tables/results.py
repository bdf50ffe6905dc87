"""What the tables of one group are made of: its runs, the comparisons between rows, and the runs that are missing."""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from analysis import published, statistics
from analysis.groups import MethodRow, ResultGroup, RowKey, SeedGroup, TeacherRow
from analysis.load import UnfinishedRun
from analysis.published import Published
from analysis.statistics import Comparison, Ranking
from benchmark.tables.cells import counted
from benchmark.tables.model import Listing

DAGGERS = {1: "†", 0: "", -1: "‡"}  # significantly better than the other row, not different, worse
BASELINES = (published.TEACHER, published.STUDENT)


@dataclass(frozen=True)
class Metric:
    """The accuracy that a table is about. name: also of its published values; suffix: of the names of its files."""

    name: str
    column: str  # of the runs
    title: str
    suffix: str = ""

    def of_teacher(self, teacher: TeacherRow) -> dict[str, float]:
        """Return a teacher's accuracies by pair."""
        return teacher.top1 if self.name == "top1" else teacher.top5


TOP1 = Metric("top1", "top1_last", "Top-1")
TOP5 = Metric("top5", "top5_last", "Top-5", "-top5")
METRICS = {"top1": (TOP1,), "top5": (TOP5,), "both": (TOP1, TOP5)}  # values of the key `accuracy`


@dataclass(frozen=True)
class Results:
    """A group with the comparisons between its rows. unfinished: runs that would have been in it."""

    group: ResultGroup
    unfinished: list[UnfinishedRun]
    comparisons: list[Comparison]
    metric: Metric = TOP1

    @property
    def stem(self) -> str:
        """Stem of the names of the files about the metric."""
        return f"{self.group.stem}{self.metric.suffix}"

    @functools.cached_property
    def kd_comparisons(self) -> dict[tuple[RowKey, str], Comparison]:
        """Comparisons with KD, as row minus KD, by row and pair."""
        return statistics.comparisons_with(self.comparisons)

    @functools.cached_property
    def ranking(self) -> Ranking | None:
        """The rows ranked over the pairs; None where there is nothing to rank."""
        return statistics.rank(self.group, self.metric.column)

    @property
    def skipped(self) -> list[UnfinishedRun]:
        """Runs of methods that do not support the pair."""
        return [run for run in self.unfinished if run.skipped]

    def seed_groups(self) -> Iterator[tuple[str, MethodRow, SeedGroup]]:
        """Iterate over pair, row and runs, in the order of the tables."""
        for pair in self.group.pairs:
            for row in self.group.rows_on(pair):
                yield pair, row, row.seed_groups[pair]

    def published(self, pair: str, method: str) -> Published | None:
        """Return the published test accuracy of a method, or of a baseline, on a pair; None where ours are not of the
        test set."""
        if self.group.is_sealed:
            return None
        return published.find(self.group.dataset, *self.group.networks[pair], method, self.metric.name)

    def student_difference(self, pair: str, row: MethodRow) -> float:
        """Return the difference of the mean accuracy to that of the student alone, in points; NaN without one."""
        seed_group = row.seed_groups[pair]
        baseline = None if row.method == published.STUDENT else self.group.baseline(seed_group, pair)
        column = self.metric.column
        return seed_group.mean(column) - baseline.mean(column) if baseline else math.nan


def collect(group: ResultGroup, unfinished: Iterable[UnfinishedRun], metric: Metric = TOP1) -> Results:
    """Compare all rows of a group by a metric."""
    return Results(group, list(unfinished), statistics.compare(group, metric.column), metric)


def missing_runs(unfinished: Iterable[UnfinishedRun]) -> list[Listing]:
    """Return the list of runs that failed or are not finished; none where all are."""
    entries = [run.text for run in unfinished if not run.skipped]
    return [Listing(f"Not in the table, {counted(len(entries), 'run')}", entries)] if entries else []


def without_baselines(*methods: str) -> tuple[str, ...]:
    """Return the methods that a line is filtered by; teachers and students alone always stay."""
    return tuple(method for method in methods if method not in BASELINES)
