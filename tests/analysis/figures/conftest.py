"""Figures drawn once for all tests of this folder, and the groups they are drawn from."""

import contextlib
import io
from pathlib import Path

import matplotlib
import pytest

from analysis.__main__ import main
from analysis.figures import style
from analysis.grouping import group_runs
from analysis.groups import ResultGroup
from analysis.load import Runs, load_runs
from tests.analysis.conftest import Tree, fill
from tests.analysis.figures.many import fill_many

PAIR = "resnet20-resnet8"
LOOK = style.Appearance()


def result_group(root: Path, pair: str = PAIR) -> ResultGroup:
    """The first group of the runs below a folder, restricted to one pair."""
    return group_runs(load_runs(root).finished, [pair])[0]


@pytest.fixture(scope="package")
def filled(tmp_path_factory) -> Tree:
    """The full tree, to be read only."""
    tree = Tree(tmp_path_factory.mktemp("filled") / "runs")
    fill(tree)
    return tree


@pytest.fixture(scope="package")
def many_root(tmp_path_factory) -> Path:
    """The folder of the runs of 45 methods on 13 pairs, to be read only."""
    root = tmp_path_factory.mktemp("many") / "runs"
    fill_many(Tree(root))
    return root


@pytest.fixture(scope="package")
def many_runs(many_root) -> Runs:
    """The runs of 45 methods on 13 pairs; `many.part` chooses some."""
    return load_runs(many_root)


@pytest.fixture(scope="package")
def plots(filled, tmp_path_factory) -> Path:
    """The folder of all figures that `plots` draws of the full tree."""
    reports, settings, errors = tmp_path_factory.mktemp("reports"), dict(matplotlib.rcParams), io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert main(["plots", f"runs={filled.root}", f"reports={reports}"]) == 0
    assert dict(matplotlib.rcParams) == settings
    problems = [line for line in errors.getvalue().splitlines() if not line.startswith("written: ")]
    assert len(problems) == 1  # all differences between rows are equal
    assert problems[0].startswith("no wins and losses for cifar100-short: ")
    return reports / "plots"
