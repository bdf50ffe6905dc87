"""A table as data: what its cells say, but not how they are laid out. Every renderer takes a `Table`; it alone escapes.

A table knows nothing of accuracies, methods or tests. `Line.pair`, `Line.methods`, `Column.pair` and `Head.pair` are
labels by which the report's page filters.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

NOTHING = "–"
BEST, SECOND = "best", "second"  # marks of a cell
NUMBER, TEXT, CODE = "number", "text", "code"  # kinds of columns; numbers are aligned right


@dataclass(frozen=True)
class Cell:
    """One cell.

    text: the value as shown. spread: its standard deviation, with as many decimals; empty for none. count: number of
    runs behind it; 0 for none shown. detail: an interval or other remark in smaller print. mark: BEST, SECOND or none.
    symbol: a footnote symbol, such as †. source: number of an entry of `Table.sources`, from 1; 0 for none.
    value: sort key of a number; None or NaN sorts last. href: an anchor of the same page, or a web address.
    """

    text: str
    detail: str = ""
    mark: str = ""
    symbol: str = ""
    source: int = 0
    value: float | None = None
    href: str = ""
    spread: str = ""
    count: int = 0

    @property
    def full_text(self) -> str:
        """Text, spread, count, detail and source in one line; neither mark nor symbol."""
        small = (f"± {self.spread}" if self.spread else "", f"({self.count})" if self.count else "", self.detail)
        return " ".join(filter(None, (self.text, *small, f"[{self.source}]" if self.source else "")))

    @property
    def sort_key(self) -> str | None:
        """`value` as text; None where it is not known."""
        return None if self.value is None or math.isnan(self.value) else repr(float(self.value))


EMPTY = Cell(NOTHING)


@dataclass(frozen=True)
class Column:
    """title: of the column; short: where there is little room. pair: the only pair that the column is about."""

    title: str
    kind: str = NUMBER
    pair: str | None = None
    short: str = ""


@dataclass(frozen=True)
class Line:
    """One row. pair, methods: what it is about, for filters. id: an anchor of the page."""

    cells: Sequence[Cell]
    pair: str | None = None
    methods: tuple[str, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class Head:
    """A title above `width` neighboring columns. pair: see `Column`."""

    title: str
    width: int
    pair: str | None = None


@dataclass(frozen=True)
class Listing:
    """Entries that do not fit into cells, below a table."""

    title: str
    entries: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table and the text that belongs to it.

    caption: what the table shows, in one line. title: heading above it, where several tables share a page.
    blocks: groups of lines, which are sorted among themselves. heads: titles above all columns, or none.
    intro: paragraphs that explain the columns; notes: remarks on these lines. sources: what `Cell.source` refers to.
    """

    caption: str
    columns: Sequence[Column]
    blocks: Sequence[Sequence[Line]]
    title: str = ""
    heads: Sequence[Head] = ()
    intro: Sequence[str] = ()
    notes: Sequence[str] = ()
    sources: Sequence[str] = ()
    lists: Sequence[Listing] = field(default=())

    @property
    def lines(self) -> Iterator[Line]:
        """The lines of all blocks."""
        return (line for block in self.blocks for line in block)

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs of the heads."""
        return tuple(head.pair for head in self.heads if head.pair)

    @property
    def used_sources(self) -> list[int]:
        """Numbers of the sources that the cells refer to, ascending."""
        return sorted({cell.source for line in self.lines for cell in line.cells if cell.source})


def split(table: Table, size: int) -> list[Table]:
    """Cut a wide table into narrower ones of `size` column groups, each with the first column.

    A group is what stands under one head; without heads every column is one. The first head is that of the first
    column. Lines that are empty in all of a part's groups are left out of it.
    """
    widths = [head.width for head in table.heads[1:]] or [1] * (len(table.columns) - 1)
    starts = [1 + sum(widths[:i]) for i in range(len(widths) + 1)]
    parts = []
    for first in range(0, len(widths), size):
        last = min(first + size, len(widths))
        part = slice(starts[first], starts[last])
        blocks = [[_narrowed(line, part) for line in block if _has_entry(line, part)] for block in table.blocks]
        columns = [table.columns[0], *table.columns[part]]
        heads = [table.heads[0], *table.heads[first + 1 : last + 1]] if table.heads else []
        parts.append(replace(table, columns=columns, heads=heads, blocks=[block for block in blocks if block]))
    return parts


def _narrowed(line: Line, part: slice) -> Line:
    return replace(line, cells=[line.cells[0], *line.cells[part]])


def _has_entry(line: Line, part: slice) -> bool:
    return any(cell != EMPTY for cell in line.cells[part])


def group_by_first_column(table: Table) -> list[Table]:
    """Make one table for each text in the first column, which becomes its title and caption instead of a column."""
    texts = dict.fromkeys(line.cells[0].text for line in table.lines)
    return [
        replace(
            table, title=text, caption=text, columns=table.columns[1:], intro=(), notes=(), lists=(),
            blocks=[
                lines
                for block in table.blocks
                if (lines := [replace(x, cells=x.cells[1:]) for x in block if x.cells[0].text == text])
            ],
        )
        for text in texts
    ]  # fmt: skip
