"""Figures over several pairs: what they show, and the messages where there is nothing to show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import statistics
from analysis.figures import ranks
from analysis.figures.files import FigureWriter
from analysis.figures.ranks import rank_bars
from analysis.grouping import group_runs
from analysis.load import load_runs
from tests.analysis.conftest import Tree
from tests.analysis.figures.conftest import LOOK

PAIRS = ("resnet20-resnet8", "resnet56-resnet8", "resnet56-resnet20")
GAINS = {"ce": 0.0, "kd": 1.0, "crd": 1.1, "clkd": 3.0}


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """Three pairs, four rows, three seeds."""
    tree = Tree(tmp_path_factory.mktemp("several") / "runs")
    rng = np.random.default_rng(2)
    for i, pair in enumerate(PAIRS):
        for j, (method, gain) in enumerate(GAINS.items()):
            for seed in range(3):
                tree.student(pair, method, f"{i:06x}{j:06x}", seed, round(60 + gain + rng.normal(0, 0.2), 2))
    return group_runs(load_runs(tree.root).finished)[0]


@pytest.fixture(scope="module")
def ranking(group):
    return statistics.rank(group)


def write(group, folder) -> FigureWriter:
    """Write the figures of a group."""
    writer = FigureWriter(folder)
    ranks.write(group, writer, LOOK)
    return writer


def test_all_three_figures_in_both_formats(group, tmp_path):
    writer = write(group, tmp_path)
    assert writer.problems == []
    names = [f"cifar100-short-{name}.{suffix}" for name in ("profile", "ranks", "wins") for suffix in ("png", "pdf")]
    assert [p.name for p in writer.paths] == names
    assert all(p.stat().st_size > 5000 for p in writer.paths)


def test_one_pair_has_neither_figures_nor_messages(tree, tmp_path):
    tree.student(PAIRS[0], "kd", "0000000000a1", 0, 60.0)
    writer = write(group_runs(load_runs(tree.root).finished)[0], tmp_path)
    assert (writer.paths, writer.problems) == ([], [])


def test_pairs_without_common_rows_are_reported(tree, tmp_path):
    tree.student(PAIRS[0], "kd", "0000000000a1", 0, 60.0)
    tree.student(PAIRS[1], "crd", "0000000000a2", 0, 60.0)
    writer = write(group_runs(load_runs(tree.root).finished)[0], tmp_path)
    assert writer.paths == []
    (problem,) = writer.problems
    assert problem.startswith("no ranks for cifar100-short: there are no two rows, trained alike")


def test_many_rows_are_listed_with_the_critical_difference_from_the_best(group, ranking, monkeypatch):
    monkeypatch.setattr(ranks, "MAX_LABELED", 3)
    ((ax,),) = [figure.axes for figure in ranks.draw_ranks(group, ranking, LOOK)]
    assert [t.get_text() for t in ax.get_yticklabels()] == [ranking.rows[i].label for i in ranking.order]
    means = [float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert means == pytest.approx(sorted(ranking.average))
    (band,) = ax.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((min(ranking.average), ranking.critical_difference))


def test_bars_join_rows_within_the_critical_difference():
    assert rank_bars([1.0, 2.0, 3.0, 4.0], 0.5) == []
    assert rank_bars([4.0, 1.0, 3.0, 2.0], 1.0) == [(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
    assert rank_bars([1.0, 1.5, 2.5, 6.0], 2.0) == [(1.0, 2.5)]
    assert rank_bars([1.0, 2.0, 3.5, 4.0], 2.0) == [(1.0, 2.0), (2.0, 4.0)]
    assert rank_bars([1.0, 2.0], 5.0) == [(1.0, 2.0)]


@given(st.lists(st.integers(2, 20), min_size=2, max_size=8), st.integers(0, 20))
def test_every_two_ranks_share_a_bar_just_if_the_difference_is_critical_at_most(halves, critical):
    average = [h / 2 for h in halves]
    bars = rank_bars(average, critical / 2)
    for a in average:
        for b in average:
            if a != b:
                assert any(low <= min(a, b) and max(a, b) <= high for low, high in bars) == (abs(a - b) <= critical / 2)


def test_the_diagram_names_rows_with_their_ranks(group, ranking):
    figure = ranks.draw_critical_difference(group, ranking, LOOK)
    texts = [t.get_text() for t in figure.axes[0].texts]
    for row, average in zip(ranking.rows, ranking.average, strict=True):
        assert [t for t in texts if row.label in t and f"{average:.2f}" in t]
    assert f"critical difference {ranking.critical_difference:.2f}" in " ".join(texts)
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() > 3]
    assert len(thick) == len(rank_bars(list(ranking.average), ranking.critical_difference))


def test_the_matrix_counts_wins_of_the_row(group, ranking):
    (figure,) = ranks.draw_outcomes(group, ranking, LOOK)
    axes = figure.axes[0]
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels[0] == "CLKD" and labels[-1] == "Student"  # by average rank
    cells = {tuple(int(x) for x in t.get_position()): t.get_text() for t in axes.texts}
    assert [t.get_text() for t in axes.get_xticklabels()] == labels
    assert cells[len(labels) - 1, 0] == "3/0/0"  # column, row: CLKD against the student alone
    assert cells[0, len(labels) - 1] == "0/0/3"
    assert cells[0, 0] == "–"


def test_the_profile_ends_at_all_pairs_and_starts_at_the_best(group, ranking):
    figure = ranks.draw_profile(group, ranking, LOOK)
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[0].lines if line.get_clip_on()}
    assert set(lines) == {"Student", "KD", "CRD", "CLKD"}
    assert all(y[-1] == 1 and (np.diff(y) >= 0).all() for y in lines.values())
    assert (lines["CLKD"] == 1).all() and lines["KD"][0] == 0
