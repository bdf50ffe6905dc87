"""How faithfully students reproduce their teachers' predictions, measured on the test outputs of all runs of a group.

The measures themselves are in `analysis.predictions`. Shares and accuracies are per cent and their differences points.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import predictions, published
from analysis.conditions import TEACHER_KEY
from analysis.frames import rows_where
from analysis.groups import MethodRow, ResultGroup, SeedGroup, SeedRun
from analysis.predictions import PredictionReader, Predictions, percentage
from benchmark.progress import Meter

SUPERCLASS_FILE = Path(__file__).with_name("cifar100_superclasses.csv")
CLASS, SUPERCLASS = "class", "superclass"
LEVEL_PLURALS = {CLASS: "classes", SUPERCLASS: "superclasses"}
NAMED_CLASSES = 20  # heat maps of more classes do not name them
EXTREME_CLASSES = 10  # classes shown at either end where there are more than NAMED_CLASSES


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
MEASURE_KEYS = [m.key for m in MEASURES]
ROW_COLUMNS = ["pair", "method", "label", "identity"]
ACCURACY_COLUMNS = ("accuracy", "delta_student", "delta_teacher")
CLASS_COLUMNS = [
    *ROW_COLUMNS, "level", "name", "superclass", "images",
    *(f"{column}{end}" for column in ACCURACY_COLUMNS for end in ("", "_std", "_n")),
]  # fmt: skip


@dataclass(frozen=True)
class Fidelity:
    """The measures of a group. `label` is that of the group's rows; rows are in the group's order.

    runs: one row per measured run: pair, method, label, identity, seed, folder (relative to the root) and the MEASURES.
    summary: one row per pair and label, teachers first: pair, method, label, identity, n (runs measured), and of each
        measure its mean <key>, sample standard deviation <key>_std (NaN for fewer than two) and <key>_n, the runs that
        have a value.
    classes: one row per pair, label, level and name of students: level is `class`, and for CIFAR-100 `superclass` too;
        superclass of a class, images, accuracy, delta_student (against the student alone of the same seed) and
        delta_teacher, each with <column>_std and <column>_n.
    confused: one row per pair, label and pair of classes, the largest excess first: true and predicted class, the
        shares of student and teacher averaged over seeds, and their excess. See `predictions.confused_classes`.
    notes: runs that are left out and comparisons that are not possible, each with its reason.
    """

    group: ResultGroup
    runs: pd.DataFrame
    summary: pd.DataFrame
    classes: pd.DataFrame
    confused: pd.DataFrame
    notes: list[str]

    @property
    def pairs(self) -> list[str]:
        """Pairs with at least one measured run, in the group's order."""
        measured = set(self.runs.pair)
        return [p for p in self.group.pairs if p in measured]

    def levels(self, pair: str) -> list[str]:
        """Return the levels at which a pair's classes are known, superclasses first."""
        levels = set(rows_where(self.classes, pair=pair).level)
        return [level for level in (SUPERCLASS, CLASS) if level in levels]

    def class_changes(self, pair: str, level: str, reference: str = "student") -> "ClassChanges | None":
        """Return the accuracy changes of a pair's rows against the student alone (`reference="student"`) or their
        teacher (`reference="teacher"`); None where there are none."""
        column = f"delta_{reference}"
        frame = rows_where(self.classes, pair=pair, level=level).dropna(subset=column)
        if frame.empty:
            return None
        labels = list(dict.fromkeys(frame.label))
        mean = frame.pivot(index="label", columns="name", values=column).loc[labels]
        std = frame.pivot(index="label", columns="name", values=f"{column}_std")
        names = mean.mean().sort_values(ascending=False, kind="stable").index
        partial = len(names) > NAMED_CLASSES
        if partial:
            names = names[:EXTREME_CLASSES].append(names[-EXTREME_CLASSES:])
        n = frame.groupby("label")[f"{column}_n"].first().loc[labels]
        return ClassChanges(level, mean[names], std.loc[labels, names], n, partial)


@dataclass(frozen=True)
class ClassChanges:
    """Accuracy changes of one pair at one level: frames of labels × class names, in points.

    Names are sorted by their mean change over the labels, the largest gain first. partial: True where only the
    EXTREME_CLASSES at either end are left of more classes. n: seeds of each label.
    """

    level: str
    mean: pd.DataFrame
    std: pd.DataFrame
    n: pd.Series
    partial: bool


def measure(group: ResultGroup, root: Path) -> Fidelity:
    """Measure all runs of a group. Each file is read once; one teacher and one student are held at a time.

    root: the folder of all runs, which `teacher_run` is relative to.
    """
    reader = PredictionReader(root)
    measured = [_MeasuredRuns(p, row, row.seed_groups[p]) for p in group.pairs for row in group.rows_on(p)]
    teachers: dict[tuple[str, str | None], dict[str, Any]] = {}  # by pair and folder
    total = sum(m.seed_group.n for m in measured)
    with Meter("test outputs", total) as progress:
        for runs in sorted(measured, key=lambda m: str(m.seed_group.runs.teacher_run.iloc[0])):
            for run in runs.seed_group.seed_runs:
                outputs = reader.read(run.folder, run.teacher_run)
                if isinstance(outputs, str):
                    runs.notes.append(f"{_relative(run.folder)} is left out: {outputs}")
                else:
                    runs.add(run, *outputs)
                    if (teacher_key := (runs.pair, run.teacher_run)) not in teachers:
                        teachers[teacher_key] = _teacher_record(group, runs, outputs[1])
                progress.advance()
            runs.close()
    notes = [note for runs in measured for note in runs.notes]
    by_seed_group = {id(runs.seed_group): runs for runs in measured}
    measured = [runs for runs in measured if runs.records]
    classes = [_class_frame(runs, _baseline(group, runs, by_seed_group, notes)) for runs in measured]
    records = pd.DataFrame(
        [record for runs in measured for record in runs.records],
        columns=[*ROW_COLUMNS, "seed", "folder", *MEASURE_KEYS],
    )
    confused = [record for runs in measured for record in runs.confused]
    return Fidelity(
        group,
        records,
        _summary(records, teachers.values()),
        pd.concat(classes, ignore_index=True) if classes else pd.DataFrame(columns=CLASS_COLUMNS),
        pd.DataFrame(confused, columns=[*ROW_COLUMNS, "true", "predicted", "student", "teacher", "excess"]),
        notes,
    )


@functools.cache
def superclasses() -> dict[str, str]:
    """Return the superclass of each CIFAR-100 class, both by name (Krizhevsky 2009, as published with the data set)."""
    frame = pd.read_csv(SUPERCLASS_FILE)
    return dict(zip(frame["class"], frame["superclass"], strict=True))


class _MeasuredRuns:
    """The numbers of one seed group's runs, without their outputs."""

    def __init__(self, pair: str, row: MethodRow, seed_group: SeedGroup) -> None:
        self.pair, self.row, self.seed_group = pair, row, seed_group
        self.row_fields = {"pair": pair, "method": row.method, "label": row.label, "identity": seed_group.identity}
        self.records: list[dict[str, Any]] = []
        self.correct: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by seed: [C], of student and teacher
        self.class_images = np.zeros(0, int)
        self.class_names: list[str] = []
        self.notes: list[str] = []
        self.confused: list[dict[str, Any]] = []
        self._confusion = np.zeros(())  # [2, C, C], of student and teacher, summed over the runs

    def add(self, run: SeedRun, student: Predictions, teacher: Predictions) -> None:
        """Measure one run."""
        measures = {
            "top1": predictions.accuracy(student),
            "correlation_r": predictions.correlation_r(student, teacher),
            "correlation_distance": predictions.correlation_distance(student, teacher),
            "agreement": predictions.agreement(student, teacher),
            "top5_overlap": predictions.top5_overlap(student, teacher),
            "kl": predictions.kl_divergence(student, teacher),
            "ece": predictions.calibration_error(student),
        }
        self.records.append(self.row_fields | {"seed": run.seed, "folder": _relative(run.folder)} | measures)
        self.correct[run.seed] = student.class_correct, teacher.class_correct
        self.class_images = student.class_images
        self.class_names = student.class_names or teacher.class_names or [str(i) for i in range(student.classes)]
        self._confusion = self._confusion + np.stack([predictions.confusion(student), predictions.confusion(teacher)])

    def close(self) -> None:
        """Keep the pairs of classes that are most confused, and free the matrices, which are large."""
        if self.records:
            student, teacher = self._confusion / len(self.records)
            index = {name: i for i, name in enumerate(self.class_names)}
            for true, predicted, excess in predictions.confused_classes(student, teacher, self.class_names):
                entry = index[true], index[predicted]
                shares = {"student": float(student[entry]), "teacher": float(teacher[entry]), "excess": excess}
                self.confused.append(self.row_fields | {"true": true, "predicted": predicted} | shares)
        self._confusion = np.zeros(())


def _relative(folder: Path) -> str:
    """A run's folder relative to the folder of all runs."""
    return "/".join(folder.parts[-5:])


def _teacher_record(group: ResultGroup, runs: _MeasuredRuns, teacher: Predictions) -> dict[str, Any]:
    sha256 = str(runs.seed_group.config.get(TEACHER_KEY) or "")
    label = next((t.label for t in group.teachers if t.sha256.get(runs.pair) == sha256), "Teacher")
    row_fields = {"pair": runs.pair, "method": published.TEACHER, "label": label, "identity": sha256[:12]}
    top1, ece = predictions.accuracy(teacher), predictions.calibration_error(teacher)
    return row_fields | {"n": 1, "top1": top1, "top1_n": 1, "ece": ece, "ece_n": 1}


def _summary(records: pd.DataFrame, teachers: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Means, deviations and counts over the seeds, with the teachers' rows."""
    by_row = records.groupby(ROW_COLUMNS, sort=False)
    measures = by_row[MEASURE_KEYS]
    statistics = {"": measures.mean(), "_std": measures.std(ddof=1), "_n": measures.count()}
    columns = {f"{key}{end}": frame[key] for key in MEASURE_KEYS for end, frame in statistics.items()}
    students = pd.DataFrame({"n": by_row.size(), **columns}).reset_index()
    frame = pd.DataFrame([*teachers, *students.to_dict("records")], columns=students.columns).drop_duplicates()
    counts = [c for c in frame if c == "n" or c.endswith("_n")]
    frame[counts] = frame[counts].fillna(0).astype(int)
    pairs = list(dict.fromkeys(records.pair))
    return frame.sort_values("pair", key=lambda p: p.map(pairs.index), kind="stable", ignore_index=True)


def _baseline(
    group: ResultGroup, runs: _MeasuredRuns, by_seed_group: dict[int, _MeasuredRuns], notes: list[str]
) -> dict[int, np.ndarray]:
    """Images that the student alone classifies correctly [C], by seed, for those seeds of a row that have one."""
    if runs.row.method == published.STUDENT:
        return {}
    alone = group.baseline(runs.seed_group, runs.pair)
    if alone is None:
        notes.append(
            f"{runs.pair} {runs.row.label} is not compared with the student alone: there is not exactly one like it"
        )
        return {}
    baseline = by_seed_group[id(alone)]
    same_images = np.array_equal(baseline.class_images, runs.class_images)
    comparable = same_images and baseline.class_names == runs.class_names
    correct = {seed: c for seed, (c, _) in baseline.correct.items() if comparable and seed in runs.correct}
    if missing := sorted(set(runs.correct) - set(correct)):
        seeds = f"seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        reason = "was tested on other images" if baseline.correct and not comparable else f"has no usable {seeds}"
        notes.append(f"{runs.pair} {runs.row.label}, {seeds}, is not compared with the student alone, which {reason}")
    return correct


def _class_frame(runs: _MeasuredRuns, baseline: dict[int, np.ndarray]) -> pd.DataFrame:
    """The rows of `Fidelity.classes` of one seed group. baseline: see `_baseline`."""
    names = runs.class_names
    superclass = superclasses() if set(names) == set(superclasses()) else {}
    frames = []
    for level in (SUPERCLASS, CLASS) if superclass else (CLASS,):
        row_names, members = names, np.eye(len(names), dtype=int)  # members: [rows, C]
        if level == SUPERCLASS:
            row_names = sorted(set(superclass.values()))
            members = np.array([[int(superclass[n] == s) for n in names] for s in row_names])
        images = members @ runs.class_images
        seeds = runs.correct.items()
        values = {
            "accuracy": [percentage(members @ student, images) for _, (student, _) in seeds],
            "delta_student": [percentage(members @ (s - baseline[i]), images) for i, (s, _) in seeds if i in baseline],
            "delta_teacher": [percentage(members @ (student - teacher), images) for _, (student, teacher) in seeds],
        }
        columns = {"level": level, "name": row_names, "superclass": list(map(superclass.get, row_names))}
        frame = pd.DataFrame({**runs.row_fields, **columns, "images": images})
        for column, of_seeds in values.items():
            n = len(of_seeds)
            frame[column] = np.mean(of_seeds, axis=0) if n else np.nan
            frame[f"{column}_std"] = np.std(of_seeds, axis=0, ddof=1) if n > 1 else np.nan
            frame[f"{column}_n"] = n
        frames.append(frame[CLASS_COLUMNS])
    return pd.concat(frames, ignore_index=True)
