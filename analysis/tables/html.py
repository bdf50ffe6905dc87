"""Tables as HTML of the report's page, with what its script sorts and filters by."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from benchmark.tables.model import BEST, NUMBER, SECOND, Cell, Column, Line, Table

MARKS = {BEST: "strong", SECOND: "u"}


@dataclass(frozen=True)
class Filters:
    """All pairs and methods of a page; elements refer to them by their position."""

    pairs: Sequence[str]
    methods: Sequence[str]

    def attributes(self, pairs: Sequence[str | None] = (), methods: Sequence[str | None] = ()) -> Markup:
        """Return the attributes of an element that is shown where one of the pairs and all methods are chosen."""
        attributes = Markup("")
        for name, chosen, every in (("pairs", pairs, self.pairs), ("methods", methods, self.methods)):
            if places := [str(every.index(item)) for item in chosen if item is not None]:
                attributes += Markup(' data-{}="{}"').format(name, " ".join(places))
        return attributes


def render(table: Table, filters: Filters) -> Markup:
    """Return a table in a region that scrolls."""
    caption = table.caption or table.title
    attributes = filters.attributes(table.pairs)
    lines = [Markup('<div class="table"{} role="region" aria-label="{}" tabindex="0">').format(attributes, caption)]
    lines += [Markup("<table>"), Markup("<caption>{}</caption>").format(caption), Markup("<thead>")]
    if table.heads:
        lines.append(_row(_head(head.title, head.width, filters.attributes([head.pair])) for head in table.heads))
    lines.append(_row(_title(column, filters) for column in table.columns))
    lines.append(Markup("</thead>"))
    for block in table.blocks:
        lines += [Markup("<tbody>"), *(_line(line, table.columns, filters) for line in block), Markup("</tbody>")]
    return Markup("\n").join([*lines, Markup("</table>"), Markup("</div>")])


def _row(items, attributes: Markup = Markup("")) -> Markup:  # noqa: B008 - a string
    return Markup("<tr{}>{}</tr>").format(attributes, Markup("").join(items))


def _head(title: str, width: int, attributes: Markup) -> Markup:
    if not title:
        return Markup('<td colspan="{}"></td>').format(width)
    return Markup('<th scope="colgroup" colspan="{}"{}>{}</th>').format(width, attributes, title)


def _title(column: Column, filters: Filters) -> Markup:
    kind = "number" if column.kind == NUMBER else "text"
    attributes = filters.attributes([column.pair])
    return Markup('<th scope="col" data-sort="{}"{}>{}</th>').format(kind, attributes, column.title)


def _line(line: Line, columns: Sequence[Column], filters: Filters) -> Markup:
    id = Markup(' id="{}"').format(line.id) if line.id else Markup("")
    items = []
    for i, (cell, column) in enumerate(zip(line.cells, columns, strict=True)):
        start, tag = ("th scope=row", "th") if i == 0 else ("td", "td")
        attributes = Markup(' class="{}"').format(column.kind)
        if cell.sort_key is not None:
            attributes += Markup(' data-value="{}"').format(cell.sort_key)
        attributes += filters.attributes([column.pair])
        items.append(Markup("<{}{}>{}</{}>").format(Markup(start), attributes, _cell(cell), Markup(tag)))
    return _row(items, id + filters.attributes([line.pair], line.methods))


def _cell(cell: Cell) -> Markup:
    content = escape(cell.full_text)
    if cell.mark:
        content = Markup("<{0}>{1}</{0}>").format(Markup(MARKS[cell.mark]), content)
    if cell.href:
        outside = Markup("") if cell.href.startswith("#") else Markup(' rel="noopener noreferrer"')
        content = Markup('<a href="{}"{}>{}</a>').format(cell.href, outside, content)
    return content + Markup(" {}").format(cell.symbol) if cell.symbol else content
