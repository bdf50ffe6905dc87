"""How well class structure is passed on: the measures, accuracy changes of classes, and confused pairs of classes.

Numbers are mean ± sample standard deviation over seeds. Marks go to the distillation methods, by the mean as it is
printed; methods that tie share a mark.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.fidelity import EXTREME_CLASSES, LEVEL_PLURALS, MEASURES, ClassChanges, Fidelity, Measure
from analysis.frames import rows_where
from analysis.load import UnfinishedRun
from analysis.predictions import CALIBRATION_BINS
from analysis.tables import csv, latex, notes
from analysis.tables.files import around, write_texts
from analysis.tables.results import BASELINES, missing_runs, without_baselines
from benchmark.tables import cells, markdown, model
from benchmark.tables.model import EMPTY, TEXT, Cell, Column, Line, Listing, Table

LABELS = 6  # methods side by side
CONFUSED = 10  # pairs of classes of each row in the files
SHORT = {"correlation_r": "corr. r", "correlation_distance": "corr. dist.", "top5_overlap": "top-5", "kl": "KL"}
DEFINITIONS = (
    "Measured on the test set at the last epoch against the student's own teacher; mean ± sample standard deviation "
    "over seeds. Correlation r: Pearson's r between the class correlation matrices of the logits of student and "
    "teacher, above the diagonal; correlation distance: Frobenius norm of their difference over the number of classes. "
    "Agreement: same top-1 prediction; top-5 overlap: mean share of the teacher's five first classes among the "
    "student's. KL: KL(teacher || student) of the softmax at temperature 1. ECE: expected calibration error, "
    f"{CALIBRATION_BINS} bins. ↑: higher is better, ↓: lower is better. Per pair and column, the best distillation "
    "method is bold, the second underlined."
)


def table(fidelity: Fidelity) -> Table:
    """Return the measures, a line for each pair and row."""
    columns = [Column("Pair", TEXT), Column("Method", TEXT), Column("n"), *map(_column, MEASURES)]
    blocks = []
    for pair in fidelity.pairs:
        rows = rows_where(fidelity.summary, pair=pair).to_dict("records")
        marks = _marks(rows)
        for baselines in (True, False):
            of_kind = [row for row in rows if (row["method"] in BASELINES) == baselines]
            blocks.append([_line(pair, row, marks) for row in of_kind])
    missing = [Listing(f"Missing, {len(fidelity.notes)}", fidelity.notes)] if fidelity.notes else []
    caption = "Class structure passed on"
    blocks = [block for block in blocks if block]
    return Table(caption, columns, blocks, intro=[DEFINITIONS], lists=missing)


def _column(measure: Measure) -> Column:
    unit = f" [{measure.unit}]" if measure.unit else ""
    end = f"{unit} {'↑' if measure.better > 0 else '↓'}"
    return Column(f"{measure.title}{end}", short=f"{SHORT.get(measure.key, measure.title)}{end}")


def _line(pair: str, row: Mapping[str, Any], marks: Mapping[tuple[str, str], str]) -> Line:
    line = [Cell(pair), Cell(row["label"]), cells.integer(row["n"])]
    line += [_value(row, measure, marks.get((row["label"], measure.key), "")) for measure in MEASURES]
    return Line(line, pair, without_baselines(row["method"]))


def _value(row: Mapping[str, Any], measure: Measure, mark: str) -> Cell:
    """Mean ± deviation, and the number of runs where not all have a value."""
    mean, std, n = row[measure.key], row[f"{measure.key}_std"], row[f"{measure.key}_n"]
    if math.isnan(mean):
        return EMPTY
    cell = cells.mean(mean, std, n if 0 < n < row["n"] else 0, measure.digits)
    return replace(cell, mark=mark)


def _marks(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Best and second by label and measure, among the distillation methods of one pair."""
    marks = {}
    for measure in MEASURES:
        methods = [row for row in rows if row["method"] not in BASELINES]
        printed = {row["label"]: cells.fixed(row[measure.key], measure.digits) for row in methods}
        of_measure = cells.best_and_second(printed, measure.better)
        marks |= {(label, measure.key): mark for label, mark in of_measure.items()}
    return marks


def confusion_table(fidelity: Fidelity, top: int) -> Table | None:
    """Return the `top` pairs of classes that each row confuses most; None where no class is confused."""
    if fidelity.confused.empty:
        return None
    columns = [Column(title, TEXT) for title in ("Pair", "Method", "true class", "taken for")]
    columns += [Column(title) for title in ("student [%]", "teacher [%]", "excess")]
    lines = []
    for row in fidelity.confused.groupby(["pair", "label"], sort=False).head(top).to_dict("records"):
        line = [Cell(str(row[key])) for key in ("pair", "label", "true", "predicted")]
        line += [cells.number(row["student"]), cells.number(row["teacher"]), cells.difference(row["excess"])]
        lines.append(Line(line, row["pair"], without_baselines(row["method"])))
    intro = (
        "Pairs of classes that a student gets wrong relative to its teacher: images of the true class that it takes "
        f"for another, in per cent of the class's images, minus those that the teacher does; the {top} largest of each "
        "row, mean over seeds."
    )
    caption = "Classes confused more often than by the teacher"
    return Table(caption, columns, [lines], title=caption, intro=[intro])


def change_tables(fidelity: Fidelity) -> Iterator[Table]:
    """Iterate over the accuracy changes of classes and superclasses against the student alone and the teacher."""
    for pair in fidelity.pairs:
        for to, other in (("student", "the student alone"), ("teacher", "the teacher")):
            for level in fidelity.levels(pair):
                if change := fidelity.class_changes(pair, level, to):
                    title = f"{pair}: accuracy of {LEVEL_PLURALS[level]} against {other}"
                    first, *rest = model.split(_change_table(change, title), LABELS)
                    yield first
                    yield from (replace(part, title="", intro=()) for part in rest)


def _change_table(change: ClassChanges, title: str) -> Table:
    order = "the largest mean gain first"
    if change.partial:
        n = EXTREME_CLASSES
        order = f"the {n} classes with the largest mean gain, then the {n} that lose most"
    intro = f"Points between runs of one seed, mean ± sample standard deviation over seeds (their number); {order}."
    labels = list(change.mean.index)
    columns = [Column(change.level, TEXT), *(Column(f"{label} ({change.n[label]})") for label in labels)]
    lines = [Line([Cell(str(name)), *(_change(change, label, name) for label in labels)]) for name in change.mean]
    return Table(title, columns, [lines], title=title, intro=[intro])


def _change(change: ClassChanges, label: str, name: Any) -> Cell:
    value, std = change.mean.loc[label, name], change.std.loc[label, name]
    if math.isnan(value):
        return EMPTY
    return Cell(cells.signed(value), value=value, spread="" if math.isnan(std) else cells.fixed(std))


# ---------------------------------------------------------------- files


def document(fidelity: Fidelity, unfinished: Sequence[UnfinishedRun] = (), listed: int | None = markdown.LISTED) -> str:
    """Return the measures of a group as they are printed. listed: runs named below them, None for all."""
    return _document(fidelity, unfinished, listed, [])


def _document(
    fidelity: Fidelity, unfinished: Sequence[UnfinishedRun], listed: int | None, more: Iterable[Table]
) -> str:
    group, measured = fidelity.group, table(fidelity)
    intro = [*measured.intro, f"Runs: {notes.setting(group)}."]
    measured = replace(measured, intro=intro, lists=[*measured.lists, *missing_runs(unfinished)])
    tables = [*around(measured, model.group_by_first_column(measured)), *more]
    return markdown.document(f"Class structure passed on: {group.heading}", tables, listed)


def write(fidelity: Fidelity, reports: Path, unfinished: Sequence[UnfinishedRun] = ()) -> list[Path]:
    """Write the files of a group to `<reports>/tables`; return their paths."""
    group, measured = fidelity.group, table(fidelity)
    stem = f"{group.stem}-structure"
    confused = confusion_table(fidelity, CONFUSED)
    more = [*change_tables(fidelity), *([confused] if confused else [])]
    text = f"{measured.caption}: {group.heading}."
    texts = {
        ".md": _document(fidelity, unfinished, None, more),
        ".tex": latex.floats(stem, text, around(measured, model.group_by_first_column(measured))),
    }
    frames = {"": fidelity.summary, "-runs": fidelity.runs, "-classes": fidelity.classes}
    for name, frame in (frames | {"-confused": fidelity.confused}).items():
        texts[f"{name}.csv"] = csv.render(["dataset", "profile", *frame], _records(fidelity, frame))
    return write_texts(reports / "tables", stem, texts)


def _records(fidelity: Fidelity, frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of one of the frames of `Fidelity`, with data set and profile."""
    origin = fidelity.group.origin
    return (origin | dict(zip(frame, row, strict=True)) for row in frame.itertuples(index=False, name=None))
