"""Moderated paired t-tests: closed forms, scipy, and the distributions that the model promises."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.moderated import fit_prior, inverse_trigamma, paired_tests, pooled_df, winsorized

pytestmark = pytest.mark.filterwarnings("error")
NAN = pytest.approx(math.nan, nan_ok=True)
TWO_VARIANCES = np.exp(np.array([-0.5, 0.5]) * math.sqrt(2 * (math.pi**2 / 3 - 1)))


def star(m: int) -> list[tuple[str, str]]:
    """m rows, each compared with KD."""
    return [(f"row {i}", "kd") for i in range(m)]


@pytest.mark.parametrize(
    ("y", "trigamma"), [(1.0, math.pi**2 / 6), (0.5, math.pi**2 / 2), (2.0, math.pi**2 / 6 - 1), (1e4, 1.00005e-4)]
)
def test_the_inverse_of_the_trigamma_function(y, trigamma):
    assert inverse_trigamma(trigamma) == pytest.approx(y, rel=1e-6)


def test_the_prior_of_two_variances_by_hand():
    """With d = 2, ψ'(1) = π²/6 and ψ(1) = −γ: log s² at ±δ/2 with δ²/2 = π²/3 − 1 leave π²/6 − 1 = ψ'(2), so d_0 = 4;
    e has the mean γ, so that log s_0² = γ + ψ(2) − log 2 = 1 − log 2."""
    prior = fit_prior(TWO_VARIANCES, np.array([2.0, 2.0]))
    assert (prior.df, prior.variance) == (pytest.approx(4), pytest.approx(math.e / 2))
    assert fit_prior(9 * TWO_VARIANCES, np.array([2.0, 2.0])).variance == pytest.approx(9 * math.e / 2)
    assert fit_prior(TWO_VARIANCES, np.array([2.0, 2.0]), limit=0.5).df == 0.5
    assert fit_prior(TWO_VARIANCES, np.array([2.0, 2.0]), limit=-1.0).df == 0


def test_small_variances_are_raised_to_the_tenth_of_equal_ones():
    """χ²(2) / 2 is exponential: its tenth is −log 0.9, its median log 2."""
    floor = 0.3 * -math.log(0.9) / math.log(2)
    raised = winsorized(np.array([1e-9, 0.3, floor / 2, 0.31, 7.0]), np.full(5, 2.0))
    assert list(raised) == pytest.approx([floor, 0.3, floor, 0.31, 7.0])
    normal = np.random.default_rng(0).normal(size=(30_000, 4)).var(axis=1, ddof=1)
    assert (winsorized(normal, np.full(len(normal), 3.0)) > normal).mean() == pytest.approx(0.1, abs=0.01)


def test_variances_that_differ_less_than_by_chance_are_pooled():
    prior = fit_prior(np.array([1.0, 1.1, 0.9, 1.2]), np.array([2.0, 2.0, 2.0, 4.0]))
    assert (prior.df, prior.variance) == (math.inf, pytest.approx((2 + 2.2 + 1.8 + 4.8) / 10))


@pytest.mark.parametrize(("d", "d0"), [(2, 4.0), (4, 10.0)])
def test_the_prior_is_found_again_in_many_draws_of_the_model(d, d0):
    rng = np.random.default_rng(1)
    true = d0 * 0.09 / rng.chisquare(d0, 200_000)
    prior = fit_prior(true * rng.chisquare(d, true.size) / d, np.full(true.size, float(d)))
    assert prior.df == pytest.approx(d0, rel=0.05)
    assert prior.variance == pytest.approx(0.09, rel=0.02)


@pytest.mark.parametrize("m", [1, 2, 5, 14])
def test_what_pooled_variances_of_one_reference_are_worth(m):
    """Variances of m differences to one row: by the formula, and as 2 E² / Var of their simulated mean."""
    assert pooled_df(star(m), 2.0) == pytest.approx(2 * 4 * m / (m + 3))
    noise = np.random.default_rng(m).normal(size=(40_000, m + 1, 3))
    means = (noise[:, 1:] - noise[:, :1]).var(axis=2, ddof=1).mean(axis=1)
    assert 2 * means.mean() ** 2 / means.var() == pytest.approx(2 * 4 * m / (m + 3), rel=0.05)


def test_what_pooled_variances_of_all_pairs_are_worth():
    """As many degrees of freedom as the residuals of a layout of 6 rows by 3 seeds."""
    edges = [(i, j) for i in range(6) for j in range(i)]
    assert pooled_df(edges, 2.0) == pytest.approx((6 - 1) * (3 - 1))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_comparison_alone_has_the_plain_paired_t_test(n):
    differences = np.random.default_rng(n).normal(0.3, 0.5, n)
    tests = paired_tests([differences], star(1))
    expected = stats.ttest_1samp(differences, 0)
    low, high = expected.confidence_interval(0.95)
    assert tests.p[0] == pytest.approx(expected.pvalue)
    assert tests.half_widths(0.05)[0] == pytest.approx((high - low) / 2)
    assert (tests.df[0], tests.count) == (n - 1, 1)
    assert tests.effect_sizes[0] == pytest.approx(expected.statistic / math.sqrt(n))


def test_two_comparisons_by_hand():
    """The prior variance is e / 2; two rows with one reference are worth 8/5 · 2 = 3.2 degrees, so d_0 = 1.2 of 4."""
    standard = np.array([-1.0, 0.0, 1.0])  # variance 1
    tests = paired_tests([i + 1 + standard * math.sqrt(v) for i, v in enumerate(TWO_VARIANCES)], star(2))
    for i, variance in enumerate(TWO_VARIANCES):
        std = math.sqrt((1.2 * math.e / 2 + 2 * variance) / 3.2)
        assert tests.std[i] == pytest.approx(std)
        assert tests.p[i] == pytest.approx(2 * stats.t.sf((i + 1) / (std / math.sqrt(3)), 3.2))
        assert tests.half_widths(0.05)[i] == pytest.approx(stats.t.ppf(0.975, 3.2) * std / math.sqrt(3))
    assert list(tests.df) == pytest.approx([3.2, 3.2])


def test_accidentally_equal_differences_are_not_rewarded():
    """+2.50 in every seed but for a hundredth has p < 0.001 alone, and the noise of the others beside them."""
    rng = np.random.default_rng(4)
    equal = np.array([2.49, 2.50, 2.51])
    others = [rng.normal(0, 2, 3) for _ in range(5)]
    assert paired_tests([equal], star(1)).p[0] < 0.001
    tests = paired_tests([equal, *others], star(6))
    assert tests.p[0] > 0.01
    assert tests.std[0] > 50 * equal.std(ddof=1)


def test_differences_without_spread_are_tested_by_that_of_others():
    spread = [np.array([0.1, 0.5, 0.3]), np.array([-0.2, 0.4, 0.1]), np.array([0.0, -0.3, 0.2])]
    equal, zero, short = np.full(3, 0.5), np.zeros(3), np.array([0.5, 0.7])
    alone = paired_tests([equal, zero, short, np.array([])], star(4))
    assert [alone.p[0], alone.p[2], alone.p[3]] == [NAN] * 3 and alone.p[1] == 1
    assert list(alone.difference) == [0.5, 0, pytest.approx(0.6), NAN]
    assert alone.half_widths(0.05)[1] == 0 and alone.effect_sizes[1] == 0
    tests = paired_tests([*spread, equal, zero, short], star(6))
    assert tests.count == 5 and math.isnan(tests.p[5])
    d0 = tests.df[3] - 2
    prior = paired_tests(spread, star(3))  # the others' prior is not changed by those without spread
    assert list(tests.std[:3]) == pytest.approx(list(prior.std))
    lent = (prior.std[0] ** 2 * prior.df[0] - 2 * 0.04) / d0  # the first has the variance 0.04
    assert tests.std[3] == pytest.approx(math.sqrt(d0 * lent / (d0 + 2)))
    assert tests.p[3] < 1 and tests.p[4] == 1


def test_more_seeds_have_more_degrees_of_freedom():
    rng = np.random.default_rng(7)
    tests = paired_tests([rng.normal(0, 1, n) for n in (3, 5, 5, 3, 4)], star(5))
    assert list(tests.df - tests.df[0]) == pytest.approx([0, 2, 2, 0, 1])
    assert (tests.df > [2, 4, 4, 2, 3]).all()


def test_no_comparisons():
    tests = paired_tests([], [])
    assert tests.count == 0 and tests.half_widths(0.05).shape == (0,)
