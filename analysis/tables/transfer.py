"""Tables of linear probes: on each pair methods × targets, and the differences to KD."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.groups import MethodRow, ResultGroup
from analysis.published import TEACHER, Published
from analysis.tables import accuracy, csv, files, latex, notes, significance
from analysis.tables.results import DAGGERS, TOP1, Metric, Results, collect, without_baselines
from analysis.transfer import Target
from benchmark.statistics import MIN_SEEDS
from benchmark.tables import cells, markdown
from benchmark.tables.model import EMPTY, TEXT, Cell, Column, Head, Line, Listing, Table

SUFFIX = "-transfer"  # of the names of files
COLUMNS = (
    "dataset", "profile", "pair", "target", "method", "label", "identity", "probe_identity", "seeds", "n", "mean",
    "std", "delta_student", "delta_kd", "low_kd", "high_kd", "n_kd", "p_kd", "significance_kd", "published",
    "published_std", "published_rule", "published_origin", "published_source", "epochs", "size", "features", "views",
    "features_bytes", "features_s", "wall_s",
)  # fmt: skip
MEASURED = ("features", "views", "features_bytes", "features_s", "wall_s")  # of the probes' records, means over seeds
PUBLISHED = (
    "Published values are of other students, trained by the 240-epoch recipe, and of one probe each where the source "
    "gives no deviation."
)
EVAL_MODE = (
    "The student is frozen and in eval mode. The script behind the published values leaves it in training mode, in "
    "which the statistics of its batch norms drift with the target's images, so values may differ a little."
)


@dataclass(frozen=True)
class TransferResults:
    """The probes of a group on all targets, with the comparisons between rows. group: that of the students."""

    group: ResultGroup
    targets: Sequence[Target]
    results: Mapping[str, Results]  # by target
    metric: Metric

    @staticmethod
    def of(group: ResultGroup, targets: Sequence[Target], metric: Metric = TOP1) -> "TransferResults":
        """Compare the rows on every target."""
        results = {target.name: collect(target.group, [], metric) for target in targets}
        return TransferResults(group, targets, results, metric)

    @property
    def stem(self) -> str:
        """Stem of the names of the files."""
        return f"{self.group.stem}{SUFFIX}{self.metric.suffix}"

    @property
    def pairs(self) -> list[str]:
        """The pairs with probes, in the order of the group."""
        return [pair for pair in self.group.pairs if self.on(pair)]

    def on(self, pair: str) -> list[Target]:
        """Return the targets with probes on a pair."""
        return [target for target in self.targets if pair in target.group.pairs]

    def rows_on(self, pair: str) -> list[MethodRow]:
        """Return the rows of the group that have a probe on a pair."""
        probed = {row.key for target in self.on(pair) for row in target.group.rows_on(pair)}
        return [row for row in self.group.rows_on(pair) if row.key in probed]


def tables(transfer: TransferResults) -> list[Table]:
    """Return for each pair the table of accuracies and, where anything was tested, that of differences to KD."""
    parts = []
    for pair in transfer.pairs:
        parts += [_PairTable(transfer, pair).build(), *_kd_tables(transfer, pair)]
    if parts:
        omitted = list(dict.fromkeys(note for target in transfer.targets for note in target.notes))
        lists = [Listing("Not in the tables", omitted)] if omitted else []
        parts[0] = replace(parts[0], intro=_intro(transfer))
        parts[-1] = replace(parts[-1], lists=lists)
    return parts


def _intro(transfer: TransferResults) -> list[str]:
    """What the numbers are, how the probes were made, and what published values are."""
    metric = transfer.metric.title
    texts = [
        f"{metric} accuracy on the test set of each target in per cent, of a linear layer on the pooled features of "
        "the frozen student, after the last epoch of the probe: mean ± sample standard deviation over the students "
        f"(their number). Δ: difference to the student alone. {accuracy.MARKS.replace('Per pair', 'Per target')}",
        f"{' '.join(_protocol(target) for target in transfer.targets)} {EVAL_MODE}",
        f"Students: {notes.setting(transfer.group)}.",
    ]
    if any(_published(transfer, target, pair) for pair in transfer.pairs for target in transfer.on(pair)):
        texts.append(PUBLISHED)
    return texts


def _protocol(target: Target) -> str:
    """Return the settings of a target's probes in a sentence."""
    text = f"Probes on {target.name}: {target.config.dataset.get('size')} px, {target.recipe.get('epochs')} epochs"
    changes = target.changed_settings
    return f"{text}, not as in CRD's protocol: {', '.join(changes)}." if changes else f"{text}, by CRD's protocol."


def _published(transfer: TransferResults, target: Target, pair: str) -> dict[str, Published]:
    """Return the published values of the rows of a pair on a target, by method."""
    methods = [TEACHER] if any(pair in teacher.top1 for teacher in target.group.teachers) else []
    methods += [row.method for row in target.group.rows_on(pair)]
    values = {method: target.published(pair, method, transfer.metric.name) for method in methods}
    return {method: value for method, value in values.items() if value}


def _sources(transfer: TransferResults) -> dict[str, int]:
    """Number the references of all published values, from 1, so that a number means the same on every pair."""
    places = [(target, pair) for pair in transfer.pairs for target in transfer.on(pair)]
    values = [value for place in places for value in _published(transfer, *place).values()]
    return {reference: i for i, reference in enumerate(dict.fromkeys(value.reference for value in values), 1)}


class _PairTable:
    """The table of one pair: methods × targets."""

    def __init__(self, transfer: TransferResults, pair: str) -> None:
        self.transfer, self.pair, self.targets = transfer, pair, transfer.on(pair)
        self.published = {target.name: _published(transfer, target, pair) for target in self.targets}
        self.marks = {target.name: accuracy.marks(transfer.results[target.name]) for target in self.targets}
        self.sources = _sources(transfer)

    def build(self) -> Table:
        """Return the table."""
        columns, heads = [Column("Method", TEXT)], [Head("", 1)]
        for target in self.targets:
            titles = [self.transfer.metric.title.lower(), "Δ", *(["published"] if self.published[target.name] else [])]
            columns += map(Column, titles)
            heads.append(Head(target.name, len(titles)))
        rows = self.transfer.rows_on(self.pair)
        baselines = [*self._teacher(), *(self._line(row) for row in rows if row in self.transfer.group.student_rows)]
        methods = [self._line(row) for row in rows if row not in self.transfer.group.student_rows]
        networks = " → ".join(self.transfer.group.networks[self.pair])
        return Table(
            f"Linear probes of {networks}, {self.transfer.metric.title.lower()} accuracy in per cent", columns,
            [block for block in (baselines, methods) if block], title=f"Transfer of {self.pair}", heads=heads,
            notes=[*_dagger_notes(self.transfer, self.pair), *notes.cost_notes(rows)],
            sources=list(self.sources) if any(self.published.values()) else [],
        )  # fmt: skip

    def _teacher(self) -> Iterator[Line]:
        by_target = {
            target.name: self.transfer.metric.of_teacher(teacher).get(self.pair, math.nan)
            for target in self.targets
            for teacher in target.group.teachers
        }
        if by_target:
            line = [Cell("Teacher")]
            for target in self.targets:
                line += [cells.mean(by_target.get(target.name, math.nan), math.nan, 1), EMPTY]
                line += self._published_cells(target, TEACHER)
            yield Line(line, self.pair)

    def _line(self, row: MethodRow) -> Line:
        line = [Cell(notes.label(row))]
        for target in self.targets:
            results = self.transfer.results[target.name]
            probed = next((r for r in target.group.rows_on(self.pair) if r.key == row.key), None)
            if probed is None:
                line += [EMPTY, EMPTY, *self._published_cells(target, None)]
                continue
            comparison = results.kd_comparisons.get((row.key, self.pair))
            mean = accuracy.mean_cell(probed.seed_groups[self.pair], self.transfer.metric)
            mark = self.marks[target.name].get((row.key, self.pair), "")
            symbol = DAGGERS[comparison.significant] if comparison else ""
            line += [replace(mean, mark=mark, symbol=symbol)]
            line += [cells.difference(results.student_difference(self.pair, probed))]
            line += self._published_cells(target, row.method)
        return Line(line, self.pair, without_baselines(row.method))

    def _published_cells(self, target: Target, method: str | None) -> list[Cell]:
        """The cell of a published value, where the target has a column of them."""
        values = self.published[target.name]
        if not values:
            return []
        if method is None or (value := values.get(method)) is None:
            return [EMPTY]
        return [Cell(cells.fixed(value.value), source=self.sources[value.reference], value=value.value)]


def _dagger_notes(transfer: TransferResults, pair: str) -> list[str]:
    """The meaning of the daggers, or why there are none."""
    on_pair = [c for t in transfer.on(pair) for c in transfer.results[t.name].kd_comparisons.values() if c.pair == pair]
    if sizes := {c.family_size for c in on_pair} - {0}:
        numbers = " to ".join(map(str, sorted({min(sizes), max(sizes)})))
        return [
            "† significantly better than KD, ‡ significantly worse, at 5 %: moderated paired t-test over the students' "
            f"common seeds, corrected for the family of all comparisons with KD on the target, {numbers} here "
            "(Bonferroni)."
        ]
    if not on_pair:
        return []
    seeds = max(c.n for c in on_pair)
    few = f"{cells.counted(seeds, 'seed')} in common, and at least {MIN_SEEDS} are needed"
    return [f"No test against KD: {few if seeds < MIN_SEEDS else 'all differences are equal'}."]


def _kd_tables(transfer: TransferResults, pair: str) -> list[Table]:
    """The differences to KD with their intervals; none where nothing was tested."""
    targets, lines = transfer.on(pair), []
    comparisons = {target.name: transfer.results[target.name].kd_comparisons for target in targets}
    if not any(c.family_size for of_target in comparisons.values() for (_, p), c in of_target.items() if p == pair):
        return []
    for row in transfer.rows_on(pair):
        by_target = [comparisons[target.name].get((row.key, pair)) for target in targets]
        if any(by_target):
            line = [Cell(row.label), *map(accuracy.kd_cell, by_target)]
            lines.append(Line(line, pair, without_baselines(row.method)))
    intro = (
        "Mean difference to KD in points over common seeds, [95 % interval], p of the moderated paired t-test (common "
        "seeds). Interval and p are corrected for the family of all comparisons with KD on the target."
    )
    heads = [Head("", 1), *(Head(target.name, 1) for target in targets)]
    columns = [Column("Method", TEXT), *(Column("difference") for _ in targets)]
    networks = " → ".join(transfer.group.networks[pair])
    caption = f"Linear probes of {networks}: difference to KD"
    return [Table(caption, columns, [lines], title=f"Transfer of {pair} against KD", heads=heads, intro=[intro])]


# ---------------------------------------------------------------- files


def document(transfer: TransferResults) -> str:
    """Return the tables as they are printed."""
    return markdown.document(f"{transfer.group.heading}: transfer{_metric_title(transfer)}", tables(transfer))


def write(transfer: TransferResults, reports: Path) -> list[Path]:
    """Write the files of a group's probes to `<reports>/tables`; return their paths."""
    caption = f"Linear probes{_metric_title(transfer)}: {transfer.group.heading}."
    texts = {
        ".md": document(transfer),
        ".tex": latex.floats(transfer.stem, caption, tables(transfer)),
        ".csv": csv.render(COLUMNS, records(transfer)),
        "-significance.csv": csv.render(("target", *significance.COLUMNS), _comparisons(transfer)),
    }
    return files.write_texts(reports / "tables", transfer.stem, texts)


def _metric_title(transfer: TransferResults) -> str:
    return "" if transfer.metric == TOP1 else f", {transfer.metric.title.lower()}"


def records(transfer: TransferResults) -> Iterator[dict[str, Any]]:
    """Iterate over one record for each pair, target and method, by `COLUMNS`."""
    for pair in transfer.pairs:
        for target in transfer.on(pair):
            place = transfer.group.origin | {"pair": pair, "target": target.name, "probe_identity": target.identity}
            place |= {"epochs": target.recipe.get("epochs"), "size": target.config.dataset.get("size")}
            published = _published(transfer, target, pair)
            for teacher in target.group.teachers:
                if (top := transfer.metric.of_teacher(teacher).get(pair)) is not None:
                    numbers = {"method": TEACHER, "label": teacher.label, "n": 1, "mean": top}
                    yield place | numbers | accuracy.published_columns(published.get(TEACHER))
            for row in target.group.rows_on(pair):
                yield place | _record(transfer, target, pair, row, published.get(row.method))


def _comparisons(transfer: TransferResults) -> Iterator[dict[str, Any]]:
    """Iterate over the comparisons with KD and with the student alone on every target."""
    for name, results in transfer.results.items():
        yield from ({"target": name, **record} for record in significance.records(results, results.comparisons))


def _record(
    transfer: TransferResults, target: Target, pair: str, row: MethodRow, published: Published | None
) -> dict[str, Any]:
    results, seed_group, column = transfer.results[target.name], row.seed_groups[pair], transfer.metric.column
    comparison = results.kd_comparisons.get((row.key, pair))
    of_probes = [target.probes[folder].record for folder in seed_group.runs.folder]
    measured = {key: [v for record in of_probes if (v := getattr(record, key)) is not None] for key in MEASURED}
    return (
        {"method": row.method, "label": row.label, "identity": seed_group.identity}
        | {"seeds": " ".join(map(str, seed_group.by_seed(column))), "n": len(seed_group.by_seed(column))}
        | {"mean": seed_group.mean(column), "std": seed_group.std(column)}
        | {"delta_student": results.student_difference(pair, row)}
        | ({"low_kd": comparison.low, "high_kd": comparison.high} if comparison else {})
        | (accuracy.kd_columns(comparison) if comparison else {})
        | accuracy.published_columns(published)
        | {key: sum(values) / len(values) for key, values in measured.items() if values}
    )
