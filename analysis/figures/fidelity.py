"""Figures of how well class structure is passed on: the measures of each method with their seeds, and heat maps of the
accuracy change of classes against the student alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import fidelity as structure
from analysis import published
from analysis.fidelity import EXTREMES, MEASURES, Change, Fidelity
from analysis.figures.curves import STYLE, TEACHER_COLOUR, save, wrapped
from analysis.tables.accuracy import file_name
from analysis.tables.fidelity import PLURAL

PANELS = 4  # measures side by side


def draw(made: Fidelity, pair: str, palette: Mapping[str, str]) -> dict[str, Figure]:
    """The figures of one pair by name: `structure`, and where there are changes to show `structure-superclasses` and
    `structure-classes`. palette: see `plots.colours`."""
    with matplotlib.rc_context(STYLE):
        figures = {"structure": draw_measures(made, pair, palette)}
        for level in structure.levels(made, pair):
            if change := structure.changes(made, pair, level):
                figures[f"structure-{PLURAL[level]}"] = draw_changes(made, pair, change)
    return figures


def write(made: Fidelity, reports: Path, palette: Mapping[str, str]) -> list[Path]:
    """Write all figures to `<reports>/plots` as PNG and PDF; returns their paths."""
    written = []
    for pair in made.pairs:
        stem = file_name(made.group.dataset, made.group.profile, pair)
        with matplotlib.rc_context(STYLE):
            for name, figure in draw(made, pair, palette).items():
                written += save(figure, reports / "plots", f"{stem}-{name}")
    return written


def draw_measures(made: Fidelity, pair: str, palette: Mapping[str, str]) -> Figure:
    """One panel a measure, one line a row of the table: seeds as light dots, their mean ± one std as a diamond, the
    teacher's own value as a dashed line."""
    summary = made.summary[made.summary.pair == pair]
    teachers = summary[summary.method == published.TEACHER]
    rows = summary[summary.method != published.TEACHER]
    seeds = made.runs[made.runs.pair == pair]
    shown = [m for m in MEASURES if rows[m.key].notna().any()]
    lines = math.ceil(len(shown) / PANELS)
    figure = Figure(figsize=(7.2, lines * (0.75 + 0.24 * len(rows)) + 0.5), layout="constrained")
    axes = figure.subplots(lines, PANELS, squeeze=False, sharey=True)
    at = {label: len(rows) - i for i, label in enumerate(rows.label)}
    for ax, measure in zip(axes.flat, shown, strict=False):
        for value in teachers[measure.key].dropna():
            ax.axvline(value, color=TEACHER_COLOUR, linestyle=(0, (4, 2)), linewidth=1.1, zorder=1)
        for row in rows.to_dict("records"):
            colour, y = palette[row["method"]], at[row["label"]]
            of = seeds[(seeds.label == row["label"]) & (seeds.identity == row["identity"])][measure.key]
            if len(of) > 1:
                below = [y - 0.3] * len(of)  # where the mean's bar does not hide them
                ax.plot(of, below, "o", color=colour, alpha=0.5, markersize=3.2, markeredgewidth=0, zorder=2)
            spread = row[f"{measure.key}_std"]
            ax.errorbar(row[measure.key], y, xerr=None if math.isnan(spread) else spread, color=colour, marker="D",
                        markersize=4, capsize=2.5, linewidth=1.2, zorder=3)  # fmt: skip
        better = "more" if measure.better > 0 else "less"
        ax.set_title(f"{measure.title}{f' [{measure.unit}]' if measure.unit else ''}\n{better} is better", fontsize=8)
        ax.set_yticks(list(at.values()), [wrapped(label, 22) for label in at])
        ax.set_ylim(0.4, len(rows) + 0.6)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2))
        ax.tick_params(axis="x", labelsize=7)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.12)
        ax.grid(True, axis="both", color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    _legend(axes.flat[-1], several=bool((rows.n > 1).any()), teacher=not teachers.empty)
    figure.suptitle(f"Class structure passed on: {_title(made, pair)}", fontsize=10)
    return figure


def _legend(ax: Axes, *, several: bool, teacher: bool) -> None:
    """What the marks mean, in a panel that no measure needs: there are never as many as panels."""
    mark: dict[str, Any] = {"color": "#404040", "linestyle": "none"}
    handles = [Line2D([], [], marker="o", alpha=0.5, markersize=3.2, markeredgewidth=0, label="one seed", **mark)]
    handles += [Line2D([], [], marker="D", markersize=4, label="mean ± std over seeds", **mark)]
    handles = handles if several else []
    if teacher:
        handles.append(Line2D([], [], color=TEACHER_COLOUR, linestyle=(0, (4, 2)), linewidth=1.1, label="teacher"))
    ax.legend(handles=handles, loc="center", frameon=False)


def draw_changes(made: Fidelity, pair: str, change: Change) -> Figure:
    """Heat map of labels × classes on a symmetric scale, each field with its change in points."""
    values = change.mean.to_numpy(float)
    finite = np.abs(values[np.isfinite(values)])
    limit = float(finite.max(initial=0.0)) or 1.0
    rows, columns = values.shape
    long = max(map(len, change.mean.columns))
    width = 1.9 + 0.31 * max(columns, 10)
    figure = Figure(figsize=(width, 1.0 + 0.27 * rows + 0.058 * long), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if not math.isnan(value):
            dark = abs(value) > 0.6 * limit
            ax.text(j, i, _short(value), ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    n = change.n
    labels = [f"{label} ({n[label]})" for label in change.mean.index]
    ax.set_yticks(range(rows), [wrapped(label) for label in labels])
    ax.set_xticks(range(columns), list(change.mean.columns), rotation=90 if long > 2 else 0, fontsize=7.5)
    ax.tick_params(length=2)
    ax.spines[["top", "right"]].set_visible(True)
    if change.partial:
        ax.axvline(EXTREMES - 0.5, color="black", linewidth=1.2)
    bar = figure.colorbar(image, ax=ax, aspect=12, pad=0.015)
    bar.set_label("points, mean over seeds" if rows > 4 else "points")
    bar.ax.tick_params(labelsize=7)
    which = f"{EXTREMES} classes that gain and {EXTREMES} that lose most" if change.partial else PLURAL[change.level]
    title = f"Accuracy change against the student alone: {which}\n{_title(made, pair)}"
    figure.suptitle(title, fontsize=10 if width > 6.5 else 8.5)
    return figure


def _short(value: float) -> str:
    """One digit after the point, and none from ten on, with a sign."""
    text = f"{abs(value):.0f}" if abs(value) >= 9.95 else f"{abs(value):.1f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def _title(made: Fidelity, pair: str) -> str:
    teacher, student = made.group.networks[pair]
    return f"{teacher} → {student} on {made.group.dataset}, profile {made.group.profile}"
