"""Tables as LaTeX floats that fit into papers of one and of two columns.

A narrow table is a `table`, which fits into one column; a wide one is a `table*`, which spans both and in a paper of
one column is the same as `table`. Wide tables are cut between groups of columns, and tall ones between rows, so that
every float fits on a page. Captions are short; what a reader must know besides is below the first float.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from analysis.tables.latex_columns import CHARACTER, Layout, escape, layout
from benchmark.tables import model
from benchmark.tables.model import Table

PACKAGES = ("amssymb", "booktabs", "graphicx", "siunitx")
COLUMN_WIDTH = 265.0  # in points, the widest in a column; those of papers are 230 to 252 wide, to which it is shrunk
TEXT_WIDTH = 400.0  # the widest table; texts are 345 (article of one column, to which it is shrunk) to 516 wide
TEXT_HEIGHT = 520.0  # of article, less the distance between floats
ROW, NOTE, CAPTION = 10.0, 8.5, 30.0  # heights in points
LEGIBLE = 1.3  # how much wider than the text a table may be before it is shrunk
GAP = 12.0  # between groups of columns
SEPARATION = 3.0  # \tabcolsep
SHRINK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # only where it is too wide
SETTINGS = (
    r"\sisetup{mode=text,reset-text-series=false,retain-explicit-plus,uncertainty-mode=separate,"
    "group-digits=integer,group-separator={,},group-minimum-digits=4,table-align-text-before=false}"
    "\n"
    r"\def\textpm{\ensuremath{\pm}}\def\textminus{\ensuremath{-}}"  # text fonts have them as bitmaps at times
)


@dataclass(frozen=True)
class _Tabular:
    """A table that fits into the text, with the layout of its columns."""

    table: Table
    layouts: Sequence[Layout]

    @property
    def width(self) -> float:
        """Estimated width in points."""
        gaps = GAP * max(0, len(self.table.heads) - 2)
        return sum(column.width + 2 * SEPARATION for column in self.layouts) + gaps

    @property
    def height(self) -> float:
        """Estimated height in points."""
        rows = sum(1 for _ in self.table.lines)
        return ROW * (rows + 2 + bool(self.table.title) + bool(self.table.heads) + 0.5 * len(self.table.blocks))


def floats(name: str, caption: str, tables: Sequence[Table]) -> str:
    """Return the tables as floats. name: of the label. caption: short; intros and notes of the tables stand below."""
    counts = Counter(cell.count for table in tables for line in table.lines for cell in line.cells if cell.spread)
    usual_count = max(counts, key=lambda count: (counts[count], count)) if counts else 0
    notes = _notes(tables, usual_count)
    tabulars = [tabular for table in tables for part in _fitted(table, usual_count) for tabular in part]
    pages = _pages(tabulars, notes)
    texts = [_float(name, caption, page, notes if not i else [], i) for i, page in enumerate(pages)]
    return f"% needs \\usepackage{{{','.join(PACKAGES)}}}, siunitx 3 or newer\n" + "\n".join(texts)


def _fitted(table: Table, usual_count: int) -> Iterator[list[_Tabular]]:
    """Cut a table between groups of columns until each part is as narrow as the text, then between rows.

    Without heads, columns belong together as long as they can be read when shrunk.
    """
    if not table.blocks:
        return
    limit = TEXT_WIDTH * (1 if table.heads else LEGIBLE)
    groups = max(1, len(table.heads) - 1 if table.heads else len(table.columns) - 1)
    tabulars = []
    for parts in range(1, groups + 1):
        pieces = [table] if parts == 1 else model.split(table, math.ceil(groups / parts))
        tabulars = [_tabular(piece, usual_count) for piece in pieces if piece.blocks]
        if all(tabular.width <= limit for tabular in tabulars):
            break
    for tabular in tabulars:
        yield [_tabular(t, usual_count) for t in _cut(tabular.table, tabular.height)]


def _tabular(table: Table, usual_count: int) -> _Tabular:
    lines = list(table.lines)
    return _Tabular(
        table,
        [layout(column, [line.cells[i] for line in lines], usual_count) for i, column in enumerate(table.columns)],
    )


def _cut(table: Table, height: float) -> list[Table]:
    """Cut a tall table between rows into parts of about equal height."""
    lines = [(i, line) for i, block in enumerate(table.blocks) for line in block]
    size = math.ceil(len(lines) / math.ceil(height / (TEXT_HEIGHT - 100)))
    parts = [lines[first : first + size] for first in range(0, len(lines), size)]
    blocks = ([[line for j, line in part if j == i] for i in range(len(table.blocks))] for part in parts)
    return [replace(table, blocks=[block for block in of_part if block]) for of_part in blocks]


def _pages(tabulars: Sequence[_Tabular], notes: Sequence[str]) -> list[list[_Tabular]]:
    """Spread tables over floats that each fit on a page; narrow and wide ones are kept apart."""
    pages: list[list[_Tabular]] = []
    room = 0.0
    for tabular in tabulars:
        wide = tabular.width > COLUMN_WIDTH
        if not pages or tabular.height > room or wide != (pages[-1][0].width > COLUMN_WIDTH):
            room = TEXT_HEIGHT - CAPTION
            room -= 0 if pages else sum(NOTE * math.ceil(len(note) * CHARACTER * 0.85 / 230) for note in notes)
            pages.append([])
        pages[-1].append(tabular)
        room -= tabular.height + ROW
    return pages


def _float(name: str, caption: str, tabulars: Sequence[_Tabular], notes: Sequence[str], number: int) -> str:
    environment = "table*" if any(tabular.width > COLUMN_WIDTH for tabular in tabulars) else "table"
    label = f"tab:{name.replace('_', '-')}{f'-{number + 1}' if number else ''}"
    lines = [rf"\begin{{{environment}}}[tp]", r"\centering", r"\footnotesize"]
    lines += [rf"\setlength{{\tabcolsep}}{{{SEPARATION:g}pt}}", SETTINGS]
    lines += [rf"\caption{{{escape(caption)}{' (Continued.)' if number else ''}}}", rf"\label{{{label}}}"]
    lines += [r"\par\smallskip"]  # classes leave no room between a caption and a table below it
    for i, tabular in enumerate(tabulars):
        lines += [r"\par\medskip"] if i else []
        lines += [SHRINK, *_environment(tabular)]
    if notes:
        text = "\n\\par ".join(map(escape, notes))
        lines += [r"\par\smallskip", rf"\parbox{{\linewidth}}{{\raggedright\scriptsize {text}}}"]
    return "\n".join([*lines, rf"\end{{{environment}}}", ""])


def _notes(tables: Sequence[Table], usual_count: int) -> list[str]:
    """Intros, notes, the sources that the cells refer to, and the titles of lists: their entries take too much room."""
    notes = [text for table in tables for text in table.intro]
    notes += [f"Where no number of seeds is given, it is {usual_count}."] if usual_count else []
    notes += [note for table in tables for note in table.notes]
    notes += [f"[{number}] {table.sources[number - 1]}" for table in tables for number in table.used_sources]
    notes += [f"{listing.title}." for table in tables for listing in table.lists]
    return list(dict.fromkeys(notes))


def _environment(tabular: _Tabular) -> Iterator[str]:
    table, layouts = tabular.table, tabular.layouts
    yield rf"\begin{{tabular}}{{{_specification(table, layouts)}}}"
    yield r"\toprule"
    if table.title:
        span = sum(column.span for column in layouts)
        yield _row([rf"\multicolumn{{{span}}}{{l}}{{\emph{{{escape(table.title)}}}}}"])
        yield r"\midrule"
    if table.heads:
        yield from _heads(table, layouts)
    yield _row(column.title for column in layouts)
    for block in table.blocks:
        yield r"\midrule"
        yield from (_row(c.cell(cell) for c, cell in zip(layouts, line.cells, strict=True)) for line in block)
    yield r"\bottomrule"
    yield r"\end{tabular}}"


def _heads(table: Table, layouts: Sequence[Layout]) -> Iterator[str]:
    """The row of titles above groups of columns, and the rules below them."""
    cells, rules, first, start = [], [], 0, 1
    for head in table.heads:
        span = sum(column.span for column in layouts[first : first + head.width])
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(head.title)}}}" if head.title else "& " * (span - 1))
        rules += [rf"\cmidrule(lr){{{start}-{start + span - 1}}}"] if head.title else []
        first, start = first + head.width, start + span
    yield _row(cells)
    yield " ".join(rules)


def _specification(table: Table, layouts: Sequence[Layout]) -> str:
    """The columns in LaTeX, with room between the groups under heads."""
    starts = {sum(head.width for head in table.heads[:i]) for i in range(2, len(table.heads))}
    gap = rf"@{{\hspace{{{GAP:g}pt}}}}"
    return "".join(f"{gap if i in starts else ''}{column.specification}" for i, column in enumerate(layouts))


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells).strip() + r" \\"
