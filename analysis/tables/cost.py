"""What training with each method costs: time, extra parameters, memory."""

import math
from collections.abc import Mapping
from typing import Any

from analysis.tables import notes
from analysis.tables.accuracy import COST_COLUMNS
from analysis.tables.results import Results, without_baselines
from benchmark.tables import cells
from benchmark.tables.model import TEXT, Cell, Column, Line, Table

TITLES = ("n", "time per run", "ms/step", "× student", "extra parameters", "extra buffers", "agreement",
          "correlation distance")  # fmt: skip
COLUMNS = ("dataset", "profile", "pair", "method", "label", "identity", "n", *COST_COLUMNS)


def table(results: Results, peak_memory: Mapping[tuple[str, str], float] | None = None) -> Table:
    """Return the cost table, means over seeds. peak_memory: in MB by pair and method, as `make speed` measured it."""
    intro = [
        "Means over seeds; time per run without the teacher's training. Extra parameters are trained with the method "
        "and not used afterwards; buffers are its memory. × student: ms/step over that of the student alone. Agreement "
        "with the teacher's predictions in per cent; distance of the class correlation matrices to the teacher's."
    ]
    if len(notes.machines(results.group)) > 1:
        intro.append("The times were taken on unlike machines.")
    columns = [Column("Pair", TEXT), Column("Method", TEXT), *map(Column, TITLES)]
    if peak_memory:
        columns.append(Column("peak memory [MB]"))
        intro.append("Peak memory is what `make speed` measured for the method, with its batch and machine.")
    lines = []
    for pair, row, seed_group in results.seed_groups():
        mean = {column: seed_group.mean(column) for column in COST_COLUMNS}
        alone = results.group.baseline(seed_group, pair)
        student_ms = alone.mean("step_ms") if alone else math.nan
        line = [
            Cell(pair), Cell(row.label), cells.integer(seed_group.n), cells.duration(mean["wall_s"]),
            cells.number(mean["step_ms"], 1), cells.number(mean["step_ms"] / student_ms if student_ms else math.nan),
            cells.integer(mean["extra_parameters"]), cells.integer(mean["extra_buffers"]),
            cells.number(mean["agreement"]), cells.number(mean["correlation_distance"], 4),
        ]  # fmt: skip
        line += [cells.integer(peak_memory.get((pair, row.method)))] if peak_memory else []
        lines.append(Line(line, pair, without_baselines(row.method)))
    return Table("Cost of training, mean over seeds", columns, [lines], title="Cost", intro=intro)


def records(results: Results) -> list[dict[str, Any]]:
    """Return one record for each pair and method, by `COLUMNS`; times in seconds and milliseconds."""
    return [
        results.group.origin
        | {"pair": pair, "method": row.method, "label": row.label, "identity": seed_group.identity, "n": seed_group.n}
        | {column: seed_group.mean(column) for column in COST_COLUMNS}
        for pair, row, seed_group in results.seed_groups()
    ]
