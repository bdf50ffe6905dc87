"""LaTeX, CSV and HTML of tables with arbitrary text; the Markdown renderer is tested with `benchmark.tables`."""

import csv as standard_csv
import io
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from analysis.tables import csv, html, latex
from benchmark.tables.model import BEST, NUMBER, SECOND, TEXT, Cell, Column, Head, Line, Listing, Table

HOSTILE = st.text(st.sampled_from("|&<>_\\\n\r{}[]%$#^~\"'/ab †−±Δ"), max_size=10).map(lambda text: f"x{text}")
CELLS = st.builds(
    Cell, HOSTILE, detail=HOSTILE, mark=st.sampled_from(("", BEST, SECOND)), symbol=st.sampled_from(("", "†")),
    source=st.integers(0, 1), value=st.none() | st.floats(-1e6, 1e6), href=st.sampled_from(("", "#x", 'https://a/"<b>')),
)  # fmt: skip
SPECIAL = re.compile(r"(?<!\\)[&%#_~^<>|\"\u00a0-\uffff]")  # what LaTeX gives a meaning, or no glyph

HTML_TAGS = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "a", "strong", "u"}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables with three columns, two of them under a head."""
    text = lambda: draw(HOSTILE)  # noqa: E731
    columns = [Column(text(), TEXT), Column(text(), NUMBER, "p-q"), Column(text(), short=text())]
    blocks = [[Line(draw(st.lists(CELLS, min_size=3, max_size=3)), "p-q", ("kd",)) for _ in range(2)] for _ in range(2)]
    return Table(
        text(), columns, blocks, heads=[Head("", 1), Head(text(), 2, "p-q")], intro=[text()], notes=[text()],
        sources=[text()], lists=[Listing(text(), [text()])],
    )  # fmt: skip


def columns_of(row: str) -> int:
    """Columns that a LaTeX row fills."""
    spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
    return len(re.findall(r"(?<!\\)&", row)) + 1 + spans


@given(tables())
def test_latex_rows_fill_their_columns_and_no_text_has_a_meaning(table):
    for text in (latex.floats("a_b", table.caption, [table]), latex.longtable("a_b", table.caption, [table])):
        body = text[text.index("\\toprule") :].replace(r"\textbackslash{}", "").replace("{!}{%", "")
        body = re.sub(r"\\[&%#_{}$]", "", body)
        rows = [line for line in body.splitlines() if line.endswith((r"\\", r"\\*"))]
        assert len(rows) >= 5 and {columns_of(row) for row in rows} == {3}
        assert text.replace(r"\{", "").count("{") == text.replace(r"\}", "").count("}")
        assert not [row for row in rows if SPECIAL.search(re.sub(r"(?<!\\)&|\$[^$]*\$", "", row))]


def test_latex_prints_marks_details_and_the_sources_in_use():
    cells = [Cell("KD"), Cell("1.00", "± 0.10 (3)", BEST, "†", value=1.0), Cell("0.50", mark=SECOND, source=2)]
    columns = [Column("Method", TEXT), Column("top-1"), Column("a long title", short="short")]
    text = latex.floats("name", "5 %", [Table("", columns, [[Line(cells)]], sources=["first", "second"])])
    kd_cells = r"KD & \textbf{1.00}\textsuperscript{$\dagger$} {\scriptsize $\pm$ 0.10 (3)} & "
    assert kd_cells + r"\underline{0.50} {\scriptsize {[}2{]}} \\" in text
    assert r"Method & top-1 & short \\" in text and "second" in text and "first" not in text


def test_latex_escapes_every_special_character():
    assert latex.escape(r"a_b & 5% #1 $x {y} ~ ^ \z [2]") == (
        r"a\_b \& 5\% \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z {[}2{]}"
    )
    assert latex.escape("± − Δ\n✓") == r"$\pm$ $-$ $\Delta$ $\checkmark$"


@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=3))
def test_csv_keeps_any_text(rows):
    text = csv.render(["a", "b"], [{"a": a, "b": b} for a, b in rows])
    expected = [[re.sub(r"\r\n?", "\n", field) for field in row] for row in rows]
    assert list(standard_csv.reader(io.StringIO(text, newline=""))) == [["a", "b"], *expected]


def test_csv_has_four_digits_and_leaves_out_what_is_unknown():
    records = [{"a": 1.23456, "b": None, "c": float("nan")}, {"a": 2.0, "c": 3}]
    assert csv.render(["a", "b", "c"], records) == "a,b,c\n1.2346,,\n2,,3\n"


class Texts(HTMLParser):
    """Text of each cell, and all tags with their attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@given(tables())
def test_html_shows_any_text_and_never_becomes_markup(table):
    parsed = Texts(str(html.render(table, html.Filters(["a-b", "p-q"], ["kd"]))))
    cells = [cell for line in table.lines for cell in line.cells]
    texts = [f"{cell.full_text} {cell.symbol}".rstrip() for cell in cells]
    assert [" ".join(text.split()) for text in parsed.cells[5:]] == [" ".join(text.split()) for text in texts]
    assert {tag for tag, _ in parsed.tags} <= set(
        ["div", "table", "caption", "thead", "tbody", "tr", "th", "td", "a", "strong", "u"]
    )
    assert {key for _, attributes in parsed.tags for key in attributes} <= {
        "class", "role", "aria-label", "tabindex", "scope", "colspan", "data-sort", "data-value", "data-pairs",
        "data-methods", "href", "rel",
    }  # fmt: skip
    lines = [attributes for tag, attributes in parsed.tags if tag == "tr"][2:]
    assert all((a["data-pairs"], a["data-methods"]) == ("1", "0") for a in lines)
    links = [attributes for tag, attributes in parsed.tags if tag == "a"]
    assert [a["href"] for a in links] == [cell.href for cell in cells if cell.href]
    assert all(("rel" in a) == (a["href"] or "").startswith("https") for a in links)
