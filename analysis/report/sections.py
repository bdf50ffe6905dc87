"""The sections of the report's page, built from the same tables as the Markdown files."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.ablation import Ablation
from analysis.figures import style
from analysis.report import pictures
from analysis.report.page import Picture, Section, of_tables
from analysis.report.source import Source
from analysis.tables import ablation as ablation_tables
from analysis.tables import accuracy, cost, notes, ranks, significance
from analysis.tables import fidelity as fidelity_tables
from analysis.tables import transfer as transfer_tables
from analysis.tables.results import without_baselines
from analysis.tables.transfer import TransferResults
from analysis.transfer import collect as collect_transfer
from benchmark.runs.folder import folder_name, read_json
from benchmark.tables import cells, model
from benchmark.tables.model import CODE, EMPTY, NOTHING, TEXT, Cell, Column, Line, Listing, Table

PAIRS_ABREAST = 3  # in the table of accuracies, so that it needs no scrolling and is not cut in print
COLUMNS_ABREAST = 8  # in a table of ranks by pair or by method
FEW, MANY = 5, 10_000  # lines above which tables are folded: next to figures that show the same, and never
CONFUSED = 5  # pairs of classes listed for each method on each pair


def differences(source: Source) -> Section:
    """Build what readers look at first: the gain of each method on every pair, with its interval."""
    figures = source.guarded(pictures.of_gains(source), "gains", "Gains over the pairs")
    for pair in source.group.pairs:
        caption = f"{source.arrow(pair)}: differences in {source.group.top1}"
        figures += source.guarded(pictures.of_differences(source, pair), "differences", caption, pair)
    note = (
        f"In figures of more than {style.FEW_ROWS} rows some stand out and the others are gray: those of highlight=…, "
        f"else the student alone, KD, CLKD and the best {style.BEST_ROWS}. A method has the same color and mark in "
        "every figure."
    )
    many = any(len(source.group.rows_on(pair)) > style.FEW_ROWS for pair in source.group.pairs)
    notes = [note] if figures and many else []
    return Section("Gains", source.id("gains"), notes, pictures=figures)


def results(source: Source) -> Section:
    """Build the table of accuracies, a few pairs abreast, each mean linked to its runs."""
    table = accuracy.table(source.results, source.prefix)
    parts = model.split(table, PAIRS_ABREAST)
    if len(parts) > 1:
        parts = [replace(part, caption=f"{table.caption}: {', '.join(part.pairs)}") for part in parts]
    section = of_tables("Results", source.id("results"), parts, notes=["Each mean links to its runs."])
    return replace(section, fold_above=MANY)


def significance_and_ranks(source: Source) -> Section:
    """Build the comparisons with KD and with the student alone, and the ranks over several pairs."""
    id = source.id("significance")
    tables, figures = [], []
    if ranking := source.results.ranking:
        averages, *others = ranks.tables(ranking)
        tables.append(averages)
        for table in others:
            parts = model.split(table, COLUMNS_ABREAST)
            tables += [replace(part, caption=f"{part.caption}{_part(i, parts)}") for i, part in enumerate(parts, 1)]
        figures = source.guarded(pictures.of_ranks(source, ranking), "ranks", "Ranks over the pairs")
        source.problems.extend(f"not ranked: {text}" for text in ranking.exclusions)
    if source.results.comparisons:
        tables.append(significance.table(source.results))
    return replace(of_tables("Significance", id, tables, figures), figures_first=True, fold_above=FEW)


def _part(number: int, parts: Sequence[Table]) -> str:
    return f", part {number} of {len(parts)}" if len(parts) > 1 else ""


def curves(source: Source) -> Section:
    """Build learning curves, and accuracy against training time."""
    figures = _of_pairs(source, pictures.of_curves, "curves", "learning curves")
    return Section("Learning curves and time", source.id("curves"), pictures=figures)


def fidelity(source: Source) -> Section:
    """Build the measures of class structure, confused classes, and heat maps."""
    id = source.id("classes")
    if source.fidelity.runs.empty:
        return Section("Class structure", id)
    confused = fidelity_tables.confusion_table(source.fidelity, CONFUSED)
    tables = [fidelity_tables.table(source.fidelity), *([confused] if confused else [])]
    figures = _of_pairs(source, pictures.of_classes, "structure", "class structure")
    return of_tables("Class structure", id, tables, figures)


def tsne(source: Source) -> Section:
    """Build one joint projection of teacher and students for each pair."""
    figures = _of_pairs(source, pictures.of_tsne, "tsne", "t-SNE of the logits")
    note = (
        "All networks of a pair are embedded together, so that panels may be compared: where a class lies on its "
        "cross, the student sees it as the teacher does; where it lies elsewhere or runs into another, it does not. "
        "Distances between far clusters, and their sizes, mean nothing. Each image's mean logit is subtracted and "
        "each network's logits are scaled to unit size before, so that mere confidence does not show."
    )
    return Section("t-SNE", source.id("tsne"), [note] if figures else [], pictures=figures)


def _of_pairs(
    source: Source, draw: Callable[[Source, str], Iterator[Picture]], name: str, caption: str
) -> list[Picture]:
    """The figures of all pairs, or the reasons why there are none. name, caption: of a figure that has no data."""
    return [
        picture
        for pair in source.group.pairs
        for picture in source.guarded(draw(source, pair), name, f"{source.arrow(pair)}: {caption}", pair)
    ]


def transfer(source: Source) -> Section:
    """Build the tables of linear probes on other data sets."""
    id, targets = source.id("transfer"), collect_transfer(source.group, source.root)
    if not targets:
        return Section("Transfer", id)
    tables = transfer_tables.tables(TransferResults.of(source.group, targets))
    lists = [listing for table in tables for listing in table.lists]
    section = of_tables("Transfer", id, tables)
    return replace(section, lists=[*section.lists, *lists])


def costs(source: Source) -> Section:
    """Build the cost table, with peak memory where `make speed` measured it."""
    memory = {}
    for pair in source.group.pairs:
        memory |= {(pair, method): peak for method, peak in _peak_memory(source, pair)}
    return of_tables("Cost", source.id("cost"), [cost.table(source.results, memory)])


def _peak_memory(source: Source, pair: str) -> Iterator[tuple[str, float]]:
    """Iterate over method and peak memory in MB, of `speed/<pair>.json` among the reports or next to the runs."""
    for folder in (source.reports, source.root):
        rows = (read_json(folder / "speed" / folder_name(f"{pair}.json")) or {}).get("rows")
        if isinstance(rows, list):
            for row in rows:
                if isinstance(row, dict) and isinstance(row.get("peak_mb"), int | float):
                    yield str(row.get("method")), float(row["peak_mb"])
            return


# ---------------------------------------------------------------- settings and origin of the runs


def protocol(source: Source) -> Section:
    """Build the settings of all runs, and those of each method."""
    values: dict[str, dict[str, list[str]]] = {}  # setting -> value -> pairs
    options: dict[tuple[str, str, str], list[str]] = {}  # method, label and options -> pairs
    for pair, row, seed_group in source.results.seed_groups():
        for name, value in seed_group.config.items():
            if name.split(".")[0] not in ("method", "teacher"):
                values.setdefault(name, {}).setdefault(_value(value), []).append(pair)
        method_options = {
            key.removeprefix("method."): v for key, v in seed_group.config.items() if key.startswith("method.")
        }
        text = ", ".join(
            f"{key} {_value(v)}" for key, v in method_options.items() if key not in ("name", "implementation")
        )
        options.setdefault((row.method, row.label, text or NOTHING), []).append(pair)
    every = len(list(source.results.seed_groups()))
    settings = [
        Line([Cell(name), Cell(value), Cell("all" if len(pairs) == every else ", ".join(dict.fromkeys(pairs)))])
        for name, of_name in values.items()
        for value, pairs in of_name.items()
    ]
    all_pairs = set(source.group.pairs)
    of_methods = [
        Line([Cell(label), Cell(text), Cell("all" if set(pairs) == all_pairs else ", ".join(pairs))],
             methods=without_baselines(method))
        for (method, label, text), pairs in options.items()
    ]  # fmt: skip
    columns = [Column("Setting", TEXT), Column("Value", CODE), Column("Pairs", TEXT)]
    method_columns = [Column(title, TEXT) for title in ("Method", "Settings", "Pairs")]
    texts = [
        f"Runs: {notes.setting(source.group)}.",
        "For a given seed, every method starts from the same student weights and sees the same batches. The headline "
        "is the last epoch; the best epoch on the test set is recorded and enters no table but that of the runs. Runs "
        "of unlike settings are never averaged.",
    ]
    tables = [
        Table("Settings outside the methods", columns, [settings]),
        Table("Settings of the methods", method_columns, [of_methods]),
    ]
    return of_tables("Protocol", source.id("protocol"), tables, notes=texts)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def provenance(source: Source) -> Section:
    """Build the list of all runs that the numbers are made of, with folders and W&B runs, and of their teachers."""
    several = len(notes.machines(source.group)) > 1
    columns = [Column("Pair", TEXT), Column("Method", TEXT)]
    columns += [Column(title) for title in ("seed", "top-1, last", "top-1, best", "epochs", "time")]
    columns += [Column("Trained on", TEXT)] if several else []
    columns += [Column("Folder", CODE), Column("W&B", TEXT)]
    lines = []
    for pair, row, seed_group in source.results.seed_groups():
        for i, run in enumerate(seed_group.runs.to_dict("records")):
            line = [Cell(pair), Cell(row.label), Cell(str(run["seed"]), value=run["seed"])]
            line += [cells.number(run["top1_last"]), cells.number(run["top1_best"])]
            line += [cells.integer(run["epochs"]), cells.duration(run["wall_s"])]
            line += [Cell(notes.hardware(run["hardware"]) or NOTHING)] if several else []
            line += [Cell(run["folder"].relative_to(source.root).as_posix()), _tracked(run["folder"])]
            id = "" if i else accuracy.anchor(seed_group, source.prefix)
            lines.append(Line(line, pair, without_baselines(row.method), id))
    tables = [Table(f"Runs; folders below {source.root}", columns, [lines]), _teachers(source)]
    return of_tables("Provenance", source.id("provenance"), tables)


def _teachers(source: Source) -> Table:
    columns = [Column("Teacher", TEXT), Column("top-1"), Column("Pairs", TEXT)]
    columns += [Column("Folder", CODE), Column("SHA-256 of the weights", CODE), Column("W&B", TEXT)]
    teachers: dict[tuple[str, ...], tuple[float, list[str]]] = {}
    for run in source.group.runs.to_dict("records"):
        names = (run[key] for key in ("teacher", "teacher_run", "teacher_sha256"))
        key = tuple(name if isinstance(name, str) else "" for name in names)
        teachers.setdefault(key, (run["teacher_top1"], []))[1].append(run["pair"])
    lines = []
    for (network, folder, sha256), (top1, pairs) in teachers.items():
        line = [Cell(network), cells.number(top1), Cell(", ".join(dict.fromkeys(pairs)))]
        line += [Cell(folder or NOTHING), Cell(sha256 or NOTHING)]
        line.append(_tracked(source.root / folder) if folder else EMPTY)
        lines.append(Line(line, id="" if lines else source.id("teachers")))
    return Table(f"Teachers; folders below {source.root}", columns, [lines])


def _tracked(folder: Path) -> Cell:
    """A run's W&B run: a link where it is online, else its id."""
    tracked = read_json(folder / "wandb.json") or {}
    name, url = tracked.get("id"), tracked.get("url")
    if isinstance(url, str) and url.startswith(("https://", "http://")):
        return Cell(str(name or "run"), href=url)
    return Cell(f"{name}, offline") if name else EMPTY


def missing(source: Source) -> Section:
    """Build the lists of unfinished runs, missing seeds, and files that are missing or broken."""
    lists = []
    if source.results.unfinished:
        lists.append(Listing("Runs that are not in the tables", [run.text for run in source.results.unfinished]))
    if seeds := list(_missing_seeds(source)):
        lists.append(Listing("Seeds that other methods have on the pair", seeds))
    if problems := list(dict.fromkeys([*source.problems, *source.fidelity.notes])):
        lists.append(Listing("Figures and measures that are missing", problems))
    return Section("What is missing", source.id("missing"), lists=lists)


def _missing_seeds(source: Source) -> Iterator[str]:
    for pair in source.group.pairs:
        seeds = {row.label: set(row.seed_groups[pair].runs.seed) for row in source.group.rows_on(pair)}
        every = set().union(*seeds.values())
        for label, finished in seeds.items():
            if absent := sorted(every - finished):
                yield f"{pair} {label}: no run with seed {', '.join(map(str, absent))}"


def ablation(ablation: Ablation, number: int, files: Iterable[Path]) -> Section:
    """Build an ablation's tables and figure. files: of its figure."""
    figures = [pictures.of_ablation(ablation, file) for file in files if file.suffix == ".png"]
    section = of_tables(
        ablation_tables.title(ablation), f"ablation-{number}", ablation_tables.tables(ablation), figures
    )
    lists = [Listing("Missing runs", ablation.missing)] if ablation.missing else []
    return replace(section, lists=lists, pair=ablation.pair, method=ablation.method)


BUILDERS: Sequence[Callable[[Source], Section]] = (
    differences, results, significance_and_ranks, transfer, curves, fidelity, tsne, costs, protocol, provenance,
    missing,
)  # fmt: skip
