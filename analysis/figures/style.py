"""The style that all figures share: fonts, colors, labels, and how they are saved."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import published
from analysis.groups import MethodRow, ResultGroup
from benchmark.runs.folder import atomic, file_name

FOLDER = "plots"  # of all figures, below the reports
# Okabe and Ito's colors, which color-blind readers can distinguish; the teacher is black and the student alone gray.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
STUDENT_COLOR, TEACHER_COLOR = "#767676", "#000000"
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))  # of a method's variants
REFERENCE_LINE: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.1, "zorder": 1}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "savefig.dpi": 200,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}


def method_colors(methods: Iterable[str]) -> dict[str, str]:
    """Return a color for each method. Given all methods of the runs, a method has the same color in every figure."""
    distillation = sorted(set(methods) - {published.STUDENT})
    colors = {m: PALETTE[i % len(PALETTE)] for i, m in enumerate(distillation)}
    return colors | {published.STUDENT: STUDENT_COLOR}


def line_style(row: MethodRow, colors: Mapping[str, str]) -> dict[str, Any]:
    """Return color and dashes of a row: the color is the method's, the dashes are the variant's."""
    return {"color": colors[row.method], "linestyle": DASHES[row.variant % len(DASHES)]}


def stem(group: ResultGroup, name: str, pair: str | None = None) -> str:
    """Return the name of a figure's files without the suffix."""
    parts = (group.dataset, group.profile, group.name, pair, name)
    return file_name(*dict.fromkeys(part for part in parts if part))  # a selection of one pair is called by it


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as `<name>.png` and `<name>.pdf`, atomically; returns both paths."""
    FigureCanvasAgg(figure)
    paths = []
    for suffix, metadata in {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata, bbox_inches="tight", pad_inches=0.05)
        paths.append(folder / f"{name}.{suffix}")
        with atomic(paths[-1]) as f:
            f.write(buffer.getvalue())
    return paths


def pair_title(group: ResultGroup, pair: str) -> str:
    """Return teacher, student, data set and profile of a pair as a figure's title."""
    teacher, student = group.networks[pair]
    return f"{teacher} → {student} on {group.heading}"


def add_grid(ax: Axes) -> None:
    """Draw a light grid behind the data."""
    ax.grid(True, color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)


def add_teachers(ax: Axes, group: ResultGroup, pair: str) -> list[float]:
    """Draw the accuracy of each of a pair's teachers as a dashed horizontal line; returns the accuracies."""
    accuracies = {t.label: t.top1[pair] for t in group.teachers if pair in t.top1}
    for label, top1 in accuracies.items():
        ax.axhline(top1, color=TEACHER_COLOR, label=f"{label}  {top1:.2f}", **REFERENCE_LINE)
    return list(accuracies.values())


def legend_columns(labels: Sequence[str], most: int = 4) -> int:
    """Return the columns of a legend below a figure: `most`, or two where a label is long."""
    return min(len(labels), 2 if max(map(len, labels)) > 25 else most)


def fit_legend(figure: Figure, labels: int, columns: int) -> None:
    """Heighten a figure by the rows of its legend beyond four, which would leave the axes no room."""
    figure.set_figheight(figure.get_figheight() + 0.18 * max(0, math.ceil(labels / columns) - 4))


def panel_grid(panels: int, columns: int) -> tuple[int, int]:
    """Return rows and columns of a grid for so many panels, with at most `columns` side by side."""
    columns = min(columns, panels)
    return math.ceil(panels / columns), columns


def wrap_label(label: str, width: int = 30) -> str:
    """Break a long label before its parenthesis."""
    return label.replace(" (", "\n(", 1) if len(label) > width else label
