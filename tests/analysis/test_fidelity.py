"""Measures of transferred class structure: against hand-made cases, scipy, sklearn and plain loops."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import confusion_matrix, recall_score

from analysis import fidelity, predictions
from analysis import predictions as measures
from analysis.groups import ResultGroup, group_runs
from analysis.load import load_runs
from analysis.predictions import Predictions

PAIR = "resnet20-resnet8"
TEACHER = "cifar100/teachers/resnet20/aaaaaaaaaaaa/seed=0"
NAMES = ["ant", "bee", "cat", "dog", "emu", "fox", "gnu"]

# CIFAR-100's classes in the order of its labels, and the coarse label of each as its files have it
NAMED = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm"""
CIFAR100 = NAMED.split()
COARSE = [
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10,
    12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
    12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14,
    13,
]  # fmt: skip


def outputs(seed: int, classes: int = 7, samples: int = 60, digits: int | None = None) -> Predictions:
    """Random outputs; rounded ones have ties. Every class has a label."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(samples, classes)) * 2
    return Predictions(logits if digits is None else logits.round(digits), np.arange(samples) % classes)


def softmax(row: np.ndarray) -> np.ndarray:
    e = np.exp(row - row.max())
    return e / e.sum()


# ---------------------------------------------------------------- one network and its teacher


def test_correlation_measures_are_pearsons_and_frobenius():
    student, teacher = outputs(0), outputs(1)
    r_s, r_t = (np.corrcoef(p.logits, rowvar=False) for p in (student, teacher))
    pairs = [(a, b) for a in range(7) for b in range(a + 1, 7)]
    expected = scipy.stats.pearsonr([r_s[p] for p in pairs], [r_t[p] for p in pairs]).statistic
    assert measures.correlation_r(student, teacher) == pytest.approx(expected, abs=1e-12)
    squares = sum((r_t[a, b] - r_s[a, b]) ** 2 for a in range(7) for b in range(7))
    assert measures.correlation_distance(student, teacher) == pytest.approx(math.sqrt(squares) / 7, abs=1e-12)


def test_agreement_and_overlap_by_hand():
    """Both rank 0 first on the first image, not on the second; of the five first classes they share 5 and 4."""
    teacher = Predictions(np.array([[9.0, 8, 7, 6, 5, 0], [9, 8, 7, 6, 5, 0]]), np.array([0, 1]))
    student = Predictions(np.array([[9.0, 5, 6, 7, 8, 0], [0, 8, 7, 6, 5, 9]]), np.array([0, 1]))
    assert measures.agreement(student, teacher) == 50.0
    assert measures.top5_overlap(student, teacher) == pytest.approx(90.0)


def test_overlap_with_ties_takes_the_first_classes_as_argmax_does():
    student, teacher = outputs(0, classes=9, digits=0), outputs(1, classes=9, digits=0)

    def first_five(row: np.ndarray) -> set[int]:
        return set(sorted(range(9), key=lambda c: (-row[c], c))[:5])

    shared = [len(first_five(a) & first_five(b)) for a, b in zip(student.logits, teacher.logits, strict=True)]
    assert measures.top5_overlap(student, teacher) == pytest.approx(100 * np.mean(shared) / 5)
    assert all(student.top5[i, c] for i, c in enumerate(student.top1))


def test_kl_is_of_the_teacher_to_the_student_in_nats():
    student, teacher = outputs(0), outputs(1)
    each = [scipy.stats.entropy(softmax(t), softmax(s)) for s, t in zip(student.logits, teacher.logits, strict=True)]
    assert measures.kl_divergence(student, teacher) == pytest.approx(np.mean(each), rel=1e-12)
    half = Predictions(np.zeros((1, 2)), np.array([0]))
    quarter = Predictions(np.log([[0.25, 0.75]]), np.array([0]))
    assert measures.kl_divergence(quarter, half) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_calibration_error_by_hand():
    """Confidence 0.9 twice, right once: gap 0.4; 0.62 twice, both right: gap 0.38; half of the images each."""
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.62, 0.38], [0.62, 0.38]])
    assert measures.calibration_error(Predictions(logits, np.array([0, 1, 0, 0]))) == pytest.approx(39.0)
    calibrated = Predictions(np.log([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]))
    assert measures.calibration_error(calibrated) == pytest.approx(0.0, abs=1e-12)
    sure = Predictions(np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 0]))
    assert measures.calibration_error(sure) == pytest.approx(50.0)  # confidence 1 is in the last bin


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_by_a_loop_over_bins(bins):
    of = outputs(3, samples=500)
    confidence = [softmax(row).max() for row in of.logits]
    right = of.logits.argmax(axis=1) == of.labels
    total = 0.0
    for m in range(bins):
        inside = [i for i, c in enumerate(confidence) if m / bins < c <= (m + 1) / bins]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) / 500 * abs(gap)
    assert measures.calibration_error(of, bins) == pytest.approx(100 * total, rel=1e-9)


def test_class_accuracy_and_confusion_are_sklearns():
    of = outputs(4, samples=95)
    predicted = of.logits.argmax(axis=1)
    assert measures.confusion(of) == pytest.approx(100 * confusion_matrix(of.labels, predicted, normalize="true"))
    assert measures.accuracy(of) == pytest.approx(100 * np.mean(predicted == of.labels))


def test_a_class_without_images_has_no_accuracy():
    of = Predictions(np.eye(3), np.array([0, 1, 1]))
    assert np.isnan(measures.confusion(of)[2]).all()
    assert measures.accuracy(of) == pytest.approx(200 / 3)


def test_confused_by_hand():
    teacher = np.array([[90.0, 10, 0], [0, 100, 0], [20, 0, 80]])
    student = np.array([[70.0, 15, 15], [5, 95, 0], [0, 0, 100]])
    assert measures.confused_classes(student, teacher, ["a", "b", "c"]) == [
        ("a", "c", 15),
        ("a", "b", 5),
        ("b", "a", 5),
    ]
    assert measures.confused_classes(student, teacher, ["a", "b", "c"], limit=1) == [("a", "c", 15)]
    assert measures.confused_classes(teacher, teacher, ["a", "b", "c"]) == []
    student[1] = np.nan  # a class without images
    assert measures.confused_classes(student, teacher, ["a", "b", "c"]) == [("a", "c", 15), ("a", "b", 5)]


OF_TWO = (
    measures.correlation_r, measures.correlation_distance, measures.agreement, measures.top5_overlap,
    measures.kl_divergence,
)  # fmt: skip


@pytest.mark.parametrize("function", OF_TWO)
def test_order_of_the_images_does_not_matter(function):
    student, teacher = outputs(0), outputs(1)
    order = np.random.default_rng(2).permutation(60)
    shuffled = [Predictions(p.logits[order], p.labels[order]) for p in (student, teacher)]
    assert function(*shuffled) == pytest.approx(function(student, teacher), rel=1e-9)


@pytest.mark.parametrize("function", [measures.agreement, measures.top5_overlap, measures.kl_divergence])
def test_a_constant_added_to_an_images_logits_does_not_matter(function):
    student, teacher = outputs(0), outputs(1)
    shift = np.random.default_rng(2).normal(size=(60, 1)) * 50
    shifted = Predictions(student.logits + shift, student.labels)
    assert function(shifted, teacher) == pytest.approx(function(student, teacher), rel=1e-9)
    assert measures.calibration_error(shifted) == pytest.approx(measures.calibration_error(student), rel=1e-9)


@pytest.mark.parametrize(("function", "expected"), list(zip(OF_TWO, (1, 0, 100, 100, 0), strict=True)))
def test_a_student_that_is_its_teacher(function, expected):
    teacher = outputs(1)
    copy = Predictions(teacher.logits.copy(), teacher.labels)
    assert function(copy, teacher) == pytest.approx(expected, abs=1e-12)


def test_a_constant_class_counts_as_uncorrelated():
    student, teacher = outputs(0), outputs(1)
    student.logits[:, 2] = 3.0
    r_s, r_t = (np.corrcoef(np.delete(p.logits, 2, axis=1), rowvar=False) for p in (student, teacher))
    r_t = np.corrcoef(teacher.logits, rowvar=False)
    full = np.insert(np.insert(r_s, 2, 0, axis=0), 2, 0, axis=1)
    above = np.triu_indices(7, 1)
    expected = scipy.stats.pearsonr(full[above], r_t[above]).statistic
    assert measures.correlation_r(student, teacher) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("classes", "r", "overlap"), [(2, False, False), (3, True, False), (5, True, False), (6, True, True)]
)
def test_what_few_classes_leave_undefined(classes, r, overlap):
    student, teacher = outputs(0, classes), outputs(1, classes)
    assert math.isnan(measures.correlation_r(student, teacher)) != r
    assert math.isnan(measures.top5_overlap(student, teacher)) != overlap
    assert math.isfinite(measures.kl_divergence(student, teacher))


def test_one_image():
    student, teacher = outputs(0, samples=1), outputs(1, samples=1)
    assert math.isnan(measures.correlation_r(student, teacher))
    assert measures.agreement(student, teacher) in (0.0, 100.0)
    expected = scipy.stats.entropy(softmax(teacher.logits[0]), softmax(student.logits[0]))
    assert measures.kl_divergence(student, teacher) == pytest.approx(expected)


# ---------------------------------------------------------------- superclasses of CIFAR-100


def test_every_cifar100_class_is_in_the_superclass_of_its_coarse_label():
    found = fidelity.superclasses()
    assert sorted(found) == CIFAR100
    assert len(fidelity.SUPERCLASS_FILE.read_text().splitlines()) == 101  # none is there twice
    assert set(Counter(found.values()).values()) == {5}
    assert len(set(found.values())) == 20
    assert len({(found[name], coarse) for name, coarse in zip(CIFAR100, COARSE, strict=True)}) == 20
    assert found["baby"] == "people"
    assert found["whale"] == "aquatic mammals"


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
    made = {("teacher", 0): save(tree.root / TEACHER, 100, names, **more)}
    for seed in range(3):
        for i, method in enumerate(("ce", "kd")):
            folder = tree.student(PAIR, method, f"0000000000a{i}", seed, 60.0)
            made[method, seed] = save(folder, 10 * i + seed, names, **more)
    return made


def run(tree, method: str, seed: int) -> Path:
    return tree.root / "cifar100" / PAIR / method / f"0000000000a{('ce', 'kd').index(method)}" / f"seed={seed}"


def group(tree) -> ResultGroup:
    return group_runs(load_runs(tree.root).finished)[0]


def measure(tree) -> fidelity.Fidelity:
    return fidelity.measure(group(tree), tree.root)


def row(made: fidelity.Fidelity, label: str):
    (found,) = made.summary[made.summary.label == label].to_dict("records")
    return found


def test_summary_is_mean_and_sample_deviation_over_seeds(tree):
    logits = fill(tree)
    made = measure(tree)
    teacher, labels = logits["teacher", 0], np.arange(70) % 7
    agreements = [100 * np.mean(logits["kd", s].argmax(1) == teacher.argmax(1)) for s in range(3)]
    kd = row(made, "KD")
    assert list(made.summary.label) == ["Teacher", "Student", "KD"]
    assert (kd["n"], kd["agreement_n"]) == (3, 3)
    assert kd["agreement"] == pytest.approx(np.mean(agreements))
    assert kd["agreement_std"] == pytest.approx(np.std(agreements, ddof=1))
    top1 = [100 * np.mean(logits["kd", s].argmax(1) == labels) for s in range(3)]
    assert kd["top1"] == pytest.approx(np.mean(top1))
    assert list(made.runs[made.runs.label == "KD"].agreement) == pytest.approx(agreements)
    assert made.notes == []


def test_the_teacher_has_accuracy_and_calibration_only(tree):
    logits = fill(tree)
    teacher = row(measure(tree), "Teacher")
    of = Predictions(logits["teacher", 0], np.arange(70) % 7)
    assert teacher["top1"] == pytest.approx(100 * np.mean(of.logits.argmax(1) == of.labels))
    assert teacher["ece"] == pytest.approx(measures.calibration_error(of))
    assert teacher["n"] == 1
    assert all(math.isnan(teacher[m.key]) for m in fidelity.MEASURES if m.key not in ("top1", "ece"))


def test_class_changes_are_taken_between_runs_of_one_seed(tree):
    logits = fill(tree)
    labels = np.arange(70) % 7

    def accuracies(of: np.ndarray) -> np.ndarray:
        return 100 * recall_score(labels, of.argmax(1), average=None)

    made = measure(tree)
    kd = made.classes[made.classes.label == "KD"].set_index("name")
    alone = np.array([accuracies(logits["kd", s]) - accuracies(logits["ce", s]) for s in range(3)])
    teacher = np.array([accuracies(logits["kd", s]) - accuracies(logits["teacher", 0]) for s in range(3)])
    assert list(kd.index) == NAMES
    assert list(kd.delta_student) == pytest.approx(alone.mean(0))
    assert list(kd.delta_student_std) == pytest.approx(alone.std(0, ddof=1))
    assert list(kd.delta_teacher) == pytest.approx(teacher.mean(0))
    assert set(kd.delta_student_n) == {3}
    assert set(kd.images) == {10}
    student = made.classes[made.classes.label == "Student"]
    assert student.delta_student.isna().all()
    assert student.delta_teacher.notna().all()
    change = made.class_changes(PAIR, "class")
    assert list(change.mean.index) == ["KD"]
    assert list(change.mean.loc["KD"]) == pytest.approx(sorted(alone.mean(0), reverse=True))
    assert change.n["KD"] == 3
    assert not change.partial
    assert list(made.class_changes(PAIR, "class", "teacher").mean.index) == ["Student", "KD"]


def test_confused_pairs_of_runs_are_averaged_over_seeds(tree):
    logits = fill(tree)
    labels = np.arange(70) % 7

    def shares(of: np.ndarray) -> np.ndarray:
        return 100 * confusion_matrix(labels, of.argmax(1), normalize="true")

    excess = np.mean([shares(logits["kd", s]) for s in range(3)], axis=0) - shares(logits["teacher", 0])
    np.fill_diagonal(excess, -1)
    made = measure(tree).confused
    kd = made[made.label == "KD"]
    assert list(kd.excess) == pytest.approx(sorted(excess.ravel(), reverse=True)[:10])
    for pair in kd.itertuples():
        assert pair.excess == pytest.approx(excess[NAMES.index(pair.true), NAMES.index(pair.predicted)])
        assert pair.excess == pytest.approx(pair.student - pair.teacher)


def test_superclass_accuracy_is_over_all_images_of_its_classes(tree):
    names = CIFAR100[::-1]  # by name, not by place
    labels = np.random.default_rng(5).integers(0, 100, 700)
    logits = fill(tree, names, samples=700, labels=labels)
    made = measure(tree)
    kd = made.classes[(made.classes.label == "KD") & (made.classes.level == "superclass")].set_index("name")
    people = np.isin(labels, [names.index(n) for n in ("baby", "boy", "girl", "man", "woman")])
    right = {k: 100 * np.mean(of.argmax(1)[people] == labels[people]) for k, of in logits.items()}
    assert len(kd) == 20
    assert kd.images["people"] == people.sum()
    assert kd.accuracy["people"] == pytest.approx(np.mean([right["kd", s] for s in range(3)]))
    expected = np.mean([right["kd", s] - right["ce", s] for s in range(3)])
    assert kd.delta_student["people"] == pytest.approx(expected)
    classes = made.classes[(made.classes.label == "KD") & (made.classes.level == "class")].set_index("name")
    assert len(classes) == 100
    assert classes.superclass["baby"] == "people"
    assert made.levels(PAIR) == ["superclass", "class"]
    change = made.class_changes(PAIR, "class")
    ordered = classes.delta_student.dropna().sort_values(ascending=False)
    assert change.partial
    assert list(change.mean.loc["KD"]) == pytest.approx([*ordered[:10], *ordered[-10:]])


def test_classes_without_names_are_numbered(tree):
    fill(tree, names=None)
    made = measure(tree)
    assert list(dict.fromkeys(made.classes.name)) == list("0123456")
    assert made.levels(PAIR) == ["class"]


def break_file(folder: Path) -> None:
    (folder / "test_outputs.npz").write_bytes(b"PK\x03\x04 broken")


@pytest.mark.parametrize(
    ("harm", "reason"),
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
def test_a_run_that_cannot_be_measured_is_named_and_left_out(tree, harm, reason):
    fill(tree)
    whole = measure(tree)
    harm(run(tree, "kd", 1))
    made = measure(tree)
    assert made.notes == [f"cifar100/{PAIR}/kd/0000000000a1/seed=1 is left out: {reason}"]
    kd, before = row(made, "KD"), whole.runs[(whole.runs.label == "KD") & (whole.runs.seed != 1)]
    assert kd["n"] == 2
    assert kd["kl"] == pytest.approx(before.kl.mean())
    assert row(made, "Student")["n"] == 3
    assert set(made.classes[made.classes.label == "KD"].delta_student_n) == {2}


def test_without_the_teachers_outputs_nothing_is_measured(tree):
    fill(tree)
    (tree.root / TEACHER / "test_outputs.npz").unlink()
    made = measure(tree)
    assert made.pairs == []
    assert made.runs.empty
    assert made.summary.empty
    assert made.classes.empty
    assert made.confused.empty
    assert len(made.notes) == 6
    assert all(f"no usable test_outputs.npz in its teacher's folder {TEACHER}" in note for note in made.notes)


def test_a_result_without_its_teachers_folder(tree):
    fill(tree)
    tree.student(PAIR, "crd", "0000000000a9", 0, 60.0, changes={"teacher_run": None})
    (note,) = measure(tree).notes
    assert note == f"cifar100/{PAIR}/crd/0000000000a9/seed=0 is left out: its result.json has no teacher_run"


def test_a_seed_without_the_student_alone_has_no_change_to_it(tree):
    fill(tree)
    break_file(run(tree, "ce", 2))
    made = measure(tree)
    kd = made.classes[made.classes.label == "KD"]
    assert set(kd.delta_student_n) == {2}
    assert set(kd.delta_teacher_n) == {3}
    assert made.notes[1] == f"{PAIR} KD, seed 2, is not compared with the student alone, which has no usable seed 2"


def test_methods_that_have_no_student_alone(tree):
    tree.teacher("resnet20", 62.3)
    save(tree.root / TEACHER, 100)
    save(tree.student(PAIR, "kd", "0000000000a1", 0, 60.0), 1)
    made = measure(tree)
    assert made.class_changes(PAIR, "class") is None
    assert made.class_changes(PAIR, "class", "teacher") is not None
    assert made.notes == [f"{PAIR} KD is not compared with the student alone: there is not exactly one like it"]


def test_every_file_is_read_once_though_pairs_share_a_teacher(tree, monkeypatch):
    fill(tree)
    for seed in range(2):
        save(tree.student("resnet20-resnet14", "kd", "0000000000b1", seed, 60.0), seed)
    tree.teacher("resnet56", 70.0)
    save(tree.root / "cifar100/teachers/resnet56/aaaaaaaaaaaa/seed=0", 101)
    save(tree.student("resnet56-resnet20", "kd", "0000000000b2", 0, 60.0), 3)
    found, read, load = group(tree), Counter(), predictions.load_predictions

    def counted(folder: Path):
        read[folder] += 1
        return load(folder)

    monkeypatch.setattr(predictions, "load_predictions", counted)
    made = fidelity.measure(found, tree.root)
    assert set(read.values()) == {1}
    assert len(read) == 6 + 2 + 1 + 2
    assert made.pairs == found.pairs
    assert list(made.summary[["pair", "label"]].itertuples(index=False, name=None)) == [
        (pair, label)
        for pair in found.pairs
        for label in (["Teacher", "Student", "KD"] if pair == PAIR else ["Teacher", "KD"])
    ]
