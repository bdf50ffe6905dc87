"""Figures of fidelity: the measures of each method with their seeds, and heat maps of the accuracy change of classes
against the student alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import published
from analysis.fidelity import EXTREME_CLASSES, LEVEL_PLURALS, MEASURES, ClassChanges, Fidelity, Measure
from analysis.figures import files, labels, palette, style, value_grid
from analysis.figures.files import FigureWriter
from analysis.figures.palette import RowStyle
from analysis.figures.style import Appearance, Page
from analysis.figures.value_grid import ValueGrid
from analysis.frames import rows_where

PANELS, NARROW_PANELS = 4, 2  # measures side by side
NAMES = 1.35  # inches at most for the names of rows
GAP, HEADING, TICKS, LEGEND = 0.14, 0.3, 0.3, 0.2  # inches: between panels, above and below them, of the legend
SEED_DOT: dict[str, Any] = {"marker": "o", "alpha": 0.5, "markersize": 2.8, "markeredgewidth": 0, "linestyle": "none"}


def write(fidelity: Fidelity, writer: FigureWriter, appearance: Appearance) -> None:
    """Write all figures."""
    for pair in fidelity.pairs:
        for name, draw in drawings(fidelity, pair, appearance).items():
            writer.write(files.stem(fidelity.group, name, pair), draw)


def drawings(fidelity: Fidelity, pair: str, appearance: Appearance) -> dict[str, Callable[[], list[Figure]]]:
    """Return what draws the figures of one pair by name: `structure`, and where there are changes to show
    `structure-superclasses` and `structure-classes`."""
    drawn: dict[str, Callable[[], list[Figure]]] = {"structure": lambda: draw_measures(fidelity, pair, appearance)}
    for level in fidelity.levels(pair):
        if changes := fidelity.class_changes(pair, level):
            name = f"structure-{LEVEL_PLURALS[level]}"
            drawn[name] = lambda changes=changes: draw_changes(fidelity, pair, changes, appearance)
    return drawn


def _row_styles(fidelity: Fidelity, pair: str, appearance: Appearance) -> dict[str, RowStyle]:
    """The styles of a pair's rows by their labels."""
    styles = appearance.on_pair(fidelity.group, pair)
    return {row.label: styles[row.key] for row in fidelity.group.rows_on(pair)}


def draw_measures(fidelity: Fidelity, pair: str, appearance: Appearance) -> list[Figure]:
    """Draw one panel per measure, one line per row of the table: seeds as light dots, their mean as the row's mark with
    ± one standard deviation, the teacher's own value as a dashed line. Four measures stand side by side, two in a
    narrow figure; what does not fit on a page continues on the next."""
    summary, seeds = rows_where(fidelity.summary, pair=pair), rows_where(fidelity.runs, pair=pair)
    teachers = rows_where(summary, method=published.TEACHER)
    rows = summary.drop(teachers.index)
    measures = [m for m in MEASURES if rows[m.key].notna().to_numpy().any()]
    abreast, legend = (NARROW_PANELS, 2 * LEGEND) if appearance.narrow else (PANELS, LEGEND)
    around = HEADING + TICKS
    most_rows = int((style.PAGE_HEIGHT - 0.5 - legend - around) / style.ROW_HEIGHT)
    blocks = [
        (part, measures[i : i + abreast])
        for part in style.chunks(list(rows.index), most_rows)
        for i in range(0, len(measures), abreast)
    ]
    height = around + style.ROW_HEIGHT * max(len(part) for part, _ in blocks)
    pages = style.chunks(blocks, max(1, int((style.PAGE_HEIGHT - 0.5 - legend) / height)))
    figures, styles = [], _row_styles(fidelity, pair, appearance)
    title = f"Class structure passed on: {style.pair_title(fidelity.group, pair)}"
    for i, on_page in enumerate(pages, 1):
        total = sum(around + style.ROW_HEIGHT * len(part) for part, _ in on_page)
        page, top = style.new_page(appearance, total + legend, style.numbered(title, i, len(pages))), 0.0
        for part, block_measures in on_page:
            names = labels.fit(list(rows.label[part]), appearance.names(NAMES))
            panels = _block_axes(page, top, names, abreast)
            _add_block(panels, names, block_measures, rows.loc[part], seeds, teachers, styles)
            top += around + style.ROW_HEIGHT * len(part)
        _add_legend(page, total, several=bool((rows.n > 1).any()), teacher=not teachers.empty)
        figures.append(page.figure)
    return figures


def _block_axes(page: Page, top: float, names: Sequence[str], abreast: int) -> list[Axes]:
    """Axes side by side with room for the rows' names on their left."""
    left = style.EDGE + labels.widest(names) + 0.06
    width = (page.figure.get_figwidth() - left - style.EDGE - 0.1 - (abreast - 1) * GAP) / abreast
    return [
        page.axes(left + i * (width + GAP), top + HEADING, width, style.ROW_HEIGHT * len(names)) for i in range(abreast)
    ]


def _add_block(
    panels: Sequence[Axes], names: Sequence[str], measures: Sequence[Measure], rows: pd.DataFrame,
    seeds: pd.DataFrame, teachers: pd.DataFrame, styles: Mapping[str, RowStyle],
) -> None:  # fmt: skip
    """Draw a measure in each panel, the rows' names on the left. Panels without a measure are removed."""
    for ax in panels[len(measures) :]:
        ax.remove()
    for i, (ax, measure) in enumerate(zip(panels, measures, strict=False)):
        for value in teachers[measure.key].dropna():
            ax.axvline(value, color=palette.TEACHER_COLOR, **style.REFERENCE_LINE)
        _add_rows(ax, measure, rows, seeds, styles)
        better = "more" if measure.better > 0 else "less"
        unit = f" [{measure.unit}]" if measure.unit else ""
        ax.set_title(f"{measure.title}{unit}\n{better} is better", fontsize=labels.SMALL, linespacing=1.1)
        style.label_rows(ax, names if i == 0 else [""] * len(names), [styles[r] for r in rows.label])
        _few_ticks(ax)
        style.add_grid(ax)


def _few_ticks(ax: Axes) -> None:
    """Keep the numbers below a panel apart, and inside its width, so that they clear those of its neighbors."""
    ax.margins(x=0.12)
    low, high = ax.get_xlim()
    inside = 0.1 * (high - low)
    for count in (3, 4, 6):
        ticks = [t for t in MaxNLocator(nbins=count).tick_values(low, high) if low + inside <= t <= high - inside]
        if len(ticks) > 1:
            break
    ax.set_xticks(ticks[:3] if len(ticks) < 5 else ticks[::2])


def _add_rows(
    ax: Axes, measure: Measure, rows: pd.DataFrame, seeds: pd.DataFrame, styles: Mapping[str, RowStyle]
) -> None:
    """Draw one measure of some rows, the first at the top."""
    for y, row in enumerate(rows.to_dict("records")):
        row_style = styles[row["label"]]
        values = rows_where(seeds, label=row["label"], identity=row["identity"])[measure.key]
        if len(values) > 1:  # below the mean's bar, which would hide them
            ax.plot(values, [y + 0.3] * len(values), color=row_style.color, zorder=2, **SEED_DOT)
        mean, spread = row[measure.key], row[f"{measure.key}_std"]
        ax.plot(mean, y, **row_style.mark, markersize=3.6, linestyle="none", zorder=3)
        if not math.isnan(spread):
            ax.errorbar(mean, y, xerr=spread, fmt="none", ecolor=row_style.bar, elinewidth=0.9, capsize=1.8, zorder=4)
    ax.set_ylim(len(rows) - 0.45, -0.55)


def _add_legend(page: Page, top: float, *, several: bool, teacher: bool) -> None:
    """Explain the marks below the panels."""
    handles = []
    if several:
        handles.append(Line2D([], [], color="#404040", label="one seed", **SEED_DOT))
        handles.append(Line2D([], [], color="#404040", linestyle="none", marker="o", markersize=3.6,
                              label="mean ± standard deviation over seeds"))  # fmt: skip
    if teacher:
        line = {k: v for k, v in style.REFERENCE_LINE.items() if k != "zorder"}
        handles.append(Line2D([], [], color=palette.TEACHER_COLOR, label="teacher", **line))
    if handles:
        height = page.figure.get_figheight()
        columns = len(handles) if page.figure.get_figwidth() > style.COLUMN_WIDTH else 2
        page.figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.005, style.EDGE / height / 2),
                           ncols=columns, labelspacing=0.3, frameon=False, borderpad=0, borderaxespad=0)  # fmt: skip


def draw_changes(fidelity: Fidelity, pair: str, changes: ClassChanges, appearance: Appearance) -> list[Figure]:
    """Draw a heat map of labels × classes on a symmetric scale, each field with its change in points."""
    values = changes.mean.to_numpy(float)
    limit = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
    styles = _row_styles(fidelity, pair, appearance)
    rows = list(changes.mean.index)
    classes = LEVEL_PLURALS[changes.level]
    if changes.partial:
        classes = f"{EXTREME_CLASSES} classes that gain and {EXTREME_CLASSES} that lose most"
    grid = ValueGrid(
        title=f"Accuracy change against the student alone: {classes}, {style.pair_title(fidelity.group, pair)}",
        values=values,
        texts=[["" if math.isnan(value) else _format_change(value) for value in row] for row in values],
        rows=[f"{label} ({changes.n[label]})" for label in rows],
        columns=list(changes.mean.columns),
        styles=[styles[label] for label in rows],
        bar="accuracy change [points], mean over (seeds)",
        limit=limit,
        divider=EXTREME_CLASSES if changes.partial else None,
    )
    return value_grid.draw(grid, appearance)


def _format_change(value: float) -> str:
    """One digit after the point, and none from ten on, with a sign."""
    text = f"{abs(value):.0f}" if abs(value) >= 9.95 else f"{abs(value):.1f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"
