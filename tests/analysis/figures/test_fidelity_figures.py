"""Figures of class structure: what they show, against the frames that they are drawn from."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from analysis import fidelity as structure
from analysis import load as runs
from analysis.figures import curves as plots
from analysis.figures import fidelity as structure_plots
from analysis.groups import groups

PAIR = "resnet20-resnet8"
PALETTE = plots.colours(["ce", "kd", "crd", "clkd"])


def measured(root, pair=PAIR):
    return structure.measure(groups(runs.load(root).done, [pair])[0], root)


@pytest.fixture
def varied(full):
    """The full tree, with outputs that differ between all runs and are right more often than not."""
    for i, path in enumerate(sorted(full.root.glob("**/test_outputs.npz"))):
        labels = np.arange(60) % 3
        logits = np.random.default_rng(i).normal(size=(60, 3)) + 1.5 * np.eye(3)[labels]
        np.savez(path, logits=logits.astype(np.float32), labels=labels, class_names=np.array(["cat", "dog", "emu"]))
    return full


def panels(figure):
    """The panels of measures by the first line of their title."""
    return {ax.get_title().split("\n")[0]: ax for ax in figure.axes if ax.get_title()}


def test_measures_have_a_panel_each_with_means_seeds_and_the_teacher(varied):
    made = measured(varied.root)
    figure = structure_plots.draw(made, PAIR, PALETTE)["structure"]
    found = panels(figure)
    assert list(found) == [
        "top-1 [%]", "correlation r", "correlation distance", "agreement [%]", "KL to teacher [nats]", "ECE [%]",
    ]  # fmt: skip
    ax = found["ECE [%]"]
    summary = made.summary.set_index("label")
    teacher, *others = [line for line in ax.lines if len(line.get_xdata()) and line.get_marker() in ("None", "D", "o")]
    assert set(teacher.get_xdata()) == {summary.ece["Teacher"]}
    means = [float(line.get_xdata()[0]) for line in others if line.get_marker() == "D"]
    assert means == pytest.approx(list(summary.ece.drop("Teacher")))
    seeds = [list(line.get_xdata()) for line in others if line.get_marker() == "o"]
    assert seeds == [list(of.ece) for _, of in made.runs.groupby("label", sort=False)]
    labels = [t.get_text() for t in found["top-1 [%]"].get_yticklabels()]
    assert labels == ["Student", "KD", "CLKD (nu=0)", "CLKD (nu=0.4)"]
    assert not any(len(set(line.get_xdata())) == 1 and line.is_dashed() for line in found["agreement [%]"].lines)


def test_one_seed_has_neither_dots_nor_bars(varied):
    made = measured(varied.root, "resnet56-resnet20")
    figure = structure_plots.draw(made, "resnet56-resnet20", PALETTE)["structure"]
    dots = [line for line in panels(figure)["ECE [%]"].lines if line.get_marker() == "o"]
    assert len(dots) == 2  # the student and KD, of four rows


def test_heat_map_shows_the_changes_on_a_symmetric_scale_with_names(varied):
    made = measured(varied.root)
    figure = structure_plots.draw(made, PAIR, PALETTE)["structure-classes"]
    change = structure.changes(made, PAIR, "class")
    (image,) = figure.axes[0].images
    assert np.asarray(image.get_array()) == pytest.approx(change.mean.to_numpy())
    largest = np.abs(change.mean.to_numpy()).max()
    assert largest > 1
    assert image.get_clim() == pytest.approx((-largest, largest))
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == list(change.mean.columns)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "KD (3)",
        "CLKD (nu=0) (3)",
        "CLKD (nu=0.4) (3)",
    ]
    texts = [t.get_text() for t in figure.axes[0].texts]
    first = change.mean.iloc[0, 0]
    assert float(texts[0].replace("−", "-")) == pytest.approx(first, abs=0.51 if abs(first) >= 9.95 else 0.051)


def test_many_classes_are_cut_to_both_ends(tree):
    def outputs(folder, seed):
        logits = np.random.default_rng(seed).normal(size=(300, 30)).astype(np.float32)
        labels = np.arange(300) % 30
        logits[np.arange(300), labels] += 2
        np.savez(folder / "test_outputs.npz", logits=logits, labels=labels)

    tree.teacher("resnet20", 62.3)
    outputs(tree.root / "cifar100/teachers/resnet20/aaaaaaaaaaaa/seed=0", 0)
    outputs(tree.student(PAIR, "ce", "0000000000a1", 0, 60.0), 1)
    outputs(tree.student(PAIR, "kd", "0000000000a2", 0, 60.0), 2)
    made = measured(tree.root)
    figures = structure_plots.draw(made, PAIR, PALETTE)
    assert list(figures) == ["structure", "structure-classes"]
    shown = np.asarray(figures["structure-classes"].axes[0].images[0].get_array())[0]
    every = sorted(made.classes[made.classes.method == "kd"].delta_student, reverse=True)
    assert list(shown) == pytest.approx([*every[:10], *every[-10:]])
    assert "10 classes that gain and 10 that lose most" in figures["structure-classes"].get_suptitle()


def test_no_heat_map_without_a_student_alone(tree):
    tree.teacher("resnet20", 62.3)
    tree.student(PAIR, "kd", "0000000000a2", 0, 60.0)
    assert list(structure_plots.draw(measured(tree.root), PAIR, PALETTE)) == ["structure"]


def test_files_are_sound_and_matplotlibs_settings_stay(full, tmp_path):
    before = dict(matplotlib.rcParams)
    written = structure_plots.write(measured(full.root), tmp_path, PALETTE)
    assert dict(matplotlib.rcParams) == before
    assert [p.name for p in written] == [
        f"cifar100-short-{PAIR}-{f}.{kind}" for f in ("structure", "structure-classes") for kind in ("png", "pdf")
    ]
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert np.asarray(image.convert("L")).std() > 5
        else:
            assert path.read_bytes().startswith(b"%PDF-")
