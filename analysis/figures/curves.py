"""Learning curves of one pair, and its accuracy against training time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.groups import MethodRow, ResultGroup
from analysis.load import load_metrics


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

    @property
    def epochs(self) -> np.ndarray:
        """Epochs of the curve, ascending."""
        return self.mean.index.to_numpy()

    @property
    def label(self) -> str:
        """The row with its accuracy at the last epoch."""
        spread = "" if self.n == 1 else f" ± {self.std.iloc[-1]:.2f}"
        return f"{self.row.label}  {self.mean.iloc[-1]:.2f}{spread}"


def write(group: ResultGroup, reports: Path, colors: Mapping[str, str]) -> tuple[list[Path], list[str]]:
    """Write the figures of all pairs to `<reports>/plots`; returns their paths, and the runs without a curve.

    colors: see `style.method_colors`.
    """
    paths, problems = [], []
    with matplotlib.rc_context(style.STYLE):
        for pair in group.pairs:
            curves, missing = learning_curves(group, pair)
            timed = [c for c in curves if c.seconds is not None]
            for name, draw, drawable in (("curves", draw_curves, curves), ("time", draw_times, timed)):
                if drawable:
                    figure = draw(group, pair, drawable, colors)
                    paths += style.save(figure, reports / style.FOLDER, style.stem(group, name, pair))
            problems += missing
    return paths, problems


def learning_curves(group: ResultGroup, pair: str) -> tuple[list[Curve], list[str]]:
    """Return the curves of a pair's rows, and a message for each run that has none."""
    curves, problems = [], []
    for row in group.rows_on(pair):
        metrics = {folder: load_metrics(folder) for folder in row.seed_groups[pair].runs.folder}
        top1 = {folder: frame.top1.dropna() for folder, frame in metrics.items()}
        problems += [f"no curve for {f}: its metrics.jsonl has no accuracies" for f, t in top1.items() if t.empty]
        frame = pd.concat(top1.values(), axis=1).dropna()  # epochs that every seed has
        if not frame.empty:
            seconds = pd.concat([m.seconds for m in metrics.values()], axis=1)
            seconds = seconds.loc[frame.index].mean(axis=1, skipna=False)
            seconds = seconds if seconds.notna().all() else None
            curves.append(Curve(row, frame.mean(axis=1), frame.std(axis=1, ddof=1), frame.shape[1], seconds))
    return curves, problems


def draw_curves(group: ResultGroup, pair: str, curves: Sequence[Curve], colors: Mapping[str, str]) -> Figure:
    """Draw all epochs on the left, the last quarter on the right, where methods differ by little; bands are ± one
    standard deviation."""
    last = max(int(c.epochs[-1]) for c in curves)
    zoom_from = last - max(1, last // 4) if last >= 8 else None
    figure = Figure(figsize=(7.2, 3.1) if zoom_from else (5.2, 3.1), layout="constrained")
    axes = figure.subplots(1, 2 if zoom_from else 1, squeeze=False, width_ratios=[1.25, 1] if zoom_from else None)[0]
    for ax in axes:
        teachers = style.add_teachers(ax, group, pair)
        for curve in curves:
            _add_curve(ax, curve, colors)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        style.add_grid(ax)
    axes[0].set_ylabel(_accuracy_axis(group))
    first = min(int(c.epochs[0]) for c in curves)
    axes[0].set_xlim(first - max(0.02 * last, 0.2), last + max(0.01 * last, 0.2))
    if zoom_from:
        _zoom(axes[1], curves, teachers, zoom_from, last)
    figure.suptitle(style.pair_title(group, pair), fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    columns = style.legend_columns(labels, 4 if zoom_from else 3)
    style.fit_legend(figure, len(labels), columns)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.4)
    return figure


def _add_curve(ax: Axes, curve: Curve, colors: Mapping[str, str]) -> None:
    line = style.line_style(curve.row, colors)
    ax.plot(curve.epochs, curve.mean, **line, linewidth=1.5, label=curve.label, zorder=3,
            marker="o" if len(curve.epochs) == 1 else None, markersize=4)  # fmt: skip
    if curve.n > 1:
        low, high = curve.mean - curve.std, curve.mean + curve.std
        ax.fill_between(curve.epochs, low, high, color=line["color"], alpha=0.18, linewidth=0, zorder=2)


def _accuracy_axis(group: ResultGroup) -> str:
    return "validation top-1 [%]" if group.is_sealed else "test top-1 [%]"


def _zoom(ax: Axes, curves: Sequence[Curve], teachers: Sequence[float], first: int, last: int) -> None:
    """Show the last epochs only, with all methods in sight, and the teacher where that costs little room."""
    late_curves = [c for c in curves if c.epochs[-1] >= first]
    bands = [band.loc[first:] for c in late_curves for band in (c.mean - c.std.fillna(0), c.mean + c.std.fillna(0))]
    low, high = min(b.min() for b in bands), max(b.max() for b in bands)
    height = max(high - low, 0.5)
    near = [t for t in teachers if low - height / 2 <= t <= high + height / 2]
    low, high = min([low, *near]), max([high, *near])
    ax.set_xlim(first, last * 1.003)
    ax.set_ylim(low - 0.06 * height, high + 0.06 * height)
    ax.set_title(f"from epoch {first}")


def draw_times(group: ResultGroup, pair: str, curves: Sequence[Curve], colors: Mapping[str, str]) -> Figure:
    """Draw test top-1 against training time: thin lines through the epochs, the last epoch as a dot ± one standard
    deviation. All curves need `seconds`."""
    times = {c.row.key: c.seconds for c in curves if c.seconds is not None}
    longest = max(float(t.to_numpy()[-1]) for t in times.values())
    unit, size = next((u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if longest >= 2 * s or s == 1)
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    ax = figure.subplots()
    style.add_teachers(ax, group, pair)
    for curve in curves:
        time, line = times[curve.row.key] / size, style.line_style(curve.row, colors)
        ax.plot(time, curve.mean, **line, linewidth=0.9, alpha=0.7, zorder=2)
        ax.errorbar(time.iloc[-1], curve.mean.iloc[-1], yerr=None if curve.n == 1 else curve.std.iloc[-1],
                    color=line["color"], marker="o", markersize=5, capsize=2.5, linewidth=1.2, linestyle="none",
                    label=f"{curve.label}, {time.iloc[-1]:.3g} {unit}", zorder=3)  # fmt: skip
    ax.set_xlabel(f"training time [{unit}]")
    ax.set_ylabel(_accuracy_axis(group))
    ax.set_xlim(left=0)
    style.add_grid(ax)
    ax.set_title(style.pair_title(group, pair), fontsize=10)
    style.fit_legend(figure, len(ax.get_legend_handles_labels()[1]), 2)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
