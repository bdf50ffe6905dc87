"""Writing figures: pages, and figures that cannot be drawn."""

import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.files import FigureWriter, Undrawable


def page() -> Figure:
    return style.new_page(style.Appearance(), 1.0, "title").figure


def test_further_pages_are_numbered(tmp_path):
    writer = FigureWriter(tmp_path)
    pages = writer.write("name", lambda: [page(), page(), page()])
    names = ["name", "name-2", "name-3"]
    assert [p.name for p in writer.paths] == [f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")]
    assert [p.pdf.name for p in pages] == [f"{name}.pdf" for name in names]
    assert [p.width for p in pages] == [style.TEXT_WIDTH] * 3


def test_pages_of_an_earlier_figure_that_had_more_are_removed(tmp_path):
    for pages in (4, 2):
        FigureWriter(tmp_path).write("name", lambda n=pages: [page() for _ in range(n)])
    FigureWriter(tmp_path).write("name-of-another", page)
    names = ["name", "name-2", "name-of-another"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{n}.{s}" for n in names for s in ("pdf", "png"))


def test_figures_for_one_column_have_files_of_their_own_and_wider_ones_are_named(tmp_path):
    def narrow() -> Figure:
        return style.new_page(style.Appearance(width=3.3), 1.0, "title").figure

    FigureWriter(tmp_path).write("name", page)
    writer = FigureWriter(tmp_path, 3.3)
    assert [p.width for p in writer.write("name", lambda: [narrow(), narrow()])] == [3.3, 3.3]
    assert [p.pdf.name for p in writer.write("grid", page)] == ["grid.pdf"]
    stems = {"name", "name-column", "name-column-2", "grid"}
    assert {p.name for p in tmp_path.iterdir()} == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "pdf")}
    assert writer.problems == []
    assert writer.notes == ["grid is 6.9 in wide, for both columns of a paper: its columns do not fit into 3.3 in"]


def test_nothing_to_draw_is_no_problem(tmp_path):
    writer = FigureWriter(tmp_path)
    assert writer.write("a", lambda: None) == writer.write("b", lambda: []) == []
    assert (writer.paths, writer.problems) == ([], [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Undrawable("all outputs are equal"), "name cannot be drawn: all outputs are equal"),
        (ValueError("two\n  lines"), "name cannot be drawn: ValueError: two lines"),
    ],
)
def test_a_figure_that_cannot_be_drawn_leaves_its_reason_and_no_file(tmp_path, error, reason):
    writer = FigureWriter(tmp_path)

    def fail() -> Figure:
        raise error

    assert writer.write("name", fail) == []
    assert len(writer.write("other", page)) == 1
    assert writer.problems == [reason]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.pdf", "other.png"]


def test_a_figure_that_fails_while_it_is_rendered_leaves_no_page(tmp_path):
    class Broken(Artist):
        def draw(self, renderer) -> None:
            raise ZeroDivisionError("in the renderer")

    broken, writer = page(), FigureWriter(tmp_path)
    broken.add_artist(Broken())
    assert writer.write("name", lambda: [page(), broken]) == []
    assert writer.problems == ["name cannot be drawn: ZeroDivisionError: in the renderer"]
    assert not list(tmp_path.iterdir())


def test_errors_of_the_file_system_are_raised(tmp_path):
    (tmp_path / "plots").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        FigureWriter(tmp_path / "plots").write("name", page)
