"""Figures of one pair: learning curves, accuracy against training time, and heat maps of class correlations, teacher
minus student.

Made with Figure objects on Agg, without pyplot's global state; PNG and PDF are the same bytes from the same runs.
"""

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import load as runs
from analysis import published
from analysis.groups import MethodRow, ResultGroup, SeedGroup
from analysis.tables.accuracy import file_name
from benchmark.runs.folder import atomic

# Okabe and Ito's colours, which colour-blind readers tell apart; black is the teacher's and grey the student's.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
STUDENT_COLOUR, TEACHER_COLOUR = "#767676", "#000000"
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))  # of a method's variants
NAMED_CLASSES = 20  # up to so many classes the heat maps name them
STYLE: dict[str, Any] = {
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


def colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour for each method. Given all methods found in the runs, it is the same in every figure."""
    others = sorted(set(methods) - {published.STUDENT})
    return {m: PALETTE[i % len(PALETTE)] for i, m in enumerate(others)} | {published.STUDENT: STUDENT_COLOUR}


def write(group: ResultGroup, root: Path, reports: Path, palette: Mapping[str, str]) -> tuple[list[Path], list[str]]:
    """Write all figures of a group to `<reports>/plots`; returns their paths, and what could not be drawn and why.

    root: the folder of all runs. palette: see `colours`.
    """
    written, problems = [], []
    with matplotlib.rc_context(STYLE):
        for pair in group.pairs:
            stem = file_name(group.dataset, group.profile, pair)
            lines, missing = curves(group, pair)
            if lines:
                written += save(draw_curves(group, pair, lines, palette), reports / "plots", f"{stem}-curves")
            timed = [line for line in lines if line.seconds is not None]
            if timed:
                written += save(draw_times(group, pair, timed, palette), reports / "plots", f"{stem}-time")
            differences, missing_outputs = correlation_differences(group, pair, root)
            if differences:
                figure = draw_correlations(group, pair, differences)
                written += save(figure, reports / "plots", f"{stem}-correlation")
            problems += missing + missing_outputs
    return written, problems


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    FigureCanvasAgg(figure)
    paths = []
    for kind, metadata in {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}.items():
        made = io.BytesIO()
        figure.savefig(made, format=kind, metadata=metadata, bbox_inches="tight", pad_inches=0.05)
        paths.append(folder / f"{stem}.{kind}")
        with atomic(paths[-1]) as f:
            f.write(made.getvalue())
    return paths


# ---------------------------------------------------------------- learning curves


@dataclass(frozen=True)
class Curve:
    """Test top-1 in per cent against the epoch: mean and sample standard deviation over n seeds (NaN for one seed).

    seconds: mean training time up to the end of each epoch; None where a run has none.
    """

    row: MethodRow
    mean: pd.Series
    std: pd.Series
    n: int
    seconds: pd.Series | None


def curves(group: ResultGroup, pair: str) -> tuple[list[Curve], list[str]]:
    """The curves of a pair, and the runs that have none."""
    found, problems = [], []
    for row in group.rows:
        if pair not in row.seed_groups:
            continue
        seeds, spent = [], []
        for folder in row.seed_groups[pair].runs.folder:
            metrics = runs.metrics(folder)
            top1 = metrics.test_top1.dropna()
            seeds.append(top1)
            spent.append(metrics.seconds)
            if top1.empty:
                problems.append(f"no curve for {folder}: its metrics.jsonl has no test accuracies")
        frame = pd.concat(seeds, axis=1).dropna()  # epochs that every seed has
        if not frame.empty:
            seconds = pd.concat(spent, axis=1).loc[frame.index].mean(axis=1, skipna=False)
            timed = seconds if seconds.notna().all() else None
            found.append(Curve(row, frame.mean(axis=1), frame.std(axis=1, ddof=1), frame.shape[1], timed))
    return found, problems


def draw_curves(group: ResultGroup, pair: str, lines: Sequence[Curve], palette: Mapping[str, str]) -> Figure:
    """All epochs on the left, the last quarter on the right, where methods differ by little; bands are ± one std."""
    last = max(int(line.mean.index.max()) for line in lines)
    from_epoch = last - max(1, last // 4) if last >= 8 else None
    figure = Figure(figsize=(7.2, 3.1) if from_epoch else (5.2, 3.1), layout="constrained")
    axes = figure.subplots(1, 2 if from_epoch else 1, squeeze=False, width_ratios=[1.25, 1] if from_epoch else None)[0]
    teachers = _teacher_lines(group, pair)
    for ax in axes:
        for label, top1 in teachers:
            ax.axhline(top1, color=TEACHER_COLOUR, linestyle=(0, (4, 2)), linewidth=1.1, label=label, zorder=1)
        for line in lines:
            colour, dash = palette[line.row.method], DASHES[line.row.variant % len(DASHES)]
            epochs = line.mean.index.to_numpy()
            ax.plot(epochs, line.mean, color=colour, linestyle=dash, linewidth=1.5, label=_label(line), zorder=3,
                    marker="o" if len(epochs) == 1 else None, markersize=4)  # fmt: skip
            if line.n > 1:
                low, high = line.mean - line.std, line.mean + line.std
                ax.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        ax.grid(True, color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
    axes[0].set_ylabel("test top-1 [%]")
    first = min(int(line.mean.index.min()) for line in lines)
    axes[0].set_xlim(first - max(0.02 * last, 0.2), last + max(0.01 * last, 0.2))
    if from_epoch:
        _zoom(axes[1], lines, [v for _, v in teachers], from_epoch, last)
    teacher, student = group.networks[pair]
    figure.suptitle(f"{teacher} → {student} on {group.dataset}, profile {group.profile}", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(len(labels), 2 if max(map(len, labels)) > 25 else 4 if from_epoch else 3)
    _make_room(figure, len(labels), columns)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.4)
    return figure


def _make_room(figure: Figure, labels: int, columns: int) -> None:
    """Make a figure taller by the rows of its legend beyond four, which would leave the axes no room."""
    figure.set_figheight(figure.get_figheight() + 0.18 * max(0, math.ceil(labels / columns) - 4))


def draw_times(group: ResultGroup, pair: str, lines: Sequence[Curve], palette: Mapping[str, str]) -> Figure:
    """Test top-1 against the time of training: thin lines through the epochs, the last epoch as a dot ± one std."""
    longest = max(line.seconds.iloc[-1] for line in lines)
    unit, size = next((u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if longest >= 2 * s or s == 1)
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    ax = figure.subplots()
    for label, top1 in _teacher_lines(group, pair):
        ax.axhline(top1, color=TEACHER_COLOUR, linestyle=(0, (4, 2)), linewidth=1.1, label=label, zorder=1)
    for line in lines:
        colour, dash = palette[line.row.method], DASHES[line.row.variant % len(DASHES)]
        ax.plot(line.seconds / size, line.mean, color=colour, linestyle=dash, linewidth=0.9, alpha=0.7, zorder=2)
        end = line.seconds.iloc[-1] / size, line.mean.iloc[-1]
        spread = None if line.n == 1 else line.std.iloc[-1]
        ax.errorbar(*end, yerr=spread, color=colour, marker="o", markersize=5, capsize=2.5, linewidth=1.2,
                    label=f"{_label(line)}, {end[0]:.3g} {unit}", linestyle="none", zorder=3)  # fmt: skip
    ax.set_xlabel(f"training time [{unit}]")
    ax.set_ylabel("test top-1 [%]")
    ax.set_xlim(left=0)
    ax.grid(True, color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    teacher, student = group.networks[pair]
    ax.set_title(f"{teacher} → {student} on {group.dataset}, profile {group.profile}", fontsize=10)
    _make_room(figure, len(ax.get_legend_handles_labels()[1]), 2)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _zoom(ax: Any, lines: Sequence[Curve], teachers: Sequence[float], first: int, last: int) -> None:
    """Show the last epochs only, with all methods in sight, and the teacher where that costs little room."""
    shown = [line for line in lines if line.mean.index.max() >= first]
    spread = [s.loc[first:] for line in shown for s in (line.mean - line.std.fillna(0), line.mean + line.std.fillna(0))]
    low, high = min(s.min() for s in spread), max(s.max() for s in spread)
    room = max(high - low, 0.5)
    near = [t for t in teachers if low - room / 2 <= t <= high + room / 2]
    low, high = min([low, *near]), max([high, *near])
    ax.set_xlim(first, last * 1.003)
    ax.set_ylim(low - 0.06 * room, high + 0.06 * room)
    ax.set_title(f"from epoch {first}")


def _label(line: Curve) -> str:
    spread = "" if line.n == 1 else f" ± {line.std.iloc[-1]:.2f}"
    return f"{line.row.label}  {line.mean.iloc[-1]:.2f}{spread}"


def _teacher_lines(group: ResultGroup, pair: str) -> list[tuple[str, float]]:
    return [(f"{t.label}  {t.top1[pair]:.2f}", t.top1[pair]) for t in group.teachers if pair in t.top1]


# ---------------------------------------------------------------- class correlations


@dataclass(frozen=True)
class Difference:
    """Class correlations of teacher minus student for one row of a table.

    matrix: [C, C], averaged over seeds.
    distance: mean |difference| of one run over the C (C - 1) pairs of unlike classes, averaged over seeds, so that it
        does not depend on how many there are.
    """

    row: MethodRow
    matrix: np.ndarray
    distance: float
    class_names: list[str] | None


def class_correlation(logits: np.ndarray) -> np.ndarray:
    """Pearson correlation [C, C] of the columns of `logits` [N, C] over the samples; 0 with a constant column."""
    centred = logits.astype(np.float64) - logits.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 1e-12)
    return unit.T @ unit


def correlation_differences(group: ResultGroup, pair: str, root: Path) -> tuple[list[Difference], list[str]]:
    """One difference a row of the table, and what is missing for others."""
    teachers: dict[str, runs.Outputs | None] = {}
    found, problems = [], []
    for row in group.rows:
        if pair not in row.seed_groups:
            continue
        matrices, names = [], None
        for student, why in _run_differences(row.seed_groups[pair], root, teachers):
            if why:
                problems.append(why)
            else:
                matrices.append(student[0])
                names = student[1]
        if matrices:
            classes = len(matrices[0])
            distances = [np.abs(m).sum() / max(classes * (classes - 1), 1) for m in matrices]
            found.append(Difference(row, np.mean(matrices, axis=0), float(np.mean(distances)), names))
    return found, list(dict.fromkeys(problems))


def _run_differences(
    cell: SeedGroup, root: Path, teachers: dict[str, runs.Outputs | None]
) -> Iterator[tuple[tuple[np.ndarray, list[str] | None], str]]:
    """For each run its matrix and class names, or an empty one and the reason. `teachers` keeps what was read."""
    nothing = (np.empty((0, 0)), None)
    for run in cell.runs.itertuples():
        folder = run.teacher_run
        if not isinstance(folder, str):
            yield nothing, f"no correlations for {run.folder}: its result.json has no teacher_run"
            continue
        if folder not in teachers:
            teachers[folder] = runs.outputs(root / folder)
        teacher, student = teachers[folder], runs.outputs(run.folder)
        if teacher is None:
            yield nothing, f"no correlations with the teacher in {root / folder}: no usable test_outputs.npz there"
        elif student is None:
            yield nothing, f"no correlations for {run.folder}: no usable test_outputs.npz there"
        elif teacher.logits.shape != student.logits.shape or not np.array_equal(teacher.labels, student.labels):
            yield nothing, f"no correlations for {run.folder}: its test set is not its teacher's"
        else:
            matrix = class_correlation(teacher.logits) - class_correlation(student.logits)
            yield (matrix, student.class_names or teacher.class_names), ""


def draw_correlations(group: ResultGroup, pair: str, differences: Sequence[Difference]) -> Figure:
    """One panel a row of the table, all on one symmetric scale: it spans the entries, but for the largest 0.5 % where
    there are many classes."""
    entries = np.abs(np.concatenate([d.matrix.ravel() for d in differences]))
    columns = 2 if len(differences) == 4 else min(len(differences), 3)
    rows = math.ceil(len(differences) / columns)
    classes = len(differences[0].matrix)
    names = differences[0].class_names or [str(i) for i in range(classes)]
    named = classes <= NAMED_CLASSES
    limit = max(float(np.quantile(entries, 1 if named else 0.995)), 1e-6)
    long = named and max(map(len, names)) > 2
    width, height = 2.15 * columns + (1.3 if long else 0.9), 2.45 * rows + (1.5 if long else 0.9)
    figure = Figure(figsize=(max(width, 4.2), height), layout="compressed")
    figure.get_layout_engine().set(h_pad=0.07)  # inches, so that titles keep clear of the panels above
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image = None
    for i, ax in enumerate(axes.flat):
        if i >= len(differences):
            ax.remove()
            continue
        image = ax.imshow(differences[i].matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(f"{wrapped(differences[i].row.label)}\nmean |Δr| = {differences[i].distance:.3f}")
        ax.spines[["top", "right"]].set_visible(True)
        if named:
            ax.set_xticks(range(classes), names, rotation=90 if long else 0, fontsize=7)
            ax.set_yticks(range(classes), names, fontsize=7)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
            ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        ax.tick_params(length=2, labelbottom=i + columns >= len(differences), labelleft=i % columns == 0)
    bar = figure.colorbar(image, ax=list(axes.flat[: len(differences)]), shrink=0.8, aspect=28, pad=0.02,
                          extend="both" if entries.max() > limit else "neither")  # fmt: skip
    bar.set_label("Δr, teacher − student")
    bar.ax.tick_params(labelsize=8)
    if not named:
        figure.supxlabel("class", fontsize=9)
        figure.supylabel("class", fontsize=9)
    teacher, student = group.networks[pair]
    figure.suptitle(
        f"Class correlation of the logits, {teacher} → {student}\non {group.dataset}, profile {group.profile}",
        fontsize=10,
    )
    return figure


def wrapped(label: str, width: int = 30) -> str:
    """A long label broken before its parenthesis."""
    return label.replace(" (", "\n(", 1) if len(label) > width else label
