"""Are differences between methods real? Tests on paired seeds within a pair, ranks over several pairs.

A seed gives every method the same initial student and the same batches, so that runs are compared seed by seed, on the
seeds that both methods have. Only runs trained alike are compared: with equal settings outside the method, and with the
same teacher. Published numbers never enter.

Accuracies are multiples of one test image written in single precision. Differences that are less than `RESOLUTION`
apart count as equal, so that rounding makes no order where there is none.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis import published
from analysis.groups import TEACHER_KEY, MethodRow, ResultGroup, SeedGroup
from benchmark.statistics import MIN_SEEDS, RESOLUTION, mean_intervals

ALPHA = 0.05
MAX_ROWS = 40  # with more rows on a pair, each is compared with the student alone and KD only
BASELINE = "kd"

Key = tuple[str, int]  # a row: its method and variant


def key(row: MethodRow) -> Key:
    """What tells a row of a group from the others."""
    return row.method, row.variant


@dataclass(frozen=True)
class Comparison:
    """Two rows on one pair, over the seeds that both have. NaN stands for what is not known or not defined.

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
        """The same, seen from the other row."""
        turned = {"difference": -self.difference, "low": -self.high, "high": -self.low, "d_z": -self.d_z}
        return replace(self, row=self.other, other=self.row, **turned)


def compare(group: ResultGroup, column: str = "top1_last") -> list[Comparison]:
    """Every two rows on every pair, the student alone included, as the later row of the table minus the earlier one.

    Rows that were not trained alike are not compared. With fewer than three common seeds there is a mean and no test.
    Where all differences are zero, p is 1 and d_z is 0. Where they are equal and not zero, t has no denominator: p, the
    interval and d_z are NaN. Holm's correction counts the tests that were made. On a pair with more than `MAX_ROWS`
    rows only comparisons with the student alone and with KD (at most `MAX_ROWS` such rows) are made.

    column: what is compared, a column of the runs.
    """
    made = []
    for pair in group.pairs:
        values = {key(r): _by_seed(r.seed_groups[pair], column) for r in group.rows if pair in r.seed_groups}
        for row, other in _twos(group, pair):
            ours, theirs = values[key(row)], values[key(other)]
            seeds = tuple(sorted(ours.keys() & theirs.keys()))
            made.append((pair, row, other, seeds, np.array([ours[s] - theirs[s] for s in seeds])))
    tested: list[dict[str, Any]] = [{}] * len(made)
    for n in {len(seeds) for *_, seeds, _ in made}:
        of = [i for i, (*_, seeds, _) in enumerate(made) if len(seeds) == n]
        for i, found in zip(of, _test(np.array([made[i][-1] for i in of])), strict=True):
            tested[i] = found
    found = [Comparison(*about, **tested[i]) for i, (*about, _) in enumerate(made)]
    return [c for _, of in itertools.groupby(found, lambda c: c.pair) for c in _corrected(list(of))]


def against(comparisons: Iterable[Comparison], method: str = BASELINE) -> dict[tuple[Key, str], Comparison]:
    """What each row and pair is beside `method`, as row minus method; by the row's key and the pair.

    Rows of the method itself are not in it, nor those with several variants of the method to be compared with.
    """
    found: dict[tuple[Key, str], list[Comparison]] = {}
    for c in comparisons:
        turned = c if c.other.method == method else c.reverse()
        if turned.other.method == method and turned.row.method != method:
            found.setdefault((key(turned.row), turned.pair), []).append(turned)
    return {k: of[0] for k, of in found.items() if len(of) == 1}


def alike(cell: SeedGroup) -> tuple[Any, ...] | None:
    """Equal for cells that may be compared; None where the config is not known, so that none may."""
    return (cell.protocol, cell.config.get(TEACHER_KEY)) if cell.protocol else None


def _twos(group: ResultGroup, pair: str) -> list[tuple[MethodRow, MethodRow]]:
    """The rows to compare on a pair, the later first."""
    rows = [r for r in group.rows if pair in r.seed_groups]
    kinds = [alike(r.seed_groups[pair]) for r in rows]
    with_all = set(range(len(rows)))
    if len(rows) > MAX_ROWS:
        with_all = {i for i, r in enumerate(rows) if r.method in (published.STUDENT, BASELINE)}
        with_all = set(sorted(with_all)[:MAX_ROWS])
    twos = {(max(i, j), min(i, j)) for i in with_all for j in range(len(rows)) if i != j}
    return [(rows[i], rows[j]) for i, j in sorted(twos) if kinds[i] is not None and kinds[i] == kinds[j]]


def _by_seed(cell: SeedGroup, column: str) -> dict[int, float]:
    values = zip(cell.runs.seed.tolist(), cell.runs[column].astype(float).tolist(), strict=True)
    return {seed: value for seed, value in values if not math.isnan(value)}


# ---------------------------------------------------------------- tests on one pair


def _test(d: np.ndarray) -> list[dict[str, Any]]:
    """What a Comparison says of each row of differences [m, n], but for the correction."""
    n = d.shape[1]
    if n < MIN_SEEDS:
        note = f"n = {n}: too few for a test" if n else "no seed in common"
        return [{"difference": float(of.mean()) if n else math.nan, "note": note} for of in d]
    from scipy import stats

    flat = np.ptp(d, axis=1) < RESOLUTION
    zero = flat & (np.abs(d.mean(axis=1)) < RESOLUTION)
    _, low, high = mean_intervals(d)
    p, d_z = np.full(len(d), math.nan), np.full(len(d), math.nan)
    if not flat.all():
        spread = d[~flat]
        p[~flat] = stats.ttest_1samp(spread, 0, axis=1).pvalue
        d_z[~flat] = spread.mean(axis=1) / spread.std(axis=1, ddof=1)
    low[zero] = high[zero] = d_z[zero] = 0
    p[zero] = 1
    return [
        {
            "difference": 0.0 if zero[i] else float(d[i].mean()),
            "low": float(low[i]), "high": float(high[i]), "t_p": float(p[i]), "d_z": float(d_z[i]),
            "note": "all differences are zero" if zero[i] else "all differences are equal: no t" if flat[i] else "",
        }
        for i in range(len(d))
    ]  # fmt: skip


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p-values [m] (Holm 1979, A simple sequentially rejective multiple test procedure):
    (m − i) p_(i) for the i-th smallest from i = 0, never below a smaller one's and at most 1. NaN stays, uncounted.
    """
    adjusted = np.full(len(p), math.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else []
    return adjusted


def _corrected(of: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one pair, with Holm's correction."""
    return [replace(c, t_holm=float(p)) for c, p in zip(of, holm(np.array([c.t_p for c in of])), strict=True)]


# ---------------------------------------------------------------- many pairs


@dataclass(frozen=True)
class Ranking:
    """Rows that have runs on every pair, ranked on each.

    means: [rows, pairs] over the seeds that all these rows have on a pair. ranks: [rows, pairs], 1 the best, ties
        share their mean rank.
    friedman, friedman_p: statistic and p-value; NaN for fewer than three rows.
    critical_difference: of average ranks, by Nemenyi's test at 5 %.
    wins, ties: [rows, rows], pairs on which one row beats the other, or the two tie (see `Comparison.outcome`); pairs
        that are in neither had no interval.
    left_out: rows and pairs that are not ranked, with the reason.
    """

    pairs: list[str]
    rows: list[MethodRow]
    seeds: dict[str, tuple[int, ...]]  # by pair
    means: np.ndarray
    ranks: np.ndarray
    friedman: float
    friedman_p: float
    critical_difference: float
    wins: np.ndarray
    ties: np.ndarray
    left_out: list[str]

    @property
    def average(self) -> np.ndarray:
        """Average rank of each row."""
        return self.ranks.mean(axis=1)

    @property
    def untested(self) -> int:
        """How many comparisons of two rows on a pair have no interval."""
        decided = int((self.wins + self.wins.T + self.ties)[np.triu_indices(len(self.rows), 1)].sum())
        return len(self.pairs) * math.comb(len(self.rows), 2) - decided

    def within(self, tau: float) -> np.ndarray:
        """Performance profile: the share of pairs on which each row is at most `tau` points below the best."""
        behind = self.means.max(axis=0) - self.means
        return (behind <= tau + RESOLUTION / 2).mean(axis=1)


def rank(group: ResultGroup, comparisons: Iterable[Comparison], column: str = "top1_last") -> Ranking | None:
    """Ranks over the pairs of a group; None where fewer than two pairs or two rows are left to rank.

    Rows without runs on one of the pairs are left out, and so are rows that were not trained like the most. The tests
    are those of Demšar (2006, Statistical comparisons of classifiers over multiple data sets), a pair as a data set.
    """
    rows, left_out = _complete(group)
    pairs, seeds, means = [], {}, []
    for pair in group.pairs:
        values = [_by_seed(r.seed_groups[pair], column) for r in rows]
        common = sorted(set.intersection(*map(set, values))) if values else []
        if common:
            pairs.append(pair)
            seeds[pair] = tuple(common)
            means.append([np.mean([v[s] for s in common]) for v in values])
        elif values:
            left_out.append(f"{pair}: no seed that all of the ranked rows have")
    if len(pairs) < 2 or len(rows) < 2:
        return None
    from scipy import stats

    table = np.array(means).T
    ranks = stats.rankdata(-np.round(table / RESOLUTION), axis=0)
    statistic, p = friedman(ranks)
    wins, ties = _outcomes(comparisons, rows, pairs)
    critical = nemenyi(len(rows), len(pairs))
    return Ranking(pairs, rows, seeds, table, ranks, statistic, p, critical, wins, ties, left_out)


def friedman(ranks: np.ndarray) -> tuple[float, float]:
    """Statistic and p-value of Friedman's test for ranks [rows, pairs]; NaN for fewer than three rows, and 0 and 1
    where all rows tie on every pair."""
    from scipy import stats

    if len(ranks) < 3:
        return math.nan, math.nan
    if not np.ptp(ranks, axis=0).any():
        return 0.0, 1.0
    found = stats.friedmanchisquare(*ranks)
    return float(found.statistic), float(found.pvalue)


def nemenyi(rows: int, pairs: int) -> float:
    """Nemenyi's critical difference of average ranks at 5 %: q sqrt(k (k + 1) / (6 N)) for k rows and N pairs, with q
    the studentised range's quantile at infinite degrees of freedom over sqrt(2) (Demšar 2006, section 3.2.2)."""
    from scipy import stats

    q = stats.studentized_range.ppf(1 - ALPHA, rows, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(rows * (rows + 1) / (6 * pairs)))


def _complete(group: ResultGroup) -> tuple[list[MethodRow], list[str]]:
    """The rows with runs on every pair that were trained alike, and why others are not among them."""
    left_out: list[str] = []
    kinds: dict[tuple[Any, ...], list[MethodRow]] = {}
    for row in group.rows:
        missing = [p for p in group.pairs if p not in row.seed_groups]
        kind = () if missing else tuple(alike(row.seed_groups[p]) for p in group.pairs)
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            left_out.append(f"{row.label}: no runs on {', '.join(missing[:3])}{more}")
        elif None in kind:
            left_out.append(f"{row.label}: its config cannot be read")
        else:
            kinds.setdefault(kind, []).append(row)
    rows = max(kinds.values(), key=len, default=[])
    chosen = {key(r) for r in rows}
    left_out += [f"{r.label}: not trained like the others" for of in kinds.values() for r in of if key(r) not in chosen]
    return rows, left_out


def _outcomes(
    comparisons: Iterable[Comparison], rows: Sequence[MethodRow], pairs: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Wins and ties [rows, rows]."""
    place: Mapping[Key, int] = {key(r): i for i, r in enumerate(rows)}
    wins, ties = (np.zeros((len(rows), len(rows)), int) for _ in range(2))
    for c in comparisons:
        i, j = place.get(key(c.row)), place.get(key(c.other))
        if i is None or j is None or c.pair not in pairs or c.outcome is None:
            continue
        if c.outcome == 0:
            ties[i, j] += 1
            ties[j, i] += 1
        else:
            wins[(i, j) if c.outcome > 0 else (j, i)] += 1
    return wins, ties
