"""The commands of `python -m analysis`: each writes files, prints the tables that users read, and returns the paths.

matplotlib and scipy take longer to import than a table to make, so only the commands that need them import them.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from analysis import ablation as ablations
from analysis.ablation import Ablation
from analysis.selection import FILTERS, Selection
from analysis.tables import ablation as ablation_tables
from analysis.tables import files, results
from analysis.tables import transfer as transfer_tables
from analysis.transfer import collect as collect_transfer
from benchmark.config.schema import AnalysisOptions
from benchmark.errors import UserError, nearest
from benchmark.progress import Meter
from benchmark.tables import markdown
from benchmark.tables.model import Listing, Table

ABLATION_FILTERS = ("name", *FILTERS, "grid")


def tables(selection: Selection) -> list[Path]:
    """Print and write the tables of all groups."""
    written = []
    for i, group in enumerate(selection.groups):
        for j, metric in enumerate(results.METRICS[selection.options.accuracy]):
            collected = results.collect(group, selection.unfinished_of(group), metric)
            written += files.write(collected, selection.reports)
            written += files.write_pairwise(collected, selection.reports) if selection.options.pairwise else []
            print(("\n" if i or j else "") + files.document(collected), end="")
    documents, files_of_probes = _transfer(selection)
    print("".join(f"\n{text}" for text in documents), end="")
    written += files_of_probes
    lists = results.missing_runs(selection.unfinished_elsewhere)
    lists += [Listing("Not shown", selection.left_out)] if selection.left_out else []
    if lists:
        print("\n" + markdown.document("", [Table("", [], [], lists=lists)]), end="")
    return written


def transfer(selection: Selection) -> list[Path]:
    """Print and write the tables of linear probes. Raises UserError where no chosen student has a probe."""
    documents, written = _transfer(selection)
    if not documents:
        targets = f" on {', '.join(selection.options.target)}" if selection.options.target else ""
        raise UserError(
            f"no probes of these students{targets} in {selection.root}: make some with `make transfer TO=stl10`"
        )
    print("\n".join(documents), end="")
    return written


def _transfer(selection: Selection) -> tuple[list[str], list[Path]]:
    """Write the tables of linear probes; return them as they are printed, and the paths; none where there are none."""
    documents, written = [], []
    for group in selection.groups:
        targets = collect_transfer(group, selection.root, selection.options.target)
        for metric in results.METRICS[selection.options.accuracy] if targets else ():
            measured = transfer_tables.TransferResults.of(group, targets, metric)
            documents.append(transfer_tables.document(measured))
            written += transfer_tables.write(measured, selection.reports)
    return documents, written


def plots(selection: Selection) -> list[Path]:
    """Draw the figures of all groups. Figures that cannot be drawn are named on standard error."""
    from analysis import statistics
    from analysis.figures import correlation, curves, differences, ranks, style
    from analysis.figures.files import FigureWriter

    look = style.appearance(selection)
    writer = FigureWriter(selection.reports / style.FOLDER, look.width)
    with Meter("plots", 4 * len(selection.groups)) as meter:
        for group in selection.groups:
            meter.move_to(meter.done, group.heading)
            differences.write(group, statistics.compare(group), writer, look)
            meter.advance()
            curves.write(group, writer, look)
            meter.advance()
            correlation.write(group, selection.root, writer, look)
            meter.advance()
            ranks.write(group, writer, look)
            meter.advance()
    _warn([*writer.problems, *writer.notes])
    return writer.paths


def fidelity(selection: Selection) -> list[Path]:
    """Print and write how well class structure is passed on. Raises UserError where no run has test outputs."""
    from analysis import fidelity as measures
    from analysis.figures import fidelity as figures
    from analysis.figures import style
    from analysis.figures.files import FigureWriter
    from analysis.tables import fidelity as fidelity_tables

    look = style.appearance(selection)
    writer, written, problems = FigureWriter(selection.reports / style.FOLDER, look.width), [], []
    for group in selection.groups:
        measured = measures.measure(group, selection.root)
        if not measured.pairs:
            problems.append(f"nothing to measure on {group.heading}, {len(group.runs)} runs; {measured.notes[0]}")
            continue
        unfinished = selection.unfinished_of(group)
        print(("\n" if written else "") + fidelity_tables.document(measured, unfinished), end="")
        written += fidelity_tables.write(measured, selection.reports, unfinished)
        figures.write(measured, writer, look)
    if not written:
        raise UserError(problems[0])
    _warn([*problems, *writer.problems, *writer.notes])
    return [*written, *writer.paths]


def report(selection: Selection) -> list[Path]:
    """Write the page, with the files of its tables and figures."""
    from analysis.report import build

    loaded, problems = ablations.load(selection.root)
    chosen = [ablation for ablation in loaded if all(_passes(ablation, key, selection.options) for key in FILTERS)]
    written, more = build.write(selection, chosen, problems)
    _warn(more)
    return written


def ablation(options: AnalysisOptions) -> list[Path]:
    """Print and write the tables of the chosen ablations, and draw their figures.

    Raises UserError where there are none, and for a name that none has.
    """
    from analysis.figures import ablation as figures
    from analysis.figures import style
    from analysis.figures.files import FigureWriter

    folder = Path(options.runs) / ablations.FOLDER
    chosen, problems = ablations.load(Path(options.runs))
    _warn(problems)
    if not chosen:
        raise UserError(f"no ablations in {folder}: make one with `make ablate METHOD=clkd`")
    for key in ABLATION_FILTERS:
        available = {getattr(ablation, key) for ablation in chosen}
        for name in getattr(options, key):
            if name not in available:
                raise UserError(f"no ablation in {folder} has {key} {name!r}{nearest(name, available)}")
        chosen = [ablation for ablation in chosen if _passes(ablation, key, options)]
    written, reports = [], Path(options.reports)
    look = style.Appearance(titles=options.titles, width=style.WIDTHS[options.width])
    writer = FigureWriter(reports / ablations.FOLDER, look.width)
    for i, ablation in enumerate(chosen):
        print(("\n" if i else "") + ablation_tables.document(ablation), end="")
        written += ablation_tables.write(ablation, reports)
        figures.write(ablation, writer, look)
    _warn([*writer.problems, *writer.notes])
    return [*written, *writer.paths]


def _passes(ablation: Ablation, key: str, options: AnalysisOptions) -> bool:
    names = getattr(options, key)
    return not names or getattr(ablation, key) in names


def _warn(problems: Iterable[str]) -> None:
    for problem in problems:
        print(problem, file=sys.stderr)
