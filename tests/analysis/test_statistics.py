"""Significance and ranks: against hand-computed cases, scipy, published tables, and simulated seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.groups import MethodRow, ResultGroup, SeedGroup
from analysis.statistics import Comparison, compare, compare_all, comparisons_with, holm, nemenyi, rank

pytestmark = pytest.mark.filterwarnings("error")
LABELS = {"ce": "Student", "kd": "KD", "crd": "CRD", "dkd": "DKD", "clkd": "CLKD"}
NAN = pytest.approx(math.nan, nan_ok=True)
CONFIG = {"recipe.epochs": 240, "dataset.name": "cifar100", "teacher.sha256": "a1"}


def seed_group(
    accuracies: Mapping[int, float] | Sequence[float], *, changed: Sequence[str] = (), **config: Any
) -> SeedGroup:
    """A seed group of these accuracies by seed (from 0 for a list). changed: settings that are not the defaults."""
    by_seed = accuracies if isinstance(accuracies, Mapping) else dict(enumerate(accuracies))
    frame = pd.DataFrame({"seed": list(by_seed), "top1_last": list(by_seed.values()), "identity": "0123456789ab"})
    frame["changed_settings"] = [changed] * len(frame)
    return SeedGroup(frame, CONFIG | {k.replace("__", "."): v for k, v in config.items()})


def group(columns: Mapping[str, Mapping[str, Any]]) -> ResultGroup:
    """A group from accuracies by pair and row; a row is a method, or method/variant."""
    rows: dict[str, MethodRow] = {}
    for pair, by_row in columns.items():
        for name, accuracies in by_row.items():
            method, _, variant = name.partition("/")
            label = LABELS[method] + (f" ({variant})" if variant else "")
            runs = accuracies if isinstance(accuracies, SeedGroup) else seed_group(accuracies)
            default = runs.has_default_options
            row = rows.setdefault(name, MethodRow(method, label, int(variant or 0), {}, is_default=default))
            row.seed_groups[pair] = runs
    order = sorted(rows.values(), key=lambda r: (list(LABELS).index(r.method), r.variant))
    return ResultGroup(
        "cifar100", "short", list(columns), {p: ("a", "b") for p in columns}, [], order, [], pd.DataFrame()
    )


def compare_kd(student: Any, kd: Any) -> Comparison:
    """KD against the student alone, from their accuracies."""
    (comparison,) = compare(group({"p": {"ce": student, "kd": kd}}))
    return comparison


# ---------------------------------------------------------------- two rows


def test_three_differences_by_hand():
    """Differences 1, 2, 3: mean 2, standard deviation 1, t = 2 √3 with 2 degrees of freedom, whose distribution is
    1/2 + t / (2 √(2 + t²)); the 97.5 % quantile is 4.302653."""
    c = compare_kd([60, 60, 60], [61, 62, 63])
    t = 2 * math.sqrt(3)
    assert (c.row.label, c.other.label, c.seeds, c.n) == ("KD", "Student", (0, 1, 2), 3)
    assert c.difference == pytest.approx(2)
    assert (c.low, c.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)
    assert c.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert c.d_z == pytest.approx(2)
    assert (c.p_adjusted, c.family_size, c.df, c.note) == (c.p, 1, 2, "")
    assert c.outcome == 0


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_intervals_and_p_values_equal_scipys(n):
    rng = np.random.default_rng(n)
    before = rng.normal(70, 1, n)
    after = before + rng.normal(0.3, 0.5, n)
    c = compare_kd(before, after)
    t = stats.ttest_rel(after, before)
    low, high = t.confidence_interval(0.95)
    assert (c.p, c.low, c.high) == pytest.approx((t.pvalue, low, high))
    assert c.d_z == pytest.approx(t.statistic / math.sqrt(n))


def test_only_common_seeds_are_compared():
    c = compare_kd({0: 60.0, 1: 61.0, 2: 59.0, 7: 0.0}, {3: 99.0, 2: 60.5, 1: 61.5, 0: 61.0})
    assert (c.seeds, c.n) == ((0, 1, 2), 3)
    t = stats.ttest_rel([61.0, 61.5, 60.5], [60.0, 61.0, 59.0])
    assert c.difference == pytest.approx(1.0)
    assert c.p == pytest.approx(t.pvalue)
    c = compare_kd({0: 60.0, 1: math.nan}, {0: 61.0, 1: 61.0})
    assert (c.seeds, c.difference) == ((0,), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("kd", "n", "difference", "note"),
    [
        ({0: 61.0, 1: 63.0}, 2, 2.0, "n = 2: too few for a test"),
        ({1: 61.0}, 1, 1.0, "n = 1: too few for a test"),
        ({8: 61.0}, 0, math.nan, "no seed in common"),
    ],
)
def test_too_few_seeds_are_noted_and_not_tested(kd, n, difference, note):
    c = compare_kd([60.0, 60.0, 60.0], kd)
    assert (c.n, c.note) == (n, note)
    assert c.difference == pytest.approx(difference, nan_ok=True)
    assert [c.low, c.high, c.p, c.p_adjusted, c.d_z] == [NAN] * 5
    assert (c.significant, c.outcome) == (0, None)


def test_all_differences_zero():
    c = compare_kd([60, 61, 62, 63], [60, 61, 62, 63 + 4e-6])  # the last within single precision
    assert (c.difference, c.low, c.high, c.p, c.p_adjusted, c.d_z) == (0, 0, 0, 1, 1, 0)
    assert (c.outcome, c.significant, c.note) == (0, 0, "")


def test_equal_differences_have_no_t():
    c = compare_kd([60, 61, 62, 63, 64], [60.5, 61.5, 62.5, 63.5, 64.5])
    assert c.difference == pytest.approx(0.5)
    assert [c.low, c.high, c.p, c.p_adjusted, c.d_z] == [NAN] * 5
    assert (c.outcome, c.significant, c.note) == (None, 0, "all differences are equal: no t")


@pytest.mark.parametrize(
    "changes",
    [{"recipe__epochs": 20}, {"precision": "bf16"}, {"dataset__validation": 0.1}],
)
def test_other_training_conditions_are_never_compared(changes):
    values = [60.0, 61.0, 62.0]
    assert compare(group({"p": {"ce": seed_group(values), "kd": seed_group(values, **changes)}})) == []
    assert len(compare(group({"p": {"ce": seed_group(values, **changes), "kd": seed_group(values, **changes)}}))) == 1
    assert len(compare(group({"p": {"ce": seed_group(values), "kd": seed_group(values, method__T=4.0)}}))) == 1


def test_runs_without_a_config_are_not_compared():
    unknown = SeedGroup(seed_group([60.0, 61.0, 62.0]).runs, {"teacher.sha256": "a1"})
    assert compare(group({"p": {"ce": unknown, "kd": unknown}})) == []


def labels(comparisons: list[Comparison]) -> list[tuple[str, str]]:
    return [(c.row.label, c.other.label) for c in comparisons]


ROWS = {"ce": [60, 61, 60], "kd": [62, 62, 61], "crd": [61, 63, 64], "dkd": [62, 63, 61]}


def test_methods_are_compared_with_kd_and_with_the_student_alone():
    comparisons = compare(group({"p": ROWS, "q": {"kd": [1, 2, 4]}}))
    family_of_kd = [("CRD", "KD"), ("DKD", "KD")]
    assert labels(comparisons) == [*family_of_kd, ("KD", "Student"), ("CRD", "Student"), ("DKD", "Student")]
    assert [c.family_size for c in comparisons] == [2, 2, 3, 3, 3]
    with_kd, with_student = comparisons_with(comparisons), comparisons_with(comparisons, "ce")
    assert set(with_kd) == {(("crd", 0), "p"), (("dkd", 0), "p")}
    assert set(with_student) == {(("kd", 0), "p"), (("crd", 0), "p"), (("dkd", 0), "p")}
    assert with_kd[("crd", 0), "p"].difference == pytest.approx(1.0)
    assert with_student[("kd", 0), "p"].difference == pytest.approx(4 / 3)


def test_every_two_rows_on_request():
    comparisons = compare_all(group({"p": {m: ROWS[m] for m in ("ce", "kd", "crd")}, "q": {"kd": [1, 2, 4]}}))
    assert labels(comparisons) == [("KD", "Student"), ("CRD", "Student"), ("CRD", "KD")]
    assert [c.family_size for c in comparisons] == [3, 3, 3]
    p = sorted(c.p for c in comparisons)
    holms = [min(1, 3 * p[0]), min(1, max(3 * p[0], 2 * p[1])), min(1, max(3 * p[0], 2 * p[1], p[2]))]
    assert sorted(c.p_adjusted for c in comparisons) == pytest.approx(holms)
    assert all(math.isnan(c.low) and math.isnan(c.high) for c in comparisons)


def test_a_family_does_not_depend_on_other_families_and_pairs():
    """Another pair, a row trained otherwise, and the student alone change no comparison with KD."""
    comparisons = comparisons_with(compare(group({"p": ROWS})))
    more = ROWS | {"clkd": seed_group([70.0, 60.0, 65.0], recipe__epochs=20)}
    without_student = {m: values for m, values in ROWS.items() if m != "ce"}
    for columns in ({"p": more, "q": ROWS}, {"p": without_student}):
        changed = comparisons_with(compare(group(columns)))
        for key, c in comparisons.items():
            assert (changed[key].p_adjusted, changed[key].low) == (c.p_adjusted, c.low)


def test_interval_and_p_value_are_corrected_for_the_family_by_bonferroni():
    """From the uncorrected p-value and the degrees of freedom of each comparison, by scipy."""
    comparisons = compare(group({"p": ROWS}))
    for c in comparisons:
        assert c.p_adjusted == pytest.approx(min(1, c.family_size * c.p))
        error = abs(c.difference) / stats.t.isf(c.p / 2, c.df)
        half = stats.t.isf(0.05 / 2 / c.family_size, c.df) * error
        assert (c.low, c.high) == pytest.approx((c.difference - half, c.difference + half))
        assert c.difference / c.d_z / math.sqrt(3) == pytest.approx(error)
    assert comparisons[0].df > 2  # moderated


@given(st.lists(st.lists(st.floats(-3, 3), min_size=3, max_size=3), min_size=2, max_size=6))
def test_an_interval_excludes_zero_just_where_there_is_a_mark(rows):
    columns = {"ce": [60.0, 60.0, 60.0]} | {f"clkd/{i}": [60 + x for x in row] for i, row in enumerate(rows)}
    for c in compare(group({"p": columns})):
        assert (c.significant == 1, c.significant == -1) == (c.low > 0, c.high < 0)


def test_methods_are_compared_with_the_default_variant():
    variants = {"kd/0": [60, 61, 60], "kd/1": seed_group([62, 62, 61], changed=["method.T", "recipe.epochs"])}
    rows = {"ce": [60, 60, 61], **variants, "crd": [61, 63, 64]}
    comparisons = compare(group({"p": rows}))
    assert labels(comparisons)[:2] == [("KD (1)", "KD (0)"), ("CRD", "KD (0)")]
    rows["kd/0"] = seed_group([60, 61, 60], changed=["method.T"])
    assert [other for _, other in labels(compare(group({"p": rows})))] == ["Student"] * 3  # no variant is the default
    rows["kd/0"] = seed_group([60, 61, 60])
    rows["kd/1"] = seed_group([62, 62, 61], changed=["method.T"], recipe__epochs=20)
    rows["dkd"] = seed_group([62, 62, 61], recipe__epochs=20)  # only the variant was trained like it
    assert labels(compare(group({"p": rows})))[:2] == [("CRD", "KD (0)"), ("DKD", "KD (1)")]


def test_the_families_of_many_rows_grow_with_their_number():
    rng = np.random.default_rng(0)
    rows = {"ce": rng.normal(60, 1, 3), "kd": rng.normal(61, 1, 3)}
    variants = {f"clkd/{i}": rng.normal(61, 1, 3) for i in range(60)}
    assert len(compare(group({"p": rows | variants}))) == 60 + 61
    assert len(compare_all(group({"p": rows | variants}))) == 62 * 61 // 2


def test_published_values_never_enter(monkeypatch):
    from analysis import published

    results = group(
        {"wrn40_2-wrn16_2": {"ce": [60, 61, 62], "kd": [61, 63, 63]}, "p": {"ce": [1, 2, 3], "kd": [3, 4, 4]}}
    )
    for name in ("find", "load"):
        monkeypatch.setattr(published, name, None)  # calling it fails
    assert len(compare(results)) == 2
    assert rank(results) is not None


# ---------------------------------------------------------------- Holm's correction


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=8))
def test_holm_by_its_definition(p):
    """Each p-value is the largest of (m − j) p_(j) over the smaller ones and itself, at most 1."""
    defined = sorted(x for x in p if not math.isnan(x))
    steps = [(len(defined) - j) * x for j, x in enumerate(defined)]
    expected = [x if math.isnan(x) else min(1, max(steps[: defined.index(x) + defined.count(x)])) for x in p]
    assert list(holm(np.array(p))) == pytest.approx(expected, nan_ok=True)


def test_holm_by_hand():
    assert list(holm(np.array([0.01, 0.04, 0.03]))) == pytest.approx([0.03, 0.06, 0.06])
    assert list(holm(np.array([0.01, 0.02, 0.03, 0.2]))) == pytest.approx([0.04, 0.06, 0.06, 0.2])
    assert list(holm(np.array([0.6, 0.7]))) == [1, 1]
    assert list(holm(np.array([0.02, math.nan, 0.03]))) == [pytest.approx(0.04), NAN, pytest.approx(0.04)]
    assert len(holm(np.array([]))) == 0


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
    results = group(COLUMNS)
    ranking = rank(results)
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
    results = group({p: {"ce": [60.0], "kd": [61.0], "crd": [62.0]} for p in "pqrs"})
    ranking = rank(results)
    assert ranking is not None
    assert ranking.friedman == pytest.approx(8)
    assert ranking.friedman_p == pytest.approx(math.exp(-4))  # χ² with two degrees of freedom
    assert ranking.untested == 12


def test_ties_everywhere_give_a_friedman_statistic_of_0():
    results = group({p: {m: [60.0, 61.0, 62.0] for m in ("ce", "kd", "crd")} for p in "pq"})
    ranking = rank(results)
    assert ranking is not None
    assert (ranking.friedman, ranking.friedman_p) == (0, 1)
    assert ranking.average.tolist() == [2, 2, 2]
    assert ranking.ties.tolist() == [[0, 2, 2], [2, 0, 2], [2, 2, 0]]


def test_wins_ties_and_losses():
    better = [61.0, 62.1, 62.9]  # about 1 above, 95 % interval [0.75, 1.25]
    results = group(
        {
            "p": {"ce": [60, 61, 62], "kd": better},
            "q": {"ce": [60, 61, 62], "kd": better},
            "r": {"ce": better, "kd": [60, 61, 62]},
            "s": {"ce": [60, 61, 62], "kd": [59, 62, 62.1]},
            "t": {"ce": [60, 61, 62], "kd": [61, 62]},
            "u": {"ce": [60, 61, 62], "kd": [61, 62, 63]},
        }
    )
    ranking = rank(results)
    assert ranking is not None
    assert (ranking.wins.tolist(), ranking.ties.tolist()) == ([[0, 1], [2, 0]], [[0, 1], [1, 0]])
    assert ranking.untested == 2  # too few seeds, and no spread
    assert math.isnan(ranking.friedman)  # two rows only


def test_rows_and_pairs_that_cannot_be_ranked_are_excluded_with_the_reason():
    columns = {p: dict(by_row) for p, by_row in COLUMNS.items()}
    del columns["q"]["crd"]
    for pair in columns:
        columns[pair]["dkd"] = seed_group([60, 61, 62], recipe__epochs=20)
    columns["s"] = {"ce": {0: 60.0}, "kd": {0: 61.0}, "clkd": {1: 62.0}, "crd": {0: 1.0}, "dkd": {0: 1.0}}
    columns["s"]["dkd"] = seed_group({0: 60.0}, recipe__epochs=20)
    results = group(columns)
    ranking = rank(results)
    assert ranking is not None
    assert [r.label for r in ranking.rows] == ["Student", "KD", "CLKD"]
    assert ranking.pairs == ["p", "q", "r"]
    assert ranking.exclusions == [
        "CRD: no runs on q",
        "DKD: not trained like the others",
        "s: no seed that all of the ranked rows have",
    ]


def test_fewer_than_two_rows_or_pairs_are_not_ranked():
    for columns in (
        {"p": COLUMNS["p"]},
        {"p": {"kd": [60.0]}, "q": {"kd": [61.0]}},
        {"p": {"kd": [60.0]}, "q": {"ce": [61.0]}},
        {"p": {"ce": {0: 60.0}, "kd": {1: 60.0}}, "q": {"ce": {0: 60.0}, "kd": {0: 60.0}}},
    ):
        results = group(columns)
        assert rank(results) is None
