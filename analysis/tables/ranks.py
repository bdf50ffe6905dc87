"""Ranks of the methods over several pairs: averages, ranks on each pair, and wins, ties and losses."""

from collections.abc import Iterator
from typing import Any

from analysis.statistics import Ranking
from analysis.tables.results import Results, without_baselines
from benchmark.tables import cells
from benchmark.tables.cells import counted
from benchmark.tables.model import EMPTY, TEXT, Cell, Column, Line, Listing, Table

TAUS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)  # points of accuracy, of the performance profile
COLUMNS = (
    "dataset", "profile", "method", "label", "pair", "n", "mean", "rank", "wins", "ties", "losses",
    *(f"within_{tau:g}" for tau in TAUS),
)  # fmt: skip


def tables(ranking: Ranking) -> list[Table]:
    """Return average ranks with the performance profile, ranks on each pair, and the matrix of outcomes."""
    return [_averages(ranking), _by_pair(ranking), _outcomes(ranking)]


def _lines(ranking: Ranking, numbers: dict[int, list[Cell]]) -> list[Line]:
    """Lines by average rank, with the row's label before its numbers."""
    rows = ((ranking.rows[i], numbers[i]) for i in ranking.order)
    return [
        Line([Cell(row.label), *numbers_of_row], methods=without_baselines(row.method)) for row, numbers_of_row in rows
    ]


def _averages(ranking: Ranking) -> Table:
    seeds = ", ".join(map(str, sorted({len(common_seeds) for common_seeds in ranking.seeds.values()})))
    within = [ranking.share_within(tau) for tau in TAUS]
    numbers = {
        i: [
            cells.number(float(ranking.average[i])),
            *map(cells.integer, _totals(ranking, i)),
            *(Cell(f"{100 * share[i]:.0f} %", value=float(share[i])) for share in within),
        ]
        for i in range(len(ranking.rows))
    }
    titles = ("average rank", "wins", "ties", "losses", *(f"≤ {tau:g}" for tau in TAUS))
    intro = [
        "Rows that have runs on every pair, ranked on each by their mean over the seeds that all of them have "
        f"({seeds} a pair); 1 is the best. Wins, ties, losses: pairs times other rows on which the row is better, not "
        "told apart, worse. ≤ τ: share of pairs on which a row is at most τ points below the best (performance "
        "profile).",
    ]
    notes = [friedman_note(ranking)]
    left_out = [Listing(f"Left out, {len(ranking.exclusions)}", ranking.exclusions)] if ranking.exclusions else []
    columns = [Column("Method", TEXT), *map(Column, titles)]
    return Table(
        "Average ranks over the pairs, 1 the best", columns, [_lines(ranking, numbers)], intro=intro, notes=notes,
        lists=left_out,
    )  # fmt: skip


def _by_pair(ranking: Ranking) -> Table:
    numbers = {i: [Cell(f"{rank:g}", value=float(rank)) for rank in ranks] for i, ranks in enumerate(ranking.ranks)}
    columns = [Column("Method", TEXT), *(Column(pair, pair=pair) for pair in ranking.pairs)]
    return Table("Rank on each pair, 1 the best", columns, [_lines(ranking, numbers)], title="Rank on each pair")


def _outcomes(ranking: Ranking) -> Table:
    order = ranking.order
    numbers = {i: [EMPTY if i == j else Cell("/".join(map(str, outcome(ranking, i, j)))) for j in order] for i in order}
    intro = (
        "Win/tie/loss, row against column: on how many pairs the row is better, not told apart, worse. A win is a "
        "difference whose 95 % interval on the pair lies above 0, by the moderated paired t-test. It is corrected "
        "neither for the number of rows nor for that of pairs: one comparison in twenty is a win or loss by chance."
    )
    untested = counted(ranking.untested, "comparison")
    verb = "has" if ranking.untested == 1 else "have"
    notes = [f"{untested} {verb} no interval, for want of three common seeds or of any spread."]
    columns = [Column("Method", TEXT), *(Column(ranking.rows[i].label) for i in order)]
    return Table(
        "Wins/ties/losses of the row against the column, in pairs", columns, [_lines(ranking, numbers)],
        title="Wins, ties and losses", intro=[intro], notes=notes if ranking.untested else [],
    )  # fmt: skip


def friedman_note(ranking: Ranking) -> str:
    """Return the results of Friedman's and Nemenyi's tests."""
    rows, pairs = len(ranking.rows), len(ranking.pairs)
    text = f"{rows} rows on {pairs} pairs. "
    if rows < 3:
        return f"{text}Friedman's test needs three rows."
    p = cells.p_value(ranking.friedman_p)
    text += f"Friedman: χ²({rows - 1}) = {cells.fixed(ranking.friedman)}, p {p if p.startswith('<') else f'= {p}'}"
    text += " (its χ² is a rough approximation for fewer than 10 pairs)" if pairs < 10 else ""
    critical = cells.fixed(ranking.critical_difference)
    return f"{text}. Nemenyi: average ranks that differ by less than {critical} are not told apart at 5 %."


def outcome(ranking: Ranking, i: int, j: int) -> tuple[int, int, int]:
    """Return wins, ties and losses of row i against row j."""
    return int(ranking.wins[i, j]), int(ranking.ties[i, j]), int(ranking.wins[j, i])


def _totals(ranking: Ranking, i: int) -> tuple[int, int, int]:
    """Wins, ties and losses of row i against all others."""
    return int(ranking.wins[i].sum()), int(ranking.ties[i].sum()), int(ranking.wins[:, i].sum())


def records(results: Results, ranking: Ranking) -> Iterator[dict[str, Any]]:
    """Iterate over one record for each row and pair, and one for each row over all pairs, by `COLUMNS`."""
    within = {f"within_{tau:g}": ranking.share_within(tau) for tau in TAUS}
    for i in ranking.order:
        origin = results.group.origin | {"method": ranking.rows[i].method, "label": ranking.rows[i].label}
        totals = dict(zip(("wins", "ties", "losses"), _totals(ranking, i), strict=True))
        profile = {column: float(share[i]) for column, share in within.items()}
        yield origin | {"pair": "all", "rank": float(ranking.average[i])} | totals | profile
        for j, pair in enumerate(ranking.pairs):
            mean, rank = float(ranking.means[i, j]), float(ranking.ranks[i, j])
            yield origin | {"pair": pair, "n": len(ranking.seeds[pair]), "mean": mean, "rank": rank}
