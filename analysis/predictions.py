"""Test outputs of trained networks, and how far a student's agree with its teacher's.

Notation: z_t, z_s are the logits [N, C] of teacher and student on the N test images, p = softmax(z) at temperature 1,
y the labels. All shares and accuracies are per cent and their differences points, as in the run folders.
"""

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from benchmark.runs.folder import RunFolder
from benchmark.runs.reading import read_bytes

CALIBRATION_BINS = 15  # as in the paper of the calibration error
TOP = 5  # size of the sets of predictions that are compared
CONFUSED_PAIRS = 10  # pairs of classes listed


@dataclass(frozen=True, eq=False)
class Predictions:
    """Outputs of a network on the test set; each derived array is computed at its first use."""

    logits: np.ndarray  # [N, C]
    labels: np.ndarray  # [N], in 0 … C − 1
    class_names: list[str] | None = None

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return self.logits.shape[1]

    @functools.cached_property
    def log_probabilities(self) -> np.ndarray:
        """log p [N, C], natural, in float64."""
        return log_softmax(self.logits.astype(np.float64), axis=1)

    @functools.cached_property
    def top1(self) -> np.ndarray:
        """argmax_c z [N]; of equal logits the first, as everywhere in the suite."""
        return self.logits.argmax(axis=1)

    @functools.cached_property
    def top5(self) -> np.ndarray:
        """True for the five largest logits of each image [N, C]; of equal ones the first. All where C is below five."""
        chosen = np.zeros(self.logits.shape, bool)
        remaining, images = self.logits.copy(), np.arange(len(self.logits))
        for _ in range(min(TOP, self.classes)):  # five passes are faster than a stable sort
            best = remaining.argmax(axis=1)
            chosen[images, best] = True
            remaining[images, best] = -np.inf
        return chosen

    @functools.cached_property
    def correlation(self) -> np.ndarray:
        """Class correlation matrix R [C, C]: R_ab is Pearson's correlation of the columns z_a and z_b over the images;
        0 with a constant column."""
        return class_correlation(self.logits)

    @functools.cached_property
    def class_images(self) -> np.ndarray:
        """Test images of each class [C]."""
        return np.bincount(self.labels, minlength=self.classes)

    @functools.cached_property
    def class_correct(self) -> np.ndarray:
        """Correctly classified images of each class [C]."""
        return np.bincount(self.labels[self.top1 == self.labels], minlength=self.classes)


# ---------------------------------------------------------------- files


def load_predictions(folder: Path) -> Predictions | None:
    """Return the test outputs of a run; None where the file is missing, broken, or holds no labeled test set."""
    try:
        content = io.BytesIO(read_bytes(RunFolder(folder).test_outputs))
        with np.load(content, allow_pickle=False) as arrays:
            logits, labels = arrays["logits"], arrays["labels"]
            names = [str(n) for n in arrays["class_names"]] if "class_names" in arrays else None
    except Exception:  # zipfile, zlib and numpy each have errors of their own for a broken file
        return None
    if (
        logits.ndim != 2
        or not logits.size
        or logits.dtype.kind != "f"
        or labels.shape != logits.shape[:1]
        or not np.isfinite(logits).all()
    ):
        return None
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        return None
    if names is not None and len(names) != logits.shape[1]:
        names = None
    if names is not None and len(set(names)) < len(names):
        return None
    return Predictions(logits, labels.astype(np.int64), names)


class PredictionReader:
    """Reads students' test outputs together with their teachers'. The last teacher's are kept, for its other students.

    root: the folder of all runs, which `teacher_run` is relative to.
    """

    def __init__(self, root: Path) -> None:
        self._load_teacher = functools.lru_cache(maxsize=1)(lambda relative: load_predictions(root / relative))

    def read(self, folder: Path, teacher_run: str | None) -> tuple[Predictions, Predictions] | str:
        """Return the predictions of the student in `folder` and of its teacher, or why they cannot be compared."""
        if RunFolder(folder).record.is_sealed:
            return "its test outputs are sealed, since it has a validation split"
        if not isinstance(teacher_run, str):
            return "its result.json has no teacher_run"
        if (student := load_predictions(folder)) is None:
            return "no usable test_outputs.npz there"
        if (teacher := self._load_teacher(teacher_run)) is None:
            return f"no usable test_outputs.npz in its teacher's folder {teacher_run}"
        if student.logits.shape != teacher.logits.shape:
            return f"its logits are {list(student.logits.shape)}, its teacher's {list(teacher.logits.shape)}"
        if not same_test_set(student, teacher):
            return "its test set is not its teacher's"
        return student, teacher


def same_test_set(a: Predictions, b: Predictions) -> bool:
    """Return whether two networks were tested on the same images of the same classes, as far as both name them."""
    names_agree = a.class_names is None or b.class_names is None or a.class_names == b.class_names
    return names_agree and a.logits.shape == b.logits.shape and np.array_equal(a.labels, b.labels)


# ---------------------------------------------------------------- a student and its teacher


def class_correlation(logits: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation [C, C] of the columns of `logits` [N, C]; 0 with a constant column."""
    centered = logits.astype(np.float64) - logits.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(centered, axis=0)
    unit = np.divide(centered, norms, out=np.zeros_like(centered), where=norms > 1e-12)
    return unit.T @ unit


def correlation_r(student: Predictions, teacher: Predictions) -> float:
    """Return Pearson's r between the entries of R_s and R_t above the diagonal, over C (C − 1) / 2 pairs of classes.

    NaN where it is not defined: fewer than three classes, or all entries of one matrix equal.
    """
    above = np.triu_indices(student.classes, 1)
    a, b = student.correlation[above], teacher.correlation[above]
    if len(a) < 2 or min(np.ptp(a), np.ptp(b)) < 1e-12:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def correlation_distance(student: Predictions, teacher: Predictions) -> float:
    """Return ||R_t − R_s||_F / C, the distance that training logs too."""
    return float(np.linalg.norm(teacher.correlation - student.correlation) / student.classes)


def agreement(student: Predictions, teacher: Predictions) -> float:
    """Return the share of images with argmax z_s = argmax z_t, right or wrong, in per cent."""
    return 100.0 * float(np.mean(student.top1 == teacher.top1))


def top5_overlap(student: Predictions, teacher: Predictions) -> float:
    """Return the mean over images of |A ∩ B| / 5 in per cent, A and B the sets of the five classes that student and
    teacher rank highest. NaN for five classes or fewer, where it is always 100."""
    if student.classes <= TOP:
        return float("nan")
    return 100.0 * float((student.top5 & teacher.top5).sum() / (TOP * len(student.logits)))


def kl_divergence(student: Predictions, teacher: Predictions) -> float:
    """Return the mean over images of KL(p_t || p_s) = Σ_c p_t (log p_t − log p_s), in nats."""
    log_t = teacher.log_probabilities
    return float((np.exp(log_t) * (log_t - student.log_probabilities)).sum(axis=1).mean())


def confused_classes(
    student: np.ndarray, teacher: np.ndarray, names: Sequence[str], limit: int = CONFUSED_PAIRS
) -> list[tuple[str, str, float]]:
    """Return the pairs of classes that a student confuses more than its teacher: (a, b, excess), the largest first.

    student, teacher: `confusion` [C, C] of either, averaged over seeds.
    excess: the share of class a's images that the student takes for b minus that which the teacher does, in points.
    Only b ≠ a and excesses above zero are listed, so there may be fewer than `limit`.
    """
    excess = np.nan_to_num(student - teacher, nan=-np.inf)
    np.fill_diagonal(excess, -np.inf)
    largest = np.argsort(-excess, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(i), len(names)) for i in largest]
    return [(names[a], names[b], float(excess[a, b])) for a, b in pairs if excess[a, b] > 1e-9]


# ---------------------------------------------------------------- one network


def calibration_error(predictions: Predictions, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error in per cent: Σ_m |B_m| / N · |acc(B_m) − conf(B_m)|, B_m the images whose
    confidence max_c p lies in ((m − 1) / M, m / M], M bins of equal width.

    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 3, with M = 15.
    """
    confidence = np.exp(predictions.log_probabilities.max(axis=1))
    bin_of_image = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    # |B_m| (acc − conf) is the sum over the bin of correct − confidence
    correct = predictions.top1 == predictions.labels
    gaps = np.bincount(bin_of_image, weights=correct - confidence, minlength=bins)
    return 100.0 * float(np.abs(gaps).sum() / len(confidence))


def accuracy(predictions: Predictions) -> float:
    """Return the share of images with argmax z = y, in per cent."""
    return 100.0 * float(predictions.class_correct.sum() / predictions.class_images.sum())


def confusion(predictions: Predictions) -> np.ndarray:
    """Return the share of the images of class a (row) that are taken for class b (column) [C, C], in per cent; each row
    adds up to 100, and is NaN for a class without images."""
    classes = predictions.classes
    counts = np.bincount(predictions.labels * classes + predictions.top1, minlength=classes**2)
    return percentage(counts.reshape(classes, classes), predictions.class_images[:, None])


def percentage(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return 100 part / whole, NaN where the whole is 0; `whole` is broadcast."""
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(100.0 * part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
