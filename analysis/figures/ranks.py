"""Figures of the tests over several pairs: Nemenyi's critical differences, wins, ties and losses, performance profile.

Drawn in the style of `analysis.figures.curves`, with the same colours for the same methods.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from analysis import statistics
from analysis.figures.curves import DASHES, STYLE, save
from analysis.groups import ResultGroup
from analysis.statistics import Ranking
from analysis.tables.accuracy import file_name

MAX_ROWS = 25  # more cannot be told apart in a figure


def write(group: ResultGroup, reports: Path, palette: Mapping[str, str]) -> tuple[list[Path], list[str]]:
    """Write the figures of a group to `<reports>/plots`; returns their paths, and what could not be drawn and why.

    Nothing is drawn and nothing is said where there are no two pairs to rank over. palette: see `plots.colours`.
    """
    if len(group.pairs) < 2:
        return [], []
    name = file_name(group.dataset, group.profile)
    ranking = statistics.rank(group, statistics.compare(group))
    if ranking is None:
        return [], [f"no ranks for {name}: there are no two rows, trained alike, with runs on every pair"]
    if len(ranking.rows) > MAX_ROWS:
        return [], [f"no ranks for {name}: {len(ranking.rows)} rows are too many to draw; choose some with method=…"]
    folder = reports / "plots"
    problems = []
    with matplotlib.rc_context(STYLE):
        written = save(draw_profile(group, ranking, palette), folder, f"{name}-profile")
        if len(ranking.rows) > 2:
            written += save(draw_critical_difference(group, ranking, palette), folder, f"{name}-ranks")
        if (ranking.wins + ranking.ties).any():
            written += save(draw_outcomes(group, ranking), folder, f"{name}-wins")
        else:
            problems.append(
                f"no wins and losses for {name}: no two rows have three common seeds whose differences vary"
            )
    return written, problems


def _title(group: ResultGroup, ranking: Ranking) -> str:
    return f"{group.dataset}, profile {group.profile}, {len(ranking.pairs)} pairs"


def bars(average: Sequence[float], critical_difference: float) -> list[tuple[float, float]]:
    """Ranks from and to of the bars of a critical-difference diagram, from the best: the largest groups of rows whose
    average ranks lie within the critical difference; groups of one row have none."""
    ranks = sorted(average)
    found: list[tuple[int, int]] = []
    for i, low in enumerate(ranks):
        j = max(k for k, high in enumerate(ranks) if high - low <= critical_difference + 1e-9)
        if j > i and (not found or j > found[-1][1]):
            found.append((i, j))
    return [(ranks[i], ranks[j]) for i, j in found]


def draw_critical_difference(group: ResultGroup, ranking: Ranking, palette: Mapping[str, str]) -> Figure:
    """Average ranks on a line, the best on the left; a bar joins rows that Nemenyi's test does not tell apart (the
    diagram of Demšar 2006)."""
    average, k = ranking.average, len(ranking.rows)
    order = sorted(range(k), key=lambda i: (average[i], i))
    joined = bars(average, ranking.critical_difference)
    half = (k + 1) // 2
    first = 1.0 + 0.35 * len(joined)  # depth of the first label below the axis
    bottom = first + 0.75 * (half - 1) + 0.6
    longest = max(len(r.label) for r in ranking.rows)
    figure = Figure(figsize=(max(7.2, 4.6 + 0.13 * longest), 0.9 + 0.3 * (bottom + 2.2)), layout="constrained")
    ax = figure.subplots()
    span = k - 1
    # the critical difference as a ruler above the axis, cut where it is longer than the axis
    shown = min(ranking.critical_difference, span)
    ax.plot([1, 1 + shown], [-1.5, -1.5], color="black", linewidth=1.2)
    for x in (1, 1 + shown)[: 2 if shown == ranking.critical_difference else 1]:
        ax.plot([x, x], [-1.65, -1.35], color="black", linewidth=1.2)
    text = f"critical difference {ranking.critical_difference:.2f}"
    text += "" if shown == ranking.critical_difference else ", more than all ranks span"
    ax.text(1 + shown / 2, -1.65, text, ha="center", va="bottom", fontsize=8)
    ax.plot([1, k], [0, 0], color="black", linewidth=0.8)
    for rank in range(1, k + 1):
        ax.plot([rank, rank], [-0.15, 0], color="black", linewidth=0.8)
        ax.text(rank, -0.25, str(rank), ha="center", va="bottom", fontsize=8)
    for place, i in enumerate(order):
        left = place < half
        depth = first + 0.75 * (place if left else k - 1 - place)
        end = 1 - 0.04 * span if left else k + 0.04 * span
        colour = palette[ranking.rows[i].method]
        ax.plot([average[i], average[i], end], [0, depth, depth], color=colour, linewidth=1.2, zorder=2)
        label = f"{ranking.rows[i].label}  {average[i]:.2f}" if left else f"{average[i]:.2f}  {ranking.rows[i].label}"
        ax.text(end + (-1 if left else 1) * 0.01 * span, depth, label, ha="right" if left else "left", va="center")
    for level, (low, high) in enumerate(joined):
        y = 0.45 + 0.35 * level
        ax.plot([low - 0.01 * span, high + 0.01 * span], [y, y], color="black", linewidth=3.5,
                solid_capstyle="butt", zorder=3)  # fmt: skip
    ax.set_xlim(1 - 0.05 * span, k + 0.05 * span)
    ax.set_ylim(bottom, -2.2)
    ax.axis("off")
    ax.set_title(f"Average rank, 1 the best: {_title(group, ranking)}", fontsize=10)
    return figure


def draw_outcomes(group: ResultGroup, ranking: Ranking) -> Figure:
    """Wins/ties/losses of the row against the column, coloured by wins minus losses; rows by average rank."""
    k = len(ranking.rows)
    order = sorted(range(k), key=lambda i: (ranking.average[i], i))
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
    for i in range(k):
        for j in range(k):
            dark = i != j and abs(balance[i, j]) > 0.7 * limit
            text = "–" if i == j else f"{wins[i, j]}/{ties[i, j]}/{wins[j, i]}"
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    long = max(map(len, labels)) > 7
    ax.set_xticks(range(k), labels, rotation=90 if long else 0)
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


def draw_profile(group: ResultGroup, ranking: Ranking, palette: Mapping[str, str]) -> Figure:
    """Performance profile: the share of pairs on which a row is at most τ points below the best, against τ.

    The lines are a little apart where they would cover each other.
    """
    behind = ranking.means.max(axis=0) - ranking.means
    last = max(float(behind.max()) * 1.05, 0.1)
    labels = [r.label for r in ranking.rows]
    columns = min(len(labels), 2 if max(map(len, labels)) > 25 else 4)
    figure = Figure(figsize=(5.2, 3.0 + 0.17 * math.ceil(len(labels) / columns)), layout="constrained")
    ax = figure.subplots()
    order = sorted(range(len(ranking.rows)), key=lambda i: (ranking.average[i], i))
    for place, i in enumerate(order):
        row = ranking.rows[i]
        steps = np.unique(np.concatenate([[0], behind[i]]))
        share = [float((behind[i] <= tau + statistics.RESOLUTION / 2).mean()) for tau in steps]
        ax.step([*steps, last], [*share, share[-1]], where="post", color=palette[row.method], label=row.label,
                linestyle=DASHES[row.variant % len(DASHES)], linewidth=1.5,
                zorder=3 - place / len(order),
                transform=ax.transData + _apart(figure, place / max(len(order) - 1, 1) - 0.5, len(order)))  # fmt: skip
    ax.set_xlim(-0.02 * last, last)
    ax.set_ylim(-0.05, 1.05)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("τ: points of test top-1 below the best")
    ax.set_ylabel("share of pairs within τ")
    ax.grid(True, color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_title(f"Performance profile: {_title(group, ranking)}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=2.4)
    return figure


def _apart(figure: Figure, place: float, lines: int) -> ScaledTranslation:
    """Down and right, from the first line (place −0.5) to the last (0.5): a width each, at most 8 points."""
    points = min(1.3 * (lines - 1), 8) * place
    return ScaledTranslation(points / 72, -points / 72, figure.dpi_scale_trans)
