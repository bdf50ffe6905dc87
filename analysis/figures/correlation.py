"""Heat maps of the class correlations of one pair, teacher minus student."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from analysis.fidelity import NAMED_CLASSES
from analysis.figures import style
from analysis.groups import MethodRow, ResultGroup
from analysis.predictions import PredictionReader


@dataclass(frozen=True)
class CorrelationDifference:
    """Class correlations of teacher minus student for one row of a table.

    matrix: [C, C], averaged over seeds.
    distance: mean |difference| of one run over the C (C - 1) pairs of different classes, averaged over seeds, so that
        it does not depend on their number.
    """

    row: MethodRow
    matrix: np.ndarray
    distance: float
    class_names: list[str] | None


def write(group: ResultGroup, root: Path, reports: Path) -> tuple[list[Path], list[str]]:
    """Write the figures of all pairs to `<reports>/plots`; returns their paths, and why runs are missing from them.

    root: the folder of all runs.
    """
    paths, problems = [], []
    with matplotlib.rc_context(style.STYLE):
        for pair in group.pairs:
            differences, missing = correlation_differences(group, pair, root)
            problems += missing
            if differences:
                figure = draw_correlations(group, pair, differences)
                paths += style.save(figure, reports / style.FOLDER, style.stem(group, "correlation", pair))
    return paths, problems


def correlation_differences(group: ResultGroup, pair: str, root: Path) -> tuple[list[CorrelationDifference], list[str]]:
    """Return one difference per row of the table, and a message per reason why runs have none."""
    reader = PredictionReader(root)
    differences: list[CorrelationDifference] = []
    unusable: dict[str, list[Path]] = {}  # folders by reason
    for row in group.rows_on(pair):
        matrices, names = [], None
        for run in row.seed_groups[pair].seed_runs:
            outputs = reader.read(run.folder, run.teacher_run)
            if isinstance(outputs, str):
                unusable.setdefault(outputs, []).append(run.folder)
            else:
                student, teacher = outputs
                matrices.append(teacher.correlation - student.correlation)
                names = student.class_names or teacher.class_names
        if matrices:
            classes = len(matrices[0])
            distances = [np.abs(m).sum() / max(classes * (classes - 1), 1) for m in matrices]
            mean = np.mean(matrices, axis=0)
            differences.append(CorrelationDifference(row, mean, float(np.mean(distances)), names))
    return differences, [
        f"no correlations for {folders[0]}{f' and {len(folders) - 1} more' if folders[1:] else ''}: {reason}"
        for reason, folders in unusable.items()
    ]


def draw_correlations(group: ResultGroup, pair: str, differences: Sequence[CorrelationDifference]) -> Figure:
    """Draw one panel per row of the table, all on one symmetric scale: it spans the entries, except for the largest
    0.5 % where there are many classes."""
    entries = np.abs(np.concatenate([d.matrix.ravel() for d in differences]))
    rows, columns = style.panel_grid(len(differences), 2 if len(differences) == 4 else 3)
    classes = len(differences[0].matrix)
    names = differences[0].class_names or [str(i) for i in range(classes)]
    named = classes <= NAMED_CLASSES
    limit = max(float(np.quantile(entries, 1 if named else 0.995)), 1e-6)
    long = named and max(map(len, names)) > 2
    width, height = 2.15 * columns + (1.3 if long else 0.9), 2.45 * rows + (1.5 if long else 0.9)
    layout = ConstrainedLayoutEngine(compress=True, h_pad=0.07)  # inches, so that titles clear the panels above them
    figure = Figure(figsize=(max(width, 4.2), height), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(differences) :]:
        ax.remove()
    for i, (ax, difference) in enumerate(zip(axes.flat, differences, strict=False)):
        image = ax.imshow(difference.matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(f"{style.wrap_label(difference.row.label)}\nmean |Δr| = {difference.distance:.3f}")
        ax.spines[["top", "right"]].set_visible(True)
        _label_classes(ax, names if named else None, rotation=90 if long else 0)
        ax.tick_params(length=2, labelbottom=i + columns >= len(differences), labelleft=i % columns == 0)
    bar = figure.colorbar(image, ax=list(axes.flat[: len(differences)]), shrink=0.8, aspect=28, pad=0.02,
                          extend="both" if entries.max() > limit else "neither")  # fmt: skip
    bar.set_label("Δr, teacher − student")
    bar.ax.tick_params(labelsize=8)
    if not named:
        figure.supxlabel("class", fontsize=9)
        figure.supylabel("class", fontsize=9)
    teacher, student = group.networks[pair]
    title = f"Class correlation of the logits, {teacher} → {student}\non {group.heading}"
    figure.suptitle(title, fontsize=10)
    return figure


def _label_classes(ax: Axes, names: Sequence[str] | None, rotation: int) -> None:
    """Name the classes on both axes; number some of them without names."""
    if names:
        ax.set_xticks(range(len(names)), names, rotation=rotation, fontsize=7)
        ax.set_yticks(range(len(names)), names, fontsize=7)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
