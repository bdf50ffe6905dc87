"""t-SNE of the logits of a pair's teacher and students: one joint, seeded embedding of the same test images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from analysis import load as runs
from analysis.groups import ResultGroup

SEED = 0  # of the choice of classes and images, and of t-SNE
CLASSES = 10  # that colours tell apart; of more, so many are drawn
IMAGES = 200  # shown of each network
POINTS = 2000  # of all networks together, which is seconds of t-SNE; with more networks fewer images are shown
PERPLEXITY = 30.0
ROWS = 15  # of a table that are drawn; of more, the first variant of each method


@dataclass(frozen=True)
class Panel:
    """One network's part of the embedding. points: [N, 2], row i the same test image in every panel."""

    label: str
    points: np.ndarray


@dataclass(frozen=True)
class Projection:
    """The joint embedding of a pair, teachers first. labels: [N], positions in `class_names`, the classes shown."""

    panels: list[Panel]
    labels: np.ndarray
    class_names: list[str]
    classes: int  # of the data set

    @property
    def text(self) -> str:
        """What is shown, in one sentence."""
        of = "" if len(self.class_names) == self.classes else f" of {len(self.class_names)} of {self.classes} classes"
        return (
            f"Logits of {len(self.panels)} networks on the same {len(self.labels)} test images{of}, "
            f"chosen with seed {SEED}."
        )


def project(group: ResultGroup, pair: str, root: Path) -> tuple[Projection | None, list[str]]:
    """The embedding of a pair, and what is missing from it; None where no student can be set beside its teacher.

    Each row of the table gives its first seed with usable outputs. Logits z [N, C] are made comparable between networks
    before they are embedded together: each image's mean is subtracted, which a softmax does not see, and each network's
    are divided by sqrt(mean_i |z_i|²), its overall confidence. root: the folder of all runs. van der Maaten and Hinton
    (JMLR 2008), Barnes-Hut, started from the principal components.
    """
    found, problems = _networks(group, pair, root)
    if not found:
        return None, [f"no t-SNE on {pair}: no run has a usable test_outputs.npz beside its teacher's"]
    first = found[0][1]
    classes = first.logits.shape[1]
    rng = np.random.default_rng(SEED)
    shown = np.sort(rng.permutation(np.intersect1d(first.labels, np.arange(classes)))[:CLASSES])
    if not shown.size:
        return None, [*problems, f"no t-SNE on {pair}: the labels of its test set are not those of {classes} classes"]
    each = max(1, min(IMAGES, POINTS // len(found)) // len(shown))
    images = np.concatenate([rng.permutation(np.flatnonzero(first.labels == c))[:each] for c in shown])
    joint = np.concatenate([_comparable(outputs.logits[images]) for _, outputs in found])
    perplexity = min(PERPLEXITY, (len(joint) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1).fit_transform(joint)
    names = next((o.class_names for _, o in found if o.class_names), None) or [str(c) for c in range(classes)]
    parts = np.split(points, len(found))
    panels = [Panel(label, part) for (label, _), part in zip(found, parts, strict=True)]
    return Projection(
        panels, np.searchsorted(shown, first.labels[images]), [names[c] for c in shown], classes
    ), problems


def _networks(group: ResultGroup, pair: str, root: Path) -> tuple[list[tuple[str, runs.Outputs]], list[str]]:
    """Labels and outputs of a pair's teachers, then of one run a row, all on one test set; and what is missing."""
    read: dict[str, runs.Outputs | None] = {}
    teachers: dict[str, runs.Outputs] = {}  # those of the students chosen
    students: list[tuple[str, runs.Outputs]] = []
    rows = [row for row in group.rows if pair in row.seed_groups]
    problems = []
    if len(rows) > ROWS:
        problems.append(f"t-SNE on {pair}: of {len(rows)} rows only the first variant of each method")
        rows = list({row.method: row for row in reversed(rows)}.values())[::-1]
    for row in rows:
        for seed, folder, teacher, student in _beside_teacher(row.seed_groups[pair].runs, root, read):
            if not students or _same_test_set(student, students[0][1]):
                students.append((f"{row.label}, seed {seed}", student))
                teachers[folder] = teacher
                break
        else:
            problems.append(
                f"no t-SNE of {row.label} on {pair}: no run has a usable test_outputs.npz, of the same test set as its "
                "teacher's and the other methods'"
            )
    labels = ["Teacher" if len(teachers) == 1 else f"Teacher {name.split('/', 2)[-1]}" for name in teachers]
    return [*zip(labels, teachers.values(), strict=True), *students], problems


def _beside_teacher(
    found: pd.DataFrame, root: Path, read: dict[str, runs.Outputs | None]
) -> Iterator[tuple[int, str, runs.Outputs, runs.Outputs]]:
    """Seed, teacher's folder, teacher and student for each run with outputs on its teacher's test set. `read` keeps the
    teachers."""
    for run in found.itertuples():
        if not isinstance(run.teacher_run, str):
            continue
        if run.teacher_run not in read:
            read[run.teacher_run] = runs.outputs(root / run.teacher_run)
        teacher, student = read[run.teacher_run], runs.outputs(run.folder)
        if teacher is not None and student is not None and _same_test_set(teacher, student):
            yield run.seed, run.teacher_run, teacher, student


def _same_test_set(a: runs.Outputs, b: runs.Outputs) -> bool:
    return a.logits.shape == b.logits.shape and np.array_equal(a.labels, b.labels)


def _comparable(logits: np.ndarray) -> np.ndarray:
    centred = logits.astype(np.float64) - logits.mean(axis=1, keepdims=True, dtype=np.float64)
    size = math.sqrt(np.square(centred).sum(axis=1).mean())
    return (centred / size if size > 0 else centred).astype(np.float32)


def draw(group: ResultGroup, pair: str, projection: Projection) -> Figure:
    """One panel a network, all on the same axes; crosses stand at the class medians of the first teacher's points."""
    columns = min(4, len(projection.panels))
    rows = math.ceil(len(projection.panels) / columns)
    figure = Figure(figsize=(2.0 * columns + 0.2, 2.2 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colours = matplotlib.colormaps["tab10"].colors
    teacher = projection.panels[0].points
    medians = np.array([np.median(teacher[projection.labels == c], axis=0) for c in range(len(projection.class_names))])
    for i, ax in enumerate(axes.flat):
        if i >= len(projection.panels):
            ax.remove()
            continue
        panel = projection.panels[i]
        for c in range(len(projection.class_names)):
            at = panel.points[projection.labels == c]
            ax.scatter(*at.T, s=5, color=colours[c], linewidths=0, alpha=0.8, label=projection.class_names[c])
        ax.plot(*medians.T, "k+", markersize=6, markeredgewidth=1.0, zorder=3)
        ax.set_title(panel.label)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[["top", "right"]].set_visible(True)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5 if max(map(len, labels)) > 3 else len(labels),
                  frameon=False, markerscale=2.5, handletextpad=0.1, columnspacing=1.0)  # fmt: skip
    network, student = group.networks[pair]
    figure.suptitle(f"t-SNE of the logits, {network} → {student} on {group.dataset}", fontsize=10)
    return figure
