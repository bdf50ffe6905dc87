"""Tests of differences between methods: on paired seeds within a pair, and on ranks over several pairs.

A seed gives every method the same initial student and the same batches, so that runs are compared seed by seed, on the
seeds that both methods have. Only runs trained under the same conditions are compared: with equal settings outside the
method, and with the same teacher. Published numbers never enter.

Accuracies are multiples of one test image written in single precision. Differences that are less than `RESOLUTION`
apart count as equal, so that rounding makes no order where there is none.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis import published
from analysis.groups import MethodRow, ResultGroup, RowKey
from benchmark.statistics import MIN_SEEDS, RESOLUTION, mean_intervals

ALPHA = 0.05
MAX_ROWS = 40  # with more rows on a pair, each is compared with the student alone and KD only
BASELINE = "kd"


@dataclass(frozen=True)
class Comparison:
    """Two rows on one pair, over the seeds that both have. NaN stands for what is unknown or not defined.

    difference: mean of `row` minus `other` in points of accuracy; low, high: its 95 % interval by Student's t.
    t_p: two-sided p-value of the paired t-test.
    t_holm: the same after Holm's correction over all comparisons on this pair.
    d_z: Cohen's effect size for paired data, the mean of the differences over their standard deviation.
    note: why a test is missing; empty where none is.
    """

    pair: str
    row: MethodRow
    other: MethodRow
    seeds: tuple[int, ...]
    difference: float
    low: float = math.nan
    high: float = math.nan
    t_p: float = math.nan
    t_holm: float = math.nan
    d_z: float = math.nan
    note: str = ""

    @property
    def n(self) -> int:
        """Number of common seeds."""
        return len(self.seeds)

    @property
    def significant(self) -> int:
        """1 where `row` is better at 5 % (paired t-test after Holm), −1 where it is worse, else 0."""
        return int(np.sign(self.difference)) if self.t_holm < ALPHA else 0

    @property
    def outcome(self) -> int | None:
        """A win (1) or loss (−1) of `row` where the 95 % interval excludes 0, a tie (0) where not; None without one."""
        if math.isnan(self.low):
            return None
        return int(self.low > 0) - int(self.high < 0)

    def reverse(self) -> "Comparison":
        """Return the comparison of `other` with `row`."""
        negated = {"difference": -self.difference, "low": -self.high, "high": -self.low, "d_z": -self.d_z}
        return replace(self, row=self.other, other=self.row, **negated)


def compare(group: ResultGroup, column: str = "top1_last") -> list[Comparison]:
    """Compare every two rows on every pair, the student alone included: the later row of the table minus the earlier.

    Rows trained under different conditions are not compared. With fewer than three common seeds there is a mean and no
    test. Where all differences are zero, p is 1 and d_z is 0. Where they are equal and not zero, t has no denominator:
    p, the interval and d_z are NaN. Holm's correction counts the tests that were made. On a pair with more than
    `MAX_ROWS` rows only comparisons with the student alone and with KD (at most `MAX_ROWS` such rows) are made.

    column: the column of the runs that is compared.
    """
    compared: list[tuple[str, MethodRow, MethodRow, tuple[int, ...]]] = []
    differences: dict[int, list[list[float]]] = {}  # by the number of seeds, in the order of `compared`
    for pair in group.pairs:
        values = {r.key: r.seed_groups[pair].by_seed(column) for r in group.rows_on(pair)}
        for row, other in _row_pairs(group, pair):
            ours, theirs = values[row.key], values[other.key]
            seeds = tuple(sorted(ours.keys() & theirs.keys()))
            compared.append((pair, row, other, seeds))
            differences.setdefault(len(seeds), []).append([ours[s] - theirs[s] for s in seeds])
    tests = {n: iter(_paired_tests(np.array(d).reshape(len(d), n))) for n, d in differences.items()}
    comparisons = [Comparison(*fields, **next(tests[len(fields[-1])])) for fields in compared]
    return [
        corrected
        for _, of_pair in itertools.groupby(comparisons, lambda c: c.pair)
        for corrected in _holm_corrected(list(of_pair))
    ]


def comparisons_with(comparisons: Iterable[Comparison], method: str = BASELINE) -> dict[tuple[RowKey, str], Comparison]:
    """Return the comparisons of all other rows with `method`, as row minus method, by the row's key and the pair.

    Rows are left out where several variants of the method could be the one to compare with.
    """
    by_row: dict[tuple[RowKey, str], list[Comparison]] = {}
    for comparison in comparisons:
        oriented = comparison if comparison.other.method == method else comparison.reverse()
        if oriented.other.method == method and oriented.row.method != method:
            by_row.setdefault((oriented.row.key, oriented.pair), []).append(oriented)
    return {key: candidates[0] for key, candidates in by_row.items() if len(candidates) == 1}


def _row_pairs(group: ResultGroup, pair: str) -> list[tuple[MethodRow, MethodRow]]:
    """The rows to compare on a pair, the later first."""
    rows = group.rows_on(pair)
    conditions = [r.seed_groups[pair].training_conditions for r in rows]
    hubs = list(range(len(rows)))  # rows compared with all others
    if len(rows) > MAX_ROWS:
        hubs = [i for i, r in enumerate(rows) if r.method in (published.STUDENT, BASELINE)][:MAX_ROWS]
    indices = {(max(i, j), min(i, j)) for i in hubs for j in range(len(rows)) if i != j}
    return [(rows[i], rows[j]) for i, j in sorted(indices) if conditions[i] and conditions[i] == conditions[j]]


# ---------------------------------------------------------------- tests on one pair


def _paired_tests(d: np.ndarray) -> list[dict[str, Any]]:
    """The fields of a Comparison for each row of differences [m, n], without the correction."""
    n = d.shape[1]
    if not n:
        return [{"difference": math.nan, "note": "no seed in common"}] * len(d)
    difference, low, high = mean_intervals(d)
    if n < MIN_SEEDS:
        return [{"difference": float(mean), "note": f"n = {n}: too few for a test"} for mean in difference]
    from scipy import stats

    equal = np.isnan(low)
    zero = equal & (np.abs(difference) < RESOLUTION)
    p, d_z = (np.where(zero, value, math.nan) for value in (1.0, 0.0))
    if not equal.all():
        varied = d[~equal]
        _, p[~equal] = stats.ttest_1samp(varied, 0, axis=1)
        d_z[~equal] = varied.mean(axis=1) / varied.std(axis=1, ddof=1)
    difference[zero] = low[zero] = high[zero] = 0
    notes = np.select([zero, equal], ["all differences are zero", "all differences are equal: no t"], "")
    columns = {"difference": difference, "low": low, "high": high, "t_p": p, "d_z": d_z, "note": notes}
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


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


def _holm_corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one pair, with Holm's correction."""
    adjusted = holm(np.array([c.t_p for c in comparisons])).tolist()
    return [replace(c, t_holm=p) for c, p in zip(comparisons, adjusted, strict=True)]


# ---------------------------------------------------------------- many pairs


@dataclass(frozen=True)
class Ranking:
    """Rows that have runs on every pair, ranked on each.

    seeds: the seeds that all these rows have, by pair.
    means: [rows, pairs] over these seeds. ranks: [rows, pairs], 1 the best; ties share their mean rank.
    friedman, friedman_p: statistic and p-value; NaN for fewer than three rows.
    critical_difference: of average ranks, by Nemenyi's test at 5 %.
    wins, ties: [rows, rows], pairs on which one row beats the other, or the two tie (see `Comparison.outcome`); pairs
        that are in neither had no interval.
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


def rank(group: ResultGroup, comparisons: Iterable[Comparison], column: str = "top1_last") -> Ranking | None:
    """Rank rows over the pairs of a group; None where fewer than two pairs or two rows are left to rank.

    Rows without runs on one of the pairs are left out, and so are rows trained under other conditions than the most.
    The tests are those of Demšar (2006, Statistical comparisons of classifiers over multiple data sets), with a pair as
    a data set.
    """
    rows, exclusions = _comparable_rows(group)
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
    wins, ties = _outcomes(comparisons, rows, pairs)
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


def _comparable_rows(group: ResultGroup) -> tuple[list[MethodRow], list[str]]:
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
        else:
            conditions[row.key] = of_row
    rows = [r for r in group.rows if r.key in conditions]
    most_frequent = Counter(conditions.values()).most_common(1)
    chosen = [r for r in rows if conditions[r.key] == most_frequent[0][0]]
    excluded = [r for r in rows if conditions[r.key] != most_frequent[0][0]]
    return chosen, [*exclusions, *(f"{r.label}: not trained like the others" for r in excluded)]


def _outcomes(
    comparisons: Iterable[Comparison], rows: Sequence[MethodRow], pairs: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Wins and ties [rows, rows]."""
    index: Mapping[RowKey, int] = {r.key: i for i, r in enumerate(rows)}
    wins, ties = (np.zeros((len(rows), len(rows)), int) for _ in range(2))
    for c in comparisons:
        i, j = index.get(c.row.key), index.get(c.other.key)
        if i is None or j is None or c.pair not in pairs or c.outcome is None:
            continue
        if c.outcome == 0:
            ties[i, j] += 1
            ties[j, i] += 1
        else:
            wins[(i, j) if c.outcome > 0 else (j, i)] += 1
    return wins, ties
