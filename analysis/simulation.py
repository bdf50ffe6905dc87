"""`python -m analysis simulate [tables=4000] [seed=0]`: how often tables of simulated runs mark what is not there.

A simulated table is one pair: KD and m further methods, compared with KD. The accuracy of method i with seed s is

    a_is = 70 + g_i + b_s + e_is,     b_s ~ N(0, 0.5²),     e_is ~ N(0, σ_i²),     in points, rounded to 0.01,

with seed effects b_s that all methods share, as runs that start from the same weights and see the same batches do.
False marks are counted where no method differs (g = 0): the share of tables with any mark, the family-wise error rate,
which should be 5 %. Power is the share of methods marked where all are better than KD by g = 0.5, twice the typical
standard deviation over seeds. Two procedures see the same tables: plain paired t-tests with Holm's correction, and the
moderated tests with Bonferroni's that `analysis.statistics` makes.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.moderated import paired_tests
from analysis.statistics import ALPHA, holm
from benchmark.config.command_options import load_simulate
from benchmark.tables import markdown
from benchmark.tables.model import TEXT, Cell, Column, Line, Table

METHODS = (6, 15)  # of a table, KD among them
SEEDS = (3, 5)
STD = 0.25  # of a typical method over seeds, in points
SEED_STD = 0.5  # of the part that all methods share
GAIN = 0.5
SPREADS = ("equal", "unequal", "one noisy")  # of the methods' standard deviations over seeds
Marks = Callable[[np.ndarray], np.ndarray]  # differences to KD [m, n] -> whether each is marked [m]


def plain_marks(differences: np.ndarray) -> np.ndarray:
    """Return what plain paired t-tests with Holm's correction mark."""
    p = [paired_tests([d], [("row", "kd")]).p[0] for d in differences]
    return holm(np.array(p)) < ALPHA


def moderated_marks(differences: np.ndarray) -> np.ndarray:
    """Return what moderated paired t-tests with Bonferroni's correction mark."""
    tests = paired_tests(list(differences), [(f"row {i}", "kd") for i in range(len(differences))])
    return tests.p * tests.count < ALPHA


PROCEDURES: dict[str, Marks] = {"paired t, Holm": plain_marks, "moderated t, Bonferroni": moderated_marks}


@dataclass(frozen=True)
class Rates:
    """Shares of marks over simulated tables, by procedure.

    false_marks: of tables without differences that have any mark. power: of methods better by `GAIN` that are marked.
    """

    methods: int
    seeds: int
    spread: str
    false_marks: dict[str, float]
    power: dict[str, float]


def main(arguments: Sequence[str]) -> None:
    """Simulate all settings and print the rates as a Markdown table. Raises UserError for invalid arguments."""
    options = load_simulate(arguments)
    print(report(simulate(options.tables, options.seed)))


def simulate(tables: int, seed: int) -> Iterator[Rates]:
    """Iterate over the rates of every number of methods, number of seeds and kind of spread.

    tables: simulated for each rate. seed: of the random numbers; the same seed gives the same rates.
    """
    for methods, seeds, spread in itertools.product(METHODS, SEEDS, SPREADS):
        yield rates(methods, seeds, spread, tables, seed)


def rates(
    methods: int, seeds: int, spread: str, tables: int, seed: int, procedures: dict[str, Marks] = PROCEDURES
) -> Rates:
    """Return the rates of one setting. spread: one of `SPREADS`."""
    rng = np.random.default_rng([seed, methods, seeds, SPREADS.index(spread)])
    without = [draw(rng, methods, seeds, spread, 0.0) for _ in range(tables)]
    with_gain = [draw(rng, methods, seeds, spread, GAIN) for _ in range(tables)]
    false_marks = {name: float(np.mean([marks(d).any() for d in without])) for name, marks in procedures.items()}
    power = {name: float(np.mean([marks(d) for d in with_gain])) for name, marks in procedures.items()}
    return Rates(methods, seeds, spread, false_marks, power)


def draw(rng: np.random.Generator, methods: int, seeds: int, spread: str, gain: float) -> np.ndarray:
    """Return the differences to KD [methods − 1, seeds] of one table. gain: of every method over KD, in points.

    spread: of the standard deviations, KD's included: all `STD`; log-uniform from half to twice that; or that, and one
    method four times as noisy.
    """
    std = np.full((methods, 1), STD)
    if spread == "unequal":
        std *= np.exp(rng.uniform(np.log(0.5), np.log(2), std.shape))
    elif spread == "one noisy":
        std[-1] *= 4
    shared = rng.normal(70, SEED_STD, seeds)
    accuracies = shared + std * rng.normal(size=(methods, seeds))
    accuracies[1:] += gain
    accuracies = np.round(accuracies, 2)
    return accuracies[1:] - accuracies[0]


def report(results: Iterator[Rates]) -> str:
    """Return the rates as a Markdown table, in per cent."""
    columns = [Column("methods"), Column("seeds"), Column("spread", TEXT)]
    columns += [Column(f"{kind}: {name}") for kind in ("false marks", "power") for name in PROCEDURES]
    lines = [
        Line([Cell(str(r.methods)), Cell(str(r.seeds)), Cell(r.spread), *map(_percent, _values(r))]) for r in results
    ]
    return markdown.grid(Table("", columns, [lines]))


def _values(result: Rates) -> Iterator[float]:
    return (shares[name] for shares in (result.false_marks, result.power) for name in PROCEDURES)


def _percent(share: float) -> Cell:
    return Cell(f"{100 * share:.1f} %", value=share)
