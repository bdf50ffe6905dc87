"""Test outputs and the measures on them: against hand-computed cases, scipy, sklearn and plain loops."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix

from analysis import predictions
from analysis.predictions import Predictions, class_correlation

PAIR_MEASURES = (
    predictions.correlation_r, predictions.correlation_distance, predictions.agreement, predictions.top5_overlap,
    predictions.kl_divergence,
)  # fmt: skip
COUNTS = (predictions.agreement, predictions.top5_overlap)


def random_predictions(seed: int, classes: int = 7, images: int = 60, digits: int | None = None) -> Predictions:
    """Random outputs; rounded ones have ties. Every class has a label."""
    logits = np.random.default_rng(seed).normal(size=(images, classes)) * 2
    return Predictions(logits if digits is None else logits.round(digits), np.arange(images) % classes)


def softmax(row: np.ndarray) -> np.ndarray:
    e = np.exp(row - row.max())
    return e / e.sum()


@st.composite
def student_and_teacher(draw) -> tuple[Predictions, Predictions]:
    """Outputs of two networks on the same images; logits are often equal, and whole columns constant."""
    images, classes = draw(st.integers(2, 12)), draw(st.integers(2, 8))
    logits = arrays(float, (images, classes), elements=st.integers(-8, 8).map(lambda i: i / 2))
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)))
    return Predictions(draw(logits), labels), Predictions(draw(logits), labels)


# ---------------------------------------------------------------- a student and its teacher


def test_correlation_measures_are_pearsons_and_frobenius():
    student, teacher = random_predictions(0), random_predictions(1)
    r_s, r_t = (np.corrcoef(p.logits, rowvar=False) for p in (student, teacher))
    pairs = [(a, b) for a in range(7) for b in range(a + 1, 7)]
    expected = scipy.stats.pearsonr([r_s[p] for p in pairs], [r_t[p] for p in pairs]).statistic
    assert predictions.correlation_r(student, teacher) == pytest.approx(expected, abs=1e-12)
    squares = sum((r_t[a, b] - r_s[a, b]) ** 2 for a in range(7) for b in range(7))
    assert predictions.correlation_distance(student, teacher) == pytest.approx(math.sqrt(squares) / 7, abs=1e-12)


def test_class_correlation_is_pearsons_and_0_with_a_constant_column():
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) + 100
    assert class_correlation(logits) == pytest.approx(np.corrcoef(logits.astype(float), rowvar=False), abs=1e-9)
    logits[:, 2] = 7.0
    assert np.all(class_correlation(logits)[2] == 0)


def test_agreement_and_overlap_by_hand():
    """Both rank 0 first on the first image, not on the second; of the five first classes they share 5 and 4."""
    teacher = Predictions(np.array([[9.0, 8, 7, 6, 5, 0], [9, 8, 7, 6, 5, 0]]), np.array([0, 1]))
    student = Predictions(np.array([[9.0, 5, 6, 7, 8, 0], [0, 8, 7, 6, 5, 9]]), np.array([0, 1]))
    assert predictions.agreement(student, teacher) == 50.0
    assert predictions.top5_overlap(student, teacher) == pytest.approx(90.0)


def test_overlap_with_ties_takes_the_first_classes_as_argmax_does():
    student, teacher = random_predictions(0, classes=9, digits=0), random_predictions(1, classes=9, digits=0)

    def first_five(row: np.ndarray) -> set[int]:
        return set(sorted(range(9), key=lambda c: (-row[c], c))[:5])

    shared = [len(first_five(a) & first_five(b)) for a, b in zip(student.logits, teacher.logits, strict=True)]
    assert predictions.top5_overlap(student, teacher) == pytest.approx(100 * np.mean(shared) / 5)
    assert all(student.top5[i, c] for i, c in enumerate(student.top1))


def test_kl_is_of_the_teacher_to_the_student_in_nats():
    half = Predictions(np.zeros((1, 2)), np.array([0]))
    quarter = Predictions(np.log([[0.25, 0.75]]), np.array([0]))
    assert predictions.kl_divergence(quarter, half) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


@settings(max_examples=25)
@given(student_and_teacher())
def test_kl_equals_scipys_entropy(networks):
    student, teacher = networks
    rows = zip(student.logits, teacher.logits, strict=True)
    expected = np.mean([scipy.stats.entropy(softmax(t), softmax(s)) for s, t in rows])
    assert predictions.kl_divergence(student, teacher) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=25)
@given(student_and_teacher(), st.randoms())
def test_measures_do_not_depend_on_the_order_of_images_or_constants_per_image(networks, random):
    student, teacher = networks
    order = random.sample(range(len(student.labels)), len(student.labels))
    shuffled = [Predictions(p.logits[order], p.labels[order]) for p in networks]
    for measure in PAIR_MEASURES:
        expected = pytest.approx(measure(student, teacher), rel=1e-6, abs=1e-6, nan_ok=True)
        assert measure(*shuffled) == expected
    shift = np.array([[random.randint(-50, 50)] for _ in order])
    shifted = Predictions(student.logits + shift, student.labels)
    for measure in (*COUNTS, predictions.kl_divergence):
        assert measure(shifted, teacher) == pytest.approx(measure(student, teacher), abs=1e-9, nan_ok=True)
    assert predictions.calibration_error(shifted) == pytest.approx(predictions.calibration_error(student), abs=1e-6)


@settings(max_examples=25)
@given(student_and_teacher())
def test_bounds_and_what_few_classes_leave_undefined(networks):
    student, teacher = networks
    correlation_r, overlap = (m(student, teacher) for m in (predictions.correlation_r, predictions.top5_overlap))
    assert math.isnan(correlation_r) or -1 - 1e-9 <= correlation_r <= 1 + 1e-9
    assert math.isnan(correlation_r) or student.classes > 2
    assert math.isnan(overlap) == (student.classes <= 5)
    assert 0 <= predictions.agreement(student, teacher) <= 100
    assert predictions.kl_divergence(student, teacher) >= -1e-12
    assert 0 <= predictions.correlation_distance(student, teacher) <= 2


@pytest.mark.parametrize(("measure", "expected"), list(zip(PAIR_MEASURES, (1, 0, 100, 100, 0), strict=True)))
def test_a_student_equal_to_its_teacher(measure, expected):
    teacher = random_predictions(1)
    copy = Predictions(teacher.logits.copy(), teacher.labels)
    assert measure(copy, teacher) == pytest.approx(expected, abs=1e-12)


def test_confused_classes_by_hand():
    teacher = np.array([[90.0, 10, 0], [0, 100, 0], [20, 0, 80]])
    student = np.array([[70.0, 15, 15], [5, 95, 0], [0, 0, 100]])
    names = ["a", "b", "c"]
    expected = [("a", "c", 15), ("a", "b", 5), ("b", "a", 5)]
    assert predictions.confused_classes(student, teacher, names) == expected
    assert predictions.confused_classes(student, teacher, names, limit=1) == expected[:1]
    assert predictions.confused_classes(teacher, teacher, names) == []
    student[1] = np.nan  # a class without images
    assert predictions.confused_classes(student, teacher, names) == expected[:2]


# ---------------------------------------------------------------- one network


def test_calibration_error_by_hand():
    """Confidence 0.9 twice, correct once: gap 0.4; 0.62 twice, both correct: gap 0.38; half of the images each."""
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.62, 0.38], [0.62, 0.38]])
    assert predictions.calibration_error(Predictions(logits, np.array([0, 1, 0, 0]))) == pytest.approx(39.0)
    calibrated = Predictions(np.log([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]))
    assert predictions.calibration_error(calibrated) == pytest.approx(0.0, abs=1e-12)
    certain = Predictions(np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 0]))
    assert predictions.calibration_error(certain) == pytest.approx(50.0)  # confidence 1 is in the last bin


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_by_a_loop_over_bins(bins):
    network = random_predictions(3, images=500)
    confidence = [softmax(row).max() for row in network.logits]
    correct = network.logits.argmax(axis=1) == network.labels
    total = 0.0
    for m in range(bins):
        images = [i for i, c in enumerate(confidence) if m / bins < c <= (m + 1) / bins]
        if images:
            gap = np.mean([correct[i] for i in images]) - np.mean([confidence[i] for i in images])
            total += len(images) / 500 * abs(gap)
    assert predictions.calibration_error(network, bins) == pytest.approx(100 * total, rel=1e-9)


def test_accuracy_and_confusion_are_sklearns():
    network = random_predictions(4, images=95)
    predicted = network.logits.argmax(axis=1)
    expected = 100 * confusion_matrix(network.labels, predicted, normalize="true")
    assert predictions.confusion(network) == pytest.approx(expected)
    assert predictions.accuracy(network) == pytest.approx(100 * np.mean(predicted == network.labels))


def test_a_class_without_images_has_no_confusion():
    network = Predictions(np.eye(3), np.array([0, 1, 1]))
    assert np.isnan(predictions.confusion(network)[2]).all()
    assert predictions.accuracy(network) == pytest.approx(200 / 3)
