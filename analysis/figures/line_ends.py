"""Names of lines: beside their ends, spread so that none covers another and joined to their lines, or in a list; below
the axes in a narrow figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes

from analysis.figures import labels, style
from analysis.figures.palette import OTHER_COLOR, text_color
from analysis.figures.style import Appearance, Page

MAX_WIDTH = 1.9  # inches of a name with its value
PITCH = 0.14  # inches from name to name
LEADER = 0.2  # inches between the axes and the names
SAMPLE = 0.28  # inches of a piece of a line with the gap to its name, below the axes
FEW = 12  # so many names stand one below the other, rather than to be shortened


@dataclass(frozen=True)
class LineEnd:
    """Where a line ends, in data coordinates; its name, with a value behind it, its color, dashes and mark."""

    name: str
    value: float | str
    x: float
    y: float
    color: str
    dashes: Any = "-"
    mark: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value_text(self) -> str:
        """The value as it stands behind the name."""
        return self.value if isinstance(self.value, str) else f"{self.value:.2f}"


def texts(ends: Sequence[LineEnd], inches: float = MAX_WIDTH) -> list[str]:
    """Return names and values, the names shortened where both need more than `inches`."""
    rest = [inches - labels.text_width(f"  {end.value_text}") for end in ends]
    names = labels.fit([end.name for end in ends], min(rest, default=inches))
    return [f"{name}  {end.value_text}" for name, end in zip(names, ends, strict=True)]


def width(ends: Sequence[LineEnd]) -> float:
    """Return the inches that the names need beside the axes, with that of the other rows."""
    return LEADER + labels.widest([f"{text} ↑" for text in texts(ends)] + [_others(99, 9)]) + 0.03


def height(ends: Sequence[LineEnd]) -> float:
    """Return the inches that the names need one above the other."""
    return PITCH * (len(ends) + 2)


def add(page: Page, ax: Axes, ends: Sequence[LineEnd], others: int, below: int = 0) -> None:
    """Write the names to the right of the axes, each joined to its line by a thin line of its color.

    A line that ends outside the axes is joined to their edge, with an arrow. others: so many rows are gray and unnamed,
    which a last entry says; below: so many of them end below the axes. The limits of the axes must be final.
    """
    inches = ax.get_position().height * page.figure.get_figheight()
    across = ax.get_position().width * page.figure.get_figwidth()
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    heights = [(end.y - y0) / (y1 - y0) for end in ends]
    low = (1.5 if others else 0.5) * PITCH / inches
    places = labels.spread([min(max(h, 0), 1) for h in heights], PITCH / inches, low, 1 - 0.3 * PITCH / inches)
    for end, wanted, place, text in zip(ends, heights, places, texts(ends), strict=True):
        arrow = " ↑" if wanted > 1 else " ↓" if wanted < 0 else ""
        x, y = min(max((end.x - x0) / (x1 - x0), 0), 1), min(max(wanted, 0), 1)
        leader: dict[str, Any] = {
            "color": end.color,
            "linewidth": 0.6,
            "transform": ax.transAxes,
            "clip_on": False,
            "zorder": 1.5,
        }
        if x < 0.97:  # dotted, so that it is not taken for a part of the line
            ax.plot([x, 1], [y, y], **leader, linestyle=(0, (1, 4)))
        ax.plot([max(x, 1), 1 + (LEADER - 0.05) / across], [y, place], **leader, alpha=0.8)
        ax.text(1 + LEADER / across, place, text + arrow, transform=ax.transAxes, color=text_color(end.color),
                ha="left", va="center", fontsize=labels.SMALL)  # fmt: skip
    if others:
        ax.text(1 + LEADER / across, 0, _others(others, below), transform=ax.transAxes, color="#6e6e6e", ha="left",
                va="center", fontsize=labels.SMALL, backgroundcolor="none")  # fmt: skip
        ax.plot([1 + 0.05 / across, 1 + (LEADER - 0.05) / across], [0, 0], color=OTHER_COLOR, linewidth=1.4,
                transform=ax.transAxes, clip_on=False)  # fmt: skip


def add_list(page: Page, ax: Axes, ends: Sequence[LineEnd], others: int) -> None:
    """Write the names to the right of the axes from the top down, each after a piece of its line: a legend for lines
    that end in one place."""
    inches = ax.get_position().height * page.figure.get_figheight()
    across = ax.get_position().width * page.figure.get_figwidth()
    entries = [
        (text, end.color, end.dashes, text_color(end.color)) for text, end in zip(texts(ends), ends, strict=True)
    ]
    entries += [(_others(others), OTHER_COLOR, "-", "#6e6e6e")] if others else []
    for i, (text, color, dashes, ink) in enumerate(entries):
        y = 1 - (i + 0.5) * PITCH / inches
        ax.plot([1 + 0.03 / across, 1 + (LEADER - 0.04) / across], [y, y], color=color, linestyle=dashes,
                linewidth=1.4, transform=ax.transAxes, clip_on=False)  # fmt: skip
        ax.text(1 + LEADER / across, y, text, transform=ax.transAxes, color=ink, ha="left", va="center",
                fontsize=labels.SMALL)  # fmt: skip


def _abreast(ends: Sequence[LineEnd], appearance: Appearance) -> int:
    """How many names stand side by side below the axes: two, or one where two of a few would be shortened."""
    room = (appearance.width - 2 * style.EDGE) / 2 - SAMPLE
    whole = all(labels.text_width(f"{end.name}  {end.value_text}") <= room for end in ends)
    return 2 if whole or len(ends) > FEW else 1


def height_below(ends: Sequence[LineEnd], others: int, appearance: Appearance) -> float:
    """Return the inches that the names need below the axes."""
    return PITCH * math.ceil((len(ends) + bool(others)) / _abreast(ends, appearance)) + 0.04


def add_below(page: Page, ends: Sequence[LineEnd], others: int, heading: str = "", below: int = 0) -> None:
    """Write the names at the lower edge of a narrow page, each after a piece of its line, below a heading: a legend
    where there is no room beside the axes. others, below: see `add`."""
    appearance = Appearance(width=page.figure.get_figwidth())
    height, abreast = height_below(ends, others, appearance), _abreast(ends, appearance)
    width, top = appearance.width - 2 * style.EDGE, page.figure.get_figheight() - page.top - style.EDGE - height
    ax = page.axes(style.EDGE, top, width, height, xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    if heading:
        page.text(style.EDGE, top - 0.14, heading, color="#404040")
    names = texts(ends, width / abreast - SAMPLE)
    entries = [
        (text, end.color, end.dashes, end.mark, text_color(end.color)) for text, end in zip(names, ends, strict=True)
    ]
    entries += [(_others(others, below), OTHER_COLOR, "-", {}, "#6e6e6e")] if others else []
    rows = math.ceil(len(entries) / abreast)
    for i, (text, color, dashes, mark, ink) in enumerate(entries):
        left, y = width / abreast * (i // rows), (i % rows + 0.5) * PITCH
        ax.plot([left + 0.02, left + SAMPLE - 0.06], [y, y], color=color, linestyle=dashes, linewidth=1.4)
        if mark:
            ax.plot(left + SAMPLE / 2 - 0.02, y, **mark, markersize=4.5)
        ax.text(left + SAMPLE, y, text, color=ink, ha="left", va="center", fontsize=labels.SMALL)


def _others(count: int, below: int = 0) -> str:
    return f"{count} other{'' if count == 1 else 's'}{f', {below} below ↓' if below else ''}"
