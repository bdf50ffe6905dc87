"""Moderated paired t-tests of several comparisons on the same seeds: each borrows spread from the others.

With three seeds the standard deviation of the differences is so uncertain that a paired t-test rewards accidental
equality. The empirical Bayes model of Smyth (2004, Linear models and empirical Bayes methods for assessing differential
expression in microarray experiments, Statistical Applications in Genetics and Molecular Biology 3(1), article 3; the
`eBayes` of limma) takes the true variances σ_i² of the m comparisons as draws around a common one:

    s_i² | σ_i² ~ σ_i² χ²(d_i) / d_i,     1 / σ_i² ~ χ²(d_0) / (d_0 s_0²),     d_i = n_i − 1,
    s̃_i² = (d_0 s_0² + d_i s_i²) / (d_0 + d_i),     t̃_i = mean_i / (s̃_i / √n_i) ~ Student's t with d_0 + d_i degrees

Prior degrees of freedom d_0 and prior variance s_0² are estimated from the moments of log s_i² (his section 6.2).

Two things differ from Smyth's genes. Comparisons of a table share a reference, and so its noise: m variances tell less
than m (n − 1) degrees of freedom. d_0 is limited, so that d_0 + d_i is at most `pooled_df`, what the mean of the m
variances is worth (limma's own limit, the sum of d_i, marks too much here). And there are few: one variance near zero
by accident would make σ_i² look so unequal that d_0 vanished. Small variances are therefore raised before the estimate,
see `winsorized`; limma's robust form does so at both ends (Phipson et al. 2016, Robust hyperparameter estimation
protects against hypervariable genes and improves power to detect differential expression, Annals of Applied Statistics
10(2)). Large ones are kept, since they are what protects against marking noise.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.statistics import MIN_SEEDS, RESOLUTION

LOW = 0.1  # share of equal variances that `winsorized` raises


@dataclass(frozen=True)
class Prior:
    """Common variance of the comparisons, in squared points, and the degrees of freedom that it is worth."""

    df: float
    variance: float


@dataclass(frozen=True)
class PairedTests:
    """Two-sided tests of m mean differences, arrays [m]; NaN where a comparison has no test.

    difference: mean over seeds. std: moderated standard deviation s̃ of one seed's difference. df: d_0 + d_i.
    p: not corrected for m.
    """

    n: np.ndarray
    difference: np.ndarray
    std: np.ndarray
    df: np.ndarray
    p: np.ndarray

    @property
    def count(self) -> int:
        """Number of tests that were made."""
        return int((~np.isnan(self.p)).sum())

    @property
    def effect_sizes(self) -> np.ndarray:
        """The differences over `std`; 0 where all differences are zero, NaN without a test."""
        return np.divide(self.difference, self.std, out=np.where(np.isnan(self.std), math.nan, 0.0), where=self.std > 0)

    def half_widths(self, alpha: float) -> np.ndarray:
        """Return half the widths of intervals that each miss the true difference with probability `alpha`."""
        from scipy import special

        return special.stdtrit(self.df, 1 - alpha / 2) * self.std / np.sqrt(np.maximum(self.n, 1))


def paired_tests(differences: Sequence[np.ndarray], edges: Sequence[tuple[Hashable, Hashable]]) -> PairedTests:
    """Test whether mean differences are zero.

    differences: by comparison, one per common seed. edges: the two rows that each comparison is between. There is no
    test below `MIN_SEEDS` seeds. Differences that are equal within `RESOLUTION` have no spread of their own; they are
    tested where other comparisons lend them some, else only if they are zero (p = 1). A comparison that no other
    moderates has the plain paired t-test.
    """
    n = np.array([len(d) for d in differences], dtype=int)
    difference, variance = _moments(differences, n)
    spread = np.flatnonzero(variance > 0).tolist()  # False for NaN
    prior = Prior(0.0, math.nan)
    if len(spread) > 1:
        df = n[spread] - 1.0
        limit = pooled_df([edges[i] for i in spread], float(df.mean())) - float(df.mean())
        prior = fit_prior(winsorized(variance[spread], df), df, limit)
    own_df = np.where(n >= MIN_SEEDS, n - 1.0, math.nan)
    df = prior.df + own_df
    std = np.sqrt(((prior.df * prior.variance if prior.df else 0.0) + own_df * variance) / df)
    difference[(variance == 0) & (np.abs(difference) < RESOLUTION)] = 0
    std[(std == 0) & (difference != 0)] = math.nan
    df[np.isnan(std)] = math.nan
    return PairedTests(n, difference, std, df, _two_sided(difference, std, n, df))


def pooled_df(edges: Sequence[tuple[Hashable, Hashable]], df: float) -> float:
    """Return what the mean of all variances is worth in degrees of freedom, where one is worth `df`.

    With rows of equal variance the mean is a quadratic form whose matrix is the Laplacian of the graph of comparisons;
    Satterthwaite's approximation (1946, Biometrics Bulletin 2(6)) gives df (2E)² / (Σ deg² + 2E) for E comparisons and
    deg the number of comparisons of each row: 4 m / (m + 3) times df for m rows with one reference, k − 1 times df for
    all comparisons of k rows.
    """
    degrees = Counter(row for edge in edges for row in edge)
    twice = 2 * len(edges)
    return df * twice**2 / (sum(degree**2 for degree in degrees.values()) + twice)


def winsorized(variances: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Raise variances [m] to at least what all but `LOW` of equal ones with the same median would exceed: the median
    times the ratio of the quantiles LOW and 1/2 of χ²(d_i)."""
    from scipy import special

    ratio = special.gammaincinv(df / 2, LOW) / special.gammaincinv(df / 2, 0.5)
    return np.maximum(variances, np.median(variances) * ratio)


def fit_prior(variances: np.ndarray, df: np.ndarray, limit: float = math.inf) -> Prior:
    """Estimate d_0 and s_0² from two or more variances [m] > 0 with `df` [m] degrees of freedom (Smyth 2004, 6.2).

    With e_i = log s_i² − ψ(d_i / 2) + log(d_i / 2), d_0 solves ψ'(d_0 / 2) = Σ (e_i − ē)² / (m − 1) − mean ψ'(d_i / 2),
    and log s_0² = ē + ψ(d_0 / 2) − log(d_0 / 2). Where the right-hand side is not positive, the variances differ less
    than by chance: d_0 is infinite and s_0² their mean. limit: largest d_0; negative values count as 0.
    """
    from scipy import special

    e = np.log(variances) - special.digamma(df / 2) + np.log(df / 2)
    excess = float(e.var(ddof=1) - special.polygamma(1, df / 2).mean())
    if excess <= 0:
        return Prior(max(limit, 0.0), float(np.average(variances, weights=df)))
    half = inverse_trigamma(excess)
    variance = math.exp(float(e.mean()) + float(special.digamma(half)) - math.log(half))
    return Prior(max(min(2 * half, limit), 0.0), variance)


def inverse_trigamma(x: float) -> float:
    """Return y > 0 with ψ'(y) = x for x > 0, by Newton's method on 1 / ψ' (Smyth 2004, appendix)."""
    from scipy import special

    y = 0.5 + 1 / x
    for _ in range(50):  # converges monotonically from this start, in a few steps
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1 - trigamma / x) / float(special.polygamma(2, y))
        y += step
        if -step < 1e-10 * y:
            break
    return y


def _moments(differences: Sequence[np.ndarray], n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means, NaN without seeds, and sample variances: 0 within rounding, NaN below `MIN_SEEDS` seeds; each [m]."""
    mean, variance = np.full((2, len(differences)), math.nan)
    for count in set(n.tolist()) - {0}:
        chosen = np.flatnonzero(n == count).tolist()
        values = np.array([differences[i] for i in chosen])
        mean[chosen] = values.mean(axis=1)
        if count >= MIN_SEEDS:
            variance[chosen] = np.where(np.ptp(values, axis=1) < RESOLUTION, 0.0, values.var(axis=1, ddof=1))
    return mean, variance


def _two_sided(difference: np.ndarray, std: np.ndarray, n: np.ndarray, df: np.ndarray) -> np.ndarray:
    """P-values; 1 where the standard deviation is 0, NaN where it is NaN."""
    p = np.where(std == 0, 1.0, math.nan)
    if (tested := std > 0).any():
        from scipy import special

        t = np.abs(difference[tested]) / (std[tested] / np.sqrt(n[tested]))
        p[tested] = 2 * special.stdtr(df[tested], -t)
    return p
