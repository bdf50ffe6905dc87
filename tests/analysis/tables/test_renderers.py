"""LaTeX, CSV and HTML of tables with arbitrary text; the Markdown renderer is tested with `benchmark.tables`."""

import csv as standard_csv
import io
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from analysis.tables import csv, html, latex, latex_columns
from benchmark.tables.model import BEST, NUMBER, SECOND, TEXT, Cell, Column, Head, Line, Listing, Table

HOSTILE = st.text(st.sampled_from("|&<>_\\\n\r{}[]%$#^~\"'/ab †−±Δ"), max_size=10).map(lambda text: f"x{text}")
NUMBERS = st.sampled_from(("72.00", "+1.50", "−0.25", "12,800,005", "<0.001", "–", "3", "0:07:12", "x"))
CELLS = st.builds(
    Cell, HOSTILE | NUMBERS, detail=st.just("") | HOSTILE, mark=st.sampled_from(("", BEST, SECOND)),
    symbol=st.sampled_from(("", "†")), source=st.integers(0, 1), value=st.none() | st.floats(-1e6, 1e6),
    href=st.sampled_from(("", "#x", 'https://a/"<b>')), spread=st.sampled_from(("", "0.71", "0.00")),
    count=st.integers(0, 2),
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


def columns_in(specification: str) -> int:
    """Columns that a LaTeX table has."""
    bare = re.sub(r"S\[[^]]*\]", "S", re.sub(r"[@>]\{(?:[^{}]|\{[^{}]*\})*\}", "", specification))
    assert set(bare) <= set("Slr")
    return len(bare)


@given(tables())
def test_latex_rows_fill_their_columns_and_no_text_has_a_meaning(table):
    text = latex.floats("a_b", table.caption, [table])
    unescaped = re.sub(r"\\[\\{}]", "", text)  # without line breaks and escaped braces
    assert unescaped.count("{") == unescaped.count("}")
    for tabular in re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, re.S):
        specification, body = tabular[1:].split("}\n\\toprule", 1)
        body = re.sub(r"\\\\(?!$)", " ", body.replace(r"\textbackslash{}", ""), flags=re.M)  # in titles of two lines
        body = re.sub(r"\\[&%#_{}$]", "", body)
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) >= 5 and {columns_of(row) for row in rows} == {columns_in(specification)}
        assert not [row for row in rows if SPECIAL.search(re.sub(r"(?<!\\)&|\$[^$]*\$", "", row))]


def one_row(cells: list[Cell], columns: list[Column]) -> tuple[str, str]:
    """The specification of the columns and the last row of a table in LaTeX."""
    table = Table("", columns, [[Line(cells)]], sources=["a source"])
    lines = latex.floats("name", "caption", [table]).splitlines()
    start = next(line for line in lines if line.startswith(r"\begin{tabular}"))
    return start.removeprefix(r"\begin{tabular}{")[:-1], lines[lines.index(r"\bottomrule") - 1]


def test_latex_aligns_numbers_with_what_belongs_to_them():
    """Uncertainties count units of the last digit; all parts of a number have columns of their own."""
    cells = [
        Cell("KD"),
        Cell("1.00", mark=BEST, symbol="†", spread="0.10", count=3),
        Cell("−12.50", "[−13.00, −12.00]"),
    ]
    specification, row = one_row(cells, [Column("Method", TEXT), Column("top-1"), Column("Δ")])
    assert specification == (r"lS[table-format=1.2(2)]@{\,}>{\scriptsize}lS[table-format=+2.2]@{\;}>{\scriptsize}r")
    number = r"\fontseries{b}\selectfont 1.00(10) & \textsuperscript{$\dagger$}"
    assert row == rf"KD & {number} & -12.50 & {{[}}$-$13.00, $-$12.00{{]}} \\"


def test_latex_shows_numbers_of_seeds_that_are_not_the_usual_one():
    rows = [("A", "1.00", "0.10", 3), ("B", "2.00", "0.20", 3), ("C", "3.00", "1.30", 2), ("D", "4.00", "", 1)]
    lines = [Line([Cell(name), Cell(text, spread=spread, count=n)]) for name, text, spread, n in rows]
    text = latex.floats("name", "caption", [Table("", [Column("Method", TEXT), Column("top-1")], [lines])])
    assert "A & 1.00(10) & \\\\\nB & 2.00(20) & \\\\\nC & 3.00(130) & (2) \\\\\nD & 4.00 & (1)" in text
    assert "Where no number of seeds is given, it is 3." in text


def test_latex_shows_a_spread_of_zero():
    """siunitx leaves out an uncertainty of 0."""
    specification, row = one_row([Cell("KD"), Cell("61.25", spread="0.00", count=3)], [Column("M", TEXT), Column("x")])
    assert specification == r"lS[table-format=2.2]@{\,}>{\scriptsize}l" and row == r"KD & 61.25 & $\pm$ 0.00 \\"


def test_latex_underlines_numbers_without_moving_them():
    _, row = one_row([Cell("KD"), Cell("61.25", mark=SECOND)], [Column("Method", TEXT), Column("top-1")])
    assert row == r"KD & {\rlap{\underline{\phantom{61.25}}}}61.25 \\"


def test_latex_sets_columns_that_are_no_numbers_as_text():
    cells = [Cell("KD"), Cell("0:07:12"), Cell("<0.001"), Cell("n/a"), Cell("2.00", source=1)]
    columns = [Column("Method", TEXT), *map(Column, ("time", "p", "top-1", "published"))]
    specification, row = one_row(cells, columns)
    assert specification == r"lrrrS[table-format=1.2]@{\,}>{\scriptsize}l"
    assert row == r"KD & 0:07:12 & $<$0.001 & n/a & 2.00 & {[}1{]} \\"


def test_latex_names_the_sources_in_use_and_short_titles():
    columns = [Column("Method", TEXT), Column("a long title", short="short"), Column("extra parameters")]
    cells = [Cell("KD"), Cell("0.50", source=2), Cell("65,792")]
    text = latex.floats("name", "5 %", [Table("", columns, [[Line(cells)]], sources=["first", "second"])])
    assert r"Method & \multicolumn{2}{c}{short} & {\shortstack{extra\\parameters}} \\" in text
    assert "{[}2{]} second" in text and "first" not in text and r"\caption{5 \%}" in text


def test_latex_writes_small_numbers_as_powers_of_ten():
    assert latex_columns.escape("eps=1e-09, lr=2.5e-05") == r"eps=$10^{-9}$, lr=$2.5\times 10^{-5}$"
    assert latex_columns.escape("1e5 a1e-09 0.1e-09b") == "1e5 a1e-09 0.1e-09b"  # parts of names


def test_wide_tables_span_both_columns_and_are_cut_between_groups():
    """Groups of one number each, under heads; 30 of them fit into no text."""
    heads = [Head("", 1), *(Head(f"teacher{i} → student{i}", 1, f"p{i}") for i in range(30))]
    columns = [Column("Method", TEXT), *(Column("top-1", pair=f"p{i}") for i in range(30))]
    row = Line([Cell("KD"), *(Cell("72.00", spread="0.10", count=3) for _ in range(30))])
    text = latex.floats("name", "caption", [Table("", columns, [[row]], heads=heads)])
    assert r"\begin{table*}[tp]" in text and r"\begin{table}" not in text
    tabulars = re.findall(r"\\begin\{tabular\}\{(.*)\}\n", text)
    assert len(tabulars) > 3 and sum(columns_in(s) - 1 for s in tabulars) == 30
    narrow = latex.floats("name", "caption", [Table("", columns[:2], [[Line(row.cells[:2])]], heads=heads[:2])])
    assert r"\begin{table}[tp]" in narrow


def test_tall_tables_are_cut_between_rows_over_several_floats():
    lines = [Line([Cell(f"method {i}"), Cell("72.00")]) for i in range(100)]
    table = Table("", [Column("Method", TEXT), Column("top-1")], [lines[:1], lines[1:]], notes=["A note."])
    text = latex.floats("name", "caption", [table])
    floats = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, re.S)
    rows = [re.findall(r"^method (\d+) &", part, re.M) for part in floats]
    assert [int(n) for part in rows for n in part] == list(range(100))
    assert len(floats) == 3 and max(map(len, rows)) - min(map(len, rows)) <= 2
    assert [r"(Continued.)" in part for part in floats] == [False, True, True]
    assert text.count("A note.") == 1 and len(set(re.findall(r"\\label\{(.*?)\}", text))) == 3


def test_latex_escapes_every_special_character():
    assert latex_columns.escape(r"a_b & 5% #1 $x {y} ~ ^ \z [2]") == (
        r"a\_b \& 5\% \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z {[}2{]}"
    )
    assert latex_columns.escape("± − Δ\n✓") == r"$\pm$ $-$ $\Delta$ $\checkmark$"


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


def test_text_that_a_spreadsheet_would_run_is_marked_in_csv():
    record = {"a": "=1+1", "b": "+x", "c": "-x", "d": "@x", "e": -1.5, "f": "−1", "g": "x=1"}
    assert csv.render(list(record), [record]).splitlines()[1] == "'=1+1,'+x,'-x,'@x,-1.5,−1,x=1"
