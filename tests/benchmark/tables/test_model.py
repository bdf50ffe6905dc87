"""The table model: splitting, grouping, and its Markdown form under any text."""

import re

from hypothesis import given
from hypothesis import strategies as st

from benchmark.tables import cells, markdown, model
from benchmark.tables.model import BEST, CODE, EMPTY, SECOND, TEXT, Cell, Column, Head, Line, Listing, Table

HOSTILE = st.text(st.sampled_from("|&<_\\\n\r\t{}[]%$#^~`*\"'>!/ab †é"), max_size=12)


def table(rows, columns=None, **more) -> Table:
    width = len(rows[0])
    columns = columns or [Column("Method", TEXT), *(Column(f"c{i}") for i in range(1, width))]
    lines = [Line([c if isinstance(c, Cell) else Cell(c) for c in row]) for row in rows]
    return Table("caption", columns, [lines], **more)


def rows_of(text: str) -> list[list[str]]:
    """Cells of the rows, cut where a Markdown parser cuts them: at bars that no backslash escapes."""
    rows = [re.findall(r"(?:\\.|[^|\\])+", line)[:] for line in text.splitlines() if line.startswith("|")]
    return [[c.strip() for c in row] for row in rows]


@given(st.lists(st.tuples(HOSTILE, HOSTILE, HOSTILE), min_size=1, max_size=4))
def test_markdown_keeps_any_text_in_its_cell(rows):
    document = markdown.document(
        "title\n## other", [table([[f"x{c}" for c in row] for row in rows], intro=["a\n| b |"])]
    )
    assert document.count("\n## ") == 0 and document.splitlines()[2] == "a | b |"
    lines = rows_of("\n".join(document.splitlines()[4:]))
    assert len(lines) == 2 + len(rows) and {len(r) for r in lines} == {3}
    for row, cells_ in zip(rows, lines[2:], strict=True):
        plain = [re.sub(r"\\([\\|<])", r"\1", c) for c in cells_]
        assert plain == [" ".join(f"x{c}".split()) for c in row]
    assert not re.search(r"(?<!\\)<[A-Za-z/!?]", document)


def test_numbers_are_aligned_right_and_marked():
    rows = [["KD", Cell("1.00", "± 0.10 (3)", BEST, "†")], ["CRD", Cell("0.50", mark=SECOND)], ["AT", EMPTY]]
    assert markdown.grid(table(rows)).splitlines() == [
        "| Method |                    c1 |",
        "| ------ | --------------------: |",
        "| KD     | **1.00 ± 0.10 (3)** † |",
        "| CRD    |           <u>0.50</u> |",
        "| AT     |                     – |",
    ]


def test_web_addresses_are_linked_and_anchors_are_not():
    columns = [Column("name", CODE), Column("paper", TEXT)]
    rows = [[Cell("kd", href="#runs"), Cell("Hinton", href="https://arxiv.org/abs/1503.02531")]]
    line = markdown.grid(table(rows, columns)).splitlines()[2]
    assert line == "| `kd` | [Hinton](https://arxiv.org/abs/1503.02531) |"


def test_lists_are_cut_and_counted():
    table_with_list = table([["a", "b"]], lists=[Listing("Missing", [str(i) for i in range(23)])])
    assert markdown.document("", [table_with_list]).endswith("- 19\n- and 3 more\n")
    assert markdown.document("", [table_with_list], listed=None).endswith("- 22\n")


def test_wide_tables_are_split_by_heads_and_lose_empty_lines():
    heads = [Head("", 1), Head("a → b", 2, "a-b"), Head("c → d", 1, "c-d")]
    columns = [Column("Method", TEXT), Column("top-1"), Column("Δ"), Column("top-1")]
    first, second = model.split(table([["KD", "1", "2", "3"], ["CRD", EMPTY, EMPTY, "4"]], columns, heads=heads), 1)
    assert (first.pairs, [c.title for c in first.columns]) == (("a-b",), ["Method", "top-1", "Δ"])
    assert [[c.text for c in line.cells] for line in first.lines] == [["KD", "1", "2"]]
    assert [[c.text for c in line.cells] for line in second.lines] == [["KD", "3"], ["CRD", "4"]]
    assert markdown.grid(first).startswith("| Method | a-b |   Δ |")


def test_lines_are_grouped_by_their_first_column():
    groups = model.group_by_first_column(table([["p", "KD", "1"], ["q", "KD", "2"], ["p", "CRD", "3"]]))
    assert [t.title for t in groups] == ["p", "q"]
    assert [[c.text for c in line.cells] for line in groups[0].lines] == [["KD", "1"], ["CRD", "3"]]


def test_numbers_as_text():
    assert (cells.signed(0.004), cells.signed(-1), cells.signed(2), cells.signed(float("nan"))) == (
        "0.00", "−1.00", "+2.00", "–",
    )  # fmt: skip
    assert cells.mean(1.5, float("nan"), 1).full_text == "1.50 (1)"
    assert cells.difference(1.5, -0.25, 3.25).full_text == "+1.50 [−0.25, +3.25]"
    assert (cells.duration(3725.4).text, cells.integer(12800005).text) == ("1:02:05", "12,800,005")
    assert cells.integer(None) is cells.number(float("nan")) is EMPTY
