"""Tables as Markdown whose columns line up in a terminal too."""

import re
from collections.abc import Iterable, Sequence

from benchmark.tables.model import BEST, CODE, NUMBER, SECOND, Cell, Column, Head, Listing, Table, split

GROUPS = 3  # column groups with heads side by side; further ones follow in tables below
LISTED = 20  # entries of a list that are shown, before "and … more"
MARKS = {BEST: ("**", "**"), SECOND: ("<u>", "</u>")}


def document(heading: str, tables: Iterable[Table], listed: int | None = LISTED) -> str:
    """Return tables under one heading. listed: entries shown of each list; None shows all."""
    parts = [f"## {text(heading)}"] if heading else []
    for table in tables:
        parts += [f"### {text(table.title)}"] if table.title else []
        parts += map(text, table.intro)
        parts += [grid(part) for part in (split(table, GROUPS) if table.heads else [table]) if table.blocks]
        parts += map(text, table.notes)
        if table.sources:
            parts.append(_list("Published", [f"[{i}] {source}" for i, source in enumerate(table.sources, 1)]))
        parts += [_list(text(listing.title), _first(listing, listed)) for listing in table.lists]
    return "\n\n".join(parts) + "\n"


def _first(listing: Listing, listed: int | None) -> list[str]:
    entries = list(listing.entries[:listed])
    rest = len(listing.entries) - len(entries)
    return [*entries, *([f"and {rest} more"] if rest else [])]


def _list(title: str, entries: Iterable[str]) -> str:
    return f"{title}:\n\n" + "\n".join(f"- {text(entry)}" for entry in entries)


def grid(table: Table, *, aligned: bool = True) -> str:
    """Return the rows of a table, without the text around them. aligned: pad the cells, so that columns line up."""
    rows = [list(map(_escaped, _titles(table.columns, table.heads)))]
    rows += [
        [_shown(cell, column) for cell, column in zip(line.cells, table.columns, strict=True)] for line in table.lines
    ]
    widths = [max(3, *(len(row[i]) for row in rows)) if aligned else 3 for i in range(len(table.columns))]
    right = [column.kind == NUMBER for column in table.columns]
    padded = [[t.rjust(w) if r else t.ljust(w) for t, w, r in zip(row, widths, right, strict=True)] for row in rows]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [padded[0], rule, *padded[1:]])


def _titles(columns: Sequence[Column], heads: Sequence[Head]) -> list[str]:
    """One row of titles: that of a head replaces its first column's, by the name that the command line takes."""
    titles = [column.title for column in columns]
    at = 0
    for head in heads:
        if head.title:
            titles[at] = head.pair or head.title
        at += head.width
    return titles


def _shown(cell: Cell, column: Column) -> str:
    content = _escaped(cell.full_text)
    if column.kind == CODE and content:
        content = f"`{content}`"
    if cell.href.startswith(("https://", "http://")):
        content = f"[{content}]({cell.href})"
    before, after = MARKS.get(cell.mark if content else "", ("", ""))
    return f"{before}{content}{after} {_escaped(cell.symbol)}".rstrip()


def text(raw: str) -> str:
    """Return text of one line in which no HTML tag can begin."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", " ".join(raw.split()))


def _escaped(raw: str) -> str:
    """Text of a cell, in which a bar would begin the next one."""
    return text(raw.replace("\\", "\\\\")).replace("|", "\\|")
