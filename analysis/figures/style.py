"""The style that all figures share: fonts, sizes for two-column papers, which rows stand out, and pages laid out in
inches.

A figure is as wide as a column (3.3 in) or the text (6.9 in) of a two-column paper and is meant to be shown at that
size: no text is smaller than 7 pt. What does not fit into the height of a page continues on further pages.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import published
from analysis.figures import labels
from analysis.figures.palette import RowStyle, row_style
from analysis.groups import MethodRow, ResultGroup, RowKey
from analysis.selection import Selection
from analysis.statistics import BASELINE

FOLDER = "plots"  # of all figures, below the reports
COLUMN_WIDTH, TEXT_WIDTH = 3.3, 6.9  # inches, of a two-column paper
WIDTHS = {"column": COLUMN_WIDTH, "page": TEXT_WIDTH}  # by the names that an option has for them
PAGE_HEIGHT = 9.0  # inches
NAMES_SHARE = 0.38  # of a figure's width, at most, for the names of its rows
EDGE = 0.06  # inches that stay empty around a figure
ROW_HEIGHT = 0.155  # inches of a line of 7 pt in a list of rows
PROPOSED = "clkd"  # the method that the suite is about
FEW_ROWS = 8  # so many rows all stand out
BEST_ROWS = 4  # rows that stand out among many, besides the student alone, KD and CLKD
REFERENCE_LINE: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.0, "zorder": 1}
STYLE: dict[Any, Any] = {
    "font.family": labels.FAMILY,
    "font.size": labels.NORMAL,
    "axes.titlesize": labels.NORMAL,
    "axes.labelsize": labels.NORMAL,
    "figure.titlesize": labels.TITLE,
    "legend.fontsize": labels.SMALL,
    "xtick.labelsize": labels.SMALL,
    "ytick.labelsize": labels.SMALL,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.formatter.useoffset": False,  # numbers as they are, not minus one that stands in a corner
    "axes.titlepad": 3.0,
    "axes.labelpad": 2.0,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "savefig.dpi": 200,
    "svg.hashsalt": "kd-benchmark",
    "text.hinting": "none",  # so that widths do not depend on the resolution
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}


@dataclass(frozen=True)
class Appearance:
    """What a user chooses about figures, and the families that the methods' colors follow.

    families: by method, as the runs recorded them. highlight: methods that stand out, `all` of them, or none for the
    default, which figures without any of the chosen ones have too. titles: whether figures have titles; papers have
    captions instead. width: of figures, in inches: `COLUMN_WIDTH` or `TEXT_WIDTH`.
    """

    families: Mapping[str, str] = field(default_factory=dict)
    highlight: tuple[str, ...] = ()
    titles: bool = True
    width: float = TEXT_WIDTH

    @property
    def narrow(self) -> bool:
        """Whether figures are as wide as a column."""
        return self.width < TEXT_WIDTH

    def names(self, inches: float) -> float:
        """Return the inches that the names of rows may take, `inches` at most."""
        return min(inches, NAMES_SHARE * self.width)

    def widened(self) -> "Appearance":
        """Return the look of a figure that cannot be read in a column: as wide as the text."""
        return replace(self, width=TEXT_WIDTH)

    def on_pair(self, group: ResultGroup, pair: str) -> dict[RowKey, RowStyle]:
        """Return the style of each row of a pair; see `styles`."""
        rows = group.rows_on(pair)
        return self.styles(rows, {row.key: row.seed_groups[pair].mean("top1_last") for row in rows})

    def over_pairs(self, group: ResultGroup) -> dict[RowKey, RowStyle]:
        """Return the style of each row of a group, by its accuracy relative to the mean of each of its pairs."""
        accuracy = {(r.key, p): s.mean("top1_last") for r in group.rows for p, s in r.seed_groups.items()}
        pair_means = {p: np.nanmean([v for (_, q), v in accuracy.items() if q == p]) for p in group.pairs}
        scores = {
            row.key: float(np.mean([accuracy[row.key, p] - pair_means[p] for p in row.seed_groups]))
            for row in group.rows
        }
        return self.styles(group.rows, scores)

    def styles(self, rows: Sequence[MethodRow], scores: Mapping[RowKey, float]) -> dict[RowKey, RowStyle]:
        """Return the style of each row. Among more than `FEW_ROWS` rows only the chosen ones stand out: by default the
        student alone, KD and CLKD (of several variants the best), and the `BEST_ROWS` highest scores."""
        chosen = self._chosen(rows, scores)
        families = self.families
        return {
            r.key: row_style(r.method, r.variant, families.get(r.method), highlighted=r.key in chosen) for r in rows
        }

    def _chosen(self, rows: Sequence[MethodRow], scores: Mapping[RowKey, float]) -> set[RowKey]:
        """The rows that stand out."""
        if named := {row.key for row in rows if row.method in self.highlight}:
            return named
        if "all" in self.highlight or len(rows) <= FEW_ROWS:
            return {row.key for row in rows}
        best_first = sorted((r for r in rows if not math.isnan(scores[r.key])), key=lambda r: -scores[r.key])
        chosen = {row.key for row in best_first[:BEST_ROWS]}
        for method in (published.STUDENT, BASELINE, PROPOSED):
            chosen |= {row.key for row in [r for r in best_first if r.method == method][:1]}
        return chosen


def appearance(selection: Selection) -> Appearance:
    """Return the look of the figures that a command line asks for."""
    options = selection.options
    return Appearance(selection.families, tuple(options.highlight), options.titles, WIDTHS[options.width])


@dataclass(frozen=True)
class Page:
    """A figure whose parts are placed in inches. top: below the title, where the content begins."""

    figure: Figure
    top: float

    def axes(self, left: float, top: float, width: float, height: float, **options: Any) -> Axes:
        """Add axes; `top` counts from the end of the title down."""
        page_width, page_height = self.figure.get_size_inches()
        bottom = page_height - self.top - top - height
        box = (left / page_width, bottom / page_height, width / page_width, height / page_height)
        return self.figure.add_axes(box, **options)

    def text(self, left: float, top: float, text: str, **options: Any) -> None:
        """Add a text; `left` and `top` are its anchor, from the end of the title down."""
        width, height = self.figure.get_size_inches()
        options = {"fontsize": labels.SMALL, "ha": "left", "va": "top"} | options
        self.figure.text(left / width, 1 - (self.top + top) / height, text, **options)


def new_page(appearance: Appearance, height: float, title: str) -> Page:
    """Return an empty page for a content of such a height in inches, below its title where there are titles."""
    width, top = appearance.width, EDGE
    lines = title.split("\n") if appearance.titles else []
    text = "\n".join(labels.wrap(line, width - 2 * EDGE, labels.TITLE, 3) for line in lines)
    if text:
        top += labels.height_of(text, labels.TITLE) + 0.05
    figure = Figure(figsize=(width, top + height + EDGE))
    page = Page(figure, top)
    if text:
        page.text(EDGE, EDGE - top, text, fontsize=labels.TITLE)
    return page


def chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Cut a sequence into parts of at most `size` items, as equal as possible."""
    parts = max(1, math.ceil(len(items) / max(size, 1)))
    bounds = [round(i * len(items) / parts) for i in range(parts + 1)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]


def numbered(title: str, page: int, pages: int) -> str:
    """Return the title of one of several pages."""
    return title if pages == 1 else f"{title} ({page} of {pages})"


def pair_title(group: ResultGroup, pair: str) -> str:
    """Return teacher, student, data set and profile of a pair as a figure's title."""
    teacher, student = group.networks[pair]
    return f"{teacher} → {student} on {group.heading}"


def add_grid(ax: Axes, axis: Any = "both") -> None:
    """Draw a light grid behind the data."""
    ax.grid(True, axis=axis, color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)


def label_rows(ax: Axes, names: Sequence[str], row_styles: Sequence[RowStyle]) -> None:
    """Name the rows of an axis on its left, the first at the top; dark where they stand out."""
    ax.set_yticks(range(len(names)), names)
    for tick, row in zip(ax.get_yticklabels(), row_styles, strict=True):
        tick.set_color(row.ink)
    ax.tick_params(axis="y", length=0, pad=3)


def panel_grid(panels: int, columns: int) -> tuple[int, int]:
    """Return rows and columns of a grid for so many panels, with at most `columns` side by side."""
    columns = min(columns, panels)
    return math.ceil(panels / columns), columns
