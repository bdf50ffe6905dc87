"""Figures of the tests over several pairs: critical differences, wins, ties and losses, performance profile."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from analysis import statistics
from analysis.figures import style
from analysis.groups import ResultGroup
from analysis.statistics import Ranking

MAX_ROWS = 25  # more are not legible in a figure


def write(group: ResultGroup, reports: Path, colors: Mapping[str, str]) -> tuple[list[Path], list[str]]:
    """Write the figures of a group to `<reports>/plots`; returns their paths, and why figures are missing.

    There are neither figures nor messages for fewer than two pairs. colors: see `style.method_colors`.
    """
    if len(group.pairs) < 2:
        return [], []
    ranking = statistics.rank(group)
    if ranking is None:
        return [], [f"no ranks for {group.stem}: there are no two rows, trained alike, with runs on every pair"]
    figures, problems = draw(group, ranking, colors)
    paths = []
    with matplotlib.rc_context(style.STYLE):
        for kind, figure in figures.items():
            paths += style.save(figure, reports / style.FOLDER, style.stem(group, kind))
    return paths, problems


def draw(group: ResultGroup, ranking: Ranking, colors: Mapping[str, str]) -> tuple[dict[str, Figure], list[str]]:
    """Return the figures of a group by name (`profile`, `ranks`, `wins`), and why figures are missing."""
    if len(ranking.rows) > MAX_ROWS:
        return {}, [
            f"no ranks for {group.stem}: {len(ranking.rows)} rows are too many to draw; choose some with method=…"
        ]
    with matplotlib.rc_context(style.STYLE):
        figures = {"profile": draw_profile(group, ranking, colors)}
        if len(ranking.rows) > 2:
            figures["ranks"] = draw_critical_difference(group, ranking, colors)
        if not (ranking.wins + ranking.ties).any():
            return figures, [
                f"no wins and losses for {group.stem}: no two rows have three common seeds whose differences vary"
            ]
        figures["wins"] = draw_outcomes(group, ranking)
    return figures, []


def _title(group: ResultGroup, ranking: Ranking) -> str:
    return f"{group.heading}, {len(ranking.pairs)} pairs"


def rank_bars(average: Sequence[float], critical_difference: float) -> list[tuple[float, float]]:
    """Return the bars of a critical-difference diagram as their lowest and highest rank, the best first: the largest
    sets of rows whose average ranks lie within the critical difference. Sets of one row have no bar."""
    ranks = sorted(average)
    bars: list[tuple[int, int]] = []
    for i, low in enumerate(ranks):
        j = max(k for k, high in enumerate(ranks) if high - low <= critical_difference + 1e-9)
        if j > i and (not bars or j > bars[-1][1]):
            bars.append((i, j))
    return [(ranks[i], ranks[j]) for i, j in bars]


def draw_critical_difference(group: ResultGroup, ranking: Ranking, colors: Mapping[str, str]) -> Figure:
    """Draw average ranks on a line, the best on the left; a bar joins rows that Nemenyi's test does not distinguish
    (the diagram of Demšar 2006)."""
    k = len(ranking.rows)
    bars = rank_bars(ranking.average.tolist(), ranking.critical_difference)
    first = 1.0 + 0.35 * len(bars)  # depth of the first label below the axis
    bottom = first + 0.75 * ((k + 1) // 2 - 1) + 0.6
    longest = max(len(r.label) for r in ranking.rows)
    figure = Figure(figsize=(max(7.2, 4.6 + 0.13 * longest), 0.9 + 0.3 * (bottom + 2.2)), layout="constrained")
    ax = figure.subplots()
    _add_ruler(ax, ranking.critical_difference, k)
    ax.plot([1, k], [0, 0], color="black", linewidth=0.8)
    for rank in range(1, k + 1):
        ax.plot([rank, rank], [-0.15, 0], color="black", linewidth=0.8)
        ax.text(rank, -0.25, str(rank), ha="center", va="bottom", fontsize=8)
    _add_rank_labels(ax, ranking, first, colors)
    for level, (low, high) in enumerate(bars):
        y, margin = 0.45 + 0.35 * level, 0.01 * (k - 1)
        ax.plot([low - margin, high + margin], [y, y], color="black", linewidth=3.5, solid_capstyle="butt", zorder=3)
    ax.set_xlim(1 - 0.05 * (k - 1), k + 0.05 * (k - 1))
    ax.set_ylim(bottom, -2.2)
    ax.axis("off")
    ax.set_title(f"Average rank, 1 the best: {_title(group, ranking)}", fontsize=10)
    return figure


def _add_ruler(ax: Axes, critical_difference: float, k: int) -> None:
    """Draw the critical difference as a ruler above the axis of ranks, cut where it is longer than the axis."""
    cut = critical_difference > k - 1
    length = min(critical_difference, k - 1)
    ax.plot([1, 1 + length], [-1.5, -1.5], color="black", linewidth=1.2)
    for x in (1,) if cut else (1, 1 + length):
        ax.plot([x, x], [-1.65, -1.35], color="black", linewidth=1.2)
    text = f"critical difference {critical_difference:.2f}{', more than all ranks span' if cut else ''}"
    ax.text(1 + length / 2, -1.65, text, ha="center", va="bottom", fontsize=8)


def _add_rank_labels(ax: Axes, ranking: Ranking, first: float, colors: Mapping[str, str]) -> None:
    """Draw a line from each average rank down to its label, the better half on the left. first: the first depth."""
    k, average = len(ranking.rows), ranking.average
    half, span = (k + 1) // 2, k - 1
    for place, i in enumerate(ranking.order):
        row, left = ranking.rows[i], place < half
        depth = first + 0.75 * (place if left else k - 1 - place)
        end = 1 - 0.04 * span if left else k + 0.04 * span
        ax.plot([average[i], average[i], end], [0, depth, depth], color=colors[row.method], linewidth=1.2, zorder=2)
        label = f"{row.label}  {average[i]:.2f}" if left else f"{average[i]:.2f}  {row.label}"
        ax.text(end + (-1 if left else 1) * 0.01 * span, depth, label, ha="right" if left else "left", va="center")


def draw_outcomes(group: ResultGroup, ranking: Ranking) -> Figure:
    """Draw wins/ties/losses of the row against the column, colored by wins minus losses; rows by average rank."""
    k, order = len(ranking.rows), ranking.order
    wins = ranking.wins[np.ix_(order, order)]
    ties = ranking.ties[np.ix_(order, order)]
    labels = [ranking.rows[i].label for i in order]
    balance = np.ma.masked_array(wins - wins.T, np.eye(k, dtype=bool))
    side = 0.62 * k + 0.055 * max(map(len, labels)) + 1.2
    figure = Figure(figsize=(max(side + 0.6, 4.2), max(side, 3.2)), layout="constrained")
    ax = figure.subplots()
    limit = len(ranking.pairs)
    # wider than the values, to leave out the darkest shades
    image = ax.imshow(balance, cmap="RdBu", vmin=-1.3 * limit, vmax=1.3 * limit)
    ax.set_xticks(np.arange(k - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(k - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    for i, j in np.ndindex(k, k):
        dark = i != j and abs(balance[i, j]) > 0.7 * limit
        text = "–" if i == j else f"{wins[i, j]}/{ties[i, j]}/{wins[j, i]}"
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    ax.set_xticks(range(k), labels, rotation=90 if max(map(len, labels)) > 7 else 0)
    ax.set_yticks(range(k), labels)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("against")
    bar = figure.colorbar(image, shrink=0.8, aspect=25)
    bar.set_label("wins − losses [pairs]")
    bar.ax.set_ylim(-limit, limit)
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.set_title(f"Wins/ties/losses by 95 % intervals\n{_title(group, ranking)}", fontsize=10)
    return figure


def draw_profile(group: ResultGroup, ranking: Ranking, colors: Mapping[str, str]) -> Figure:
    """Draw the performance profile: the share of pairs on which a row is at most τ points below the best, against τ.

    Lines are shifted a little, so that none covers another.
    """
    shortfall = ranking.shortfall
    last = max(float(shortfall.max()) * 1.05, 0.1)
    columns = style.legend_columns([r.label for r in ranking.rows])
    legend_rows, _ = style.panel_grid(len(ranking.rows), columns)
    figure = Figure(figsize=(5.2, 3.0 + 0.17 * legend_rows), layout="constrained")
    ax = figure.subplots()
    lines = len(ranking.rows)
    for place, i in enumerate(ranking.order):
        row = ranking.rows[i]
        steps = np.unique(np.concatenate([[0], shortfall[i]]))
        share = [float(ranking.share_within(tau)[i]) for tau in steps]
        shift = _shift(figure, place / max(lines - 1, 1) - 0.5, lines)
        ax.step([*steps, last], [*share, share[-1]], where="post", **style.line_style(row, colors), label=row.label,
                linewidth=1.5, zorder=3 - place / lines, transform=ax.transData + shift)  # fmt: skip
    ax.set_xlim(-0.02 * last, last)
    ax.set_ylim(-0.05, 1.05)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("τ: points of test top-1 below the best")
    ax.set_ylabel("share of pairs within τ")
    style.add_grid(ax)
    ax.set_title(f"Performance profile: {_title(group, ranking)}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=2.4)
    return figure


def _shift(figure: Figure, place: float, lines: int) -> ScaledTranslation:
    """Down and right, from the first line (place −0.5) to the last (0.5): a line width each, at most 8 points."""
    points = min(1.3 * (lines - 1), 8) * place
    return ScaledTranslation(points / 72, -points / 72, figure.dpi_scale_trans)
