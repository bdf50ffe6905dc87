"""Comparisons of two rows on a pair: with KD and with the student alone; of all pairs of rows on request."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from analysis import published, statistics
from analysis.statistics import Comparison
from analysis.tables.results import DAGGERS, Results, without_baselines
from benchmark.statistics import MIN_SEEDS
from benchmark.tables import cells
from benchmark.tables.cells import counted
from benchmark.tables.model import BEST, EMPTY, TEXT, Cell, Column, Line, Table

COLUMNS = (
    "dataset", "profile", "pair", "method", "label", "identity", "other_method", "other_label", "other_identity", "n",
    "seeds", "difference", "low", "high", "p", "p_adjusted", "family_size", "df", "d_z", "significant", "note",
)  # fmt: skip
EFFECT = "d_z: the difference over the moderated standard deviation of one seed's difference."


def table(results: Results) -> Table:
    """Return the two families of comparisons on each pair, a block each: with KD, and with the student alone."""
    blocks = [
        [_line(c, _interval(c)) for c in results.comparisons if c.other.method == method]
        for method in statistics.REFERENCES
    ]
    caption = "Differences to KD and to the student alone, with their 95 % intervals"
    return Table(
        caption, _columns(), [block for block in blocks if block], intro=[_explanation(results)],
        notes=[*([sizes] if (sizes := _family_sizes(results)) else []), *_not_compared(results)],
    )  # fmt: skip


def pairwise_table(results: Results, comparisons: Sequence[Comparison]) -> Table:
    """Return the comparisons of every two rows, the later row of the table of accuracies minus the earlier one."""
    intro = (
        f"{_compared(results)} The family of a pair is all comparisons of two rows on it. p: two-sided moderated "
        "paired t-test (Smyth 2004) after Holm's correction over the family, which gives no intervals. † marks the "
        f"better and ‡ the worse at 5 %. {EFFECT}"
    )
    lines = [_line(c, cells.difference(c.difference)) for c in comparisons]
    sizes = {c.pair: c.family_size for c in comparisons}
    notes = [f"{pair}: {counted(n, 'test')}." for pair, n in sizes.items() if n]
    return Table("Every two rows of a pair", _columns(), [lines], intro=[intro], notes=notes)


def _columns() -> list[Column]:
    texts, numbers = ("Pair", "Method", "against"), ("n", "difference", "p", "d_z")
    return [*(Column(t, TEXT) for t in texts), *map(Column, numbers), Column("note", TEXT)]


def _interval(c: Comparison) -> Cell:
    return cells.difference(c.difference, c.low, c.high)


def _line(c: Comparison, difference: Cell) -> Line:
    symbol = DAGGERS[c.significant]
    marked = replace(difference, mark=BEST if symbol else "", symbol=symbol)
    p = EMPTY if math.isnan(c.p_adjusted) else Cell(cells.p_value(c.p_adjusted), value=c.p_adjusted)
    line = [Cell(c.pair), Cell(c.row.label), Cell(c.other.label), cells.integer(c.n), marked, p]
    return Line([*line, cells.difference(c.d_z), Cell(c.note)], c.pair, without_baselines(c.row.method, c.other.method))


def _compared(results: Results) -> str:
    return (
        f"{results.metric.title} accuracy on {results.group.images} at the last epoch, compared seed by seed over the "
        "n seeds that both rows have, of runs with equal settings outside the method and the same teacher."
    )


def _explanation(results: Results) -> str:
    text = (
        f"{_compared(results)} Two families on each pair: every distillation method with KD, and with the student "
        "alone. Difference: the row minus the one it is compared with, in points, with its 95 % interval. p: two-sided "
        "moderated paired t-test (Smyth 2004), whose variances are shrunk towards that of the family. Interval and p "
        "are corrected for the number of tests in the family (Bonferroni), and for no other family or pair. "
        f"{EFFECT} "
    )
    n = max(c.n for c in results.comparisons)
    if n < MIN_SEEDS:
        return f"{text}No test was made: at most {counted(n, 'seed')} in common, at least {MIN_SEEDS} are needed."
    return f"{text}† marks the better and ‡ the worse: p below 0.05, an interval without 0."


def _family_sizes(results: Results) -> str:
    """The number of tests in each family of each pair; empty where there are none."""
    by_sizes: dict[str, list[str]] = {}  # pairs
    for pair in results.group.pairs:
        sizes = {c.other.method: c.family_size for c in results.comparisons if c.pair == pair}
        if any(sizes.values()):
            families = (f"{n} against {statistics.REFERENCES[method]}" for method, n in sizes.items())
            by_sizes.setdefault(", ".join(families), []).append(pair)
    if len(by_sizes) == 1 and len(results.group.pairs) > 1 and list(by_sizes.values()) == [list(results.group.pairs)]:
        return f"Tests in the families of each pair: {next(iter(by_sizes))}."
    texts = [f"{', '.join(pairs)}: {sizes}" for sizes, pairs in by_sizes.items()]
    return f"Tests in the families: {'; '.join(texts)}." if texts else ""


def _not_compared(results: Results) -> Iterator[str]:
    """The rows that have no comparison in a family although the pair has a row of its reference."""
    for pair in results.group.pairs:
        rows = results.group.rows_on(pair)
        for method, name in statistics.REFERENCES.items():
            compared = {c.row.key for c in results.comparisons if (c.pair, c.other.method) == (pair, method)}
            references = {row.key for row in statistics.reference_rows(results.group, pair, method).values()}
            rows_without = (r for r in rows if r.method != published.STUDENT and r.key not in compared | references)
            missing = [row.label for row in rows_without]
            if missing and any(row.method == method for row in rows):
                which = "trained alike" if references else "that is the default variant"
                yield f"{pair}: there is no row of {name} {which} to compare with {', '.join(missing)}."


def records(results: Results, comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Return one record for each comparison, by `COLUMNS`; p-values to seven significant digits."""
    return [
        results.group.origin
        | {"pair": c.pair, "method": c.row.method, "label": c.row.label}
        | {"identity": c.row.seed_groups[c.pair].identity, "other_method": c.other.method, "other_label": c.other.label}
        | {"other_identity": c.other.seed_groups[c.pair].identity, "n": c.n, "seeds": " ".join(map(str, c.seeds))}
        | {"difference": c.difference, "low": c.low, "high": c.high, "d_z": c.d_z, "df": c.df, "note": c.note}
        | {"p": _digits(c.p), "p_adjusted": _digits(c.p_adjusted), "family_size": c.family_size}
        | {"significant": {1: "better", -1: "worse", 0: "" if math.isnan(c.p_adjusted) else "none"}[c.significant]}
        for c in comparisons
    ]


def _digits(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.7g}"
