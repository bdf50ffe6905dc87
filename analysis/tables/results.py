"""What the tables of one group are made of: its runs, the comparisons between rows, and the runs that are missing."""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from analysis import published, statistics
from analysis.groups import MethodRow, ResultGroup, RowKey, SeedGroup
from analysis.load import UnfinishedRun
from analysis.published import Published
from analysis.statistics import Comparison, Ranking
from benchmark.tables.cells import counted
from benchmark.tables.model import Listing

DAGGERS = {1: "†", 0: "", -1: "‡"}  # significantly better than the other row, not different, worse
BASELINES = (published.TEACHER, published.STUDENT)


@dataclass(frozen=True)
class Results:
    """A group with the comparisons between its rows. unfinished: runs that would have been in it."""

    group: ResultGroup
    unfinished: list[UnfinishedRun]
    comparisons: list[Comparison]

    @functools.cached_property
    def kd_comparisons(self) -> dict[tuple[RowKey, str], Comparison]:
        """Comparisons with KD, as row minus KD, by row and pair."""
        return statistics.comparisons_with(self.comparisons)

    @functools.cached_property
    def ranking(self) -> Ranking | None:
        """The rows ranked over the pairs; None where there is nothing to rank."""
        return statistics.rank(self.group)

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
        return published.find(self.group.dataset, *self.group.networks[pair], method)

    def student_difference(self, pair: str, row: MethodRow) -> float:
        """Return the difference of the mean accuracy to that of the student alone, in points; NaN without one."""
        seed_group = row.seed_groups[pair]
        baseline = None if row.method == published.STUDENT else self.group.baseline(seed_group, pair)
        return seed_group.mean("top1_last") - baseline.mean("top1_last") if baseline else math.nan


def collect(group: ResultGroup, unfinished: Iterable[UnfinishedRun]) -> Results:
    """Compare all rows of a group."""
    return Results(group, list(unfinished), statistics.compare(group))


def missing_runs(unfinished: Iterable[UnfinishedRun]) -> list[Listing]:
    """Return the list of runs that failed or are not finished; none where all are."""
    entries = [run.text for run in unfinished if not run.skipped]
    return [Listing(f"Not in the table, {counted(len(entries), 'run')}", entries)] if entries else []


def without_baselines(*methods: str) -> tuple[str, ...]:
    """Return the methods that a line is filtered by; teachers and students alone always stay."""
    return tuple(method for method in methods if method not in BASELINES)
