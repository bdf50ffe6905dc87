"""Figures of fidelity: the measures of each method with their seeds, and heat maps of the accuracy change of classes
against the student alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import published
from analysis.fidelity import EXTREME_CLASSES, LEVEL_PLURALS, MEASURES, ClassChanges, Fidelity, Measure
from analysis.figures import style
from analysis.frames import rows_where

PANELS = 4  # measures side by side
SEED_DOT: dict[str, Any] = {"marker": "o", "alpha": 0.5, "markersize": 3.2, "markeredgewidth": 0, "linestyle": "none"}


def write(fidelity: Fidelity, reports: Path, colors: Mapping[str, str]) -> list[Path]:
    """Write all figures to `<reports>/plots` as PNG and PDF; returns their paths. colors: see `style.method_colors`."""
    paths = []
    with matplotlib.rc_context(style.STYLE):
        for pair in fidelity.pairs:
            for name, figure in draw(fidelity, pair, colors).items():
                paths += style.save(figure, reports / style.FOLDER, style.stem(fidelity.group, name, pair))
    return paths


def draw(fidelity: Fidelity, pair: str, colors: Mapping[str, str]) -> dict[str, Figure]:
    """Return the figures of one pair by name: `structure`, and where there are changes to show
    `structure-superclasses` and `structure-classes`."""
    with matplotlib.rc_context(style.STYLE):
        figures = {"structure": draw_measures(fidelity, pair, colors)}
        for level in fidelity.levels(pair):
            if changes := fidelity.class_changes(pair, level):
                figures[f"structure-{LEVEL_PLURALS[level]}"] = draw_changes(fidelity, pair, changes)
    return figures


def draw_measures(fidelity: Fidelity, pair: str, colors: Mapping[str, str]) -> Figure:
    """Draw one panel per measure, one line per row of the table: seeds as light dots, their mean ± one standard
    deviation as a diamond, the teacher's own value as a dashed line."""
    summary, seeds = rows_where(fidelity.summary, pair=pair), rows_where(fidelity.runs, pair=pair)
    teachers = rows_where(summary, method=published.TEACHER)
    rows = summary.drop(teachers.index)
    measures = [m for m in MEASURES if rows[m.key].notna().to_numpy().any()]
    lines = style.panel_grid(len(measures), PANELS)[0]
    figure = Figure(figsize=(7.2, lines * (0.75 + 0.24 * len(rows)) + 0.5), layout="constrained")
    axes = figure.subplots(lines, PANELS, squeeze=False, sharey=True)
    for ax, measure in zip(axes.flat, measures, strict=False):
        for value in teachers[measure.key].dropna():
            ax.axvline(value, color=style.TEACHER_COLOR, **style.REFERENCE_LINE)
        _add_rows(ax, measure, rows, seeds, colors)
        better = "more" if measure.better > 0 else "less"
        ax.set_title(f"{measure.title}{f' [{measure.unit}]' if measure.unit else ''}\n{better} is better", fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2))
        ax.tick_params(axis="x", labelsize=7)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.12)
        style.add_grid(ax)
    for ax in axes.flat[len(measures) :]:
        ax.set_axis_off()
    _add_legend(axes.flat[-1], several=bool((rows.n > 1).any()), teacher=not teachers.empty)
    figure.suptitle(f"Class structure passed on: {style.pair_title(fidelity.group, pair)}", fontsize=10)
    return figure


def _add_rows(ax: Axes, measure: Measure, rows: pd.DataFrame, seeds: pd.DataFrame, colors: Mapping[str, str]) -> None:
    """Draw one measure of all rows, the first at the top."""
    heights = {label: len(rows) - i for i, label in enumerate(rows.label)}
    for row in rows.to_dict("records"):
        color, y = colors[row["method"]], heights[row["label"]]
        values = rows_where(seeds, label=row["label"], identity=row["identity"])[measure.key]
        if len(values) > 1:  # below the mean's bar, which would hide them
            ax.plot(values, [y - 0.3] * len(values), color=color, zorder=2, **SEED_DOT)
        spread = row[f"{measure.key}_std"]
        ax.errorbar(row[measure.key], y, xerr=None if math.isnan(spread) else spread, color=color, marker="D",
                    markersize=4, capsize=2.5, linewidth=1.2, zorder=3)  # fmt: skip
    ax.set_yticks(list(heights.values()), [style.wrap_label(label, 22) for label in heights])
    ax.set_ylim(0.4, len(rows) + 0.6)


def _add_legend(ax: Axes, *, several: bool, teacher: bool) -> None:
    """Explain the marks in a panel that no measure needs: there are always fewer measures than panels."""
    handles = []
    if several:
        handles.append(Line2D([], [], color="#404040", label="one seed", **SEED_DOT))
        handles.append(Line2D([], [], color="#404040", linestyle="none", marker="D", markersize=4,
                              label="mean ± std over seeds"))  # fmt: skip
    if teacher:
        line = {k: v for k, v in style.REFERENCE_LINE.items() if k != "zorder"}
        handles.append(Line2D([], [], color=style.TEACHER_COLOR, label="teacher", **line))
    ax.legend(handles=handles, loc="center", frameon=False)


def draw_changes(fidelity: Fidelity, pair: str, changes: ClassChanges) -> Figure:
    """Draw a heat map of labels × classes on a symmetric scale, each field with its change in points."""
    values = changes.mean.to_numpy(float)
    limit = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
    rows, columns = values.shape
    longest = max(map(len, changes.mean.columns))
    width = 1.9 + 0.31 * max(columns, 10)
    figure = Figure(figsize=(width, 1.0 + 0.27 * rows + 0.058 * longest), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if not math.isnan(value):
            dark = abs(value) > 0.6 * limit
            text = _format_change(value)
            ax.text(j, i, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    labels = [style.wrap_label(f"{label} ({changes.n[label]})") for label in changes.mean.index]
    ax.set_yticks(range(rows), labels)
    ax.set_xticks(range(columns), list(changes.mean.columns), rotation=90 if longest > 2 else 0, fontsize=7.5)
    ax.tick_params(length=2)
    ax.spines[["top", "right"]].set_visible(True)
    classes = LEVEL_PLURALS[changes.level]
    if changes.partial:
        ax.axvline(EXTREME_CLASSES - 0.5, color="black", linewidth=1.2)
        classes = f"{EXTREME_CLASSES} classes that gain and {EXTREME_CLASSES} that lose most"
    bar = figure.colorbar(image, ax=ax, aspect=12, pad=0.015)
    bar.set_label("points, mean over seeds" if rows > 4 else "points")
    bar.ax.tick_params(labelsize=7)
    title = f"Accuracy change against the student alone: {classes}\n{style.pair_title(fidelity.group, pair)}"
    figure.suptitle(title, fontsize=10 if width > 6.5 else 8.5)
    return figure


def _format_change(value: float) -> str:
    """One digit after the point, and none from ten on, with a sign."""
    text = f"{abs(value):.0f}" if abs(value) >= 9.95 else f"{abs(value):.1f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"
