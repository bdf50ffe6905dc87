"""The table of accuracies, the summary of differences to KD, and the CSV file with all their numbers.

The headline is the last epoch: mean ± sample standard deviation (n) over seeds. Best-on-test is in the CSV file only,
under its own name. Marks go to the distillation methods.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from analysis.groups import MethodRow, RowKey, SeedGroup
from analysis.published import TEACHER, Published
from analysis.statistics import Comparison
from analysis.tables import notes
from analysis.tables.results import DAGGERS, TOP1, TOP5, Metric, Results, missing_runs, without_baselines
from benchmark.statistics import MIN_SEEDS, RESOLUTION
from benchmark.tables import cells
from benchmark.tables.model import BEST, EMPTY, SECOND, TEXT, Cell, Column, Head, Line, Table

COST_COLUMNS = ("wall_s", "step_ms", "extra_parameters", "extra_buffers", "agreement", "correlation_distance")
COLUMNS = (
    "dataset", "profile", "pair", "method", "label", "identity", "epochs", "seeds", "n", "mean", "std",
    "delta_student", "delta_kd", "n_kd", "p_kd", "significance_kd", "best_mean", "published", "published_std",
    "published_rule", "published_origin", "published_source", "teacher_top1", *COST_COLUMNS,
)  # fmt: skip

# further columns of the runs, by their name in the file
OF_RUNS = {TOP1: {"best_mean": "top1_best", "teacher_top1": "teacher_top1"}, TOP5: {"teacher_top5": "teacher_top5"}}

MARKS = (
    "Per pair, the best distillation method is bold and the second underlined, of equal means the one with the smaller "
    "deviation. Marked are methods at the student's cost (no *) with as many seeds as the most complete of them."
)
AVERAGES = "Mean over pairs: of rows that have runs on all pairs, and their mean rank where they are ranked."

Place = tuple[RowKey, str]  # a row and a pair


def columns(metric: Metric) -> list[str]:
    """Return the columns of the CSV file about a metric."""
    others = {name for of_metric in OF_RUNS.values() for name in of_metric} - OF_RUNS[metric].keys()
    names = COLUMNS if metric == TOP1 else [*COLUMNS[: -len(COST_COLUMNS)], *OF_RUNS[metric], *COST_COLUMNS]
    return [name for name in names if name not in others]


def table(results: Results, prefix: str = "") -> Table:
    """Return the table of accuracies: for each pair their means, the difference to the student alone, published values.

    prefix: of the anchors that means refer to; see `anchor`.
    """
    return _AccuracyTable(results, prefix).build()


def anchor(seed_group: SeedGroup, prefix: str = "") -> str:
    """Return the id of the line that lists these runs."""
    pair = f"{seed_group.runs.pair.iloc[0]}-" if seed_group.alone else ""  # pairs share runs of a student alone
    return f"{prefix}runs-{pair}{seed_group.identity}"


class _AccuracyTable:
    """The lines of the table. sources: number of each reference, from 1, in the order of the lines."""

    def __init__(self, results: Results, prefix: str) -> None:
        self.results, self.group, self.metric, self.prefix = results, results.group, results.metric, prefix
        self.marks = marks(results)
        self.averages = _averages(results)
        self.sources: dict[str, int] = {}
        self.with_published: set[str] = set()  # pairs with a column of published values
        entries = [(TEACHER, self.metric.of_teacher(teacher)) for teacher in self.group.teachers]
        entries += [(row.method, row.seed_groups) for row in self.group.rows]
        for method, by_pair in entries:
            for pair in self.group.pairs:
                if pair in by_pair and (reference := results.published(pair, method)):
                    self.sources.setdefault(reference.reference, len(self.sources) + 1)
                    self.with_published.add(pair)

    def build(self) -> Table:
        """Return the table."""
        group = self.group
        columns, heads = [Column("Method", TEXT)], [Head("", 1)]
        for pair in group.pairs:
            titles = [self.metric.title.lower(), "Δ", *(["published"] if pair in self.with_published else [])]
            columns += [Column(title, pair=pair) for title in titles]
            heads.append(Head(" → ".join(group.networks[pair]), len(titles), pair))
        baselines = [*self._teachers(), *map(self._row, group.student_rows)]
        methods = [*map(self._row, group.method_rows), *self._unsupported()]
        if self.averages:
            columns += [Column(self.metric.title.lower()), Column("rank")]
            heads.append(Head("mean over pairs", 2))
        intro = [
            f"{self.metric.title} accuracy on {group.images} in per cent at the last epoch: mean ± sample standard "
            f"deviation (number of seeds). Δ: difference to the student alone. {MARKS}",
            *([AVERAGES] if self.averages else []),
            f"Runs: {notes.setting(group)}.",
        ]
        intro += [notes.published_note(group)] if self.sources else []
        return Table(
            f"{self.metric.title} accuracy in per cent", columns, [block for block in (baselines, methods) if block],
            heads=heads, intro=intro, notes=notes.remarks(self.results), sources=list(self.sources),
            lists=missing_runs(self.results.unfinished),
        )  # fmt: skip

    def _teachers(self) -> Iterator[Line]:
        href = f"#{self.prefix}teachers"
        for teacher in self.group.teachers:
            line = [Cell(teacher.label)]
            for pair in self.group.pairs:
                top = self.metric.of_teacher(teacher).get(pair)
                mean = EMPTY if top is None else replace(cells.mean(top, math.nan, 1), href=href)
                line += [mean, EMPTY, *self._published(pair, None if top is None else TEACHER)]
            yield Line([*line, *self._average(None)])

    def _row(self, row: MethodRow) -> Line:
        line = [Cell(notes.label(row))]
        for pair in self.group.pairs:
            if pair in row.seed_groups:
                line += [self._mean(row, pair), cells.difference(self.results.student_difference(pair, row))]
                line += self._published(pair, row.method)
            else:
                line += [self._missing(row.method, pair), EMPTY, *self._published(pair, None)]
        return Line([*line, *self._average(row.key)], methods=without_baselines(row.method))

    def _average(self, key: RowKey | None) -> Sequence[Cell]:
        """The cells of the means over all pairs, where the table has columns of them."""
        if not self.averages:
            return []
        top1, rank = self.averages.get(key, (math.nan, math.nan)) if key else (math.nan, math.nan)
        return [cells.number(top1), cells.number(rank)]

    def _mean(self, row: MethodRow, pair: str) -> Cell:
        seed_group, place = row.seed_groups[pair], (row.key, pair)
        comparison = self.results.kd_comparisons.get(place)
        symbol = DAGGERS[comparison.significant] if comparison else ""
        mean = mean_cell(seed_group, self.metric)
        href = f"#{anchor(seed_group, self.prefix)}"
        return replace(mean, href=href, mark=self.marks.get(place, ""), symbol=symbol)

    def _published(self, pair: str, method: str | None) -> Sequence[Cell]:
        """The cell of a published value, where the pair has a column of them."""
        if pair not in self.with_published:
            return []
        if method is None or (reference := self.results.published(pair, method)) is None:
            return [EMPTY]
        return [Cell(cells.fixed(reference.value), source=self.sources[reference.reference], value=reference.value)]

    def _missing(self, method: str, pair: str) -> Cell:
        unsupported = any((run.method, run.pair) == (method, pair) for run in self.results.skipped)
        return Cell("n/a") if unsupported else EMPTY

    def _unsupported(self) -> Iterator[Line]:
        """Lines of methods that support none of the pairs."""
        skipped = {run.method for run in self.results.skipped if run.pair in self.group.pairs}
        for method in sorted(skipped - {row.method for row in self.group.rows}):
            line = [Cell(method)]
            for pair in self.group.pairs:
                line += [self._missing(method, pair), EMPTY, *self._published(pair, None)]
            yield Line([*line, *self._average(None)], methods=without_baselines(method))


def marks(results: Results) -> dict[Place, str]:
    """Return best and second per pair, of rows at equal cost with as many seeds as the most complete of them.

    Of equal means the one with the smaller deviation is better. Rows that are equal in both share a mark, but not all.
    """
    column = results.metric.column
    by_place: dict[Place, str] = {}
    for pair in results.group.pairs:
        rows = {r.key: r.seed_groups[pair] for r in results.group.method_rows if pair in r.seed_groups and _counts(r)}
        most = max((s.n for s in rows.values()), default=0)
        merits = {key: _merit(s, column) for key, s in rows.items() if s.n == most and not math.isnan(s.mean(column))}
        best = sorted(set(merits.values()), reverse=True)[:2]
        if len(best) > 1 or len(merits) == 1:
            by_place |= {(key, pair): (BEST, SECOND)[best.index(m)] for key, m in merits.items() if m in best}
    return by_place


def mean_cell(seed_group: SeedGroup, metric: Metric) -> Cell:
    """Return the cell of a mean ± sample standard deviation over the seeds that have a value (their number)."""
    n = len(seed_group.by_seed(metric.column))
    return cells.mean(seed_group.mean(metric.column), seed_group.std(metric.column), n)


def _counts(row: MethodRow) -> bool:
    """Return whether a row is at equal cost, and of runs whose settings are known."""
    return not notes.unequal_cost(row) and not any(s.config_is_missing for s in row.seed_groups.values())


def _merit(seed_group: SeedGroup, column: str) -> tuple[int, int]:
    """Sort key of a seed group, the larger the better, in multiples of `RESOLUTION`."""
    std = seed_group.std(column)
    return round(seed_group.mean(column) / RESOLUTION), -round((0 if math.isnan(std) else std) / RESOLUTION)


def _averages(results: Results) -> dict[RowKey, tuple[float, float]]:
    """Mean top-1 of the rows that have runs on all pairs, and mean rank where they are ranked; empty without ranks."""
    if (ranking := results.ranking) is None:
        return {}
    ranks = {row.key: rank for row, rank in zip(ranking.rows, ranking.average.tolist(), strict=True)}
    rows = [row for row in results.group.rows if len(row.seed_groups) == len(results.group.pairs)]
    return {row.key: (_mean_of_means(row, results.metric.column), ranks.get(row.key, math.nan)) for row in rows}


def _mean_of_means(row: MethodRow, column: str) -> float:
    means = [seed_group.mean(column) for seed_group in row.seed_groups.values()]
    return sum(means) / len(means)


# ---------------------------------------------------------------- differences to KD


def kd_table(results: Results) -> Table | None:
    """Return the differences to KD with their intervals and tests; None where nothing was tested."""
    comparisons = {place: c for place, c in results.kd_comparisons.items() if not math.isnan(c.difference)}
    if not any(c.n >= MIN_SEEDS for c in comparisons.values()):
        return None
    pairs = [pair for pair in results.group.pairs if any(pair == p for _, p in comparisons)]
    lines = []
    for row in results.group.rows:
        by_pair = [comparisons.get((row.key, pair)) for pair in pairs]
        if any(by_pair):
            lines.append(Line([Cell(row.label), *map(kd_cell, by_pair)], methods=without_baselines(row.method)))
    intro = (
        "Mean difference to KD in points over common seeds, [95 % interval], p of the moderated paired t-test (common "
        "seeds). Interval and p are corrected for the family of all comparisons with KD on the pair. Comparisons with "
        f"the student alone: {results.stem}-significance.md."
    )
    heads = [Head("", 1), *(Head(pair, 1, pair) for pair in pairs)]
    columns = [Column("Method", TEXT), *(Column("difference", pair=pair) for pair in pairs)]
    return Table("Difference to KD", columns, [lines], title="Against KD", heads=heads, intro=[intro])


def kd_cell(comparison: Comparison | None) -> Cell:
    """Return the cell of a difference to KD, with its interval, p-value and number of common seeds."""
    if comparison is None:
        return EMPTY
    cell = cells.difference(comparison.difference, comparison.low, comparison.high)
    p = "" if math.isnan(comparison.p_adjusted) else f"p {cells.p_value(comparison.p_adjusted)}"
    detail = " ".join(filter(None, (cell.detail, p, f"({comparison.n})")))
    return replace(cell, detail=detail, symbol=DAGGERS[comparison.significant])


# ---------------------------------------------------------------- CSV


def records(results: Results) -> list[dict[str, Any]]:
    """Return one record for each pair, method and identity, by the `columns` of the metric."""
    group, column, rows = results.group, results.metric.column, []
    for teacher in group.teachers:
        for pair, top in results.metric.of_teacher(teacher).items():
            place = results.group.origin | {"pair": pair, "method": TEACHER, "label": teacher.label}
            numbers = {"identity": (teacher.sha256[pair] or "")[:12], "n": 1, "mean": top}
            rows.append(place | numbers | published_columns(results.published(pair, TEACHER)))
    for row in group.rows:
        for pair, seed_group in row.seed_groups.items():
            comparison = results.kd_comparisons.get((row.key, pair))
            rows.append(
                results.group.origin
                | {"pair": pair, "method": row.method, "label": row.label, "identity": seed_group.identity}
                | {"epochs": int(seed_group.runs.epochs.iloc[0]), "n": seed_group.n}
                | {"seeds": " ".join(map(str, seed_group.runs.seed))}
                | {"mean": seed_group.mean(column), "std": seed_group.std(column)}
                | {"delta_student": results.student_difference(pair, row)}
                | (kd_columns(comparison) if comparison else {})
                | {key: seed_group.mean(of_runs) for key, of_runs in OF_RUNS[results.metric].items()}
                | published_columns(results.published(pair, row.method))
                | {column: seed_group.mean(column) for column in COST_COLUMNS}
            )
    return sorted(rows, key=lambda record: group.pairs.index(record["pair"]))


def kd_columns(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison with KD; the p-value is corrected for its family."""
    tested = not math.isnan(comparison.p_adjusted)
    outcome = {1: "better", 0: "none", -1: "worse"}[comparison.significant] if tested else "not tested"
    numbers = {"delta_kd": comparison.difference, "n_kd": comparison.n, "p_kd": comparison.p_adjusted}
    return numbers | {"significance_kd": outcome}


def published_columns(published: Published | None) -> dict[str, Any]:
    """Return a published value with its source; nothing where there is none."""
    if published is None:
        return {}
    value = {"published": published.value, "published_std": published.std, "published_rule": published.rule}
    return value | {"published_origin": published.origin, "published_source": published.source}
