"""Tables of one group of runs: Markdown for the terminal, and .md, .tex and .csv files. Same runs, same bytes.

The headline is the last epoch: mean ± sample standard deviation (n) over seeds. Best-on-test is in the .csv only, under
its own name. Marks go to the distillation methods, by the mean as it is printed; methods that tie share a mark. Daggers
say which rows differ significantly from KD (see `analysis.statistics`).
"""

import csv
import functools
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis import published, statistics
from analysis.groups import MethodRow, ResultGroup, RowKey, SeedGroup, file_name, format_setting
from analysis.load import UnfinishedRun
from analysis.published import Published
from analysis.statistics import Comparison
from benchmark.runs.folder import write_text

NOTHING = "–"
BEST, SECOND = "best", "second"
DAGGERS = {1: "†", 0: "", -1: "‡"}  # significantly better than KD, not different, worse
LISTED = 20  # runs named under a table, before "and … more"
MARKDOWN_PAIRS = 3  # pairs side by side; further ones follow in blocks below
LATEX_PAIRS = {True: 2, False: 3}  # likewise, with and without published values, for a text 345pt wide
LATEX_BLOCKS = 3  # blocks on a page


@dataclass(frozen=True)
class Entry:
    """What a table says of one method on one pair; NaN stands for what is not known."""

    mean: float
    std: float
    n: int
    delta: float = math.nan
    mark: str = ""
    published: Published | None = None
    dagger: str = ""
    skipped: bool = False  # it cannot be


@dataclass(frozen=True)
class Line:
    """One row. kind: teacher, student or method."""

    kind: str
    label: str
    entries: dict[str, Entry]
    row: MethodRow | None = None  # of the group; None for a teacher, and for a method that has no run


@dataclass(frozen=True)
class Table:
    """A table's content, before it is laid out."""

    group: ResultGroup
    lines: list[Line]
    unfinished: list[UnfinishedRun]
    comparisons: list[Comparison]
    sources: dict[str, int] = field(default_factory=dict)  # reference -> number, from 1

    @property
    def name(self) -> str:
        """Stem of the table's files."""
        return file_name(self.group.dataset, self.group.profile)

    @functools.cached_property
    def _published(self) -> set[str]:
        return {p for line in self.lines for p, entry in line.entries.items() if entry.published}

    def has_published(self, pair: str) -> bool:
        return pair in self._published

    @functools.cached_property
    def against(self) -> dict[tuple[RowKey, str], Comparison]:
        """The comparisons with KD, as row minus KD."""
        return statistics.comparisons_with(self.comparisons)

    @property
    def any_published(self) -> bool:
        return bool(self.sources)

    def sections(self, pairs: Sequence[str]) -> Iterator[list[Line]]:
        """The baselines, then the methods, as far as they have an entry on these pairs; the empty ones left out."""
        for kinds in (("teacher", "student"), ("method",)):
            if lines := [line for line in self.lines if line.kind in kinds and any(p in line.entries for p in pairs)]:
                yield lines


def build(group: ResultGroup, unfinished: Iterable[UnfinishedRun]) -> Table:
    """The content of a group's table."""
    lines = []
    for teacher in group.teachers:
        known = {p: _published(group, p, published.TEACHER) for p in teacher.top1}
        entries = {p: Entry(v, math.nan, 1, published=known[p]) for p, v in teacher.top1.items()}
        lines.append(Line("teacher", teacher.label, entries))
    comparisons = statistics.compare(group)
    against = statistics.comparisons_with(comparisons)
    daggers = {k: DAGGERS[c.significant] for k, c in against.items()}
    marks = _marks({(r.key, p): c for r in group.method_rows for p, c in r.seed_groups.items()})
    for row in group.rows:
        entries = {}
        for pair, cell in row.seed_groups.items():
            place = row.key, pair
            entries[pair] = _entry(group, pair, row.method, cell, marks.get(place, ""), daggers.get(place, ""))
        label = f"{row.label} *" if flags(row) else row.label
        lines.append(Line("student" if row.method == published.STUDENT else "method", label, entries, row))
    lines = _with_skipped(lines, group, unfinished := list(unfinished))
    sources: dict[str, int] = {}
    for line in lines:
        for pair in group.pairs:
            if pair in line.entries and (known := line.entries[pair].published):
                sources.setdefault(known.reference, len(sources) + 1)
    return Table(group, lines, unfinished, comparisons, sources)


def flags(row: MethodRow) -> list[str]:
    """What makes a row's numbers not comparable with the others' at equal cost."""
    cells = row.seed_groups.values()
    before = sorted({int(c.runs.init_epochs.max()) for c in cells if c.runs.init_epochs.max() > 0})
    kept = any((c.runs.inference_parameters > c.runs.parameters).any() for c in cells)
    found = [f"{' or '.join(map(str, before))} epoch{'' if before == [1] else 's'} before"] if before else []
    found += ["two views"] if any((c.runs.views > 1).any() for c in cells) else []
    return found + (["layers kept at inference"] if kept else [])


def _with_skipped(lines: list[Line], group: ResultGroup, unfinished: Sequence[UnfinishedRun]) -> list[Line]:
    """The lines with an entry for what cannot be, in a line of its own where a method is nowhere possible."""
    places = {(u.method, u.pair) for u in unfinished if u.skipped and u.pair in group.pairs}
    for line in (line for line in lines if line.row):
        for pair in group.pairs:
            if (line.row.method, pair) in places and pair not in line.entries:
                line.entries[pair] = Entry(math.nan, math.nan, 0, skipped=True)
    for method in sorted({m for m, _ in places} - {r.method for r in group.rows}):
        entries = {p: Entry(math.nan, math.nan, 0, skipped=True) for m, p in sorted(places) if m == method}
        lines = [*lines, Line("method", method, entries)]
    return lines


def write(table: Table, reports: Path) -> list[Path]:
    """Write all files of a table to `<reports>/tables`; returns their paths."""
    folder = reports / "tables"
    texts = {
        f"{table.name}.md": markdown(table),
        f"{table.name}.tex": latex(table),
        f"{table.name}.csv": long_csv(table),
        f"{table.name}-cost.csv": cost_csv(table),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _published(group: ResultGroup, pair: str, method: str) -> Published | None:
    return published.find(group.dataset, *group.networks[pair], method)


def _entry(group: ResultGroup, pair: str, method: str, cell: SeedGroup, mark: str = "", dagger: str = "") -> Entry:
    mean, delta = cell.mean("top1_last"), math.nan
    if method != published.STUDENT and (baseline := group.baseline(cell, pair)):
        delta = mean - baseline.mean("top1_last")
    return Entry(mean, cell.std("top1_last"), cell.n, delta, mark, _published(group, pair, method), dagger)


def _marks(cells: Mapping[tuple[RowKey, str], SeedGroup]) -> dict[tuple[RowKey, str], str]:
    """Best and second per pair among runs that may be compared, by the printed mean."""
    alike: dict[tuple[str, Any], dict[RowKey, str]] = {}
    for (row, pair), cell in cells.items():
        alike.setdefault((pair, cell.protocol), {})[row] = fixed(cell.mean("top1_last"))
    marks = {}
    for (pair, _), printed in alike.items():
        ranked = sorted(set(printed.values()), key=float, reverse=True)[:2]
        marks |= {(row, pair): (BEST, SECOND)[ranked.index(text)] for row, text in printed.items() if text in ranked}
    return marks


# ---------------------------------------------------------------- text shared by Markdown and LaTeX


def fixed(value: float, digits: int = 2) -> str:
    return NOTHING if math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """A difference with its sign and a true minus."""
    text = fixed(abs(value))
    if math.isnan(value) or float(text) == 0:
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def p_value(p: float) -> str:
    """A p-value to three digits."""
    return "<0.001" if p < 0.001 else fixed(p, 3)


def spread(std: float, n: int) -> str:
    return f"({n})" if math.isnan(std) else f"± {fixed(std)} ({n})"


def setting(table: Table) -> str:
    """Epochs, precision, hardware and versions of all runs in a table."""
    found = table.group.runs
    epochs = sorted(set(found.epochs))
    precisions = sorted(set(found.precision.dropna()))
    parts = [f"{', '.join(map(str, epochs))} epoch{'' if epochs == [1] else 's'}"]
    parts += [f"not as in the profile: {told}"] if (told := ", ".join(changed(table.group))) else []
    parts += [f"precision {', '.join(precisions)}"] if precisions else []
    parts += [", ".join(sorted({h for h in map(hardware, found.hardware) if h}))]
    parts += [" / ".join(sorted({", ".join(f"{k} {v}" for k, v in vs.items()) for vs in found.versions if vs}))]
    return "; ".join(p for p in parts if p)


def hardware(of: Mapping[str, Any]) -> str:
    name, device, threads = (of.get(k) for k in ("name", "device", "threads"))
    details = [str(device)] if device else []
    details += [f"{threads} thread{'' if threads == 1 else 's'}"] if device == "cpu" and threads else []
    details += ["compiled"] if of.get("compiled") else []
    return f"{name or 'unknown'} ({', '.join(details)})" if details else str(name or "")


def changed(group: ResultGroup) -> list[str]:
    """The settings of recipe and data set that are not those of the profile, with their values; the number of epochs is
    told anyway."""
    values: dict[str, set[str]] = {}
    for cell in (c for row in group.rows for c in row.seed_groups.values()):
        for key in cell.changed_settings:
            if not key.startswith("method.") and key != "recipe.epochs":
                values.setdefault(key, set()).add(format_setting(cell.config.get(key)))
    return [f"{k} {' or '.join(sorted(of))}" for k, of in sorted(values.items())]


def comparable(table: Table) -> bool:
    """True where the runs follow the recipe that the published values are from."""
    group = table.group
    return group.profile == "paper" and set(group.runs.epochs) == {published.EPOCHS} and not changed(group)


def published_note(table: Table) -> str:
    recipe = f"Published values are from the {published.EPOCHS}-epoch recipe"
    if comparable(table):
        return (
            f"{recipe}, which these runs follow, with teachers of their own; mind the epoch that each source reports."
        )
    return f"{recipe}: they are not comparable with this table."


def dagger_note(table: Table) -> str:
    """What the daggers mean, or why there are none; nothing where KD has no row to be compared with."""
    against = table.against.values()
    if any(c.n >= statistics.MIN_SEEDS for c in against):
        return (
            "† significantly better than KD, ‡ significantly worse: paired t-test over common seeds at 5 %, with "
            "Holm's correction over all comparisons on the pair."
        )
    if against:
        return (
            f"No test against KD: {_seeds(max(c.n for c in against))} in common, and at least "
            f"{statistics.MIN_SEEDS} are needed."
        )
    several = any(statistics.BASELINE in (c.row.method, c.other.method) for c in table.comparisons)
    return "No test against KD: it has several variants here; see the table of significance." if several else ""


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def table_notes(table: Table) -> list[str]:
    """What a reader must know beside the numbers."""
    notes = [note] if (note := dagger_note(table)) else []
    flagged = [f"{r.label} ({', '.join(of)})" for r in table.group.rows if (of := flags(r))]
    if flagged:
        notes.append(f"* Not at equal cost: {'; '.join(flagged)}.")
    reasons = {f"{u.pair} {u.method}: {u.reason.removeprefix('skipped: ')}" for u in table.unfinished if u.skipped}
    if reasons:
        notes.append(f"n/a: not possible on the pair: {'; '.join(sorted(reasons)[:LISTED])}.")
    notes += [
        f"{row.label} on {pair}: its runs were made by different versions of its code "
        f"({'; '.join(f'seed {_few(of.seed)} by {code}' for code, of in cell.runs.groupby('code_version'))})."
        for row in table.group.rows
        for pair, cell in row.seed_groups.items()
        if cell.runs.code_version.nunique() > 1
    ]
    notes += [
        f"{row.label} on {pair} is compared with nothing: no config.yaml of its runs can be read."
        for row in table.group.rows
        for pair, cell in row.seed_groups.items()
        if cell.config_is_missing
    ]
    if table.group.differing_settings:
        keys = ", ".join(table.group.differing_settings)
        notes.append(f"Runs of one pair differ in {keys}: compare like with like. Δ and marks are of runs alike.")
    epochs = {p: tuple(sorted(set(of))) for p, of in table.group.runs.groupby("pair").epochs}
    if len(set(epochs.values())) > 1:
        by_pair = "; ".join(f"{p} {', '.join(map(str, epochs[p]))}" for p in table.group.pairs)
        notes.append(f"The pairs were not trained alike. Epochs: {by_pair}.")
    return notes


def _few(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def _blocks(pairs: Sequence[str], size: int) -> list[Sequence[str]]:
    return [pairs[i : i + size] for i in range(0, len(pairs), size)]


# ---------------------------------------------------------------- Markdown


def markdown(table: Table) -> str:
    """The table with all that belongs to it, as Markdown."""
    group = table.group
    parts = [
        f"## {group.dataset}, profile {group.profile}",
        "Top-1 accuracy on the test set in per cent at the last epoch: mean ± sample standard deviation (number of "
        "seeds). Δ: difference to the student alone. Per pair, the **best** distillation method is bold and the "
        "<u>second</u> underlined.",
        f"Runs: {setting(table)}.",
    ]
    parts += [published_note(table)] if table.any_published else []
    parts += [_markdown_block(table, pairs) for pairs in _blocks(group.pairs, MARKDOWN_PAIRS)]
    parts += table_notes(table)
    if table.sources:
        parts.append("Published:\n\n" + "\n".join(f"- [{n}] {s}" for s, n in table.sources.items()))
    parts += [missing(u)] if (u := [u for u in table.unfinished if not u.skipped]) else []
    parts += _against_part(table)
    parts += ["### Cost", _cost_note(table), grid(COST_HEADER, [_cost_cells(c) for c in _costs(table)], left=2)]
    return "\n\n".join(parts) + "\n"


def missing(unfinished: Sequence[UnfinishedRun]) -> str:
    """Names the runs that are not in a table."""
    lines = [f"- {u.text}" for u in unfinished[:LISTED]]
    lines += [f"- and {len(unfinished) - LISTED} more"] if len(unfinished) > LISTED else []
    count = f"{len(unfinished)} run{'' if len(unfinished) == 1 else 's'}"
    return f"Not in the table, {count}:\n\n" + "\n".join(lines)


def _markdown_block(table: Table, pairs: Sequence[str]) -> str:
    header = ["Method"]
    for pair in pairs:
        header += [pair, "Δ", *(["published"] if table.has_published(pair) else [])]
    rows = []
    for line in (line for section in table.sections(pairs) for line in section):
        row = [line.label]
        for pair in pairs:
            row += _markdown_cells(table, pair, line.entries.get(pair))
        rows.append(row)
    return grid(header, rows, left=1)


def _against_part(table: Table) -> list[str]:
    """The comparisons with KD in short; nothing where none was tested."""
    against = {k: c for k, c in table.against.items() if not math.isnan(c.difference)}
    if not any(c.n >= statistics.MIN_SEEDS for c in against.values()):
        return []
    parts = [
        "### Against KD",
        "Mean difference to KD in points over common seeds, [95 % interval] by Student's t (not corrected), p of the "
        f"paired t-test after Holm's correction (common seeds). All comparisons: {table.name}-significance.md.",
    ]
    compared = [p for p in table.group.pairs if any(p == pair for _, pair in against)]
    for pairs in _blocks(compared, MARKDOWN_PAIRS):
        rows = []
        for row in table.group.rows:
            found = [against.get((row.key, p)) for p in pairs]
            if any(found):
                rows.append([row.label, *(_against_cell(c) if c else NOTHING for c in found)])
        parts.append(grid(["Method", *pairs], rows, left=1))
    return parts


def _against_cell(c: Comparison) -> str:
    text = signed(c.difference)
    text += "" if math.isnan(c.low) else f" [{signed(c.low)}, {signed(c.high)}]"
    text += "" if math.isnan(c.t_holm) else f" p {p_value(c.t_holm)}"
    return f"{text} ({c.n})" + (f" {DAGGERS[c.significant]}" if c.significant else "")


def _markdown_cells(table: Table, pair: str, entry: Entry | None) -> list[str]:
    if entry is None:
        return [NOTHING] * (3 if table.has_published(pair) else 2)
    if entry.skipped:
        return ["n/a", *[NOTHING] * (2 if table.has_published(pair) else 1)]
    value = f"{fixed(entry.mean)} {spread(entry.std, entry.n)}"
    value = {BEST: f"**{value}**", SECOND: f"<u>{value}</u>"}.get(entry.mark, value)
    cells = [f"{value} {entry.dagger}".rstrip(), signed(entry.delta)]
    if known := entry.published:
        cells.append(f"{fixed(known.value)} [{table.sources[known.reference]}]")
    elif table.has_published(pair):
        cells.append(NOTHING)
    return cells


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table whose columns line up in a terminal too; the first `left` columns aligned left."""
    cells = [[c.replace("|", "\\|") for c in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    aligned = [
        [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))] for r in cells
    ]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [aligned[0], rule, *aligned[1:]])


# ---------------------------------------------------------------- LaTeX

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}", "<": "$<$", ">": "$>$",
    "|": "$|$", '"': "''",
    "†": r"$\dagger$", "‡": r"$\ddagger$", "χ": r"$\chi$", "²": r"$^2$", "√": r"$\surd$",
    "±": r"$\pm$", "−": "$-$", "–": "--", "Δ": r"$\Delta$", "→": r"$\rightarrow$", "×": r"$\times$",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX prints it unchanged."""
    return "".join(_LATEX.get(c, c) for c in text)


def latex(table: Table) -> str:
    """The table as one LaTeX table environment, or several where it is too long for a page; needs booktabs."""
    size = LATEX_PAIRS[table.any_published]
    floats = _blocks(_blocks(table.group.pairs, size), LATEX_BLOCKS)
    caption, notes = _caption(table), [escape(n) for n in table_notes(table)]  # once, as they go through all runs
    made = [_float(table, f, i, caption, notes) for i, f in enumerate(floats)]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(made)


def _caption(table: Table) -> str:
    group = table.group
    caption = escape(
        f"Top-1 accuracy (%) on the test set of {group.dataset} at the last epoch, profile {group.profile}: "
        "mean ± sample standard deviation (number of seeds). Δ: difference to the student alone. "
    )
    caption += r"Per pair, the best distillation method is \textbf{bold}, the second \underline{underlined}. "
    caption += escape(f"{setting(table)}.")
    if table.any_published:
        caption += " " + escape(published_note(table))
    return caption


def _float(
    table: Table, blocks: Sequence[Sequence[str]], number: int, caption: str, common_notes: Sequence[str]
) -> str:
    lines = [r"\begin{table}[t]", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\caption{{{caption}{' (Continued.)' if number else ''}}}"]
    lines += [rf"\label{{tab:{table.name.replace('_', '-')}{f'-{number + 1}' if number else ''}}}"]
    for i, pairs in enumerate(blocks):
        lines += [r"\par\medskip"] if i else []
        lines += _tabular(table, pairs)
    notes = list(common_notes)
    shown = [line.entries[p].published for line in table.lines for b in blocks for p in b if p in line.entries]
    used = {known.reference for known in shown if known}
    notes += [escape(f"[{n}] {s}") for s, n in table.sources.items() if s in used]
    if left := sum(not u.skipped for u in table.unfinished):
        notes.append(f"Not in the table: {left} unfinished run{'s' * (left > 1)}.")
    if notes:
        lines += [r"\par\smallskip", r"\parbox{\linewidth}{\raggedright\scriptsize", "\n\\par ".join(notes) + "}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _tabular(table: Table, pairs: Sequence[str]) -> list[str]:
    widths = [3 if table.has_published(p) else 2 for p in pairs]
    top, rules, below, column = [""], [], ["Method"], 2
    for pair, width in zip(pairs, widths, strict=True):
        teacher, student = table.group.networks[pair]
        top.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(f'{teacher} → {student}')}}}")
        rules.append(rf"\cmidrule(lr){{{column}-{column + width - 1}}}")
        below += ["top-1", r"$\Delta$", "published"][:width]
        column += width
    layout = r"@{\hspace{12pt}}".join("r" * w for w in widths)
    lines = [rf"\begin{{tabular}}{{l{layout}}}", r"\toprule", _row(top), " ".join(rules), _row(below)]
    for section in table.sections(pairs):
        lines.append(r"\midrule")
        for line in section:
            cells = [c for p in pairs for c in _latex_cells(table, p, line.entries.get(p))]
            lines.append(_row([escape(line.label), *cells]))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells).strip() + r" \\"


def _latex_cells(table: Table, pair: str, entry: Entry | None) -> list[str]:
    if entry is None:
        return [escape(NOTHING)] * (3 if table.has_published(pair) else 2)
    if entry.skipped:
        return ["n/a", *[escape(NOTHING)] * (2 if table.has_published(pair) else 1)]
    value = fixed(entry.mean)
    value = {BEST: rf"\textbf{{{value}}}", SECOND: rf"\underline{{{value}}}"}.get(entry.mark, value)
    value += rf"\textsuperscript{{{escape(entry.dagger)}}}" if entry.dagger else ""
    cells = [f"{value} {_small(spread(entry.std, entry.n))}", escape(signed(entry.delta))]
    if known := entry.published:
        cells.append(f"{fixed(known.value)} {_small(f'[{table.sources[known.reference]}]')}")
    elif table.has_published(pair):
        cells.append(escape(NOTHING))
    return cells


def _small(text: str) -> str:
    return rf"{{\scriptsize {escape(text)}}}"


# ---------------------------------------------------------------- cost, and CSV

COST_HEADER = (
    "Pair", "Method", "time per run", "ms/step", "extra parameters", "extra buffers", "agreement",
    "correlation distance",
)  # fmt: skip
COST_COLUMNS = ("wall_s", "step_ms", "extra_parameters", "extra_buffers", "agreement", "correlation_distance")


def _costs(table: Table) -> Iterator[tuple[str, str, str, SeedGroup]]:
    """Pair, method, label and cell, in the table's order."""
    for pair in table.group.pairs:
        for row in table.group.rows:
            if pair in row.seed_groups:
                yield pair, row.method, row.label, row.seed_groups[pair]


def _cost_note(table: Table) -> str:
    note = (
        "Means over seeds. Extra parameters are trained with the method and not used afterwards; buffers are its "
        "memory. Agreement with the teacher's predictions in per cent; distance of the class correlation matrices to "
        "the teacher's."
    )
    machines = {h for h in map(hardware, table.group.runs.hardware) if h}
    return f"{note} The times were taken on unlike machines." if len(machines) > 1 else note


def _cost_cells(cost: tuple[str, str, str, SeedGroup]) -> list[str]:
    pair, _, label, cell = cost
    mean = {k: cell.mean(k) for k in COST_COLUMNS}
    counts = [NOTHING if math.isnan(mean[k]) else f"{mean[k]:,.0f}" for k in ("extra_parameters", "extra_buffers")]
    rest = [fixed(mean["agreement"]), fixed(mean["correlation_distance"], 4)]
    return [pair, label, _duration(mean["wall_s"]), fixed(mean["step_ms"], 1), *counts, *rest]


def _duration(seconds: float) -> str:
    """h:mm:ss"""
    if math.isnan(seconds):
        return NOTHING
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def long_csv(table: Table) -> str:
    """One line a pair, method and identity, with everything that the table is made of; unrounded to four digits."""
    group, rows = table.group, []
    place = {"dataset": group.dataset, "profile": group.profile}
    for teacher in group.teachers:
        for pair, top1 in teacher.top1.items():
            about = {"pair": pair, "method": published.TEACHER, "label": teacher.label, "n": 1, "mean": top1}
            identity = (teacher.sha256[pair] or "")[:12]
            rows.append(place | about | {"identity": identity} | _published_columns(group, pair, published.TEACHER))
    for row in group.rows:
        for pair, cell in row.seed_groups.items():
            entry = _entry(group, pair, row.method, cell)
            beside = table.against.get((row.key, pair))
            rows.append(
                place
                | {"pair": pair, "method": row.method, "label": row.label, "identity": cell.identity}
                | {"epochs": int(cell.runs.epochs.iloc[0]), "seeds": " ".join(map(str, cell.runs.seed))}
                | {"n": cell.n, "mean": entry.mean, "std": entry.std, "delta_student": entry.delta}
                | (_against_columns(beside) if beside else {})
                | {"best_mean": cell.mean("top1_best"), "teacher_top1": cell.mean("teacher_top1")}
                | _published_columns(group, pair, row.method)
                | {k: cell.mean(k) for k in COST_COLUMNS}
            )
    order = {p: i for i, p in enumerate(group.pairs)}
    rows.sort(key=lambda r: order[r["pair"]])
    columns = [
        "dataset", "profile", "pair", "method", "label", "identity", "epochs", "seeds", "n", "mean", "std",
        "delta_student", "delta_kd", "n_kd", "p_kd", "significance_kd", "best_mean", "published", "published_std",
        "published_rule", "published_origin", "published_source",
        "teacher_top1", *COST_COLUMNS,
    ]  # fmt: skip
    return csv_text(columns, rows)


def cost_csv(table: Table) -> str:
    """The cost columns by pair and method: means over seeds; times in seconds and milliseconds."""
    rows = [
        {
            "pair": p,
            "method": m,
            "label": label,
            "identity": c.identity,
            "n": c.n,
            **{k: c.mean(k) for k in COST_COLUMNS},
        }
        for p, m, label, c in _costs(table)
    ]
    place = {"dataset": table.group.dataset, "profile": table.group.profile}
    columns = ["dataset", "profile", "pair", "method", "label", "identity", "n", *COST_COLUMNS]
    return csv_text(columns, [place | r for r in rows])


def _against_columns(c: Comparison) -> dict[str, Any]:
    """The comparison with KD: p is that of the paired t-test after Holm's correction."""
    outcome = {1: "better", 0: "none", -1: "worse"}[c.significant] if not math.isnan(c.t_holm) else "not tested"
    return {"delta_kd": c.difference, "n_kd": c.n, "p_kd": c.t_holm, "significance_kd": outcome}


def _published_columns(group: ResultGroup, pair: str, method: str) -> dict[str, Any]:
    known = _published(group, pair, method)
    if known is None:
        return {}
    return {
        "published": known.value,
        "published_std": known.std,
        "published_rule": known.rule,
        "published_origin": known.origin,
        "published_source": known.source,
    }


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: _plain(v) for k, v in row.items()})
    return out.getvalue()


def _plain(value: Any) -> Any:
    """A number to four digits without trailing zeros; nothing for what is not known."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".")
    return value
