"""Heat maps of class correlations: against numpy's own, from the files."""

from pathlib import Path

import numpy as np
import pytest

from analysis.figures import correlation
from tests.analysis.figures.conftest import LOOK, PAIR, result_group

TEACHER = "cifar100/teachers/resnet20/aaaaaaaaaaaa/seed=0"


def test_differences_are_teacher_minus_student_averaged_over_seeds(filled):
    differences, problems = correlation.correlation_differences(result_group(filled.root), PAIR, filled.root)

    def class_correlation(folder: Path) -> np.ndarray:
        with np.load(folder / "test_outputs.npz") as f:
            return np.corrcoef(f["logits"].astype(float), rowvar=False)

    teacher = class_correlation(filled.root / TEACHER)
    kd_folder = filled.root / "cifar100" / PAIR / "kd/0000000000a2"
    matrices = [teacher - class_correlation(kd_folder / f"seed={s}") for s in range(3)]
    (kd,) = (d for d in differences if d.row.label == "KD")
    assert problems == []
    assert kd.matrix == pytest.approx(np.mean(matrices, axis=0), abs=1e-9)
    above = np.triu_indices(3, 1)
    assert kd.distance == pytest.approx(np.mean([np.abs(m[above]).mean() for m in matrices]))
    assert kd.class_names == ["cat", "dog", "emu"]


def test_panels_share_a_symmetric_scale_and_name_the_classes(filled):
    group = result_group(filled.root)
    differences, _ = correlation.correlation_differences(group, PAIR, filled.root)
    (figure,) = correlation.draw_correlations(group, PAIR, differences, LOOK)
    teacher, *images = [ax.images[0] for ax in figure.axes if ax.images]
    largest = max(np.abs(d.matrix).max() for d in differences)
    assert len(images) == len(differences) == 4
    assert all(i.get_clim() == pytest.approx((-largest, largest)) for i in images)
    assert [t.get_text() for t in teacher.axes.get_yticklabels()] == ["cat", "dog", "emu"]
    assert images[1].axes.get_title() == f"KD\nmean |Δr| {differences[1].distance:.3f}"


def test_the_teachers_own_correlations_stand_before_the_differences(filled):
    group = result_group(filled.root)
    differences, _ = correlation.correlation_differences(group, PAIR, filled.root)
    (figure,) = correlation.draw_correlations(group, PAIR, differences, LOOK)
    with np.load(filled.root / TEACHER / "test_outputs.npz") as f:
        expected = np.corrcoef(f["logits"].astype(float), rowvar=False)
    ax = figure.axes[0]
    assert ax.get_title().startswith("Teacher")
    assert np.asarray(ax.images[0].get_array()) == pytest.approx(expected, abs=1e-9)
    assert ax.images[0].get_clim() == (-1, 1)
    assert ax.images[0].get_cmap().name != figure.axes[1].images[0].get_cmap().name


@pytest.mark.parametrize(
    ("damaged", "content", "rows", "problem"),
    [
        ("student", None, 4, "seed=0: no usable test_outputs.npz there"),
        ("teacher", None, 0, f" and 11 more: no usable test_outputs.npz in its teacher's folder {TEACHER}"),
        ("student", np.eye(3, dtype=np.float32), 4, "seed=0: its logits are [3, 3], its teacher's [40, 3]"),
    ],
)
def test_missing_outputs_are_reported_and_the_rest_is_drawn(full, damaged, content, rows, problem):
    student = full.root / "cifar100" / PAIR / "kd/0000000000a2/seed=0"
    path = (student if damaged == "student" else full.root / TEACHER) / "test_outputs.npz"
    if content is None:
        path.write_bytes(b"PK\x03\x04 broken")
    else:
        np.savez(path, logits=content, labels=np.arange(3))
    differences, problems = correlation.correlation_differences(result_group(full.root), PAIR, full.root)
    assert len(differences) == rows
    assert len(problems) == 1
    assert problems[0].startswith("no correlations for ") and problems[0].endswith(problem)
