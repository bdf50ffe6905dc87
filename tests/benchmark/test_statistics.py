"""The interval of a mean: against hand-computed values and scipy."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from benchmark.statistics import RESOLUTION, Interval, few_images_note, mean_and_std, mean_interval, mean_intervals

NAN = pytest.approx(math.nan, nan_ok=True)


def test_interval_of_three_values_by_hand():
    """1, 2, 3: mean 2, standard deviation 1; the 97.5 % quantile at 2 degrees of freedom is 4.302653."""
    half_width = 4.302653 / math.sqrt(3)
    assert mean_interval([1, 2, 3]) == Interval(2, pytest.approx(2 - half_width), pytest.approx(2 + half_width))


@pytest.mark.parametrize("n", [3, 5, 20])
def test_intervals_equal_scipys_one_sample_test(n):
    values = np.random.default_rng(n).normal(70, 1, (7, n))
    expected = stats.ttest_1samp(values, 0, axis=1).confidence_interval(0.95)
    mean, low, high = mean_intervals(values)
    assert list(mean) == list(values.mean(axis=1))
    assert (list(low), list(high)) == (pytest.approx(list(expected.low)), pytest.approx(list(expected.high)))


@pytest.mark.parametrize(
    ("values", "mean"),
    [([], math.nan), ([1.0], 1.0), ([1.0, 3.0], 2.0), ([0.5, 0.5 + RESOLUTION / 2, 0.5], 0.5 + RESOLUTION / 6)],
)
def test_too_few_or_equal_values_have_no_interval(values, mean):
    interval = mean_interval(values)
    assert interval.mean == pytest.approx(mean, nan_ok=True)
    assert (interval.low, interval.high) == (NAN, NAN)


@pytest.mark.parametrize(
    ("values", "mean", "std"), [([], NAN, NAN), ([4.0], 4.0, NAN), ([1.0, 2.0, 3.0], 2.0, pytest.approx(1.0))]
)
def test_mean_and_sample_standard_deviation(values, mean, std):
    assert mean_and_std(values) == (mean, std)


def test_the_smallest_spread_can_be_given():
    assert mean_interval([0, 1e-6, 0], resolution=0).low < 0


def test_a_choice_by_few_validation_images_is_warned_of():
    note = few_images_note(20)
    assert note and note.startswith("Only 20 validation images: one is 5 points") and "Hold out 200 or more" in note
    assert few_images_note(199) and few_images_note(200) is None


def test_importing_it_loads_no_torch():
    program = "import sys, benchmark.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
