"""The simulation of the tests: the runs that it draws, and a small version of its rates."""

import math

import numpy as np
import pytest

from analysis import simulation
from analysis.__main__ import main
from analysis.moderated import paired_tests
from analysis.simulation import GAIN, PROCEDURES, SPREADS, STD, draw, moderated_marks, plain_marks, rates

TABLES = 300
BOUND = 0.05 + 3.3 * math.sqrt(0.05 * 0.95 / TABLES)  # 3.3 standard errors of a binomial share


def test_differences_have_the_variance_and_correlation_of_a_shared_reference():
    """Var = 2 σ² and correlation 1/2: the part that all methods share with a seed cancels."""
    tables = np.array([draw(np.random.default_rng(s), 6, 5, "equal", GAIN) for s in range(4000)])
    assert tables.shape == (4000, 5, 5)
    assert tables.mean() == pytest.approx(GAIN, abs=0.02)
    assert tables.var(axis=(0, 2)) == pytest.approx(np.full(5, 2 * STD**2), rel=0.05)
    assert np.corrcoef(tables[:, 0].ravel(), tables[:, 1].ravel())[0, 1] == pytest.approx(0.5, abs=0.03)
    assert np.allclose(np.round(tables, 2), tables)


def deviations(spread: str) -> np.ndarray:
    """Standard deviations of the differences of 100 tables over many seeds, in units of `STD`: [100, 5]."""
    return np.array([draw(np.random.default_rng(s), 6, 400, spread, 0.0).std(axis=1) for s in range(100)]) / STD


def test_spreads_of_the_methods():
    """Each is that of a method and KD together."""
    unequal, one_noisy = deviations("unequal"), deviations("one noisy")
    assert 0.85 * math.hypot(0.5, 0.5) < unequal.min() < 1 and 2 < unequal.max() < 1.15 * math.hypot(2, 2)
    assert one_noisy[:, :4] == pytest.approx(np.full((100, 4), math.sqrt(2)), rel=0.15)
    assert one_noisy[:, 4] == pytest.approx(np.full(100, math.hypot(4, 1)), rel=0.15)


def test_plain_marks_by_hand():
    """Holm: p of t = 30 is below 0.05 / 2, that of t = 3 with two degrees of freedom, 0.095, above 0.05."""
    standard = np.array([-1.0, 0.0, 1.0])
    close, far = 30 / math.sqrt(3) + standard, 3 / math.sqrt(3) + standard
    assert plain_marks(np.array([close, far])).tolist() == [True, False]


@pytest.mark.parametrize(("methods", "seeds"), [(6, 3), (15, 5)])
def test_false_marks_are_nominal_and_power_exceeds_that_of_plain_tests(methods, seeds):
    uncorrected = lambda d: paired_tests(list(d), [(i, "kd") for i in range(len(d))]).p < 0.05  # noqa: E731
    for spread in ("equal", "unequal"):
        result = rates(methods, seeds, spread, TABLES, 0, PROCEDURES | {"uncorrected": uncorrected})
        moderated, plain = "moderated t, Bonferroni", "paired t, Holm"
        assert result.false_marks[moderated] < BOUND and result.false_marks[plain] < BOUND
        assert result.false_marks["uncorrected"] > 1.5 * BOUND  # so the bound tells a broken correction
        assert result.power[moderated] > result.power[plain] + 0.05
        assert result.power[moderated] > 4 * result.false_marks[moderated] / (methods - 1)


def test_moderated_marks_are_those_of_the_tables():
    """A method above KD by far more than the spread is marked, one within it is not."""
    differences = np.array([[3.0, 3.2, 3.1], [0.1, -0.2, 0.0], [0.2, 0.1, -0.1]])
    assert moderated_marks(differences).tolist() == [True, False, False]


def test_the_command_prints_every_setting_and_repeats_itself(capsys):
    assert main(["simulate", "tables=2", "seed=1"]) == 0
    first = capsys.readouterr().out
    assert len(first.splitlines()) == 2 + len(simulation.METHODS) * len(simulation.SEEDS) * len(SPREADS)
    assert main(["simulate", "tables=2", "seed=1"]) == 0
    assert capsys.readouterr().out == first
    assert main(["simulate", "tables=2", "seed=2"]) == 0
    assert capsys.readouterr().out != first


@pytest.mark.parametrize(
    ("argument", "message"), [("tables=0", "tables is 0: it must be at least 1"), ("runs=x", "unknown key 'runs'")]
)
def test_bad_arguments_are_one_line(argument, message, capsys):
    assert main(["simulate", argument]) == 2
    out = capsys.readouterr()
    assert out.out == "" and out.err.count("\n") == 1 and message in out.err
