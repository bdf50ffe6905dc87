"""Every figure can be read, whatever it is drawn of and as wide as a column or the text of a paper: 1, 5, 15 and 45
methods, one of them with a long title, on 1 and 13 pairs. Nothing overlaps, leaves the canvas, is smaller than 7 pt, or
raises a warning."""

from collections.abc import Callable, Sequence

import matplotlib
import pytest
from matplotlib.figure import Figure

from analysis import statistics
from analysis.fidelity import measure
from analysis.figures import ablation, correlation, curves, differences, fidelity, ranks, style, tsne
from analysis.groups import ResultGroup
from tests.analysis.figures import many
from tests.analysis.figures.legibility import flaws

PAIR = many.PAIRS[0]
WIDTHS = (6.9, 3.3)  # inches, of the text and of a column


def pages(draw: Callable[[], Figure | Sequence[Figure]]) -> list[Figure]:
    with matplotlib.rc_context(style.STYLE):
        drawn = draw()
    return [drawn] if isinstance(drawn, Figure) else list(drawn)


def assert_legible(drawings, look: style.Appearance, wide: Sequence[str] = ()) -> None:
    """Draw figures by name, and find no flaw on any page. All have the width of the look, but those that are `wide`."""
    drawn = {name: pages(draw) for name, draw in drawings.items()}
    reports = {f"{name}, page {i}": flaws(page) for name, of_name in drawn.items() for i, page in enumerate(of_name, 1)}
    assert {name: report for name, report in reports.items() if report} == {}
    widths = {name: {page.get_figwidth() for page in of_name} for name, of_name in drawn.items()}
    assert widths == {name: {6.9 if name in wide else look.width} for name in drawn}


@pytest.fixture(params=WIDTHS, ids=["page", "column"])
def look(request) -> style.Appearance:
    return style.Appearance(many.method_families(), width=request.param)


@pytest.fixture(scope="module", params=many.SIZES)
def on_one_pair(request, many_runs) -> ResultGroup:
    return many.part(many_runs, request.param, 1)


@pytest.fixture(scope="module", params=many.SIZES)
def on_all_pairs(request, many_runs) -> ResultGroup:
    return many.part(many_runs, request.param, len(many.PAIRS))


def test_curves_and_times(on_one_pair, look):
    lines, _ = curves.learning_curves(on_one_pair, PAIR)
    drawings = curves.drawings(on_one_pair, PAIR, lines, look)
    assert list(drawings) == ["curves", "time"]
    assert_legible(drawings, look)


def test_correlations(on_one_pair, many_root, look):
    matrices, _ = correlation.correlation_differences(on_one_pair, PAIR, many_root)
    assert_legible({"": lambda: correlation.draw_correlations(on_one_pair, PAIR, matrices, look)}, look)


def test_fidelity(on_one_pair, many_root, look):
    """The numbers of ten classes stand side by side on the whole page only."""
    measured = measure(on_one_pair, many_root)
    drawings = fidelity.drawings(measured, PAIR, look)
    assert len(drawings) == (1 if len(on_one_pair.rows) == 1 else 2)  # no change without the student alone
    assert_legible(drawings, look, wide=["structure-classes"])


def test_tsne(on_one_pair, many_root, look, monkeypatch):
    monkeypatch.setattr(tsne, "ITERATIONS", 250)
    embedding, _ = tsne.embed(on_one_pair, PAIR, many_root, look)
    assert_legible({"": lambda: tsne.draw_embedding(on_one_pair, PAIR, embedding, look)}, look)


def test_forest_plots(on_one_pair, look):
    drawings = differences.pair_drawings(on_one_pair, PAIR, statistics.compare(on_one_pair), look)
    assert len(drawings) == (0 if len(on_one_pair.rows) == 1 else 1)
    assert_legible(drawings, look)


def test_figures_over_pairs(on_all_pairs, look):
    """The numbers of 13 pairs, and a field for each of 45 rows, stand side by side on the whole page only."""
    comparisons = statistics.compare(on_all_pairs)
    drawings = differences.group_drawings(on_all_pairs, comparisons, look)
    if len(on_all_pairs.rows) == 1:
        assert drawings == {} and statistics.rank(on_all_pairs) is None
        return
    drawings |= ranks.drawings(on_all_pairs, statistics.rank(on_all_pairs), [], look)
    assert set(drawings) == {"gains-student", "gains-kd", "profile", "ranks", "wins"}
    assert_legible(drawings, look, ["gains-student", "gains-kd", *(["wins"] if len(on_all_pairs.rows) == 45 else [])])


@pytest.mark.parametrize("count", many.SIZES[1:])
def test_a_few_pairs_stand_in_one_column(many_runs, count):
    look, group = style.Appearance(width=3.3), many.part(many_runs, count, 4)
    drawings = differences.group_drawings(group, statistics.compare(group), look)
    assert set(drawings) == {"gains-student", "gains-kd"}
    assert_legible(drawings, look)


@pytest.mark.parametrize("width", WIDTHS)
def test_with_all_methods_highlighted_and_without_titles(many_runs, width):
    look, group = style.Appearance(highlight=("all",), titles=False, width=width), many.part(many_runs, 45, 1)
    lines, _ = curves.learning_curves(group, PAIR)
    comparisons = statistics.compare(group)
    drawings = curves.drawings(group, PAIR, lines, look) | differences.pair_drawings(group, PAIR, comparisons, look)
    assert_legible(drawings, look)


@pytest.mark.parametrize("count", many.SIZES)
def test_ablations_of_one_option_and_of_a_list(study, count, look):
    study.references()
    values = [round(0.01 * 1.3**i, 3) for i in range(count)]
    study.read["axes"] = {"nu": {"values": values, "log": True}}
    study.row("default", {"nu": values[0]}, [50.0, 51.0, 52.0])
    for i, value in enumerate(values[1:], 1):
        study.row(f"nu={value} and {'a long setting ' * 6}", {"nu": value}, [50.0 + i % 7, 51.0, 52.0])
    assert_legible({
        "lines": lambda: ablation.draw_lines(study.loaded, look),
        "settings": lambda: ablation.draw_settings(study.loaded, look),
    }, look)  # fmt: skip


@pytest.mark.parametrize("count", [2, 5, 15, 45])
def test_ablations_of_two_options(study, count, look):
    study.references()
    study.read |= {"form": "axes", "default": "s0"}
    rows, columns = list(range(1, count + 1)), [round(0.1 * i, 1) for i in range(1, count + 1)]
    study.read["axes"] = {"alpha": {"values": rows, "log": False}, "beta": {"values": columns, "log": False}}
    for i in range(min(count, 5)):
        study.row(f"s{i}", {"alpha": rows[i], "beta": columns[-1 - i]}, [50.0 + i] * 3)
    wide = ["map"] if count > 5 else []
    assert_legible({"map": lambda: ablation.draw_map(study.loaded, look)}, look, wide)


# ---------------------------------------------------------------- the measurement itself


def test_flaws_are_seen():
    page = style.new_page(style.Appearance(), 1.0, "")
    page.text(1.0, 0.2, "one text")
    page.text(1.1, 0.25, "another text")
    page.text(6.5, 0.7, "leaves the canvas")
    page.text(1.0, 0.7, "small", fontsize=6.9)
    messages = flaws(page.figure)
    assert sorted(message.split(":")[0] for message in messages) == ["6.9 pt", "outside", "overlap"]
    page.figure.set_figwidth(5.0)
    assert "5.0 inches wide" in flaws(page.figure)
    page.figure.text(0.1, 0.1, "\N{CJK UNIFIED IDEOGRAPH-4E00}")  # no glyph in the font
    assert any(message.startswith("warning: Glyph") for message in flaws(page.figure))
