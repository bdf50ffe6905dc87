"""Fidelity of all runs of a group: means over seeds, changes of classes, and runs that cannot be measured."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from analysis import fidelity, predictions
from analysis.grouping import group_runs
from analysis.groups import ResultGroup
from analysis.load import load_runs
from analysis.predictions import Predictions

PAIR = "resnet20-resnet8"
TEACHER = "cifar100/teachers/resnet20/aaaaaaaaaaaa/seed=0"
NAMES = ["ant", "bee", "cat", "dog", "emu", "fox", "gnu"]

# CIFAR-100's classes in the order of its labels, and the coarse label of each as its files have it
CLASS_TEXT = """\
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm"""
CIFAR100 = CLASS_TEXT.split()
COARSE = [
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10,
    12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
    12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14,
    13,
]  # fmt: skip


# ---------------------------------------------------------------- superclasses of CIFAR-100


def test_every_cifar100_class_is_in_the_superclass_of_its_coarse_label():
    superclasses = fidelity.superclasses()
    assert sorted(superclasses) == CIFAR100
    assert len(fidelity.SUPERCLASS_FILE.read_text().splitlines()) == 101  # none is there twice
    assert set(Counter(superclasses.values()).values()) == {5}
    assert len(set(superclasses.values())) == 20
    assert len({(superclasses[name], coarse) for name, coarse in zip(CIFAR100, COARSE, strict=True)}) == 20
    assert superclasses["baby"] == "people"
    assert superclasses["whale"] == "aquatic mammals"


# ---------------------------------------------------------------- groups of runs


def save(
    folder: Path, seed: int, names: list[str] | None = NAMES, samples: int = 70, **arrays: np.ndarray
) -> np.ndarray:
    """Write random outputs; returns the logits."""
    classes = len(names or NAMES)
    logits = np.random.default_rng(seed).normal(size=(samples, classes)).astype(np.float32) * 2
    content = {"logits": logits, "labels": np.arange(samples) % classes} | arrays
    if names:
        content["class_names"] = np.array(names)
    np.savez(folder / "test_outputs.npz", **content)
    return logits


def fill(tree, names: list[str] | None = NAMES, **more) -> dict[tuple[str, int], np.ndarray]:
    """A teacher, and the student alone and KD with three seeds; returns their logits."""
    tree.teacher("resnet20", 62.3)
    logits = {("teacher", 0): save(tree.root / TEACHER, 100, names, **more)}
    for seed in range(3):
        for i, method in enumerate(("ce", "kd")):
            folder = tree.student(PAIR, method, f"0000000000a{i}", seed, 60.0)
            logits[method, seed] = save(folder, 10 * i + seed, names, **more)
    return logits


def run(tree, method: str, seed: int) -> Path:
    return tree.root / "cifar100" / PAIR / method / f"0000000000a{('ce', 'kd').index(method)}" / f"seed={seed}"


def group(tree) -> ResultGroup:
    return group_runs(load_runs(tree.root).finished)[0]


def measure(tree) -> fidelity.Fidelity:
    return fidelity.measure(group(tree), tree.root)


def row(measured: fidelity.Fidelity, label: str):
    (record,) = measured.summary[measured.summary.label == label].to_dict("records")
    return record


def test_summary_is_mean_and_sample_deviation_over_seeds(tree):
    logits = fill(tree)
    measured = measure(tree)
    teacher, labels = logits["teacher", 0], np.arange(70) % 7
    agreements = [100 * np.mean(logits["kd", s].argmax(1) == teacher.argmax(1)) for s in range(3)]
    kd = row(measured, "KD")
    assert list(measured.summary.label) == ["Teacher", "Student", "KD"]
    assert (kd["n"], kd["agreement_n"]) == (3, 3)
    assert kd["agreement"] == pytest.approx(np.mean(agreements))
    assert kd["agreement_std"] == pytest.approx(np.std(agreements, ddof=1))
    top1 = [100 * np.mean(logits["kd", s].argmax(1) == labels) for s in range(3)]
    assert kd["top1"] == pytest.approx(np.mean(top1))
    assert list(measured.runs[measured.runs.label == "KD"].agreement) == pytest.approx(agreements)
    assert measured.notes == []


def test_the_teacher_has_only_accuracy_and_calibration(tree):
    logits = fill(tree)
    teacher = row(measure(tree), "Teacher")
    network = Predictions(logits["teacher", 0], np.arange(70) % 7)
    assert teacher["top1"] == pytest.approx(100 * np.mean(network.logits.argmax(1) == network.labels))
    assert teacher["ece"] == pytest.approx(predictions.calibration_error(network))
    assert teacher["n"] == 1
    assert all(math.isnan(teacher[m.key]) for m in fidelity.MEASURES if m.key not in ("top1", "ece"))


def test_class_changes_are_taken_between_runs_of_one_seed(tree):
    logits = fill(tree)
    labels = np.arange(70) % 7

    def accuracies(outputs: np.ndarray) -> np.ndarray:
        return 100 * recall_score(labels, outputs.argmax(1), average=None)

    measured = measure(tree)
    kd = measured.classes[measured.classes.label == "KD"].set_index("name")
    alone = np.array([accuracies(logits["kd", s]) - accuracies(logits["ce", s]) for s in range(3)])
    teacher = np.array([accuracies(logits["kd", s]) - accuracies(logits["teacher", 0]) for s in range(3)])
    assert list(kd.index) == NAMES
    assert list(kd.delta_student) == pytest.approx(alone.mean(0))
    assert list(kd.delta_student_std) == pytest.approx(alone.std(0, ddof=1))
    assert list(kd.delta_teacher) == pytest.approx(teacher.mean(0))
    assert set(kd.delta_student_n) == {3}
    assert set(kd.images) == {10}
    student = measured.classes[measured.classes.label == "Student"]
    assert student.delta_student.isna().all()
    assert student.delta_teacher.notna().all()
    change = measured.class_changes(PAIR, "class")
    assert list(change.mean.index) == ["KD"]
    assert list(change.mean.loc["KD"]) == pytest.approx(sorted(alone.mean(0), reverse=True))
    assert change.n["KD"] == 3
    assert not change.partial
    assert list(measured.class_changes(PAIR, "class", "teacher").mean.index) == ["Student", "KD"]


def test_confused_pairs_of_runs_are_averaged_over_seeds(tree):
    logits = fill(tree)
    labels = np.arange(70) % 7

    def shares(outputs: np.ndarray) -> np.ndarray:
        return 100 * confusion_matrix(labels, outputs.argmax(1), normalize="true")

    excess = np.mean([shares(logits["kd", s]) for s in range(3)], axis=0) - shares(logits["teacher", 0])
    np.fill_diagonal(excess, -1)
    confused = measure(tree).confused
    kd = confused[confused.label == "KD"]
    assert list(kd.excess) == pytest.approx(sorted(excess.ravel(), reverse=True)[:10])
    for pair in kd.itertuples():
        assert pair.excess == pytest.approx(excess[NAMES.index(pair.true), NAMES.index(pair.predicted)])
        assert pair.excess == pytest.approx(pair.student - pair.teacher)


def test_superclass_accuracy_is_over_all_images_of_its_classes(tree):
    names = CIFAR100[::-1]  # by name, not by place
    labels = np.random.default_rng(5).integers(0, 100, 700)
    logits = fill(tree, names, samples=700, labels=labels)
    measured = measure(tree)
    kd = measured.classes[(measured.classes.label == "KD") & (measured.classes.level == "superclass")].set_index("name")
    people = np.isin(labels, [names.index(n) for n in ("baby", "boy", "girl", "man", "woman")])
    right = {k: 100 * np.mean(z.argmax(1)[people] == labels[people]) for k, z in logits.items()}
    assert len(kd) == 20
    assert kd.images["people"] == people.sum()
    assert kd.accuracy["people"] == pytest.approx(np.mean([right["kd", s] for s in range(3)]))
    expected = np.mean([right["kd", s] - right["ce", s] for s in range(3)])
    assert kd.delta_student["people"] == pytest.approx(expected)
    classes = measured.classes[(measured.classes.label == "KD") & (measured.classes.level == "class")].set_index("name")
    assert len(classes) == 100
    assert classes.superclass["baby"] == "people"
    assert measured.levels(PAIR) == ["superclass", "class"]
    change = measured.class_changes(PAIR, "class")
    ordered = classes.delta_student.dropna().sort_values(ascending=False)
    assert change.partial
    assert list(change.mean.loc["KD"]) == pytest.approx([*ordered[:10], *ordered[-10:]])


def test_classes_without_names_are_numbered(tree):
    fill(tree, names=None)
    measured = measure(tree)
    assert list(dict.fromkeys(measured.classes.name)) == list("0123456")
    assert measured.levels(PAIR) == ["class"]


def break_file(folder: Path) -> None:
    (folder / "test_outputs.npz").write_bytes(b"PK\x03\x04 broken")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "test_outputs.npz").unlink(), "no usable test_outputs.npz there"),
        (break_file, "no usable test_outputs.npz there"),
        (lambda f: save(f, 1, labels=np.full(70, 7)), "no usable test_outputs.npz there"),
        (lambda f: save(f, 1, labels=np.arange(70) / 2), "no usable test_outputs.npz there"),
        (lambda f: save(f, 1, [*NAMES[:6], "ant"]), "no usable test_outputs.npz there"),
        (lambda f: save(f, 1, samples=0), "no usable test_outputs.npz there"),
        (lambda f: save(f, 1, samples=69), "its logits are [69, 7], its teacher's [70, 7]"),
        (lambda f: save(f, 1, NAMES[:6]), "its logits are [70, 6], its teacher's [70, 7]"),
        (lambda f: save(f, 1, NAMES[::-1]), "its test set is not its teacher's"),
        (lambda f: save(f, 1, labels=np.arange(70)[::-1] % 7), "its test set is not its teacher's"),
    ],
)
def test_an_unusable_run_is_reported_and_left_out(tree, damage, reason):
    fill(tree)
    whole = measure(tree)
    damage(run(tree, "kd", 1))
    measured = measure(tree)
    assert measured.notes == [f"cifar100/{PAIR}/kd/0000000000a1/seed=1 is left out: {reason}"]
    kd, before = row(measured, "KD"), whole.runs[(whole.runs.label == "KD") & (whole.runs.seed != 1)]
    assert kd["n"] == 2
    assert kd["kl"] == pytest.approx(before.kl.mean())
    assert row(measured, "Student")["n"] == 3
    assert set(measured.classes[measured.classes.label == "KD"].delta_student_n) == {2}


def test_without_the_teachers_outputs_nothing_is_measured(tree):
    fill(tree)
    (tree.root / TEACHER / "test_outputs.npz").unlink()
    measured = measure(tree)
    assert measured.pairs == []
    assert measured.runs.empty
    assert measured.summary.empty
    assert measured.classes.empty
    assert measured.confused.empty
    assert len(measured.notes) == 6
    assert all(f"no usable test_outputs.npz in its teacher's folder {TEACHER}" in note for note in measured.notes)


def test_a_result_without_its_teachers_folder(tree):
    fill(tree)
    tree.student(PAIR, "crd", "0000000000a9", 0, 60.0, changes={"teacher_run": None})
    (note,) = measure(tree).notes
    assert note == f"cifar100/{PAIR}/crd/0000000000a9/seed=0 is left out: its result.json has no teacher_run"


def test_a_seed_without_the_student_alone_has_no_change_to_it(tree):
    fill(tree)
    break_file(run(tree, "ce", 2))
    measured = measure(tree)
    kd = measured.classes[measured.classes.label == "KD"]
    assert set(kd.delta_student_n) == {2}
    assert set(kd.delta_teacher_n) == {3}
    assert measured.notes[1] == f"{PAIR} KD, seed 2, is not compared with the student alone, which has no usable seed 2"


def test_methods_that_have_no_student_alone(tree):
    tree.teacher("resnet20", 62.3)
    save(tree.root / TEACHER, 100)
    save(tree.student(PAIR, "kd", "0000000000a1", 0, 60.0), 1)
    measured = measure(tree)
    assert measured.class_changes(PAIR, "class") is None
    assert measured.class_changes(PAIR, "class", "teacher") is not None
    assert measured.notes == [f"{PAIR} KD is not compared with the student alone: there is not exactly one like it"]


def test_every_file_is_read_once_though_pairs_share_a_teacher(tree, monkeypatch):
    fill(tree)
    for seed in range(2):
        save(tree.student("resnet20-resnet14", "kd", "0000000000b1", seed, 60.0), seed)
    tree.teacher("resnet56", 70.0)
    save(tree.root / "cifar100/teachers/resnet56/aaaaaaaaaaaa/seed=0", 101)
    save(tree.student("resnet56-resnet20", "kd", "0000000000b2", 0, 60.0), 3)
    result_group, reads, load = group(tree), Counter(), predictions.load_predictions

    def counted(folder: Path):
        reads[folder] += 1
        return load(folder)

    monkeypatch.setattr(predictions, "load_predictions", counted)
    measured = fidelity.measure(result_group, tree.root)
    assert set(reads.values()) == {1}
    assert len(reads) == 6 + 2 + 1 + 2
    assert measured.pairs == result_group.pairs
    assert list(measured.summary[["pair", "label"]].itertuples(index=False, name=None)) == [
        (pair, label)
        for pair in result_group.pairs
        for label in (["Teacher", "Student", "KD"] if pair == PAIR else ["Teacher", "KD"])
    ]
