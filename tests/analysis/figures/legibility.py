"""Whether the text of a figure can be read, measured on the boxes that the renderer draws it in."""

import warnings
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from analysis.figures import style

SMALLEST = 7.0  # points
TOLERANCE = 0.5  # pixels of 1/100 inch by which boxes may touch


def drawn_texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """The texts that are drawn, tick labels outside the axes' limits left out, with their boxes in pixels."""
    texts: list[tuple[Text, Bbox]] = []
    draw = Text.draw

    def record(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            texts.append((self, self.get_window_extent(renderer)))
        return draw(self, renderer, *args, **kwargs)

    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    Text.draw = record
    try:
        canvas.draw()
    finally:
        Text.draw = draw
    return texts


def flaws(figure: Figure) -> list[str]:
    """Texts that overlap, leave the canvas or are too small at the width that the figure is meant for, warnings of the
    renderer, and a figure that is no column's width or higher than a page; empty for a figure that can be read."""
    with warnings.catch_warnings(record=True) as raised, matplotlib.rc_context(style.STYLE):
        warnings.simplefilter("always")
        texts = drawn_texts(figure)
    width, height = figure.get_size_inches()
    messages = [f"warning: {w.message}" for w in raised]
    if round(width, 6) not in (style.COLUMN_WIDTH, style.TEXT_WIDTH):
        messages.append(f"{width} inches wide")
    if height > style.PAGE_HEIGHT + 0.5:
        messages.append(f"{height:.2f} inches high")
    canvas = Bbox([[0, 0], [100 * width, 100 * height]])
    for text, box in texts:
        if not (box.x0 >= -TOLERANCE and box.y0 >= -TOLERANCE and box.x1 <= canvas.x1 + TOLERANCE
                and box.y1 <= canvas.y1 + TOLERANCE):  # fmt: skip
            messages.append(f"outside: {text.get_text()!r}")
        if text.get_fontsize() < SMALLEST:
            messages.append(f"{text.get_fontsize()} pt: {text.get_text()!r}")
    messages += [f"overlap: {texts[i][0].get_text()!r} {texts[j][0].get_text()!r}" for i, j in overlaps(texts)]
    return messages


def overlaps(texts: Sequence[tuple[Text, Bbox]]) -> list[tuple[int, int]]:
    """The pairs of texts whose boxes overlap."""
    boxes = np.array([box.extents for _, box in texts]).reshape(-1, 4)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    shared = np.minimum(high, high.swapaxes(0, 1)) - np.maximum(low, low.swapaxes(0, 1))  # [texts, texts, 2]
    first, second = np.nonzero(np.triu((shared > TOLERANCE).all(axis=2), 1))
    return list(zip(first.tolist(), second.tolist(), strict=True))
