"""Figures of an ablation: a line for each option that is varied alone, a heat map for two together, and the settings of
a list side by side. Validation accuracy in per cent; intervals are 95 % by Student's t over seeds."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.ablation import Ablation, Axis, SettingRow, heading, short, text
from analysis.figures.curves import PALETTE, STUDENT_COLOUR, STYLE, save
from analysis.tables.accuracy import file_name
from benchmark.statistics import mean_interval

OWN, KD_COLOUR = PALETTE[0], PALETTE[1]
PANELS = 2  # side by side
ACCURACY = "validation top-1 [%]"


def write(ablation: Ablation, folder: Path) -> list[Path]:
    """Draw what there is to draw; returns the files. Nothing where no run is finished, or for three options at once."""
    if not any(r.n for r in ablation.settings):
        return []
    with matplotlib.rc_context(STYLE):
        if ablation.form == "axes" and len(ablation.axes) == 2:
            figure = draw_map(ablation)
        elif ablation.form == "axes" and len(ablation.axes) > 2:
            return []
        elif ablation.form == "settings" or not any(a.numeric for a in ablation.axes.values()):
            figure = draw_settings(ablation)
        else:
            figure = draw_lines(ablation)
        return save(figure, folder, file_name(ablation.name))


def _references(ablation: Ablation) -> list[tuple[SettingRow, str]]:
    """The references with the default recipe, and their colours; KD is left out where it is the default itself."""
    chosen = [r for r in ablation.references if r.recipe == ablation.default.recipe and r.n]
    colours = {"kd": KD_COLOUR}
    return [
        (r, colours.get(r.method, STUDENT_COLOUR)) for r in chosen if r.method != "kd" or ablation.has_baseline
    ]  # fmt: skip


def draw_lines(ablation: Ablation) -> Figure:
    """A panel an option: mean and interval against its value, the default marked, the references as lines; where the
    option is of the recipe the references have a point a value too."""
    axes = {o: a for o, a in ablation.axes.items() if a.numeric}
    columns = min(len(axes), PANELS)
    rows = math.ceil(len(axes) / columns)
    size = (3.4 * columns + 0.4, 2.3 * rows + 0.8) if len(axes) > 1 else (5.2, 3.3)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for i, ax in enumerate(panels.flat):
        if i >= len(axes):
            ax.remove()
            continue
        option, axis = list(axes.items())[i]
        own = [r for r in ablation.settings if r.n and _only(ablation, r, option)]
        if option.startswith("recipe."):
            for method, colour in (("kd", KD_COLOUR), ("ce", STUDENT_COLOUR)):
                of = [r for r in ablation.references if r.method == method and r.n]
                if of and (method != "kd" or ablation.has_baseline):
                    _line(ax, option, of, colour, of[0].label.split(" (")[0])
        else:
            for row, colour in _references(ablation):
                found = mean_interval(list(row.val.values()))
                ax.axhline(found.mean, color=colour, linestyle=(0, (4, 2)), linewidth=1.1, label=row.label, zorder=1)
        _line(ax, option, own, OWN, ablation.title)
        if ablation.default.n:
            at = ablation.default.values[option], ablation.default.mean
            ax.plot(*at, marker="o", markersize=8, markerfacecolor="none", markeredgecolor=OWN, linestyle="none",
                    label="default", zorder=4)  # fmt: skip
        _scale(ax, axis, sorted({r.values[option] for r in own}))
        ax.set_xlabel(short(option))
        if i % columns == 0:
            ax.set_ylabel(ACCURACY)
        _grid(ax)
    figure.suptitle(_title(ablation), fontsize=10)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=4, frameon=False)
    return figure


def _only(ablation: Ablation, row: SettingRow, option: str) -> bool:
    """True where a setting differs from the default in one option at most."""
    base = ablation.default
    return row.method == base.method and all(row.values[o] == v for o, v in base.values.items() if o != option)


def _line(ax, option: str, rows: Sequence[SettingRow], colour: str, label: str) -> None:
    rows = sorted(rows, key=lambda r: r.values[option])
    found = [mean_interval(list(r.val.values())) for r in rows]
    mean = np.array([f.mean for f in found])
    spread = np.nan_to_num([[f.mean - f.low for f in found], [f.high - f.mean for f in found]])
    ax.errorbar([r.values[option] for r in rows], mean, yerr=spread, color=colour, marker="o", markersize=4,
                linewidth=1.4, elinewidth=1, capsize=2.5, label=label, zorder=3)  # fmt: skip


def _scale(ax, axis: Axis, values: Sequence[float]) -> None:
    """A tick at every value."""
    if axis.log and min(values) > 0:
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(values, [text(v) for v in values])


def draw_map(ablation: Ablation) -> Figure:
    """Mean validation accuracy over two options, first down, second across; the default is framed, the best bold."""
    (down, rows), (across, columns) = ablation.axes.items()
    table = np.full((len(rows.values), len(columns.values)), np.nan)
    for row in ablation.settings:
        if row.values[down] in rows.values and row.values[across] in columns.values:
            table[list(rows.values).index(row.values[down]), list(columns.values).index(row.values[across])] = row.mean
    size = max(0.85 * table.shape[1] + 2.2, 5.0), max(0.55 * table.shape[0] + 1.5, 2.8)
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(table, cmap="viridis", aspect="auto", origin="lower")
    limits = image.get_clim()
    for i, j in np.ndindex(table.shape):
        if np.isnan(table[i, j]):
            ax.text(j, i, "–", ha="center", va="center")
            continue
        dark = table[i, j] < (limits[0] + limits[1]) / 2
        best = table[i, j] == np.nanmax(table)
        ax.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color="white" if dark else "black",
                fontweight="bold" if best else "normal", fontsize=8)  # fmt: skip
    base = ablation.default.values
    if base[down] in rows.values and base[across] in columns.values:
        corner = list(columns.values).index(base[across]) - 0.5, list(rows.values).index(base[down]) - 0.5
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.2, clip_on=False, zorder=5))
    ax.set_xticks(range(table.shape[1]), [text(v) for v in columns.values])
    ax.set_yticks(range(table.shape[0]), [text(v) for v in rows.values])
    ax.set_xlabel(short(across))
    ax.set_ylabel(short(down))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, label=ACCURACY, aspect=18)
    beside = [f"{r.label} {r.mean:.2f}" for r, _ in _references(ablation)]
    if base[down] not in rows.values or base[across] not in columns.values:
        beside.append(f"default ({short(down)}={text(base[down])}, {short(across)}={text(base[across])}) "
                      f"{ablation.default.mean:.2f}")  # fmt: skip
    else:
        beside.append("frame: default")
    figure.suptitle(_title(ablation) + "\n" + ", ".join(beside), fontsize=10)
    return figure


def draw_settings(ablation: Ablation) -> Figure:
    """A row a setting: mean and interval, seeds as faint dots; the references as lines."""
    rows = [r for r in ablation.settings if r.n]
    figure = Figure(figsize=(5.6, 0.32 * len(rows) + 1.5), layout="constrained")
    ax = figure.subplots()
    for row, colour in _references(ablation):
        label = f"{row.label} {row.mean:.2f}"
        ax.axvline(row.mean, color=colour, linestyle=(0, (4, 2)), linewidth=1.1, label=label, zorder=1)
    for i, row in enumerate(rows):
        found = mean_interval(list(row.val.values()))
        spread = np.nan_to_num([[found.mean - found.low], [found.high - found.mean]])
        ax.plot(list(row.val.values()), [i] * row.n, ".", color=OWN, alpha=0.35, markersize=5, zorder=2)
        ax.errorbar(found.mean, i, xerr=spread, color=OWN, marker="o", markersize=5, capsize=2.5, linewidth=1.2,
                    zorder=3)  # fmt: skip
    marks = [" (default)" if r is ablation.default and r.label != "default" else "" for r in rows]
    ax.set_yticks(range(len(rows)), [r.label + mark for r, mark in zip(rows, marks, strict=True)])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(ACCURACY)
    _grid(ax)
    figure.suptitle(_title(ablation), fontsize=10)
    if ax.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _grid(ax) -> None:
    ax.grid(True, color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)


def _title(ablation: Ablation) -> str:
    seeds = max(r.n for r in ablation.settings)
    return f"{heading(ablation)}\n{ablation.description}, {seeds} seed{'' if seeds == 1 else 's'}"
