"""Figures of an ablation: a line for each option that is varied alone, a heat map for two together, and the settings of
a list side by side. Validation accuracy in per cent; intervals are 95 % by Student's t over seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.ablation import Ablation, Axis, SettingRow, heading, short, text
from analysis.figures import style
from analysis.published import STUDENT
from analysis.statistics import BASELINE
from benchmark.runs.folder import file_name
from benchmark.statistics import mean_interval

METHOD_COLOR, KD_COLOR = style.PALETTE[0], style.PALETTE[1]
FRAME_COLOR = "#D55E00"
PANELS = 2  # side by side
ACCURACY = "validation top-1 [%]"


def write(ablation: Ablation, folder: Path) -> list[Path]:
    """Draw the ablation's figure and write it to `folder`; returns the files. Nothing where no run is finished, or for
    three options at once."""
    with matplotlib.rc_context(style.STYLE):
        figure = draw(ablation)
        return style.save(figure, folder, file_name(ablation.name)) if figure else []


def draw(ablation: Ablation) -> Figure | None:
    """Return the figure that fits the form of an ablation; None where none does, or no run is finished."""
    if not any(r.n for r in ablation.settings) or (ablation.form == "axes" and len(ablation.axes) > 2):
        return None
    if ablation.form == "axes" and len(ablation.axes) == 2:
        return draw_map(ablation)
    if ablation.form == "settings" or not any(a.numeric for a in ablation.axes.values()):
        return draw_settings(ablation)
    return draw_lines(ablation)


def draw_lines(ablation: Ablation) -> Figure:
    """Draw a panel per option: mean and interval against its value, the default marked, the references as lines; where
    the option belongs to the recipe the references have a point per value too."""
    axes = {o: a for o, a in ablation.axes.items() if a.numeric}
    rows, columns = style.panel_grid(len(axes), PANELS)
    size = (3.4 * columns + 0.4, 2.3 * rows + 0.8) if len(axes) > 1 else (5.2, 3.3)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for ax in panels.flat[len(axes) :]:
        ax.remove()
    for i, (ax, (option, axis)) in enumerate(zip(panels.flat, axes.items(), strict=False)):
        _add_option(ax, ablation, option, axis)
        if i % columns == 0:
            ax.set_ylabel(ACCURACY)
    figure.suptitle(_title(ablation), fontsize=10)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=4, frameon=False)
    return figure


def _add_option(ax: Axes, ablation: Ablation, option: str, axis: Axis) -> None:
    """Draw the panel of one option."""
    default = ablation.default
    settings = [r for r in ablation.settings if r.n and ablation.varies_only(r, option)]
    if option.startswith("recipe."):
        for method, color in ((BASELINE, KD_COLOR), (STUDENT, style.STUDENT_COLOR)):
            references = [r for r in ablation.references if r.method == method and r.n]
            if references and (method != BASELINE or ablation.has_baseline):
                _add_line(ax, option, references, color, references[0].label.split(" (")[0])
    else:
        for row, color in _references(ablation):
            ax.axhline(row.mean, color=color, label=row.label, **style.REFERENCE_LINE)
    _add_line(ax, option, settings, METHOD_COLOR, ablation.title)
    if default.n:
        ax.plot(default.values[option], default.mean, marker="o", markersize=8, markerfacecolor="none",
                markeredgecolor=METHOD_COLOR, linestyle="none", label="default", zorder=4)  # fmt: skip
    values = sorted({r.values[option] for r in settings})
    if axis.log and min(values) > 0:
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(values, [text(v) for v in values])
    ax.set_xlabel(short(option))
    style.add_grid(ax)


def _add_line(ax: Axes, option: str, rows: Sequence[SettingRow], color: str, label: str) -> None:
    rows = sorted(rows, key=lambda r: r.values[option])
    mean, error = _error_bars(rows)
    ax.errorbar([r.values[option] for r in rows], mean, yerr=error, color=color, marker="o", markersize=4,
                linewidth=1.4, elinewidth=1, capsize=2.5, label=label, zorder=3)  # fmt: skip


def draw_map(ablation: Ablation) -> Figure:
    """Draw mean validation accuracy over two options, first down, second across; the default is framed, the best is
    bold."""
    (down, rows), (across, columns) = ablation.axes.items()
    table = _mean_table(ablation)
    size = max(0.85 * table.shape[1] + 2.2, 5.0), max(0.55 * table.shape[0] + 1.5, 2.8)
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(table, cmap="viridis", aspect="auto", origin="lower")
    middle = sum(image.get_clim()) / 2
    for (i, j), value in np.ndenumerate(table):
        if np.isnan(value):
            ax.text(j, i, "–", ha="center", va="center")
            continue
        weight = "bold" if value == np.nanmax(table) else "normal"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < middle else "black",
                fontweight=weight, fontsize=8)  # fmt: skip
    ax.set_xticks(range(table.shape[1]), [text(v) for v in columns.values])
    ax.set_yticks(range(table.shape[0]), [text(v) for v in rows.values])
    ax.set_xlabel(short(across))
    ax.set_ylabel(short(down))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, label=ACCURACY, aspect=18)
    captions = [f"{r.label} {r.mean:.2f}" for r, _ in _references(ablation)]
    default = ablation.default
    if default.values[down] in rows.values and default.values[across] in columns.values:
        i, j = list(rows.values).index(default.values[down]), list(columns.values).index(default.values[across])
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=FRAME_COLOR, linewidth=2.2,
                               clip_on=False, zorder=5))  # fmt: skip
        captions.append("frame: default")
    else:
        settings = ", ".join(f"{short(o)}={text(default.values[o])}" for o in (down, across))
        captions.append(f"default ({settings}) {default.mean:.2f}")
    figure.suptitle(_title(ablation) + "\n" + ", ".join(captions), fontsize=10)
    return figure


def _mean_table(ablation: Ablation) -> np.ndarray:
    """Mean validation accuracies by the values of the two options; NaN without a finished run."""
    (down, rows), (across, columns) = ablation.axes.items()
    table = np.full((len(rows.values), len(columns.values)), np.nan)
    for row in ablation.settings:
        if row.values[down] in rows.values and row.values[across] in columns.values:
            table[list(rows.values).index(row.values[down]), list(columns.values).index(row.values[across])] = row.mean
    return table


def draw_settings(ablation: Ablation) -> Figure:
    """Draw one row per setting: mean and interval, seeds as faint dots; the references as lines."""
    rows = [r for r in ablation.settings if r.n]
    figure = Figure(figsize=(5.6, 0.32 * len(rows) + 1.5), layout="constrained")
    ax = figure.subplots()
    for row, color in _references(ablation):
        ax.axvline(row.mean, color=color, label=f"{row.label} {row.mean:.2f}", **style.REFERENCE_LINE)
    for i, row in enumerate(rows):
        mean, error = _error_bars([row])
        ax.plot(list(row.val.values()), [i] * row.n, ".", color=METHOD_COLOR, alpha=0.35, markersize=5, zorder=2)
        ax.errorbar(mean, [i], xerr=error, color=METHOD_COLOR, marker="o", markersize=5, capsize=2.5, linewidth=1.2,
                    zorder=3)  # fmt: skip
    marks = [" (default)" if r is ablation.default and r.label != "default" else "" for r in rows]
    ax.set_yticks(range(len(rows)), [r.label + mark for r, mark in zip(rows, marks, strict=True)])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(ACCURACY)
    style.add_grid(ax)
    figure.suptitle(_title(ablation), fontsize=10)
    if ax.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _references(ablation: Ablation) -> list[tuple[SettingRow, str]]:
    """The references with the default recipe, and their colors; without KD where it is the ablation's own method."""
    references = [r for r in ablation.references if r.recipe == ablation.default.recipe and r.n]
    return [
        (r, KD_COLOR if r.method == BASELINE else style.STUDENT_COLOR)
        for r in references
        if r.method != BASELINE or ablation.has_baseline
    ]


def _error_bars(rows: Sequence[SettingRow]) -> tuple[np.ndarray, np.ndarray]:
    """Means [rows] and error bars [2, rows] of the settings; a bar of 0 where there is no interval."""
    intervals = [mean_interval(list(r.val.values())) for r in rows]
    bars: Any = [[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]
    return np.array([i.mean for i in intervals]), np.nan_to_num(bars)


def _title(ablation: Ablation) -> str:
    seeds = max(r.n for r in ablation.settings)
    return f"{heading(ablation)}\n{ablation.description}, {seeds} seed{'' if seeds == 1 else 's'}"
