"""How well a teacher's knowledge of the classes reached its students, from the test outputs of finished runs.

Notation: z_t, z_s are the logits [N, C] of teacher and student on the N test images, p = softmax(z) at temperature 1,
y the labels. All shares and accuracies are per cent and their differences points, as in the run store.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from tqdm import tqdm

from analysis import load as runs
from analysis import published
from analysis.figures.curves import NAMED_CLASSES, class_correlation
from analysis.groups import TEACHER_KEY, MethodRow, ResultGroup, SeedGroup

SUPERCLASSES = Path(__file__).with_name("cifar100_superclasses.csv")
CLASS, SUPERCLASS = "class", "superclass"
BINS = 15  # of the calibration error, as in the paper
TOP = 5  # size of the sets of predictions that are compared
EXTREMES = 10  # classes shown at either end where there are more than NAMED_CLASSES
CONFUSED = 10  # pairs of classes kept of each cell


@dataclass(frozen=True)
class Measure:
    """One column of the tables. better: 1 where more is better, or nearer to the teacher; −1 where less is."""

    key: str
    title: str
    unit: str
    digits: int
    better: int


MEASURES = (
    Measure("top1", "top-1", "%", 2, 1),
    Measure("correlation_r", "correlation r", "", 3, 1),
    Measure("correlation_distance", "correlation distance", "", 4, -1),
    Measure("agreement", "agreement", "%", 2, 1),
    Measure("top5_overlap", "top-5 overlap", "%", 2, 1),
    Measure("kl", "KL to teacher", "nats", 3, -1),
    Measure("ece", "ECE", "%", 2, -1),
)


# ---------------------------------------------------------------- the measures


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of the test set; each derived array is computed once, when it is first asked for."""

    logits: np.ndarray  # [N, C]
    labels: np.ndarray  # [N], in 0 … C − 1
    class_names: list[str] | None = None

    @property
    def classes(self) -> int:
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
        rest, images = self.logits.copy(), np.arange(len(self.logits))
        for _ in range(min(TOP, self.classes)):  # five passes are faster than a stable sort
            best = rest.argmax(axis=1)
            chosen[images, best] = True
            rest[images, best] = -np.inf
        return chosen

    @functools.cached_property
    def correlation(self) -> np.ndarray:
        """Class correlation matrix R [C, C]: R_ab is Pearson's correlation of the columns z_a and z_b over the images;
        0 with a constant column."""
        return class_correlation(self.logits)

    @functools.cached_property
    def images(self) -> np.ndarray:
        """Test images of each class [C]."""
        return np.bincount(self.labels, minlength=self.classes)

    @functools.cached_property
    def right(self) -> np.ndarray:
        """Images of each class that are classified right [C]."""
        return np.bincount(self.labels[self.top1 == self.labels], minlength=self.classes)


def correlation_r(student: Predictions, teacher: Predictions) -> float:
    """Pearson's r between the entries of R_s and R_t above the diagonal, over the C (C − 1) / 2 pairs of classes.

    NaN where it is not defined: fewer than three classes, or all entries of one matrix equal.
    """
    above = np.triu_indices(student.classes, 1)
    a, b = student.correlation[above], teacher.correlation[above]
    if len(a) < 2 or min(np.ptp(a), np.ptp(b)) < 1e-12:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def correlation_distance(student: Predictions, teacher: Predictions) -> float:
    """||R_t − R_s||_F / C, the distance that training logs too."""
    return float(np.linalg.norm(teacher.correlation - student.correlation) / student.classes)


def agreement(student: Predictions, teacher: Predictions) -> float:
    """Share of images with argmax z_s = argmax z_t, right or wrong, in per cent."""
    return 100.0 * float(np.mean(student.top1 == teacher.top1))


def top5_overlap(student: Predictions, teacher: Predictions) -> float:
    """Mean over images of |A ∩ B| / 5 in per cent, A and B the sets of the five classes that student and teacher rank
    highest. NaN for five classes or fewer, where it could not be other than 100."""
    if student.classes <= TOP:
        return float("nan")
    return 100.0 * float((student.top5 & teacher.top5).sum() / (TOP * len(student.logits)))


def kl_divergence(student: Predictions, teacher: Predictions) -> float:
    """Mean over images of KL(p_t || p_s) = Σ_c p_t (log p_t − log p_s), in nats."""
    log_t = teacher.log_probabilities
    return float((np.exp(log_t) * (log_t - student.log_probabilities)).sum(axis=1).mean())


def calibration_error(of: Predictions, bins: int = BINS) -> float:
    """Expected calibration error in per cent: Σ_m |B_m| / N · |acc(B_m) − conf(B_m)|, B_m the images whose confidence
    max_c p lies in ((m − 1) / M, m / M], M bins of equal width.

    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 3, with M = 15.
    """
    confidence = np.exp(of.log_probabilities.max(axis=1))
    which = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    # |B_m| (acc − conf) is the sum over the bin of right − confidence
    gaps = np.bincount(which, weights=(of.top1 == of.labels) - confidence, minlength=bins)
    return 100.0 * float(np.abs(gaps).sum() / len(confidence))


def accuracy(of: Predictions) -> float:
    """Share of images with argmax z = y, in per cent."""
    return 100.0 * float(of.right.sum() / of.images.sum())


def class_accuracy(of: Predictions) -> np.ndarray:
    """Share of each class's images that are classified right [C], in per cent; NaN for a class without images."""
    return _share(of.right, of.images)


def confusion(of: Predictions) -> np.ndarray:
    """Share of the images of class a (row) that are taken for class b (column) [C, C], in per cent; each row adds up to
    100, and is NaN for a class without images."""
    counts = np.bincount(of.labels * of.classes + of.top1, minlength=of.classes**2)
    return _share(counts.reshape(of.classes, of.classes), of.images[:, None])


def confused(
    student: np.ndarray, teacher: np.ndarray, names: Sequence[str], top: int = CONFUSED
) -> list[tuple[str, str, float]]:
    """The pairs of classes that a student gets wrong relative to its teacher: (a, b, excess), the largest first.

    student, teacher: `confusion` [C, C] of either, averaged over seeds.
    excess: the share of class a's images that the student takes for b minus that which the teacher does, in points.
    Only b ≠ a and excesses above zero are listed, so there may be fewer than `top`.
    """
    excess = np.nan_to_num(student - teacher, nan=-np.inf)
    np.fill_diagonal(excess, -np.inf)
    first = np.argsort(-excess, axis=None, kind="stable")[:top]
    pairs = [(int(i) // len(names), int(i) % len(names)) for i in first]
    return [(names[a], names[b], float(excess[a, b])) for a, b in pairs if excess[a, b] > 1e-9]


@functools.cache
def superclasses() -> dict[str, str]:
    """The superclass of each CIFAR-100 class, both by name (Krizhevsky 2009, as published with the data set)."""
    frame = pd.read_csv(SUPERCLASSES)
    return dict(zip(frame["class"], frame["superclass"], strict=True))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(100.0 * part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


# ---------------------------------------------------------------- all runs of a group


@dataclass(frozen=True)
class Fidelity:
    """The measures of a group. `label` is that of the group's rows; rows are in the group's order.

    runs: one row a run that could be measured: pair, method, label, identity, seed, folder (relative to the root) and
        the MEASURES.
    summary: one row a pair and label, teachers first: pair, method, label, identity, n (runs measured), and of each
        measure its mean <key>, sample standard deviation <key>_std (NaN for fewer than two) and <key>_n, the runs that
        have a value.
    classes: one row a pair, label, level and name of students: level is `class`, and for CIFAR-100 `superclass` too;
        superclass of a class, images, accuracy, delta_student (against the student alone of the same seed) and
        delta_teacher, each with <column>_std and <column>_n.
    confused: one row a pair, label and pair of classes, the largest excess first: true and predicted class, the shares
        of student and teacher averaged over seeds, and their excess. See `confused`.
    notes: the runs that are left out, and the changes that could not be taken, each with its reason.
    """

    group: ResultGroup
    runs: pd.DataFrame
    summary: pd.DataFrame
    classes: pd.DataFrame
    confused: pd.DataFrame
    notes: list[str]

    @property
    def pairs(self) -> list[str]:
        """Pairs with something measured, in the group's order."""
        found = set(self.runs.pair)
        return [p for p in self.group.pairs if p in found]


@dataclass(frozen=True)
class Change:
    """Accuracy changes of one pair at one level: frames of labels × names, in points.

    names are sorted by their mean change over the labels, the largest gain first. partial: True where only the
    EXTREMES at either end are left of more classes. n: seeds of each label.
    """

    level: str
    mean: pd.DataFrame
    std: pd.DataFrame
    n: pd.Series
    partial: bool


def measure(group: ResultGroup, root: Path) -> Fidelity:
    """Measure all runs of a group. Each file is read once, one teacher and one student are held at a time.

    root: the folder of all runs, which `teacher_run` is relative to.
    """

    @functools.lru_cache(maxsize=1)
    def teacher_in(folder: str) -> Predictions | None:
        return _read(root / folder)

    cells = [
        (pair, row, row.seed_groups[pair]) for pair in group.pairs for row in group.rows if pair in row.seed_groups
    ]
    found: dict[int, _MeasuredRuns] = {}  # by the id of their `SeedGroup`, which the group holds
    teachers: dict[tuple[str, str], dict[str, Any]] = {}  # by pair and folder
    with tqdm(total=sum(c.n for *_, c in cells), desc="test outputs", unit="run", leave=False, disable=None) as bar:
        for pair, row, cell in sorted(cells, key=lambda c: str(c[2].runs.teacher_run.iloc[0])):
            measured = found[id(cell)] = _MeasuredRuns(pair, row, cell)
            for run in cell.runs.itertuples():
                teacher = teacher_in(run.teacher_run) if isinstance(run.teacher_run, str) else None
                student = _read(run.folder)
                reason = _unusable(student, teacher, run.teacher_run)
                if reason or student is None or teacher is None:
                    measured.notes.append(f"{_place(run.folder)} is left out: {reason}")
                else:
                    measured.add(run, student, teacher)
                    if (pair, run.teacher_run) not in teachers:
                        teachers[pair, run.teacher_run] = _teacher(group, pair, cell, teacher)
                bar.update()
            measured.close()
    in_order = [found[id(cell)] for *_, cell in cells]
    notes = [note for cell in in_order for note in cell.notes]
    known = [cell for cell in in_order if cell.records]
    of_classes = [_changes(cell, _baseline(group, cell, found, notes)) for cell in known]
    of_runs = pd.DataFrame([r for cell in known for r in cell.records], columns=[*KEYS, "seed", "folder", *_keys()])
    of_pairs = [r for cell in known for r in cell.confused]
    return Fidelity(
        group,
        of_runs,
        _summary(of_runs, teachers.values()),
        pd.concat(of_classes, ignore_index=True) if of_classes else pd.DataFrame(columns=CLASS_COLUMNS),
        pd.DataFrame(of_pairs, columns=[*KEYS, "true", "predicted", "student", "teacher", "excess"]),
        notes,
    )


def levels(structure: Fidelity, pair: str) -> list[str]:
    """The levels at which a pair's classes are known, superclasses first."""
    found = set(structure.classes.level[structure.classes.pair == pair])
    return [level for level in (SUPERCLASS, CLASS) if level in found]


def changes(structure: Fidelity, pair: str, level: str, to: str = "student") -> Change | None:
    """The accuracy changes of a pair's rows against the student alone (`to="student"`) or their teacher
    (`to="teacher"`); None where there are none."""
    frame = structure.classes
    frame = frame[(frame.pair == pair) & (frame.level == level)].dropna(subset=f"delta_{to}")
    if frame.empty:
        return None
    labels = list(dict.fromkeys(frame.label))
    mean = frame.pivot(index="label", columns="name", values=f"delta_{to}").loc[labels]
    std = frame.pivot(index="label", columns="name", values=f"delta_{to}_std")
    names = mean.mean().sort_values(ascending=False, kind="stable").index
    partial = len(names) > NAMED_CLASSES
    if partial:
        names = names[:EXTREMES].append(names[-EXTREMES:])
    n = frame.groupby("label")[f"delta_{to}_n"].first().loc[labels]
    return Change(level, mean[names], std.loc[labels, names], n, partial)


KEYS = ("pair", "method", "label", "identity")
DELTAS = ("accuracy", "delta_student", "delta_teacher")
CLASS_COLUMNS = [
    *KEYS, "level", "name", "superclass", "images", *(f"{c}{end}" for c in DELTAS for end in ("", "_std", "_n")),
]  # fmt: skip


class _MeasuredRuns:
    """What is kept of a cell's runs: their numbers, but not their outputs."""

    def __init__(self, pair: str, row: MethodRow, cell: SeedGroup) -> None:
        self.pair, self.row, self.cell = pair, row, cell
        self.about = {"pair": pair, "method": row.method, "label": row.label, "identity": cell.identity}
        self.records: list[dict[str, Any]] = []
        self.right: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by seed: images right [C], of student and teacher
        self.images = np.zeros(0, int)
        self.names: list[str] = []
        self.notes: list[str] = []
        self.confused: list[dict[str, Any]] = []
        self._confusion: np.ndarray | float = 0.0  # [2, C, C], of student and teacher, added up over the runs

    def add(self, run: Any, student: Predictions, teacher: Predictions) -> None:
        measured = {
            "top1": accuracy(student),
            "correlation_r": correlation_r(student, teacher),
            "correlation_distance": correlation_distance(student, teacher),
            "agreement": agreement(student, teacher),
            "top5_overlap": top5_overlap(student, teacher),
            "kl": kl_divergence(student, teacher),
            "ece": calibration_error(student),
        }
        self.records.append(self.about | {"seed": run.seed, "folder": _place(run.folder)} | measured)
        self.right[run.seed] = student.right, teacher.right
        self.images = student.images
        self.names = student.class_names or teacher.class_names or [str(i) for i in range(student.classes)]
        self._confusion = self._confusion + np.stack([confusion(student), confusion(teacher)])

    def close(self) -> None:
        """Keep the pairs of classes that are most confused, and let go of the matrices, which are large."""
        if self.records:
            student, teacher = self._confusion / len(self.records)
            place = {name: i for i, name in enumerate(self.names)}
            for a, b, excess in confused(student, teacher, self.names):
                at = place[a], place[b]
                shares = {"student": float(student[at]), "teacher": float(teacher[at]), "excess": excess}
                self.confused.append(self.about | {"true": a, "predicted": b} | shares)
        self._confusion = 0.0


def _keys() -> list[str]:
    return [m.key for m in MEASURES]


def _place(folder: Path) -> str:
    """A run's folder without the folder of all runs."""
    return "/".join(folder.parts[-5:])


def _read(folder: Path) -> Predictions | None:
    """The test outputs of a run; None where they are missing, broken, or no test set."""
    found = runs.outputs(folder)
    if found is None or not found.logits.size or not np.issubdtype(found.labels.dtype, np.integer):
        return None
    if found.labels.min() < 0 or found.labels.max() >= found.logits.shape[1]:
        return None
    names = found.class_names
    if names is not None and len(set(names)) < len(names):
        return None
    return Predictions(found.logits, found.labels.astype(np.int64), names)


def _unusable(student: Predictions | None, teacher: Predictions | None, folder: Any) -> str:
    """Why a run cannot be measured; empty where it can."""
    if not isinstance(folder, str):
        return "its result.json has no teacher_run"
    if student is None:
        return "no usable test_outputs.npz there"
    if teacher is None:
        return f"no usable test_outputs.npz in its teacher's folder {folder}"
    if student.logits.shape != teacher.logits.shape:
        return f"its logits are {list(student.logits.shape)}, its teacher's {list(teacher.logits.shape)}"
    names = student.class_names, teacher.class_names
    if not np.array_equal(student.labels, teacher.labels) or (None not in names and names[0] != names[1]):
        return "its test set is not its teacher's"
    return ""


def _teacher(group: ResultGroup, pair: str, cell: SeedGroup, teacher: Predictions) -> dict[str, Any]:
    sha256 = str(cell.config.get(TEACHER_KEY) or "")
    label = next((t.label for t in group.teachers if t.sha256.get(pair) == sha256), "Teacher")
    about = {"pair": pair, "method": published.TEACHER, "label": label, "identity": sha256[:12]}
    return about | {"n": 1, "top1": accuracy(teacher), "top1_n": 1, "ece": calibration_error(teacher), "ece_n": 1}


def _summary(of_runs: pd.DataFrame, teachers: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Means, deviations and counts over the seeds, with the teachers' rows."""
    by = of_runs.groupby(list(KEYS), sort=False)
    of_measures = {"": by[_keys()].mean(), "_std": by[_keys()].std(ddof=1), "_n": by[_keys()].count()}
    columns = {f"{k}{end}": frame[k] for k in _keys() for end, frame in of_measures.items()}
    students = pd.DataFrame({"n": by.size(), **columns}).reset_index()
    frame = pd.DataFrame([*teachers, *students.to_dict("records")], columns=students.columns).drop_duplicates()
    counts = [c for c in frame if c == "n" or c.endswith("_n")]
    frame[counts] = frame[counts].fillna(0).astype(int)
    pairs = list(dict.fromkeys(of_runs.pair))
    return frame.sort_values("pair", key=lambda p: p.map(pairs.index), kind="stable", ignore_index=True)


def _baseline(
    group: ResultGroup, cell: _MeasuredRuns, found: dict[int, _MeasuredRuns], notes: list[str]
) -> dict[int, np.ndarray]:
    """Images that the student alone classifies right [C], by seed, for those seeds of a cell that have one."""
    if cell.row.method == published.STUDENT:
        return {}
    alone = group.baseline(cell.cell, cell.pair)
    if alone is None:
        notes.append(
            f"{cell.pair} {cell.row.label} is not compared with the student alone: there is not exactly one like it"
        )
        return {}
    baseline = found[id(alone)]
    same = baseline.names == cell.names and np.array_equal(baseline.images, cell.images)
    right = {seed: r for seed, (r, _) in baseline.right.items() if same and seed in cell.right}
    if missing := sorted(set(cell.right) - set(right)):
        seeds = f"seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        why = f"has no usable {seeds}" if same or not baseline.right else "was tested on other images"
        notes.append(f"{cell.pair} {cell.row.label}, {seeds}, is not compared with the student alone, which {why}")
    return right


def _changes(cell: _MeasuredRuns, baseline: dict[int, np.ndarray]) -> pd.DataFrame:
    """The `classes` of one cell."""
    names = cell.names
    of_class = superclasses() if set(names) == set(superclasses()) else {}
    frames = []
    for level in (SUPERCLASS, CLASS) if of_class else (CLASS,):
        shown = sorted(set(of_class.values())) if level == SUPERCLASS else names
        member = np.eye(len(names), dtype=int)
        if level == SUPERCLASS:
            member = np.array([[int(of_class[n] == s) for n in names] for s in shown])
        values: dict[str, list[np.ndarray]] = {c: [] for c in DELTAS}
        for seed, (student, teacher) in cell.right.items():
            values["accuracy"].append(_share(member @ student, member @ cell.images))
            values["delta_teacher"].append(_share(member @ (student - teacher), member @ cell.images))
            if seed in baseline:
                values["delta_student"].append(_share(member @ (student - baseline[seed]), member @ cell.images))
        columns: dict[str, Any] = {"level": level, "name": shown, "images": member @ cell.images}
        columns["superclass"] = [of_class.get(n) for n in shown]
        for column, of_seeds in values.items():
            stacked = np.array(of_seeds).reshape(-1, len(shown))
            n, nothing = len(stacked), np.full(len(shown), np.nan)
            columns[column] = stacked.mean(axis=0) if n else nothing
            columns[f"{column}_std"] = stacked.std(axis=0, ddof=1) if n > 1 else nothing
            columns[f"{column}_n"] = n
        frames.append(pd.DataFrame({**cell.about, **columns}, columns=CLASS_COLUMNS))
    return pd.concat(frames, ignore_index=True)
