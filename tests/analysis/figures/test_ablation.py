"""Figures of ablations: lines, heat maps and lists of settings."""

import math

import pytest

from analysis.figures import ablation as figures
from tests.analysis.figures.conftest import LOOK
from tests.analysis.study import T


def test_a_numeric_option_is_a_line_with_intervals_on_a_log_scale(weights):
    ((ax,),) = [figure.axes for figure in figures.draw_lines(weights.loaded, LOOK)]
    (clkd_bars,) = [c for c in ax.containers if c.get_label() == "CLKD"]
    assert ax.get_xscale() == "log" and [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "0.4", "1.6"]
    line, _, (bars,) = clkd_bars
    assert line.get_xydata().tolist() == [[0.1, 52.0], [0.4, 51.0], [1.6, 49.0]]
    low, high = bars.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((52 - T / math.sqrt(3), 52 + T / math.sqrt(3)), abs=1e-3)
    levels = {line.get_label(): line.get_ydata()[0] for line in ax.lines if line.get_label() in ("KD", "Student")}
    assert levels == {"KD": 50.0, "Student": 46.0}


def test_two_options_are_a_heat_map_with_the_default_framed(study):
    study.references()
    study.read |= {"form": "axes", "default": "b"}
    study.read["axes"] = {"alpha": {"values": [1, 2], "log": False}, "beta": {"values": [4, 6, 8], "log": False}}
    for i, (alpha, beta) in enumerate([(1, 4), (1, 6), (1, 8), (2, 4), (2, 6)]):  # one is missing
        study.row("abcde"[i], {"alpha": alpha, "beta": beta}, [50.0 + i] * 3)
    figure = figures.draw_map(study.loaded, LOOK)
    ax = figure.axes[0]
    texts = {t.get_position(): t.get_text() for t in ax.texts}
    assert texts == {(0, 0): "50.00", (1, 0): "51.00", (2, 0): "52.00", (0, 1): "53.00", (1, 1): "54.00", (2, 1): "–"}
    assert [p.get_xy() for p in ax.patches] == [(0.5, -0.5)]
    assert "KD 50.00" in " ".join(text.get_text() for text in figure.texts)


def test_each_setting_of_a_list_has_a_row(weights):
    weights.read |= {"form": "settings", "axes": {}}
    weights.write()
    ((ax,),) = [figure.axes for figure in figures.draw_settings(weights.loaded, LOOK)]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["default", "nu=0.1", "nu=1.6"]
    means = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "o"]
    assert means == [[[51.0, 0.0]], [[52.0, 1.0]], [[49.0, 2.0]]]
    bars = [c[2][0].get_segments()[0][:, 0] for c in ax.containers]
    assert [(high - low) / 2 for low, high in bars] == pytest.approx([T / math.sqrt(3)] * 3, abs=1e-3)
