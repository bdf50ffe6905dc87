"""The joint t-SNE of a pair's networks: which images and networks it shows, and where."""

import numpy as np
import pytest

from analysis.figures import tsne
from analysis.figures.files import Undrawable
from analysis.figures.style import Appearance
from tests.analysis.figures.conftest import LOOK, PAIR, result_group


def test_equal_networks_have_equal_places(tree):
    """A student whose logits are its teacher's, shifted by a constant per image and scaled, lies where it does."""
    relative = tree.teacher("resnet20", 62.3)
    copy = tree.student(PAIR, "ce", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "kd", "0000000000a2", 0, 61.0)
    with np.load(tree.root / relative / "test_outputs.npz") as f:
        arrays = dict(f)
    shift = np.random.default_rng(5).normal(size=(40, 1))
    np.savez(copy / "test_outputs.npz", **arrays | {"logits": (3 * arrays["logits"] + shift).astype(np.float32)})
    embedding, problems = tsne.embed(result_group(tree.root), PAIR, tree.root)
    assert problems == []
    teacher, alone, kd = embedding.panels
    assert (teacher.label, alone.label, kd.label) == ("Teacher", "Student, seed 0", "KD, seed 0")
    size = np.ptp(teacher.points, axis=0).max()
    distances = np.linalg.norm(teacher.points - alone.points, axis=1)
    assert np.median(distances) < 0.05 * size < np.median(np.linalg.norm(teacher.points - kd.points, axis=1))


def test_every_class_has_as_many_images(tree, monkeypatch):
    monkeypatch.setattr(tsne, "MAX_POINTS", 60)
    tree.teacher("resnet20", 62.3)
    tree.student(PAIR, "kd", "0000000000a2", 0, 61.0)
    group = result_group(tree.root)
    embedding, _ = tsne.embed(group, PAIR, tree.root)
    assert np.bincount(embedding.labels).tolist() == [10, 10, 10]  # 60 points of two networks and three classes
    assert embedding.class_names == ["cat", "dog", "emu"]
    assert [p.points.shape for p in embedding.panels] == [(30, 2)] * 2
    assert embedding.description == "Logits of 2 networks on the same 30 test images, chosen with seed 0."
    (figure,) = tsne.draw_embedding(group, PAIR, embedding, LOOK)
    assert [ax.get_title() for ax in figure.axes] == ["Teacher", "KD, seed 0"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["cat", "dog", "emu"]


@pytest.mark.parametrize(
    ("highlighted", "shown"),
    [
        ("kd", ["KD, seed 0", "CLKD (nu=0.4), seed 0"]),  # then the first variant of each other method
        ("clkd", ["CLKD (nu=0.4), seed 0", "CLKD (nu=0.1), seed 0"]),
    ],
)
def test_of_many_rows_those_that_stand_out_are_shown_first(tree, monkeypatch, highlighted, shown):
    monkeypatch.setattr(tsne, "MAX_ROWS", 2)
    monkeypatch.setattr(tsne, "MAX_POINTS", 60)
    tree.teacher("resnet20", 62.3)
    for i, (method, nu) in enumerate((("kd", 1.0), ("clkd", 0.1), ("clkd", 0.4))):
        tree.student(PAIR, method, f"0000000000a{i}", 0, 61.0, options={"nu": nu})
    look = Appearance(highlight=(highlighted,))
    embedding, problems = tsne.embed(result_group(tree.root), PAIR, tree.root, look)
    assert [p.label for p in embedding.panels] == ["Teacher", *shown]
    assert problems == [f"t-SNE on {PAIR}: of 3 rows only 2 are shown"]


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        (np.zeros((40, 3)), "the networks give only 1 different outputs, at least 10 are needed"),
        (np.full((40, 3), [7.0, 1.0, 2.0]), "the networks give only 1 different outputs, at least 10 are needed"),
        (np.eye(3)[np.arange(40) % 3], "the networks give only 3 different outputs, at least 10 are needed"),
    ],
)
def test_outputs_that_are_alike_are_not_embedded(tree, logits, reason):
    """The library ends the process where all points are equal."""
    relative = tree.teacher("resnet20", 62.3)
    folders = [tree.root / relative, tree.student(PAIR, "kd", "0000000000a2", 0, 61.0)]
    for folder in folders:
        np.savez(folder / "test_outputs.npz", logits=logits.astype(np.float32), labels=np.arange(40) % 3)
    with pytest.raises(Undrawable, match=reason):
        tsne.embed(result_group(tree.root), PAIR, tree.root)


def test_what_cannot_be_embedded():
    varied = np.random.default_rng(0).normal(size=(20, 3))
    assert tsne.degenerate(varied) is None
    varied[3, 1] = np.nan
    assert tsne.degenerate(varied) == "the networks' logits are not all finite"


def test_runs_without_outputs_are_reported(tree, monkeypatch):
    monkeypatch.setattr(tsne, "MAX_POINTS", 60)
    tree.teacher("resnet20", 62.3)
    kd, crd = (tree.student(PAIR, m, f"0000000000a{i}", 0, 61.0) for i, m in enumerate(("kd", "crd")))
    (kd / "test_outputs.npz").unlink()
    embedding, (problem,) = tsne.embed(result_group(tree.root), PAIR, tree.root)
    assert [p.label for p in embedding.panels] == ["Teacher", "CRD, seed 0"]
    assert problem.startswith(f"no t-SNE of KD on {PAIR}: no run has a usable test_outputs.npz")
    (crd / "test_outputs.npz").unlink()
    embedding, (problem,) = tsne.embed(result_group(tree.root), PAIR, tree.root)
    assert embedding is None
    assert problem == f"no t-SNE on {PAIR}: no run has a usable test_outputs.npz beside its teacher's"
