"""Figures: what they show, that they are sound files, and that the same runs give the same bytes."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from analysis import load as runs
from analysis.figures import curves as plots
from analysis.groups import ResultGroup, groups

PAIR = "resnet20-resnet8"


def group(root: Path, pair: str = PAIR) -> ResultGroup:
    return groups(runs.load(root).done, [pair])[0]


def by_label(found):
    return {f.row.label: f for f in found}


@pytest.fixture
def drawn(full, analyse, tmp_path) -> Path:
    status, out, err = analyse("plots")
    assert status == 0
    assert out == ""
    others = [line for line in err.splitlines() if not line.startswith("written: ")]
    assert len(others) == 1 and others[0].startswith("no wins and losses for cifar100-short: ")  # equal differences
    return tmp_path / "reports" / "plots"


def test_every_pair_has_both_figures_in_both_formats(drawn):
    pairs = ("cifar100-short-resnet20-resnet8", "cifar100-short-resnet56-resnet20", "digits-quick-resnet20-resnet8")
    stems = {f"{p}-{f}" for p in pairs for f in ("curves", "correlation")}
    stems |= {"cifar100-short-ranks", "cifar100-short-profile"}  # of several pairs
    expected = {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    assert {p.name for p in drawn.iterdir()} == expected
    for path in drawn.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
            assert min(image.size) > 400
            assert np.asarray(image.convert("L")).std() > 5
    for path in drawn.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
        assert b"CreationDate" not in content


def test_same_bytes_in_another_process_with_other_hashes(drawn, full, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "analysis", "plots", f"runs={full.root}", f"reports={tmp_path / 'other'}"],
        check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    for path in drawn.iterdir():
        assert (tmp_path / "other" / "plots" / path.name).read_bytes() == path.read_bytes(), path.name


def test_drawing_leaves_matplotlibs_settings_alone(full, analyse):
    before = dict(matplotlib.rcParams)
    analyse("plots")
    assert dict(matplotlib.rcParams) == before


# ---------------------------------------------------------------- curves


def test_curves_are_means_with_sample_deviations(full):
    """KD's three seeds end at 60.25, 61.25 and 62.25 and are 20 and 10 points lower before."""
    found, problems = plots.curves(group(full.root), PAIR)
    kd = by_label(found)["KD"]
    assert problems == []
    assert [f.row.label for f in found] == ["Student", "KD", "CLKD (nu=0)", "CLKD (nu=0.4)"]
    assert list(kd.mean.index) == [1, 2, 3]
    assert list(kd.mean) == pytest.approx([41.25, 51.25, 61.25])
    assert list(kd.std) == pytest.approx([1.0, 1.0, 1.0])
    assert kd.n == 3


def test_a_band_is_drawn_for_several_seeds_only_and_the_teacher_is_dashed(full):
    several = group(full.root, "resnet56-resnet20")
    found, _ = plots.curves(several, "resnet56-resnet20")
    figure = plots.draw_curves(several, "resnet56-resnet20", found, plots.colours({"ce", "kd", "crd", "clkd"}))
    ax = figure.axes[0]
    assert [f.row.label for f in found if f.n > 1] == ["Student", "KD"]
    assert len(ax.collections) == 2
    teacher, *others = ax.lines
    assert set(teacher.get_ydata()) == {72.0}
    assert teacher.is_dashed()
    assert len(others) == 4
    assert [t.get_text() for t in figure.legends[0].get_texts()][:2] == ["Teacher  72.00", "Student  68.00 ± 1.00"]


@pytest.mark.parametrize("draw", [plots.draw_curves, plots.draw_times])
def test_a_long_legend_leaves_the_axes_their_room(full, draw):
    one, palette = group(full.root), plots.colours({"ce", "kd", "crd", "clkd"})
    found, _ = plots.curves(one, PAIR)
    found = [dataclasses.replace(c, seconds=c.mean) for c in found]
    heights = []
    with matplotlib.rc_context(plots.STYLE):
        for lines in (found, 12 * found):
            figure = draw(one, PAIR, lines, palette)
            FigureCanvasAgg(figure).draw()
            heights.append(figure.axes[0].get_window_extent().height)
    assert heights[1] > 0.8 * heights[0]


def test_unmeasured_epochs_and_broken_metrics(tree):
    tree.teacher("resnet20", 62.3)
    a, b = (tree.student(PAIR, "kd", "0000000000a1", seed, 60.0) for seed in (0, 1))
    tree.curve(a, [None, 50.0, 60.0])
    with open(b / "metrics.jsonl", "a") as f:
        f.write('{"epoch": 4, "test_t')
    broken = tree.student(PAIR, "crd", "0000000000a2", 0, 60.0)
    (broken / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    found, problems = plots.curves(group(tree.root), PAIR)
    assert list(by_label(found)["KD"].mean.index) == [2, 3]
    assert "CRD" not in by_label(found)
    assert problems == [f"no curve for {broken}: its metrics.jsonl has no test accuracies"]


def test_a_methods_colour_does_not_depend_on_what_else_is_drawn(full, analyse, tmp_path):
    """Colours are given to all methods in the runs, so a figure stays the same when fewer methods are asked for."""
    for pair, method in (("resnet56-resnet20", "clkd"), ("resnet56-resnet20", "kd,crd,clkd")):
        analyse("plots", f"pair={pair}", f"method={method}", "dataset=cifar100", f"reports={tmp_path / method}")
    every = plots.colours(["ce", "kd", "crd", "clkd"])
    assert len(set(every.values())) == 4
    rgb = tuple(int(every["clkd"][i : i + 2], 16) for i in (1, 3, 5))
    for method in ("clkd", "kd,crd,clkd"):
        with Image.open(tmp_path / method / "plots" / "cifar100-short-resnet56-resnet20-curves.png") as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert (pixels == rgb).all(axis=1).sum() > 50


# ---------------------------------------------------------------- correlations


def test_class_correlation_is_pearsons():
    values = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) + 100
    assert plots.class_correlation(values) == pytest.approx(np.corrcoef(values.astype(float), rowvar=False), abs=1e-9)
    values[:, 2] = 7.0
    assert np.all(plots.class_correlation(values)[2] == 0)


def test_differences_are_teacher_minus_student_averaged_over_seeds(full):
    """Against numpy's own correlation, from the files."""
    found, problems = plots.correlation_differences(group(full.root), PAIR, full.root)
    base = full.root / "cifar100"

    def correlation(folder: Path) -> np.ndarray:
        with np.load(folder / "test_outputs.npz") as f:
            return np.corrcoef(f["logits"].astype(float), rowvar=False)

    teacher = correlation(base / "teachers/resnet20/aaaaaaaaaaaa/seed=0")
    each = [teacher - correlation(base / PAIR / "kd/0000000000a2" / f"seed={s}") for s in range(3)]
    kd = by_label(found)["KD"]
    assert problems == []
    assert kd.matrix == pytest.approx(np.mean(each, axis=0), abs=1e-9)
    above = np.triu_indices(3, 1)
    assert kd.distance == pytest.approx(np.mean([np.abs(m[above]).mean() for m in each]))
    assert kd.class_names == ["cat", "dog", "emu"]


def test_panels_share_a_symmetric_scale_and_name_the_classes(full):
    chosen = group(full.root)
    found, _ = plots.correlation_differences(chosen, PAIR, full.root)
    figure = plots.draw_correlations(chosen, PAIR, found)
    images = [ax.images[0] for ax in figure.axes if ax.images]
    largest = max(np.abs(f.matrix).max() for f in found)
    assert len(images) == len(found) == 4
    assert all(i.get_clim() == pytest.approx((-largest, largest)) for i in images)
    assert [t.get_text() for t in images[0].axes.get_yticklabels()] == ["cat", "dog", "emu"]
    assert images[1].axes.get_title() == f"KD\nmean |Δr| = {by_label(found)['KD'].distance:.3f}"


@pytest.mark.parametrize("broken", ["student", "teacher", "other test set"])
def test_missing_outputs_are_said_and_the_rest_is_drawn(full, analyse, broken):
    run = full.root / "cifar100" / PAIR / "kd/0000000000a2/seed=0"
    teacher = full.root / "cifar100/teachers/resnet20/aaaaaaaaaaaa/seed=0"
    if broken == "other test set":
        np.savez(run / "test_outputs.npz", logits=np.eye(3, dtype=np.float32), labels=np.arange(3))
    else:
        ((run if broken == "student" else teacher) / "test_outputs.npz").write_bytes(b"PK\x03\x04 broken")
    status, _, err = analyse("plots", "dataset=cifar100", f"pair={PAIR}")
    problems = [line for line in err.splitlines() if not line.startswith("written: ")]
    assert status == 0
    assert len(problems) == 1
    assert str(teacher if broken == "teacher" else run) in problems[0]
    assert "curves.png" in err
    assert ("correlation.png" in err) == (broken != "teacher")


def test_accuracy_against_time_adds_up_data_and_steps(tree, tmp_path):
    tree.teacher("resnet20", 62.3)
    for seed, seconds in ((0, 10.0), (1, 20.0)):
        folder = tree.student(PAIR, "kd", "1a2b3c4d5e6f", seed, 60.0)
        lines = [
            f'{{"epoch": {e}, "test_top1": {40 + e}, "data_s": 1.0, "step_s": {seconds}, "eval_s": 500}}'
            for e in (1, 2, 3)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(lines))
    (line,), problems = plots.curves(group(tree.root), PAIR)
    assert problems == []
    assert list(line.seconds) == [16.0, 32.0, 48.0]  # means of 11 and 21 a epoch
    written, problems = plots.write(group(tree.root), tree.root, tmp_path / "reports", {"kd": "#000000"})
    assert {p.name for p in written if "time" in p.name} == {f"cifar100-short-{PAIR}-time.{k}" for k in ("png", "pdf")}


def test_without_times_there_is_no_figure_of_them(full):
    assert all(line.seconds is None for line in plots.curves(group(full.root), PAIR)[0])
