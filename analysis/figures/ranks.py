"""Figures of the tests over several pairs: critical differences, wins, ties and losses, performance profile."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from analysis import statistics
from analysis.figures import files, labels, line_ends, style, value_grid
from analysis.figures.files import FigureWriter
from analysis.figures.line_ends import LineEnd
from analysis.figures.style import Appearance, Page
from analysis.figures.value_grid import ValueGrid
from analysis.groups import ResultGroup
from analysis.statistics import Ranking

MAX_LABELED = 16  # rows on one axis of ranks with their names around it; more stand in a list
MAX_COUNTED = 12  # rows whose wins, ties and losses are written into the matrix; of more only colors are shown
MAX_COUNTED_NARROW = 5  # in one column of a paper
NAMES = 1.5  # inches at most for the names of rows
LEVEL = 0.085  # inches of a unit of depth below the axis of ranks


def write(group: ResultGroup, writer: FigureWriter, appearance: Appearance) -> None:
    """Write the figures of a group. There are neither figures nor messages for fewer than two pairs."""
    if len(group.pairs) < 2:
        return
    ranking = statistics.rank(group)
    if ranking is None:
        writer.problems.append(
            f"no ranks for {group.stem}: there are no two rows, trained alike, with runs on every pair"
        )
        return
    for name, draw in drawings(group, ranking, writer.problems, appearance).items():
        writer.write(files.stem(group, name), draw)


def drawings(
    group: ResultGroup, ranking: Ranking, problems: list[str], appearance: Appearance
) -> dict[str, Callable[[], list[Figure]]]:
    """Return what draws the figures of a group by name (`profile`, `ranks`, `wins`); adds to `problems` why figures are
    missing."""
    drawn: dict[str, Callable[[], list[Figure]]] = {"profile": lambda: [draw_profile(group, ranking, appearance)]}
    if len(ranking.rows) > 2:
        drawn["ranks"] = lambda: draw_ranks(group, ranking, appearance)
    if (ranking.wins + ranking.ties).any():
        drawn["wins"] = lambda: draw_outcomes(group, ranking, appearance)
    else:
        reason = "no two rows have three common seeds whose differences vary"
        problems.append(f"no wins and losses for {group.stem}: {reason}")
    return drawn


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


def is_diagram(ranking: Ranking, appearance: Appearance) -> bool:
    """Return whether ranks are a diagram of critical differences: of a few rows, whose names stand on its sides."""
    return len(ranking.rows) <= MAX_LABELED and not appearance.narrow


def draw_ranks(group: ResultGroup, ranking: Ranking, appearance: Appearance) -> list[Figure]:
    """Draw average ranks: the diagram of critical differences of a few rows, a list of many, or in a narrow figure."""
    if is_diagram(ranking, appearance):
        return [draw_critical_difference(group, ranking, appearance)]
    return draw_rank_list(group, ranking, appearance)


def draw_critical_difference(group: ResultGroup, ranking: Ranking, appearance: Appearance) -> Figure:
    """Draw average ranks on a line, the best on the left; a bar joins rows that Nemenyi's test does not distinguish
    (the diagram of Demšar 2006)."""
    k = len(ranking.rows)
    bars = rank_bars(ranking.average.tolist(), ranking.critical_difference)
    first = 1.2 + 1.2 * len(bars)  # depth of the first label below the axis
    bottom = first + 2.0 * ((k + 1) // 2 - 1) + 1.2
    names = labels.fit([row.label for row in ranking.rows], NAMES)
    side = labels.widest(names) + 0.55
    page = style.new_page(appearance, LEVEL * (bottom + 7.5), f"Average rank, 1 the best: {_title(group, ranking)}")
    ax = page.axes(side, 0, appearance.width - 2 * side, LEVEL * (bottom + 7.5))
    ax.set_xlim(1, k)
    ax.set_ylim(bottom, -7.5)
    ax.axis("off")
    _add_ruler(ax, ranking.critical_difference, k)
    ax.plot([1, k], [0, 0], color="black", linewidth=0.8, clip_on=False)
    for rank in range(1, k + 1):
        ax.plot([rank, rank], [-0.5, 0], color="black", linewidth=0.8, clip_on=False)
        ax.text(rank, -0.7, str(rank), ha="center", va="bottom", fontsize=labels.SMALL)
    _add_rank_labels(ax, group, ranking, names, first, appearance)
    for level, (low, high) in enumerate(bars):
        y, margin = 1.2 + 1.2 * level, 0.008 * (k - 1)
        ax.plot([low - margin, high + margin], [y, y], color="black", linewidth=3.2, solid_capstyle="butt", zorder=3,
                clip_on=False)  # fmt: skip
    return page.figure


def _add_ruler(ax: Axes, critical_difference: float, k: int) -> None:
    """Draw the critical difference as a ruler above the axis of ranks, cut where it is longer than the axis."""
    cut = critical_difference > k - 1
    length = min(critical_difference, k - 1)
    ax.plot([1, 1 + length], [-4.5, -4.5], color="black", linewidth=1.2, clip_on=False)
    for x in (1,) if cut else (1, 1 + length):
        ax.plot([x, x], [-4.9, -4.1], color="black", linewidth=1.2, clip_on=False)
    text = f"critical difference {critical_difference:.2f}{', more than all ranks span' if cut else ''}"
    ax.text(1, -5.1, text, ha="left", va="bottom", fontsize=labels.SMALL)


def _add_rank_labels(
    ax: Axes, group: ResultGroup, ranking: Ranking, names: Sequence[str], first: float, appearance: Appearance
) -> None:
    """Draw a line from each average rank down to its label, the better half on the left. first: the first depth."""
    k, average, styles = len(ranking.rows), ranking.average, appearance.over_pairs(group)
    half, span = (k + 1) // 2, k - 1
    for place, i in enumerate(ranking.order):
        row, left = styles[ranking.rows[i].key], place < half
        depth = first + 2.0 * (place if left else k - 1 - place)
        end = 1 - 0.02 * span if left else k + 0.02 * span
        ax.plot([average[i], average[i], end], [0, depth, depth], color=row.color, linewidth=1.2, zorder=2,
                clip_on=False)  # fmt: skip
        text = f"{names[i]}  {average[i]:.2f}" if left else f"{average[i]:.2f}  {names[i]}"
        ax.text(end + (-1 if left else 1) * 0.01 * span, depth, text, ha="right" if left else "left", va="center",
                fontsize=labels.SMALL, color=row.ink)  # fmt: skip


def draw_rank_list(group: ResultGroup, ranking: Ranking, appearance: Appearance) -> list[Figure]:
    """Draw the average rank of many rows, one below the other, the best first. A band spans the critical difference
    from the best: Nemenyi's test does not distinguish rows inside it from the best."""
    styles, best = appearance.over_pairs(group), float(ranking.average.min())
    names = labels.fit([ranking.rows[i].label for i in ranking.order], appearance.names(NAMES))
    named = dict(zip(ranking.order, names, strict=True))
    left = style.EDGE + labels.widest(names) + 0.06
    text = f"band: within the critical difference, {ranking.critical_difference:.2f}, of the best"
    text_left = style.EDGE if appearance.narrow else left
    text = labels.wrap(text, appearance.width - text_left - style.EDGE)
    above = labels.height_of(text) + 0.07
    parts = style.chunks(ranking.order, int((style.PAGE_HEIGHT - 1.2) / style.ROW_HEIGHT))
    figures = []
    for number, part in enumerate(parts, 1):
        title = style.numbered(f"Average rank, 1 the best: {_title(group, ranking)}", number, len(parts))
        height = style.ROW_HEIGHT * len(part)
        page = style.new_page(appearance, above + height + 0.4, title)
        ax = page.axes(left, above, appearance.width - left - 0.15, height)
        ax.axvspan(best, best + ranking.critical_difference, color="#eef2f7", zorder=0)
        ax.set_xlim(0.5, len(ranking.rows) + 0.5)
        ax.set_ylim(len(part) - 0.4, -0.6)
        for y, i in enumerate(part):
            row = styles[ranking.rows[i].key]
            ax.plot(ranking.average[i], y, **row.mark, markersize=4.5, linestyle="none", zorder=3)
            ax.plot([0.5, float(ranking.average[i])], [y, y], color="#d4d4d4", linewidth=0.6, zorder=1)
        style.label_rows(ax, [named[i] for i in part], [styles[ranking.rows[i].key] for i in part])
        ax.set_xlabel(f"average rank over {len(ranking.pairs)} pairs")
        page.text(text_left, 0.03, text, color="#404040")
        figures.append(page.figure)
    return figures


def is_counted(rows: int, appearance: Appearance) -> bool:
    """Return whether wins, ties and losses of so many rows are written into their matrix."""
    return rows <= (MAX_COUNTED_NARROW if appearance.narrow else MAX_COUNTED)


def draw_outcomes(group: ResultGroup, ranking: Ranking, appearance: Appearance) -> list[Figure]:
    """Draw wins minus losses of the rows against the columns as colors, by average rank; with wins/ties/losses in the
    fields of a few rows. The columns of many rows bear the rows' numbers."""
    order, styles = ranking.order, appearance.over_pairs(group)
    wins, ties = ranking.wins[np.ix_(order, order)], ranking.ties[np.ix_(order, order)]
    k, names = len(order), [ranking.rows[i].label for i in order]
    few = is_counted(k, appearance)
    texts = [["–" if i == j else f"{wins[i, j]}/{ties[i, j]}/{wins[j, i]}" for j in range(k)] for i in range(k)]
    tested = wins + wins.T + ties > 0
    balance = np.where(tested, wins - wins.T, np.nan)
    grid = ValueGrid(
        title=f"Wins{'/ties/losses' if few else ' minus losses'} of the row against the column, by 95 % intervals: "
        f"{_title(group, ranking)}",
        values=balance,
        texts=texts if few else None,
        rows=names if few else [f"{i} {name}" for i, name in enumerate(names, 1)],
        columns=names if few else [str(i) for i in range(1, k + 1)],
        styles=[styles[ranking.rows[i].key] for i in order],
        bar="wins − losses [pairs]" + ("" if ranking.untested == 0 else "; white: not compared"),
        limit=len(ranking.pairs),
    )
    return value_grid.draw(grid, appearance)


def draw_profile(group: ResultGroup, ranking: Ranking, appearance: Appearance) -> Figure:
    """Draw the performance profile: the share of pairs on which a row is at most τ points below the best, against τ.

    Lines are shifted a little, so that none covers another. Names stand beside them in the order of their share within
    half a point.
    """
    shortfall, styles = ranking.shortfall, appearance.over_pairs(group)
    last = max(float(shortfall.max()) * 1.05, 0.1)
    shown = [i for i in ranking.order if styles[ranking.rows[i].key].highlighted]
    within = ranking.share_within(0.5)
    ends = [
        LineEnd(ranking.rows[i].label, f"{100 * within[i]:.0f} %", last, 1.0, row.color, row.dashes)
        for i in sorted(shown, key=lambda i: -within[i])
        for row in [styles[ranking.rows[i].key]]
    ]
    others = len(ranking.rows) - len(ends)
    page, ax = _profile_page(ends, others, f"Performance profile: {_title(group, ranking)}", appearance)
    for place, i in enumerate(sorted(ranking.order, key=lambda i: styles[ranking.rows[i].key].highlighted)):
        row = styles[ranking.rows[i].key]
        steps = np.unique(np.concatenate([[0], shortfall[i]]))
        share = [float(ranking.share_within(tau)[i]) for tau in steps]
        shift = _shift(page.figure, shown.index(i) / max(len(shown) - 1, 1) - 0.5 if i in shown else 0, len(shown))
        ax.step([*steps, last], [*share, share[-1]], where="post", **row.line, label=ranking.rows[i].label,
                linewidth=1.4 if row.highlighted else 0.7, zorder=3 + place / len(ranking.rows),
                transform=ax.transData + shift)  # fmt: skip
    ax.set_xlim(-0.02 * last, last)
    ax.set_ylim(-0.05, 1.05)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5 if appearance.narrow else 7))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel(f"τ: points of {group.top1} below the best")
    ax.set_ylabel("share of pairs within τ")
    style.add_grid(ax)
    if appearance.narrow:
        line_ends.add_below(page, ends, others, "behind the names: within 0.5 points")
    else:
        left = appearance.width - line_ends.width(ends) + 0.02
        page.text(left, 0.03, "within 0.5 points:", color="#404040")
        line_ends.add_list(page, ax, ends, others)
    return page.figure


def _profile_page(ends: Sequence[LineEnd], others: int, title: str, appearance: Appearance) -> tuple[Page, Axes]:
    """The page of the performance profile and its axes, with room for the names of lines beside or below them."""
    if appearance.narrow:
        page = style.new_page(appearance, 2.5 + line_ends.height_below(ends, others, appearance) + 0.16, title)
        return page, page.axes(0.55, 0.05, appearance.width - 0.55 - 2 * style.EDGE, 2.0)
    height = max(2.4, line_ends.height(ends) + 0.15)
    page = style.new_page(appearance, height + 0.65, title)
    return page, page.axes(0.55, 0.2, appearance.width - 0.55 - line_ends.width(ends) - style.EDGE, height)


def _shift(figure: Figure, place: float, lines: int) -> ScaledTranslation:
    """Down and right, from the first line (place −0.5) to the last (0.5): a line width each, at most 8 points."""
    points = min(1.3 * (lines - 1), 8) * place
    return ScaledTranslation(points / 72, -points / 72, figure.dpi_scale_trans)
