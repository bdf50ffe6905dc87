"""Heat maps of the class correlations of one pair: the teacher's own, and teacher minus student of each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import files, labels, style
from analysis.figures.files import FigureWriter
from analysis.figures.style import Appearance, Page
from analysis.groups import MethodRow, ResultGroup
from analysis.predictions import PredictionReader

ABREAST, NARROW_ABREAST = 4, 2  # panels side by side
NAMED_CLASSES = 10  # a panel of more classes does not name them
GAP, BAR_HEIGHT = 0.12, 0.62  # inches between panels; below all panels, with a row of color bars
BAR = 0.42  # inches of a color bar with its label
NAMES = 0.75  # inches at most for the names of classes
NUMBERS = 0.42  # inches for the numbers of classes, with "class"
TEACHER_COLORS, DIFFERENCE_COLORS = "PuOr_r", "RdBu_r"
ORDER = "Classes are in the order of the data set, the same on both axes and in every panel"


@dataclass(frozen=True)
class CorrelationDifference:
    """Class correlations of teacher minus student for one row of a table.

    matrix: [C, C], averaged over seeds.
    distance: mean |difference| of one run over the C (C - 1) pairs of different classes, averaged over seeds, so that
        it does not depend on their number.
    teacher: correlations of the teacher of the row's first run [C, C].
    """

    row: MethodRow
    matrix: np.ndarray
    distance: float
    class_names: list[str] | None
    teacher: np.ndarray


@dataclass(frozen=True)
class _Panel:
    """A heat map. scale: the largest absolute value that its colors tell apart."""

    title: str
    matrix: np.ndarray
    scale: float
    colors: str


def write(group: ResultGroup, root: Path, writer: FigureWriter, appearance: Appearance) -> None:
    """Write the figures of all pairs. root: the folder of all runs."""
    for pair in group.pairs:
        differences, missing = correlation_differences(group, pair, root)
        writer.problems += missing
        if differences:
            name = files.stem(group, "correlation", pair)
            writer.write(name, lambda p=pair, d=differences: draw_correlations(group, p, d, appearance))


def correlation_differences(group: ResultGroup, pair: str, root: Path) -> tuple[list[CorrelationDifference], list[str]]:
    """Return one difference per row of the table, and a message per reason why runs have none."""
    reader = PredictionReader(root)
    differences: list[CorrelationDifference] = []
    unusable: dict[str, list[Path]] = {}  # folders by reason
    for row in group.rows_on(pair):
        matrices, teachers, names = [], [], None
        for run in row.seed_groups[pair].seed_runs:
            outputs = reader.read(run.folder, run.teacher_run)
            if isinstance(outputs, str):
                unusable.setdefault(outputs, []).append(run.folder)
            else:
                student, teacher = outputs
                matrices.append(teacher.correlation - student.correlation)
                teachers.append(teacher.correlation)
                names = student.class_names or teacher.class_names
        if matrices:
            classes = len(matrices[0])
            distances = [np.abs(m).sum() / max(classes * (classes - 1), 1) for m in matrices]
            mean = np.mean(matrices, axis=0)
            differences.append(CorrelationDifference(row, mean, float(np.mean(distances)), names, teachers[0]))
    return differences, [
        f"no correlations for {folders[0]}{f' and {len(folders) - 1} more' if folders[1:] else ''}: {reason}"
        for reason, folders in unusable.items()
    ]


def draw_correlations(
    group: ResultGroup, pair: str, differences: Sequence[CorrelationDifference], appearance: Appearance
) -> list[Figure]:
    """Draw the teacher's own correlations, then one panel per row of the table, on as many pages as they need.

    All differences are on one symmetric scale: it spans the entries, except for the largest 0.5 % where there are many
    classes.
    """
    entries = np.abs(np.concatenate([d.matrix.ravel() for d in differences]))
    classes = len(differences[0].matrix)
    names = differences[0].class_names or [str(i) for i in range(classes)]
    named = classes <= NAMED_CLASSES
    limit = max(float(np.quantile(entries, 1 if named else 0.995)), 1e-6)
    layout = _layout(names if named else None, [d.row.label for d in differences], appearance)
    panels = [_Panel("Teacher\nits own r", differences[0].teacher, 1.0, TEACHER_COLORS)]
    panels += [
        _Panel(f"{name}\nmean |Δr| {d.distance:.3f}", d.matrix, limit, DIFFERENCE_COLORS)
        for name, d in zip(layout.titles, differences, strict=True)
    ]
    rows = max(1, int((style.PAGE_HEIGHT - layout.below - layout.bars) / layout.row_height))
    parts = style.chunks(panels, rows * layout.abreast)
    title = f"Class correlation of the logits, {style.pair_title(group, pair)}"
    cut = bool(entries.max() > limit)
    return [
        _draw_page(part, layout, limit, cut, appearance, style.numbered(title, i, len(parts)))
        for i, part in enumerate(parts, 1)
    ]


@dataclass(frozen=True)
class _Layout:
    """Where panels stand, in inches. names: of the classes, None where they are numbered. titles: of the rows.

    abreast: panels side by side. left: of the first panel; side: of a panel; heading: above each; below: under the last
    row of panels; bars: of the color bars below that.
    """

    names: list[str] | None
    titles: list[str]
    abreast: int
    left: float
    side: float
    heading: float
    below: float
    bars: float

    @property
    def row_height(self) -> float:
        """Height of a row of panels with the gap below."""
        return self.heading + self.side + GAP


def _layout(names: Sequence[str] | None, titles: Sequence[str], appearance: Appearance) -> _Layout:
    abreast, bars = (NARROW_ABREAST, BAR_HEIGHT + BAR) if appearance.narrow else (ABREAST, BAR_HEIGHT)
    fitted = labels.fit(names, NAMES) if names else None
    around = labels.widest(fitted) + 0.1 if fitted else NUMBERS
    side = (appearance.width - around - style.EDGE - abreast * GAP) / abreast
    wrapped = labels.fit(titles, side, lines=2)
    lines = 1 + max(title.count("\n") + 1 for title in wrapped)
    heading = lines * labels.LINE * labels.SMALL + 0.03
    return _Layout(fitted, wrapped, abreast, around + style.EDGE, side, heading, around, bars)


def _draw_page(
    panels: Sequence[_Panel], layout: _Layout, limit: float, cut: bool, appearance: Appearance, title: str
) -> Figure:
    """One page. limit: scale of the differences; cut: whether entries lie outside it."""
    rows, columns = style.panel_grid(len(panels), layout.abreast)
    page = style.new_page(appearance, rows * layout.row_height + layout.below + layout.bars, title)
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        left, top = layout.left + column * (layout.side + GAP), row * layout.row_height + layout.heading
        ax = page.axes(left, top, layout.side, layout.side)
        ax.imshow(panel.matrix, cmap=panel.colors, vmin=-panel.scale, vmax=panel.scale, interpolation="nearest")
        ax.set_title(panel.title, fontsize=labels.SMALL, linespacing=1.1)
        ax.spines[["top", "right"]].set_visible(True)
        _label_classes(ax, layout.names, bottom=i + columns >= len(panels), left=column == 0)
    _add_bars(page, panels[0].colors == TEACHER_COLORS, limit, cut)
    return page.figure


def _label_classes(ax: Axes, names: Sequence[str] | None, *, bottom: bool, left: bool) -> None:
    """Name the classes on both axes, or number some of them without names."""
    if names:
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set_yticks(range(len(names)), names)
    else:
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        ax.set_xlabel("class, in data-set order" if bottom else "", fontsize=labels.SMALL)
        ax.set_ylabel("class" if left else "", fontsize=labels.SMALL)
    ax.tick_params(length=2, labelbottom=bottom, labelleft=left)


def _add_bars(page: Page, with_teacher: bool, limit: float, cut: bool) -> None:
    """Add the color bars of the teacher's correlations and of the differences at the lower edge, side by side or one
    above the other."""
    top = page.figure.get_figheight() - page.top - style.EDGE - BAR
    narrow = page.figure.get_figwidth() < style.TEXT_WIDTH
    width = style.COLUMN_WIDTH - 0.6 if narrow else (style.TEXT_WIDTH - 1.5) / 2
    bars = [("teacher's correlation r of two classes' logits", TEACHER_COLORS, 1.0, "neither")] if with_teacher else []
    bars.append(("Δr = teacher − student", DIFFERENCE_COLORS, limit, "both" if cut else "neither"))
    for i, (text, color_map, scale, extend) in enumerate(bars):
        place = (0.3, top - BAR * (len(bars) - 1 - i)) if narrow else (0.5 + i * (width + 0.5), top)
        ax = page.axes(*place, width, 0.09)
        mappable = ScalarMappable(Normalize(-scale, scale), color_map)
        bar = page.figure.colorbar(mappable, cax=ax, orientation="horizontal", extend=extend)
        bar.set_label(text, fontsize=labels.SMALL)
        bar.ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
