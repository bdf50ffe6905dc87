"""Learning curves and accuracy against time: their numbers, and how they are drawn."""

import dataclasses

import pytest

from analysis.figures import curves, palette, style
from analysis.figures.files import FigureWriter
from analysis.tables import cost, results
from tests.analysis.figures import many
from tests.analysis.figures.conftest import LOOK, PAIR, result_group


def by_label(figures):
    return {f.row.label: f for f in figures}


def test_curves_are_means_with_sample_deviations(filled):
    """KD's three seeds end at 60.25, 61.25 and 62.25 and are 20 and 10 points lower before."""
    pair_curves, problems = curves.learning_curves(result_group(filled.root), PAIR)
    kd = by_label(pair_curves)["KD"]
    assert problems == []
    assert [c.row.label for c in pair_curves] == ["Student", "KD", "CLKD (nu=0.4)", "CLKD (nu=0)"]
    assert list(kd.mean.index) == [1, 2, 3]
    assert list(kd.mean) == pytest.approx([41.25, 51.25, 61.25])
    assert list(kd.std) == pytest.approx([1.0, 1.0, 1.0])
    assert kd.n == 3
    assert all(c.seconds is None for c in pair_curves)


def test_bands_for_several_seeds_and_a_dashed_teacher(filled):
    pair = "resnet56-resnet20"
    group = result_group(filled.root, pair)
    pair_curves, _ = curves.learning_curves(group, pair)
    figure = curves.draw_curves(group, pair, pair_curves, LOOK)
    (ax,) = figure.axes
    assert [c.row.label for c in pair_curves if c.n > 1] == ["Student", "KD"]
    assert len(ax.collections) == 2
    teacher, *others = [line for line in ax.lines if line.get_clip_on()]  # not those that lead to names
    assert set(teacher.get_ydata()) == {72.0}
    assert teacher.is_dashed()
    assert len(others) == 4
    assert [t.get_text() for t in ax.texts][:2] == ["Teacher  72.00", "Student  68.00 ± 1.00"]


def test_rows_are_named_at_the_ends_of_their_lines_in_their_colors(filled):
    group = result_group(filled.root)
    pair_curves, _ = curves.learning_curves(group, PAIR)
    figure = curves.draw_curves(group, PAIR, pair_curves, LOOK)
    names = {text.get_text(): text.get_color() for text in figure.axes[-1].texts}
    assert names["KD  61.25 ± 1.00"] == palette.method_mark("kd")[0]
    assert names["CLKD (nu=0)  59.50 ± 1.00"] == names["CLKD (nu=0.4)  61.50 ± 1.00"] == palette.method_mark("clkd")[0]
    assert len(names) == 5  # of four rows and the teacher


def test_rows_that_do_not_stand_out_are_gray_and_counted(filled):
    group = result_group(filled.root)
    pair_curves, _ = curves.learning_curves(group, PAIR)
    figure = curves.draw_curves(group, PAIR, pair_curves, style.Appearance(highlight=("kd",)))
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.texts] == ["Teacher  62.30", "KD  61.25 ± 1.00", "3 others"]
    gray = [line for line in ax.lines if line.get_color() == palette.OTHER_COLOR and len(line.get_xdata()) == 3]
    colored = [line for line in ax.lines if line.get_color() == palette.method_mark("kd")[0]]
    assert len(gray) == 3 and max(line.get_zorder() for line in gray) < colored[0].get_zorder()


def test_times_show_late_epochs_and_nothing_below_the_curves(filled):
    """The rows end between 59.5 and 61.5, the teacher at 62.3, and the lowest curve begins at 39.5."""
    group = result_group(filled.root)
    pair_curves = [dataclasses.replace(c, seconds=c.mean) for c in curves.learning_curves(group, PAIR)[0]]
    (ax,) = curves.draw_times(group, PAIR, pair_curves, LOOK).axes
    assert ax.get_ylim() == pytest.approx((59.5 - 1.5 * 2.8, 62.3 + 0.28))
    low = [dataclasses.replace(c, mean=c.mean.iloc[1:] - 30 * i) for i, c in enumerate(pair_curves[:2])]
    low = [dataclasses.replace(c, seconds=c.mean) for c in low]
    (ax,) = curves.draw_times(
        group, PAIR, low, LOOK
    ).axes  # from 21.25 to the teacher: 31.05 points above the lowest end
    assert ax.get_ylim()[0] == pytest.approx(21.25 - 0.1 * (62.3 - 31.25))


def test_the_zoom_holds_what_stands_out_and_all_that_is_better(many_runs):
    group, look = many.part(many_runs, 45, 1), style.Appearance(highlight=("kd",))
    (pair,) = group.pairs
    pair_curves, _ = curves.learning_curves(group, pair)
    low, high = curves.draw_curves(group, pair, pair_curves, look).axes[1].get_ylim()
    ends = {c.row.method: c.mean.iloc[-1] for c in pair_curves}
    assert low < ends["kd"] and high > max(ends.values())
    (student,) = [c.mean for c in pair_curves if c.row.method == "ce"]
    assert low > student.loc[9]  # the first epoch shown


def test_a_failed_row_in_gray_does_not_flatten_the_others_and_is_counted(many_runs):
    """KD stands out and ends above 70; a gray row is shifted down to about 10."""
    group, look = many.part(many_runs, 5, 1), style.Appearance(highlight=("kd",))
    (pair,) = group.pairs
    pair_curves = [c for c in curves.learning_curves(group, pair)[0] if c.row.method in ("kd", "crd")]
    pair_curves = [dataclasses.replace(c, mean=c.mean - 60) if c.row.method == "crd" else c for c in pair_curves]
    for width in (6.9, 3.3):
        figure = curves.draw_times(group, pair, pair_curves, dataclasses.replace(look, width=width))
        assert figure.axes[0].get_ylim()[0] > 40
        assert "1 other, 1 below ↓" in [text.get_text() for text in figure.axes[-1].texts]


def test_unmeasured_epochs_and_broken_metrics(tree):
    tree.teacher("resnet20", 62.3)
    first, second = (tree.student(PAIR, "kd", "0000000000a1", seed, 60.0) for seed in (0, 1))
    tree.curve(first, [None, 50.0, 60.0])
    with open(second / "metrics.jsonl", "a") as f:
        f.write('{"epoch": 4, "test_t')
    broken = tree.student(PAIR, "crd", "0000000000a2", 0, 60.0)
    (broken / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    pair_curves, problems = curves.learning_curves(result_group(tree.root), PAIR)
    assert list(by_label(pair_curves)["KD"].mean.index) == [2, 3]
    assert "CRD" not in by_label(pair_curves)
    assert problems == [f"no curve for {broken}: its metrics.jsonl has no test accuracies"]


def test_time_is_the_cost_tables_divided_among_the_epochs_by_their_steps(tree, tmp_path):
    """Two runs of 431 and 432 s with evaluation; their first epoch has a third of the steps' seconds of the others."""
    tree.teacher("resnet20", 62.3)
    for seed in (0, 1):
        folder = tree.student(PAIR, "kd", "1a2b3c4d5e6f", seed, 60.0)
        lines = [
            f'{{"epoch": {e}, "test_top1": {40 + e}, "data_s": 1.0, "step_s": {9 if e > 1 else 2}, "eval_s": 500}}'
            for e in range(1, 9)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(lines))
    group = result_group(tree.root)
    (curve,), problems = curves.learning_curves(group, PAIR)
    assert problems == []
    assert list(curve.seconds)[:2] == pytest.approx([431.5 * 3 / 73, 431.5 * 13 / 73])
    table = cost.table(results.collect(group, []))
    (line,), column = table.lines, [c.title for c in table.columns].index(curves.TIME)
    assert line.cells[column].value == pytest.approx(curve.seconds.iloc[-1])
    writer = FigureWriter(tmp_path / "plots")
    curves.write(group, writer, LOOK)
    names = [f"cifar100-short-{PAIR}-{name}.{suffix}" for name in ("curves", "time") for suffix in ("png", "pdf")]
    assert [p.name for p in writer.paths] == names and writer.problems == []
    whole, last_quarter = curves.draw_curves(group, PAIR, [curve], LOOK).axes
    assert whole.get_xlim()[1] > 8
    assert last_quarter.get_title() == "from epoch 6"
    (ax,) = curves.draw_times(group, PAIR, [curve], LOOK).axes
    assert ax.get_xlabel() == "time per run [min]"


def test_error_bars_are_drawn_above_the_marks(filled):
    group = result_group(filled.root)
    pair_curves = [dataclasses.replace(c, seconds=c.mean) for c in curves.learning_curves(group, PAIR)[0]]
    (ax,) = curves.draw_times(group, PAIR, pair_curves, LOOK).axes
    marks = [line for line in ax.lines if line.get_marker() not in ("None", "|", "_", None)]
    bars = [bar for container in ax.containers for bar in container[2]]
    assert len(bars) == 4
    assert min(bar.get_zorder() for bar in bars) > max(mark.get_zorder() for mark in marks)
