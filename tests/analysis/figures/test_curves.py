"""Learning curves and accuracy against time: their numbers, and how they are drawn."""

import dataclasses

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.figures import curves, style
from tests.analysis.figures.conftest import COLORS, PAIR, result_group


def by_label(figures):
    return {f.row.label: f for f in figures}


def test_curves_are_means_with_sample_deviations(filled):
    """KD's three seeds end at 60.25, 61.25 and 62.25 and are 20 and 10 points lower before."""
    pair_curves, problems = curves.learning_curves(result_group(filled.root), PAIR)
    kd = by_label(pair_curves)["KD"]
    assert problems == []
    assert [c.row.label for c in pair_curves] == ["Student", "KD", "CLKD (nu=0)", "CLKD (nu=0.4)"]
    assert list(kd.mean.index) == [1, 2, 3]
    assert list(kd.mean) == pytest.approx([41.25, 51.25, 61.25])
    assert list(kd.std) == pytest.approx([1.0, 1.0, 1.0])
    assert kd.n == 3
    assert all(c.seconds is None for c in pair_curves)


def test_bands_for_several_seeds_and_a_dashed_teacher(filled):
    pair = "resnet56-resnet20"
    group = result_group(filled.root, pair)
    pair_curves, _ = curves.learning_curves(group, pair)
    figure = curves.draw_curves(group, pair, pair_curves, COLORS)
    (ax,) = figure.axes
    assert [c.row.label for c in pair_curves if c.n > 1] == ["Student", "KD"]
    assert len(ax.collections) == 2
    teacher, *others = ax.lines
    assert set(teacher.get_ydata()) == {72.0}
    assert teacher.is_dashed()
    assert len(others) == 4
    assert [t.get_text() for t in figure.legends[0].get_texts()][:2] == ["Teacher  72.00", "Student  68.00 ± 1.00"]


@pytest.mark.parametrize("draw", [curves.draw_curves, curves.draw_times])
def test_a_long_legend_leaves_the_axes_their_room(filled, draw):
    group = result_group(filled.root)
    pair_curves = [dataclasses.replace(c, seconds=c.mean) for c in curves.learning_curves(group, PAIR)[0]]
    heights = []
    with matplotlib.rc_context(style.STYLE):
        for repeated_curves in (pair_curves, 12 * pair_curves):
            figure = draw(group, PAIR, repeated_curves, COLORS)
            FigureCanvasAgg(figure).draw()
            heights.append(figure.axes[0].get_window_extent().height)
    assert heights[1] > 0.8 * heights[0]


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


def test_training_time_adds_up_data_and_steps(tree, tmp_path):
    tree.teacher("resnet20", 62.3)
    for seed, seconds in ((0, 10.0), (1, 20.0)):
        folder = tree.student(PAIR, "kd", "1a2b3c4d5e6f", seed, 60.0)
        lines = [
            f'{{"epoch": {e}, "test_top1": {40 + e}, "data_s": 1.0, "step_s": {seconds}, "eval_s": 500}}'
            for e in range(1, 9)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(lines))
    group = result_group(tree.root)
    (curve,), problems = curves.learning_curves(group, PAIR)
    assert problems == []
    assert list(curve.seconds)[:3] == [16.0, 32.0, 48.0]  # means of 11 and 21 per epoch
    paths, _ = curves.write(group, tmp_path, COLORS)
    names = [f"cifar100-short-{PAIR}-{name}.{suffix}" for name in ("curves", "time") for suffix in ("png", "pdf")]
    assert [p.name for p in paths] == names
    whole, last_quarter = curves.draw_curves(group, PAIR, [curve], COLORS).axes
    assert whole.get_xlim()[1] > 8
    assert last_quarter.get_title() == "from epoch 6"
