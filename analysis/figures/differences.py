"""How much each method gains: a forest plot per pair, and a heat map of methods × pairs, of the differences to the
student alone and to KD."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import published, statistics
from analysis.figures import files, labels, style, value_grid
from analysis.figures.files import FigureWriter
from analysis.figures.palette import RowStyle
from analysis.figures.style import Appearance
from analysis.figures.value_grid import ValueGrid
from analysis.groups import MethodRow, ResultGroup, RowKey
from analysis.statistics import BASELINE, Comparison
from benchmark.tables import cells

REFERENCES = {m: statistics.REFERENCES[m] for m in (published.STUDENT, BASELINE)}  # in the order of the panels
SHORT = {published.STUDENT: "student", BASELINE: "KD"}  # above a narrow panel
NAMES = 1.7  # inches at most for the names of rows
GAP, HEADING, BELOW = 0.25, 0.2, 0.42  # inches: between panels, above and below them
Differences = Mapping[tuple[RowKey, str], Comparison]


def write(group: ResultGroup, comparisons: Sequence[Comparison], writer: FigureWriter, appearance: Appearance) -> None:
    """Write the forest plot of every pair, and the heat maps of several pairs."""
    for pair in group.pairs:
        for name, draw in pair_drawings(group, pair, comparisons, appearance).items():
            writer.write(files.stem(group, name, pair), draw)
    for name, draw in group_drawings(group, comparisons, appearance).items():
        writer.write(files.stem(group, name), draw)


def pair_drawings(
    group: ResultGroup, pair: str, comparisons: Sequence[Comparison], appearance: Appearance
) -> dict[str, Callable[[], list[Figure]]]:
    """Return what draws the forest plot of a pair, `differences`; nothing where no row is compared with a reference."""
    on_pair = references(comparisons, pair)
    return {"differences": lambda: draw_forest(group, pair, on_pair, appearance)} if on_pair else {}


def group_drawings(
    group: ResultGroup, comparisons: Sequence[Comparison], appearance: Appearance
) -> dict[str, Callable[[], list[Figure]]]:
    """Return what draws the heat maps of several pairs by name, `gains-<reference>`."""
    if len(group.pairs) < 2:
        return {}
    return {
        f"gains-{'student' if method == published.STUDENT else method}": lambda m=method, d=differences: draw_gains(
            group, m, d, appearance
        )
        for method, differences in references(comparisons).items()
    }


def references(comparisons: Sequence[Comparison], pair: str | None = None) -> dict[str, Differences]:
    """Return the comparisons of all rows with each reference, as row minus reference, by row and pair; without
    references that no row is compared with. pair: the only pair to keep."""
    of_pair = [c for c in comparisons if pair in (None, c.pair) and not math.isnan(c.difference)]
    by_method = {method: statistics.comparisons_with(of_pair, method) for method in REFERENCES}
    return {method: differences for method, differences in by_method.items() if differences}


def sorted_rows(group: ResultGroup, pair: str) -> list[MethodRow]:
    """Return the rows of a pair by their mean accuracy, the best first; rows without one are left out."""
    means = {row.key: row.seed_groups[pair].mean("top1_last") for row in group.rows_on(pair)}
    rows = [row for row in group.rows_on(pair) if not math.isnan(means[row.key])]
    return sorted(rows, key=lambda row: -means[row.key])


def draw_forest(
    group: ResultGroup, pair: str, compared: Mapping[str, Differences], appearance: Appearance
) -> list[Figure]:
    """Draw a panel per reference: the difference of each row to it with its 95 % interval, the best row at the top.

    A hollow mark has no interval, for want of three common seeds or of any spread. compared: see `references`.
    """
    rows, styles = sorted_rows(group, pair), appearance.on_pair(group, pair)
    limits = {method: _limits(list(differences.values())) for method, differences in compared.items()}
    names = dict(
        zip([r.key for r in rows], labels.fit([_name(r, pair) for r in rows], appearance.names(NAMES)), strict=True)
    )
    left = style.EDGE + labels.widest(list(names.values())) + 0.06
    gap = GAP if not appearance.narrow else GAP / 2
    width = (appearance.width - left - 0.12 - gap * (len(compared) - 1)) / len(compared)
    parts = style.chunks(rows, int((style.PAGE_HEIGHT - 0.5 - HEADING - BELOW) / style.ROW_HEIGHT))
    figures = []
    for number, part in enumerate(parts, 1):
        title = style.numbered(f"Gain in {group.top1}: {style.pair_title(group, pair)}", number, len(parts))
        height = style.ROW_HEIGHT * len(part)
        page = style.new_page(appearance, HEADING + height + BELOW, title)
        for i, (method, differences) in enumerate(compared.items()):
            ax = page.axes(left + i * (width + gap), HEADING, width, height)
            _add_differences(ax, pair, part, differences, styles)
            ax.set_xlim(*limits[method])
            ax.set_ylim(len(part) - 0.4, -0.6)
            ax.set_title(f"against {SHORT[method] if appearance.narrow else REFERENCES[method]}", fontsize=labels.SMALL)
            ax.set_xlabel("points" if appearance.narrow else "difference [points]")
            ax.xaxis.set_major_locator(MaxNLocator(nbins=3 if appearance.narrow else 5, prune="both"))
            row_names = [names[row.key] for row in part] if i == 0 else [""] * len(part)
            style.label_rows(ax, row_names, [styles[row.key] for row in part])
            style.add_grid(ax, "x")
        figures.append(page.figure)
    return figures


def _name(row: MethodRow, pair: str) -> str:
    """A row with its mean accuracy."""
    return f"{row.label}  {row.seed_groups[pair].mean('top1_last'):.2f}"


def _limits(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """The limits of an axis that shows all differences, 0, and intervals as far as they are no wider than three times
    the range of the differences: of few seeds one can be so wide that nothing else is seen."""
    values = [c.difference for c in comparisons]
    low, high = min(0.0, *values), max(0.0, *values)
    reach = 3 * max(high - low, 0.1)
    bounds = [b for c in comparisons for b in (c.low, c.high) if not math.isnan(b)]
    low, high = min([low, *bounds]), max([high, *bounds])
    low, high = max(low, min(0.0, *values) - reach), min(high, max(0.0, *values) + reach)
    margin = 0.05 * max(high - low, 0.1)
    return low - margin, high + margin


def _add_differences(
    ax: Axes, pair: str, rows: Sequence[MethodRow], differences: Differences, styles: Mapping[RowKey, RowStyle]
) -> None:
    """Draw the differences of some rows, the first at the top; interval bars above the marks."""
    ax.axvline(0, color="#404040", linewidth=0.8, zorder=1)
    for y, row in enumerate(rows):
        comparison, row_style = differences.get((row.key, pair)), styles[row.key]
        if comparison is None:
            continue
        has_interval = not math.isnan(comparison.low)
        mark: dict[str, Any] = row_style.mark | ({} if has_interval else {"markerfacecolor": "white"})
        ax.plot(comparison.difference, y, **mark, markersize=4, linestyle="none", zorder=3)
        if has_interval:
            ax.plot([comparison.low, comparison.high], [y, y], color=row_style.bar, linewidth=1.0, zorder=4)


def draw_gains(group: ResultGroup, method: str, differences: Differences, appearance: Appearance) -> list[Figure]:
    """Draw the difference of each row to a reference on every pair, in points, rows by their mean over the pairs; the
    first column is that mean over the pairs that a row has."""
    keys = {key for key, _ in differences}
    rows = [row for row in group.rows if row.key in keys]
    table = np.full((len(rows), len(group.pairs)), np.nan)
    for i, row in enumerate(rows):
        for j, pair in enumerate(group.pairs):
            if comparison := differences.get((row.key, pair)):
                table[i, j] = comparison.difference
    means = np.nanmean(table, axis=1)
    order = np.argsort(-means, kind="stable")
    values = np.column_stack([means, table])[order]
    styles = appearance.over_pairs(group)
    grid = ValueGrid(
        title=f"Gain in {group.top1} against {REFERENCES[method]}: {group.heading}",
        values=values,
        texts=[["" if math.isnan(value) else cells.signed(value) for value in row] for row in values],
        rows=[rows[i].label for i in order],
        columns=["mean", *group.pairs],
        styles=[styles[rows[i].key] for i in order],
        bar=f"difference to {REFERENCES[method]} [points], mean over seeds",
        limit=max(float(np.nanmax(np.abs(values))), 1e-6),
        divider=1,
    )
    return value_grid.draw(grid, appearance)
