"""Tests of significance: against hand-computed cases, scipy, published tables, and simulated seeds."""

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import statistics
from analysis.groups import MethodRow, ResultGroup, SeedGroup
from analysis.statistics import Comparison, compare, comparisons_with, holm, nemenyi, rank

pytestmark = pytest.mark.filterwarnings("error")
LABELS = {"ce": "Student", "kd": "KD", "crd": "CRD", "dkd": "DKD", "clkd": "CLKD"}
NAN = pytest.approx(math.nan, nan_ok=True)
CONFIG = {"recipe.epochs": 240, "dataset.name": "cifar100", "teacher.sha256": "a1"}


def cell(accuracies: Mapping[int, float] | Sequence[float], **config: Any) -> SeedGroup:
    """A cell of these accuracies by seed (from 0 for a list)."""
    by_seed = accuracies if isinstance(accuracies, Mapping) else dict(enumerate(accuracies))
    frame = pd.DataFrame({"seed": list(by_seed), "top1_last": list(by_seed.values()), "identity": "0123456789ab"})
    return SeedGroup(frame, CONFIG | {k.replace("__", "."): v for k, v in config.items()})


def group(columns: Mapping[str, Mapping[str, Any]]) -> ResultGroup:
    """A group from cells by pair and row; a row is a method, or method/variant."""
    rows: dict[str, MethodRow] = {}
    for pair, cells in columns.items():
        for name, made in cells.items():
            method, _, variant = name.partition("/")
            label = LABELS[method] + (f" ({variant})" if variant else "")
            row = rows.setdefault(name, MethodRow(method, label, int(variant or 0), {}))
            row.seed_groups[pair] = made if isinstance(made, SeedGroup) else cell(made)
    order = sorted(rows.values(), key=lambda r: (list(LABELS).index(r.method), r.variant))
    return ResultGroup(
        "cifar100", "short", list(columns), {p: ("a", "b") for p in columns}, [], order, [], pd.DataFrame()
    )


def one(first: Any, second: Any) -> Comparison:
    """KD with `second` against the student alone with `first`."""
    (found,) = compare(group({"p": {"ce": first, "kd": second}}))
    return found


# ---------------------------------------------------------------- two rows


def test_by_hand():
    """Differences 1, 2, 3: mean 2, standard deviation 1, t = 2 √3 with 2 degrees of freedom, whose distribution is
    1/2 + t / (2 √(2 + t²)); the 97.5 % quantile is 4.302653."""
    c = one([60, 60, 60], [61, 62, 63])
    t = 2 * math.sqrt(3)
    assert (c.row.label, c.other.label, c.seeds, c.n) == ("KD", "Student", (0, 1, 2), 3)
    assert c.difference == pytest.approx(2)
    assert (c.low, c.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)
    assert c.t_p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert c.d_z == pytest.approx(2)
    assert (c.t_holm, c.note) == (c.t_p, "")
    assert c.outcome == 0


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_equal_to_scipy(n):
    rng = np.random.default_rng(n)
    before = rng.normal(70, 1, n)
    after = before + rng.normal(0.3, 0.5, n)
    c = one(before, after)
    t = stats.ttest_rel(after, before)
    low, high = t.confidence_interval(0.95)
    assert (c.t_p, c.low, c.high) == pytest.approx((t.pvalue, low, high))
    assert c.d_z == pytest.approx(t.statistic / math.sqrt(n))


def test_only_common_seeds_count_and_n_says_so():
    c = one({0: 60.0, 1: 61.0, 2: 59.0, 7: 0.0}, {3: 99.0, 2: 60.5, 1: 61.5, 0: 61.0})
    assert (c.seeds, c.n) == ((0, 1, 2), 3)
    t = stats.ttest_rel([61.0, 61.5, 60.5], [60.0, 61.0, 59.0])
    assert c.difference == pytest.approx(1.0)
    assert c.t_p == pytest.approx(t.pvalue)
    c = one({0: 60.0, 1: math.nan}, {0: 61.0, 1: 61.0})
    assert (c.seeds, c.difference) == ((0,), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("kd", "n", "difference", "note"),
    [
        ({0: 61.0, 1: 63.0}, 2, 2.0, "n = 2: too few for a test"),
        ({1: 61.0}, 1, 1.0, "n = 1: too few for a test"),
        ({8: 61.0}, 0, math.nan, "no seed in common"),
    ],
)
def test_too_few_seeds_are_said_and_not_tested(kd, n, difference, note):
    c = one([60.0, 60.0, 60.0], kd)
    assert (c.n, c.note) == (n, note)
    assert c.difference == pytest.approx(difference, nan_ok=True)
    assert [c.low, c.high, c.t_p, c.t_holm, c.d_z] == [NAN] * 5
    assert (c.significant, c.outcome) == (0, None)


def test_no_difference_at_all():
    c = one([60, 61, 62, 63], [60, 61, 62, 63 + 4e-6])  # the last within single precision
    assert (c.difference, c.low, c.high, c.t_p, c.d_z) == (0, 0, 0, 1, 0)
    assert (c.outcome, c.significant, c.note) == (0, 0, "all differences are zero")


def test_equal_differences_have_no_t():
    c = one([60, 61, 62, 63, 64], [60.5, 61.5, 62.5, 63.5, 64.5])
    assert c.difference == pytest.approx(0.5)
    assert [c.low, c.high, c.t_p, c.t_holm, c.d_z] == [NAN] * 5
    assert (c.outcome, c.significant, c.note) == (None, 0, "all differences are equal: no t")


@pytest.mark.parametrize(
    "changes",
    [{"recipe__epochs": 20}, {"precision": "bf16"}, {"teacher__sha256": "b2"}, {"dataset__validation": 0.1}],
)
def test_unlike_configs_are_never_paired(changes):
    values = [60.0, 61.0, 62.0]
    assert compare(group({"p": {"ce": cell(values), "kd": cell(values, **changes)}})) == []
    assert len(compare(group({"p": {"ce": cell(values, **changes), "kd": cell(values, **changes)}}))) == 1
    assert len(compare(group({"p": {"ce": cell(values), "kd": cell(values, method__T=4.0)}}))) == 1


def test_runs_without_a_known_config_are_not_compared():
    unknown = SeedGroup(cell([60.0, 61.0, 62.0]).runs, {"teacher.sha256": "a1"})
    assert compare(group({"p": {"ce": unknown, "kd": unknown}})) == []


def test_every_two_rows_and_both_directions():
    made = group({"p": {"ce": [60, 61, 60], "kd": [62, 62, 61], "crd": [61, 63, 64]}, "q": {"kd": [1, 2, 4]}})
    found = compare(made)
    assert [(c.row.label, c.other.label) for c in found] == [("KD", "Student"), ("CRD", "Student"), ("CRD", "KD")]
    c, back = found[2], found[2].reverse()
    assert (back.row.label, back.other.label) == ("KD", "CRD")
    assert (back.difference, back.low, back.high, back.d_z) == (-c.difference, -c.high, -c.low, -c.d_z)
    assert back.t_holm == c.t_holm
    beside = comparisons_with(found)
    assert set(beside) == {(("ce", 0), "p"), (("crd", 0), "p")}
    assert beside[("ce", 0), "p"].difference == pytest.approx(-4 / 3)
    assert beside[("crd", 0), "p"].difference == pytest.approx(1.0)


def test_with_several_variants_of_kd_there_is_none_to_stand_beside():
    made = group({"p": {"kd/0": [60, 61, 60], "kd/1": [62, 62, 61], "crd": [61, 63, 64]}})
    assert comparisons_with(compare(made)) == {}
    assert set(comparisons_with(compare(made), "crd")) == {(("kd", 0), "p"), (("kd", 1), "p")}


def test_beyond_many_rows_only_the_baselines_are_compared():
    rng = np.random.default_rng(0)
    rows = {"ce": rng.normal(60, 1, 3), "kd": rng.normal(61, 1, 3)}
    variants = {f"clkd/{i}": rng.normal(61, 1, 3) for i in range(statistics.MAX_ROWS)}
    found = compare(group({"p": rows | variants}))
    assert len(found) == 1 + 2 * statistics.MAX_ROWS
    assert all({c.row.method, c.other.method} & {"ce", "kd"} for c in found)
    variants.popitem()
    variants.popitem()
    n = len(rows | variants)
    assert len(compare(group({"p": rows | variants}))) == n * (n - 1) // 2


def test_published_values_never_enter(monkeypatch):
    from analysis import published

    made = group({"wrn40_2-wrn16_2": {"ce": [60, 61, 62], "kd": [61, 63, 63]}, "p": {"ce": [1, 2, 3], "kd": [3, 4, 4]}})
    for name in ("find", "load"):
        monkeypatch.setattr(published, name, None)  # calling it fails
    found = compare(made)
    assert len(found) == 2
    assert rank(made, found) is not None


# ---------------------------------------------------------------- Holm's correction


def test_holm_by_hand():
    assert list(holm(np.array([0.01, 0.04, 0.03]))) == pytest.approx([0.03, 0.06, 0.06])
    assert list(holm(np.array([0.01, 0.02, 0.03, 0.2]))) == pytest.approx([0.04, 0.06, 0.06, 0.2])
    assert list(holm(np.array([0.6, 0.7]))) == [1, 1]
    assert list(holm(np.array([0.02, math.nan, 0.03]))) == [pytest.approx(0.04), NAN, pytest.approx(0.04)]
    assert len(holm(np.array([]))) == 0


def test_holm_is_over_all_comparisons_of_a_pair_and_of_no_other():
    rng = np.random.default_rng(3)
    columns = {p: {m: rng.normal(60, 1, 4) for m in ("ce", "kd", "crd")} for p in ("p", "q")}
    found = compare(group(columns))
    for pair in columns:
        of = [c for c in found if c.pair == pair]
        p = sorted(c.t_p for c in of)
        expected = [min(1, 3 * p[0]), min(1, max(3 * p[0], 2 * p[1])), min(1, max(3 * p[0], 2 * p[1], p[2]))]
        assert sorted(c.t_holm for c in of) == pytest.approx(expected)
    few = columns["p"] | {"dkd": [60.0, 61.0]}  # not tested, so not counted
    assert max(c.t_holm / c.t_p for c in compare(group({"p": few})) if c.n > 2) == pytest.approx(3)


# ---------------------------------------------------------------- simulated seeds


def simulated(tables: int, seeds: int, gain: float) -> list[Comparison]:
    """`tables` pairs of three rows, whose seeds share a part as paired runs do; KD is `gain` above the others."""
    rng = np.random.default_rng(11)
    shared = rng.normal(60, 1, (tables, 1, seeds))
    values = shared + rng.normal(0, 0.3, (tables, 3, seeds)) + np.array([0, gain, 0])[:, None]
    names = ("ce", "kd", "crd")
    return compare(group({f"p{i}": dict(zip(names, values[i], strict=True)) for i in range(tables)}))


def test_a_planted_null_is_rejected_at_the_nominal_rate():
    """2,000 tables of 5 seeds; the bands are 3.3 standard errors of a binomial share."""
    tables = 2000
    found = simulated(tables, 5, 0.0)
    one_each = [c for c in found if (c.row.label, c.other.label) == ("KD", "Student")]
    band = 3.3 * math.sqrt(0.05 * 0.95 / tables)
    assert np.mean([c.t_p < 0.05 for c in one_each]) == pytest.approx(0.05, abs=band)
    assert np.mean([c.outcome != 0 for c in one_each]) == pytest.approx(0.05, abs=band)
    families = {c.pair for c in found if c.significant}
    assert 0.01 < len(families) / tables < 0.05 + band
    uncorrected = {c.pair for c in found if c.t_p < 0.05}
    assert len(uncorrected) / tables > 0.05 + band  # so that it is Holm's correction that holds the rate


def test_a_planted_difference_is_found():
    tables = 200
    found = simulated(tables, 5, 1.5)
    beside = comparisons_with(found)
    assert np.mean([c.significant == -1 for c in beside.values()]) > 0.95
    rest = [c for c in found if "kd" not in (c.row.method, c.other.method)]
    assert len(rest) == tables
    assert np.mean([bool(c.significant) for c in rest]) < 0.05 + 3.3 * math.sqrt(0.05 * 0.95 / tables)
    covered = [c.low < -1.5 < c.high for c in beside.values()]
    assert np.mean(covered) == pytest.approx(0.95, abs=3.3 * math.sqrt(0.05 * 0.95 / len(covered)) + 0.01)


# ---------------------------------------------------------------- many pairs


@pytest.mark.parametrize(
    ("k", "q"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_nemenyi_by_demsars_table(k, q):
    """Demšar (2006), table 5 (a), q at 0.05."""
    pairs = 14
    assert nemenyi(k, pairs) == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * pairs)), abs=1e-3)


COLUMNS = {
    "p": {"ce": [60, 61, 62], "kd": [62, 63, 64.5], "crd": [61.5, 64, 63], "clkd": [63, 64.2, 65]},
    "q": {"ce": [50, 51, 52], "kd": [51, 52.5, 53], "crd": [51, 52.5, 53], "clkd": [55, 55.5, 57]},
    "r": {"ce": [70, 71, 72, 90], "kd": [70, 70.5, 71], "crd": [69, 68, 70], "clkd": [69, 70, 70.4]},
}


def test_ranks_and_friedman():
    """Means p 61, 63.17, 62.83, 64.07; q 51, 52.17, 52.17, 55.83; r 71, 70.5, 69, 69.8 (the three common seeds)."""
    made = group(COLUMNS)
    ranking = rank(made, compare(made))
    assert ranking is not None
    assert [r.label for r in ranking.rows] == ["Student", "KD", "CRD", "CLKD"]
    assert ranking.ranks.T.tolist() == [[4, 2, 3, 1], [4, 2.5, 2.5, 1], [1, 2, 4, 3]]
    assert list(ranking.average) == pytest.approx([3, 6.5 / 3, 9.5 / 3, 5 / 3])
    assert ranking.seeds["r"] == (0, 1, 2)
    expected = stats.friedmanchisquare(*np.round(ranking.means, 3))
    assert (ranking.friedman, ranking.friedman_p) == pytest.approx((expected.statistic, expected.pvalue))
    assert list(ranking.share_within(0)) == pytest.approx([1 / 3, 0, 0, 2 / 3])
    assert list(ranking.share_within(1)) == pytest.approx([1 / 3, 2 / 3, 0, 2 / 3])
    assert list(ranking.share_within(9)) == [1, 1, 1, 1]
    assert ranking.exclusions == []


def test_friedman_by_hand():
    """Three rows in the same order on four pairs: 12 N / (k (k + 1)) (Σ R² − k (k + 1)² / 4) = 4 · 2 = 8."""
    made = group({p: {"ce": [60.0], "kd": [61.0], "crd": [62.0]} for p in "pqrs"})
    ranking = rank(made, compare(made))
    assert ranking is not None
    assert ranking.friedman == pytest.approx(8)
    assert ranking.friedman_p == pytest.approx(math.exp(-4))  # χ² with two degrees of freedom
    assert ranking.untested == 12


def test_ties_everywhere_are_no_difference():
    made = group({p: {m: [60.0, 61.0, 62.0] for m in ("ce", "kd", "crd")} for p in "pq"})
    ranking = rank(made, compare(made))
    assert ranking is not None
    assert (ranking.friedman, ranking.friedman_p) == (0, 1)
    assert ranking.average.tolist() == [2, 2, 2]
    assert ranking.ties.tolist() == [[0, 2, 2], [2, 0, 2], [2, 2, 0]]


def test_wins_ties_and_losses():
    better = [61.0, 62.1, 62.9]  # about 1 above, 95 % interval [0.75, 1.25]
    made = group(
        {
            "p": {"ce": [60, 61, 62], "kd": better},
            "q": {"ce": [60, 61, 62], "kd": better},
            "r": {"ce": better, "kd": [60, 61, 62]},
            "s": {"ce": [60, 61, 62], "kd": [59, 62, 62.1]},
            "t": {"ce": [60, 61, 62], "kd": [61, 62]},
            "u": {"ce": [60, 61, 62], "kd": [61, 62, 63]},
        }
    )
    ranking = rank(made, compare(made))
    assert ranking is not None
    assert (ranking.wins.tolist(), ranking.ties.tolist()) == ([[0, 1], [2, 0]], [[0, 1], [1, 0]])
    assert ranking.untested == 2  # too few seeds, and no spread
    assert math.isnan(ranking.friedman)  # two rows only


def test_rows_and_pairs_that_cannot_be_ranked_are_left_out_and_named():
    columns = {p: dict(of) for p, of in COLUMNS.items()}
    del columns["q"]["crd"]
    for pair in columns:
        columns[pair]["dkd"] = cell([60, 61, 62], recipe__epochs=20)
    columns["s"] = {"ce": {0: 60.0}, "kd": {0: 61.0}, "clkd": {1: 62.0}, "crd": {0: 1.0}, "dkd": {0: 1.0}}
    columns["s"]["dkd"] = cell({0: 60.0}, recipe__epochs=20)
    made = group(columns)
    ranking = rank(made, compare(made))
    assert ranking is not None
    assert [r.label for r in ranking.rows] == ["Student", "KD", "CLKD"]
    assert ranking.pairs == ["p", "q", "r"]
    assert ranking.exclusions == [
        "CRD: no runs on q",
        "DKD: not trained like the others",
        "s: no seed that all of the ranked rows have",
    ]


def test_nothing_to_rank():
    for columns in (
        {"p": COLUMNS["p"]},
        {"p": {"kd": [60.0]}, "q": {"kd": [61.0]}},
        {"p": {"kd": [60.0]}, "q": {"ce": [61.0]}},
        {"p": {"ce": {0: 60.0}, "kd": {1: 60.0}}, "q": {"ce": {0: 60.0}, "kd": {0: 60.0}}},
    ):
        made = group(columns)
        assert rank(made, compare(made)) is None


# ---------------------------------------------------------------- in the tables

A, B = "resnet20-resnet8", "resnet56-resnet20"


@pytest.fixture
def tested(tree):
    """Four seeds: CLKD far above KD and CRD far below on the first pair, as good as equal on the second."""
    rng = np.random.default_rng(5)
    for i, (pair, gains) in enumerate({A: {"crd": -3.0, "clkd": 3.0}, B: {"crd": 0.0, "clkd": 0.05}}.items()):
        for seed in range(4):
            for j, (method, gain) in enumerate({"ce": -1.0, "kd": 0.0, **gains}.items()):
                top1 = 60 + seed + gain + round(rng.normal(0, 0.1), 2)
                tree.student(pair, method, f"{i:06x}{j:06x}", seed, top1)
    return tree


def read(reports: Path, name: str) -> list[dict[str, str]]:
    with open(reports / "tables" / name, newline="") as f:
        return list(csv.DictReader(f))


def test_daggers_in_all_three_formats(tested, analyse, tmp_path):
    out = analyse("table")[1]
    block = out.split("### Against KD")[0]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in block.splitlines() if line.startswith("| ")]
    ends = {(pair, r[0]): r[rows[0].index(pair)][-1] for r in rows for pair in (A, B)}
    assert (ends[A, "CLKD"], ends[A, "CRD"], ends[A, "Student"]) == ("†", "‡", "‡")
    assert not {ends[A, "KD"], ends[B, "CLKD"], ends[B, "CRD"]} & {"†", "‡"}
    assert block.count("†") == 2  # one entry and the explanation
    assert "paired t-test over common seeds at 5 %, with Holm's correction" in block
    tex = (tmp_path / "reports/tables/cifar100-short.tex").read_text()
    student_too = ends[B, "Student"] == "‡"
    assert tex.count(r"\textsuperscript{$\dagger$}") == 1
    assert tex.count(r"\textsuperscript{$\ddagger$}") == 2 + student_too
    marked = {(r["pair"], r["method"]): r["significance_kd"] for r in read(tmp_path / "reports", "cifar100-short.csv")}
    assert marked[A, "clkd"] == "better" and marked[A, "crd"] == marked[A, "ce"] == "worse"
    assert marked[B, "clkd"] == marked[B, "crd"] == "none"
    assert marked[A, "kd"] == ""


def test_the_summary_beside_kd(tested, analyse, tmp_path):
    out = analyse("table")[1]
    summary = out.split("### Against KD")[1].split("### Cost")[0]
    (line,) = (x for x in summary.splitlines() if x.startswith("| CLKD "))
    (row,) = (
        r
        for r in read(tmp_path / "reports", "cifar100-short-significance.csv")
        if (r["pair"], r["method"], r["other_method"]) == (A, "clkd", "kd")
    )
    text = line.split("|")[3].strip()
    assert text.startswith(f"+{float(row['difference']):.2f} [+{float(row['low']):.2f}, +{float(row['high']):.2f}] p ")
    assert text.endswith("(4) †")


def test_the_files_of_significance(tested, analyse, tmp_path):
    status, _, err = analyse("table")
    assert status == 0
    rows = read(tmp_path / "reports", "cifar100-short-significance.csv")
    assert len(rows) == 2 * 6
    found = {(r["pair"], r["method"], r["other_method"]): r for r in rows}
    top1 = {}
    for method in ("kd", "crd"):
        (folder,) = (tested.root / "cifar100" / A / method).iterdir()
        top1[method] = [json.loads((folder / f"seed={s}/result.json").read_text())["top1_last"] for s in range(4)]
    expected = stats.ttest_rel(top1["crd"], top1["kd"])
    row = found[A, "crd", "kd"]
    assert float(row["t_p"]) == pytest.approx(expected.pvalue, rel=1e-5)
    assert float(row["difference"]) == pytest.approx(np.mean(np.subtract(top1["crd"], top1["kd"])), abs=1e-4)
    assert (row["n"], row["seeds"], row["significant"]) == ("4", "0 1 2 3", "worse")
    assert float(row["t_holm"]) <= 6 * float(row["t_p"]) * (1 + 1e-6)
    markdown = (tmp_path / "reports/tables/cifar100-short-significance.md").read_text()
    assert len([x for x in markdown.splitlines() if x.startswith("| CLKD ")]) == 6
    assert "Wilcoxon" not in markdown
    ranks = (tmp_path / "reports/tables/cifar100-short-ranks.md").read_text()
    assert "4 rows on 2 pairs. Friedman: χ²(3) = " in ranks
    assert err.count("-significance.") == 3 and err.count("-ranks.") == 2


def test_one_pair_has_no_ranks(tested, analyse, tmp_path):
    analyse("table", f"pair={A}")
    names = {p.name for p in (tmp_path / "reports" / "tables").iterdir()}
    assert "cifar100-short-significance.md" in names
    assert "cifar100-short-ranks.md" not in names


def test_fewer_than_three_seeds_are_said_and_nothing_is_explained(tree, analyse, tmp_path):
    for seed in (0, 1):
        tree.student(A, "kd", "0000000000a1", seed, 60.0 + seed)
        tree.student(A, "crd", "0000000000a2", seed, 65.0)
    out = analyse("table")[1]
    assert "No test against KD: 2 seeds in common, and at least 3 are needed." in out
    assert "†" not in out and "### Against KD" not in out
    markdown = (tmp_path / "reports/tables/cifar100-short-significance.md").read_text()
    assert "n = 2: too few for a test" in markdown
    assert "No test was made: at most 2 seeds in common" in markdown
    assert "nan" not in markdown + (tmp_path / "reports/tables/cifar100-short-significance.csv").read_text()


def test_several_variants_of_kd_are_said(tree, analyse):
    for seed in range(3):
        tree.student(A, "kd", "0000000000a1", seed, 60.0 + seed, options={"T": 2.0})
        tree.student(A, "kd", "0000000000a2", seed, 60.1 + seed, options={"T": 4.0})
        tree.student(A, "crd", "0000000000a3", seed, 61.0)
    assert "No test against KD: it has several variants here" in analyse("table")[1]


def test_rows_that_were_trained_unlike_are_counted(tree, analyse, tmp_path):
    for seed in range(3):
        tree.student(A, "ce", "0000000000a1", seed, 60.0 + seed, epochs=20)
        tree.student(A, "kd", "0000000000a2", seed, 60.1 + seed * seed, epochs=20)
        tree.student(A, "kd", "0000000000a3", seed, 60.2 + seed, epochs=2)
    analyse("table")
    markdown = (tmp_path / "reports/tables/cifar100-short-significance.md").read_text()
    assert "2 of 3 comparisons are not made: the rows were not trained alike." in markdown
    assert len(read(tmp_path / "reports", "cifar100-short-significance.csv")) == 1


def test_the_latex_compiles(tested, analyse, tmp_path):
    if not (pdflatex := shutil.which("pdflatex")):
        pytest.skip("pdflatex is not installed")
    if subprocess.run(["kpsewhich", "booktabs.sty", "longtable.sty"], capture_output=True).returncode:
        pytest.skip("the LaTeX packages booktabs and longtable are not installed")
    analyse("table")
    names = [f"reports/tables/cifar100-short{x}" for x in ("", "-significance")]
    inputs = "".join(rf"\input{{{n}}}" for n in names)
    document = rf"\documentclass{{article}}\usepackage{{booktabs,longtable}}\begin{{document}}{inputs}\end{{document}}"
    (tmp_path / "doc.tex").write_text(document)
    made = subprocess.run(
        [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "doc.tex"], cwd=tmp_path, capture_output=True
    )
    assert made.returncode == 0, made.stdout.decode(errors="replace")[-2000:]


def test_a_table_needs_no_scipy_where_nothing_is_tested(tree, tmp_path):
    tree.student(A, "kd", "0000000000a1", 0, 60.0)
    tree.student(A, "ce", "0000000000a2", 0, 59.0)
    code = (
        "import sys; from analysis.__main__ import main; s = main(sys.argv[1:]); sys.exit(s or 'scipy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "table", f"runs={tree.root}", f"reports={tmp_path / 'r'}"], capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_keys_tell_variants_apart():
    made = group({"p": {"kd/0": [1.0], "kd/1": [2.0]}})
    assert [r.key for r in made.rows] == [("kd", 0), ("kd", 1)]
