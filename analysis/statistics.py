"""Tests of differences between methods: on paired seeds within a pair, and on ranks over several pairs.

A seed gives every method the same initial student and the same batches, so that runs are compared seed by seed, on the
seeds that both methods have. Only runs trained under the same conditions are compared: with equal settings outside the
method, and with the same teacher. Published numbers never enter.

Two families of comparisons are made on each pair: of every distillation method with KD, and with the student alone.
Tests are moderated paired t-tests (`analysis.moderated`) within a family. Its intervals and p-values are corrected for
the number of its tests (Bonferroni), so that an interval excludes 0 where its p-value is below `ALPHA`, and for nothing
else: not for the other family, other pairs or other tables.

Accuracies are multiples of one test image written in single precision. Differences that are less than `RESOLUTION`
apart count as equal, so that rounding makes no order where there is none.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import published
from analysis.groups import MethodRow, ResultGroup, RowKey
from analysis.moderated import PairedTests, paired_tests
from benchmark.config import references
from benchmark.statistics import MIN_SEEDS, RESOLUTION

ALPHA = 0.05
BASELINE = "kd"
# what rows are compared with, a family each, with what texts call it
REFERENCES = {method: references.REFERENCES[method] for method in (BASELINE, published.STUDENT)}

RowPair = tuple[MethodRow, MethodRow]  # a row and the one that it is compared with


@dataclass(frozen=True)
class Comparison:
    """Two rows on one pair, over the seeds that both have. NaN stands for what is unknown or not defined.

    difference: mean of `row` minus `other` in points of accuracy; low, high: its interval, corrected for the family
        like `p_adjusted`; none in the family of all pairs of rows.
    p: two-sided p-value of the moderated paired t-test; df: its degrees of freedom. p_adjusted: corrected for the
        family. family_size: number of tests in the family.
    d_z: effect size for paired data, the difference over the moderated standard deviation of one seed's difference.
    note: why a test is missing; empty where none is.
    """

    pair: str
    row: MethodRow
    other: MethodRow
    seeds: tuple[int, ...]
    difference: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_adjusted: float = math.nan
    family_size: int = 0
    df: float = math.nan
    d_z: float = math.nan
    note: str = ""

    @property
    def n(self) -> int:
        """Number of common seeds."""
        return len(self.seeds)

    @property
    def significant(self) -> int:
        """1 where `row` is better at 5 % after the correction for the family, −1 where it is worse, else 0."""
        return int(np.sign(self.difference)) if self.p_adjusted < ALPHA else 0

    @property
    def outcome(self) -> int | None:
        """A win (1) or loss (−1) of `row` at 5 % without correction, a tie (0) where neither; None without a test."""
        if math.isnan(self.p):
            return None
        return int(np.sign(self.difference)) if self.p < ALPHA else 0


def compare(group: ResultGroup, column: str = "top1_last") -> list[Comparison]:
    """Compare the distillation methods on every pair with KD, then with the student alone: row minus reference.

    The interval holds the true difference for all comparisons of its family at once with 95 % probability. With fewer
    than three common seeds there is a mean and no test.

    column: the column of the runs that is compared.
    """
    comparisons = []
    for pair, method in itertools.product(group.pairs, REFERENCES):
        references = reference_rows(group, pair, method)
        row_pairs = [
            (row, references[conditions])
            for row in group.rows_on(pair)
            if row.method != published.STUDENT
            and (conditions := row.seed_groups[pair].training_conditions) in references
            and references[conditions].key != row.key
        ]
        compared = _Compared.on(pair, row_pairs, column)
        comparisons += compared.comparisons(np.minimum(compared.tests.p * compared.tests.count, 1), intervals=True)
    return comparisons


def compare_all(group: ResultGroup, column: str = "top1_last") -> list[Comparison]:
    """Compare every two rows on every pair, the student alone included: the later row of the table minus the earlier.

    The family is that of all pairs of rows, with Holm's correction, which has no intervals.
    """
    comparisons = []
    for pair in group.pairs:
        compared = _Compared.on(pair, _all_row_pairs(group.rows_on(pair), pair), column)
        comparisons += compared.comparisons(holm(compared.tests.p), intervals=False)
    return comparisons


def comparisons_with(comparisons: Iterable[Comparison], method: str = BASELINE) -> dict[tuple[RowKey, str], Comparison]:
    """Return the comparisons with a reference of this method, by the row's key and the pair."""
    return {(c.row.key, c.pair): c for c in comparisons if c.other.method == method}


def reference_rows(group: ResultGroup, pair: str, method: str) -> dict[Any, MethodRow]:
    """Return the rows of a method that others are compared with on a pair, by their training conditions.

    Where several variants were trained alike, that is the default variant; there is none where no variant is.
    """
    candidates: dict[Any, list[MethodRow]] = {}
    for row in group.rows_on(pair):
        if row.method == method and (conditions := row.seed_groups[pair].training_conditions):
            candidates.setdefault(conditions, []).append(row)
    chosen = {
        conditions: rows if len(rows) == 1 else [row for row in rows if row.is_default]
        for conditions, rows in candidates.items()
    }
    return {conditions: rows[0] for conditions, rows in chosen.items() if len(rows) == 1}


def _all_row_pairs(rows: Sequence[MethodRow], pair: str) -> list[RowPair]:
    """All pairs of rows trained under the same conditions, the later first."""
    conditions = [row.seed_groups[pair].training_conditions for row in rows]
    alike = ((i, j) for i in range(len(rows)) for j in range(i) if conditions[i] and conditions[i] == conditions[j])
    return [(rows[i], rows[j]) for i, j in alike]


# ---------------------------------------------------------------- tests on one pair


@dataclass(frozen=True)
class _Compared:
    """Rows compared on one pair, with their common seeds and tests."""

    pair: str
    row_pairs: Sequence[RowPair]
    seeds: Sequence[tuple[int, ...]]
    tests: PairedTests

    @classmethod
    def on(cls, pair: str, row_pairs: Sequence[RowPair], column: str) -> "_Compared":
        """Test all comparisons of one family on a pair."""
        rows = {row.key: row for row_pair in row_pairs for row in row_pair}
        values = {key: row.seed_groups[pair].by_seed(column) for key, row in rows.items()}
        edges = [(row.key, other.key) for row, other in row_pairs]
        seeds = [tuple(sorted(values[row].keys() & values[other].keys())) for row, other in edges]
        differences = [
            np.array([values[row][s] - values[other][s] for s in common])
            for (row, other), common in zip(edges, seeds, strict=True)
        ]
        return cls(pair, row_pairs, seeds, paired_tests(differences, edges))

    def comparisons(self, adjusted: np.ndarray, *, intervals: bool) -> list[Comparison]:
        """Return the comparisons with p-values [m] corrected for the family, and intervals by Bonferroni's rule."""
        tests, count = self.tests, self.tests.count
        half = tests.half_widths(ALPHA / count) if intervals and count else np.full(len(self.row_pairs), math.nan)
        numbers = {
            "difference": tests.difference, "low": tests.difference - half, "high": tests.difference + half,
            "p": tests.p, "p_adjusted": adjusted, "df": tests.df, "d_z": tests.effect_sizes,
        }  # fmt: skip
        columns = {name: values.tolist() for name, values in numbers.items()}
        comparisons = []
        for i, ((row, other), seeds) in enumerate(zip(self.row_pairs, self.seeds, strict=True)):
            fields = {name: column[i] for name, column in columns.items()}
            note = _note(fields["p"], len(seeds))
            comparisons.append(Comparison(self.pair, row, other, seeds, **fields, family_size=count, note=note))
        return comparisons


def _note(p: float, n: int) -> str:
    """Why a comparison has no test; empty where it has one."""
    if not math.isnan(p):
        return ""
    if n < MIN_SEEDS:
        return f"n = {n}: too few for a test" if n else "no seed in common"
    return "all differences are equal: no t"


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's step-down adjustment of p-values [m] (Holm 1979, A simple sequentially rejective multiple test
    procedure): (m − i) p_(i) for the i-th smallest from i = 0, never below a smaller one's and at most 1. NaN stays NaN
    and is not counted.
    """
    adjusted = np.full(len(p), math.nan)
    defined = np.flatnonzero(~np.isnan(p))
    order = defined[np.argsort(p[defined], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else []
    return adjusted


# ---------------------------------------------------------------- many pairs


@dataclass(frozen=True)
class Ranking:
    """Rows that have runs on every pair, ranked on each.

    seeds: the seeds that all these rows have, by pair.
    means: [rows, pairs] over these seeds. ranks: [rows, pairs], 1 the best; ties share their mean rank.
    friedman, friedman_p: statistic and p-value; NaN for fewer than three rows.
    critical_difference: of average ranks, by Nemenyi's test at 5 %.
    wins, ties: [rows, rows], pairs on which one row beats the other, or the two tie, by the 95 % interval of their
        difference on the pair: a moderated paired t-test, corrected neither for the number of rows nor for that of
        pairs. Pairs that are in neither had no interval.
    exclusions: rows and pairs that are not ranked, with the reason.
    """

    pairs: list[str]
    rows: list[MethodRow]
    seeds: dict[str, tuple[int, ...]]
    means: np.ndarray
    ranks: np.ndarray
    friedman: float
    friedman_p: float
    critical_difference: float
    wins: np.ndarray
    ties: np.ndarray
    exclusions: list[str]

    @property
    def average(self) -> np.ndarray:
        """Average rank of each row."""
        return self.ranks.mean(axis=1)

    @property
    def untested(self) -> int:
        """Number of comparisons of two rows on a pair that have no interval."""
        decided = int((self.wins + self.wins.T + self.ties)[np.triu_indices(len(self.rows), 1)].sum())
        return len(self.pairs) * math.comb(len(self.rows), 2) - decided

    @property
    def order(self) -> list[int]:
        """Indices of the rows by average rank, the best first."""
        average = self.average
        return sorted(range(len(self.rows)), key=lambda i: (average[i], i))

    @property
    def shortfall(self) -> np.ndarray:
        """Points below the best row of each pair [rows, pairs]."""
        return self.means.max(axis=0) - self.means

    def share_within(self, tau: float) -> np.ndarray:
        """Return the share of pairs on which each row is at most `tau` points below the best (performance profile)."""
        return (self.shortfall <= tau + RESOLUTION / 2).mean(axis=1)


def rank(group: ResultGroup, column: str = "top1_last") -> Ranking | None:
    """Rank rows over the pairs of a group; None where fewer than two pairs or two rows are left to rank.

    Rows without runs on one of the pairs are left out, and so are rows trained under other conditions than the most. A
    student alone is left out where several pairs share its runs: they are one observation, and tests need independent
    ones.

    The tests are those of Demšar (2006, Statistical comparisons of classifiers over multiple data sets), with a pair as
    a data set.
    """
    rows, exclusions = _comparable_rows(group, column)
    seeds: dict[str, tuple[int, ...]] = {}
    means = []
    for pair in group.pairs:
        values = [r.seed_groups[pair].by_seed(column) for r in rows]
        common = sorted(set.intersection(*map(set, values))) if values else []
        if common:
            seeds[pair] = tuple(common)
            means.append([np.mean([v[s] for s in common]) for v in values])
        elif values:
            exclusions.append(f"{pair}: no seed that all of the ranked rows have")
    pairs = list(seeds)
    if len(pairs) < 2 or len(rows) < 2:
        return None
    from scipy import stats

    table = np.array(means).T
    ranks = stats.rankdata(-np.round(table / RESOLUTION), axis=0)
    wins, ties = _outcomes(rows, pairs, column)
    critical_difference = nemenyi(len(rows), len(pairs))
    return Ranking(pairs, rows, seeds, table, ranks, *friedman(ranks), critical_difference, wins, ties, exclusions)


def friedman(ranks: np.ndarray) -> tuple[float, float]:
    """Return statistic and p-value of Friedman's test for ranks [rows, pairs]; NaN for fewer than three rows, and 0 and
    1 where all rows tie on every pair."""
    from scipy import stats

    if len(ranks) < 3:
        return math.nan, math.nan
    if not np.ptp(ranks, axis=0).any():
        return 0.0, 1.0
    statistic, p = stats.friedmanchisquare(*ranks)
    return float(statistic), float(p)


def nemenyi(rows: int, pairs: int) -> float:
    """Return Nemenyi's critical difference of average ranks at 5 %: q sqrt(k (k + 1) / (6 N)) for k rows and N pairs,
    with q the studentized range's quantile at infinite degrees of freedom over sqrt(2) (Demšar 2006, section 3.2.2)."""
    from scipy import stats

    q = stats.studentized_range.ppf(1 - ALPHA, rows, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(rows * (rows + 1) / (6 * pairs)))


def _comparable_rows(group: ResultGroup, column: str) -> tuple[list[MethodRow], list[str]]:
    """The rows with runs on every pair, trained under the most frequent conditions, and why others are excluded."""
    exclusions: list[str] = []
    conditions: dict[RowKey, tuple[Any, ...]] = {}
    for row in group.rows:
        missing = [p for p in group.pairs if p not in row.seed_groups]
        of_row = () if missing else tuple(row.seed_groups[p].training_conditions for p in group.pairs)
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            exclusions.append(f"{row.label}: no runs on {', '.join(missing[:3])}{more}")
        elif None in of_row:
            exclusions.append(f"{row.label}: its config cannot be read")
        elif shared := _pairs_with_the_same_runs(row, group.pairs, column):
            exclusions.append(f"{row.label}: its runs are the same on {' and '.join(shared)}, no independent values")
        else:
            conditions[row.key] = of_row
    rows = [r for r in group.rows if r.key in conditions]
    most_frequent = Counter(conditions.values()).most_common(1)
    chosen = [r for r in rows if conditions[r.key] == most_frequent[0][0]]
    excluded = [r for r in rows if conditions[r.key] != most_frequent[0][0]]
    return chosen, [*exclusions, *(f"{r.label}: not trained like the others" for r in excluded)]


def _pairs_with_the_same_runs(row: MethodRow, pairs: Sequence[str], column: str) -> list[str]:
    """The first pairs that share the runs of a student alone, or have equal copies of them; empty where none do."""
    by_runs: dict[Any, list[str]] = {}
    for pair in pairs:
        if alone := row.seed_groups[pair].alone:
            by_runs.setdefault((alone, *sorted(row.seed_groups[pair].by_seed(column).items())), []).append(pair)
    return next((shared for shared in by_runs.values() if len(shared) > 1), [])


def _outcomes(rows: Sequence[MethodRow], pairs: Sequence[str], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Wins and ties [rows, rows]."""
    later, earlier = np.tril_indices(len(rows), -1)
    wins, ties = (np.zeros((len(rows), len(rows)), int) for _ in range(2))
    row_pairs = [(rows[i], rows[j]) for i, j in zip(later.tolist(), earlier.tolist(), strict=True)]
    for pair in pairs:
        tests = _Compared.on(pair, row_pairs, column).tests
        told_apart = tests.p < ALPHA
        better = tests.difference > 0
        wins[later, earlier] += told_apart & better
        wins[earlier, later] += told_apart & ~better
        tie = tests.p >= ALPHA
        ties[later, earlier] += tie
        ties[earlier, later] += tie
    return wins, ties
