"""All comparisons of two rows on a pair."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from analysis import statistics
from analysis.statistics import Comparison
from analysis.tables.results import DAGGERS, Results, without_baselines
from benchmark.statistics import MIN_SEEDS
from benchmark.tables import cells
from benchmark.tables.cells import counted
from benchmark.tables.model import BEST, EMPTY, TEXT, Cell, Column, Line, Table

COLUMNS = (
    "dataset", "profile", "pair", "method", "label", "identity", "other_method", "other_label", "other_identity", "n",
    "seeds", "difference", "low", "high", "t_p", "t_holm", "d_z", "significant", "note",
)  # fmt: skip


def table(results: Results) -> Table:
    """Return the comparisons, the later row of the table of accuracies minus the earlier one."""
    columns = [Column(title, TEXT) for title in ("Pair", "Method", "against")]
    columns += [Column(title) for title in ("n", "difference", "p", "Holm", "d_z")]
    columns.append(Column("note", TEXT))
    lines = [Line(_line(c), c.pair, without_baselines(c.row.method, c.other.method)) for c in results.comparisons]
    caption = "Every two rows on a pair, with the 95 % interval of their difference"
    return Table(caption, columns, [lines], intro=[_explanation(results)], notes=list(_not_compared(results)))


def _line(c: Comparison) -> list[Cell]:
    difference = cells.difference(c.difference, c.low, c.high)
    symbol = DAGGERS[c.significant]
    marked = replace(difference, mark=BEST if symbol else "", symbol=symbol)
    return [
        Cell(c.pair), Cell(c.row.label), Cell(c.other.label), cells.integer(c.n), marked, _p_value(c.t_p),
        _p_value(c.t_holm), cells.difference(c.d_z), Cell(c.note),
    ]  # fmt: skip


def _p_value(p: float) -> Cell:
    return EMPTY if math.isnan(p) else Cell(cells.p_value(p), value=p)


def _explanation(results: Results) -> str:
    text = (
        f"Top-1 accuracy on {results.group.images} at the last epoch, compared seed by seed over the n seeds that both "
        "rows have, of runs with equal settings outside the method and the same teacher. Difference: the row minus the "
        "one it is compared with, in points, with its 95 % interval by Student's t (not corrected). p: two-sided "
        "paired t-test, followed by Holm's correction over all comparisons on the pair. d_z: Cohen's effect size for "
        "paired data, mean over standard deviation of the differences. "
    )
    n = max(c.n for c in results.comparisons)
    if n < MIN_SEEDS:
        return f"{text}No test was made: at most {counted(n, 'seed')} in common, at least 3 are needed."
    return f"{text}† marks the better and ‡ the worse after Holm's correction at 5 %."


def _not_compared(results: Results) -> Iterator[str]:
    """The comparisons that were not made on each pair, and why."""
    counts = Counter(c.pair for c in results.comparisons)
    for pair in results.group.pairs:
        rows = len(results.group.rows_on(pair))
        possible = math.comb(rows, 2)
        if counts[pair] == possible:
            continue
        if rows <= statistics.MAX_ROWS:
            missing = possible - counts[pair]
            yield f"{pair}: {missing} of {possible} comparisons are not made: the rows were not trained alike."
        else:
            yield (
                f"{pair}, {rows} rows: beyond {statistics.MAX_ROWS}, only comparisons with the student alone and KD "
                "are made, of rows trained alike."
            )


def records(results: Results) -> list[dict[str, Any]]:
    """Return one record for each comparison, by `COLUMNS`; p-values to seven significant digits."""
    return [
        results.group.origin
        | {"pair": c.pair, "method": c.row.method, "label": c.row.label}
        | {"identity": c.row.seed_groups[c.pair].identity, "other_method": c.other.method, "other_label": c.other.label}
        | {"other_identity": c.other.seed_groups[c.pair].identity, "n": c.n, "seeds": " ".join(map(str, c.seeds))}
        | {"difference": c.difference, "low": c.low, "high": c.high, "d_z": c.d_z, "note": c.note}
        | {"t_p": _digits(c.t_p), "t_holm": _digits(c.t_holm)}
        | {"significant": {1: "better", -1: "worse", 0: "" if math.isnan(c.t_holm) else "none"}[c.significant]}
        for c in results.comparisons
    ]


def _digits(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.7g}"
