"""t-SNE of the logits of a pair's teacher and students: one joint, seeded embedding of the same test images."""

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from analysis.figures import style
from analysis.groups import ResultGroup
from analysis.predictions import PredictionReader, Predictions, same_test_set

SEED = 0  # of the choice of classes and images, and of t-SNE
MAX_CLASSES = 10  # that colors can distinguish; of more, so many are drawn
MAX_IMAGES = 200  # shown of each network
MAX_POINTS = 2000  # of all networks together, which is seconds of t-SNE; with more networks fewer images are shown
PERPLEXITY = 30.0
MAX_ROWS = 15  # of a table that are drawn; of more, the first variant of each method


@dataclass(frozen=True)
class Panel:
    """One network's part of the embedding. points: [N, 2], row i the same test image in every panel."""

    label: str
    points: np.ndarray


@dataclass(frozen=True)
class Embedding:
    """The joint embedding of a pair, teachers first. labels: [N], positions in `class_names`, the classes shown."""

    panels: list[Panel]
    labels: np.ndarray
    class_names: list[str]
    classes: int  # of the data set

    @property
    def description(self) -> str:
        """Networks, images and classes in one sentence."""
        n = len(self.class_names)
        part = "" if n == self.classes else f" of {n} of {self.classes} classes"
        return (
            f"Logits of {len(self.panels)} networks on the same {len(self.labels)} test images{part}, "
            f"chosen with seed {SEED}."
        )


def embed(group: ResultGroup, pair: str, root: Path) -> tuple[Embedding | None, list[str]]:
    """Return the embedding of a pair and messages on what is missing from it; None where no student has usable outputs
    and a teacher with the same test set.

    Each row of the table gives its first seed with usable outputs. Logits z [N, C] are made comparable between networks
    before they are embedded together: each image's mean is subtracted, which a softmax does not see, and each network's
    are divided by sqrt(mean_i |z_i|²), its overall confidence. root: the folder of all runs. van der Maaten and Hinton
    (JMLR 2008), Barnes-Hut, started from the principal components.
    """
    networks, problems = _networks(group, pair, root)
    if not networks:
        return None, [f"no t-SNE on {pair}: no run has a usable test_outputs.npz beside its teacher's"]
    predictions = list(networks.values())
    first = predictions[0]
    rng = np.random.default_rng(SEED)
    classes = np.sort(rng.permutation(np.unique(first.labels))[:MAX_CLASSES])
    per_class = max(1, min(MAX_IMAGES, MAX_POINTS // len(networks)) // len(classes))
    images = np.concatenate([rng.permutation(np.flatnonzero(first.labels == c))[:per_class] for c in classes])
    joint = np.concatenate([_standardize(p.logits[images]) for p in predictions])
    perplexity = min(PERPLEXITY, (len(joint) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1).fit_transform(joint)
    names = next((p.class_names for p in predictions if p.class_names), None) or list(map(str, range(first.classes)))
    panels = list(map(Panel, networks, np.split(points, len(networks))))
    labels = np.searchsorted(classes, first.labels[images])
    return Embedding(panels, labels, [names[c] for c in classes], first.classes), problems


def _networks(group: ResultGroup, pair: str, root: Path) -> tuple[dict[str, Predictions], list[str]]:
    """Predictions of a pair's teachers, then of one run per row, all on one test set, by label; and what is missing."""
    reader = PredictionReader(root)
    teachers: dict[str, Predictions] = {}  # those of the students shown, by folder
    students: dict[str, Predictions] = {}
    rows, problems = group.rows_on(pair), []
    if len(rows) > MAX_ROWS:
        problems.append(f"t-SNE on {pair}: of {len(rows)} rows only the first variant of each method")
        rows = list({row.method: row for row in reversed(rows)}.values())[::-1]
    for row in rows:
        for run in row.seed_groups[pair].seed_runs:
            outputs = reader.read(run.folder, run.teacher_run)
            if isinstance(outputs, str) or not all(same_test_set(outputs[0], p) for p in students.values()):
                continue
            students[f"{row.label}, seed {run.seed}"], teachers[str(run.teacher_run)] = outputs
            break
        else:
            problems.append(
                f"no t-SNE of {row.label} on {pair}: no run has a usable test_outputs.npz, of the same test set as its "
                "teacher's and the other methods'"
            )
    several = len(teachers) > 1
    labeled = {f"Teacher {name.split('/', 2)[-1]}" if several else "Teacher": p for name, p in teachers.items()}
    return labeled | students, problems


def _standardize(logits: np.ndarray) -> np.ndarray:
    centered = logits.astype(np.float64) - logits.mean(axis=1, keepdims=True, dtype=np.float64)
    size = math.sqrt(np.square(centered).sum(axis=1).mean())
    return (centered / size if size > 0 else centered).astype(np.float32)


def draw_embedding(group: ResultGroup, pair: str, embedding: Embedding) -> Figure:
    """Draw one panel per network, all on the same axes; crosses mark the class medians of the first teacher."""
    panels, names = embedding.panels, embedding.class_names
    rows, columns = style.panel_grid(len(panels), 4)
    figure = Figure(figsize=(2.0 * columns + 0.2, 2.2 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colors = [matplotlib.colormaps["tab10"](i) for i in range(MAX_CLASSES)]
    of_class = [embedding.labels == c for c in range(len(names))]
    medians = np.array([np.median(panels[0].points[images], axis=0) for images in of_class])
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax, panel in zip(axes.flat, panels, strict=False):
        for name, color, images in zip(names, colors, of_class, strict=False):
            ax.scatter(*panel.points[images].T, s=5, color=color, linewidths=0, alpha=0.8, label=name)
        ax.plot(*medians.T, "k+", markersize=6, markeredgewidth=1.0, zorder=3)
        ax.set_title(panel.label)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[["top", "right"]].set_visible(True)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5 if max(map(len, labels)) > 3 else len(labels),
                  frameon=False, markerscale=2.5, handletextpad=0.1, columnspacing=1.0)  # fmt: skip
    teacher, student = group.networks[pair]
    figure.suptitle(f"t-SNE of the logits, {teacher} → {student} on {group.dataset}", fontsize=10)
    return figure
