"""The report: one page of all chosen runs, `<reports>/report[-<selection>].html`, with its tables' and figures' files.

Same runs, same bytes. Figures are also written as .png and .pdf to `<reports>/plots`, tables as .md, .tex and .csv to
`<reports>/tables`, and ablations to `<reports>/ablations`.
"""

from collections.abc import Sequence
from pathlib import Path

from analysis import ablation as ablations
from analysis import fidelity as measures
from analysis.ablation import Ablation
from analysis.figures import ablation as ablation_figures
from analysis.figures import style
from analysis.figures.files import FigureWriter
from analysis.report import sections
from analysis.report.page import Part, Section, render
from analysis.report.source import Source
from analysis.selection import Selection
from analysis.tables import ablation as ablation_tables
from analysis.tables import fidelity as fidelity_tables
from analysis.tables import files, results
from analysis.tables import transfer as transfer_tables
from analysis.tables.transfer import TransferResults
from analysis.transfer import collect as collect_transfer
from benchmark.progress import Meter
from benchmark.runs.folder import write_text
from benchmark.tables.model import Listing


def write(selection: Selection, chosen: Sequence[Ablation], broken: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Write the page, with the files of its tables and figures.

    chosen: the ablations to show. broken: files that are not manifests. Returns all paths, and what could not be shown
    and why.
    """
    parts, written, problems = [], [], []
    with Meter("report", len(selection.groups) * len(sections.BUILDERS)) as meter:
        for number in range(len(selection.groups)):
            source, part = _group(selection, number, meter)
            parts.append(part)
            written += _table_files(source) + source.writer.paths
            problems += [*source.problems, *source.fidelity.notes, *source.writer.notes]
    ablation_sections = []
    for number, ablation in enumerate(chosen):
        look = style.appearance(selection)
        writer = FigureWriter(selection.reports / ablations.FOLDER, look.width)
        ablation_figures.write(ablation, writer, look)
        written += ablation_tables.write(ablation, selection.reports) + writer.paths
        problems += [*writer.problems, *writer.notes]
        ablation_sections.append(sections.ablation(ablation, number, writer.paths))
    parts += [Part("Ablations", ablation_sections)] if ablation_sections else []
    rest = [*(run.text for run in selection.unfinished_elsewhere), *broken]
    lists = [Listing("What could not be read, or whose settings could not", rest)] if rest else []
    lists += [Listing("Not shown", selection.left_out)] if selection.left_out else []
    if lists:
        parts.append(Part("Not in any table", [Section("Other runs and files", "rest", lists=lists)]))
    path = selection.reports / f"{'-'.join(filter(None, ('report', selection.name)))}.html"
    write_text(path, render(parts, selection.groups, selection.root))
    return [*written, path], list(dict.fromkeys([*problems, *broken]))


def _group(selection: Selection, number: int, meter: Meter) -> tuple[Source, Part]:
    """Measure one group and build its sections."""
    group = selection.groups[number]
    collected = results.collect(group, selection.unfinished_of(group))
    fidelity = measures.measure(group, selection.root)
    look = style.appearance(selection)
    writer = FigureWriter(selection.reports / style.FOLDER, look.width, extra=("svg",))
    source = Source(number, collected, fidelity, selection.root, selection.reports, look, writer)
    group_sections = [build(source) for build in meter.each(sections.BUILDERS)]
    return source, Part(group.heading, [section for section in group_sections if not section.empty])


def _table_files(source: Source) -> list[Path]:
    written = files.write(source.results, source.reports)
    if targets := collect_transfer(source.group, source.root):
        written += transfer_tables.write(TransferResults.of(source.group, targets), source.reports)
    if source.fidelity.pairs:
        written += fidelity_tables.write(source.fidelity, source.reports, source.results.unfinished)
    return written
