"""Learning curves of one pair, and its accuracy against the time of a run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import files, labels, line_ends, palette, style
from analysis.figures.files import FigureWriter
from analysis.figures.line_ends import LineEnd
from analysis.figures.palette import RowStyle
from analysis.figures.style import Appearance, Page
from analysis.groups import MethodRow, ResultGroup, RowKey
from analysis.load import load_metrics

PANEL_HEIGHT = 2.5  # inches; more where more names stand at the line ends
NARROW_HEIGHT = 1.6  # inches of a panel in a narrow figure
HEADING = labels.height_of("", labels.NORMAL) + 0.05  # inches above a panel with a title
LEFT, GAP, BOTTOM = 0.5, 0.45, 0.42  # inches: left of the axes, between them, below them
TIME = "time per run"  # as in the cost table: training with evaluation, without the teacher's training


@dataclass(frozen=True)
class Curve:
    """Test top-1 in per cent against the epoch: mean and sample standard deviation over n seeds (NaN for one seed).

    seconds: mean time of the run up to the end of each epoch, at the last one the cost table's time per run; None where
    a run has none.
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
    def accuracy(self) -> str:
        """Accuracy at the last epoch."""
        spread = "" if self.n == 1 else f" ± {self.std.iloc[-1]:.2f}"
        return f"{self.mean.iloc[-1]:.2f}{spread}"


def write(group: ResultGroup, writer: FigureWriter, appearance: Appearance) -> None:
    """Write the figures of all pairs."""
    for pair in group.pairs:
        curves, missing = learning_curves(group, pair)
        writer.problems += missing
        for name, draw in drawings(group, pair, curves, appearance).items():
            writer.write(files.stem(group, name, pair), draw)


def drawings(
    group: ResultGroup, pair: str, curves: Sequence[Curve], appearance: Appearance
) -> dict[str, Callable[[], Figure]]:
    """Return what draws the figures of a pair by their names, `curves` and `time`, as far as there is data."""
    timed = [curve for curve in curves if curve.seconds is not None]
    drawn: dict[str, Callable[[], Figure]] = {}
    if curves:
        drawn["curves"] = lambda: draw_curves(group, pair, curves, appearance)
    if timed:
        drawn["time"] = lambda: draw_times(group, pair, timed, appearance)
    return drawn


def learning_curves(group: ResultGroup, pair: str) -> tuple[list[Curve], list[str]]:
    """Return the curves of a pair's rows, and a message on runs that have none."""
    curves, without = [], []
    for row in group.rows_on(pair):
        runs = row.seed_groups[pair].runs
        metrics = {folder: load_metrics(folder) for folder in runs.folder}
        top1 = {folder: frame.top1.dropna() for folder, frame in metrics.items()}
        without += [folder for folder, accuracies in top1.items() if accuracies.empty]
        frame = pd.concat(top1.values(), axis=1).dropna()  # epochs that every seed has
        if not frame.empty:
            times = [_times(m.seconds, wall_s) for m, wall_s in zip(metrics.values(), runs.wall_s, strict=True)]
            seconds = pd.concat(times, axis=1).loc[frame.index].mean(axis=1, skipna=False)
            seconds = seconds if seconds.notna().all() else None
            curves.append(Curve(row, frame.mean(axis=1), frame.std(axis=1, ddof=1), frame.shape[1], seconds))
    if not without:
        return curves, []
    more = f" and {len(without) - 1} more" if without[1:] else ""
    return curves, [f"no curve for {without[0]}{more}: its metrics.jsonl has no test accuracies"]


def _times(seconds: pd.Series, wall_s: float) -> pd.Series:
    """The time of a run up to the end of each epoch: the whole, divided among the epochs by their steps' seconds."""
    return seconds * (wall_s / seconds.iloc[-1]) if len(seconds) and seconds.iloc[-1] > 0 else seconds * np.nan


def draw_curves(group: ResultGroup, pair: str, curves: Sequence[Curve], appearance: Appearance) -> Figure:
    """Draw all epochs on the left, the last quarter on the right, where methods differ by little; bands are ± one
    standard deviation. Rows that stand out are named at the ends of their lines."""
    last = max(int(c.epochs[-1]) for c in curves)
    zoom_from = last - max(1, last // 4) if last >= 8 else None
    styles = appearance.on_pair(group, pair)
    teachers = _teachers(group, pair)
    ends = _teacher_ends(teachers, last) + _ends(curves, styles)
    others = len(curves) + len(teachers) - len(ends)
    title = f"{group.top1.capitalize()}: {style.pair_title(group, pair)}"
    page, panels = _panels(ends, others, appearance, title, 2 if zoom_from else 1)
    for ax in panels:
        for top1 in teachers.values():
            ax.axhline(top1, color=palette.TEACHER_COLOR, **style.REFERENCE_LINE)
        for curve in _drawn_last(curves, styles):
            _add_curve(ax, curve, styles[curve.row.key])
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"{group.top1} [%]" if ax is panels[0] or appearance.narrow else "")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        style.add_grid(ax)
    first = min(int(c.epochs[0]) for c in curves)
    panels[0].set_xlim(first - max(0.02 * last, 0.2), last + max(0.01 * last, 0.2))
    if zoom_from:
        _zoom(panels[-1], _in_sight(curves, styles), list(teachers.values()), zoom_from, last)
    _add_names(page, panels[-1], ends, others, curves)
    return page.figure


def draw_times(group: ResultGroup, pair: str, curves: Sequence[Curve], appearance: Appearance) -> Figure:
    """Draw test top-1 against the time of a run: thin lines through the epochs, the last epoch as a mark ± one standard
    deviation. All curves need `seconds`."""
    times = {c.row.key: c.seconds for c in curves if c.seconds is not None}
    longest = max(float(t.iloc[-1]) for t in times.values())
    unit, size = next((u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if longest >= 2 * s or s == 1)
    styles, teachers = appearance.on_pair(group, pair), _teachers(group, pair)
    ends = _teacher_ends(teachers, longest / size)
    for curve in curves:
        if styles[curve.row.key].highlighted:
            time, top1 = float(times[curve.row.key].iloc[-1]) / size, float(curve.mean.iloc[-1])
            value = f"{top1:.2f}, {time:.3g} {unit}"
            row = styles[curve.row.key]
            ends.append(LineEnd(curve.row.label, value, time, top1, row.color, row.dashes, row.mark))
    others = len(curves) + len(teachers) - len(ends)
    title = f"{group.top1.capitalize()} against {TIME}: {style.pair_title(group, pair)}"
    page, (ax,) = _panels(ends, others, appearance, title, 1)
    for top1 in teachers.values():
        ax.axhline(top1, color=palette.TEACHER_COLOR, **style.REFERENCE_LINE)
    for curve in _drawn_last(curves, styles):
        time, row = times[curve.row.key] / size, styles[curve.row.key]
        level = 3 if row.highlighted else 2
        ax.plot(time, curve.mean, **row.line, linewidth=0.8, alpha=0.6, zorder=level)
        ax.plot(time.iloc[-1], curve.mean.iloc[-1], **row.mark, markersize=4.5, linestyle="none", zorder=level)
        if curve.n > 1:  # above the mark, which would hide a small deviation
            ax.errorbar(time.iloc[-1], curve.mean.iloc[-1], yerr=curve.std.iloc[-1], ecolor=row.bar,
                        fmt="none", capsize=2, elinewidth=1.0, zorder=level + 0.5)  # fmt: skip
    ax.set_xlabel(f"{TIME} [{unit}]")
    ax.set_ylabel(f"{group.top1} [%]")
    ax.set_xlim(0, 1.02 * longest / size)
    ax.set_ylim(_late_limits(_in_sight(curves, styles), list(teachers.values())))
    style.add_grid(ax)
    _add_names(page, ax, ends, others, curves)
    return page.figure


def _late_limits(curves: Sequence[Curve], teachers: Sequence[float]) -> tuple[float, float]:
    """Limits that show the last epochs of these curves, and of the earlier ones at most as much again and a half."""
    accuracies = [*(float(c.mean.iloc[-1]) for c in curves), *teachers]
    low, high = min(accuracies), max(accuracies)
    span = max(high - low, 1.0)
    lowest = min(float(c.mean.min()) for c in curves)
    return max(low - 1.5 * span, lowest - 0.1 * span), high + 0.1 * span


def _teachers(group: ResultGroup, pair: str) -> dict[str, float]:
    """The accuracies of a pair's teachers by their labels."""
    return {t.label: t.top1[pair] for t in group.teachers if pair in t.top1}


def _teacher_ends(teachers: Mapping[str, float], x: float) -> list[LineEnd]:
    """The ends of the lines of a pair's teachers."""
    dashes = style.REFERENCE_LINE["linestyle"]
    return [LineEnd(name, top1, x, top1, palette.TEACHER_COLOR, dashes) for name, top1 in teachers.items()]


def _ends(curves: Sequence[Curve], styles: Mapping[RowKey, RowStyle]) -> list[LineEnd]:
    """The ends of the lines of the rows that stand out."""
    return [
        LineEnd(c.row.label, c.accuracy, float(c.epochs[-1]), float(c.mean.iloc[-1]), row.color, row.dashes)
        for c in curves
        if (row := styles[c.row.key]).highlighted
    ]


def _in_sight(curves: Sequence[Curve], styles: Mapping[RowKey, RowStyle]) -> list[Curve]:
    """The curves that end no lower than the lowest that stands out: a failed run must not flatten the others."""
    ends = {c.row.key: float(c.mean.iloc[-1]) for c in curves}
    lowest = min((end for key, end in ends.items() if styles[key].highlighted), default=-math.inf)
    return [c for c in curves if ends[c.row.key] >= lowest]


def _drawn_last(curves: Sequence[Curve], styles: Mapping[RowKey, RowStyle]) -> list[Curve]:
    """The curves with those that stand out at the end."""
    return sorted(curves, key=lambda curve: styles[curve.row.key].highlighted)


def _panels(
    ends: Sequence[LineEnd], others: int, appearance: Appearance, title: str, count: int
) -> tuple[Page, list[Axes]]:
    """A page with one or two panels: side by side with the names of line ends on their right, in a narrow figure one
    above the other with the names below."""
    if appearance.narrow:
        height = NARROW_HEIGHT + BOTTOM + HEADING
        below = line_ends.height_below(ends, others, appearance)
        page = style.new_page(appearance, count * height + 0.05 - HEADING + below, title)
        width = appearance.width - LEFT - 2 * style.EDGE
        return page, [page.axes(LEFT, i * height + 0.05, width, NARROW_HEIGHT) for i in range(count)]
    names = line_ends.width(ends)
    height = max(PANEL_HEIGHT, line_ends.height(ends))
    heading = HEADING if count > 1 else 0.05
    page = style.new_page(appearance, heading + height + BOTTOM, title)
    width = appearance.width - LEFT - names - style.EDGE - (GAP if count > 1 else 0)
    lefts = [LEFT, LEFT + width / 2 + GAP][:count]
    return page, [page.axes(left, heading, width / count, height) for left in lefts]


def _add_names(page: Page, ax: Axes, ends: Sequence[LineEnd], others: int, curves: Sequence[Curve]) -> None:
    """Name the lines, on the right of the last panel or below all, and say how many end below that panel."""
    below = sum(float(curve.mean.iloc[-1]) < ax.get_ylim()[0] for curve in curves)
    if page.figure.get_figwidth() < style.TEXT_WIDTH:
        line_ends.add_below(page, ends, others, below=below)
    else:
        line_ends.add(page, ax, ends, others, below)


def _add_curve(ax: Axes, curve: Curve, row: RowStyle) -> None:
    level = 3 if row.highlighted else 2
    ax.plot(curve.epochs, curve.mean, **row.line, linewidth=1.4 if row.highlighted else 0.8, zorder=level,
            marker=row.marker if len(curve.epochs) == 1 else None, markersize=4)  # fmt: skip
    if curve.n > 1 and row.highlighted:
        low, high = curve.mean - curve.std, curve.mean + curve.std
        ax.fill_between(curve.epochs, low, high, color=row.color, alpha=0.13, linewidth=0, zorder=level - 0.5)


def _zoom(ax: Axes, curves: Sequence[Curve], teachers: Sequence[float], first: int, last: int) -> None:
    """Show the last epochs only, with these curves in sight, and the teacher where that costs little room."""
    late_curves = [c for c in curves if c.epochs[-1] >= first] or curves
    bands = [band.loc[first:] for c in late_curves for band in (c.mean - c.std.fillna(0), c.mean + c.std.fillna(0))]
    low, high = min(b.min() for b in bands), max(b.max() for b in bands)
    height = max(high - low, 0.5)
    near = [t for t in teachers if low - height / 2 <= t <= high + height / 2]
    low, high = min([low, *near]), max([high, *near])
    ax.set_xlim(first, last + (last - first) * 0.01)
    ax.set_ylim(low - 0.06 * height, high + 0.06 * height)
    ax.set_title(f"from epoch {first}")
