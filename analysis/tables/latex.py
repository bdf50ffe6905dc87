"""Tables as LaTeX: `floats` for tables of a page, `longtable` for one that breaks over pages."""

from collections.abc import Iterable, Iterator, Sequence

from benchmark.tables.model import BEST, NUMBER, SECOND, Cell, Column, Table

PER_FLOAT = 3  # tables on a page
MARKS = {BEST: r"\textbf{%s}", SECOND: r"\underline{%s}"}
SHRINK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # only where it is too wide
CHARACTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}", "<": "$<$", ">": "$>$",
    "|": "$|$", '"': "''",
    "†": r"$\dagger$", "‡": r"$\ddagger$", "χ": r"$\chi$", "²": r"$^2$", "√": r"$\surd$", "τ": r"$\tau$",
    "±": r"$\pm$", "−": "$-$", "–": "--", "Δ": r"$\Delta$", "→": r"$\rightarrow$", "×": r"$\times$", "÷": r"$\div$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "≤": r"$\leq$", "✓": r"$\checkmark$",
}  # fmt: skip


def escape(raw: str) -> str:
    """Return text of one line as LaTeX prints it unchanged."""
    return "".join(CHARACTERS.get(c, c) for c in " ".join(raw.split()))


def floats(name: str, caption: str, tables: Sequence[Table]) -> str:
    """Return `table` environments with up to `PER_FLOAT` tables each. name: of the label."""
    pages = [tables[i : i + PER_FLOAT] for i in range(0, len(tables), PER_FLOAT)]
    floats = [_float(name, caption, page, number) for number, page in enumerate(pages)]
    return "% needs \\usepackage{amssymb,booktabs,graphicx}\n" + "\n".join(floats)


def _float(name: str, caption: str, tables: Sequence[Table], number: int) -> str:
    lines = [r"\begin{table}[t]", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\caption{{{escape(caption)}{' (Continued.)' if number else ''}}}"]
    lines += [rf"\label{{tab:{name.replace('_', '-')}{f'-{number + 1}' if number else ''}}}"]
    for i, table in enumerate(tables):
        lines += [r"\par\medskip"] if i else []
        lines += [SHRINK, *_tabular(table)]
    if notes := _notes(tables):
        lines += [r"\par\smallskip", r"\parbox{\linewidth}{\raggedright\scriptsize", "\n\\par ".join(notes) + "}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _notes(tables: Sequence[Table]) -> list[str]:
    """Notes, the sources that the cells refer to, and the titles of the lists: their entries take too much room."""
    notes = [note for table in tables for note in table.notes]
    used = sorted({number for table in tables for number in table.used_sources})
    notes += [f"[{number}] {tables[0].sources[number - 1]}" for number in used]
    notes += [f"{listing.title}." for table in tables for listing in table.lists]
    return [escape(note) for note in dict.fromkeys(notes)]


def _tabular(table: Table) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{{_layout(table)}}}"
    yield r"\toprule"
    if table.title:
        yield _title(table)
        yield r"\midrule"
    if table.heads:
        yield _row(rf"\multicolumn{{{h.width}}}{{c}}{{{escape(h.title)}}}" if h.title else "" for h in table.heads)
        starts = [1 + sum(h.width for h in table.heads[:i]) for i in range(len(table.heads))]
        rules = zip(table.heads, starts, strict=True)
        yield " ".join(rf"\cmidrule(lr){{{start}-{start + h.width - 1}}}" for h, start in rules if h.title)
    yield _titles(table.columns)
    for block in table.blocks:
        yield r"\midrule"
        yield from (_row(map(_cell, line.cells)) for line in block)
    yield r"\bottomrule"
    yield r"\end{tabular}}"


def _layout(table: Table) -> str:
    """Alignment of the columns, with room between the groups under heads."""
    letters = ["r" if column.kind == NUMBER else "l" for column in table.columns]
    for start in (sum(head.width for head in table.heads[:i]) for i in range(2, len(table.heads))):
        letters[start] = rf"@{{\hspace{{12pt}}}}{letters[start]}"
    return "".join(letters)


def longtable(name: str, caption: str, tables: Sequence[Table]) -> str:
    """Return tables with the same columns as one `longtable`, each under its title."""
    columns = tables[0].columns
    head = [r"\toprule", _titles(columns), r"\midrule"]
    lines = [r"% needs \usepackage{amssymb,booktabs,longtable}", r"{\scriptsize\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\begin{{longtable}}{{{_layout(tables[0])}}}", rf"\caption{{{escape(caption)}}}"]
    lines += [rf"\label{{tab:{name.replace('_', '-')}}} \\"]
    lines += [*head, r"\endfirsthead", *head, r"\endhead", r"\bottomrule", r"\endfoot"]
    for i, table in enumerate(tables):
        lines += [r"\midrule"] if i else []
        lines += [f"{_title(table)}*"]
        lines += [_row(map(_cell, line.cells)) for line in table.lines]
    return "\n".join([*lines, r"\end{longtable}}", ""])


def _title(table: Table) -> str:
    return _row([rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\emph{{{escape(table.title)}}}}}"])


def _titles(columns: Iterable[Column]) -> str:
    return _row(escape(column.short or column.title) for column in columns)


def _cell(cell: Cell) -> str:
    content = MARKS.get(cell.mark if cell.text else "", "%s") % escape(cell.text)
    content += rf"\textsuperscript{{{escape(cell.symbol)}}}" if cell.symbol else ""
    small = " ".join(filter(None, (cell.detail, f"[{cell.source}]" if cell.source else "")))
    return f"{content} {{\\scriptsize {escape(small)}}}" if small else content


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells).strip() + r" \\"
