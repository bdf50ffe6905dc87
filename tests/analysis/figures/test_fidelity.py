"""Figures of fidelity: what they show, against the frames that they are drawn from."""

import numpy as np
import pytest

from analysis.fidelity import Fidelity, measure
from analysis.figures import fidelity as figures
from analysis.figures.files import FigureWriter
from tests.analysis.conftest import Tree, fill
from tests.analysis.figures.conftest import LOOK, PAIR, result_group


def measured(root, pair=PAIR) -> Fidelity:
    return measure(result_group(root, pair), root)


def save_outputs(folder, seed: int, images: int = 60, classes: int = 3, names: bool = True) -> None:
    """Outputs that are right more often than not."""
    labels = np.arange(images) % classes
    logits = np.random.default_rng(seed).normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    arrays = {"class_names": np.array(["cat", "dog", "emu"])} if names else {}
    np.savez(folder / "test_outputs.npz", logits=logits.astype(np.float32), labels=labels, **arrays)


@pytest.fixture(scope="module")
def varied(tmp_path_factory) -> Tree:
    """The full tree, with outputs that differ between all runs."""
    tree = Tree(tmp_path_factory.mktemp("varied") / "runs")
    fill(tree)
    for seed, path in enumerate(sorted(tree.root.glob("**/test_outputs.npz"))):
        save_outputs(path.parent, seed)
    return tree


def one_page(fidelity: Fidelity, name: str, pair: str = PAIR):
    """The only page of a figure."""
    (figure,) = figures.drawings(fidelity, pair, LOOK)[name]()
    return figure


def dots(ax):
    """The lines of single seeds."""
    return [line for line in ax.lines if line.get_alpha() == 0.5]


def marks(ax):
    """The means."""
    return [line for line in ax.lines if line.get_markersize() == 3.6 and line.get_marker() not in ("|", "_")]


def panels(figure):
    """The panels of measures by the first line of their title."""
    return {ax.get_title().split("\n")[0]: ax for ax in figure.axes if ax.get_title()}


def test_measures_have_a_panel_each_with_means_seeds_and_the_teacher(varied):
    fidelity = measured(varied.root)
    measure_panels = panels(one_page(fidelity, "structure"))
    assert list(measure_panels) == [
        "top-1 [%]", "correlation r", "correlation distance", "agreement [%]", "KL to teacher [nats]", "ECE [%]",
    ]  # fmt: skip
    ax = measure_panels["ECE [%]"]
    summary = fidelity.summary.set_index("label")
    (teacher,) = [line for line in ax.lines if line.is_dashed()]
    assert set(teacher.get_xdata()) == {summary.ece["Teacher"]}
    means = {int(line.get_ydata()[0]): float(line.get_xdata()[0]) for line in marks(ax)}
    assert list(means.values()) == pytest.approx(list(summary.ece.drop("Teacher")))
    assert list(means) == [0, 1, 2, 3]
    seeds = [list(line.get_xdata()) for line in dots(ax)]
    assert seeds == [list(runs.ece) for _, runs in fidelity.runs.groupby("label", sort=False)]
    bars = [container[2][0] for container in ax.containers]
    half_widths = [np.ptp(bar.get_segments()[0][:, 0]) / 2 for bar in bars]
    assert half_widths == pytest.approx(list(summary.ece_std.drop("Teacher")))
    assert min(bar.get_zorder() for bar in bars) > max(mark.get_zorder() for mark in marks(ax))
    labels = [t.get_text() for t in measure_panels["top-1 [%]"].get_yticklabels()]
    assert labels == ["Student", "KD", "CLKD (nu=0.4)", "CLKD (nu=0)"]
    lines = measure_panels["agreement [%]"].lines
    assert not any(len(set(line.get_xdata())) == 1 and line.is_dashed() for line in lines)


def test_one_seed_has_no_dots(varied):
    pair = "resnet56-resnet20"
    figure = one_page(measured(varied.root, pair), "structure", pair)
    assert len(dots(panels(figure)["ECE [%]"])) == 2  # the student and KD, of four rows


def test_heat_map_shows_the_changes_on_a_symmetric_scale_with_names(varied):
    fidelity = measured(varied.root)
    figure = one_page(fidelity, "structure-classes")
    ax, mean = figure.axes[0], fidelity.class_changes(PAIR, "class").mean
    (image,) = ax.images
    assert np.asarray(image.get_array()) == pytest.approx(mean.to_numpy())
    largest = np.abs(mean.to_numpy()).max()
    assert largest > 1
    assert image.get_clim() == pytest.approx((-1.25 * largest, 1.25 * largest))  # the darkest shades are left out
    assert figure.axes[1].get_xlim() == pytest.approx((-largest, largest))
    assert [t.get_text() for t in ax.get_xticklabels()] == list(mean.columns)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["KD (3)", "CLKD (nu=0.4) (3)", "CLKD (nu=0) (3)"]
    first = mean.iloc[0, 0]
    text = float(ax.texts[0].get_text().replace("−", "-"))
    assert text == pytest.approx(first, abs=0.51 if abs(first) >= 9.95 else 0.051)


def test_many_classes_are_cut_to_both_ends(tree):
    teacher = tree.root / tree.teacher("resnet20", 62.3)
    students = [tree.student(PAIR, m, f"0000000000a{i}", 0, 60.0) for i, m in enumerate(("ce", "kd"))]
    for seed, folder in enumerate([teacher, *students]):
        save_outputs(folder, seed, 300, 30, names=False)
    fidelity = measured(tree.root)
    assert list(figures.drawings(fidelity, PAIR, LOOK)) == ["structure", "structure-classes"]
    figure = one_page(fidelity, "structure-classes")
    values = np.asarray(figure.axes[0].images[0].get_array())[0]
    changes = sorted(fidelity.classes[fidelity.classes.method == "kd"].delta_student, reverse=True)
    assert list(values) == pytest.approx([*changes[:10], *changes[-10:]])
    assert "10 classes that gain and 10 that lose most" in figure.texts[0].get_text().replace("\n", " ")


def test_no_heat_map_without_a_student_alone(tree):
    tree.teacher("resnet20", 62.3)
    tree.student(PAIR, "kd", "0000000000a2", 0, 60.0)
    assert list(figures.drawings(measured(tree.root), PAIR, LOOK)) == ["structure"]


def test_files_are_named_after_group_pair_and_figure(varied, tmp_path):
    writer = FigureWriter(tmp_path)
    figures.write(measured(varied.root), writer, LOOK)
    paths = writer.paths
    assert writer.problems == []
    names = [f"cifar100-short-{PAIR}-{f}.{k}" for f in ("structure", "structure-classes") for k in ("png", "pdf")]
    assert [p.name for p in paths] == names
    assert all(p.stat().st_size > 5000 for p in paths)
