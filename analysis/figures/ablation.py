"""Figures of an ablation: a line for each option that is varied alone, a heat map for two together, and the settings of
a list side by side. Validation accuracy in per cent; intervals are 95 % by Student's t over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from analysis.ablation import Ablation, Axis, SettingRow, heading, short, text
from analysis.figures import labels, palette, style
from analysis.figures.files import FigureWriter
from analysis.figures.style import Appearance, Page
from analysis.published import STUDENT
from analysis.statistics import BASELINE
from benchmark.runs.folder import file_name
from benchmark.statistics import mean_interval

KD_COLOR = palette.method_mark(BASELINE)[0]
FRAME_COLOR = "#D55E00"
ABREAST = 2  # panels side by side
PANEL_HEIGHT = 1.7  # inches
LEFT, GAP, BELOW, LEGEND = 0.55, 0.25, 0.45, 0.2  # inches: of a panel, between panels, below one, a line of the legend
FIELD = 0.36  # inches of a field with its number
NAMES = 2.6  # inches at most for the names of settings
ACCURACY = "validation top-1 [%]"


def write(ablation: Ablation, writer: FigureWriter, appearance: Appearance) -> None:
    """Draw the ablation's figure and write it. Nothing where no run is finished, or for three options at once."""
    writer.write(file_name(ablation.name), lambda: draw(ablation, appearance))


def draw(ablation: Ablation, appearance: Appearance) -> Sequence[Figure]:
    """Return the figure that fits the form of an ablation; none where none does, or no run is finished."""
    if not any(r.n for r in ablation.settings) or (ablation.form == "axes" and len(ablation.axes) > 2):
        return []
    if ablation.form == "axes" and len(ablation.axes) == 2:
        return [draw_map(ablation, appearance)]
    if ablation.form == "settings" or not any(a.numeric for a in ablation.axes.values()):
        return draw_settings(ablation, appearance)
    return draw_lines(ablation, appearance)


def _color(ablation: Ablation) -> str:
    """The color of the ablation's method, as in all other figures."""
    return palette.method_mark(ablation.method)[0]


def draw_lines(ablation: Ablation, appearance: Appearance) -> list[Figure]:
    """Draw a panel per option: mean and interval against its value, the default marked, the references as lines; where
    the option belongs to the recipe the references have a point per value too."""
    axes = {o: a for o, a in ablation.axes.items() if a.numeric}
    abreast, legend = (1, 4 * LEGEND) if appearance.narrow else (ABREAST, 2 * LEGEND)
    per_page = abreast * int((style.PAGE_HEIGHT - 1) / (PANEL_HEIGHT + BELOW))
    parts = style.chunks(list(axes), per_page)
    limits = _limits(ablation, list(axes))
    figures = []
    for number, part in enumerate(parts, 1):
        rows, columns = style.panel_grid(len(part), abreast)
        height = rows * (PANEL_HEIGHT + BELOW)
        page = style.new_page(appearance, height + legend, style.numbered(_title(ablation), number, len(parts)))
        width = (appearance.width - LEFT - 0.1 - GAP * (abreast - 1)) / abreast
        for i, option in enumerate(part):
            row, column = divmod(i, columns)
            ax = page.axes(
                LEFT + column * (width + GAP), row * (PANEL_HEIGHT + BELOW) + 0.05, width, PANEL_HEIGHT - 0.05
            )
            _add_option(ax, ablation, option, axes[option])
            ax.set_ylim(*limits)
            ax.tick_params(labelleft=column == 0)
            ax.set_ylabel(ACCURACY if column == 0 else "")
        _add_legend(page, page.figure.axes[0], height)
        figures.append(page.figure)
    return figures


def _limits(ablation: Ablation, options: Sequence[str]) -> tuple[float, float]:
    """The limits of the accuracies in all panels: of settings with their intervals, and of references."""
    rows = [r for r in ablation.settings if r.n and any(ablation.varies_only(r, o) for o in options)]
    rows += [r for r in ablation.references if r.n]
    mean, error = _error_bars(rows)
    low, high = float((mean - error[0]).min()), float((mean + error[1]).max())
    margin = 0.06 * max(high - low, 0.1)
    return low - margin, high + margin


def _add_legend(page: Page, ax: Axes, top: float) -> None:
    """Explain the marks of a panel below all panels, in up to two lines, or four in a narrow figure."""
    handles, names = ax.get_legend_handles_labels()
    width = page.figure.get_figwidth()
    columns = 3 if width > style.COLUMN_WIDTH else 1
    fitted = labels.fit(names[::-1], width / columns - 0.5)
    page.figure.legend(handles[::-1], fitted, loc="upper left", ncols=columns, frameon=False, borderpad=0,
                       borderaxespad=0, labelspacing=0.3,
                       bbox_to_anchor=(0.01, 1 - (page.top + top) / page.figure.get_figheight()))  # fmt: skip


def _add_option(ax: Axes, ablation: Ablation, option: str, axis: Axis) -> None:
    """Draw the panel of one option."""
    default, color = ablation.default, _color(ablation)
    settings = [r for r in ablation.settings if r.n and ablation.varies_only(r, option)]
    if option.startswith("recipe."):
        for method, reference_color in ((BASELINE, KD_COLOR), (STUDENT, palette.STUDENT_COLOR)):
            references = [r for r in ablation.references if r.method == method and r.n]
            if references and (method != BASELINE or ablation.has_baseline):
                _add_line(ax, option, references, reference_color, references[0].label.split(" (")[0])
    else:
        for row, reference_color in _references(ablation):
            ax.axhline(row.mean, color=reference_color, label=row.label, **style.REFERENCE_LINE)
    _add_line(ax, option, settings, color, ablation.title)
    if default.n:
        ax.plot(default.values[option], default.mean, marker="o", markersize=8, markerfacecolor="none",
                markeredgecolor=color, linestyle="none", label="default", zorder=4)  # fmt: skip
    values = sorted({r.values[option] for r in settings})
    if axis.log and min(values) > 0:
        ax.set_xscale("log")
    _label_values(ax, values)
    ax.set_xlabel(labels.shorten(short(option), _inches(ax), labels.NORMAL))
    style.add_grid(ax)


def _inches(ax: Axes) -> float:
    """The width of axes."""
    return ax.get_position().width * ax.figure.get_size_inches()[0]  # type: ignore[union-attr]


def _label_values(ax: Axes, values: Sequence[float]) -> None:
    """Mark every value on the horizontal axis, and name as many as do not touch each other."""
    ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_minor_locator(NullLocator())
    across = _inches(ax)
    (low, high), logarithmic = ax.get_xlim(), ax.get_xscale() == "log"
    scale = np.log if logarithmic else np.asarray
    names, end = [], -np.inf
    for value in values:
        place = across * float((scale(value) - scale(low)) / (scale(high) - scale(low)))
        half = labels.text_width(text(value)) / 2
        fits = place - half > end + 0.03
        names.append(text(value) if fits else "")
        end = place + half if fits else end
    ax.set_xticks(values, names)


def _add_line(ax: Axes, option: str, rows: Sequence[SettingRow], color: str, label: str) -> None:
    rows = sorted(rows, key=lambda r: r.values[option])
    mean, error = _error_bars(rows)
    ax.errorbar([r.values[option] for r in rows], mean, yerr=error, color=color, marker="o", markersize=3.5,
                linewidth=1.2, elinewidth=1, capsize=2.5, label=label, zorder=3)  # fmt: skip


def draw_map(ablation: Ablation, appearance: Appearance) -> Figure:
    """Draw mean validation accuracy over two options, first down, second across; the default is framed, the best is
    bold. The fields have no numbers where there are too many. A map whose numbers do not fit into a column of a paper
    is as wide as the text."""
    (down, rows), (across, columns) = ablation.axes.items()
    table = _mean_table(ablation)
    names = labels.fit([text(v) for v in rows.values], 1.0)
    left = style.EDGE + labels.widest(names) + 0.3
    room = appearance.width - left - 0.75
    if appearance.narrow and room / table.shape[1] < FIELD:
        return draw_map(ablation, appearance.widened())
    width = min(0.6 * table.shape[1], room)
    height = min(max(0.2 * table.shape[0], 1.0), style.PAGE_HEIGHT - 1.2)
    frame = _default_frame(ablation)
    note = labels.wrap(_map_note(ablation, frame), appearance.width - 0.2, lines=4 if appearance.narrow else 2)
    page = style.new_page(appearance, height + 0.55 + max(0.3, labels.height_of(note) + 0.04), _title(ablation))
    ax = page.axes(left, 0.05, width, height)
    image = ax.imshow(table, cmap="viridis", aspect="auto", origin="lower")
    if width / table.shape[1] >= FIELD and height / table.shape[0] >= style.ROW_HEIGHT:
        _add_values(ax, table, sum(image.get_clim()) / 2)
    ax.set_xticks(range(table.shape[1]), [text(v) for v in columns.values], rotation=90 if table.shape[1] > 8 else 0)
    ax.set_yticks(range(table.shape[0]), names)
    ax.set_xlabel(short(across))
    ax.set_ylabel(short(down))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = page.axes(left + width + 0.12, 0.05, 0.1, height)
    page.figure.colorbar(ScalarMappable(image.norm, image.cmap), cax=bar).set_label(ACCURACY, fontsize=labels.SMALL)
    bar.yaxis.set_major_locator(MaxNLocator(nbins=max(2, min(6, int(height / 0.3)))))
    if frame:
        ax.add_patch(Rectangle((frame[1] - 0.5, frame[0] - 0.5), 1, 1, fill=False, edgecolor=FRAME_COLOR, linewidth=2.2,
                               clip_on=False, zorder=5))  # fmt: skip
    page.text(style.EDGE, height + 0.55, note)
    return page.figure


def _default_frame(ablation: Ablation) -> tuple[int, int] | None:
    """Row and column of the default; None where it is outside the map."""
    (down, rows), (across, columns) = ablation.axes.items()
    values = ablation.default.values
    if values[down] in rows.values and values[across] in columns.values:
        return list(rows.values).index(values[down]), list(columns.values).index(values[across])
    return None


def _map_note(ablation: Ablation, frame: tuple[int, int] | None) -> str:
    """The references, and what the frame is; without a frame, the default."""
    notes, default = [f"{r.label} {r.mean:.2f}" for r, _ in _references(ablation)], ablation.default
    if frame:
        notes.append("frame: default")
    else:
        settings = ", ".join(f"{short(o)}={text(default.values[o])}" for o in ablation.axes)
        notes.append(f"default ({settings}) {default.mean:.2f}")
    return ", ".join(notes)


def _add_values(ax: Axes, table: np.ndarray, middle: float) -> None:
    """Write the accuracies into the fields."""
    for (i, j), value in np.ndenumerate(table):
        if np.isnan(value):
            ax.text(j, i, "–", ha="center", va="center", fontsize=labels.SMALL)
            continue
        weight = "bold" if value == np.nanmax(table) else "normal"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < middle else "black",
                fontweight=weight, fontsize=labels.SMALL)  # fmt: skip


def _mean_table(ablation: Ablation) -> np.ndarray:
    """Mean validation accuracies by the values of the two options; NaN without a finished run."""
    (down, rows), (across, columns) = ablation.axes.items()
    table = np.full((len(rows.values), len(columns.values)), np.nan)
    for row in ablation.settings:
        if row.values[down] in rows.values and row.values[across] in columns.values:
            table[list(rows.values).index(row.values[down]), list(columns.values).index(row.values[across])] = row.mean
    return table


def draw_settings(ablation: Ablation, appearance: Appearance) -> list[Figure]:
    """Draw one row per setting: mean and interval above it, seeds as faint dots; the references as lines."""
    rows, color = [r for r in ablation.settings if r.n], _color(ablation)
    marks = {id(r): " (default)" if r is ablation.default and r.label != "default" else "" for r in rows}
    fitted = labels.fit([f"{r.label}{marks[id(r)]}" for r in rows], appearance.names(NAMES))
    names = dict(zip(map(id, rows), fitted, strict=True))
    left = style.EDGE + labels.widest(fitted) + 0.06
    parts = style.chunks(rows, int((style.PAGE_HEIGHT - 1.2) / 0.2))
    figures = []
    for number, part in enumerate(parts, 1):
        height = max(0.2 * len(part), 0.4)
        page = style.new_page(
            appearance, height + BELOW + 2 * LEGEND, style.numbered(_title(ablation), number, len(parts))
        )
        ax = page.axes(left, 0.05, appearance.width - left - 0.15, height - 0.05)
        for row, reference_color in _references(ablation):
            ax.axvline(row.mean, color=reference_color, label=f"{row.label} {row.mean:.2f}", **style.REFERENCE_LINE)
        for i, row in enumerate(part):
            mean, error = _error_bars([row])
            ax.plot(list(row.val.values()), [i] * row.n, ".", color=color, alpha=0.35, markersize=5, zorder=2)
            ax.plot(mean, [i], color=color, marker="o", markersize=4.5, linestyle="none", zorder=3)
            ax.errorbar(mean, [i], xerr=error, fmt="none", ecolor=palette.HIGHLIGHT_INK, capsize=2, elinewidth=1.0,
                        zorder=4)  # fmt: skip
        ax.set_yticks(range(len(part)), [names[id(row)] for row in part])
        ax.set_ylim(len(part) - 0.4, -0.6)
        ax.set_xlabel(ACCURACY)
        style.add_grid(ax)
        if ax.get_legend_handles_labels()[0]:
            _add_legend(page, ax, height + BELOW)
        figures.append(page.figure)
    return figures


def _references(ablation: Ablation) -> list[tuple[SettingRow, str]]:
    """The references with the default recipe, and their colors; without KD where it is the ablation's own method."""
    references = [r for r in ablation.references if r.recipe == ablation.default.recipe and r.n]
    return [
        (r, KD_COLOR if r.method == BASELINE else palette.STUDENT_COLOR)
        for r in references
        if r.method != BASELINE or ablation.has_baseline
    ]


def _error_bars(rows: Sequence[SettingRow]) -> tuple[np.ndarray, np.ndarray]:
    """Means [rows] and error bars [2, rows] of the settings; a bar of 0 where there is no interval."""
    intervals = [mean_interval(list(r.val.values())) for r in rows]
    bars: Any = [[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]
    return np.array([i.mean for i in intervals]), np.nan_to_num(bars)


def _title(ablation: Ablation) -> str:
    seeds = max(r.n for r in ablation.settings)
    return f"{heading(ablation)}\n{ablation.description}, {seeds} seed{'' if seeds == 1 else 's'}"
