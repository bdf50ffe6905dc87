"""t-SNE of the logits of a pair's teacher and students: one joint, seeded embedding of the same test images."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE

from analysis.figures import labels, style
from analysis.figures.files import Undrawable
from analysis.figures.style import Appearance, Page
from analysis.groups import MethodRow, ResultGroup, RowKey
from analysis.predictions import PredictionReader, Predictions, same_test_set

SEED = 0  # of the choice of classes and images, and of t-SNE
MAX_CLASSES = 10  # that colors can distinguish; of more, so many are drawn
MAX_IMAGES = 100  # shown of each network
MAX_POINTS = 1000  # of all networks together, which is a second of t-SNE; with more networks fewer images are shown
PERPLEXITY = 30.0
ITERATIONS = 500  # half of them with early exaggeration; so few points have settled by then
MIN_DISTINCT = 10  # different outputs that there must be: the library crashes where all points are equal
MAX_ROWS = 15  # of a table that are drawn; of more, those that stand out and the first variant of each method
ABREAST, NARROW_ABREAST = 4, 2  # panels side by side
GAP, HEADING, LEGEND = 0.1, 0.3, 0.17  # inches: between panels, above each, and of a line of the legend


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


def embed(
    group: ResultGroup, pair: str, root: Path, appearance: Appearance | None = None
) -> tuple[Embedding | None, list[str]]:
    """Return the embedding of a pair and messages on what is missing from it; None where no student has usable outputs
    and a teacher with the same test set. Raises Undrawable where the outputs of all networks are too much alike to be
    embedded.

    Each row of the table gives its first seed with usable outputs. Logits z [N, C] are made comparable between networks
    before they are embedded together: each image's mean is subtracted, which a softmax does not see, and each network's
    are divided by sqrt(mean_i |z_i|²), its overall confidence. root: the folder of all runs. van der Maaten and Hinton
    (JMLR 2008), Barnes-Hut, started from the principal components. appearance: which rows stand out.
    """
    styles = (appearance or Appearance()).on_pair(group, pair)
    networks, problems = _networks(group, pair, root, {key for key, row in styles.items() if row.highlighted})
    if not networks:
        return None, [f"no t-SNE on {pair}: no run has a usable test_outputs.npz beside its teacher's"]
    predictions = list(networks.values())
    first = predictions[0]
    rng = np.random.default_rng(SEED)
    classes = np.sort(rng.permutation(np.unique(first.labels))[:MAX_CLASSES])
    per_class = max(1, min(MAX_IMAGES, MAX_POINTS // len(networks)) // len(classes))
    images = np.concatenate([rng.permutation(np.flatnonzero(first.labels == c))[:per_class] for c in classes])
    joint = np.concatenate([_standardize(p.logits[images]) for p in predictions])
    if reason := degenerate(joint):
        raise Undrawable(reason)
    perplexity = min(PERPLEXITY, (len(joint) - 1) / 3)
    method = TSNE(perplexity=perplexity, init="pca", max_iter=ITERATIONS, random_state=SEED, n_jobs=1)
    points = method.fit_transform(joint)
    names = next((p.class_names for p in predictions if p.class_names), None) or list(map(str, range(first.classes)))
    panels = list(map(Panel, networks, np.split(points, len(networks))))
    labels = np.searchsorted(classes, first.labels[images])
    return Embedding(panels, labels, [names[c] for c in classes], first.classes), problems


def degenerate(outputs: np.ndarray) -> str | None:
    """Return why outputs [N, C] cannot be embedded; None where they can."""
    if not np.isfinite(outputs).all():
        return "the networks' logits are not all finite"
    distinct = len(np.unique(outputs, axis=0))
    if distinct < MIN_DISTINCT:
        return f"the networks give only {distinct} different outputs, at least {MIN_DISTINCT} are needed"
    return None


def _networks(
    group: ResultGroup, pair: str, root: Path, preferred: Collection[RowKey]
) -> tuple[dict[str, Predictions], list[str]]:
    """Predictions of a pair's teachers, then of one run per row, all on one test set, by label; and what is missing."""
    reader = PredictionReader(root)
    teachers: dict[str, Predictions] = {}  # those of the students shown, by folder
    students: dict[str, Predictions] = {}
    rows, problems = group.rows_on(pair), []
    if len(rows) > MAX_ROWS:
        rows = _few(rows, preferred)
        problems.append(f"t-SNE on {pair}: of {len(group.rows_on(pair))} rows only {len(rows)} are shown")
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


def _few(rows: list[MethodRow], preferred: Collection[RowKey]) -> list[MethodRow]:
    """At most `MAX_ROWS` rows in their order: the preferred ones, then the first variant of each method."""
    first = {row.method: row.key for row in reversed(rows)}.values()
    by_rank = sorted(rows, key=lambda row: (row.key not in preferred, row.key not in first))
    chosen = {row.key for row in by_rank[:MAX_ROWS]}
    return [row for row in rows if row.key in chosen]


def _standardize(logits: np.ndarray) -> np.ndarray:
    centered = logits.astype(np.float64) - logits.mean(axis=1, keepdims=True, dtype=np.float64)
    size = math.sqrt(np.square(centered).sum(axis=1).mean())
    return (centered / size if size > 0 else centered).astype(np.float32)


def draw_embedding(group: ResultGroup, pair: str, embedding: Embedding, appearance: Appearance) -> list[Figure]:
    """Draw one panel per network, all on the same axes; crosses mark the class medians of the first teacher."""
    abreast = NARROW_ABREAST if appearance.narrow else ABREAST
    side = (appearance.width - 2 * style.EDGE - (abreast - 1) * GAP) / abreast
    legend = LEGEND * (MAX_CLASSES // _legend_columns(appearance.width))
    rows = int((style.PAGE_HEIGHT - 0.5 - legend) / (side + HEADING + GAP))
    parts = style.chunks(embedding.panels, rows * abreast)
    teacher, student = group.networks[pair]
    title = f"t-SNE of the logits, {teacher} → {student} on {group.dataset}"
    points = np.concatenate([panel.points for panel in embedding.panels])
    margin = 0.04 * np.ptp(points, axis=0)
    limits = np.stack([points.min(axis=0) - margin, points.max(axis=0) + margin])
    names = labels.fit([panel.label for panel in embedding.panels], side, lines=2)
    titles = {panel.label: name for panel, name in zip(embedding.panels, names, strict=True)}
    figures = []
    for number, part in enumerate(parts, 1):
        height = style.panel_grid(len(part), abreast)[0] * (side + HEADING + GAP)
        page = style.new_page(appearance, height + legend, style.numbered(title, number, len(parts)))
        for i, panel in enumerate(part):
            row, column = divmod(i, abreast)
            top = row * (side + HEADING + GAP) + HEADING
            ax = page.axes(style.EDGE + column * (side + GAP), top, side, side)
            _add_panel(ax, panel, embedding)
            ax.set_title(titles[panel.label], fontsize=labels.SMALL, linespacing=1.1)
            ax.set_xlim(*limits[:, 0])
            ax.set_ylim(*limits[:, 1])
        _add_legend(page, height, embedding)
        figures.append(page.figure)
    return figures


def _add_panel(ax: Axes, panel: Panel, embedding: Embedding) -> None:
    """Draw one network's points in the colors of their classes."""
    of_class = [embedding.labels == c for c in range(len(embedding.class_names))]
    for color, images in zip(_colors(), of_class, strict=False):
        ax.scatter(*panel.points[images].T, s=5, color=color, linewidths=0, alpha=0.8)
    first = embedding.panels[0].points
    medians = np.array([np.median(first[images], axis=0) for images in of_class])
    ax.plot(*medians.T, "k+", markersize=5, markeredgewidth=0.8, zorder=3)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[["top", "right"]].set_visible(True)


def _colors() -> list[str]:
    return [to_hex(matplotlib.colormaps["tab10"](i)) for i in range(MAX_CLASSES)]


def _legend_columns(width: float) -> int:
    """How many classes are named side by side."""
    return MAX_CLASSES // (5 if width < style.TEXT_WIDTH else 2)


def _add_legend(page: Page, top: float, embedding: Embedding) -> None:
    """Name the classes below the panels, at most two rows of five, or five of two in a narrow figure."""
    width = page.figure.get_figwidth()
    columns = min(len(embedding.class_names), _legend_columns(width))
    names = labels.fit(embedding.class_names, (width - 2 * style.EDGE) / columns - 0.22)
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=4, color=color, label=name)
        for color, name in zip(_colors(), names, strict=False)
    ]
    height = page.figure.get_figheight()
    page.figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.002, 1 - (page.top + top) / height),
                       ncols=columns, frameon=False, borderpad=0, borderaxespad=0, handletextpad=0.1, labelspacing=0.3,
                       columnspacing=1.0)  # fmt: skip
