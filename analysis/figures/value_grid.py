"""Heat maps of rows against columns with a number in each field, on as many pages as they need."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import labels, style
from analysis.figures.palette import RowStyle
from analysis.figures.style import Appearance

NAMES = 1.3  # inches at most for the names of rows
HEADS = 1.3  # inches at most for the names of columns
MIN_FIELD, MAX_FIELD = 0.116, 0.55  # inches: width of a field without a number; of any field
BAR = 0.45  # inches for the color bar with its label


@dataclass(frozen=True)
class ValueGrid:
    """Values [rows, columns] on a symmetric scale, NaN where there is none.

    texts: what stands in the fields; None for colors alone. styles: of the rows. bar: label of the color bar, with
    unit. divider: a line is drawn before this column.
    """

    title: str
    values: np.ndarray
    texts: Sequence[Sequence[str]] | None
    rows: Sequence[str]
    columns: Sequence[str]
    styles: Sequence[RowStyle]
    bar: str
    limit: float
    divider: int | None = None


def draw(grid: ValueGrid, appearance: Appearance) -> list[Figure]:
    """Draw a grid. All pages have the same scale, and fields of the same size. Columns that do not stand side by side
    in a column of a paper are drawn as wide as the text."""
    names = labels.fit(grid.rows, appearance.names(NAMES))
    left = style.EDGE + labels.widest(names) + 0.06
    heads = labels.fit(grid.columns, HEADS)
    head_height = labels.widest(heads) + 0.08 if _rotated(heads) else 0.2
    room = appearance.width - left - style.EDGE
    needed = MIN_FIELD if grid.texts is None else 0.03 + labels.widest([text for row in grid.texts for text in row])
    column_parts = style.chunks(range(len(heads)), max(1, int(room / needed)))
    if appearance.narrow and len(column_parts) > 1:
        return draw(grid, appearance.widened())
    width = min(MAX_FIELD, room / max(map(len, column_parts)))
    height = style.ROW_HEIGHT if grid.texts is not None or len(names) > 12 else 0.2
    bar_left, bar_width = (0.2, appearance.width - 0.4) if appearance.narrow else (left, min(3.0, room))
    bar_label = labels.wrap(grid.bar, bar_width) if appearance.narrow else grid.bar
    below = BAR + labels.height_of(bar_label) - labels.height_of("")
    row_room = style.PAGE_HEIGHT - 0.5 - head_height - below
    row_parts = style.chunks(range(len(names)), int(row_room / height))
    parts = [(rows, columns) for rows in row_parts for columns in column_parts]
    figures = []
    for i, (rows, columns) in enumerate(parts, 1):
        title = style.numbered(grid.title, i, len(parts))
        page = style.new_page(appearance, head_height + height * len(rows) + below, title)
        ax = page.axes(left, head_height, width * len(columns), height * len(rows))
        _fill(ax, grid, rows, columns, names, heads)
        bar = page.axes(bar_left, head_height + height * len(rows) + 0.08, bar_width, 0.09)
        mappable = ScalarMappable(Normalize(-grid.limit, grid.limit), "RdBu")
        page.figure.colorbar(mappable, cax=bar, orientation="horizontal").set_label(bar_label, fontsize=labels.SMALL)
        bar.xaxis.set_major_locator(MaxNLocator(nbins=5))
        figures.append(page.figure)
    return figures


def _rotated(heads: Sequence[str]) -> bool:
    """Whether column names stand upright: all but the shortest do."""
    return max(map(len, heads)) > 1


def _fill(
    ax: Axes, grid: ValueGrid, rows: Sequence[int], columns: Sequence[int], names: Sequence[str], heads: Sequence[str]
) -> None:
    """Draw the fields of one page."""
    values = grid.values[np.ix_(rows, columns)]
    # the darkest shades are left out, so that black or white text can be read on every field
    ax.imshow(np.ma.masked_invalid(values), cmap="RdBu", vmin=-1.25 * grid.limit, vmax=1.25 * grid.limit,
              interpolation="nearest", aspect="auto")  # fmt: skip
    if grid.texts is not None:
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                dark = abs(values[i, j]) > 0.7 * grid.limit
                ax.text(j, i, grid.texts[row][column], ha="center", va="center", fontsize=labels.SMALL,
                        color="white" if dark else "black")  # fmt: skip
    ax.set_yticks(range(len(rows)), [names[i] for i in rows])
    for tick, i in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_color(grid.styles[i].ink)
    ax.set_xticks(range(len(columns)), [heads[j] for j in columns], rotation=90 if _rotated(heads) else 0)
    ax.tick_params(length=0, pad=3, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    if grid.divider is not None and columns[0] < grid.divider <= columns[-1]:
        ax.axvline(grid.divider - columns[0] - 0.5, color="black", linewidth=1.0)
