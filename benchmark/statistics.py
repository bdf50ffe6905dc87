"""Means over seeds with their deviation and 95 % confidence interval: the only such definitions in the code base."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
MIN_SEEDS = 3  # fewer give no interval and no test
RESOLUTION = 1e-3  # points of accuracy below which values count as equal; one of ImageNet's 50,000 test images is 2e-3
MIN_VALIDATION_IMAGES = 200  # of fewer, one image is more than half a point


def few_images_note(validation_images: int) -> str | None:
    """Return a warning for a choice by fewer than `MIN_VALIDATION_IMAGES` validation images; None for more."""
    if validation_images >= MIN_VALIDATION_IMAGES:
        return None
    return (
        f"Only {validation_images} validation images: one is {100 / validation_images:.2g} points, and the choice "
        f"is largely chance. Hold out {MIN_VALIDATION_IMAGES} or more, by dataset.validation or dataset.train_size."
    )


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; NaN where a number is not defined."""

    mean: float
    low: float = math.nan
    high: float = math.nan


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation; NaN for no values, and the deviation of one."""
    mean = float(np.mean(values)) if len(values) else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def mean_interval(values: Sequence[float], resolution: float = RESOLUTION) -> Interval:
    """Return the mean of independent values with its interval; see `mean_intervals`. The mean of no values is NaN."""
    if not len(values):
        return Interval(math.nan)
    mean, low, high = mean_intervals(np.asarray(values, dtype=float)[None], resolution)
    return Interval(float(mean[0]), float(low[0]), float(high[0]))


def mean_intervals(values: np.ndarray, resolution: float = RESOLUTION) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, low and high [m] of the rows of `values` [m, n], n ≥ 1.

    The interval is mean ± t s / √n, with the sample standard deviation s and the 97.5 % quantile t of Student's
    distribution with n − 1 degrees of freedom. Bounds are NaN for fewer than `MIN_SEEDS` values, and for rows whose
    range is below `resolution`, where rounding alone would make the spread.
    """
    mean, n = values.mean(axis=1), values.shape[1]
    if n < MIN_SEEDS:
        undefined = np.full(len(values), math.nan)
        return mean, undefined, undefined
    from scipy import special  # slow to import, and many tables need none

    half_width = special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * np.sqrt(values.var(axis=1, ddof=1) / n)
    half_width[np.ptp(values, axis=1) < resolution] = math.nan
    return mean, mean - half_width, mean + half_width
