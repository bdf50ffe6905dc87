"""Figures over several pairs: what they show, and what is said where there is nothing to show."""

import numpy as np
import pytest
from PIL import Image

from analysis import load as runs
from analysis import statistics
from analysis.figures import curves as plots
from analysis.figures import ranks as statistics_plots
from analysis.figures.ranks import bars
from analysis.groups import groups

PAIRS = ("resnet20-resnet8", "resnet56-resnet8", "resnet56-resnet20")
GAINS = {"ce": 0.0, "kd": 1.0, "crd": 1.1, "clkd": 3.0}


@pytest.fixture
def several(tree):
    """Three pairs, four rows, three seeds."""
    for network in ("resnet20", "resnet56"):
        tree.teacher(network, 70.0)
    rng = np.random.default_rng(2)
    for i, pair in enumerate(PAIRS):
        for j, (method, gain) in enumerate(GAINS.items()):
            for seed in range(3):
                tree.student(pair, method, f"{i:06x}{j:06x}", seed, round(60 + gain + rng.normal(0, 0.2), 2))
    return tree


@pytest.fixture
def drawn(several):
    """The group, its ranking and the colours."""
    found = runs.load(several.root).done
    (group,) = groups(found)
    ranking = statistics.rank(group, statistics.compare(group))
    assert ranking is not None
    return group, ranking, plots.colours(found.method)


def test_all_three_figures_in_both_formats(several, analyse, tmp_path):
    status, out, err = analyse("plots")
    assert (status, out) == (0, "")
    assert all(line.startswith("written: ") for line in err.splitlines())
    made = tmp_path / "reports" / "plots"
    for name in ("ranks", "wins", "profile"):
        with Image.open(made / f"cifar100-short-{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5
        assert (made / f"cifar100-short-{name}.pdf").read_bytes().startswith(b"%PDF-")


def test_one_pair_has_none_and_nothing_is_said(several, analyse, tmp_path):
    err = analyse("plots", f"pair={PAIRS[0]}")[2]
    assert all(line.startswith("written: ") for line in err.splitlines())
    names = {p.name for p in (tmp_path / "reports" / "plots").iterdir()}
    assert not [n for n in names if n.startswith(("cifar100-short-ranks", "cifar100-short-profile"))]


def test_pairs_without_common_rows_are_said(tree, analyse):
    tree.student(PAIRS[0], "kd", "0000000000a1", 0, 60.0)
    tree.student(PAIRS[1], "crd", "0000000000a2", 0, 60.0)
    assert "no ranks for cifar100-short: there are no two rows, trained alike" in analyse("plots")[2]


def test_bars_join_what_is_not_told_apart():
    assert bars([1.0, 2.0, 3.0, 4.0], 0.5) == []
    assert bars([4.0, 1.0, 3.0, 2.0], 1.0) == [(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
    assert bars([1.0, 1.5, 2.5, 6.0], 2.0) == [(1.0, 2.5)]
    assert bars([1.0, 2.0, 3.5, 4.0], 2.0) == [(1.0, 2.0), (2.0, 4.0)]
    assert bars([1.0, 2.0], 5.0) == [(1.0, 2.0)]


def test_the_diagram_names_rows_with_their_ranks(drawn):
    group, ranking, palette = drawn
    figure = statistics_plots.draw_critical_difference(group, ranking, palette)
    texts = [t.get_text() for t in figure.axes[0].texts]
    for row, average in zip(ranking.rows, ranking.average, strict=True):
        assert [t for t in texts if row.label in t and f"{average:.2f}" in t]
    assert f"critical difference {ranking.critical_difference:.2f}" in " ".join(texts)
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() > 3]
    assert len(thick) == len(bars(list(ranking.average), ranking.critical_difference))


def test_the_matrix_counts_wins_of_the_row(drawn):
    group, ranking, _ = drawn
    figure = statistics_plots.draw_outcomes(group, ranking)
    axes = figure.axes[0]
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels[0] == "CLKD" and labels[-1] == "Student"  # by average rank
    cells = {tuple(int(x) for x in t.get_position()): t.get_text() for t in axes.texts}
    assert cells[len(labels) - 1, 0] == "3/0/0"  # column, row: CLKD against the student alone
    assert cells[0, len(labels) - 1] == "0/0/3"
    assert cells[0, 0] == "–"


def test_the_profile_ends_at_all_pairs_and_starts_at_the_best(drawn):
    group, ranking, palette = drawn
    figure = statistics_plots.draw_profile(group, ranking, palette)
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[0].lines}
    assert set(lines) == {"Student", "KD", "CRD", "CLKD"}
    assert all(y[-1] == 1 and (np.diff(y) >= 0).all() for y in lines.values())
    assert (lines["CLKD"] == 1).all() and lines["KD"][0] == 0


def test_too_many_rows_are_said(several, analyse, monkeypatch):
    monkeypatch.setattr(statistics_plots, "MAX_ROWS", 3)
    assert "no ranks for cifar100-short: 4 rows are too many to draw; choose some with method=…" in analyse("plots")[2]
