"""The files of a group's tables: `.md` to read, `.tex` for a paper, `.csv` to compute with. Same runs, same bytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from analysis import statistics
from analysis.tables import accuracy, cost, csv, latex, ranks, significance
from analysis.tables.results import TOP1, Results
from benchmark.runs.folder import write_text
from benchmark.tables import markdown, model
from benchmark.tables.model import Table


def write_texts(folder: Path, stem: str, texts: Mapping[str, str]) -> list[Path]:
    """Write texts to files; return their paths. texts: by the end of the file's name, after the stem."""
    paths = [folder / f"{stem}{end}" for end in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def around(table: Table, parts: Iterable[Table]) -> list[Table]:
    """Return the parts of a table between its intro and its notes, which become tables without lines."""
    end = Table("", [], [], notes=table.notes, lists=table.lists)
    return [Table("", [], [], intro=table.intro), *parts, end]


def write(results: Results, reports: Path) -> list[Path]:
    """Write the files of a group's accuracies, costs and tests to `<reports>/tables`; return their paths."""
    table = accuracy.table(results)
    texts = {
        ".md": document(results),
        ".tex": _latex(results, "", table.caption, [table]),
        ".csv": csv.render(accuracy.columns(results.metric), accuracy.records(results)),
    }
    if results.metric == TOP1:  # costs are those of the runs, whatever is measured on them
        costs = cost.table(results)
        texts["-cost.tex"] = _latex(results, "-cost", costs.caption, around(costs, model.group_by_first_column(costs)))
        texts["-cost.csv"] = csv.render(cost.COLUMNS, cost.records(results))
    if results.comparisons:
        texts |= _significance(results)
    if ranking := results.ranking:
        heading, tables = f"{_heading(results)}: ranks over pairs", ranks.tables(ranking)
        texts["-ranks.md"] = markdown.document(heading, tables, listed=None)
        texts["-ranks.tex"] = _latex(results, "-ranks", "Ranks over pairs", tables)
        texts["-ranks.csv"] = csv.render(ranks.COLUMNS, ranks.records(results, ranking))
    return write_texts(reports / "tables", results.stem, texts)


def document(results: Results) -> str:
    """Return the tables of a group as they are printed: accuracies, differences to KD, costs."""
    tables = [accuracy.table(results), accuracy.kd_table(results)]
    tables += [cost.table(results)] if results.metric == TOP1 else []
    return markdown.document(_heading(results), [table for table in tables if table])


def _heading(results: Results) -> str:
    return results.group.heading if results.metric == TOP1 else f"{results.group.heading}: {results.metric.title}"


def _significance(results: Results) -> dict[str, str]:
    table, heading = significance.table(results), f"{_heading(results)}: significance"
    by_pair = model.group_by_first_column(table)
    without_notes = around(table, [_without_last_column(part) for part in by_pair])
    return {
        "-significance.md": markdown.document(heading, around(table, by_pair)),
        "-significance.tex": _latex(results, "-significance", table.caption, without_notes),
        "-significance.csv": csv.render(significance.COLUMNS, significance.records(results, results.comparisons)),
    }


def write_pairwise(results: Results, reports: Path) -> list[Path]:
    """Write the comparisons of every two rows to `<reports>/tables`; return the paths, none where there are no two."""
    comparisons = statistics.compare_all(results.group, results.metric.column)
    if not comparisons:
        return []
    table = significance.pairwise_table(results, comparisons)
    parts = around(table, model.group_by_first_column(table))
    texts = {
        "-pairwise.md": markdown.document(f"{_heading(results)}: every two rows", parts),
        "-pairwise.csv": csv.render(significance.COLUMNS, significance.records(results, comparisons)),
    }
    return write_texts(reports / "tables", results.stem, texts)


def _latex(results: Results, end: str, caption: str, tables: Sequence[Table]) -> str:
    """Tables as LaTeX, captioned with data set and profile. end: of the file's name."""
    return latex.floats(f"{results.stem}{end}", f"{caption}: {results.group.heading}.", tables)


def _without_last_column(table: Table) -> Table:
    lines = [[replace(line, cells=line.cells[:-1]) for line in block] for block in table.blocks]
    return replace(table, columns=table.columns[:-1], blocks=lines)
