"""One self-contained HTML page of all runs found: `<reports>/report.html`. Same runs, same bytes.

A section is data (notes, tables, figures); `templates/` lays it out, with every text escaped, since names come from run
folders that others may have made. The page asks nothing of a network: script and style are in it, figures are data
URIs. Each figure is also written as .png and .pdf to `<reports>/plots`, each table as .md, .tex and .csv to
`<reports>/tables`, and ablations to `<reports>/ablations`.
"""

import base64
import datetime
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from analysis import ablation, fidelity, published, statistics
from analysis.ablation import Ablation
from analysis.fidelity import MEASURES, Fidelity
from analysis.figures import correlation, style
from analysis.figures import curves as learning_curves
from analysis.figures import fidelity as fidelity_figures
from analysis.figures import ranks as rank_figures
from analysis.figures import tsne as tsne_figures
from analysis.groups import MethodRow, ResultGroup, SeedGroup
from analysis.load import UnfinishedRun
from analysis.statistics import Ranking
from analysis.tables import accuracy as tables
from analysis.tables import fidelity as structure_tables
from analysis.tables import significance as statistics_tables
from analysis.tables.accuracy import BEST, NOTHING, SECOND, Table, fixed, signed
from benchmark.runs.folder import read_json, write_text

SVG_LIMIT = 200_000  # bytes; a larger figure is shown as PNG
PAIRS_ABREAST = 3  # in the main table, so that it needs no scrolling and is not cut in print
STYLE = style.STYLE | {"svg.hashsalt": "report"}
NUMBER, TEXT, CODE = "number", "", "code"  # kinds of columns
CONFUSED = 5  # pairs of classes listed for each method on each pair


# ---------------------------------------------------------------- what a page is made of


@dataclass(frozen=True)
class Item:
    """One cell of a table. value: what a numeric column is sorted by; None or NaN where nothing is known, which is
    sorted last. href: an anchor of this page, or an address on the web."""

    text: str
    value: float | None = None
    mark: str = ""
    href: str = ""

    @property
    def key(self) -> str | None:
        """`value` as the page's script reads it."""
        return None if self.value is None or math.isnan(self.value) else repr(float(self.value))


@dataclass(frozen=True)
class Column:
    """kind: NUMBER, TEXT or CODE. pair: the only pair that the column is about; it is hidden with it."""

    title: str
    kind: str = NUMBER
    pair: str | None = None


@dataclass(frozen=True)
class Line:
    """One row of a table. pair, methods: the row is shown where the pair and all of these methods are chosen."""

    items: list[Item]
    pair: str | None = None
    methods: tuple[str, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class Grid:
    """A table. blocks: lines that are sorted among themselves. heads: titles above the columns, each with its number of
    columns and pair. pairs: the table is shown where one of these is chosen; always where there are none."""

    caption: str
    columns: list[Column]
    blocks: list[list[Line]]
    heads: list[tuple[str, int, str | None]] = field(default_factory=list)
    pairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure. uri: its data; width: in CSS pixels; files: where it lies for a paper, relative to the page."""

    uri: str
    width: int
    alt: str
    caption: str
    files: str
    pair: str | None = None


@dataclass(frozen=True)
class Section:
    """notes stand before the tables and figures; lists (title and entries) after them. pair, method: what all of it is
    about, if it is about one."""

    title: str
    id: str
    notes: list[str] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    lists: list[tuple[str, list[str]]] = field(default_factory=list)
    pair: str | None = None
    method: str | None = None

    @property
    def empty(self) -> bool:
        return not (self.notes or self.grids or self.pictures or self.lists)


@dataclass(frozen=True)
class Part:
    """What stands under one heading: a group of runs, or all ablations."""

    title: str
    sections: list[Section]


@dataclass
class Source:
    """One group of runs and what its sections need. `problems` collects what could not be shown, and why.

    number: of the group on the page, which keeps ids apart. root: the folder of all runs.
    """

    number: int
    group: ResultGroup
    table: Table
    structure: Fidelity
    root: Path
    reports: Path
    palette: Mapping[str, str]
    written: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def id(self, name: str) -> str:
        return f"g{self.number}-{name}"

    def place(self, cell: SeedGroup) -> str:
        """Anchor of a cell's runs in the section of provenance."""
        return self.id(f"runs-{cell.identity}")

    def cells(self) -> Iterator[tuple[str, MethodRow, SeedGroup]]:
        """All cells, by pair and row in the table's order."""
        for pair in self.group.pairs:
            for row in self.group.rows:
                if pair in row.seed_groups:
                    yield pair, row, row.seed_groups[pair]

    def arrow(self, pair: str) -> str:
        return " → ".join(self.group.networks[pair])

    def picture(self, figure: Figure, name: str, alt: str, caption: str, pair: str | None = None) -> Picture:
        """Write a figure's files and take it into the page: as SVG where that is small, else as PNG."""
        group = self.group
        stem = style.stem(group, name, pair)
        files = style.save(figure, self.reports / "plots", stem)
        self.written += files
        svg = io.BytesIO()
        figure.savefig(
            svg, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.05
        )
        shown = _data("svg+xml", svg.getvalue())
        if len(svg.getvalue()) > SVG_LIMIT:
            shown = _data("png", next(f for f in files if f.suffix == ".png").read_bytes())
        return Picture(shown, round(96 * figure.get_figwidth()), alt, caption, f"plots/{stem}.pdf", pair)


# ---------------------------------------------------------------- the sections


def results(source: Source) -> Section:
    """The main table, a few pairs abreast, with the notes of the Markdown table."""
    table, group = source.table, source.group
    notes = [
        "Top-1 accuracy on the test set in per cent at the last epoch: mean ± sample standard deviation (number of "
        "seeds). Δ: difference to the student alone. Per pair, the best distillation method is bold and the second "
        "underlined. Each mean leads to the runs it is made of.",
        f"Runs: {tables.setting(table)}.",
    ]
    notes += [tables.published_note(table)] if table.any_published else []
    notes += tables.table_notes(table)
    grids = []
    for i in range(0, len(group.pairs), PAIRS_ABREAST):
        pairs = group.pairs[i : i + PAIRS_ABREAST]
        columns = [Column("Method", TEXT)]
        heads: list[tuple[str, int, str | None]] = [("", 1, None)]
        for pair in pairs:
            titles = ["top-1", "Δ", *(["published"] if table.has_published(pair) else [])]
            columns += [Column(title, pair=pair) for title in titles]
            heads.append((source.arrow(pair), len(titles), pair))
        blocks = [[_result(source, line, pairs) for line in section] for section in table.sections(pairs)]
        of = f", pairs {i + 1} to {i + len(pairs)} of {len(group.pairs)}" if len(group.pairs) > PAIRS_ABREAST else ""
        grids.append(Grid(f"Top-1 accuracy in per cent{of}", columns, blocks, heads, tuple(pairs)))
    lists = [("Published", [f"[{n}] {s}" for s, n in table.sources.items()])] if table.sources else []
    return Section("Results", source.id("results"), notes, grids, lists=lists)


def _result(source: Source, line: tables.Line, pairs: Sequence[str]) -> Line:
    row = line.row
    items = [Item(line.label)]
    for pair in pairs:
        entry = line.entries.get(pair)
        if entry is None:
            items += [Item(NOTHING)] * (3 if source.table.has_published(pair) else 2)
            continue
        if entry.skipped:
            items += [Item("n/a"), *[Item(NOTHING)] * (2 if source.table.has_published(pair) else 1)]
            continue
        spread = "" if math.isnan(entry.std) else f" ± {fixed(entry.std)}"
        text = f"{fixed(entry.mean)}{spread} ({entry.n}) {entry.dagger}".rstrip()
        href = f"#{source.place(row.seed_groups[pair])}" if row else f"#{source.id('teachers')}"
        items += [Item(text, entry.mean, entry.mark, href), _signed(entry.delta)]
        if known := entry.published:
            items.append(Item(f"{fixed(known.value)} [{source.table.sources[known.reference]}]", known.value))
        elif source.table.has_published(pair):
            items.append(Item(NOTHING))
    methods = (row.method,) if row and row.method != published.STUDENT else ()
    return Line(items, methods=methods)


def significance(source: Source) -> Section:
    """All comparisons of two rows, and ranks over the pairs."""
    table = source.table
    if not table.comparisons:
        return Section("Significance", source.id("significance"))
    titles = ("n", "difference", "from", "to", "p", "Holm", "d_z")
    columns = [Column(t, TEXT) for t in ("Pair", "Method", "against")]
    columns += [*map(Column, titles), Column("note", TEXT)]
    lines = []
    for c in table.comparisons:
        dagger = tables.DAGGERS[c.significant]
        items = [Item(c.pair), Item(c.row.label), Item(c.other.label), _integer(c.n)]
        items.append(Item(f"{signed(c.difference)} {dagger}".rstrip(), c.difference, BEST if dagger else ""))
        items += [_signed(v) for v in (c.low, c.high)]
        items += [_p_value(v) for v in (c.t_p, c.t_holm)]
        lines.append(Line([*items, _signed(c.d_z), Item(c.note)], c.pair, _methods(c.row, c.other)))
    grids = [Grid("Every two methods on a pair, with the 95 % interval (from, to)", columns, [lines])]
    notes, pictures = [statistics_tables.explanation(table)], []
    if ranking := statistics.rank(table.group, table.comparisons):
        notes.append(statistics_tables.friedman_note(ranking))
        grids.append(_ranks(source, ranking))
        pictures = list(_rank_pictures(source, ranking))
        source.problems += [f"not ranked: {text}" for text in ranking.exclusions]
    return Section("Significance", source.id("significance"), notes, grids, pictures)


def _ranks(source: Source, ranking: Ranking) -> Grid:
    columns = [Column("Method", TEXT), Column("average rank")]
    columns += [Column(t) for t in ("wins", "ties", "losses")]
    columns += [Column(f"rank on {source.arrow(p)}", pair=p) for p in ranking.pairs]
    lines = []
    for i, row in sorted(enumerate(ranking.rows), key=lambda r: ranking.average[r[0]]):
        outcomes = [int(n) for n in (ranking.wins[i].sum(), ranking.ties[i].sum(), ranking.wins[:, i].sum())]
        items = [Item(row.label), _number(ranking.average[i])]
        items += [_integer(n) for n in outcomes]
        items += [Item(f"{rank:g}", rank) for rank in ranking.ranks[i]]
        lines.append(Line(items, methods=_methods(row)))
    caption = "Ranks over the pairs, 1 the best; wins, ties and losses against the other methods on all pairs"
    return Grid(caption, columns, [lines])


def _rank_pictures(source: Source, ranking: Ranking) -> Iterator[Picture]:
    """The figures of `rank_figures`, as far as there is something to draw."""
    group, rows = source.group, len(ranking.rows)
    if rows > rank_figures.MAX_ROWS:
        source.problems.append(f"no figures of ranks: {rows} rows are too many to draw; choose some with method=…")
        return
    averages = "; ".join(f"{r.label} {v:.2f}" for r, v in zip(ranking.rows, ranking.average, strict=True))
    if rows > 2:
        figure = rank_figures.draw_critical_difference(group, ranking, source.palette)
        alt = f"Critical difference diagram. Average ranks: {averages}; difference {ranking.critical_difference:.2f}."
        caption = (
            "Average ranks over the pairs, 1 the best; a bar joins methods that Nemenyi's test does not tell apart"
        )
        yield source.picture(figure, "ranks", alt, caption)
    if (ranking.wins + ranking.ties).any():
        figure = rank_figures.draw_outcomes(group, ranking)
        alt = "Matrix of wins, ties and losses of each method against each other. The table of ranks has their sums."
        caption = "Wins/ties/losses of the row against the column, in pairs, by 95 % intervals"
        yield source.picture(figure, "wins", alt, caption)
    figure = rank_figures.draw_profile(group, ranking, source.palette)
    best = "; ".join(f"{r.label} {v:.0%}" for r, v in zip(ranking.rows, ranking.share_within(1.0), strict=True))
    alt = f"Performance profile. Share of pairs within one point of the best: {best}."
    caption = "Performance profile: share of the pairs on which a method is at most τ points below the best"
    yield source.picture(figure, "profile", alt, caption)


def curves(source: Source) -> Section:
    """Learning curves, and accuracy against training time."""
    pictures = []
    for pair in source.group.pairs:
        lines, missing = learning_curves.learning_curves(source.group, pair)
        source.problems += missing
        if not lines:
            continue
        ends = "; ".join(f"{line.row.label} {line.mean.iloc[-1]:.2f}" for line in lines)
        figure = learning_curves.draw_curves(source.group, pair, lines, source.palette)
        alt = f"Line plot of test top-1 against the epoch for {source.arrow(pair)}. At the last epoch: {ends}."
        caption = (
            f"{source.arrow(pair)}: test top-1 against the epoch, mean over seeds; bands are ± one standard deviation"
        )
        pictures.append(source.picture(figure, "curves", alt, caption, pair))
        timed = [line for line in lines if line.seconds is not None]
        if timed:
            ends = "; ".join(f"{line.row.label} {_duration(line.seconds.iloc[-1])}" for line in timed)
            figure = learning_curves.draw_times(source.group, pair, timed, source.palette)
            alt = f"Plot of test top-1 against training time for {source.arrow(pair)}. Time in all: {ends}."
            caption = (
                f"{source.arrow(pair)}: test top-1 against training time, evaluation not counted; dots: last epoch"
            )
            pictures.append(source.picture(figure, "time", alt, caption, pair))
    return Section("Learning curves and time", source.id("curves"), pictures=pictures)


def classes(source: Source) -> Section:
    """What of the class structure reached the students: measures, confusions, changes, heat maps of correlations."""
    made = source.structure
    if made.runs.empty:
        return Section("Class structure", source.id("classes"))
    columns = [Column("Pair", TEXT), Column("Network", TEXT), Column("n")]
    columns += [Column(f"{m.title}{f' [{m.unit}]' if m.unit else ''} {'↑' if m.better > 0 else '↓'}") for m in MEASURES]
    lines = []
    for pair in made.pairs:
        of_pair = structure_tables.lines_of(made, pair)
        marks = structure_tables.marks(of_pair)
        for row in of_pair:
            items = [Item(pair), Item(row["label"]), _integer(row["n"])]
            for m in MEASURES:
                spread = f" ± {fixed(v, m.digits)}" if not math.isnan(v := row[f"{m.key}_std"]) else ""
                mark = marks.get((row["label"], m.key), "")
                items.append(Item(f"{fixed(row[m.key], m.digits)}{spread}", row[m.key], mark))
            lines.append(Line(items, pair, _methods(row["method"])))
    notes, grids = [structure_tables.DEFINITIONS], [Grid("Class structure passed on", columns, [lines])]
    if not made.confused.empty:
        notes.append(
            "The second table says which class pairs a student gets wrong relative to its teacher: images of the true "
            "class that it takes for another, in per cent of the class's images, less those that the teacher does."
        )
        grids.append(_confusions(made))
    pictures = []
    for pair in source.group.pairs:
        pictures += _class_pictures(source, pair)
    return Section("Class structure", source.id("classes"), notes, grids, pictures)


def _confusions(made: Fidelity) -> Grid:
    columns = [Column(t, TEXT) for t in ("Pair", "Method", "true class", "taken for")]
    columns += [Column(t) for t in ("student [%]", "teacher [%]", "excess")]
    lines = []
    for row in made.confused.groupby(["pair", "label"], sort=False).head(CONFUSED).to_dict("records"):
        items = [Item(row[k]) for k in ("pair", "label", "true", "predicted")]
        items += [_number(row[k]) for k in ("student", "teacher")]
        items.append(_signed(row["excess"]))
        lines.append(Line(items, row["pair"], _methods(row["method"])))
    caption = (
        f"Class pairs that students confuse more than their teachers: the first {CONFUSED} of each, mean over seeds"
    )
    return Grid(caption, columns, [lines])


CLASS_FIGURES = {
    "structure": "measures of the class structure passed on, by method",
    "structure-superclasses": "accuracy change of each superclass against the student alone, in points",
    "structure-classes": "accuracy change of classes against the student alone, in points",
}


def _class_pictures(source: Source, pair: str) -> Iterator[Picture]:
    arrow = source.arrow(pair)
    differences, _ = correlation.correlation_differences(
        source.group, pair, source.root
    )  # the structure's notes say why not
    if differences:
        figure = correlation.draw_correlations(source.group, pair, differences)
        means = "; ".join(f"{d.row.label} {d.distance:.3f}" for d in differences)
        alt = f"Heat maps of class correlations, teacher minus student, for {arrow}. Mean |Δr|: {means}."
        caption = (
            f"{arrow}: correlation of the logits of each two classes over the test images, teacher minus student, mean "
            "over seeds. Red: the teacher ties the two classes more closely than the student; blue: less closely"
        )
        yield source.picture(figure, "correlation", alt, caption, pair)
    if pair in source.structure.pairs:
        for name, figure in fidelity_figures.draw(source.structure, pair, source.palette).items():
            text = CLASS_FIGURES[name]
            alt = f"Figure for {arrow}: {text}. The values are in the tables of this section or in its files."
            yield source.picture(figure, name, alt, f"{arrow}: {text}", pair)


def tsne(source: Source) -> Section:
    """One joint projection of teacher and students for each pair."""
    notes, pictures = [], []
    for pair in source.group.pairs:
        found, missing = tsne_figures.embed(source.group, pair, source.root)
        source.problems += missing
        if found:
            figure = tsne_figures.draw_embedding(source.group, pair, found)
            alt = f"Scatter plots of a t-SNE of the logits for {source.arrow(pair)}, coloured by class. "
            alt += found.description
            caption = (
                f"{source.arrow(pair)}: {found.description} Crosses: medians of the teacher's points of each class"
            )
            pictures.append(source.picture(figure, "tsne", alt, caption, pair))
    if pictures:
        notes.append(
            "All networks of a pair are embedded together, so that panels may be compared: where a class lies on its "
            "cross, the student sees it as the teacher does; where it lies elsewhere or runs into another, not. "
            "Distances between far clusters, and their sizes, mean nothing. Each image's mean logit is subtracted and "
            "each network's logits are scaled to unit size before, so that mere confidence does not show."
        )
    return Section("t-SNE", source.id("tsne"), notes, pictures=pictures)


def cost(source: Source) -> Section:
    """Time, memory where `make speed` measured it, extra parameters."""
    memory = {pair: _peak_memory(source, pair) for pair in source.group.pairs}
    any_memory = any(memory.values())
    notes = [
        "Means over seeds; time per run without the teacher's training. Extra parameters are trained with the method "
        "and not used afterwards; buffers are its memory."
    ]
    if len(_machines(source.group)) > 1:
        notes.append("The times were taken on unlike machines.")
    if any_memory:
        notes.append("Peak memory in MB is what `make speed` measured for the method, with its batch and machine.")
    columns = [Column(t, TEXT) for t in ("Pair", "Method")]
    columns += [Column(t) for t in ("n", "time per run", "ms/step", "× student", "extra parameters", "extra buffers")]
    columns += [Column("peak memory [MB]")] if any_memory else []
    lines = []
    for pair, row, cell in source.cells():
        mean = {k: cell.mean(k) for k in tables.COST_COLUMNS}
        alone = source.group.baseline(cell, pair)
        ratio = mean["step_ms"] / alone.mean("step_ms") if alone and alone.mean("step_ms") else math.nan
        items = [Item(pair), Item(row.label), _integer(cell.n), _time(mean["wall_s"])]
        items += [_number(mean["step_ms"], 1), _number(ratio)]
        items += [_integer(mean[k]) for k in ("extra_parameters", "extra_buffers")]
        if any_memory:
            items.append(_integer(memory[pair].get(row.method, math.nan)))
        lines.append(Line(items, pair, _methods(row)))
    return Section("Cost", source.id("cost"), notes, [Grid("Cost of training, mean over seeds", columns, [lines])])


def _peak_memory(source: Source, pair: str) -> dict[str, float]:
    """Peak memory in MB by method, of `speed/<pair>.json` among the reports or beside the runs."""
    for folder in (source.reports, source.root):
        rows = (read_json(folder / "speed" / f"{pair}.json") or {}).get("rows")
        if isinstance(rows, list):
            known = [r for r in rows if isinstance(r, dict) and isinstance(r.get("peak_mb"), int | float)]
            return {str(r.get("method")): float(r["peak_mb"]) for r in known}
    return {}


def protocol(source: Source) -> Section:
    """The settings of all runs, and those of each method."""
    cells = list(source.cells())
    values: dict[str, dict[str, list[str]]] = {}  # setting -> value -> pairs
    options: dict[tuple[str, str, str], list[str]] = {}  # method, label and options -> pairs
    for pair, row, cell in cells:
        for name, value in cell.config.items():
            if name.split(".")[0] not in ("method", "teacher"):
                values.setdefault(name, {}).setdefault(_setting(value), []).append(pair)
        own = {k.removeprefix("method."): v for k, v in cell.config.items() if k.startswith("method.")}
        text = ", ".join(f"{k} {_setting(v)}" for k, v in own.items() if k not in ("name", "implementation"))
        options.setdefault((row.method, row.label, text or NOTHING), []).append(pair)
    every = len(cells)
    lines = [
        Line([Item(name), Item(value), Item("all" if len(of) == every else ", ".join(dict.fromkeys(of)))])
        for name, found in values.items()
        for value, of in found.items()
    ]
    columns = [Column("Setting", TEXT), Column("Value", CODE), Column("Pairs", TEXT)]
    of_method = [
        Line([Item(label), Item(text), Item("all" if set(of) == set(source.group.pairs) else ", ".join(of))],
             methods=_methods(method))
        for (method, label, text), of in options.items()
    ]  # fmt: skip
    own = [Column(t, TEXT) for t in ("Method", "Settings", "Pairs")]
    notes = [
        f"Runs: {tables.setting(source.table)}.",
        "A seed gives every method the same initial student and the same batches. The headline is the last epoch; the "
        "best epoch on the test set is recorded and enters no table but that of the runs. Runs of unlike settings are "
        "never averaged.",
    ]
    grids = [Grid("Settings outside the methods", columns, [lines]), Grid("Settings of the methods", own, [of_method])]
    return Section("Protocol", source.id("protocol"), notes, grids)


def provenance(source: Source) -> Section:
    """Every run that a number is made of: its folder, and its W&B run where there is one online."""
    several = len(_machines(source.group)) > 1
    columns = [Column("Pair", TEXT), Column("Method", TEXT)]
    columns += [Column(t) for t in ("seed", "top-1, last", "top-1, best", "epochs", "time")]
    columns += [Column("Trained on", TEXT)] if several else []
    columns += [Column("Folder", CODE), Column("W&B", TEXT)]
    lines = []
    for pair, row, cell in source.cells():
        for i, run in enumerate(cell.runs.itertuples()):
            items = [Item(pair), Item(row.label), Item(str(run.seed), run.seed), _number(run.top1_last)]
            items += [_number(run.top1_best), _integer(run.epochs), _time(run.wall_s)]
            items += [Item(tables.hardware(run.hardware) or NOTHING)] if several else []
            items += [Item(run.folder.relative_to(source.root).as_posix()), _tracked(run.folder)]
            lines.append(Line(items, pair, _methods(row), "" if i else source.place(cell)))
    below = f"; folders below {source.root}"
    grids = [Grid(f"Runs{below}", columns, [lines]), _teachers(source, f"Teachers{below}")]
    return Section("Provenance", source.id("provenance"), grids=grids)


def _teachers(source: Source, caption: str) -> Grid:
    columns = [Column("Teacher", TEXT), Column("top-1"), Column("Pairs", TEXT)]
    columns += [Column("Folder", CODE), Column("SHA-256 of the weights", CODE), Column("W&B", TEXT)]
    found: dict[tuple[str, ...], tuple[float, list[str]]] = {}
    for run in source.group.runs.itertuples():
        known = tuple(t if isinstance(t, str) else "" for t in (run.teacher, run.teacher_run, run.teacher_sha256))
        found.setdefault(known, (run.teacher_top1, []))[1].append(run.pair)
    lines = []
    for (network, folder, sha256), (top1, pairs) in found.items():
        items = [Item(network), _number(top1), Item(", ".join(dict.fromkeys(pairs)))]
        items += [Item(folder or NOTHING), Item(sha256 or NOTHING)]
        items.append(_tracked(source.root / folder) if folder else Item(NOTHING))
        lines.append(Line(items, id="" if lines else source.id("teachers")))
    return Grid(caption, columns, [lines])


def absent(source: Source) -> Section:
    """What is not in the tables and figures: unfinished runs, missing seeds, files that are missing or broken."""
    lists = []
    if source.table.unfinished:
        lists.append(("Runs that are not in the tables", [u.text for u in source.table.unfinished]))
    seeds = []
    for pair in source.group.pairs:
        rows = [r for r in source.group.rows if pair in r.seed_groups]
        known = {r.label: set(r.seed_groups[pair].runs.seed) for r in rows}
        every = set().union(*known.values())
        seeds += [
            f"{pair} {label}: no run with seed {_listed(every - of)}" for label, of in known.items() if every - of
        ]
    lists += [("Seeds that other methods have on the pair", seeds)] if seeds else []
    problems = list(dict.fromkeys([*source.problems, *source.structure.notes]))
    lists += [("Figures and measures that are missing", problems)] if problems else []
    return Section("What is missing", source.id("missing"), lists=lists)


def of_ablation(found: Ablation, number: int, files: Iterable[Path]) -> Section:
    """One ablation's table, sensitivities and figure. files: what `ablation.write` wrote."""
    left = ablation.table_header(found)
    columns = [Column(t, TEXT) for t in left] + [Column(t) for t in ablation.table_columns(found)[len(left) :]]
    blocks: dict[bool, list[Line]] = {}
    references = len(found.references)  # they come first
    for i, (row, cells) in enumerate(ablation.table_rows(found)):
        setting = i >= references
        values = [row.mean, ablation.paired(row, found.default).mean if setting else math.nan]
        if found.has_baseline:
            values.append(ablation.paired(row, found.reference(row)).mean if setting else math.nan)
        values.append(fmean(row.test.values()) if row.test else math.nan)
        mark = BEST if row is found.chosen else ""
        keys = [None] * len(left) + values
        items = [
            Item(c) if c in ("", NOTHING) else Item(c, key, mark) for c, key in zip(cells, keys, strict=True)
        ]  # what is not shown is not sorted by either
        blocks.setdefault(setting, []).append(Line(items))
    grids = [Grid(f"{found.title}: {found.description}", columns, list(blocks.values()))]
    notes = ablation.notes(found)
    if sensitivities := ablation.sensitivities(found):
        notes.append(ablation.SENSITIVITY)
        lines = [
            Line([
                Item(ablation.short(s.option)), Item(ablation.text(s.default), s.default),
                Item(", ".join(map(ablation.text, s.values))), _number(s.points), _number(s.std),
                _integer(s.n),
            ])
            for s in sensitivities
        ]  # fmt: skip
        kinds = (TEXT, NUMBER, TEXT, NUMBER, NUMBER, NUMBER)
        head = [Column(t, kind) for t, kind in zip(ablation.SENSITIVITY_HEADER, kinds, strict=True)]
        grids.append(Grid("Sensitivity to each option", head, [lines]))
    pictures = []
    for png in (f for f in files if f.suffix == ".png"):
        data = png.read_bytes()
        width = round(int.from_bytes(data[16:20]) * 96 / style.STYLE["savefig.dpi"])  # of the PNG's header
        text = f"{ablation.heading(found)}: {found.description}, validation accuracy with 95 % intervals"
        alt = f"Figure of the ablation, {text}. The values are in the table."
        pictures.append(Picture(_data("png", data), width, alt, text, f"{ablation.FOLDER}/{png.stem}.pdf"))
    lists = [("Missing runs", found.missing)] if found.missing else []
    title, id = f"{ablation.heading(found)}: {found.description}", f"ablation-{number}"
    return Section(title, id, notes, grids, pictures, lists, found.pair, found.method)


BUILDERS: tuple[Callable[[Source], Section], ...] = (
    results, significance, curves, classes, tsne, cost, protocol, provenance, absent,
)  # fmt: skip


# ---------------------------------------------------------------- the page


def write(
    made: Sequence[tuple[ResultGroup, Sequence[UnfinishedRun]]], rest: Sequence[UnfinishedRun], methods: Iterable[str],
    asked: Callable[[Ablation], bool], root: Path, reports: Path,
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """Write the page, with the files of its tables and figures; returns all paths, and what could not be shown and why.

    made: each group with the unfinished runs that would have been in it. rest: the unfinished runs of no group.
    methods: all methods found, so that colours do not depend on what was chosen. asked: which ablations to show.
    root: the folder of all runs.
    """
    palette = style.method_colors(methods)
    parts, written, problems = [], [], []
    for i, (group, unfinished) in enumerate(made):
        table = tables.build(group, unfinished)
        source = Source(i, group, table, fidelity.measure(group, root), root, reports, palette)
        with matplotlib.rc_context(STYLE):
            sections = [s for s in (build(source) for build in BUILDERS) if not s.empty]
        parts.append(Part(f"{group.dataset}, profile {group.profile}", sections))
        written += tables.write(table, reports) + statistics_tables.write(table, reports)
        written += structure_tables.write(source.structure, reports, unfinished) if source.structure.pairs else []
        written += source.written
        problems += [*source.problems, *source.structure.notes]
    found, broken = ablation.load(root)
    sections = []
    for i, of in enumerate(a for a in found if asked(a)):
        files = ablation.write(of, reports)
        sections.append(of_ablation(of, i, files))
        written += files
    parts += [Part("Ablations", sections)] if sections else []
    if left := [*(u.text for u in rest), *broken]:
        lists = [("What could not be read, or whose settings cannot", left)]
        parts.append(Part("Not in any table", [Section("Other runs and files", "rest", lists=lists)]))
    path = reports / "report.html"
    write_text(path, render(parts, [group for group, _ in made], root))
    return [*written, path], list(dict.fromkeys(problems + broken))


def render(parts: Sequence[Part], groups: Sequence[ResultGroup], root: Path) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    script, css = (_template(environment, name) for name in ("report.js", "report.css"))
    sections = [s for part in parts for s in part.sections]
    pairs = [p for g in groups for p in g.pairs] + [s.pair for s in sections if s.pair]
    methods = [r.method for g in groups for r in g.method_rows] + [s.method for s in sections if s.method]
    return environment.get_template("report.html.j2").render(
        parts=parts, root=str(root), runs=sum(len(g.runs) for g in groups), marks={BEST: "strong", SECOND: "u"},
        all_pairs=list(dict.fromkeys(pairs)), all_methods=list(dict.fromkeys(methods)),
        titles={r.method: r.title for g in groups for r in g.runs.itertuples()}, script=script, style=css,
        allowed=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def _template(environment: jinja2.Environment, name: str) -> str:
    """A file of the templates as it is."""
    assert environment.loader
    return environment.loader.get_source(environment, name)[0]


# ---------------------------------------------------------------- small things


def _methods(*of: MethodRow | str) -> tuple[str, ...]:
    """The methods that a line belongs to; the baselines always stay."""
    names = (row if isinstance(row, str) else row.method for row in of)
    return tuple(n for n in names if n not in (published.STUDENT, published.TEACHER))


def _data(kind: str, image: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _number(value: float, digits: int = 2) -> Item:
    return Item(fixed(value, digits), value)


def _integer(value: float) -> Item:
    return Item(NOTHING if math.isnan(value) else f"{value:,.0f}", value)


def _signed(value: float) -> Item:
    return Item(signed(value), value)


def _p_value(value: float) -> Item:
    return Item(NOTHING if math.isnan(value) else tables.p_value(value), value)


def _time(seconds: float) -> Item:
    return Item(_duration(seconds), seconds)


def _duration(seconds: float) -> str:
    return NOTHING if math.isnan(seconds) else str(datetime.timedelta(seconds=round(seconds)))


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _machines(group: ResultGroup) -> set[str]:
    return {tables.hardware(h) for h in group.runs.hardware} - {""}


def _tracked(folder: Path) -> Item:
    """A run's W&B run: a link where it is online, else its id."""
    known = read_json(folder / "wandb.json") or {}
    name, url = known.get("id"), known.get("url")
    if isinstance(url, str) and url.startswith(("https://", "http://")):
        return Item(str(name or "run"), href=url)
    return Item(f"{name}, offline" if name else NOTHING)
